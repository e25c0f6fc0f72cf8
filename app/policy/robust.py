"""The robust policy of one user, exact up to a certificate.

With rewards r = r_hat + L u, ||u|| <= beta, and the reference's occupancy d_ref (Liu et al. 2025, eq. (3.5)):

    max_d min_u <r_hat + L u, d - d_ref>  =  max_d <r_hat, d - d_ref> - beta ||L^T (d - d_ref)||.

The dual minimises the convex g(u) = max_d <r_hat + L u, d - d_ref> over the ball; each value is one backward
induction and brings a policy and the subgradient L^T (d - d_ref). A few cutting planes (`app.policy.planes`) settle the
easy cases and find the scale of the others, which Newton's method on the smoothed dual finishes
(`app.policy.smoothing`); what that leaves goes back to the cutting planes. With 100 states, 10 actions, 20 steps and
q = 16 planes alone took up to 320 inductions, Newton some 50 (benchmarks/policy.py).

The lower bound is computed anew from the returned policy's own occupancy, the upper bound is the least g(u) seen: both
hold however the search went. The reference is a candidate, so the lower bound is never negative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.policy.mdp import FiniteHorizonMDP, Int, Real
from app.policy.occupancy import occupancy
from app.policy.planes import cutting_planes
from app.policy.search import Limits, PlanProgress, Problem, Reason, Search, stochastic
from app.policy.smoothing import smoothed_newton

FIRST_PLANES = 6
"""Cutting planes before Newton's method: small radii need no more."""

NEGLIGIBLE = 1e-12
"""Probability below which an action is an artefact of arithmetic, and never taken."""

INSIDE = 0.95
"""Share of the radius to which a start is drawn in: barriers are infinite at the rim."""


@dataclass(frozen=True, slots=True, eq=False)
class RobustPolicy:
    """A policy with its certificate; values are expected log-odds over the horizon, less the reference policy's."""

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
    """(q,) the u, of length beta at most, at which the upper bound was found; a start for the next request."""
    stake: float
    """What the greedy policy promises over the reference at the estimated rewards."""
    relative_gap: float
    """`gap` over the upper bound, or over a hundredth of the stake if that is more."""
    iterations: int
    """Backward inductions."""
    converged: bool
    reason: Reason
    """"tolerance": as asked; "precision": floating point allows no better; else the limit that ended the search."""

    @property
    def gap(self) -> float:
        return self.upper - self.lower


def robust_policy(
    mdp: FiniteHorizonMDP,
    mean: Real,
    factor: Real,
    *,
    beta: float,
    reference: Real | Literal["uniform"],
    tolerance: float = 1e-4,
    max_iterations: int = 500,
    time_budget_seconds: float | None = None,
    warm_start: Real | None = None,
    clock: Callable[[], float] | None = None,
    progress: Callable[[PlanProgress], None] | None = None,
) -> RobustPolicy:
    """Maximise the worst-case advantage over a reference policy (eq. (3.5)).

    The answer is stochastic in general: mixing can cancel uncertainty that no deterministic policy avoids.

    Parameters
    ----------
    mdp
        Whose policies are searched.
    mean
        (S, A) estimated rewards, log-odds.
    factor
        (S * A, q) factor of their covariance, L L^T; rows in C order of (S, A).
    beta
        Radius of the confidence ellipsoid in units of `factor`; 0 plans for the mean alone, by plain backward
        induction.
    reference
        (S, A) or (H, S, A) probabilities, or "uniform".
    tolerance
        Relative gap (see `RobustPolicy.relative_gap`) at which the answer counts as converged.
    max_iterations
        Backward inductions after which the best certified policy so far is returned.
    time_budget_seconds
        With `clock`: stop after this long with the best certified policy so far.
    warm_start
        (q,) an earlier answer's `worst_case`.
    clock
        Seconds, from any origin.
    progress
        Called after every few inductions; what it raises passes through.

    Raises
    ------
    InvalidMdpError
        The reference is not a policy of this MDP.
    ValueError
        Shapes that do not fit, numbers that are not finite, or limits out of range.
    """
    _check(mdp, mean, factor, beta, tolerance, max_iterations)
    reference_policy = mdp.uniform_policy() if isinstance(reference, str) else mdp.policy(reference)
    measure = occupancy(mdp, reference_policy)
    problem = Problem(mdp, mean.ravel(), beta * factor, reference_policy, measure)
    deadline = None if clock is None or time_budget_seconds is None else clock() + time_budget_seconds
    search = Search(problem, Limits(tolerance, max_iterations, deadline, clock, progress))
    if not problem.factor.any():
        return _nominal(search, beta)
    return _certified(search, beta, _run(search, _start(warm_start, beta, factor.shape[1])))


