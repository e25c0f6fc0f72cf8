"""The personal residual: what users have outside the shared subspace."""

from dataclasses import replace

import numpy as np
import pytest

from app.learning import Comparisons, Model, evaluate_predictions, fit, fold_in, principal_angle_distance
from app.learning.adapters import posterior
from app.learning.arrays import Real
from app.learning.btl import fit_global_with_ridge
from app.learning.design import Design, design_of
from app.learning.evidence import evidence_pass, orthonormalised, starting_point, subspace_precision
from app.learning.features import feature_map_of
from app.learning.parameters import Shared
from app.learning.residual import residual_columns, with_residual, without_residual
from app.learning.selection import Trial, choose
from app.learning.spectral import spectral_start
from tests.support.learning_worlds import catalogue, in_contexts, tabular

STRONG, LEFT = 1.5, 0.6
"""Root variances of users along the shared direction and along every other one."""


def population(seed: int, *, n_users: int = 250, per_user: int = 30, left: float = LEFT) -> tuple[Comparisons, Real]:
    """Users who differ along one of six directions, and by themselves along all; and that direction (6, 1)."""
    rng = np.random.default_rng(seed)
    world = catalogue(rng, n_users=n_users, per_user=per_user, k=1, n_items=400, spread=STRONG, left=left)
    return replace(world.comparisons, item_ids=None), world.B


def prepared(c: Comparisons, k: int) -> tuple[Design, Shared]:
    design = design_of(c, feature_map_of(c))
    Theta_0, ridge = fit_global_with_ridge(design)
    B = spectral_start(design, design.scores(Theta_0), k)
    return design, with_residual(starting_point(Theta_0, B, ridge))


def halves(c: Comparisons) -> tuple[Comparisons, Comparisons]:
    held = np.random.default_rng(0).random(len(c)) < 0.3
    return c.subset(~held), c.subset(held)


def loss(model: Model, c: Comparisons) -> float:
    return evaluate_predictions(model.predict(c), c.label).log_loss


@pytest.mark.parametrize("contexts", [False, True])
def test_adapters_are_those_of_the_factor_analytic_prior_in_all_features(*, contexts: bool) -> None:
    """[B, Q] with diag(R, s^2 I) says what I with B R B^T + s^2 (I - B B^T) says."""
    rng = np.random.default_rng(3)
    c = in_contexts(rng, n_users=8, per_user=9) if contexts else catalogue(rng, n_users=8, per_user=9).comparisons
    design, shared = prepared(c, 2)
    T = shared.T.copy()
    T[: 2 * shared.d2, : 2 * shared.d2] *= 3.0
    shared = replace(shared, T=T)
    turn = np.kron(shared.B, np.eye(shared.d2))
    full = Shared(shared.Theta_0, np.eye(design.d1), turn @ T @ turn.T, shared.ridge)
    wide, dense = posterior(design, shared), posterior(design, full)
    np.testing.assert_allclose(wide.means @ turn.T, dense.means, atol=1e-5)
    np.testing.assert_allclose(turn @ wide.covariances @ turn.T, dense.covariances, atol=1e-5)


def test_the_bound_hardly_ever_falls() -> None:
    """The residual's basis turns with B, which is no ascent step; but next to what a pass gains it is nothing."""
    design, shared = prepared(population(1, n_users=60)[0], 1)
    scores, bounds, stiffness = None, list[float](), subspace_precision(design)
    for _ in range(30):
        step = evidence_pass(design, shared, scores, stiffness=stiffness, learn_priors=False, tightenings=5)
        shared, scores = step.shared, step.scores
        bounds.append(step.bound)
    assert np.diff(bounds).min() > -1e-5 * abs(bounds[-1])
    assert bounds[-1] - bounds[0] > 0.01 * abs(bounds[-1])


