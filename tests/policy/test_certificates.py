"""The certificate, over many drawn problems: nothing in the set and no policy refutes it.

With HYPOTHESIS_PROFILE=deep over a thousand problems each.
"""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.policy import FullSpace, logistic_level_set, occupancy, robust_policy
from tests.support.policy_worlds import World, conic_optimum, deterministic_policies, random_world, worst_advantage

EXAMPLES = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 100

worlds = st.builds(
    random_world,
    st.integers(0, 2**32 - 1),
    n_states=st.integers(1, 5),
    n_actions=st.integers(1, 4),
    horizon=st.integers(1, 4),
    q=st.integers(1, 5),
    stationary=st.booleans(),
)
radii = st.floats(-2, 3).map(lambda exponent: float(10.0**exponent))
tolerances = st.sampled_from([1e-1, 1e-4])


def advantage(world: World, measure: np.ndarray, rewards: np.ndarray) -> float:
    return float(((measure - occupancy(world.mdp, world.reference)).sum(axis=0) * rewards).sum())


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(worlds, radii, tolerances, st.integers(0, 2**32 - 1))
def test_no_reward_of_the_ellipsoid_gives_the_policy_less_than_the_lower_bound(
    world: World, beta: float, tolerance: float, seed: int
) -> None:
    found = robust_policy(
        world.mdp, world.mean, world.factor, beta=beta, reference=world.reference, tolerance=tolerance
    )
    measure = occupancy(world.mdp, found.policy)
    slack = 1e-9 * (1 + beta)
    directions = np.random.default_rng(seed).normal(size=(50, world.factor.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for u in beta * directions:
        rewards = world.mean + (world.factor @ u).reshape(world.mean.shape)
        assert advantage(world, measure, rewards) >= found.lower - slack
    assert worst_advantage(world, measure, beta) == pytest.approx(found.lower, abs=slack)
    assert advantage(world, measure, world.mean) == pytest.approx(found.nominal, abs=1e-9)
    assert 0.0 <= found.lower <= found.upper
    assert found.policy.sum(axis=2) == pytest.approx(1.0, abs=1e-9)
    assert found.policy.min() >= 0.0


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(worlds, radii, tolerances)
def test_no_policy_of_the_conic_solver_exceeds_the_upper_bound(world: World, beta: float, tolerance: float) -> None:
    found = robust_policy(
        world.mdp, world.mean, world.factor, beta=beta, reference=world.reference, tolerance=tolerance
    )
    _, measure = conic_optimum(world, beta)
    assert found.converged
    assert worst_advantage(world, measure, beta) <= found.upper + 1e-6


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), radii)
def test_no_deterministic_policy_exceeds_the_upper_bound(seed: int, beta: float) -> None:
    world = random_world(seed, n_states=2, n_actions=2, horizon=3, q=2)
    found = robust_policy(world.mdp, world.mean, world.factor, beta=beta, reference=world.reference)
    for policy in deterministic_policies(world.mdp):
        assert worst_advantage(world, occupancy(world.mdp, policy), beta) <= found.upper + 1e-9


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(worlds, radii, tolerances, st.integers(0, 2**32 - 1))
def test_no_reward_of_the_full_space_gives_the_policy_less_than_the_lower_bound(
    world: World, beta: float, tolerance: float, seed: int
) -> None:
    found = robust_policy(
        world.mdp, world.mean, FullSpace.of(world.mdp), beta=beta, reference=world.reference, tolerance=tolerance
    )
    measure = occupancy(world.mdp, found.policy)
    for direction in np.random.default_rng(seed).normal(size=(20, *world.mean.shape)):
        rewards = world.mean + beta * direction / np.linalg.norm(direction)
        assert advantage(world, measure, rewards) >= found.lower - 1e-9 * (1 + beta)
    every = World(world.mdp, world.mean, np.eye(world.mean.size), world.reference)
    if world.mean.size <= 8:
        assert worst_advantage(every, conic_optimum(every, beta)[1], beta) <= found.upper + 1e-6
    assert worst_advantage(every, measure, beta) == pytest.approx(found.lower, abs=1e-9 * (1 + beta))
    assert 0.0 <= found.lower <= found.upper


@settings(max_examples=1000 if EXAMPLES == 1000 else 40, deadline=None, derandomize=True)
@given(worlds, st.floats(-2, 2), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_no_reward_of_a_likelihood_ratio_set_gives_the_policy_less_than_the_lower_bound(
    world: World, exponent: float, comparisons: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q = world.factor.shape[1]
    p = int(rng.integers(1, q + 1))  # the rest is known by a normal density alone
    within = logistic_level_set(
        rng.normal(size=(comparisons, p)), estimate=np.zeros(p), prior_precision=np.eye(p), excess=10.0**exponent
    )
    found = robust_policy(world.mdp, world.mean, world.factor, within=within, reference=world.reference)
    measure = occupancy(world.mdp, found.policy)
    for u in rng.normal(size=(20, q)):
        inside = within.inside(100.0 * u)
        rewards = world.mean + (world.factor @ inside).reshape(world.mean.shape)
        assert advantage(world, measure, rewards) >= found.lower - 1e-9
    assert 0.0 <= found.lower <= found.upper
