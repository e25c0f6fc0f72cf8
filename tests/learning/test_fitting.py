from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy.sparse import csr_array

from app.learning import (
    Adapter,
    Comparisons,
    FeatureShapeError,
    FitProgress,
    InvalidComparisonsError,
    Model,
    evaluate_predictions,
    fit,
    fitting,
    fold_in,
    fold_in_users,
    principal_angle_distance,
)
from app.learning.adapters import expected_probability
from app.learning.arrays import Real, Table
from app.learning.design import design_of
from app.learning.features import feature_map_of
from app.learning.fitting import Estimator
from app.learning.items import no_items
from app.learning.model import compressed, covariance_root
from app.learning.selection import split_once
from tests.support.learning_worlds import catalogue, in_contexts, tabular
from tests.support.preference_worlds import draw_choices, draw_world


def log_loss(model: Model, comparisons: Comparisons) -> float:
    return evaluate_predictions(model.predict(comparisons), comparisons.label).log_loss


def halves(comparisons: Comparisons, seed: int) -> tuple[Comparisons, Comparisons]:
    held = np.random.default_rng(seed).random(len(comparisons)) < 0.3
    return comparisons.subset(~held), comparisons.subset(held)


@pytest.fixture(scope="module")
def model() -> Model:
    c = catalogue(np.random.default_rng(41), n_users=40, per_user=15).comparisons
    return fit(replace(c, item_ids=None), rank=2)


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_folding_in_gives_the_fits_own_adapters(estimator: Estimator) -> None:
    for c in (
        catalogue(np.random.default_rng(42), n_users=15, per_user=12).comparisons,
        in_contexts(np.random.default_rng(43), n_users=12, per_user=15),
        tabular(np.random.default_rng(44), n_users=12, per_user=15).comparisons,
    ):
        fitted = fit(c, rank=2, estimator=estimator, calibrate=False)
        for user in range(c.n_users):
            own = c.of_users([user])
            adapter = fold_in(fitted, own.subset(np.arange(len(own))[::-1]))
            np.testing.assert_allclose(adapter.mean, fitted.adapter(user).mean, atol=1e-6)
            np.testing.assert_allclose(adapter.covariance, fitted.adapter(user).covariance, atol=1e-6)
            assert adapter.converged
            assert adapter.n_comparisons == len(own)


def test_whether_users_differ_is_tried_by_permuting_them_where_there_are_several(model: Model) -> None:
    alone = fit(catalogue(np.random.default_rng(45), n_users=1, per_user=12).comparisons, rank=0, calibrate=False)
    assert model.diagnostics is not None
    assert model.diagnostics.permutation_rank is not None
    assert alone.diagnostics is not None
    assert alone.diagnostics.permutation_rank is None


def test_effects_of_no_items_have_the_shapes_of_effects() -> None:
    nothing = no_items(3)
    assert (len(nothing), nothing.rank) == (0, 3)
    assert (nothing.loadings.shape, nothing.covariance.shape, nothing.prior.shape) == ((1, 3), (1, 3, 3), (3, 3))
    assert (nothing.bias.shape, nothing.bias_variance.shape) == ((1,), (1,))


def test_users_of_one_comparison_each_can_be_fitted_though_none_shows_how_they_differ() -> None:
    c = catalogue(np.random.default_rng(46), n_users=30, per_user=1).comparisons
    assert c.item_ids is not None
    fitted = fit(c, rank=1, calibrate=False)
    assert np.isfinite(log_loss(fitted, c))
    np.testing.assert_allclose(np.linalg.norm(fitted.raw_subspace()), 1.0)


def test_one_comparison_and_a_thousand_in_one_fit() -> None:
    rng = np.random.default_rng(45)
    X, taste = rng.standard_normal((50, 4)), rng.standard_normal((3, 4))
    user = np.repeat([0, 1, 2], [1, 1000, 30])
    first = rng.integers(0, 49, len(user))
    wins = rng.random(len(user)) < 1 / (1 + np.exp(-((X[first] - X[first + 1]) * taste[user]).sum(axis=1)))
    c = Comparisons.from_pairs(X, np.where(wins, first, first + 1), np.where(wins, first + 1, first), user=user)
    fitted = fit(c, rank=2, dependence=0.0)
    few, many = fitted.rewards(fitted.adapter(0), X), fitted.rewards(fitted.adapter(1), X)
    assert np.isfinite(few.mean).all()
    assert few.stderr.mean() > 1.5 * many.stderr.mean()
    assert np.corrcoef(many.mean, X @ taste[1])[0, 1] > 0.98


