"""Backward induction: the best policy for known rewards, exactly.

V_H = 0, Q_h(s, a) = r_h(s, a) + sum_s2 P_h(s2 | s, a) V_{h+1}(s2), V_h(s) = max_a Q_h(s, a); O(H nnz(P)).
"""

from dataclasses import dataclass

import numpy as np

from app.policy import kernels
from app.policy.dynamics import Dynamics
from app.policy.mdp import FiniteHorizonMDP, Int, Real


@dataclass(frozen=True, slots=True, eq=False)
class Induction:
    policy: Int
    """(H, S) best action, the lowest index among equals; -1 in terminal states."""
    values: Real
    """(H + 1, S)"""
    q: Real
    """(H, S, A); minus infinity where an action cannot be taken."""


def backward_induction(mdp: FiniteHorizonMDP, rewards: Real) -> Induction:
    """Solve an MDP for rewards (S, A), the same at every step, or (H, S, A)."""
    dynamics = Dynamics.of(mdp)
    H, S, A = dynamics.shape
    by_step = np.ascontiguousarray(rewards, dtype=np.float64).reshape(-1, S * A)
    q, values, policy = np.empty((H, S, A)), np.empty((H + 1, S)), np.empty((H, S), dtype=np.int32)
    kernels.induce(*dynamics.transitions, dynamics.allowed, by_step, S, A, policy, values, q)
    return Induction(policy=policy.astype(np.int64), values=values, q=q)
