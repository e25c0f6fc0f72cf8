"""What all users share."""

from dataclasses import dataclass, field, replace

import numpy as np

from app.learning.arrays import Real
from app.learning.items import Items, no_items, turned


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """(Theta_0, B, T) of the model Theta_i = Theta_0 + B W_i, vec(W_i) ~ N(0, T), and the items' own effects."""

    Theta_0: Real
    """(d1, d2)"""
    B: Real
    """(d1, k); its columns, continued by the items' loadings, are orthonormal."""
    T: Real
    """(p, p), p = k * d2."""
    ridge: Real
    """(d2,) prior precision of each column of Theta_0."""
    items: Items = field(default_factory=lambda: no_items(0))
    residual: int = 0
    """How many of B's last columns are the personal residual's: see app.learning.residual."""

    def __post_init__(self) -> None:
        if not len(self.items) and self.items.rank != self.k:
            object.__setattr__(self, "items", no_items(self.k))

    @property
    def k(self) -> int:
        """Columns of B: the rank, and the residual's."""
        return int(self.B.shape[1])

    @property
    def rank(self) -> int:
        return self.k - self.residual

    @property
    def d2(self) -> int:
        return int(self.Theta_0.shape[1])


@dataclass(frozen=True, slots=True)
class Ending:
    """How an iteration ended."""

    converged: bool
    passes: int
    reason: str
    objective: float


def rotated(shared: Shared, means: Real, covariances: Real, Q: Real) -> tuple[Shared, Real, Real]:
    """The same model with B Q for B and Q^T W_i for W_i; means (N, p), covariances (N, p, p)."""
    K = np.kron(Q.T, np.eye(shared.d2))
    items = turned(shared.items, Q)
    turned_ = replace(shared, B=shared.B @ Q, T=K @ shared.T @ K.T, items=items)
    return turned_, means @ K.T, K @ covariances @ K.T
