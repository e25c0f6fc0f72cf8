"""Preconditioned conjugate gradients over a pair of arrays: changes of Theta_0 and of B."""

from collections.abc import Callable

import numpy as np

from app.learning.arrays import Real

Pair = tuple[Real, Real]


def conjugate_gradients(
    operator: Callable[[Pair], Pair],
    precondition: Callable[[Pair], Pair],
    rhs: Pair,
    *,
    iterations: int,
    tolerance: float,
) -> Pair:
    """An approximate solution of `operator(x) = rhs`, started at zero.

    Every step lowers the quadratic, so that a truncated solve is still a step of a generalised EM.

    Parameters
    ----------
    tolerance
        Relative size of the preconditioned residual at which to stop.
    """
    x: Pair = (np.zeros_like(rhs[0]), np.zeros_like(rhs[1]))
    r, y = rhs, precondition(rhs)
    direction, size = y, _dot(r, y)
    target = size * tolerance**2
    for _ in range(iterations):
        if size <= max(target, 1e-300):
            break
        image = operator(direction)
        bend = _dot(direction, image)
        if bend <= 0:
            break
        step = size / bend
        x, r = _add(x, step, direction), _add(r, -step, image)
        y = precondition(r)
        new = _dot(r, y)
        direction, size = _add(y, new / size, direction), new
    return x


def _dot(a: Pair, b: Pair) -> float:
    return float(np.vdot(a[0], b[0]) + np.vdot(a[1], b[1]))


def _add(a: Pair, factor: float, b: Pair) -> Pair:
    return a[0] + factor * b[0], a[1] + factor * b[1]
