"""Confidence sets of what is uncertain: what the planner asks of one, the ball, and level sets of a convex loss.

A set C tells its barrier -log(room(u)), with room(u) > 0 inside and 0 at the rim, and a value that min_{u in C} c . u
is certainly not below. An ellipsoid and a Frobenius ball are the unit ball under another factor.

A likelihood-ratio set { u : loss(u) <= loss(0) + excess } has no closed form. For any multiplier m > 0

    min_{u in C} c . u  >=  min_u c . u + m (loss(u) - loss(0) - excess),

with equality at the best m. The inner minimum is approached by Newton's method; where it is left with the gradient g
and every Hessian of the loss is at least M, it is at most g^T M^{-1} g / (2 m) lower than the value found. What is
told is the value less that: a bound that is exact and true, not an approximation by an ellipsoid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

from app.policy.mdp import Real

INSIDE = 0.95
"""Share of the way to the rim to which a start is drawn in: barriers are infinite there."""
MULTIPLIER_STEPS, NEWTON_STEPS = 40, 60
"""More than any search took in the tests; what is told holds however few were made."""
EXACT = 1e-13
"""Relative: what a further step would change is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Barrier:
    """The derivatives of -log(room): its Hessian is g g^T + curvature * I + `matrix`."""

    gradient: Real
    """(q,) g"""
    curvature: float
    matrix: Real | None = None
    """(p, p), p <= q: instead of the curvature, of the first p dimensions."""

    def add_hessian(self, weight: float, hessian: Real) -> None:
        p = 0 if self.matrix is None else len(self.matrix)
        hessian += weight * np.outer(self.gradient, self.gradient)
        hessian.ravel()[p * (len(hessian) + 1) :: len(hessian) + 1] += weight * self.curvature
        if self.matrix is not None:
            hessian[:p, :p] += weight * self.matrix

    def product(self, v: Real) -> Real:
        curved = self.curvature * v
        if self.matrix is not None:
            p = len(self.matrix)
            curved[:p] = self.matrix @ v[:p]
        return np.asarray(curved + (self.gradient @ v) * self.gradient)


class ConfidenceSet(Protocol):
    def room(self, u: Real) -> float:
        """How far from the rim; 0 or less where u is not strictly inside."""

    def barrier(self, u: Real) -> Barrier:
        """-log(room) and its derivatives at a u strictly inside."""

    def worst(self, gradient: Real) -> float:
        """No u of the set has gradient . u below this."""

    def inside(self, u: Real) -> Real:
        """A point strictly inside, near u."""


@dataclass(frozen=True, slots=True)
class UnitBall:
    """||u|| <= 1."""

    def room(self, u: Real) -> float:
        return 1.0 - float(u @ u)

    def barrier(self, u: Real) -> Barrier:
        room = self.room(u)
        return Barrier((2.0 / room) * u, 2.0 / room)

    def worst(self, gradient: Real) -> float:
        return -float(np.linalg.norm(gradient))

    def inside(self, u: Real) -> Real:
        return np.asarray(u * min(1.0, INSIDE / max(float(np.linalg.norm(u)), INSIDE)))


