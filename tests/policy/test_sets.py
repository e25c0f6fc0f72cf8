"""Confidence sets other than an ellipsoid, and rewards and MDPs other than the plain ones."""

from typing import Any

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from app.policy import (
    FiniteHorizonMDP,
    FullSpace,
    LevelSet,
    RobustPolicy,
    backward_induction,
    logistic_level_set,
    occupancy,
    robust_policy,
)
from app.policy.sets import UnitBall
from tests.support.policy_worlds import World, conic_optimum, random_world, worst_advantage

RADII = [0.05, 0.7, 10.0, 1e3]


def assert_optimal(found: RobustPolicy, expected: float) -> None:
    assert found.converged
    slack = 1e-4 * max(found.upper, 0.01 * found.stake)
    assert found.lower == pytest.approx(expected, abs=slack)
    assert found.upper == pytest.approx(expected, abs=slack)


@pytest.mark.parametrize("beta", RADII)
def test_the_full_space_of_a_table_is_a_ball_in_every_reward(beta: float) -> None:
    world = random_world(0, n_states=6, n_actions=4, horizon=4)
    expected, _ = conic_optimum(World(world.mdp, world.mean, np.eye(24), world.reference), beta)
    found = robust_policy(world.mdp, world.mean, FullSpace.of(world.mdp), beta=beta, reference=world.reference)
    assert_optimal(found, expected)


@pytest.mark.parametrize("beta", RADII)
def test_the_full_space_needs_no_matrix(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world = random_world(1, n_states=7, n_actions=4, horizon=5)
    expected, _ = conic_optimum(World(world.mdp, world.mean, np.eye(28), world.reference), beta)
    monkeypatch.setattr("app.policy.robust.EXPLICIT", 0)
    found = robust_policy(world.mdp, world.mean, FullSpace.of(world.mdp), beta=beta, reference=world.reference)
    assert_optimal(found, expected)
    assert found.worst_case.shape == (28,)


@pytest.mark.parametrize("explicit", [0, 192])
@pytest.mark.parametrize("beta", RADII)
def test_the_full_space_of_features_is_the_products_of_them(
    beta: float, explicit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = random_world(2, n_states=6, n_actions=4, horizon=4)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 3)), rng.normal(size=(4, 2))
    mdp = FiniteHorizonMDP(6, 4, 4, world.mdp.initial, world.mdp.kernels, state_features=X, action_features=Y)
    expected, _ = conic_optimum(
        World(mdp, world.mean, np.asarray(np.kron(X, Y), dtype=np.float64), world.reference), beta
    )
    monkeypatch.setattr("app.policy.robust.EXPLICIT", explicit)
    assert_optimal(robust_policy(mdp, world.mean, FullSpace.of(mdp), beta=beta, reference=world.reference), expected)


