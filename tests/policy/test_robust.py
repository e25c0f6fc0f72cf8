import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.policy import FiniteHorizonMDP, PlanProgress, RobustPolicy, backward_induction, occupancy, robust_policy
from app.policy.dynamics import Dynamics
from app.policy.factors import MatrixFactor
from app.policy.planes import cutting_planes
from app.policy.search import Limits, Problem, Search
from app.policy.sets import UnitBall
from tests.support.policy_worlds import World, conic_optimum, deterministic_policies, random_world, worst_advantage

SMALL, MEDIUM, LARGE, HUGE = 0.05, 0.7, 10.0, 1e4


def plan(world: World, beta: float, **options: Any) -> RobustPolicy:
    return robust_policy(world.mdp, world.mean, world.factor, beta=beta, **{"reference": world.reference, **options})


@pytest.mark.parametrize("beta", [SMALL, MEDIUM, LARGE, HUGE])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_the_whole_conic_program(seed: int, beta: float) -> None:
    world = random_world(seed, n_states=6, n_actions=4, horizon=4, q=5, stationary=seed % 2 == 0)
    expected, _ = conic_optimum(world, beta)
    found = plan(world, beta)
    assert found.converged
    assert found.reason == "tolerance"
    assert found.relative_gap <= 1e-4
    slack = 1e-4 * max(found.upper, 0.01 * found.stake)
    assert found.lower == pytest.approx(expected, abs=slack)
    assert found.upper == pytest.approx(expected, abs=slack)


@pytest.mark.parametrize("beta", [SMALL, MEDIUM, HUGE])
def test_a_bandit_of_thousands_is_the_same_problem(beta: float) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    mean, factor = rng.normal(size=(1, n)), rng.normal(size=(n, 8)) / np.sqrt(8)
    world = World(FiniteHorizonMDP.bandit(n), mean, factor, np.full((1, 1, n), 1 / n))
    expected, _ = conic_optimum(world, beta)
    found = plan(world, beta)
    assert found.converged
    assert found.lower == pytest.approx(expected, rel=1e-4)
    assert found.upper == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("horizon", [1, 4])
def test_without_a_radius_it_is_plain_backward_induction(horizon: int) -> None:
    world = random_world(0, horizon=horizon)
    found = plan(world, 0.0)
    plain = backward_induction(world.mdp, world.mean)
    assert np.array_equal(found.greedy, plain.policy)
    assert np.array_equal(found.policy, np.eye(world.mdp.n_actions)[plain.policy])
    assert np.array_equal(found.occupancy, occupancy(world.mdp, plain.policy))
    assert found.lower == found.upper == found.nominal == found.stake
    reference = float((occupancy(world.mdp, world.reference) * world.mean).sum())
    assert found.nominal == pytest.approx(world.mdp.initial @ plain.values[0] - reference, abs=1e-12)
    assert (found.gap, found.iterations, found.converged) == (0.0, 1, True)


@pytest.mark.parametrize("factor", [np.zeros((12, 3)), np.zeros((12, 0))])
def test_without_uncertainty_the_radius_does_not_matter(factor: Any) -> None:
    world = random_world(1)
    found = robust_policy(world.mdp, world.mean, factor, beta=3.0, reference=world.reference)
    assert np.array_equal(found.policy, plan(world, 0.0).policy)
    assert found.beta == 3.0


def test_directions_without_uncertainty_change_nothing() -> None:
    world = random_world(2)
    padded = np.hstack([np.zeros((12, 1)), world.factor, np.zeros((12, 2))])
    found = robust_policy(world.mdp, world.mean, padded, beta=MEDIUM, reference=world.reference)
    assert found.converged
    assert found.lower == pytest.approx(plan(world, MEDIUM).lower, rel=2e-4)


def test_one_uncertain_direction_is_enough() -> None:
    world = random_world(3, q=1)
    expected, _ = conic_optimum(world, MEDIUM)
    assert plan(world, MEDIUM).lower == pytest.approx(expected, rel=1e-4)