def test_users_without_feedback_are_served_the_population(model: Model) -> None:
    nobody = model.population()
    assert not nobody.mean.any()
    np.testing.assert_array_equal(nobody.covariance, model.T)
    c = catalogue(np.random.default_rng(41), n_users=40, per_user=15).comparisons
    empty = fold_in(model, c.subset(np.zeros(len(c), dtype=np.bool_)))
    np.testing.assert_array_equal(empty.covariance, model.T)
    assert empty.n_comparisons == 0
    silent = fit(replace(c, n_users=41), rank=2, calibrate=False)
    np.testing.assert_allclose(silent.adapter(40).covariance, silent.T)


def test_feedback_shrinks_the_users_uncertainty(model: Model) -> None:
    c = catalogue(np.random.default_rng(41), n_users=40, per_user=15).comparisons.of_users([0])
    items = np.asarray(c.items)
    spreads = [float(model.rewards(fold_in(model, c.subset(np.arange(q))), items).stderr.mean()) for q in (0, 2, 5, 15)]
    assert (np.diff(spreads) < 0).all()


def test_adapters_beat_the_global_model_where_users_differ() -> None:
    learn, test = halves(catalogue(np.random.default_rng(46), n_users=120, per_user=30).comparisons, 1)
    personal, common = fit(learn, rank="auto", calibrate=False), fit(learn, rank=0, calibrate=False)
    assert personal.rank >= 2
    assert log_loss(personal, test) < log_loss(common, test) - 0.05
    assert personal.diagnostics is not None
    told = personal.diagnostics.personal_gain
    assert told is not None
    assert (told.rank, told.served) == (personal.rank, True)
    assert told.gain > 0.05 > told.gain_stderr > 0
    assert told.users_better > 2 * told.users_worse
    assert told.users_better + told.users_worse <= told.users == 120
    assert told.mean_gain_of_better > told.mean_loss_of_worse >= 0


def test_the_true_rank_is_found_in_most_worlds() -> None:
    worlds = [catalogue(np.random.default_rng(seed), n_users=120, per_user=30) for seed in range(40, 46)]
    assert sum(fit(world.comparisons, calibrate=False).rank == 2 for world in worlds) >= 4


def test_where_users_do_not_differ_everybody_gets_the_global_model() -> None:
    world = catalogue(np.random.default_rng(47), n_users=60, per_user=20, spread=0.0)
    fitted = fit(world.comparisons, calibrate=False)
    assert fitted.rank == 0
    assert fitted.diagnostics is not None
    assert fitted.diagnostics.permutation_rank == 0
    assert "no reliable gain" in fitted.diagnostics.rank_reason
    told = fitted.diagnostics.personal_gain
    assert told is not None
    assert told.rank > 0
    assert not told.served
    assert {t.rank for t in fitted.diagnostics.trials} >= {0, 1}
    belief = fitted.rewards(fitted.adapter(0), np.asarray(world.comparisons.X))
    assert (belief.stderr > 0).all()


def test_contexts_turn_tastes_around() -> None:
    learn, test = halves(in_contexts(np.random.default_rng(48), n_users=100, per_user=40), 2)
    aware = fit(learn, rank=1, calibrate=False)
    blind = fit(replace(learn, Y=np.ones((1, 1)), cols=np.zeros_like(learn.cols)), rank=1, calibrate=False)
    blind_test = replace(test, Y=np.ones((1, 1)), cols=np.zeros_like(test.cols))
    assert aware.features.d2 == 4
    assert log_loss(aware, test) < log_loss(blind, blind_test) - 0.1
    raw = np.asarray(learn.Y)[7]
    adapter = aware.adapter(3)
    one, other = aware.rewards(adapter, np.asarray(learn.X), raw), aware.rewards(adapter, np.asarray(learn.X), -raw)
    assert np.abs(one.mean - other.mean).max() > 0.1