@pytest.mark.parametrize("explicit", [0, 192])
@pytest.mark.parametrize("beta", RADII)
def test_rewards_may_err_by_themselves_beside_a_factor(
    beta: float, explicit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = random_world(6, n_states=6, n_actions=4, horizon=4, q=3)
    own = np.random.default_rng(0).uniform(0.1, 1.0, size=24)
    whole = World(world.mdp, world.mean, np.hstack([world.factor, np.diag(own)]), world.reference)
    expected, _ = conic_optimum(whole, beta)
    monkeypatch.setattr("app.policy.robust.EXPLICIT", explicit)
    found = robust_policy(world.mdp, world.mean, world.factor, own=own, beta=beta, reference=world.reference)
    assert_optimal(found, expected)
    assert worst_advantage(whole, found.occupancy, beta) == pytest.approx(found.lower, abs=1e-9 * (1 + beta))


@pytest.mark.parametrize("own", [np.ones(23), np.full(24, -1.0), np.full(24, np.nan)])
def test_own_errors_that_are_none_are_refused(own: Any) -> None:
    world = random_world(6, n_states=6, n_actions=4, horizon=4, q=3)
    with pytest.raises(ValueError, match="own: "):
        robust_policy(world.mdp, world.mean, world.factor, own=own, beta=1.0, reference=world.reference)


@pytest.mark.parametrize("explicit", [0, 192])
@pytest.mark.parametrize("beta", [0.7, 1e3])
def test_the_full_space_may_be_of_rewards_by_step(beta: float, explicit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = random_world(5, n_states=5, n_actions=3, horizon=4)
    X = np.random.default_rng(0).normal(size=(20, 3))
    full = FullSpace((5, 3), csr_array(X), None)
    mean = np.random.default_rng(1).normal(size=(4, 5, 3))
    expected, _ = conic_optimum(World(world.mdp, mean, full.as_matrix(), world.reference), beta)
    monkeypatch.setattr("app.policy.robust.EXPLICIT", explicit)
    assert_optimal(robust_policy(world.mdp, mean, full, beta=beta, reference=world.reference), expected)
    last = full.since(2 * 15)
    np.testing.assert_array_equal(last.as_matrix(), full.as_matrix()[30:])
    with pytest.raises(ValueError, match="it is for 2 steps; the horizon is 4"):
        robust_policy(world.mdp, mean, last, beta=beta, reference=world.reference)


@pytest.mark.parametrize("beta", RADII)
@pytest.mark.parametrize("uncertain", [False, True])
def test_rewards_and_their_uncertainty_may_differ_by_step(beta: float, uncertain: bool) -> None:  # noqa: FBT001 - a parameter
    plain = random_world(3, n_states=5, n_actions=3, horizon=4, q=4, stationary=False)
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(60, 4)) if uncertain else plain.factor
    world = World(plain.mdp, rng.normal(size=(4, 5, 3)), factor, plain.reference)
    expected, measure = conic_optimum(world, beta)
    found = robust_policy(world.mdp, world.mean, world.factor, beta=beta, reference=world.reference)
    assert_optimal(found, expected)
    assert worst_advantage(world, found.occupancy, beta) == pytest.approx(found.lower, abs=1e-9 * (1 + beta))
    assert worst_advantage(world, measure, beta) <= found.upper + 1e-6


def quadratic(radius: float, shape: Any) -> LevelSet:
    """The ellipsoid u^T shape u <= radius^2, as a level set."""
    return LevelSet(lambda u: (0.5 * float(u @ shape @ u), shape @ u, shape), 0.5 * radius**2, 0.3 * shape)


@pytest.mark.parametrize("beta", RADII)
def test_a_level_set_of_a_quadratic_is_the_ellipsoid(beta: float) -> None:
    world = random_world(4, n_states=6, n_actions=4, horizon=4, q=4)
    root = np.random.default_rng(1).normal(size=(4, 4)) + 3 * np.eye(4)
    within = quadratic(beta, root @ root.T)
    expected, _ = conic_optimum(
        World(world.mdp, world.mean, world.factor @ np.linalg.inv(root).T, world.reference), beta
    )
    found = robust_policy(world.mdp, world.mean, world.factor, within=within, reference=world.reference)
    assert_optimal(found, expected)
    assert found.beta == pytest.approx(beta)


@pytest.mark.parametrize("beta", RADII)
def test_what_only_a_normal_density_tells_of_makes_a_level_set_wider(beta: float) -> None:
    world = random_world(4, n_states=6, n_actions=4, horizon=4, q=5)
    root = np.random.default_rng(1).normal(size=(2, 2)) + 3 * np.eye(2)
    whole = block_diag(np.linalg.inv(root).T, np.eye(3))
    expected, _ = conic_optimum(World(world.mdp, world.mean, world.factor @ whole, world.reference), beta)
    within = quadratic(beta, root @ root.T)
    found = robust_policy(world.mdp, world.mean, world.factor, within=within, reference=world.reference)
    assert_optimal(found, expected)
    u = 0.1 * beta * np.ones(5)
    far = 0.5 * float(u[:2] @ root @ root.T @ u[:2]) + 0.5 * float(u[2:] @ u[2:])
    assert within.room(u) == pytest.approx(1.0 - far / within.excess)
    assert_barrier(within, u, 1e-6 * beta)


def assert_barrier(within: LevelSet | UnitBall, u: Any, step: float) -> None:
    """Its derivatives are those of -log(room)."""
    barrier, steps = within.barrier(u), step * np.eye(len(u))
    slope = [(np.log(within.room(u - e)) - np.log(within.room(u + e))) / (2 * step) for e in steps]
    np.testing.assert_allclose(barrier.gradient, slope, rtol=1e-5)
    bent = [(within.barrier(u + e).gradient - within.barrier(u - e).gradient) / (2 * step) for e in steps]
    hessian = np.zeros((len(u), len(u)))
    barrier.add_hessian(1.0, hessian)
    np.testing.assert_allclose(hessian, bent, rtol=1e-4, atol=1e-4 * np.abs(hessian).max())
    np.testing.assert_allclose(hessian @ u, barrier.product(u))


def test_the_barrier_of_a_ball_is_that_of_its_room() -> None:
    assert_barrier(UnitBall(), np.array([0.3, -0.5, 0.2]), 1e-6)


def answers(n: int, q: int, seed: int) -> tuple[Any, Any, Any]:
    """Designs, the prior's precision and the penalised estimate."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, q))
    Z *= np.sign(Z @ rng.normal(size=q) + rng.logistic(size=n))[:, None]
    M = np.diag(rng.uniform(0.3, 1.0, size=q))
    w = np.zeros(q)
    for _ in range(50):
        wrong = expit(-Z @ w)
        hessian = M + Z.T @ ((wrong * (1 - wrong))[:, None] * Z)
        w -= np.linalg.solve(hessian, M @ w - Z.T @ wrong)
    return Z, M, w


@pytest.mark.parametrize("excess", [0.01, 1.0, 8.0, 50.0])
@pytest.mark.parametrize("n", [0, 3, 40])
def test_the_worst_of_a_likelihood_ratio_set_is_the_constrained_minimum(n: int, excess: float) -> None:
    Z, M, w = answers(n, 4, n)
    within = logistic_level_set(Z, estimate=w, prior_precision=M, excess=excess)
    c = np.random.default_rng(5).normal(size=4)
    rival: Any = minimize(  # type: ignore[call-overload]
        lambda u: c @ u,
        np.zeros(4),
        jac=lambda _: c,
        constraints={"type": "ineq", "fun": within.room, "jac": lambda u: -within.loss(u)[1] / excess},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert within.room(rival.x) == pytest.approx(0.0, abs=1e-8)
    assert within.worst(c) == pytest.approx(float(rival.fun), rel=1e-6)
    assert within.worst(c) <= float(rival.fun) + 1e-9 * abs(float(rival.fun))


@pytest.mark.parametrize("excess", [0.01, 1.0, 8.0, 50.0])
def test_a_likelihood_ratio_set_is_planned_for_exactly(excess: float) -> None:
    world = random_world(6, n_states=6, n_actions=4, horizon=4, q=4)
    Z, M, w = answers(12, 4, 0)
    within = logistic_level_set(Z, estimate=w, prior_precision=M, excess=excess)
    mean = (world.factor @ w).reshape(6, 4)
    found = robust_policy(world.mdp, mean, world.factor, within=within, reference=world.reference)
    assert found.converged
    assert 0.0 <= found.lower <= found.upper
    assert within.room(found.worst_case) >= 0
    change = (found.occupancy - occupancy(world.mdp, world.reference)).sum(axis=0).ravel()
    for direction in np.random.default_rng(1).normal(size=(200, 4)):
        u = rim(within, direction)
        rewards = mean + (world.factor @ u).reshape(6, 4)
        assert change @ rewards.ravel() >= found.lower - 1e-9
        best = backward_induction(world.mdp, rewards)
        reference = (occupancy(world.mdp, world.reference) * rewards).sum()
        assert world.mdp.initial @ best.values[0] - reference >= found.lower - 1e-9
    at_worst = mean + (world.factor @ found.worst_case).reshape(6, 4)
    exact = world.mdp.initial @ backward_induction(world.mdp, at_worst).values[0]
    assert exact - (occupancy(world.mdp, world.reference) * at_worst).sum() == pytest.approx(found.upper, abs=1e-9)


def rim(within: LevelSet, direction: Any) -> Any:
    """The point of the set that is farthest in a direction, by bisection."""
    low, high = 0.0, 1.0
    while within.room(high * direction) > 0:
        high *= 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if within.room(middle * direction) > 0 else (low, middle)
    return low * direction


def test_a_set_of_nearly_one_point_is_planned_as_the_point() -> None:
    world = random_world(7, q=4)
    Z, M, w = answers(12, 4, 0)
    within = logistic_level_set(Z, estimate=w, prior_precision=M, excess=1e-14)
    mean = (world.factor @ w).reshape(world.mean.shape)
    found = robust_policy(world.mdp, mean, world.factor, within=within, reference=world.reference)
    nominal = robust_policy(world.mdp, mean, world.factor, beta=0.0, reference=world.reference)
    assert found.lower == pytest.approx(nominal.lower, rel=1e-5)


@pytest.mark.parametrize("beta", RADII)
def test_an_action_that_cannot_be_taken_is_as_if_it_cost_the_world(beta: float) -> None:
    world = random_world(8, n_states=5, n_actions=3, horizon=4, q=3)
    available = np.ones((5, 3), dtype=bool)
    available[[0, 2, 2], [1, 0, 2]] = False
    reference = np.broadcast_to(available / available.sum(axis=1, keepdims=True), (4, 5, 3))
    costly = World(world.mdp, np.where(available, world.mean, -1e3), world.factor, reference)
    expected, _ = conic_optimum(costly, beta)
    mdp = FiniteHorizonMDP(5, 3, 4, world.mdp.initial, world.mdp.kernels, available)
    found = robust_policy(mdp, world.mean, world.factor, beta=beta, reference="uniform")
    assert_optimal(found, expected)
    assert not found.policy[:, ~available].any()
    assert available[np.arange(5), found.greedy].all()


@pytest.mark.parametrize("beta", RADII)
def test_after_a_terminal_state_nothing_more_is_earned(beta: float) -> None:
    rng = np.random.default_rng(9)
    rows = np.array([[s, a, s2, 0.25] for s in range(4) for a in range(3) for s2 in range(4)])
    mean, factor = rng.normal(size=(4, 3)) + 1, rng.normal(size=(12, 3))
    ended = FiniteHorizonMDP.from_triples(4, 3, 5, rows[rows[:, 0] != 2], np.full(4, 0.25), terminal=[2])
    mean[2], factor[6:9] = 0.0, 0.0
    stays = np.vstack([rows[rows[:, 0] != 2], [[2, a, 2, 1.0] for a in range(3)]])
    absorbing = FiniteHorizonMDP.from_triples(4, 3, 5, stays, np.full(4, 0.25))
    expected, _ = conic_optimum(World(absorbing, mean, factor, absorbing.uniform_policy()), beta)
    mean[2], factor[6:9] = 99.0, 99.0
    found = robust_policy(ended, mean, factor, beta=beta, reference="uniform")
    assert_optimal(found, expected)
    assert not found.policy[:, 2].any()
    assert (found.greedy[:, 2] == -1).all()
    assert not found.occupancy[:, 2].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "beta: either it or `within` must be given, and not both."),
        (
            {"beta": 1.0, "within": quadratic(1.0, np.eye(3))},
            "beta: either it or `within` must be given, and not both.",
        ),
    ],
)
def test_one_set_must_be_given(given: dict[str, Any], message: str) -> None:
    world = random_world(0)
    with pytest.raises(ValueError, match=message):
        robust_policy(world.mdp, world.mean, world.factor, reference="uniform", **given)


@pytest.mark.parametrize("excess", [0.0, -1.0, np.inf, np.nan])
def test_a_level_set_must_have_an_inside(excess: float) -> None:
    with pytest.raises(ValueError, match="excess: it is"):
        logistic_level_set(np.zeros((0, 2)), estimate=np.zeros(2), prior_precision=np.eye(2), excess=excess)
