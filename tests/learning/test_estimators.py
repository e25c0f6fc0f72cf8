"""Both estimators: monotone, and in agreement with slow references."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from app.learning import NO_IDENTITY, Comparisons, fit, kernels
from app.learning.adapters import (
    expected_curvature,
    expected_probability,
    penalised_maximum,
    posterior,
)
from app.learning.btl import fit_global, fit_global_with_ridge
from app.learning.design import Design, design_of
from app.learning.evidence import (
    EVEN_ROWS,
    Crowd,
    evidence_bound,
    evidence_pass,
    factors,
    hastened,
    maximise_evidence,
    maximise_from_nearby,
    orthonormalised,
    row_spread,
    separable_covariance,
    starting_point,
    still_to_gain,
    still_to_gain_from_afar,
    told_of_subspace,
    variance_step,
    weighted_least_squares,
)
from app.learning.features import feature_map_of
from app.learning.fitting import Estimator
from app.learning.grams import grams_of
from app.learning.mle import Start, maximise_likelihood
from app.learning.mle import starting_point as mle_starting_point
from app.learning.parameters import Ending, Shared
from app.learning.spectral import spectral_start
from tests.support.learning_references import (
    Real,
    dense_designs,
    global_maximum,
    penalised_adapter,
    variational_posterior,
)
from tests.support.learning_worlds import catalogue, in_contexts, tabular
from tests.support.preference_worlds import draw_choices, draw_world

RNG = np.random.default_rng(21)
SMALL = [
    catalogue(RNG, n_users=6, per_user=5).comparisons,
    in_contexts(RNG, n_users=5, per_user=6),
    tabular(RNG, n_users=5, per_user=6).comparisons,
]
KINDS = ["catalogue", "contexts", "tabular"]


def prepared(c: Comparisons, k: int, item_ids: NDArray[np.int64] | None = None) -> tuple[Design, Shared]:
    design = design_of(c, feature_map_of(c), item_ids=item_ids)
    Theta_0, ridge = fit_global_with_ridge(design)
    return design, starting_point(Theta_0, spectral_start(design, design.scores(Theta_0), k), ridge, item_ids)


def with_repeated_items(c: Comparisons, n_items: int, *, unnamed: int = 0) -> tuple[Comparisons, NDArray[np.int64]]:
    """The rows of X take turns at being one of a few items, or none; and the items' ids."""
    ids = np.arange(len(c.items)) % (n_items + unnamed)
    return replace(c, item_ids=np.where(ids >= n_items, NO_IDENTITY, 10 * ids)), 10 * np.arange(n_items)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
def test_the_global_fit_agrees_with_scipy(comparisons: Comparisons) -> None:
    rng = np.random.default_rng(22)
    soft = replace(
        comparisons, label=rng.random(len(comparisons)), weight=0.5 + rng.random(len(comparisons)), n_users=6
    )
    features = feature_map_of(soft)
    ridge = np.linspace(0.5, 1.5, features.d2)
    expected = global_maximum(dense_designs(soft, features), soft.label, soft.weight, ridge)
    np.testing.assert_allclose(fit_global(design_of(soft, features), ridge), expected, atol=1e-6)


@pytest.mark.parametrize("estimator", get_args(Estimator))
@pytest.mark.parametrize("n_users", [1, 6])
def test_one_user_or_rank_zero_is_plain_btl(estimator: Estimator, n_users: int) -> None:
    c = replace(catalogue(np.random.default_rng(23), n_users=n_users, per_user=30).comparisons, item_ids=None)
    asked = 2 if n_users == 1 else 0
    model = fit(c, rank=asked, estimator=estimator, calibrate=False)
    D = dense_designs(c, model.features)
    assert model.rank == 0
    np.testing.assert_allclose(model.Theta_0, global_maximum(D, c.label, c.weight, model.shared.ridge), atol=1e-6)