def test_tabular_rewards_are_learnt_from_trajectories() -> None:
    world = tabular(np.random.default_rng(49), n_users=150, per_user=40)
    fitted = fit(world.comparisons, rank=1)
    assert principal_angle_distance(fitted.B, world.B) < 0.35
    found = [fitted.reward_table(fitted.adapter(u)).minus(np.full(16, 1 / 16)).mean for u in range(150)]
    truth = (world.rewards - world.rewards.mean(axis=(1, 2), keepdims=True)).reshape(150, 16)
    assert np.corrcoef(np.ravel(found), truth.ravel())[0, 1] > 0.85


def test_the_reward_table_is_the_rewards_of_indicators() -> None:
    c = tabular(np.random.default_rng(50), n_users=20, per_user=15).comparisons
    fitted = fit(c, rank=2, dependence=0.0, calibrate=False)
    adapter = fitted.adapter(4)
    table = fitted.reward_table(adapter)
    assert table.mean.shape == (16,)
    for action in range(2):
        column = fitted.rewards(adapter, np.eye(8), np.eye(2)[action])
        np.testing.assert_allclose(column.mean, table.mean[action::2], atol=1e-12)
        np.testing.assert_allclose(column.stderr, table.stderr[action::2], atol=1e-10)


@pytest.mark.parametrize("table", [np.asarray, csr_array])
def test_tables_of_states_and_actions_carry_rewards_and_each_entrys_error(table: Callable[[Real], Table]) -> None:
    rng = np.random.default_rng(50)
    c = tabular(rng, n_users=6, per_user=8).comparisons
    fitted = fit(c, rank=1, dependence=0.0, calibrate=False, max_passes=3)
    entries, states, actions = rng.random((8, 3)), rng.standard_normal((5, 8)), rng.standard_normal((3, 2))
    adapter = fitted.adapter(4)
    found = replace(fitted, entry_errors=entries).reward_table(adapter, table(states), actions)
    mean = states @ (fitted.Theta_0 + fitted.B @ adapter.mean) @ actions.T
    own = states**2 @ (entries[:, :2] + entries[:, 2:] @ adapter.mean**2) @ (actions**2).T
    np.testing.assert_allclose(found.mean, mean.ravel())
    assert found.own is not None
    np.testing.assert_allclose(found.own, own.ravel())


def test_a_factor_has_no_more_columns_than_rows_and_keeps_its_covariance() -> None:
    for shape in ((2, 5), (5, 2)):
        factor = np.random.default_rng(65).standard_normal(shape)
        short = compressed(factor)
        assert short.shape == (shape[0], 2)
        np.testing.assert_allclose(short @ short.T, factor @ factor.T)


def test_predictions_agree_with_rewards_where_items_have_something_of_their_own() -> None:
    rng = np.random.default_rng(62)
    c = catalogue(rng, n_users=40, per_user=40, n_items=12).comparisons
    c = replace(c, X=c.items + 1.5 * rng.standard_normal(c.items.shape), item_ids=np.arange(12))
    fitted = fit(c, rank=2, calibrate=False)
    fitted = replace(fitted, shared_error=np.zeros_like(fitted.shared_error))
    assert fitted.rank == 2
    assert len(fitted.shared.items) == 12
    belief = fitted.rewards(fitted.adapter(7), np.asarray(c.items), item_ids=np.arange(12))
    rows = np.flatnonzero(c.user == 7)
    first, second = c.rows[2 * rows], c.rows[2 * rows + 1]
    assert belief.own is not None
    variance = ((belief.factor[first] - belief.factor[second]) ** 2).sum(axis=1)
    variance = variance + belief.own[first] + belief.own[second]
    expected = expected_probability(belief.mean[first] - belief.mean[second], variance)
    np.testing.assert_allclose(fitted.predict(c)[rows], expected, atol=1e-12)


