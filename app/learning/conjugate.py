"""Preconditioned conjugate gradients over several arrays at once, such as changes of Theta_0 and of B."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from app.learning.arrays import Real

Pair = tuple[Real, Real]
Arrays = TypeVar("Arrays", bound=tuple[Real, ...])


def conjugate_gradients(
    operator: Callable[[Arrays], Arrays],
    precondition: Callable[[Arrays], Arrays],
    rhs: Arrays,
    *,
    iterations: int,
    tolerance: float,
) -> Arrays:
    """An approximate solution of `operator(x) = rhs`, started at zero.

    Every step lowers the quadratic, so that a truncated solve is still a step of a generalised EM.

    Parameters
    ----------
    tolerance
        Relative size of the preconditioned residual at which to stop.
    """
    x: Arrays = tuple(np.zeros_like(part) for part in rhs)  # type: ignore[assignment]  # as many arrays as rhs
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


def _dot(a: tuple[Real, ...], b: tuple[Real, ...]) -> float:
    return sum(float(np.vdot(left, right)) for left, right in zip(a, b, strict=True))


def _add(a: Arrays, factor: float, b: Arrays) -> Arrays:
    return tuple(left + factor * right for left, right in zip(a, b, strict=True))  # type: ignore[return-value]
