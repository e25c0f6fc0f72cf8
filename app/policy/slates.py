"""Robust choices of several items at once, each worth its own reward: the planner with one step and m picks.

A slate is worth the mean reward of its m items. Mixtures of slates are the d with 0 <= d(i) <= 1 / m and sum 1, so that

    max_d min_{||u|| <= beta} <r_hat + L u, d - d_ref>

is the planner's problem (`app.policy.search`) with another best response: the m best items at u. With several
contexts a slate is chosen in each, and the set's worst reward is one and the same for all contexts, which come with
given probabilities: caution is over their distribution. Caution in each context by itself is a call a context.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.policy.factors import MatrixFactor
from app.policy.mdp import Int, Real
from app.policy.planes import cutting_planes
from app.policy.search import Atom, Limits, Reason, Search
from app.policy.sets import UnitBall

PROBABILITY_TOLERANCE = 1e-9
"""How far a distribution's sum may be from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class RobustSlate:
    """Slates with a certificate; values are the mean reward of a slate's items, in log-odds, less the reference's."""

    slates: Int
    """(n, C, m) items, the best first: each to be shown with its weight as probability."""
    weights: Real
    """(n,) What they lack to 1 is the share of the reference: all, where nothing is certain to be better."""
    inclusion: Real
    """(C, M) the probability that an item is shown, over m."""
    lower: float
    """What the mixture is worth against the worst reward of the set."""
    upper: float
    """No mixture of slates is worth more against the worst reward of the set."""
    nominal: float
    """What the mixture is worth at the estimated rewards."""
    best: Int
    """(C, m) the one slate of the mixture that is worth most against the worst reward."""
    best_lower: float
    """What it is worth if it is always shown; less than `lower` where mixing cancels uncertainty."""
    worst_case: Real
    """(q,) the u at which the upper bound was found; a start for the next request."""
    iterations: int
    converged: bool
    reason: Reason

    @property
    def gap(self) -> float:
        return self.upper - self.lower


def robust_slate(
    mean: Real,
    factor: Real,
    *,
    size: int,
    beta: float,
    reference: Real | Literal["uniform"] = "uniform",
    contexts: Real | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 2000,
    time_budget_seconds: float | None = None,
    warm_start: Real | None = None,
    clock: Callable[[], float] | None = None,
) -> RobustSlate:
    """Choose m items, so that the worst reward of the ellipsoid does least harm.

    Parameters
    ----------
    mean
        (M,) estimated rewards, or (C, M) in C contexts.
    factor
        (M, q) factor of their covariance, or (C * M, q).
    size
        m, from 1 to M. With 1 it is `robust_policy` of a bandit.
    beta
        Radius of the ellipsoid.
    reference
        (M,) or (C, M) the probability that the reference shows an item, over m; rows sum to 1, no entry is above 1 / m.
    contexts
        (C,) their probabilities; uniform by default.
    tolerance, max_iterations, time_budget_seconds, clock, warm_start
        As for `robust_policy`.

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers that are not finite, or limits out of range.
    """
    problem = _problem(mean, factor, size, beta, reference, contexts)
    if not tolerance > 0 or max_iterations < 1:
        raise ValueError(
            f"tolerance, max_iterations: they are {tolerance} and {max_iterations}; both must be positive."
        )
    deadline = None if clock is None or time_budget_seconds is None else clock() + time_budget_seconds
    search = Search(problem, Limits(tolerance, max_iterations, deadline, clock, None))
    start = np.zeros(factor.shape[1])
    if warm_start is not None and warm_start.shape == start.shape and np.isfinite(warm_start).all() and beta > 0:
        start = problem.within.inside(warm_start / beta)
    reason: Reason | None = "tolerance"
    if problem.factor.table.any():
        reason = cutting_planes(search, start)
    else:
        search.offer([(1.0, search.atoms[-1])])
    return _answer(search, problem, beta, reason or "precision")


