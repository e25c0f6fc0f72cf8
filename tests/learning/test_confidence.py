from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.stats import chi2, norm

from app.evaluation import Coverage, catalogue_coverage
from app.evaluation.truth import draw_catalogue
from app.learning import Calibration, Comparisons, Model, RewardBelief, confidence, fit
from app.learning.adapters import Adapters
from app.learning.arrays import Real
from app.learning.btl import fit_global_with_ridge
from app.learning.confidence import ERROR_REFITS, SPREAD_REFITS, _shared_variances, bootstrap, shared_error
from app.learning.design import Design, design_of
from app.learning.evidence import starting_point
from app.learning.features import feature_map_of
from app.learning.model import solve_adapters
from app.learning.parameters import Shared
from app.learning.spectral import spectral_start
from tests.support.learning_worlds import catalogue, in_contexts, tabular


def in_catalogues(n_users: int, per_user: int, dim: int, seed: int) -> Coverage:
    world = draw_catalogue(np.random.default_rng(seed), n_users=n_users, per_user=per_user, dim=dim, rank=2)
    model = fit(world.data.comparisons(n_users), rank=2, rng=np.random.default_rng(seed))
    return catalogue_coverage(model, world, ((i, model.adapter(i)) for i in range(0, n_users, 2)), level=0.95)


@pytest.mark.parametrize(("n_users", "per_user", "dim"), [(200, 20, 8), (250, 8, 16)])
def test_intervals_and_ellipsoids_cover(n_users: int, per_user: int, dim: int) -> None:
    found = [in_catalogues(n_users, per_user, dim, seed) for seed in range(2)]
    assert 0.91 <= np.mean([one.intervals for one in found]) <= 0.98
    assert 0.90 <= np.mean([one.ellipsoids for one in found]) <= 0.99
    # What is told of the errors is about their size, not only enough of it.
    assert 0.85 <= np.mean([one.reward_stderr / one.reward_error for one in found]) <= 1.2


RNG = np.random.default_rng(5)
SMALL = [
    catalogue(RNG, n_users=6, per_user=5).comparisons,
    in_contexts(RNG, n_users=5, per_user=6),
    tabular(RNG, n_users=5, per_user=6).comparisons,
]


def solved(c: Comparisons, k: int) -> tuple[Design, Shared, Adapters]:
    design = design_of(c, feature_map_of(c))
    Theta_0, ridge = fit_global_with_ridge(design)
    shared = starting_point(Theta_0, spectral_start(design, design.scores(Theta_0), k), ridge)
    return design, shared, solve_adapters(shared, design, "evidence")


@pytest.mark.parametrize("comparisons", SMALL, ids=["catalogue", "contexts", "tabular"])
@pytest.mark.parametrize("k", [0, 2])
def test_what_all_share_is_as_uncertain_as_the_information_about_it_leaves(comparisons: Comparisons, k: int) -> None:
    design, shared, adapters = solved(comparisons, k)
    scores = np.random.default_rng(6).uniform(1.5, 3.0, design.n)
    w = design.weight / (2 + np.exp(scores) + np.exp(-scores))
    D: Real = design.dense(np.arange(design.n))
    across = null_space(shared.B.T) if k else np.eye(design.d1)
    d1, d2, x = design.d1, design.d2, across.shape[1]
    information = np.diag(np.concatenate([np.tile(shared.ridge, d1), np.full(x * k, float(d1))]))
    for user in range(design.n_users):
        own = design.user == user
        turned = np.einsum("nab,ax,cb->nxc", D[own], across, adapters.means[user])
        n = len(turned)
        J = np.concatenate([D[own].reshape(n, d1 * d2), turned.reshape(n, x * k)], axis=1)
        Z = np.einsum("nab,ac->ncb", D[own], shared.B).reshape(n, k * d2)
        known = np.diag(w[own]) - (w[own, None] * Z) @ adapters.covariances[user] @ (w[own, None] * Z).T
        information += J.T @ known @ J
    covariance = np.linalg.inv(information)
    F = shared_error(design, shared, adapters, scores)
    moved = np.concatenate(
        [F[:, :d2].reshape(d1 * d2, -1), np.einsum("ax,acr->xcr", across, F[:, d2:]).reshape(x * k, F.shape[2])]
    )
    np.testing.assert_allclose(np.einsum("ac,abr->cbr", shared.B, F[:, d2:]), 0.0, atol=1e-9)
    np.testing.assert_allclose(moved @ moved.T, covariance, atol=1e-6 * covariance.max())