def test_a_huge_radius_makes_the_uncertainty_vanish() -> None:
    world = random_world(4, n_states=6, n_actions=4, horizon=4, q=3)
    found = plan(world, HUGE)
    change = (found.occupancy - occupancy(world.mdp, world.reference)).sum(axis=0).ravel()
    assert np.linalg.norm(change @ world.factor) < 1e-4 * found.nominal / HUGE
    assert found.lower > 0
    assert found.lower == pytest.approx(found.nominal, rel=1e-4)


def test_where_nothing_is_certain_the_reference_is_the_answer() -> None:
    world = random_world(5)
    found = robust_policy(world.mdp, world.mean, 1e3 * np.eye(12), beta=HUGE, reference=world.reference)
    assert found.lower == 0.0
    assert found.upper < 0.01 * found.stake
    assert found.converged
    assert occupancy(world.mdp, found.policy) == pytest.approx(occupancy(world.mdp, world.reference), abs=1e-6)


def test_the_best_reference_cannot_be_improved() -> None:
    world = random_world(6)
    best = np.eye(3)[backward_induction(world.mdp, world.mean).policy]
    found = plan(world, MEDIUM, reference=best)
    assert found.lower == 0.0
    assert found.upper == pytest.approx(0.0, abs=1e-9)
    assert found.converged


def test_mixing_beats_every_deterministic_policy() -> None:
    """Two good arms whose uncertainties cancel: half of each is certain, each alone is not worth the risk."""
    world = World(
        FiniteHorizonMDP.bandit(3), np.array([[1.0, 1.0, 0.0]]), np.array([[1.0], [-1.0], [0.0]]), np.eye(3)[None, 2:]
    )
    found = plan(world, 2.0)
    deterministic = max(
        worst_advantage(world, occupancy(world.mdp, policy), 2.0) for policy in deterministic_policies(world.mdp)
    )
    assert deterministic == 0.0
    assert found.lower == pytest.approx(1.0, abs=1e-4)
    assert found.policy[0, 0] == pytest.approx([0.5, 0.5, 0.0], abs=1e-4)


@pytest.mark.parametrize("beta", [SMALL, MEDIUM, LARGE])
def test_no_action_is_taken_with_a_probability_that_is_an_artefact_of_arithmetic(beta: float) -> None:
    policy = plan(random_world(3, n_states=6, n_actions=4, horizon=4, q=5), beta).policy
    assert policy[policy > 0].min() >= 1e-12
    assert policy.sum(axis=2) == pytest.approx(1.0, abs=1e-12)


def test_unreachable_states_have_an_answer_and_no_influence() -> None:
    """States 2 and 3 are left, never entered."""
    rng = np.random.default_rng(7)
    rows = np.array([[s, a, (s + a) % 2, 1.0] for s in range(4) for a in range(3)])
    mdp = FiniteHorizonMDP.from_triples(4, 3, 4, rows, [0.5, 0.5, 0.0, 0.0])
    mean, factor = rng.normal(size=(4, 3)), rng.normal(size=(12, 3))
    found = robust_policy(mdp, mean, factor, beta=1.0, reference="uniform")
    assert found.policy.sum(axis=2) == pytest.approx(1.0, abs=1e-12)
    assert not found.occupancy[:, 2:].any()
    mean[2:] += 100.0
    factor[6:] *= 100.0
    again = robust_policy(mdp, mean, factor, beta=1.0, reference="uniform")
    assert again.lower == pytest.approx(found.lower, rel=2e-4)


def test_one_action_leaves_nothing_to_decide() -> None:
    world = random_world(8, n_actions=1)
    found = plan(world, MEDIUM)
    assert (found.lower, found.converged) == (0.0, True)
    assert np.array_equal(found.policy, np.ones((3, 4, 1)))


def test_uniform_is_short_for_the_uniform_reference() -> None:
    world = random_world(9)
    spelt_out = plan(world, MEDIUM, reference=np.full((4, 3), 1 / 3))
    assert np.array_equal(plan(world, MEDIUM, reference="uniform").policy, spelt_out.policy)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_reward_does_not_matter(scale: float) -> None:
    world = random_world(10)
    scaled = World(world.mdp, scale * world.mean, scale * world.factor, world.reference)
    assert plan(scaled, LARGE).lower == pytest.approx(scale * plan(world, LARGE).lower, rel=2e-4)


