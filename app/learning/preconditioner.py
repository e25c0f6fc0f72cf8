"""Approximate inverses for Theta_0 and B: what conjugate gradients need to be quick."""

from dataclasses import dataclass

import numpy as np

from app.learning.arrays import Real, inverse
from app.learning.conjugate import Pair

RIDGE_BOUNDS = (1e-2, 1e5)
"""Precision of standardised features; beyond these the estimate says 'no shrinkage' or 'nothing there'."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockPreconditioner:
    """Inverse Gram matrices for Theta_0's columns; pooled Gram times the adapters' moments for B."""

    columns: Real
    """(d2, d1, d1)"""
    pooled: Real
    """(d1, d1)"""
    moments: Real
    """(k, k)"""

    @classmethod
    def of(cls, grams: Real, ridge: Real, moments: Real) -> "BlockPreconditioner":
        """From the designs' Gram matrices (d2, d1, d1), the ridge (d2,) and E[W W^T] (k, k)."""
        return cls(column_inverses(grams, ridge), inverse(_safe(grams.sum(axis=0))), inverse(_safe(moments)))

    def __call__(self, pair: Pair) -> Pair:
        return np.einsum("bij,jb->ib", self.columns, pair[0]), self.pooled @ pair[1] @ self.moments


def column_inverses(grams: Real, ridge: Real) -> Real:
    """(d2, d1, d1) the inverse of each column's Gram matrix plus its ridge."""
    return inverse(grams + ridge[:, None, None] * np.eye(grams.shape[1]))


def _safe(matrix: Real) -> Real:
    size = max(len(matrix), 1)
    return np.asarray(matrix + (1e-6 * np.trace(matrix) / size + 1e-12) * np.eye(len(matrix)))