def test_predictions_agree_with_rewards(model: Model) -> None:
    c = catalogue(np.random.default_rng(41), n_users=40, per_user=15).comparisons
    belief = model.rewards(model.adapter(7), np.asarray(c.items))
    rows = np.flatnonzero(c.user == 7)
    difference = belief.mean[c.rows[2 * rows]] - belief.mean[c.rows[2 * rows + 1]]
    Z = (model.features.items(c.items) @ model.B)[c.rows]
    Z = (Z[::2] - Z[1::2])[rows]
    variance = ((Z @ covariance_root(model.adapter(7).covariance)) ** 2).sum(axis=1)
    expected = expected_probability(difference, variance)
    np.testing.assert_allclose(model.predict(c)[rows], expected, atol=1e-12)
    np.testing.assert_allclose(model.predict(c.of_users([7]), [model.adapter(7)]), expected, atol=1e-12)


def test_arrays_bring_back_the_same_model_without_its_users() -> None:
    c = in_contexts(np.random.default_rng(51), n_users=20, per_user=15)
    fitted = fit(c, rank=2, half_life_seconds=3600.0)
    arrays = fitted.to_arrays()
    again = Model.from_arrays(arrays)
    assert len(again.adapters) == 0
    for name, values in again.to_arrays().items():
        np.testing.assert_array_equal(values, arrays[name])
        assert values.dtype != object
    assert again.half_life_seconds == 3600.0
    stored = Adapter.from_arrays(fitted.adapter(2).to_arrays())
    items, context = np.asarray(c.items), np.asarray(c.Y)[0]
    mine, theirs = fitted.rewards(fitted.adapter(2), items, context), again.rewards(stored, items, context)
    np.testing.assert_array_equal(mine.mean, theirs.mean)
    np.testing.assert_array_equal(mine.factor, theirs.factor)


def test_who_said_nothing_is_predicted_by_a_stored_model_as_by_the_fit() -> None:
    c = catalogue(np.random.default_rng(51), n_users=12, per_user=15, n_items=10).comparisons
    fitted = fit(replace(c, item_ids=np.arange(10)), rank=1, dependence=0.0, calibrate=False)
    again = Model.from_arrays(fitted.to_arrays())
    # Items 8 and 9 are not in the fit.
    asked = replace(c, item_ids=np.arange(10) + 2).of_users([0])
    for one in (fitted, again):
        assert one.everybody is not None
        np.testing.assert_array_equal(one.everybody.T, np.zeros((0, 0)))
    mine, theirs = (one.predict(asked, [one.population()]) for one in (fitted, again))
    np.testing.assert_array_equal(mine, theirs)


def test_a_model_of_before_items_had_effects_of_their_own_is_read() -> None:
    c = catalogue(np.random.default_rng(63), n_users=20, per_user=15).comparisons
    fitted = fit(replace(c, item_ids=None), rank=2, calibrate=False)
    arrays = {name: a for name, a in fitted.to_arrays().items() if name != "dependence" and "item_" not in name}
    again = Model.from_arrays(arrays)
    then, now = (one.rewards(again.population(), np.asarray(c.items)).mean for one in (fitted, again))
    np.testing.assert_array_equal(now, then)


def test_a_warm_start_keeps_the_gauge_and_saves_passes() -> None:
    world = catalogue(np.random.default_rng(52), n_users=80, per_user=20)
    before = fit(world.comparisons.subset(np.arange(1500)), rank=2, calibrate=False)
    after = fit(world.comparisons, rank=2, warm_start=before, calibrate=False)
    fresh = fit(world.comparisons, rank=2, calibrate=False)
    assert after.features is before.features
    assert after.diagnostics is not None
    assert after.diagnostics.distance_to_previous is not None
    assert after.diagnostics.distance_to_previous < 0.3
    assert (np.diagonal(after.B.T @ before.B) > 0.9).all()
    assert after.passes < fresh.passes
    assert principal_angle_distance(after.raw_subspace(), fresh.raw_subspace()) < 0.02


