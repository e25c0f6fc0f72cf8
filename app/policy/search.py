"""What a search for the robust policy knows: the problem, the policies found, and the bounds they prove.

Symbols: r_hat is the mean of the rewards and L their factor times beta, so that u lies in the unit ball; d - d_ref is a
policy's occupancy less the reference's; an atom is a policy with its a = <r_hat, d - d_ref> and q = L^T (d - d_ref).
A mixture of atoms is worth a - ||q||, which is a lower bound of the optimum; g(u) = max_d <r_hat + L u, d - d_ref>,
||u|| <= 1, is an upper bound.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.policy.induction import backward_induction
from app.policy.mdp import FiniteHorizonMDP, Int, Real
from app.policy.occupancy import occupancy, policy_of

Reason = Literal["tolerance", "iterations", "time", "precision"]

WORTHWHILE = 0.01
"""Below this share of the greedy policy's advantage, an optimum is measured against that share instead of itself."""

ROUNDING = 1e-12
"""Gap, in units of the horizon's largest reward, below which floating point says nothing more."""


@dataclass(frozen=True, slots=True)
class PlanProgress:
    """Where a search stands after a backward induction; the optimum lies between `lower` and `upper`."""

    iterations: int
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    mdp: FiniteHorizonMDP
    mean: Real
    """(S * A,)"""
    factor: Real
    """(S * A, q), times beta"""
    reference: Real
    """(H, S, A)"""
    reference_measure: Real
    """(H, S, A)"""

    def rewards(self, u: Real) -> Real:
        """(S, A) at a point of the ellipsoid."""
        return np.asarray((self.mean + self.factor @ u).reshape(self.mdp.n_states, self.mdp.n_actions))

    def best_response(self, u: Real) -> Int:
        return backward_induction(self.mdp, self.rewards(u)).policy

    @property
    def magnitude(self) -> float:
        """Largest expected sum of rewards there can be, for judging rounding."""
        return self.mdp.horizon * float(np.abs(self.mean).max())

    def advantage(self, measure: Real) -> tuple[float, Real]:
        """<r_hat, d - d_ref> and L^T (d - d_ref)."""
        difference = (measure - self.reference_measure).sum(axis=0).ravel()
        return float(self.mean @ difference), difference @ self.factor

    @staticmethod
    def worth(value: float, gradient: Real) -> float:
        return value - float(np.linalg.norm(gradient))


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    tolerance: float
    max_iterations: int
    deadline: float | None
    clock: Callable[[], float] | None
    progress: Callable[[PlanProgress], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    policy: Int | Real
    """(H, S) or (H, S, A)"""
    value: float
    gradient: Real
    """(q,)"""


@dataclass(slots=True, eq=False)
class Search:
    """Grows by atoms, of which the first is the reference, worth exactly 0; its bounds only tighten."""

    problem: Problem
    limits: Limits
    atoms: list[Atom] = field(init=False)
    best: list[tuple[float, Atom]] = field(init=False)
    """The mixture, weights first, that proves `lower`."""
    lower: float = 0.0
    upper: float = np.inf
    worst_case: Real = field(init=False)
    stake: float = 0.0
    """What the greedy policy promises over the reference, which is g(0)."""
    iterations: int = 0

    def __post_init__(self) -> None:
        self.worst_case = np.zeros(self.problem.factor.shape[1])
        self.atoms = [Atom(self.problem.reference, 0.0, np.zeros_like(self.worst_case))]
        self.best = [(1.0, self.atoms[0])]
        self.cut(self.worst_case)
        self.stake = max(self.upper, 0.0)

    @property
    def gap(self) -> float:
        return self.upper - self.lower

    @property
    def scale(self) -> float:
        """What the gap is compared with."""
        return max(self.upper, WORTHWHILE * self.stake)

    def cut(self, u: Real) -> None:
        """Find the best policy at u: an upper bound, and an atom."""
        policy = self.problem.best_response(u)
        value, gradient = self.problem.advantage(occupancy(self.problem.mdp, policy))
        found = value + float(gradient @ u)
        if found < self.upper:
            self.upper, self.worst_case = found, u
        self.iterations += 1
        self.atoms.append(Atom(policy, value, gradient))
        self.offer([(1.0, self.atoms[-1])])

    def offer(self, mixture: list[tuple[float, Atom]]) -> None:
        """Keep a mixture if it is the best so far."""
        value = sum(weight * atom.value for weight, atom in mixture)
        gradient = np.sum([weight * atom.gradient for weight, atom in mixture], axis=0)
        worth = self.problem.worth(value, gradient)
        if worth > self.lower:
            self.lower, self.best = worth, mixture

    def stopped(self) -> Reason | None:
        """Report, and say whether and why it is time to stop."""
        limits = self.limits
        if limits.progress is not None:
            limits.progress(PlanProgress(self.iterations, self.lower, max(self.upper, self.lower)))
        if self.gap <= max(limits.tolerance * self.scale, ROUNDING * self.problem.magnitude):
            return "tolerance"
        if self.iterations >= limits.max_iterations:
            return "iterations"
        if limits.deadline is not None and limits.clock is not None and limits.clock() >= limits.deadline:
            return "time"
        return None

    def mixture(self) -> Real:
        """The policy (H, S, A) of the best mixture."""
        if len(self.best) == 1:
            return stochastic(self.problem.mdp, self.best[0][1].policy)
        measure = np.zeros_like(self.problem.reference_measure)
        for weight, atom in self.best:
            measure += weight * occupancy(self.problem.mdp, atom.policy)
        return policy_of(measure, self.problem.reference)


def stochastic(mdp: FiniteHorizonMDP, policy: Int | Real) -> Real:
    """A policy (H, S) of actions, or one (H, S, A) already, as probabilities (H, S, A)."""
    if policy.ndim == 3:
        return np.asarray(policy, dtype=np.float64)
    probabilities = np.zeros((mdp.horizon, mdp.n_states, mdp.n_actions))
    np.put_along_axis(probabilities, policy[:, :, None].astype(np.int64), 1.0, axis=2)
    return probabilities