def test_expectations_agree_with_quadrature() -> None:
    mean, spread = np.meshgrid(np.linspace(-9, 9, 13), [0.0, 0.3, 1.0, 3.0, 10.0])
    x = np.linspace(-8, 8, 4001)
    density = np.exp(-0.5 * x**2) / np.exp(-0.5 * x**2).sum()
    p = 1.0 / (1.0 + np.exp(-(mean[..., None] + spread[..., None] * x)))
    np.testing.assert_allclose(expected_probability(mean, spread**2), p @ density, atol=1e-4)
    np.testing.assert_allclose(expected_curvature(mean, spread**2), (p * (1 - p)) @ density, atol=5e-4)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
def test_the_e_step_and_the_bound_agree_with_the_reference(comparisons: Comparisons) -> None:
    rng = np.random.default_rng(24)
    soft = replace(comparisons, label=rng.random(len(comparisons)), weight=0.5 + rng.random(len(comparisons)))
    design, shared = prepared(soft, 2)
    found = posterior(design, shared, tolerance=1e-11)
    D, total = dense_designs(soft, feature_map_of(soft)), 0.0
    for user in range(soft.n_users):
        own = soft.user == user
        m, V, share = variational_posterior(
            D[own], soft.label[own], soft.weight[own], shared.Theta_0, shared.B, shared.T
        )
        np.testing.assert_allclose(found.means[user], m, atol=1e-6)
        np.testing.assert_allclose(found.covariances[user], V, atol=1e-6)
        total += share
    mean, variance = found.score_mean, found.score_variance
    residual = design.weight * (expected_probability(mean, variance) - 0.5)
    np.testing.assert_allclose(found.mean_weight * mean, residual, rtol=2e-2, atol=1e-5)
    slope = design.weight * expected_curvature(mean, variance)
    np.testing.assert_allclose(found.variance_weight, slope, atol=1e-6)
    prior = 0.5 * (shared.ridge * shared.Theta_0**2).sum()
    prior += 0.5 * 3.0 * np.trace(shared.B @ row_spread(shared.T, 2, shared.d2) @ shared.B.T)
    assert evidence_bound(shared, found, Crowd.of(found, shared.T), 3.0) == pytest.approx(total - prior, abs=1e-6)


def test_users_who_are_very_sure_settle_too() -> None:
    """Weights far apart and a wide prior: steps that were too long would take a variance below 0, or go to and fro."""
    c = catalogue(np.random.default_rng(25), n_users=200, per_user=20).comparisons
    sure = replace(c, weight=10.0 ** np.random.default_rng(26).uniform(-2, 2, len(c)))
    design, shared = prepared(sure, 2)
    found = posterior(design, replace(shared, T=100.0 * shared.T))
    assert np.isfinite(found.score_mean).all()
    assert found.converged.mean() >= 0.99
    assert np.median(found.iterations) < 100


