"""Backward induction: the best policy for known rewards, exactly.

V_H = 0, Q_h(s, a) = r_h(s, a) + sum_s2 P_h(s2 | s, a) V_{h+1}(s2), V_h(s) = max_a Q_h(s, a); O(H nnz(P)).
"""

from dataclasses import dataclass

import numpy as np

from app.policy.mdp import FiniteHorizonMDP, Int, Real


@dataclass(frozen=True, slots=True, eq=False)
class Induction:
    policy: Int
    """(H, S) best action; the lowest index among equals."""
    values: Real
    """(H + 1, S)"""
    q: Real
    """(H, S, A)"""


def backward_induction(mdp: FiniteHorizonMDP, rewards: Real) -> Induction:
    """Solve an MDP for rewards (S, A), the same at every step, or (H, S, A)."""
    shape = (mdp.horizon, mdp.n_states, mdp.n_actions)
    by_step = np.broadcast_to(rewards, shape)
    q = np.empty(shape)
    values = np.zeros((mdp.horizon + 1, mdp.n_states))
    policy = np.empty((mdp.horizon, mdp.n_states), dtype=np.int64)
    for step in range(mdp.horizon - 1, -1, -1):
        future = 0.0 if step == mdp.horizon - 1 else (mdp.kernel(step) @ values[step + 1]).reshape(shape[1:])
        np.add(by_step[step], future, out=q[step])
        policy[step] = q[step].argmax(axis=1)
        values[step] = np.take_along_axis(q[step], policy[step][:, None], axis=1)[:, 0]
    return Induction(policy=policy, values=values, q=q)
