"""The robust policy of one user, exact up to a certificate.

With rewards r = r_hat + L u, ||u|| <= beta, and the reference's occupancy d_ref (Liu et al. 2025, eq. (3.5)):

    max_d min_u <r_hat + L u, d - d_ref>  =  max_d <r_hat, d - d_ref> - beta ||L^T (d - d_ref)||.

The dual minimises the convex g(u) = max_d <r_hat + L u, d - d_ref> over the ball; each value is one backward induction and
brings an atom: a policy with a = <r_hat, d - d_ref> and the subgradient q = L^T (d - d_ref). The restricted problem over the
atoms,

    min_{u, t} t  subject to  a_i + q_i . u <= t,  ||u|| <= beta,

is followed along its central path (`app.policy.master`) and left early while the gap is large, so that the next u is
well inside: that stabilises the cutting planes. Its multipliers mix the atoms to a primal policy. The lower bound is computed
anew from the returned policy's own occupancy, the upper bound is the least g(u) seen: both hold however the master did.
The reference is an atom (a = 0, q = 0), so the lower bound is never negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.policy.induction import backward_induction
from app.policy.master import Restricted, central_point
from app.policy.mdp import FiniteHorizonMDP, Int, Real
from app.policy.occupancy import occupancy, policy_of

Reason = Literal["tolerance", "iterations", "time", "progress"]

NEGLIGIBLE_WEIGHT = 1e-10
"""Atoms below this share of the mixture are left out of the policy; the certificate is computed after that."""

CENTRAL_SHARE = 0.1
"""The master is solved to this share of the present gap: exact enough to make progress, central enough to be stable."""

ROUNDING = 1e-12
"""Relative gap below which floating point says nothing more."""


@dataclass(frozen=True, slots=True, eq=False)
class RobustPolicy:
    """A policy with its certificate; values are expected log-odds over the horizon, relative to the reference policy."""

    policy: Real
    """(H, S, A); stochastic where the optimum is."""
    greedy: Int
    """(H, S) most probable action."""
    occupancy: Real
    """(H, S, A)"""
    lower: float
    """What this policy is worth against the worst reward of the set."""
    upper: float
    """No policy is worth more against the worst reward of the set."""
    nominal: float
    """What this policy is worth at the estimated rewards."""
    beta: float
    worst_case: Real
    """(q,) the u at which the upper bound was found; a start for the next request."""
    iterations: int
    """Backward inductions."""
    converged: bool
    reason: Reason

    @property
    def gap(self) -> float:
        return self.upper - self.lower

    @property
    def relative_gap(self) -> float:
        return self.gap / max(abs(self.upper), abs(self.nominal), ROUNDING)


@dataclass(slots=True)
class _Search:
    """The state of the cutting planes: atoms found, bounds, and the best of each."""

    atoms: list[Int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    gradients: list[Real] = field(default_factory=list)
    upper: float = np.inf
    worst_case: Real = field(default_factory=lambda: np.empty(0))
    lower: float = 0.0
    weights: Real = field(default_factory=lambda: np.empty(0))
    scale: float = 1e-300


def robust_policy(
    mdp: FiniteHorizonMDP,
    mean: Real,
    factor: Real,
    *,
    beta: float,
    reference: Real,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
    time_budget_seconds: float | None = None,
    warm_start: Real | None = None,
    clock: Callable[[], float] | None = None,
) -> RobustPolicy:
    """Maximise the worst-case advantage over a reference policy (eq. (3.5)) to a relative gap of `tolerance`.

    Parameters
    ----------
    mean
        (S, A) estimated rewards, log-odds.
    factor
        (S * A, q) factor of their covariance, L L^T; rows in C order of (S, A).
    beta
        Radius of the confidence ellipsoid in units of `factor`; 0 plans for the mean alone.
    reference
        (S, A) or (H, S, A) probabilities.
    time_budget_seconds
        With `clock`: stop after this long with the best certified policy so far.
    warm_start
        (q,) an earlier answer's `worst_case`.

    Raises
    ------
    InvalidMdpError
        The reference is not a policy of this MDP.
    ValueError
        Shapes that do not fit, or a negative `beta`.
    """
    _check(mdp, mean, factor, beta)
    reference_policy = mdp.policy(reference)
    reference_visits = occupancy(mdp, reference_policy).sum(axis=0).ravel()
    problem = _Problem(mdp, mean.ravel(), factor, beta, reference_visits)
    if beta == 0 or factor.shape[1] == 0 or not factor.any():
        return _nominal(problem, reference_policy)
    deadline = None if clock is None or time_budget_seconds is None else clock() + time_budget_seconds
    search, reason = _cutting_planes(problem, tolerance, max_iterations, warm_start, deadline, clock)
    return _finish(problem, search, reference_policy, tolerance, reason)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    mdp: FiniteHorizonMDP
    mean: Real
    factor: Real
    beta: float
    reference_visits: Real

    def best_response(self, u: Real) -> Int:
        rewards = (self.mean + self.factor @ u).reshape(self.mdp.n_states, self.mdp.n_actions)
        return backward_induction(self.mdp, rewards).policy

    def advantage(self, measure: Real) -> tuple[float, Real]:
        """<r_hat, d - d_ref> and L^T (d - d_ref)."""
        difference = measure.sum(axis=0).ravel() - self.reference_visits
        return float(self.mean @ difference), difference @ self.factor

    def worth(self, value: float, gradient: Real) -> float:
        return value - self.beta * float(np.linalg.norm(gradient))


def _check(mdp: FiniteHorizonMDP, mean: Real, factor: Real, beta: float) -> None:
    if mean.shape != (mdp.n_states, mdp.n_actions):
        raise ValueError(f"mean: its shape is {mean.shape}; it must be {(mdp.n_states, mdp.n_actions)}.")
    if factor.ndim != 2 or factor.shape[0] != mean.size:
        raise ValueError(f"factor: its shape is {factor.shape}; it must be ({mean.size}, q).")
    if not beta >= 0:
        raise ValueError(f"beta: it is {beta}; it must not be negative.")


def _nominal(problem: _Problem, reference: Real) -> RobustPolicy:
    """Without uncertainty the best response is the answer, exactly."""
    policy = problem.best_response(np.zeros(problem.factor.shape[1]))
    measure = occupancy(problem.mdp, policy)
    value, _ = problem.advantage(measure)
    return RobustPolicy(
        policy=np.eye(problem.mdp.n_actions)[policy],
        greedy=policy,
        occupancy=measure,
        lower=value,
        upper=value,
        nominal=value,
        beta=problem.beta,
        worst_case=np.zeros(problem.factor.shape[1]),
        iterations=1,
        converged=True,
        reason="tolerance",
    )


def _cutting_planes(
    problem: _Problem,
    tolerance: float,
    max_iterations: int,
    warm_start: Real | None,
    deadline: float | None,
    clock: Callable[[], float] | None,
) -> tuple[_Search, Reason]:
    search = _Search()
    u = _inside(warm_start, problem)
    for _ in range(max_iterations):
        _add_atom(problem, search, u)
        restricted = Restricted(
            np.array([0.0, *search.values]), np.vstack([np.zeros_like(u), *search.gradients]), problem.beta
        )
        gap = search.upper - search.lower
        for share in (CENTRAL_SHARE, CENTRAL_SHARE**2):
            point = central_point(restricted, u, accuracy=share * max(gap, ROUNDING * search.scale))
            mixed = problem.worth(float(point.weights @ restricted.values), point.weights @ restricted.gradients)
            if mixed > search.lower:
                search.lower, search.weights = mixed, point.weights
            if search.upper - search.lower < gap * (1 - CENTRAL_SHARE) or restricted.values.size < 3:
                break
        u = point.u
        gap = search.upper - search.lower
        if gap <= tolerance * max(abs(search.upper), ROUNDING * search.scale):
            return search, "tolerance"
        if gap <= ROUNDING * search.scale:
            return search, "tolerance"
        if deadline is not None and clock is not None and clock() >= deadline:
            return search, "time"
    return search, "iterations"


def _inside(warm_start: Real | None, problem: _Problem) -> Real:
    """A point well inside the ball, whatever the start."""
    q = problem.factor.shape[1]
    if warm_start is None or warm_start.shape != (q,):
        return np.zeros(q)
    length = float(np.linalg.norm(warm_start))
    return warm_start * min(1.0, 0.95 * problem.beta / length) if length > 0 else np.zeros(q)


def _add_atom(problem: _Problem, search: _Search, u: Real) -> None:
    policy = problem.best_response(u)
    value, gradient = problem.advantage(occupancy(problem.mdp, policy))
    found = value + float(gradient @ u)
    if found < search.upper:
        search.upper, search.worst_case = found, u
    search.atoms.append(policy)
    search.values.append(value)
    search.gradients.append(gradient)
    search.scale = max(search.scale, abs(value), problem.beta * float(np.linalg.norm(gradient)))


def _finish(problem: _Problem, search: _Search, reference: Real, tolerance: float, reason: Reason) -> RobustPolicy:
    """Mix the atoms to a policy and certify that very policy."""
    measure = _mixture(problem, search, reference)
    policy = policy_of(measure, reference)
    exact = occupancy(problem.mdp, policy)
    value, gradient = problem.advantage(exact)
    lower = problem.worth(value, gradient)
    if lower < 0:
        policy, exact, value, lower = reference, occupancy(problem.mdp, reference), 0.0, 0.0
    upper = max(search.upper, lower)
    return RobustPolicy(
        policy=policy,
        greedy=policy.argmax(axis=2),
        occupancy=exact,
        lower=lower,
        upper=upper,
        nominal=value,
        beta=problem.beta,
        worst_case=search.worst_case,
        iterations=len(search.atoms),
        converged=reason == "tolerance",
        reason=reason,
    )


def _mixture(problem: _Problem, search: _Search, reference: Real) -> Real:
    """The occupancy of the mixture; weight 0 belongs to the reference, later atoms may have come after the weights."""
    reference_measure = occupancy(problem.mdp, reference)
    if search.weights.size == 0:
        return reference_measure
    kept: Sequence[int] = [int(i) for i in np.flatnonzero(search.weights > NEGLIGIBLE_WEIGHT)]
    total = float(search.weights[list(kept)].sum())
    measure = np.zeros_like(reference_measure)
    for i in kept:
        atom = reference_measure if i == 0 else occupancy(problem.mdp, search.atoms[i - 1])
        measure += (search.weights[i] / total) * atom
    return measure