def test_rotating_the_factor_changes_nothing() -> None:
    world = random_world(11)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    rotated = World(world.mdp, world.mean, world.factor @ rotation, world.reference)
    assert plan(rotated, MEDIUM).lower == pytest.approx(plan(world, MEDIUM).lower, rel=2e-4)


def test_a_larger_radius_is_never_worth_more() -> None:
    world = random_world(12)
    plans = [plan(world, beta) for beta in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)]
    assert all(wide.lower <= narrow.upper + 1e-12 for narrow, wide in itertools.pairwise(plans))


def test_a_warm_start_leads_to_the_same_optimum_sooner() -> None:
    world = random_world(13, n_states=8, n_actions=4, horizon=5, q=6)
    cold = plan(world, MEDIUM)
    warm = plan(world, MEDIUM, warm_start=cold.worst_case)
    assert np.linalg.norm(cold.worst_case) <= MEDIUM * (1 + 1e-12)
    assert warm.converged
    assert warm.lower == pytest.approx(cold.lower, rel=2e-4)
    assert warm.iterations < cold.iterations


@pytest.mark.parametrize("beta", [MEDIUM, LARGE, HUGE])
def test_the_last_answer_is_taken_up_where_it_was_left(beta: float) -> None:
    world = random_world(13, n_states=8, n_actions=4, horizon=5, q=6)
    first = plan(world, beta)
    assert plan(world, beta, warm_start=first).iterations <= 2
    moved = World(world.mdp, world.mean + 0.01, world.factor * 0.99, world.reference)
    moved.mean[0, 0] += 0.01
    cold, warm = plan(moved, beta), plan(moved, beta, warm_start=first)
    assert warm.converged
    assert warm.lower == pytest.approx(cold.lower, rel=2e-4)
    assert warm.iterations < cold.iterations


def test_an_answer_for_another_mdp_does_no_harm() -> None:
    other = plan(random_world(1, n_states=5), MEDIUM)
    found = plan(random_world(2), MEDIUM, warm_start=other)
    assert found.lower == pytest.approx(plan(random_world(2), MEDIUM).lower, rel=2e-4)
    world = random_world(3)
    available = np.ones((4, 3), dtype=bool)
    available[1, 2] = False
    fewer = replace(world.mdp, available=available)
    again = robust_policy(
        fewer, world.mean, world.factor, beta=MEDIUM, reference="uniform", warm_start=plan(world, MEDIUM)
    )
    assert not again.policy[:, 1, 2].any()
    assert again.converged


@pytest.mark.parametrize("start", [np.ones(99), np.full(3, np.nan), np.full(3, 1e9), np.zeros(3)])
def test_a_useless_warm_start_does_no_harm(start: Any) -> None:
    world = random_world(14)
    found = plan(world, MEDIUM, warm_start=start)
    assert found.converged
    assert found.lower == pytest.approx(plan(world, MEDIUM).lower, rel=2e-4)


@pytest.mark.parametrize("limit", [1, 2, 5, 12, 20])
def test_at_the_iteration_limit_the_certificate_still_holds(limit: int) -> None:
    world = random_world(15, n_states=8, n_actions=4, horizon=5, q=6)
    found = plan(world, LARGE, max_iterations=limit, tolerance=1e-9)
    optimum, _ = conic_optimum(world, LARGE)
    assert (found.reason, found.converged, found.iterations) == ("iterations", False, limit)
    assert 0.0 <= found.lower <= optimum + 1e-6
    assert optimum - 1e-6 <= found.upper
    assert worst_advantage(world, occupancy(world.mdp, found.policy), LARGE) == pytest.approx(found.lower, abs=1e-9)
    assert found.relative_gap == pytest.approx(found.gap / max(found.upper, 0.01 * found.stake))


def test_the_time_budget_is_kept_by_the_clock_that_is_passed_in() -> None:
    world = random_world(16, n_states=8, n_actions=4, horizon=5, q=6)
    seconds = iter(range(1000))
    found = plan(world, LARGE, time_budget_seconds=5.0, clock=lambda: float(next(seconds)))
    assert (found.reason, found.converged) == ("time", False)
    assert found.iterations < plan(world, LARGE).iterations
    assert 0.0 <= found.lower <= found.upper