def _run(search: Search, start: Real) -> Reason:
    reason, u = cutting_planes(search, start, atoms=FIRST_PLANES)
    if reason is None:
        reason, u = smoothed_newton(search, u)
    if reason is None:
        reason, _ = cutting_planes(search, u)
    return reason or "precision"


def _check(mdp: FiniteHorizonMDP, mean: Real, factor: Real, beta: float, tolerance: float, max_iterations: int) -> None:
    if mean.shape != (mdp.n_states, mdp.n_actions):
        raise ValueError(f"mean: its shape is {mean.shape}; it must be {(mdp.n_states, mdp.n_actions)}.")
    if factor.ndim != 2 or factor.shape[0] != mean.size:
        raise ValueError(f"factor: its shape is {factor.shape}; it must be ({mean.size}, q).")
    for name, values in (("mean", mean), ("factor", factor)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values.reshape(mean.size, -1)))[0, 0])
            state, action = divmod(row, mdp.n_actions)
            raise ValueError(f"{name}: the entry of state {state}, action {action} is not a finite number.")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta: it is {beta}; it must be a finite number, 0 or more.")
    if not tolerance > 0:
        raise ValueError(f"tolerance: it is {tolerance}; it must be more than 0.")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: it is {max_iterations}; it must be at least 1.")


def _start(warm_start: Real | None, beta: float, q: int) -> Real:
    """A point well inside the unit ball, whatever was given."""
    if warm_start is None or warm_start.shape != (q,) or not np.isfinite(warm_start).all():
        return np.zeros(q)
    u = warm_start / beta
    return np.asarray(u * min(1.0, INSIDE / max(float(np.linalg.norm(u)), INSIDE)))


def _nominal(search: Search, beta: float) -> RobustPolicy:
    """Without uncertainty the best response is the answer, exactly."""
    policy = search.problem.best_response(search.worst_case)
    value = search.stake
    return _answer(search, beta, stochastic(search.problem.mdp, policy), value, value, "tolerance")


def _certified(search: Search, beta: float, reason: Reason) -> RobustPolicy:
    """Certify the very policy that is returned."""
    problem = search.problem
    policy = _cleared(search.mixture())
    value, gradient = problem.advantage(occupancy(problem.mdp, policy))
    lower = problem.worth(value, gradient)
    if lower < 0:
        return _answer(search, beta, problem.reference, 0.0, 0.0, reason)
    return _answer(search, beta, policy, lower, value, reason)


def _cleared(policy: Real) -> Real:
    kept = np.where(policy < NEGLIGIBLE, 0.0, policy)
    return np.asarray(kept / kept.sum(axis=2, keepdims=True))


def _answer(search: Search, beta: float, policy: Real, lower: float, nominal: float, reason: Reason) -> RobustPolicy:
    upper = max(search.upper, lower)
    gap = upper - lower
    return RobustPolicy(
        policy=policy,
        greedy=policy.argmax(axis=2),
        occupancy=occupancy(search.problem.mdp, policy),
        lower=lower,
        upper=upper,
        nominal=nominal,
        beta=beta,
        worst_case=beta * search.worst_case,
        stake=search.stake,
        relative_gap=gap / search.scale if gap > 0 else 0.0,
        iterations=search.iterations,
        converged=reason == "tolerance",
        reason=reason,
    )
