"""What a search for the robust policy knows: the problem, the policies found, and the bounds they prove.

Symbols: r_hat is the mean of the rewards and L their factor, times the radius where the set C of u is the unit ball;
d - d_ref is a policy's occupancy less the reference's; an atom is a policy with its a = <r_hat, d - d_ref> and q =
L^T (d - d_ref). A mixture of atoms is worth a + min_{u in C} q . u (a - ||q|| for the ball), which is a lower bound
of the optimum; g(u) = max_d <r_hat + L u, d - d_ref>, u in C, is an upper bound.

An atom keeps where its policy was best (u, and the temperature), not the policy: that is one induction away, and a
hundred policies of a large MDP would not fit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from app.policy.dynamics import Actions, Dynamics
from app.policy.factors import Factor
from app.policy.mdp import Real
from app.policy.occupancy import policy_of
from app.policy.sets import ConfidenceSet

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


class Maximiser(Protocol):
    """What a search asks of the problem: a policy, or a slate, that is best at u."""

    @property
    def factor(self) -> Factor:
        """How rewards depend on u."""

    @property
    def magnitude(self) -> float:
        """Largest expected sum of rewards there can be, for judging rounding."""

    def atom(self, u: Real) -> "Atom":
        """Return what is best at u."""

    def worth(self, value: float, gradient: Real) -> float:
        """Return the least that a mixture of atoms is worth."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    dynamics: Dynamics
    mean: Real
    """(1 or H, S * A)"""
    factor: Factor
    within: ConfidenceSet
    reference: Real
    """(H, S, A)"""
    reference_visits: Real
    """(R, S * A), R = `steps`"""

    @property
    def steps(self) -> int:
        """1 where rewards are the same at every step, else H."""
        return max(len(self.mean), self.factor.steps)

    def rewards(self, u: Real) -> Real:
        """(R, S * A) at a point of the set."""
        return np.asarray(self.mean + self.factor.rewards(u))

    def best_response(self, u: Real) -> Actions:
        return self.dynamics.induce(self.rewards(u))

    def atom(self, u: Real) -> "Atom":
        """The best policy at u."""
        value, gradient = self.advantage(self.dynamics.follow(self.best_response(u), self.steps))
        return Atom(u, 0.0, value, gradient)

    @property
    def magnitude(self) -> float:
        """Largest expected sum of rewards there can be, for judging rounding."""
        return self.dynamics.shape[0] * float(np.abs(self.mean).max())

    def advantage(self, visits: Real) -> tuple[float, Real]:
        """<r_hat, d - d_ref> and L^T (d - d_ref) of a policy that visits states and actions so often, (R, S * A)."""
        change = visits - self.reference_visits
        return float((self.mean * change).sum()), self.factor.gradient(change)

    def worth(self, value: float, gradient: Real) -> float:
        return value + self.within.worst(gradient)

    def given(self, policy: Real) -> "Atom":
        """Any policy (H, S, A)."""
        visits, _ = self.dynamics.spread(policy, self.steps)
        return Atom(None, 0.0, *self.advantage(visits), policy)

    def policy(self, atom: "Atom") -> Real:
        """The policy (H, S, A) of an atom, found again."""
        if atom.u is None:
            return self.reference if atom.policy is None else atom.policy
        if atom.temperature == 0.0:
            return stochastic(self.best_response(atom.u), self.dynamics.shape[2])
        policy = np.empty(self.dynamics.shape)
        self.dynamics.soften(self.rewards(atom.u), atom.temperature, policy)
        return policy

    def add_occupancy(self, atom: "Atom", weight: float, measure: Real) -> None:
        """Add `weight` times that of an atom to measure (H, S, A)."""
        if atom.u is not None and atom.temperature == 0.0:
            self.dynamics.collect(self.best_response(atom.u), weight, measure)
        else:
            policy = self.policy(atom)
            _, present = self.dynamics.spread(policy, 1)
            for step, often in enumerate(present):
                measure[step] += (weight * often)[:, None] * policy[step]

    def mixed(self, mixture: list[tuple[float, "Atom"]]) -> Real:
        """The policy (H, S, A) of a mixture of atoms."""
        if len(mixture) == 1:
            return self.policy(mixture[0][1])
        measure = np.zeros(self.dynamics.shape)
        for weight, atom in mixture:
            self.add_occupancy(atom, weight, measure)
        return policy_of(measure, self.reference)


@dataclass(frozen=True, slots=True)
class Limits:
    tolerance: float
    max_iterations: int
    deadline: float | None
    clock: Callable[[], float] | None
    progress: Callable[[PlanProgress], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    u: Real | None
    """(q,) where its policy is best; or nothing, and the policy itself."""
    temperature: float
    value: float
    gradient: Real
    """(q,)"""
    policy: Real | None = None
    """(H, S, A)"""


@dataclass(slots=True, eq=False)
class Search:
    """Grows by atoms, of which the first is the reference, worth exactly 0; its bounds only tighten."""

    problem: Maximiser
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
    temperature: float = 0.0
    """At which the dual was smoothed last."""

    def __post_init__(self) -> None:
        self.worst_case = np.zeros(self.problem.factor.dimension)
        self.atoms = [Atom(None, 0.0, 0.0, np.zeros_like(self.worst_case))]
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
        atom = self.problem.atom(u)
        found = atom.value + float(atom.gradient @ u)
        if found < self.upper:
            self.upper, self.worst_case = found, u
        self.iterations += 1
        self.atoms.append(atom)
        self.offer([(1.0, atom)])

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
        return "time" if self.late() else None

    def late(self) -> bool:
        """Whether the time is up; long steps ask for themselves."""
        limits = self.limits
        return limits.deadline is not None and limits.clock is not None and limits.clock() >= limits.deadline


def stochastic(policy: Actions, n_actions: int) -> Real:
    """A policy of actions (H, S) as probabilities (H, S, A); zeros in terminal states."""
    probabilities = np.zeros((*policy.shape, n_actions))
    np.put_along_axis(probabilities, np.maximum(policy, 0)[:, :, None].astype(np.int64), 1.0, axis=2)
    probabilities[policy < 0] = 0.0
    return probabilities
