"""The robust policy of one user, exact up to a certificate.

With rewards r = r_hat + L u, ||u|| <= beta, and the reference's occupancy d_ref (Liu et al. 2025, eq. (3.5)):

    max_d min_u <r_hat + L u, d - d_ref>  =  max_d <r_hat, d - d_ref> - beta ||L^T (d - d_ref)||.

The set of u may also be a level set of a loss (`app.policy.sets`), and L too large to be a matrix
(`app.policy.factors`). The dual minimises the convex g(u) = max_d <r_hat + L u, d - d_ref> over the set; each value
is one backward induction and brings a policy and the subgradient L^T (d - d_ref). A few cutting planes
(`app.policy.planes`) settle the easy cases and find the scale of the others, which Newton's method on the smoothed
dual finishes (`app.policy.smoothing`); what that leaves goes back to the cutting planes. With 100 states, 10 actions,
20 steps and q = 16 planes alone took up to 300 inductions, with Newton 10 to 60 (benchmarks/policy.py).

The lower bound is computed anew from the returned policy's own occupancy, the upper bound is the least g(u) seen: both
hold however the search went. The reference is a candidate, so the lower bound is never negative.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from app.policy.dynamics import Dynamics
from app.policy.factors import EXPLICIT, Factor, FullSpace, MatrixFactor, OwnFactor
from app.policy.mdp import FiniteHorizonMDP, Int, Real
from app.policy.planes import FEW, RECENT, cutting_planes, first_planes
from app.policy.search import Limits, PlanProgress, Problem, Reason, Search, stochastic
from app.policy.sets import LevelSet, UnitBall
from app.policy.smoothing import smoothed_newton

NEGLIGIBLE = 1e-12
"""Probability below which an action is an artefact of arithmetic, and never taken."""

SHY = 1e-9
"""Share by which an earlier worst case is drawn in, so that rounding does not put it outside the set."""


@dataclass(frozen=True, slots=True, eq=False)
class RobustPolicy:
    """A policy with its certificate; values are expected log-odds over the horizon, less the reference policy's."""

    policy: Real
    """(H, S, A); stochastic where the optimum is. Zeros in terminal states."""
    greedy: Int
    """(H, S) most probable action; -1 in terminal states."""
    occupancy: Real
    """(H, S, A)"""
    lower: float
    """What this policy is worth against the worst reward of the set."""
    upper: float
    """No policy is worth more against the worst reward of the set."""
    nominal: float
    """What this policy is worth at the estimated rewards."""
    beta: float
    """Radius of the set, in units of the factor; for a level set that of the ellipsoid which it is to second order."""
    worst_case: Real
    """(q,) the u of the set at which the upper bound was found: rewards that nearly nobody can do better against."""
    stake: float
    """What the greedy policy promises over the reference at the estimated rewards."""
    relative_gap: float
    """`gap` over the upper bound, or over a hundredth of the stake if that is more."""
    temperature: float
    """At which the smoothed dual was left, for the next request; 0 where it was not needed."""
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
    factor: Real | FullSpace,
    *,
    own: Real | None = None,
    beta: float | None = None,
    within: LevelSet | None = None,
    reference: Real | Literal["uniform"],
    tolerance: float = 1e-4,
    max_iterations: int = 500,
    time_budget_seconds: float | None = None,
    warm_start: "Real | RobustPolicy | None" = None,
    clock: Callable[[], float] | None = None,
    progress: Callable[[PlanProgress], None] | None = None,
) -> RobustPolicy:
    """Maximise the worst-case advantage over a reference policy (eq. (3.5)).

    The answer is stochastic in general: mixing can cancel uncertainty that no deterministic policy avoids.

    The confidence sets: an ellipsoid is `beta` and a factor of the covariance; a Frobenius ball in the subspace is
    its radius as `beta` and the rewards' derivatives in the adapter as factor; one in the full space is
    `FullSpace.of(mdp)`; a likelihood-ratio set is `within` (see `logistic_level_set`) and the rewards' derivatives
    as factor.

    Parameters
    ----------
    mdp
        Whose policies are searched.
    mean
        (S, A) estimated rewards, log-odds, or (H, S, A) where they differ by step.
    factor
        (S * A, q) or (H * S * A, q) factor of their covariance, L L^T, or their derivatives in what is uncertain; rows
        in C order of (S, A) or (H, S, A). Or the full space of reward parameters.
    own
        (S * A,) or (H * S * A,), like the factor's rows: standard errors that the rewards have beside it, independent
        of each other; they are columns of L, which are never formed.
    beta
        Radius of the ball in units of `factor`; 0 plans for the mean alone, by plain backward induction. Either this or
        `within` is given.
    within
        A set of u other than the ball.
    reference
        (S, A) or (H, S, A) probabilities, or "uniform".
    tolerance
        Relative gap (see `RobustPolicy.relative_gap`) at which the answer counts as converged.
    max_iterations
        Backward inductions after which the best certified policy so far is returned.
    time_budget_seconds
        With `clock`: stop after this long with the best certified policy so far.
    warm_start
        The answer to the user's last request, whatever has changed since: its policy is a candidate and its worst case
        the first guess. Or an earlier answer's `worst_case` (q,) alone.
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
    _check_limits(beta, within, tolerance, max_iterations)
    deadline = None if clock is None or time_budget_seconds is None else clock() + time_budget_seconds
    radius = beta if beta is not None else 1.0
    dynamics = Dynamics.of(mdp)
    means = _checked_mean(mdp, mean)
    scaled = _with_own(_checked_factor(mdp, factor, radius), own, radius)
    reference_policy = mdp.uniform_policy() if isinstance(reference, str) else mdp.policy(reference)
    visits, _ = dynamics.spread(reference_policy, max(len(means), scaled.steps))
    problem = Problem(dynamics, means, scaled, within or UnitBall(), reference_policy, visits)
    search = Search(problem, Limits(tolerance, max_iterations, deadline, clock, progress))
    shown = within.radius if within is not None else radius
    if radius == 0.0 or not _uncertain(scaled):
        return _nominal(search, problem, shown, radius)
    start = _start(search, problem, warm_start, radius)
    before = warm_start.temperature if isinstance(warm_start, RobustPolicy) else 0.0
    return _certified(search, problem, shown, radius, _run(search, problem, start, before))


def _run(search: Search, problem: Problem, start: Real, before: float) -> Reason:
    """Search from `start`; `before` is the temperature at which an earlier search ended, or 0."""
    planes = isinstance(problem.within, UnitBall)
    reason, u = first_planes(search, start, FEW if before == 0.0 else RECENT) if planes else (None, start)
    if reason is None:
        reason, u = smoothed_newton(search, problem, u if before == 0.0 else start, before)
    if reason is None and planes:
        reason = cutting_planes(search, u)
    return reason or "precision"


def _check_limits(beta: float | None, within: LevelSet | None, tolerance: float, max_iterations: int) -> None:
    if (beta is None) == (within is None):
        raise ValueError("beta: either it or `within` must be given, and not both.")
    if beta is not None and not 0 <= beta < np.inf:
        raise ValueError(f"beta: it is {beta}; it must be a finite number, 0 or more.")
    if not tolerance > 0:
        raise ValueError(f"tolerance: it is {tolerance}; it must be more than 0.")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: it is {max_iterations}; it must be at least 1.")


def _checked_mean(mdp: FiniteHorizonMDP, mean: Real) -> Real:
    """Check the mean and return it as (1 or H, S * A)."""
    shape = (mdp.horizon, mdp.n_states, mdp.n_actions)
    if mean.shape not in {shape, shape[1:]}:
        raise ValueError(f"mean: its shape is {mean.shape}; it must be {shape[1:]} or {shape}.")
    means = np.ascontiguousarray(mean, dtype=np.float64).reshape(-1, mdp.n_states * mdp.n_actions)
    _check_finite("mean", means, mdp)
    return means


def _checked_factor(mdp: FiniteHorizonMDP, factor: Real | FullSpace, radius: float) -> Factor:
    pairs = mdp.n_states * mdp.n_actions
    if isinstance(factor, FullSpace):
        if factor.shape != (mdp.n_states, mdp.n_actions):
            raise ValueError(f"factor: it is for {factor.shape} states and actions, not {mdp.n_states, mdp.n_actions}.")
        if factor.steps not in {1, mdp.horizon}:
            raise ValueError(f"factor: it is for {factor.steps} steps; the horizon is {mdp.horizon}.")
        scaled = replace(factor, scale=factor.scale * radius)
        return MatrixFactor(scaled.as_matrix(), scaled.steps) if factor.dimension <= EXPLICIT else scaled
    if factor.ndim != 2 or factor.shape[0] not in {pairs, mdp.horizon * pairs}:
        raise ValueError(f"factor: its shape is {factor.shape}; it must be ({pairs}, q) or ({mdp.horizon * pairs}, q).")
    _check_finite("factor", factor, mdp)
    return MatrixFactor(radius * np.ascontiguousarray(factor, dtype=np.float64), factor.shape[0] // pairs)


def _with_own(factor: Factor, own: Real | None, radius: float) -> Factor:
    if own is None or not own.any():
        return factor
    if not isinstance(factor, MatrixFactor) or own.shape != factor.table.shape[:1]:
        raise ValueError(f"own: its shape is {own.shape}; it must be one entry a row of a factor that is a matrix.")
    if not np.isfinite(own).all() or own.min() < 0:
        raise ValueError("own: every entry must be a finite number, 0 or more.")
    if factor.dimension + len(own) <= EXPLICIT:
        return MatrixFactor(np.hstack([factor.table, np.diag(radius * own)]), factor.steps)
    return OwnFactor(factor.table, radius * own, factor.steps)


def _check_finite(name: str, values: Real, mdp: FiniteHorizonMDP) -> None:
    if np.isfinite(values).all():
        return
    pairs = mdp.n_states * mdp.n_actions
    rows = values.reshape(-1, 1) if name == "mean" else values
    step, pair = divmod(int(np.argwhere(~np.isfinite(rows))[0, 0]), pairs)
    state, action = divmod(pair, mdp.n_actions)
    at = f", step {step}" if len(rows) > pairs else ""
    raise ValueError(f"{name}: the entry of state {state}, action {action}{at} is not a finite number.")


def _uncertain(factor: Factor) -> bool:
    return not isinstance(factor, MatrixFactor) or bool(factor.table.any())


def _start(search: Search, problem: Problem, given: "Real | RobustPolicy | None", radius: float) -> Real:
    """A point strictly inside, whatever was given; an earlier policy becomes a candidate, its worst case a bound."""
    if isinstance(given, RobustPolicy):
        if given.policy.shape == problem.dynamics.shape and _possible(problem, given.policy):
            search.atoms.append(problem.given(given.policy))
            search.offer([(1.0, search.atoms[-1])])
        given = given.worst_case
    q = problem.factor.dimension
    if given is None or given.shape != (q,) or not np.isfinite(given).all():
        return np.zeros(q)
    u = np.asarray((1.0 - SHY) * given / radius)
    start = problem.within.inside(u)
    search.cut(u if problem.within.room(u) >= 0.0 else start)
    return start


def _possible(problem: Problem, policy: Real) -> bool:
    """Whether an earlier policy, perhaps of another MDP, is one of this MDP."""
    acting = policy.sum(axis=2) > 0
    allowed = problem.dynamics.allowed.reshape(-1, policy.shape[2])
    if not len(allowed):
        return bool(acting.all())
    return not policy[:, allowed == 0].any() and bool((acting == (allowed.any(axis=1))).all())


def _nominal(search: Search, problem: Problem, shown: float, radius: float) -> RobustPolicy:
    """Without uncertainty the best response is the answer, exactly."""
    value = search.stake
    policy = stochastic(problem.best_response(search.worst_case), problem.dynamics.shape[2])
    return _answer(search, problem, (shown, radius), policy, (value, value), "tolerance")


def _certified(search: Search, problem: Problem, shown: float, radius: float, reason: Reason) -> RobustPolicy:
    """Certify the very policy that is returned."""
    policy = _cleared(problem.mixed(search.best))
    value, gradient = problem.advantage(problem.dynamics.spread(policy, problem.steps)[0])
    lower = problem.worth(value, gradient)
    if lower < 0:
        return _answer(search, problem, (shown, radius), problem.reference, (0.0, 0.0), reason)
    return _answer(search, problem, (shown, radius), policy, (lower, value), reason)


def _cleared(policy: Real) -> Real:
    """Set probabilities that are an artefact of arithmetic to 0."""
    policy = np.where(policy < NEGLIGIBLE, 0.0, policy)
    totals = policy.sum(axis=2, keepdims=True)
    np.divide(policy, totals, out=policy, where=totals > 0)
    return policy


def _answer(
    search: Search,
    problem: Problem,
    radii: tuple[float, float],
    policy: Real,
    values: tuple[float, float],
    reason: Reason,
) -> RobustPolicy:
    lower, nominal = values
    upper = max(search.upper, lower)
    gap = upper - lower
    _, present = problem.dynamics.spread(policy, 1)
    greedy = policy.argmax(axis=2)
    greedy[policy.max(axis=2) == 0.0] = -1
    return RobustPolicy(
        policy=policy,
        greedy=greedy,
        occupancy=present[:, :, None] * policy,
        lower=lower,
        upper=upper,
        nominal=nominal,
        beta=radii[0],
        worst_case=radii[1] * search.worst_case,
        stake=search.stake,
        relative_gap=gap / search.scale if gap > 0 else 0.0,
        temperature=search.temperature,
        iterations=search.iterations,
        converged=reason == "tolerance",
        reason=reason,
    )