def test_of_very_many_unknowns_rows_and_columns_are_uncertain_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    design, shared, adapters = solved(SMALL[1], 2)
    d1, d2 = design.d1, design.d2
    monkeypatch.setattr(confidence, "MAX_UNKNOWNS", d1 * (d2 - 1))
    F = shared_error(design, shared, adapters, np.zeros(design.n))
    G, across = design.grams(0.25 * design.weight), null_space(shared.B.T)
    assert F.shape == (d1, d2 + 2, 2 * (d2 + 2))
    for b in range(d2):
        # Two directions of each column are kept, those of which least is known.
        largest = np.linalg.eigvalsh(np.linalg.inv(G[b] + shared.ridge[b] * np.eye(d1)))[-2:]
        np.testing.assert_allclose(np.linalg.eigvalsh(F[:, b] @ F[:, b].T)[-2:], largest)
    for c in range(2):
        told = across.T @ G.sum(axis=0) @ across * (adapters.means[:, c] ** 2).mean()
        covariance = across @ np.linalg.inv(told + d1 * np.eye(across.shape[1])) @ across.T
        found = np.linalg.eigvalsh(F[:, d2 + c] @ F[:, d2 + c].T)
        np.testing.assert_allclose(found[-2:], np.linalg.eigvalsh(covariance)[-2:])


def test_errors_of_scores_are_the_same_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    design, shared, adapters = solved(SMALL[1], 2)
    error, rows = shared_error(design, shared, adapters, np.zeros(design.n)), np.array([3, 1, 8, 20, 0])
    W = adapters.means[design.user[rows]]
    D: Real = design.dense(rows)
    loaded = np.concatenate([D, np.einsum("nab,ncb->nac", D, W)], axis=2)
    expected = (np.einsum("nac,acr->nr", loaded, error) ** 2).sum(axis=1)
    monkeypatch.setattr(confidence, "DENSE_ENTRIES", 2 * design.d1 * (design.d2 + 2))
    np.testing.assert_allclose(_shared_variances(design, W, (error, None), rows), expected)


@pytest.mark.parametrize(("k", "expected"), [(0, ERROR_REFITS), (1, SPREAD_REFITS + ERROR_REFITS)])
def test_refits_that_find_the_spread_come_before_those_that_count(k: int, expected: int) -> None:
    design, shared, adapters = solved(SMALL[0], k)
    asked: list[Design] = []

    def refit(relabelled: Design) -> tuple[Shared, Adapters]:
        asked.append(relabelled)
        return shared, adapters

    error = shared_error(design, shared, adapters, design.scores(shared.Theta_0))
    bootstrap(design, shared, error, refit, np.random.default_rng(0))
    assert len(asked) == expected
    assert all(set(np.unique(one.label)) == {0.0, 1.0} for one in asked)


def test_a_stored_model_keeps_its_calibration_and_each_entrys_error() -> None:
    world = catalogue(np.random.default_rng(3), n_users=20, per_user=5)
    model = replace(fit(world.comparisons, rank=1, calibrate=False), calibration=Calibration(1.5, 1.25, 2.0, 0.9))
    arrays = model.to_arrays()
    assert Model.from_arrays(arrays).calibration == model.calibration
    assert Model.from_arrays(arrays).entry_errors is None
    wide = replace(model, entry_errors=np.ones((6, 2)))
    np.testing.assert_array_equal(Model.from_arrays(wide.to_arrays()).entry_errors, wide.entry_errors)
    del arrays["calibration"]
    assert Model.from_arrays(arrays).calibration == Calibration(1.5)


def test_nobody_differs_and_errors_are_calibrated_all_the_same() -> None:
    world = catalogue(np.random.default_rng(4), n_users=40, per_user=10, spread=0.0)
    model = fit(world.comparisons, rank=0)
    assert model.calibration.joint == 1.0
    assert model.calibration.covered is not None
    assert model.diagnostics is not None
    assert 0.5 < model.calibration.covered <= 1.0
    assert model.diagnostics.coverage == model.calibration.covered
    assert 0.5 < model.inflation < 3.0


def test_interval_and_ellipsoid_reach_as_far_as_their_quantiles() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    np.testing.assert_allclose(belief.stderr, [5.0, 1.0])
    lower, upper = belief.interval(0.9)
    np.testing.assert_allclose(upper - lower, 2 * norm.ppf(0.95) * belief.stderr)
    assert belief.beta(0.9) == pytest.approx(np.sqrt(chi2.ppf(0.9, 2)))
    assert replace(belief, joint=1.5).beta(0.9) == pytest.approx(1.5 * belief.beta(0.9))


def test_a_reference_is_certain_of_itself() -> None:
    belief = RewardBelief(np.array([1.0, 2.0]), np.array([[3.0, 4.0], [0.0, 1.0]]), dimension=2)
    relative = belief.minus(np.array([1.0, 0.0]))
    assert relative.mean[0] == 0.0
    assert relative.stderr[0] == 0.0
    np.testing.assert_allclose(relative.stderr[1], np.sqrt(18.0))