def test_the_gauge_has_orthonormal_columns_and_keeps_what_the_prior_says() -> None:
    design, shared = prepared(population(2, n_users=40)[0], 2)
    shared = evidence_pass(design, shared, stiffness=subspace_precision(design)).shared
    gauged = orthonormalised(shared)
    assert (gauged.residual, gauged.rank, gauged.k) == (4, 2, 6)
    np.testing.assert_allclose(gauged.B.T @ gauged.B, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(gauged.T[2:, 2:], gauged.T[2, 2] * np.eye(4), atol=1e-12)
    assert not gauged.T[:2, 2:].any()
    np.testing.assert_allclose(gauged.B @ gauged.T @ gauged.B.T, shared.B @ shared.T @ shared.B.T, atol=1e-6)
    alone = without_residual(gauged)
    assert (alone.k, alone.residual, alone.T.shape) == (2, 0, (2, 2))


def test_a_residual_that_is_there_is_found_and_predicts() -> None:
    c, B = population(4)
    known, held = halves(c)
    with_, without = (fit(known, rank=1, dependence=0.0, residual=r, calibrate=False) for r in (True, False))
    assert with_.diagnostics is not None
    assert with_.diagnostics.residual == pytest.approx(LEFT, rel=0.25)
    assert loss(with_, held) < loss(without, held) - 0.02
    assert principal_angle_distance(with_.raw_subspace(), B) < 0.2
    assert (with_.rank, with_.width, without.width) == (1, 6, 1)
    # Sigma_tail is what the residual has: the prior's share of every user, in five directions.
    truth = c.n_users * 5 * LEFT**2
    assert with_.diagnostics.tail_energy == pytest.approx(truth, rel=0.5)
    assert len(with_.diagnostics.singular_values) == 1


def test_a_residual_that_is_not_there_vanishes() -> None:
    c, _ = population(5, left=0.0)
    known, held = halves(c)
    with_, without = (fit(known, rank=1, dependence=0.0, residual=r, calibrate=False) for r in (True, False))
    assert with_.converged
    assert with_.diagnostics is not None
    assert with_.diagnostics.residual < 0.2
    assert loss(with_, held) < loss(without, held) + 2e-3


def test_data_decide_and_everything_goes_on_with_wider_adapters() -> None:
    c, _ = population(6, n_users=150)
    model = fit(c, rank=1, rng=np.random.default_rng(0))
    assert model.shared.residual == 5
    assert model.diagnostics is not None
    assert {t.residual for t in model.diagnostics.trials} == {False, True}
    again = Model.from_arrays(model.to_arrays())
    assert (again.rank, again.width) == (1, 6)
    own = c.of_users([3])
    np.testing.assert_allclose(fold_in(again, own).mean, model.adapter(3).mean, atol=1e-5)
    belief = model.rewards(model.adapter(3), c.items[:20])
    assert belief.mean.shape == (20,)
    assert (belief.stderr > 0).all()
    warm = fit(c, rank=1, warm_start=model, calibrate=False)
    assert warm.shared.residual == 5
    assert warm.passes <= model.passes
    np.testing.assert_allclose(warm.predict(c), model.predict(c), atol=0.02)
    assert fit(c, rank=1, residual=False, calibrate=False).shared.residual == 0


def test_standard_errors_hold_beside_a_residual() -> None:
    rng = np.random.default_rng(7)
    c, _ = population(7, n_users=200)
    model = fit(c, rank=1, residual=True, rng=rng)
    assert model.calibration.covered is not None
    assert 0.8 < model.calibration.covered <= 1.0
    few, many = (model.rewards(fold_in(model, c.of_users([2]).subset(np.arange(m))), c.items) for m in (2, 30))
    assert np.median(many.stderr) < 0.9 * np.median(few.stderr)


def test_there_is_no_room_where_it_would_take_too_long() -> None:
    assert residual_columns(6, 1, 2, 0) == 4
    assert residual_columns(6, 1, 6, 0) == 0
    assert residual_columns(6, 1, 0, 0) == 0
    assert residual_columns(64, 1, 8, 0) == 0
    assert residual_columns(8, 4, 2, 0) == 0
    assert residual_columns(20, 1, 2, 100_000) == 0
    decisions = tabular(np.random.default_rng(8), n_users=12, per_user=15).comparisons
    assert fit(decisions, rank=1, residual=True, calibrate=False).shared.residual == 0
    c, _ = population(8, n_users=20)
    assert fit(c, rank=1, residual=True, estimator="mle", calibrate=False).shared.residual == 0


def test_with_a_residual_the_dependence_is_looked_for_anew() -> None:
    """What a low rank leaves over looks like dependence."""
    table = {False: {0.0: 0.5, 0.1: 0.48}, True: {0.0: 0.4, 0.1: 0.45}}

    def run(rank: int, dependence: float, *, residual: bool = False) -> Trial:
        level = 0.6 if rank == 0 else table[residual][dependence]
        noise = np.random.default_rng(rank).normal(0.0, 1e-3, 400)
        return Trial(rank, dependence, level + noise - noise.mean(), np.ones(400), residual)

    def chosen(residuals: tuple[bool, ...]) -> tuple[float, bool]:
        found = choose(run, ranks=(0, 2), start=(2, 0.0), dependences=(0.0, 0.1), residuals=lambda _: residuals)
        return found.dependence, found.residual

    assert chosen((False, True)) == (0.0, True)
    assert chosen((True,)) == (0.0, True)
    assert chosen((False,)) == (0.1, False)
    table[True] = {0.0: 0.49, 0.1: 0.48}
    assert chosen((False, True)) == (0.1, False)
