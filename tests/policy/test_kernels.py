"""The loops of the smoothed dual, against softmax backward induction written out, and against differences of it."""

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from app.policy import FiniteHorizonMDP, kernels, occupancy, prepare
from app.policy.dynamics import Dynamics
from tests.support.policy_worlds import random_world

TAU = 0.3


def world(n_actions: int, *, by_step: bool, ended: bool) -> tuple[FiniteHorizonMDP, Any, Any]:
    """With rewards and a factor of so many rows; perhaps with a terminal state and an action that cannot be taken."""
    sizes: dict[str, int] = {"n_states": 12, "n_actions": n_actions, "horizon": 5}
    mdp = random_world(1, **sizes, stationary=not by_step).mdp
    if ended:
        available = np.ones((12, n_actions), dtype=bool)
        available[3] = available[5, 0] = False
        mdp = FiniteHorizonMDP(12, n_actions, 5, mdp.initial, mdp.kernels, available)
    rng = np.random.default_rng(2)
    rows = 5 if by_step else 1
    return mdp, rng.normal(size=(rows, 12 * n_actions)), rng.normal(size=(rows * 12 * n_actions, 3))


def softened(mdp: FiniteHorizonMDP, rewards: Any) -> tuple[Any, float]:
    """The policy that is best when its entropy is worth TAU, and what it is worth with it."""
    policy, ahead = np.zeros((mdp.horizon, mdp.n_states, mdp.n_actions)), np.zeros(mdp.n_states)
    allowed = np.ones(policy.shape[1:], dtype=bool) if mdp.available is None else mdp.available
    for h in reversed(range(mdp.horizon)):
        values = (rewards[h % len(rewards)] + mdp.kernel(h) @ ahead).reshape(allowed.shape)
        for s in np.flatnonzero(allowed.any(axis=1)):
            ahead[s] = TAU * logsumexp(values[s, allowed[s]] / TAU)
            policy[h, s, allowed[s]] = np.exp((values[s, allowed[s]] - ahead[s]) / TAU)
    return policy, float(mdp.initial @ ahead)


CASES = [(2, False, False), (4, False, True), (4, True, False), (3, True, True)]


@pytest.mark.parametrize(("n_actions", "by_step", "ended"), CASES)
def test_a_softened_policy_is_the_softmax_of_its_values(n_actions: int, by_step: bool, ended: bool) -> None:  # noqa: FBT001 - parameters
    mdp, rewards, _ = world(n_actions, by_step=by_step, ended=ended)
    found = np.full((5, 12, n_actions), np.nan)
    Dynamics.of(mdp).soften(rewards, TAU, found)
    np.testing.assert_allclose(found, softened(mdp, rewards)[0], atol=1e-12)


@pytest.mark.parametrize(("n_actions", "by_step", "ended"), CASES)
def test_the_curvature_is_that_of_the_smoothed_dual(n_actions: int, by_step: bool, ended: bool) -> None:  # noqa: FBT001 - parameters
    mdp, rewards, factor = world(n_actions, by_step=by_step, ended=ended)
    dynamics = Dynamics.of(mdp)

    def at(u: Any) -> tuple[Any, float]:
        return softened(mdp, rewards + (factor @ u).reshape(rewards.shape))

    def gradient(u: Any) -> Any:
        return dynamics.spread(at(u)[0], len(rewards))[0].ravel() @ factor

    u, steps = np.array([0.2, -0.1, 0.3]), 1e-5 * np.eye(3)
    slope = [(at(u + e)[1] - at(u - e)[1]) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient(u), slope, rtol=1e-6)
    expected = np.array([(gradient(u + e) - gradient(u - e)) / 2e-5 for e in steps])
    policy, _ = at(u)
    _, present = dynamics.spread(policy, 1)
    hessian, told = np.zeros((3, 3)), np.zeros((len(rewards), 12 * n_actions))
    kernels.curvature(*dynamics.transitions, factor, policy, present, 0.0, hessian)
    np.testing.assert_allclose(hessian / TAU, expected, rtol=1e-5, atol=1e-6)
    slopes = (factor @ u).reshape(rewards.shape)
    kernels.curvature_product(*dynamics.transitions, slopes, policy, present, np.empty_like(policy), told)
    np.testing.assert_allclose(told.ravel() @ factor / TAU, expected @ u, rtol=1e-5, atol=1e-6)


def test_a_policy_that_cannot_be_written_to_is_not_compiled_for_anew() -> None:
    prepare()
    compiled = set(kernels.spread.signatures)
    found = random_world(3)
    found.reference.flags.writeable = False
    measure = occupancy(found.mdp, found.reference)
    np.testing.assert_allclose(measure.sum(axis=(1, 2)), 1.0)
    assert set(kernels.spread.signatures) == compiled
