import numpy as np
import pytest

from app.policy import FiniteHorizonMDP, backward_induction, occupancy, policy_of, sample_action
from app.policy import reference_from_trajectories as estimated_reference
from tests.support.policy_worlds import deterministic_policies, policy_value, random_world, simulated_visits


@pytest.mark.parametrize("stationary", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_no_deterministic_policy_beats_backward_induction(seed: int, stationary: bool) -> None:  # noqa: FBT001 - a parameter
    world = random_world(seed, n_states=3, n_actions=2, horizon=3, stationary=stationary)
    found = backward_induction(world.mdp, world.mean)
    best = max(policy_value(world.mdp, policy, world.mean) for policy in deterministic_policies(world.mdp))
    assert world.mdp.initial @ found.values[0] == pytest.approx(best, abs=1e-12)
    assert policy_value(world.mdp, found.policy, world.mean) == pytest.approx(best, abs=1e-12)


def test_rewards_may_differ_by_step() -> None:
    world = random_world(0)
    by_step = np.stack([world.mean, -world.mean, 2 * world.mean])
    found = backward_induction(world.mdp, by_step)
    measure = occupancy(world.mdp, found.policy)
    assert (measure * by_step).sum() == pytest.approx(world.mdp.initial @ found.values[0], abs=1e-12)
    assert found.policy[2].tolist() == world.mean.argmax(axis=1).tolist()


def test_values_are_the_best_of_q_and_end_at_zero() -> None:
    world = random_world(1)
    found = backward_induction(world.mdp, world.mean)
    assert np.array_equal(found.values[:-1], found.q.max(axis=2))
    assert not found.values[-1].any()


def test_ties_go_to_the_lowest_action() -> None:
    assert backward_induction(FiniteHorizonMDP.bandit(4), np.array([[1.0, 2.0, 2.0, 0.0]])).policy.tolist() == [[1]]


@pytest.mark.parametrize("stationary", [True, False])
def test_occupancy_agrees_with_simulation(stationary: bool) -> None:  # noqa: FBT001 - a parameter
    world = random_world(2, stationary=stationary)
    n = 40_000
    simulated = simulated_visits(world.mdp, world.reference, n, np.random.default_rng(0))
    exact = occupancy(world.mdp, world.reference)
    assert np.all(np.abs(simulated - exact) <= 5 * np.sqrt(exact * (1 - exact) / n) + 1e-12)


def test_occupancy_is_a_distribution_at_every_step() -> None:
    world = random_world(3)
    assert occupancy(world.mdp, world.reference).sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-12)


def test_a_deterministic_policy_has_the_same_occupancy_in_both_forms() -> None:
    world = random_world(4)
    policy = backward_induction(world.mdp, world.mean).policy
    assert np.array_equal(occupancy(world.mdp, policy), occupancy(world.mdp, np.eye(3)[policy]))


def test_the_policy_of_an_occupancy_has_that_occupancy() -> None:
    world = random_world(5)
    measure = occupancy(world.mdp, world.reference)
    assert policy_of(measure, world.reference) == pytest.approx(world.reference, abs=1e-12)


def test_a_mixture_of_occupancies_is_the_occupancy_of_its_policy() -> None:
    world = random_world(6)
    best = occupancy(world.mdp, backward_induction(world.mdp, world.mean).policy)
    mixed = 0.3 * best + 0.7 * occupancy(world.mdp, world.reference)
    assert occupancy(world.mdp, policy_of(mixed, world.reference)) == pytest.approx(mixed, abs=1e-12)


def test_states_never_visited_fall_back() -> None:
    stay = np.array([[s, a, s, 1.0] for s in range(2) for a in range(2)])
    mdp = FiniteHorizonMDP.from_triples(2, 2, 2, stay, [1.0, 0.0])
    fallback = np.full((2, 2, 2), 0.5)
    policy = policy_of(occupancy(mdp, np.zeros((2, 2), dtype=np.int64)), fallback)
    assert policy.tolist() == [[[1.0, 0.0], [0.5, 0.5]]] * 2


def test_a_reference_is_estimated_from_trajectories() -> None:
    mdp = FiniteHorizonMDP.from_triples(2, 2, 2, np.array([[s, a, 0, 1.0] for s in range(2) for a in range(2)]), [1, 0])
    states, actions = np.array([[0, 0], [0, 0]]), np.array([[1, 1], [1, 0]])
    assert estimated_reference(mdp, states, actions, smoothing=0.0).tolist() == [[0.25, 0.75], [0.5, 0.5]]
    assert estimated_reference(mdp, states, actions, smoothing=4.0).tolist() == [[3 / 8, 5 / 8], [0.5, 0.5]]
    assert estimated_reference(mdp, states, actions).tolist() == [[0.3, 0.7], [0.5, 0.5]]


@pytest.mark.parametrize("name", ["states", "actions"])
def test_a_trajectory_outside_the_mdp_is_named(name: str) -> None:
    mdp = FiniteHorizonMDP.bandit(2)
    given = {"states": np.array([[0], [0]]), "actions": np.array([[0], [1]])}
    given[name] = np.array([[0], [5]])
    with pytest.raises(ValueError, match=rf"{name}: trajectory 1, step 0 has 5; it must be from 0 to "):
        estimated_reference(mdp, given["states"], given["actions"])


def test_sampling_follows_the_seed_and_the_distribution() -> None:
    distribution = np.array([0.2, 0.0, 0.8])
    drawn = [sample_action(distribution, np.random.default_rng([7, i])) for i in range(2000)]
    assert drawn == [sample_action(distribution, np.random.default_rng([7, i])) for i in range(2000)]
    shares = np.bincount(drawn, minlength=3) / 2000
    assert shares[1] == 0
    assert abs(shares[2] - 0.8) < 5 * np.sqrt(0.16 / 2000)


def test_nothing_is_drawn_in_a_terminal_state() -> None:
    with pytest.raises(ValueError, match="the state is terminal"):
        sample_action(np.zeros(3), np.random.default_rng(0))


def test_an_estimated_reference_knows_what_can_be_taken_and_where_an_episode_ends() -> None:
    rows = np.array([[0, 0, 1, 1.0], [0, 1, 2, 1.0], [1, 0, 2, 1.0]])
    mdp = FiniteHorizonMDP.from_triples(3, 2, 2, rows, [1, 0, 0], unavailable=[[1, 1]], terminal=[2])
    found = estimated_reference(mdp, np.array([[0, 1], [0, 2]]), np.array([[0, 0], [1, 0]]), smoothing=2.0)
    assert found.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(ValueError, match="actions: trajectory 0, step 1 takes 1 in state 1, where it cannot be taken"):
        estimated_reference(mdp, np.array([[0, 1]]), np.array([[0, 1]]))


def test_induction_passes_over_what_cannot_be_taken() -> None:
    rows = np.array([[0, 0, 1, 1.0], [0, 1, 2, 1.0], [1, 0, 2, 1.0]])
    mdp = FiniteHorizonMDP.from_triples(3, 2, 2, rows, [1, 0, 0], unavailable=[[1, 1]], terminal=[2])
    found = backward_induction(mdp, np.array([[0.0, 2.0], [3.0, 99.0], [99.0, 99.0]]))
    assert found.policy.tolist() == [[0, 0, -1], [1, 0, -1]]
    assert found.values.tolist() == [[3.0, 3.0, 0.0], [2.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    assert found.q[0, 1].tolist() == [3.0, -np.inf]
    assert occupancy(mdp, found.policy)[:, :2].tolist() == [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
