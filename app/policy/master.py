"""The restricted problem of the robust planner: min t subject to a_i + q_i . u <= t and ||u|| <= 1.

A second-order cone problem in q + 1 unknowns, however many atoms. Newton's method follows the central path of

    t - mu sum_i log(t - a_i - q_i . u) - mu log(1 - ||u||^2),

a self-concordant function (after division by mu) with the parameter m + 2, so that the point for mu is within
(m + 2) mu of the optimum, and lambda_i = mu / (t - a_i - q_i . u) are the
multipliers of the atoms (they sum to 1 at the minimum over t).
"""

from dataclasses import dataclass

import numpy as np

from app.policy.mdp import Real
from app.policy.newton import newton_direction

NEWTON_STEPS = 60
"""More than any centring took in the tests; what is left then is still a feasible point."""

CENTRED = 1e-3
"""Newton decrement (squared, over mu) at which a point counts as centred."""

PATH_FACTOR = 0.1
"""By how much mu falls at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Restricted:
    values: Real
    """(m,) a_i"""
    gradients: Real
    """(m, q) q_i"""


@dataclass(frozen=True, slots=True, eq=False)
class CentralPoint:
    u: Real
    """(q,) strictly inside the unit ball."""
    weights: Real
    """(m,) multipliers of the atoms, summing to 1."""


def central_point(problem: Restricted, start: Real, *, accuracy: float) -> CentralPoint:
    """Follow the central path from `start`, strictly inside, to within `accuracy` of the restricted optimum."""
    u = start
    scores = problem.values + problem.gradients @ u
    final = accuracy / (scores.size + 2)
    mu = max(final, float(np.ptp(scores)) / scores.size)
    t = float(scores.max()) + mu
    while True:
        u, t = _centre(problem, u, t, mu)
        if mu <= final:
            break
        mu = max(final, mu * PATH_FACTOR)
    weights = mu / (t - problem.values - problem.gradients @ u)
    return CentralPoint(u, weights / weights.sum())


def _centre(problem: Restricted, u: Real, t: float, mu: float) -> tuple[Real, float]:
    q = u.size
    for _ in range(NEWTON_STEPS):
        slack = t - problem.values - problem.gradients @ u
        room = 1.0 - float(u @ u)
        inverse = 1.0 / slack
        weighted = problem.gradients * inverse[:, None]
        gradient = np.empty(q + 1)
        gradient[:q] = weighted.sum(axis=0) + 2.0 * u / room
        gradient[q] = 1.0 / mu - inverse.sum()
        hessian = np.empty((q + 1, q + 1))
        hessian[:q, :q] = weighted.T @ weighted + np.eye(q) * (2.0 / room) + np.outer(u, u) * (4.0 / room**2)
        hessian[q, :q] = hessian[:q, q] = -(inverse @ weighted)
        hessian[q, q] = inverse @ inverse
        step = newton_direction(hessian, gradient)
        decrement = float(-gradient @ step)
        if not np.isfinite(decrement) or decrement <= CENTRED:
            break
        length = _step_length(problem, u, t, mu, step, decrement)
        if length == 0.0:
            break
        u, t = u + length * step[:q], t + length * float(step[q])
    return u, t


def _step_length(problem: Restricted, u: Real, t: float, mu: float, step: Real, decrement: float) -> float:
    """Backtrack to the inside and to a sufficient decrease of the barrier."""
    present = _barrier(problem, u, t, mu)
    length = 1.0
    while length > 1e-12:
        ahead = _barrier(problem, u + length * step[:-1], t + length * float(step[-1]), mu)
        if ahead <= present - 0.1 * length * decrement:
            return length
        length *= 0.5
    return 0.0


def _barrier(problem: Restricted, u: Real, t: float, mu: float) -> float:
    slack = t - problem.values - problem.gradients @ u
    room = 1.0 - float(u @ u)
    if room <= 0 or slack.min() <= 0:
        return np.inf
    return t / mu - float(np.log(slack).sum()) - float(np.log(room))