@pytest.mark.parametrize("of_items", ["own effects", "features alone"])
def test_a_warm_refit_after_little_new_feedback_reaches_what_a_cold_one_does_in_a_few_passes(of_items: str) -> None:
    world = catalogue(np.random.default_rng(55), n_users=600, per_user=25, d1=8, n_items=120)
    c = world.comparisons if of_items == "own effects" else replace(world.comparisons, item_ids=None)
    everything, held = halves(c, 56)
    kept = np.random.default_rng(57).random(len(everything)) >= 0.01
    before = fit(everything.subset(kept), rank=2, dependence=0.0, calibrate=False)
    stored = Model.from_arrays(before.to_arrays())
    cold, exact = (
        fit(everything, rank=2, dependence=0.0, calibrate=False, tolerance=tolerance) for tolerance in (3e-5, 1e-8)
    )
    warm, again = (fit(everything, rank=2, dependence=0.0, calibrate=False, warm_start=stored) for _ in range(2))
    assert warm.converged
    assert warm.passes <= min(4, cold.passes - 1)
    assert exact.objective - warm.objective < 1e-4 * abs(exact.objective)
    assert warm.objective > cold.objective - 3e-5 * abs(cold.objective)
    assert abs(log_loss(warm, held) - log_loss(cold, held)) < 1e-4
    assert abs(log_loss(warm, held) - log_loss(exact, held)) < 2e-4
    assert principal_angle_distance(warm.raw_subspace(), exact.raw_subspace()) < 0.02
    np.testing.assert_array_equal(again.B, warm.B)
    np.testing.assert_array_equal(again.adapters.means, warm.adapters.means)
    assert warm.adapters.converged.all()
    folded = fold_in_users(warm, everything)
    np.testing.assert_allclose(warm.adapters.means, folded.means, atol=1e-4)
    np.testing.assert_allclose(warm.adapters.covariances, folded.covariances, atol=1e-4)


def test_a_model_of_another_rank_is_compared_with_and_does_not_set_the_rank(model: Model) -> None:
    c = replace(catalogue(np.random.default_rng(41), n_users=41, per_user=15).comparisons, item_ids=None)
    c = c.subset(c.user != 7)
    other = fit(c, rank=1, dependence=0.0, warm_start=model, calibrate=False, max_passes=5)
    assert other.features is model.features
    assert other.B.shape == (6, 1)
    assert other.diagnostics is not None
    assert other.diagnostics.n_users == 40
    assert other.diagnostics.distance_to_previous is not None


@pytest.mark.parametrize("rank", [1, 3])
def test_from_a_model_of_another_rank_a_fit_begins_as_from_none(rank: int) -> None:
    c = catalogue(np.random.default_rng(53), n_users=40, per_user=15).comparisons
    before = fit(c, rank=2, dependence=0.0, calibrate=False, max_passes=5)
    assert before.rank == 2
    assert before.everybody is not None
    after = fit(c, rank=rank, dependence=0.0, warm_start=before, calibrate=False, max_passes=5)
    fresh = fit(c, rank=rank, dependence=0.0, calibrate=False, max_passes=5)
    assert after.rank == fresh.rank == rank
    np.testing.assert_allclose(after.predict(c), fresh.predict(c), atol=1e-9)


@pytest.mark.parametrize(
    ("n_users", "per_user", "expected"), [(300, 1, [16, 4, 1]), (20, 40, [4, 1]), (3, 300, [1]), (11, 2, [1])]
)
def test_a_large_fit_begins_on_a_few_of_its_users(
    n_users: int, per_user: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "COARSE_COMPARISONS", 10)
    monkeypatch.setattr(fitting, "COARSE_USERS", 3)
    c = catalogue(np.random.default_rng(64), n_users=n_users, per_user=per_user).comparisons
    assert fitting.coarse_strides(design_of(c, feature_map_of(c))) == expected


def test_a_fit_that_begins_on_few_users_learns_what_items_are_worth_beside_their_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(65)
    world = draw_world(rng, users=2000, items=300, dim=6, rank=2, appeal=0.4)
    c = draw_choices(rng, world, 12)
    whole = fit(c, rank=2, dependence=0.0, residual=False, calibrate=False)
    monkeypatch.setattr(fitting, "COARSE_COMPARISONS", 400)
    monkeypatch.setattr(fitting, "COARSE_USERS", 30)
    assert len(fitting.coarse_strides(design_of(c, feature_map_of(c)))) > 2
    begun = fit(c, rank=2, dependence=0.0, residual=False, calibrate=False)
    assert begun.shared.items.bias_prior == pytest.approx(whole.shared.items.bias_prior, rel=0.2)
    assert begun.objective > whole.objective - 1e-4 * abs(whole.objective)
    assert np.corrcoef(begun.shared.items.bias[begun.places(world.X)], world.appeal)[0, 1] > 0.5


