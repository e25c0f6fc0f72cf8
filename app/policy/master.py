"""The restricted problem of the robust planner: min t subject to a_i + q_i . u <= t and ||u|| <= 1.

A second-order cone problem in q + 1 unknowns, however many atoms. Newton's method follows the central path of

    t - mu sum_i log(t - a_i - q_i . u) - mu log(1 - ||u||^2),

a self-concordant function (after division by mu) with the parameter m + 2, so that the point for mu is within (m + 2)
mu of the optimum, and lambda_i = mu / (t - a_i - q_i . u) are the multipliers of the atoms (they sum to 1 at the
minimum over t). Compiled: the systems are so small that calls are most of what NumPy would spend.
"""

import numpy as np
from numba import njit

NEWTON_STEPS = 60
"""More than any centring took in the tests; what is left then is still a feasible point."""

CENTRED = 1e-3
"""Newton decrement (squared, over mu) at which a point counts as centred."""

PATH_FACTOR = 0.1
"""By how much mu falls at a time."""

RIDGE = 1e-14
"""Added to the unit diagonal of a system: it decides where rounding has left nothing else to decide."""


@njit(nogil=True, cache=True)
def newton_direction(hessian, gradient):
    """Solve H x = -g for a positive definite H (lower triangle), overwritten; scaled to a unit diagonal first."""
    n = len(gradient)
    scale, x = np.empty(n), np.empty(n)
    for i in range(n):
        scale[i] = 1.0 / np.sqrt(hessian[i, i])
    for i in range(n):
        for j in range(i + 1):
            total = hessian[i, j] * scale[i] * scale[j]
            if i == j:
                total += RIDGE
            for c in range(j):
                total -= hessian[i, c] * hessian[j, c]
            if i == j:
                hessian[i, i] = np.sqrt(max(total, RIDGE))
            else:
                hessian[i, j] = total / hessian[j, j]
    for i in range(n):
        total = -gradient[i] * scale[i]
        for c in range(i):
            total -= hessian[i, c] * x[c]
        x[i] = total / hessian[i, i]
    for i in range(n - 1, -1, -1):
        total = x[i]
        for c in range(i + 1, n):
            total -= hessian[c, i] * x[c]
        x[i] = total / hessian[i, i]
    return x * scale


@njit(nogil=True, cache=True)
def central_point(values, gradients, start, accuracy):
    """Follow the central path from `start`, strictly inside, to within `accuracy` of the restricted optimum.

    Returns u (q,), strictly inside the unit ball, and the atoms' multipliers (m,), which sum to 1.
    """
    m = len(values)
    u = start.copy()
    scores = values + gradients @ u
    final = accuracy / (m + 2)
    mu = max(final, (scores.max() - scores.min()) / m)
    t = scores.max() + mu
    while True:
        t, weights = _centre(values, gradients, u, t, mu)
        if mu <= final:
            break
        mu = max(final, mu * PATH_FACTOR)
    return u, weights / weights.sum()


@njit(nogil=True, cache=True)
def _centre(values, gradients, u, t, mu):
    """Newton's method for one mu; u is moved in place, t and the multipliers returned.

    The multipliers are those of the point that the step not taken any more leads to, linearised: they satisfy the
    equations sum_i lambda_i q_i = ... to rounding, which the point's own do only as far as it is centred. Where the
    uncertainty is large and should cancel, all depends on it.
    """
    m, q = gradients.shape
    weights = np.ones(m)
    gradient, hessian, inverse = np.empty(q + 1), np.empty((q + 1, q + 1)), np.empty(m)
    weighted = np.empty((m, q))
    for _ in range(NEWTON_STEPS):
        room = 1.0 - u @ u
        slack = t - values - gradients @ u
        for i in range(m):
            inverse[i] = 1.0 / slack[i]
            for j in range(q):
                weighted[i, j] = gradients[i, j] * inverse[i]
        product = weighted.T @ weighted
        gradient[q], hessian[q, q] = 1.0 / mu - inverse.sum(), inverse @ inverse
        for j in range(q):
            total, cross = 0.0, 0.0
            for i in range(m):
                total += weighted[i, j]
                cross += weighted[i, j] * inverse[i]
            gradient[j] = total + 2.0 * u[j] / room
            hessian[q, j] = -cross
            for c in range(j + 1):
                hessian[j, c] = product[j, c] + (4.0 / room**2) * u[j] * u[c]
            hessian[j, j] += 2.0 / room
        step = newton_direction(hessian, gradient)
        decrement = -(gradient @ step)
        if not np.isfinite(decrement):
            break
        moved = gradients @ step[:q]
        for i in range(m):
            weights[i] = inverse[i] * max(1.0 - (step[q] - moved[i]) * inverse[i], 0.0)
        if decrement <= CENTRED:
            break
        present = t / mu - np.log(room) - np.log(slack).sum()
        length, found = 1.0, False
        while length > 1e-12 and not found:
            ahead = u + length * step[:q]
            left = 1.0 - ahead @ ahead
            barrier = np.inf
            if left > 0.0:
                barrier = (t + length * step[q]) / mu - np.log(left)
                for i in range(m):
                    rest = slack[i] + length * (step[q] - moved[i])
                    if rest <= 0.0:
                        barrier = np.inf
                        break
                    barrier -= np.log(rest)
            if barrier <= present - 0.1 * length * decrement:
                found = True
                u[:] = ahead
                t += length * step[q]
            else:
                length *= 0.5
        if not found:
            break
    return t, weights
