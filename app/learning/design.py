"""The designs of many comparisons as linear operators.

With X (M, d1) the mapped row table, DPhi_j is stored as d2 sparse rows over the table, one a column b of Y:
S_b[j, row_l] += s_l Y[col_l, b]. Then <DPhi_j, Theta> = sum_b (S_b X Theta[:, b])_j and B^T DPhi_j = rows of S_b (X B).
Comparisons are sorted by user, and users are bucketed by their number of comparisons, so that all small solves are
batched products over padded blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from app.learning.arrays import Int, Real, Sparse, product
from app.learning.comparisons import Comparisons
from app.learning.features import FeatureMap

BUCKET_ROWS = 100_000
"""Most padded rows in one bucket: bounds the memory of a batched solve."""


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Users with similar numbers of comparisons; padding points to row n, whose weight is zero."""

    users: Int
    """(U,)"""
    index: Int
    """(U, m) rows of the design, n where padded."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    X: Real
    """(M, d1) mapped."""
    blocks: Sequence[Sparse]
    """d2 sparse (n, M) matrices."""
    transposed: Sequence[Sparse]
    user: Int
    """(n,) ascending."""
    n_users: int
    label: Real
    weight: Real
    """(n,) the caller's weight times the effective weight."""
    buckets: Sequence[Bucket]
    order: Int
    """(n,) which comparison of the caller's each row is."""

    @property
    def n(self) -> int:
        return len(self.user)

    @property
    def d1(self) -> int:
        return int(self.X.shape[1])

    @property
    def d2(self) -> int:
        return len(self.blocks)

    def counts(self) -> Int:
        """(N,) comparisons of each user."""
        return np.bincount(self.user, minlength=self.n_users).astype(np.int64)

    def scores(self, Theta: Real) -> Real:
        """(n,) <DPhi_j, Theta> for Theta (d1, d2)."""
        projected = self.X @ Theta
        total = np.zeros(self.n)
        for b, S in enumerate(self.blocks):
            total += product(S, projected[:, b])
        return total

    def project(self, B: Real) -> Real:
        """(n, k, d2) of B^T DPhi_j for B (d1, k)."""
        projected = self.X @ B
        return np.stack([product(S, projected) for S in self.blocks], axis=2)

    def adjoint_scores(self, r: Real) -> Real:
        """(d1, d2) sum_j r_j DPhi_j."""
        return product(self.X.T, np.stack([product(S, r) for S in self.transposed], axis=1))

    def adjoint_project(self, R: Real) -> Real:
        """(d1, k) sum_j DPhi_j R_j^T for R (n, k, d2)."""
        return product(self.X.T, np.sum([product(S, R[:, :, b]) for b, S in enumerate(self.transposed)], axis=0))

    def grams(self, w: Real) -> Real:
        """(d2, d1, d1) the weighted Gram matrix of each column block of the designs."""
        scaled = [St.multiply(w[None, :]).tocsr() for St in self.transposed]
        return np.stack([self.X.T @ product(D @ S, self.X) for D, S in zip(scaled, self.blocks, strict=True)])

    def dense(self, index: Any) -> Real:
        """(len(index), d1, d2) the designs of a few comparisons."""
        return np.stack([product(S[index], self.X) for S in self.blocks], axis=2)

    def answered(self, label: Real, weight: Real) -> "Design":
        """The same questions with other answers and weights."""
        return replace(self, label=label, weight=weight)


def design_of(
    comparisons: Comparisons,
    features: FeatureMap,
    *,
    effective_weight: float = 1.0,
    half_life_seconds: float | None = None,
) -> Design:
    """Comparisons as operators in the model's features."""
    c = comparisons
    order = np.argsort(c.user, kind="stable")
    items, row = _used(c.X, c.rows)
    contexts, column = _used(c.Y, c.cols)
    Y = features.columns(contexts)
    term_comparison = np.repeat(np.arange(len(c)), np.diff(c.indptr))
    blocks, transposed = [], []
    for b in range(features.d2):
        data = c.signs * Y[column, b]
        kept = data != 0
        S = csr_array((data[kept], (term_comparison[kept], row[kept])), shape=(len(c), len(items)))
        S = csr_array(S[order])
        blocks.append(S)
        transposed.append(csr_array(S.T))
    weight = effective_weight * c.weight[order]
    if half_life_seconds is not None and c.age_seconds is not None:
        weight = weight * 0.5 ** (c.age_seconds[order] / half_life_seconds)
    user = c.user[order]
    return Design(
        X=features.items(items),
        blocks=blocks,
        transposed=transposed,
        user=user,
        n_users=c.n_users,
        label=c.label[order],
        weight=weight,
        buckets=_buckets(user, c.n_users),
        order=order,
    )


def _used(table: Real, rows: Int) -> tuple[Real, Int]:
    """The rows of a table that occur, and where: one user's few comparisons must not cost a whole catalogue."""
    occurring, position = np.unique(rows, return_inverse=True)
    return table[occurring], np.asarray(position, dtype=np.int64)


def padded(values: Real) -> Real:
    """`values` with one row of zeros behind, which padding points to."""
    return np.concatenate([values, np.zeros((1, *values.shape[1:]))])


def _buckets(user: Int, n_users: int) -> list[Bucket]:
    counts = np.bincount(user, minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    by_size = np.argsort(counts, kind="stable")
    by_size = by_size[counts[by_size] > 0]
    sizes = counts[by_size]
    buckets: list[Bucket] = []
    begin = 0
    while begin < len(by_size):
        end = int(np.searchsorted(sizes, max(1.4 * sizes[begin], sizes[begin] + 2), side="right"))
        end = min(end, begin + max(1, BUCKET_ROWS // int(sizes[end - 1])))
        buckets.append(_bucket(by_size[begin:end], starts, counts, len(user)))
        begin = end
    return buckets


def _bucket(users: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64], n: int) -> Bucket:
    steps = np.arange(counts[users].max())
    index = np.where(steps < counts[users][:, None], starts[users][:, None] + steps, n)
    return Bucket(users=users, index=index)