@dataclass(frozen=True, slots=True, eq=False)
class _SlateProblem:
    mean: Real
    """(C, M)"""
    factor: MatrixFactor
    contexts: Real
    """(C,)"""
    size: int
    reference: Real
    """(C, M)"""
    within: UnitBall

    @property
    def magnitude(self) -> float:
        return float(np.abs(self.mean).max())

    def slates(self, u: Real) -> Int:
        """(C, m) best items at u, the best first."""
        rewards = self.mean + self.factor.rewards(u).reshape(self.mean.shape)
        top = np.argpartition(-rewards, self.size - 1, axis=1)[:, : self.size]
        order = np.argsort(-np.take_along_axis(rewards, top, axis=1), axis=1, kind="stable")
        return np.take_along_axis(top, order, axis=1)

    def inclusion(self, slates: Int) -> Real:
        shown = np.zeros_like(self.mean)
        np.put_along_axis(shown, slates, 1.0 / self.size, axis=1)
        return shown

    def advantage(self, inclusion: Real) -> tuple[float, Real]:
        change = self.contexts[:, None] * (inclusion - self.reference)
        return float((self.mean * change).sum()), self.factor.gradient(change.reshape(1, -1))

    def atom(self, u: Real) -> Atom:
        return Atom(u, 0.0, *self.advantage(self.inclusion(self.slates(u))))

    def worth(self, value: float, gradient: Real) -> float:
        return value + self.within.worst(gradient)


def _answer(search: Search, problem: _SlateProblem, beta: float, reason: Reason) -> RobustSlate:
    chosen, weights = _mixture(search, problem)
    inclusion = (1.0 - weights.sum()) * problem.reference
    for weight, slates in zip(weights, chosen, strict=True):
        inclusion = inclusion + weight * problem.inclusion(slates)
    value, gradient = problem.advantage(inclusion)
    lower = problem.worth(value, gradient)
    worths = [problem.worth(atom.value, atom.gradient) for atom in search.atoms[1:]]
    best = int(np.argmax(worths))
    at = search.atoms[1 + best].u
    assert at is not None
    shape = (*problem.contexts.shape, problem.size)
    return RobustSlate(
        slates=np.array(chosen, dtype=np.int64).reshape(-1, *shape),
        weights=weights,
        inclusion=inclusion,
        lower=lower,
        upper=max(search.upper, lower),
        nominal=value,
        best=problem.slates(at),
        best_lower=worths[best],
        worst_case=beta * search.worst_case,
        iterations=search.iterations,
        converged=reason == "tolerance",
        reason=reason,
    )


def _mixture(search: Search, problem: _SlateProblem) -> tuple[list[Int], Real]:
    """Its slates (C, m), no two with the same items, and their weights: the order within one is worth nothing."""
    mixture: dict[bytes, tuple[Int, float]] = {}
    for weight, atom in search.best:
        if atom.u is not None:
            slates = problem.slates(atom.u)
            key = np.sort(slates, axis=1).tobytes()
            first, before = mixture.get(key, (slates, 0.0))
            mixture[key] = first, before + weight
    return [slates for slates, _ in mixture.values()], np.array([weight for _, weight in mixture.values()])


def _problem(
    mean: Real, factor: Real, size: int, beta: float, reference: Real | Literal["uniform"], contexts: Real | None
) -> _SlateProblem:
    means = np.atleast_2d(np.asarray(mean, dtype=np.float64))
    C, M = means.shape
    if factor.ndim != 2 or len(factor) != means.size:
        raise ValueError(f"factor: its shape is {factor.shape}; it must be ({means.size}, q).")
    for name, values in (("mean", means.reshape(-1, 1)), ("factor", factor)):
        bad = np.argwhere(~np.isfinite(values))
        if bad.size:
            raise ValueError(f"{name}: row {bad[0, 0]} is not finite.")
    if not 1 <= size <= M:
        raise ValueError(f"size: it is {size}; it must be from 1 to {M}, the number of items.")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta: it is {beta}; it must be a finite number, 0 or more.")
    probabilities = np.full(C, 1.0 / C) if contexts is None else np.asarray(contexts, dtype=np.float64)
    if probabilities.shape != (C,) or (probabilities < 0).any() or abs(probabilities.sum() - 1) > PROBABILITY_TOLERANCE:
        raise ValueError(f"contexts: they must be {C} probabilities that sum to 1.")
    shown = np.full((C, M), 1.0 / M) if isinstance(reference, str) else np.atleast_2d(np.asarray(reference, np.float64))
    wrong = shown.shape != (C, M) or (shown < 0).any() or (shown > 1.0 / size + PROBABILITY_TOLERANCE).any()
    if wrong or (np.abs(shown.sum(axis=1) - 1.0) > PROBABILITY_TOLERANCE).any():
        raise ValueError(
            f"reference: it must be ({C}, {M}), each row from 0 to 1/{size} and summing to 1 within "
            f"{PROBABILITY_TOLERANCE:g}."
        )
    table = beta * np.ascontiguousarray(factor, dtype=np.float64)
    return _SlateProblem(means, MatrixFactor(table, 1), probabilities, size, shown, UnitBall())
