"""Approximate inverses for Theta_0 and B: what conjugate gradients need to be quick."""

from dataclasses import dataclass

from app.learning.arrays import Real, inverse
from app.learning.conjugate import Pair
from app.learning.grams import Apply, Grams, safe

RIDGE_BOUNDS = (1e-2, 1e5)
"""Precision of standardised features; beyond these the estimate says 'no shrinkage' or 'nothing there'."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockPreconditioner:
    """Inverse Gram matrices for Theta_0's columns; pooled Gram times the adapters' moments for B."""

    columns: Apply
    """Of a (d1, d2)."""
    pooled: Apply
    """Of a (d1, k)."""
    moments: Real
    """(k, k)"""

    @classmethod
    def of(cls, grams: Grams, ridge: Real, moments: Real) -> "BlockPreconditioner":
        """From the designs' Gram matrices, the ridge (d2,) and E[W W^T] (k, k)."""
        return cls(grams.solver(ridge), grams.pooled_solver(), inverse(safe(moments)))

    def __call__(self, pair: Pair) -> Pair:
        return self.columns(pair[0]), self.pooled(pair[1]) @ self.moments
