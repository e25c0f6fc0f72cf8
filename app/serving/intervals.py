"""Rewards with their intervals, as they are answered."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Real = NDArray[np.float64]

DECIMALS = 1e9
"""Answers are in billionths: of log-odds, far below anything that can be known, and half the bytes."""


def with_intervals(mean: Real, stderr: Real, reach: float) -> Real:
    """(m, 4): reward, standard error, and the ends of an interval of so many standard errors; rounded."""
    numbers = np.empty((len(mean), 4))
    _fill(mean, stderr, reach, numbers)
    return numbers


@njit(nogil=True, cache=True)
def _fill(mean, stderr, reach, numbers):
    for row in range(len(mean)):
        beyond = reach * stderr[row]
        values = mean[row], stderr[row], mean[row] - beyond, mean[row] + beyond
        for column in range(4):
            # Nought is added so that there is only one.
            numbers[row, column] = np.rint(values[column] * DECIMALS) / DECIMALS + 0.0