def test_progress_is_told_and_may_cancel() -> None:
    world = random_world(17)
    told: list[PlanProgress] = []
    found = plan(world, LARGE, progress=told.append)
    assert told[-1].iterations == found.iterations
    assert all(later.lower >= earlier.lower for earlier, later in itertools.pairwise(told))
    assert all(later.upper <= earlier.upper for earlier, later in itertools.pairwise(told))

    def cancel(_: PlanProgress) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        plan(world, LARGE, progress=cancel)


def test_where_digits_run_out_it_says_so() -> None:
    world = random_world(18)
    found = plan(world, HUGE, tolerance=1e-300, max_iterations=100_000)
    assert found.reason in {"precision", "tolerance"}
    assert found.relative_gap < 1e-6
    assert found.converged == (found.reason == "tolerance")


@pytest.mark.parametrize("seed", range(3))
def test_planes_close_what_smoothing_leaves_to_rounding(seed: int) -> None:
    world = random_world(seed, n_states=8, n_actions=4, horizon=5, q=6)
    found = plan(world, LARGE, tolerance=1e-10)
    assert found.converged
    assert found.relative_gap <= 1e-10


def problem_of(world: World, beta: float) -> Problem:
    dynamics = Dynamics.of(world.mdp)
    visits, _ = dynamics.spread(world.reference, 1)
    factor = MatrixFactor(beta * world.factor, 1)
    return Problem(dynamics, world.mean.reshape(1, -1), factor, UnitBall(), world.reference, visits)


@pytest.mark.parametrize("beta", [SMALL, MEDIUM, LARGE])
def test_cutting_planes_alone_find_the_same_optimum(beta: float) -> None:
    world = random_world(19)
    problem = problem_of(world, beta)
    search = Search(problem, Limits(1e-5, max_iterations=500, deadline=None, clock=None, progress=None))
    assert cutting_planes(search, np.zeros(3)) == "tolerance"
    mixed = occupancy(world.mdp, problem.mixed(search.best))
    assert worst_advantage(world, mixed, beta) == pytest.approx(search.lower, abs=1e-9)
    assert search.lower == pytest.approx(conic_optimum(world, beta)[0], rel=2e-5)


@pytest.mark.parametrize("beta", [SMALL, MEDIUM, LARGE])
def test_too_many_uncertain_directions_need_no_matrix(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world = random_world(20, n_states=8, n_actions=4, horizon=5, q=6)
    expected = plan(world, beta)
    monkeypatch.setattr("app.policy.factors.EXPLICIT", 1)
    found = plan(world, beta)
    assert found.converged
    assert found.lower == pytest.approx(expected.lower, rel=2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": np.zeros((3, 4))}, "mean: its shape is (3, 4); it must be (4, 3) or (3, 4, 3)."),
        ({"factor": np.zeros((11, 2))}, "factor: its shape is (11, 2); it must be (12, q) or (36, q)."),
        (
            {"mean": np.where(np.arange(12).reshape(4, 3) == 7, np.nan, 0.0)},
            "mean: the entry of state 2, action 1 is not a finite number.",
        ),
        (
            {"factor": np.where(np.arange(24).reshape(12, 2) == 23, np.inf, 0.0)},
            "factor: the entry of state 3, action 2 is not a finite number.",
        ),
        ({"beta": -1.0}, "beta: it is -1.0; it must be a finite number, 0 or more."),
        ({"beta": np.inf}, "beta: it is inf; it must be a finite number, 0 or more."),
        ({"beta": np.nan}, "beta: it is nan; it must be a finite number, 0 or more."),
        ({"tolerance": 0.0}, "tolerance: it is 0.0; it must be more than 0."),
        ({"max_iterations": 0}, "max_iterations: it is 0; it must be at least 1."),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    world = random_world(21)
    given = {"mean": world.mean, "factor": world.factor, "beta": 1.0, **options}
    with pytest.raises(ValueError) as caught:
        robust_policy(world.mdp, given.pop("mean"), given.pop("factor"), reference="uniform", **given)
    assert str(caught.value) == message