def test_little_new_feedback_keeps_what_was_chosen_and_much_chooses_anew() -> None:
    world = catalogue(np.random.default_rng(52), n_users=80, per_user=20)
    before = fit(world.comparisons.subset(np.arange(1580)), calibrate=False)
    stored = Model.from_arrays(before.to_arrays())
    assert stored.chosen == before.chosen
    after = fit(world.comparisons, warm_start=stored, calibrate=False)
    assert after.diagnostics is not None
    assert "kept" in after.diagnostics.rank_reason
    assert not after.diagnostics.trials
    assert (after.rank, after.dependence, after.chosen) == (before.rank, before.dependence, before.chosen)
    fresh = fit(world.comparisons, rank=before.rank, dependence=before.dependence, calibrate=False)
    np.testing.assert_allclose(after.predict(world.comparisons), fresh.predict(world.comparisons), atol=0.02)
    for other in (
        fit(world.comparisons, rank=1, warm_start=stored, calibrate=False),
        fit(world.comparisons.subset(np.arange(1200)), warm_start=stored, calibrate=False),
    ):
        assert other.diagnostics is not None
        assert other.diagnostics.trials


def test_the_gauge_is_canonical(model: Model) -> None:
    np.testing.assert_allclose(model.B.T @ model.B, np.eye(2), atol=1e-10)
    a = model.adapters
    second = np.einsum("icb,ieb->ce", a.means, a.means) + a.covariances.sum(axis=0)
    assert abs(second[0, 1]) < 1e-3 * second[0, 0]
    assert second[0, 0] >= second[1, 1]
    assert (model.B[np.abs(model.B).argmax(axis=0), [0, 1]] > 0).all()


def test_diagnostics_name_what_the_theory_names(model: Model) -> None:
    d = model.diagnostics
    assert d is not None
    stacked = np.hstack([model.B @ W for W in model.adapters.means])
    sigma = np.linalg.svd(stacked, compute_uv=False)[:2]
    np.testing.assert_allclose(d.singular_values, sigma, rtol=1e-9)
    assert d.nu == pytest.approx(sigma[1] ** 2 / 40)
    log = np.log(600 / 0.05)
    assert d.log_bracketing.shared == pytest.approx(2 * (6 + 40) * log)
    assert d.log_bracketing.unshared == pytest.approx(40 * 2 * (6 + 1) * log)
    assert d.log_bracketing.full == pytest.approx(40 * 6 * log)
    assert d.as_dict()["log_bracketing"]["full"] == d.log_bracketing.full


def test_tail_energy_sees_what_the_rank_leaves_out() -> None:
    c = catalogue(np.random.default_rng(53), n_users=150, per_user=40, k=2).comparisons
    low, enough = (fit(c, rank=k, calibrate=False).diagnostics for k in (1, 2))
    assert low is not None
    assert enough is not None
    assert low.tail_energy > 5 * enough.tail_energy


