"""Occupancy measures: d_h(s, a), the probability that a policy is in state s and takes action a at step h.

The expected sum of rewards is <r, d>, linear in d, and the d of all policies form a polytope; a mixture of occupancies
is the occupancy of the policy pi_h(a | s) = d_h(s, a) / sum_a d_h(s, a).
"""

import numpy as np

from app.policy.mdp import FiniteHorizonMDP, Int, Real


def occupancy(mdp: FiniteHorizonMDP, policy: Real | Int) -> Real:
    """Occupancy (H, S, A) of a stochastic policy (S, A) or (H, S, A), or of a deterministic one (H, S) of integers."""
    shape = (mdp.horizon, mdp.n_states, mdp.n_actions)
    measure = np.zeros(shape)
    deterministic = np.issubdtype(policy.dtype, np.integer)
    stochastic = policy if deterministic else np.broadcast_to(policy, shape)
    present = mdp.initial
    states = np.arange(mdp.n_states)
    for step in range(mdp.horizon):
        if deterministic:
            measure[step, states, policy[step]] = present
        else:
            np.multiply(present[:, None], stochastic[step], out=measure[step])
        if step + 1 < mdp.horizon:
            present = measure[step].ravel() @ mdp.kernel(step)
    return measure


def policy_of(measure: Real, fallback: Real) -> Real:
    """The policy (H, S, A) of an occupancy measure; `fallback` (H, S, A) where a state is never visited."""
    visits = measure.sum(axis=2, keepdims=True)
    visited = visits > 0
    return np.where(visited, measure / np.where(visited, visits, 1.0), fallback)


def reference_from_trajectories(mdp: FiniteHorizonMDP, states: Int, actions: Int, *, smoothing: float = 1.0) -> Real:
    """Estimate the policy (S, A) that produced trajectories (n, H).

    Parameters
    ----------
    mdp
        Whose states and actions were visited.
    states, actions
        (n, H) indices.
    smoothing
        So many answers a state are spread over its actions; a state that no trajectory visits gets the uniform
        distribution.

    Raises
    ------
    ValueError
        An index outside the MDP; the message names the trajectory and the step.
    """
    for name, given, limit in (("states", states, mdp.n_states), ("actions", actions, mdp.n_actions)):
        outside = np.argwhere((given < 0) | (given >= limit))
        if outside.size:
            row, step = (int(i) for i in outside[0])
            raise ValueError(
                f"{name}: trajectory {row}, step {step} has {given[row, step]}; it must be from 0 to {limit - 1}."
            )
    pairs = states.ravel() * mdp.n_actions + actions.ravel()
    counts = np.bincount(pairs, minlength=mdp.n_states * mdp.n_actions).reshape(mdp.n_states, mdp.n_actions)
    smoothed = counts + smoothing / mdp.n_actions
    totals = smoothed.sum(axis=1, keepdims=True)
    return np.where(totals > 0, smoothed / np.where(totals > 0, totals, 1.0), 1.0 / mdp.n_actions)


def sample_action(distribution: Real, rng: np.random.Generator) -> int:
    """Draw an action from its probabilities (A,)."""
    return int(rng.choice(distribution.size, p=distribution / distribution.sum()))