def test_the_penalised_maximum_agrees_with_scipy() -> None:
    c = SMALL[0]
    design, shared = prepared(c, 2)
    found = penalised_maximum(design, design.scores(shared.Theta_0), design.project(shared.B), shared.T)
    D = dense_designs(c, feature_map_of(c))
    assert found.converged.all()
    for user in range(c.n_users):
        own = c.user == user
        expected = penalised_adapter(D[own], c.label[own], shared.Theta_0, shared.B, shared.T)
        np.testing.assert_allclose(found.means[user].ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
def test_the_m_step_solves_its_normal_equations(comparisons: Comparisons) -> None:
    design, shared = prepared(comparisons, 2)
    solution = posterior(design, shared, iterations=1)
    D, (n, k, d2) = design.dense(np.arange(design.n)), (design.n, 2, design.d2)
    w, v = solution.mean_weight, solution.variance_weight
    found = weighted_least_squares(
        design, shared, solution, w, v, grams_of(design, v), effort=(500, 1e-10), stiffness=3.0
    )
    q = design.d1 * d2
    H, b = np.zeros((q + design.d1 * k,) * 2), np.zeros(q + design.d1 * k)
    for j in range(n):
        m, V = solution.means[design.user[j]], solution.covariances[design.user[j]]

        def row(vector: Real, j: int = j) -> Real:
            return np.asarray(D[j] @ vector.reshape(k, d2).T).ravel()

        first = np.concatenate([D[j].ravel(), row(m)])
        H += w[j] * np.outer(first, first)
        roots = np.linalg.cholesky(V)
        for column in roots.T:
            spread = np.concatenate([np.zeros(q), row(column)])
            H += v[j] * np.outer(spread, spread)
        b += design.weight[j] * (design.label[j] - 0.5) * first
    H[:q, :q] += np.diag(np.tile(shared.ridge, design.d1))
    H[q:, q:] += 3.0 * np.kron(np.eye(design.d1), row_spread(shared.T, k, d2))
    solved = np.concatenate([found.Theta_0.ravel(), found.B.ravel()])
    np.testing.assert_allclose(H @ solved, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_bound_never_falls(comparisons: Comparisons, k: int) -> None:
    design, shared = prepared(comparisons, k)
    scores, bounds = None, []
    for _ in range(25):
        step = evidence_pass(design, shared, scores, stiffness=3.0, learn_priors=False)
        shared, scores = step.shared, step.scores
        bounds.append(step.bound)
    assert np.diff(bounds).min() >= -1e-7 * abs(bounds[-1])
    B = orthonormalised(shared).B
    np.testing.assert_allclose(B.T @ B, np.eye(k), atol=1e-10)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_bound_never_falls_with_items_own_effects(comparisons: Comparisons, k: int) -> None:
    c, ids = with_repeated_items(comparisons, 8)
    design, shared = prepared(c, k, ids)
    given, scores, bounds = shared, None, []
    for _ in range(25):
        step = evidence_pass(design, shared, scores, stiffness=3.0, learn_priors=False)
        shared, scores = step.shared, step.scores
        bounds.append(step.bound)
    assert shared.items.bias_prior == given.items.bias_prior
    # The items have a posterior from the first pass on only.
    assert np.diff(bounds[1:]).min() >= -1e-7 * abs(bounds[-1])
    both = orthonormalised(shared)
    stacked = np.concatenate([both.B, both.items.loadings])
    np.testing.assert_allclose(stacked.T @ stacked, np.eye(k), atol=1e-10)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
def test_parts_of_the_users_add_up_to_all(comparisons: Comparisons, monkeypatch: pytest.MonkeyPatch) -> None:
    c, ids = with_repeated_items(comparisons, 2)
    design, shared = prepared(c, 2, ids)
    begun = evidence_pass(design, shared).shared
    whole = evidence_pass(design, begun)
    monkeypatch.setattr(kernels, "SMALL", design.n)
    parts = kernels.over_users(design.pointers, lambda first, last: (first, last), room=4 * design.n)
    assert len(parts) == kernels.CHUNKS
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == design.n_users
    assert len(kernels.over_users(design.pointers, lambda first, last: (first, last), room=5 * design.n)) == 1
    monkeypatch.setattr(kernels, "ROOM", 1000)
    added = evidence_pass(design, begun)
    assert added.bound == pytest.approx(whole.bound, abs=1e-9)
    np.testing.assert_allclose(added.shared.B, whole.shared.B, atol=1e-7)
    np.testing.assert_allclose(added.shared.items.covariance, whole.shared.items.covariance, atol=1e-9)


@pytest.mark.parametrize("comparisons", SMALL, ids=KINDS)
def test_items_own_effects_are_their_indicators_among_the_features(comparisons: Comparisons) -> None:
    """The E step with certain loadings is that of a table with one more feature an item."""
    c, ids = with_repeated_items(comparisons, 8, unnamed=2)
    assert c.item_ids is not None
    features, k = feature_map_of(c), 2
    rng = np.random.default_rng(29)
    design, shared = prepared(c, k, ids)
    E = len(ids)
    own = np.append(rng.standard_normal((E, k)), np.zeros((1, k)), axis=0)
    bias = np.append(rng.standard_normal(E), 0.0)
    shared = replace(shared, items=replace(shared.items, bias=bias, loadings=own))
    found = posterior(design, shared, tolerance=1e-11)
    place = np.where(c.item_ids == NO_IDENTITY, E, c.item_ids // 10)
    D = dense_designs(c, features)
    offset, Z = np.einsum("nab,ab->n", D, shared.Theta_0), np.einsum("nab,ac->ncb", D, shared.B)
    for j in range(len(c)):
        for term in range(c.indptr[j], c.indptr[j + 1]):
            offset[j] += c.signs[term] * bias[place[c.rows[term]]]
            Z[j, :, 0] += c.signs[term] * own[place[c.rows[term]]]
    for user in range(c.n_users):
        mine = c.user == user
        # One column of ones carries the offsets, one "feature" each entry of the adapter.
        flat = np.concatenate([offset[mine, None], Z[mine].reshape(int(mine.sum()), len(shared.T))], axis=1)[:, :, None]
        p = len(shared.T)
        m, V, _ = variational_posterior(
            flat, c.label[mine], c.weight[mine], np.eye(p + 1)[:, :1], np.eye(p + 1)[:, 1:], shared.T
        )
        np.testing.assert_allclose(found.means[user], m, atol=1e-6)
        np.testing.assert_allclose(found.covariances[user], V, atol=1e-6)


def test_an_uncertain_item_says_less() -> None:
    c, ids = with_repeated_items(SMALL[0], 8)
    design, shared = prepared(c, 2, ids)
    surely = posterior(design, shared)
    doubt = np.tile(0.5 * np.eye(2), (len(ids) + 1, 1, 1))
    vaguely = posterior(design, replace(shared, items=replace(shared.items, covariance=doubt)))
    assert (np.abs(vaguely.means).sum(axis=1) < np.abs(surely.means).sum(axis=1)).all()


@pytest.mark.parametrize("start", get_args(Start))
def test_the_joint_likelihood_never_falls(start: Start) -> None:
    c = catalogue(np.random.default_rng(25), n_users=30, per_user=10).comparisons
    design = design_of(c, feature_map_of(c))
    Theta_0, ridge = fit_global_with_ridge(design)
    seen: list[float] = []
    begin = mle_starting_point(design, Theta_0, ridge, 2, start, np.random.default_rng(26))
    shared, ending = maximise_likelihood(
        design, begin, max_passes=60, tolerance=1e-6, report=lambda _, objective: seen.append(objective)
    )
    assert np.diff(seen).min() >= -1e-9 * abs(seen[-1])
    assert ending.passes == len(seen)
    np.testing.assert_allclose(shared.B.T @ shared.B, np.eye(2), atol=1e-10)


@pytest.mark.parametrize("start", get_args(Start))
def test_every_start_finds_the_subspace(start: Start) -> None:
    world = catalogue(np.random.default_rng(27), n_users=150, per_user=40, k=1, spread=1.5)
    model = fit(world.comparisons, rank=1, estimator="mle", start=start, calibrate=False)
    assert abs(float(model.raw_subspace()[:, 0] @ world.B[:, 0])) > 0.97


def test_passes_from_nearby_end_where_passes_from_afar_do() -> None:
    design, shared = prepared(SMALL[0], 2)
    far, ending = maximise_evidence(design, shared, max_passes=2000, tolerance=1e-9)
    near = maximise_from_nearby(design, far, max_passes=50, tolerance=1e-7)
    assert near.ending.converged
    assert near.ending.passes == 2
    assert near.ending.objective == pytest.approx(ending.objective, rel=1e-6)
    assert near.solution.converged.all()
    B = orthonormalised(near.shared).B
    np.testing.assert_allclose(B @ B.T, far.B @ far.B.T, atol=1e-3)
    limited = maximise_from_nearby(design, shared, max_passes=2, tolerance=0.0)
    assert not limited.ending.converged
    assert limited.ending.passes == 2


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([1.0], 9.0),
        ([-1.0], 9.0),
        ([4.0, 1.0], 1.0),
        ([3.0, 2.0], 4.0),
        ([1.0, 1.0], 19.0),
        ([-4.0, 1.0], 4.0),
        ([4.0, 2.0, 1.5], 4.5),
        ([4.0, 2.0, -1.0], 2.0),
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_what_is_left_to_gain_is_told_from_the_slowest_of_the_last_gains(gains: list[float], expected: float) -> None:
    assert still_to_gain(gains) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([162.0, 5.0, 0.1], 2.5),
        ([0.4, 0.2, 0.001], 0.1),
        ([4.0, 2.0, 1.5], 4.5),
        ([4.0, 2.0, -1.0], 2.0),
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_a_gain_that_is_much_smaller_than_the_one_before_is_not_believed(gains: list[float], expected: float) -> None:
    assert still_to_gain_from_afar(gains) == pytest.approx(expected)


def test_users_soon_differ_no_more_along_contexts_in_which_none_do() -> None:
    """EM's own steps are 5 nats behind after 20 passes, and still one after 100."""
    c = in_contexts(np.random.default_rng(33), n_users=200, per_user=30)
    design, shared = prepared(c, 2)
    bounds: list[float] = []
    found, _ = maximise_evidence(
        design, shared, max_passes=150, tolerance=0.0, report=lambda _, bound: bounds.append(bound)
    )
    assert bounds[20] == pytest.approx(bounds[-1], abs=1.0)
    spreads = np.linalg.eigvalsh(factors(found.T, 2, design.d2)[1])
    # The prior keeps as much there as a few of its rows among the users' have.
    assert (spreads[:2] < (0.02 + 4 * EVEN_ROWS / (200 * 2)) * spreads[3]).all()
    assert spreads[:2].mean() < 0.1 * spreads[3]
    assert (spreads[2:] > 0.1 * spreads[3]).all()


def many_features(*, rank: int, users: int = 60) -> Comparisons:
    rng = np.random.default_rng(34)
    return draw_choices(rng, draw_world(rng, users=users, items=60, dim=14, rank=rank), 20)


def test_the_subspaces_prior_is_the_evidences_maximum_in_any_gauge() -> None:
    design, shared = prepared(many_features(rank=2), 2)
    solution = posterior(design, shared, tolerance=1e-9)
    grams = grams_of(design, solution.mean_weight)
    told = told_of_subspace(design, shared, solution, grams)
    precision = told.likeliest_precision(shared, 1.0)
    size = np.trace(shared.B @ shared.T @ shared.B.T)

    def log_evidence(precision: float) -> float:
        return -0.5 * precision * float(size) - told.cost(precision)

    around = [log_evidence(precision * factor) for factor in (0.98, 1.0, 1.02)]
    assert around[1] == max(around)
    assert told.likeliest_precision(shared, 2.0 * precision) == 2.0 * precision
    weight = np.bincount(design.user, solution.mean_weight)
    M = (solution.means * weight[:, None]).T @ solution.means / weight.sum() / shared.T[0, 0]
    expected = np.linalg.eigvalsh(np.kron(design.grams(solution.mean_weight)[0], M))
    np.testing.assert_allclose(np.sort(told.information), expected, rtol=1e-6)
    A = np.array([[2.0, 0.3], [0.0, 0.5]])
    other = replace(shared, B=shared.B @ A, T=np.linalg.inv(A) @ shared.T @ np.linalg.inv(A).T)
    again = told_of_subspace(design, other, posterior(design, other, tolerance=1e-9), grams)
    np.testing.assert_allclose(np.sort(again.information), expected, rtol=1e-5)
    assert again.likeliest_precision(other, 1.0) == pytest.approx(precision, rel=1e-5)


def test_few_features_tell_nothing_of_the_subspaces_prior() -> None:
    design, shared = prepared(SMALL[0], 2)
    solution = posterior(design, shared)
    told = told_of_subspace(design, shared, solution, grams_of(design, solution.mean_weight))
    assert told.likeliest_precision(shared, 3.0) == 3.0
    assert told.cost(3.0) == 0.0


def test_users_who_do_not_differ_are_hardly_told_apart_by_many_features() -> None:
    """With the widest prior that the subspace may have, their scores would spread by 0.22."""
    c = many_features(rank=0, users=200)
    design, shared = prepared(c, 3)
    found, _ = maximise_evidence(design, shared, max_passes=100, tolerance=1e-5)
    solution = posterior(design, found)
    personal = solution.score_mean - design.scores(found.Theta_0, found.items.bias)
    assert personal.std() < 0.02


def test_passes_from_nearby_find_the_subspaces_prior_again() -> None:
    design, shared = prepared(many_features(rank=2), 2)
    far, ending = maximise_evidence(design, shared, max_passes=2000, tolerance=1e-9)
    near = maximise_from_nearby(design, far, max_passes=50, tolerance=1e-5)
    assert ending.converged
    assert near.ending.passes <= 3
    found, expected = (one.B @ one.T @ one.B.T for one in (near.shared, far))
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_a_context_that_fades_for_long_leaves_the_solves_precise() -> None:
    """One had faded to a billionth of the others, and a user's solve ended without a number."""
    design, shared = prepared(SMALL[1], 2)
    before = replace(shared, T=np.diag(np.tile([3.9, 0.1, 1e-3, 1e-4], 2)))
    after = hastened(before, replace(before, T=np.diag(np.tile([3.9, 0.1, 1e-4, 1e-6], 2))), 0.1 * before.T, 1000)
    spreads = np.linalg.eigvalsh(factors(after.T, 2, design.d2)[1])
    assert spreads[0] == pytest.approx(1e-4, rel=1e-3)
    assert spreads[3] > 3.5


@pytest.mark.parametrize("maximise", [maximise_evidence, maximise_likelihood])
def test_a_pass_limit_is_reported_as_not_converged(maximise: Callable[..., tuple[Shared, Ending]]) -> None:
    design, shared = prepared(SMALL[0], 2)
    seen: list[int] = []
    _, ending = maximise(design, shared, max_passes=3, tolerance=0.0, report=lambda passes, _: seen.append(passes))
    assert seen == [1, 2, 3]
    assert not ending.converged
    assert ending.passes == 3
    assert ending.reason == "the pass limit was reached"


def test_the_separable_update_recovers_a_separable_moment() -> None:
    rng = np.random.default_rng(28)
    R, S = (root @ root.T + np.eye(len(root)) for root in (rng.standard_normal((2, 2)), rng.standard_normal((3, 3))))
    moment, begin = (np.asarray(np.kron(left, S), dtype=np.float64) for left in (R, np.eye(2)))
    np.testing.assert_allclose(separable_covariance(moment, begin, 2, 3), moment)


def test_steps_of_a_prior_end_where_the_normal_model_is_likeliest() -> None:
    """Of means y = effect + noise with known variances the likeliest prior is the mean of y^2 less the noise's."""
    rng = np.random.default_rng(31)
    y = 0.3 * rng.standard_normal((400, 3))
    y[:, :2] += rng.standard_normal((400, 2)) @ [[0.5, 0.2], [0.0, 0.3]]
    values, vectors = np.linalg.eigh(y.T @ y / len(y) - 0.09 * np.eye(3))
    assert values[0] < 0, "along one direction there is nothing but noise"
    prior = np.eye(3)
    for _ in range(300):
        inverse = np.asarray(np.linalg.inv(np.linalg.inv(prior) + np.eye(3) / 0.09), dtype=np.float64)
        prior = variance_step(prior, y @ inverse / 0.09, len(y) * inverse)
    np.testing.assert_allclose(prior, vectors * np.maximum(values, 0.0) @ vectors.T, atol=1e-4)