def test_progress_rises_and_what_it_raises_ends_the_fit() -> None:
    c = catalogue(np.random.default_rng(54), n_users=30, per_user=15).comparisons
    seen: list[FitProgress] = []
    fit(c, progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == 1.0
    assert {"choosing", "fitting", "calibrating", "done"} >= {p.phase for p in seen}

    class StoppedError(Exception):
        pass

    def stop(progress: FitProgress) -> None:
        raise StoppedError(progress.phase)

    with pytest.raises(StoppedError, match="choosing"):
        fit(c, progress=stop)


def test_what_cannot_be_fitted_is_refused(model: Model) -> None:
    c = catalogue(np.random.default_rng(55), n_users=4, per_user=5).comparisons
    with pytest.raises(InvalidComparisonsError, match="no comparisons: at least one was expected"):
        fit(c.subset(np.zeros(len(c), dtype=np.bool_)))
    with pytest.raises(ValueError, match="rank: -1 is negative"):
        fit(c, rank=-1)
    with pytest.raises(InvalidComparisonsError, match="comparisons of one user were expected; found users 0 and 1"):
        fold_in(model, c)
    with pytest.raises(FeatureShapeError, match=r"items must have 6 features each; found shape \(2, 5\)"):
        model.rewards(model.population(), np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"dependence: 1.5 lies outside 0 to 1"):
        fit(c, rank=1, dependence=1.5)
    assert fit(c, rank=1, dependence=1.0, calibrate=False, max_passes=1).dependence == 1.0
    for user in (-1, 40, 41):
        with pytest.raises(IndexError, match=f"user {user} is not in the fit, which had 40 users"):
            model.adapter(user)
    with pytest.raises(InvalidComparisonsError, match="user 3 has no adapter; there are 3"):
        model.predict(c, [model.population()] * 3)


def test_a_wrong_context_width_is_refused() -> None:
    fitted = fit(in_contexts(np.random.default_rng(56), n_users=8, per_user=8), rank=1, calibrate=False)
    with pytest.raises(FeatureShapeError, match="contexts must have 3 features each"):
        fitted.rewards(fitted.population(), np.zeros((2, 5)), np.zeros(2))


def test_held_out_comparisons_share_no_item_with_their_users_fitted_ones() -> None:
    recurring = catalogue(np.random.default_rng(57), n_users=6, per_user=200, n_items=30).comparisons
    grouped = catalogue(np.random.default_rng(58), n_users=40, per_user=6, n_items=400).comparisons
    for c in (recurring, grouped):
        split = split_once(c, np.random.default_rng(59))
        assert split.usable
        assert not (split.fit & split.validate).any()
        items = np.column_stack([c.rows[::2], c.rows[1::2]])
        for user in range(c.n_users):
            own = c.user == user
            assert not set(items[own & split.fit].ravel()) & set(items[own & split.validate].ravel())


def test_recurring_items_with_a_taste_of_their_own_lower_the_effective_weight() -> None:
    rng = np.random.default_rng(60)
    N, M, per_user = 80, 12, 60
    X, theta = rng.standard_normal((M, 3)), np.array([1.0, -0.5, 0.3])
    rewards = X @ theta + 1.5 * rng.standard_normal((N, M))
    user = np.repeat(np.arange(N), per_user)
    first = rng.integers(0, M, len(user))
    second = (first + rng.integers(1, M, len(user))) % M
    wins = rng.random(len(user)) < 1 / (1 + np.exp(rewards[user, second] - rewards[user, first]))
    c = Comparisons.from_pairs(X, np.where(wins, first, second), np.where(wins, second, first), user=user)
    assert fit(c, rank=2, calibrate=False).effective_weight < 1.0


def test_no_dependence_is_looked_for_where_nobody_meets_an_item_twice() -> None:
    rng = np.random.default_rng(60)
    X, pairs = rng.standard_normal((800, 3)), rng.permutation(800).reshape(-1, 2)
    c = Comparisons.from_pairs(X, pairs[:, 0], pairs[:, 1], user=np.repeat(np.arange(40), 10))
    fitted = fit(c, rank=1, calibrate=False)
    assert fitted.diagnostics is not None
    assert {(t.rank, t.dependence) for t in fitted.diagnostics.trials} == {(0, 0.0), (1, 0.0)}
    assert fitted.dependence == 0.0


def test_fold_in_of_many_users_agrees_with_one_at_a_time(model: Model) -> None:
    c = catalogue(np.random.default_rng(61), n_users=9, per_user=11).comparisons
    many = fold_in_users(model, c)
    for user in range(9):
        np.testing.assert_allclose(fold_in(model, c.of_users([user])).mean, many[user].mean, atol=1e-7)


@pytest.mark.parametrize("X", [np.zeros((30, 4)), np.ones((30, 14))], ids=["zeros", "constants"])
def test_features_that_tell_nothing_leave_the_items_own_effects(X: Real) -> None:
    rng = np.random.default_rng(36)
    first = rng.integers(0, 30, 400)
    second = (first + rng.integers(1, 30, 400)) % 30
    better, worse = np.minimum(first, second), np.maximum(first, second)
    c = Comparisons.from_pairs(X, better, worse, user=np.repeat(np.arange(20), 20), n_users=20)
    c = replace(c, item_ids=np.arange(30))
    model = fit(c, rank=2, dependence=0.0, calibrate=False)
    assert (model.predict(c) > 0.5).mean() > 0.95
