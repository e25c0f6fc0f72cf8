"""Occupancy measures: d_h(s, a), the probability that a policy is in state s and takes action a at step h.

The expected sum of rewards is <r, d>, linear in d, and the d of all policies form a polytope; a mixture of occupancies
is the occupancy of the policy pi_h(a | s) = d_h(s, a) / sum_a d_h(s, a).
"""

import numpy as np

from app.policy.dynamics import Dynamics
from app.policy.mdp import FiniteHorizonMDP, Int, Real


def occupancy(mdp: FiniteHorizonMDP, policy: Real | Int) -> Real:
    """Occupancy (H, S, A) of a stochastic policy (S, A) or (H, S, A), or of a deterministic one (H, S) of integers."""
    dynamics = Dynamics.of(mdp)
    if np.issubdtype(policy.dtype, np.integer):
        measure = np.zeros(dynamics.shape)
        dynamics.collect(np.ascontiguousarray(policy, dtype=np.int32), 1.0, measure)
        return measure
    # A copy in any case: what is read-only would be another type to the compiler.
    full = np.array(np.broadcast_to(policy, dynamics.shape), dtype=np.float64, order="C")
    _, present = dynamics.spread(full, 1)
    return np.asarray(present[:, :, None] * full)


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
        So many answers a state are spread over the actions that there are; a state that no trajectory visits gets
        the uniform distribution over them.

    Raises
    ------
    ValueError
        An index outside the MDP, or an action where it cannot be taken; the message names the trajectory and the step.
    """
    for name, given, limit in (("states", states, mdp.n_states), ("actions", actions, mdp.n_actions)):
        outside = np.argwhere((given < 0) | (given >= limit))
        if outside.size:
            row, step = (int(i) for i in outside[0])
            raise ValueError(
                f"{name}: trajectory {row}, step {step} has {given[row, step]}; it must be from 0 to {limit - 1}."
            )
    pairs = states.ravel() * mdp.n_actions + actions.ravel()
    possible = np.ones((mdp.n_states, mdp.n_actions), dtype=np.bool_) if mdp.available is None else mdp.available
    # A trajectory that has ended stays where it is: what it is said to do there says nothing.
    said = ~mdp.terminal[states.ravel()]
    impossible = np.flatnonzero(said & ~possible.ravel()[pairs])
    if impossible.size:
        row, step = divmod(int(impossible[0]), states.shape[1])
        raise ValueError(
            f"actions: trajectory {row}, step {step} takes {actions[row, step]} in state {states[row, step]}, where it "
            f"cannot be taken."
        )
    counts = np.bincount(pairs[said], minlength=mdp.n_states * mdp.n_actions).reshape(possible.shape)
    actions_there = possible.sum(axis=1, keepdims=True)
    smoothed = counts + smoothing * possible / np.maximum(actions_there, 1)
    totals = smoothed.sum(axis=1, keepdims=True)
    uniform = possible / np.maximum(actions_there, 1)
    return np.asarray(np.where(totals > 0, smoothed / np.where(totals > 0, totals, 1.0), uniform))


def sample_action(distribution: Real, rng: np.random.Generator) -> int:
    """Draw an action from its probabilities (A,).

    Raises
    ------
    ValueError
        There is none to draw: the state is terminal.
    """
    if not distribution.any():
        raise ValueError("distribution: no action has a probability; the state is terminal.")
    return int(rng.choice(distribution.size, p=distribution / distribution.sum()))