@dataclass(frozen=True, slots=True, eq=False)
class LevelSet:
    """{ (u, v) : loss(u) + ||v||^2 / 2 <= loss(0) + excess }, such as a likelihood-ratio set.

    v, of any dimension and perhaps of none, are what is known by a standard normal distribution alone.
    """

    loss: Callable[[Real], tuple[float, Real, Real]]
    """From u (p,), less the estimate, to a convex loss, its gradient (p,) and its Hessian (p, p)."""
    excess: float
    """How much worse than at the estimate the loss may be, more than 0."""
    least_hessian: Real
    """(p, p) positive definite; no Hessian of the loss is below it. A prior's precision is one."""
    base: float = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.excess < np.inf:
            raise ValueError(f"excess: it is {self.excess}; it must be a finite number, more than 0.")
        object.__setattr__(self, "base", self.loss(np.zeros(len(self.least_hessian)))[0])

    @property
    def radius(self) -> float:
        """That of the ellipsoid which the set is to second order, in standard errors."""
        return math.sqrt(2.0 * self.excess)

    def room(self, u: Real) -> float:
        own, rest = self._parts(u)
        return 1.0 - (self.loss(own)[0] + 0.5 * float(rest @ rest) - self.base) / self.excess

    def barrier(self, u: Real) -> Barrier:
        own, rest = self._parts(u)
        value, gradient, hessian = self.loss(own)
        left = self.base + self.excess - value - 0.5 * float(rest @ rest)
        return Barrier(np.concatenate([gradient, rest]) / left, 1.0 / left, hessian / left)

    def _parts(self, u: Real) -> tuple[Real, Real]:
        return u[: len(self.least_hessian)], u[len(self.least_hessian) :]

    def inside(self, u: Real) -> Real:
        while self.room(u) <= 1.0 - INSIDE:
            u = 0.7 * u
        return u

    def worst(self, gradient: Real) -> float:
        if not gradient.any():
            return 0.0
        least = cho_factor(self.least_hessian)
        own, free = self._parts(gradient)
        rest = float(free @ free)
        value, slope, hessian = self.loss(np.zeros_like(own))
        ahead = np.linalg.solve(hessian, own)
        multiplier = math.sqrt((float(own @ ahead) + rest) / (2.0 * self.excess))
        u, best = np.asarray(-ahead / multiplier), -np.inf
        for _ in range(MULTIPLIER_STEPS):
            u, value, slope, hessian = self._lagrangian_minimum(own, multiplier, u)
            left = own + multiplier * slope
            excess = value - self.base - self.excess
            told = float(own @ u) + multiplier * excess - rest / (2.0 * multiplier)
            told -= float(left @ cho_solve(least, left)) / (2.0 * multiplier)
            # v = -free / multiplier, exactly.
            violation = excess + rest / (2.0 * multiplier**2)
            step = violation / (float(slope @ np.linalg.solve(hessian, slope)) + rest / multiplier**2)
            best, settled = max(best, told), abs(told - best) <= EXACT * abs(told) or abs(step) <= EXACT
            if settled and told <= best and _ > 0:
                break
            multiplier *= float(np.clip(1.0 + step, 0.2, 5.0))
        return best

    def _lagrangian_minimum(self, c: Real, multiplier: float, u: Real) -> tuple[Real, float, Real, Real]:
        """Of c . u + multiplier * loss(u), by damped Newton steps from u; with the loss and its derivatives there."""
        value, slope, hessian = self.loss(u)
        for _ in range(NEWTON_STEPS):
            gradient = c + multiplier * slope
            step = -np.linalg.solve(hessian, gradient) / multiplier
            decrease = -float(gradient @ step)
            if decrease <= EXACT * multiplier * self.excess:
                break
            present, length = float(c @ u) + multiplier * value, 1.0
            while length > EXACT:
                ahead = u + length * step
                found = self.loss(ahead)
                if float(c @ ahead) + multiplier * found[0] <= present - 0.25 * length * decrease:
                    break
                length *= 0.5
            else:
                break
            u, (value, slope, hessian) = ahead, found
        return u, value, slope, hessian


def logistic_level_set(
    design: Real, *, estimate: Real, prior_precision: Real, excess: float, weights: Real | None = None
) -> LevelSet:
    """The likelihood-ratio set of one user: parameters w whose penalised loss is within `excess` of the estimate's.

        loss(w) = sum_j weight_j log(1 + exp(-z_j . w - o_j)) + (1/2) w^T M w,  z_j = design[j], chosen less rejected.

    Parameters
    ----------
    design
        (n, q) or (n, q + 1) rows z_j of the comparisons; a last column more holds the scores o_j of what is not
        uncertain.
    estimate
        (q,) the minimiser of the loss, which the set is about.
    prior_precision
        (q, q) positive definite M.
    excess
        How much worse than the estimate's the loss may be.
    weights
        (n,) of the comparisons, 1 each by default.

    Source: the confidence set of Park et al. 2024; the radius of Lee, Yun and Jun 2024 is
    log(1/delta) + q log(max(e, 2 e S L_n / q)).
    """
    q = len(estimate)
    if design.ndim != 2 or design.shape[1] not in {q, q + 1}:
        raise ValueError(f"design: its shape is {design.shape}; it must be (n, {q}) or (n, {q + 1}).")
    if prior_precision.shape != (q, q):
        raise ValueError(f"prior_precision: its shape is {prior_precision.shape}; it must be ({q}, {q}).")
    Z = np.ascontiguousarray(design[:, :q], dtype=np.float64)
    offset = design[:, q] if design.shape[1] > q else np.zeros(len(Z))
    weight = np.ones(len(Z)) if weights is None else weights

    def loss(u: Real) -> tuple[float, Real, Real]:
        w = estimate + u
        score = Z @ w + offset
        wrong = expit(-score)
        pull = prior_precision @ w
        value = float(weight @ np.logaddexp(0.0, -score)) + 0.5 * float(w @ pull)
        curved = (weight * wrong * (1.0 - wrong))[:, None] * Z
        return value, pull - Z.T @ (weight * wrong), prior_precision + Z.T @ curved

    return LevelSet(loss, excess, prior_precision)
