"""The designs of many comparisons as linear operators.

With X (M, d1) the mapped row table, DPhi_j is stored as d2 sparse rows over the table, one a column b of Y:
S_b[j, row_l] += s_l Y[col_l, b]. Then <DPhi_j, Theta> = sum_b (S_b X Theta[:, b])_j and B^T DPhi_j = rows of S_b (X B).
Comparisons are sorted by user, and users are bucketed by their number of comparisons, so that all small solves are
batched products over padded blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from app.learning import features as feature_maps
from app.learning import kernels
from app.learning.arrays import Int, Real, Sparse, Table, product, real, writable
from app.learning.comparisons import Comparisons
from app.learning.features import FeatureMap

NO_ITEMS = np.zeros(0, dtype=np.int64)
DENSE_ENTRIES = 4_000_000
"""Numbers in the few designs that are formed at a time."""
SHORT = 4
"""Terms of a comparison, on average, up to which products of sparse designs are cheap."""
ROWS_WORTH_A_THREAD = 1000
"""Rows of a wide table whose products are shared between threads."""
BUCKET_ROWS = 100_000
"""Most padded rows in one bucket: bounds the memory of a batched solve."""


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Users with similar numbers of comparisons; padding points to row n, whose weight is zero."""

    users: Int
    """(U,)"""
    index: Int
    """(U, m) rows of the design, n where padded."""


@dataclass(frozen=True, eq=False)
class Design:
    X: Table
    """(M, d1) mapped; sparse where it is large and of states."""
    Y: Real
    """(C, d2) mapped."""
    item: NDArray[np.int32]
    """(M,) each row's place among the items with effects of their own."""
    indptr: Int
    """(n + 1,) where each comparison's terms begin."""
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    """(nnz,); nothing where d2 = 1."""
    signs: NDArray[np.int8]
    pointers: Int
    """(N + 1,) where each user's comparisons begin."""
    user: Int
    """(n,) ascending."""
    n_users: int
    label: Real
    weight: Real
    """(n,) the caller's weight, less for age and for options that recur."""
    order: Int
    """(n,) which comparison of the caller's each row is."""
    item_ids: Int
    """(E,) ascending: the items with effects of their own."""

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n(self) -> int:
        return len(self.user)

    @property
    def n_rows(self) -> int:
        return int(self.X.shape[0])

    @property
    def d1(self) -> int:
        return int(self.X.shape[1])

    @property
    def d2(self) -> int:
        return int(self.Y.shape[1])

    def counts(self) -> Int:
        """(N,) comparisons of each user."""
        return self.pointers[1:] - self.pointers[:-1]

    @cached_property
    def by_size(self) -> Int:
        """(N,) the users, those with few comparisons first."""
        return np.argsort(self.counts(), kind="stable")

    @cached_property
    def blocks(self) -> Sequence[Sparse]:
        """d2 sparse (n, M) matrices."""
        comparison = np.repeat(np.arange(self.n), np.diff(self.indptr))
        found = []
        for b in range(self.d2):
            data = self.signs * (self.Y[self.cols, b] if self.d2 > 1 else 1.0)
            kept = data != 0
            found.append(csr_array((data[kept], (comparison[kept], self.rows[kept])), shape=(self.n, self.n_rows)))
        return found

    @cached_property
    def transposed(self) -> Sequence[Sparse]:
        return [csr_array(S.T) for S in self.blocks]

    @cached_property
    def buckets(self) -> Sequence[Bucket]:
        return _buckets(self.user, self.n_users)

    @cached_property
    def _rows_are_items(self) -> bool:
        """Is every row of the table the item of its place?"""
        return self.n_items == self.n_rows and bool((self.item == np.arange(self.n_items)).all())

    @cached_property
    def _owners(self) -> Sparse:
        """(E, M) which rows of the table each item with effects of its own is."""
        known = np.flatnonzero(self.item < self.n_items)
        return csr_array((np.ones(len(known)), (self.item[known], known)), shape=(self.n_items, self.n_rows))

    def of_items(self, by_row: Real) -> Real:
        """(E, ...) sums over the rows of the table (M, ...) that are the same item."""
        if self._rows_are_items:
            return by_row
        return product(self._owners, by_row)

    @property
    def wide(self) -> bool:
        """Is the table dense, and too wide for matrices of features by features?"""
        return isinstance(self.X, np.ndarray) and self.d1 > feature_maps.WIDE

    def through(self, V: Real) -> Real:
        """(M, m) X V for V (d1, m)."""
        X = self.X
        if not (self.wide and isinstance(X, np.ndarray)):
            return product(X, V)
        out = np.empty((self.n_rows, V.shape[1]))

        def work(first: int, last: int) -> None:
            np.matmul(X[first:last], V, out=out[first:last])

        kernels.over(self.n_rows, work, small=ROWS_WORTH_A_THREAD)
        return out

    def back(self, G: Real) -> Real:
        """(d1, m) X^T G for G (M, m)."""
        X = self.X
        if not self.wide:
            return product(X.T, G)
        parts = kernels.over(self.n_rows, lambda i, j: product(X[i:j].T, G[i:j]), small=ROWS_WORTH_A_THREAD)
        return np.asarray(sum(parts))

    def scores(self, Theta: Real, bias: Real | None = None) -> Real:
        """(n,) <DPhi_j, Theta> for Theta (d1, d2), with the items' biases (E + 1,) where given."""
        return self._row_scores(self.through(Theta), bias)

    def _row_scores(self, P: Real, bias: Real | None) -> Real:
        """The same from what every row of the table is worth, P = X Theta (M, d2)."""
        P, out = np.ascontiguousarray(P), np.empty(self.n)
        own = P[:0, 0] if bias is None or not self.n_items else bias[self.item]
        kernels.over(self.n, lambda i, j: kernels.scores(i, j, *self.terms, P, own, self.Y, out))
        return out

    def project(self, B: Real, loadings: Real | None = None, index: Int | None = None) -> Real:
        """(n, k, d2) of B^T DPhi_j for B (d1, k), with the items' loadings (E + 1, k) where given; or of some j."""
        P, own = self.tables(B, loadings)
        chosen = np.arange(self.n) if index is None else np.asarray(index, dtype=np.int64)
        out = np.empty((len(chosen), B.shape[1] * self.d2))
        kernels.over(len(chosen), lambda i, j: kernels.projections(i, j, chosen, *self.terms, P, own, self.Y, out))
        return out.reshape(len(chosen), B.shape[1], self.d2)

    @property
    def terms(self) -> tuple[Int, NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]:
        return self.indptr, self.rows, self.cols, self.signs

    def tables(self, B: Real, loadings: Real | None) -> tuple[Real, Real]:
        """X B and the rows' own loadings, (M, k) each; one table, and an empty one, where there are no contexts."""
        return self._row_tables(self.through(B), loadings)

    def scores_and_tables(
        self, Theta: Real, bias: Real | None, B: Real, loadings: Real | None
    ) -> tuple[Real, Real, Real]:
        """What `scores` and `tables` give, by one product with the table."""
        both = self.through(np.hstack([Theta, B]))
        return self._row_scores(both[:, : self.d2], bias), *self._row_tables(both[:, self.d2 :], loadings)

    def _row_tables(self, P: Real, loadings: Real | None) -> tuple[Real, Real]:
        """The same from P = X B."""
        P = np.ascontiguousarray(P)
        if loadings is None or not self.n_items:
            return P, P[:0]
        own = loadings[self.item]
        return (P + own, P[:0]) if self.d2 == 1 else (P, own)

    def adjoint_scores(self, r: Real) -> Real:
        """(d1, d2) sum_j r_j DPhi_j."""
        return self.back(self.adjoint_rows(r))

    def adjoint_rows(self, r: Real) -> Real:
        """(M, d2) sum_j r_j of every row of the table, before its features."""

        def work(first: int, last: int) -> Real:
            G = np.zeros((self.n_rows, self.d2))
            kernels.adjoint(first, last, *self.terms, r, self.Y, G)
            return G

        return np.asarray(sum(kernels.over(self.n, work)))

    def row_weights(self, w: Real) -> Real:
        """(M,) sum of w_j over the comparisons that each row of the table is in."""

        def work(first: int, last: int) -> Real:
            out = np.zeros(self.n_rows)
            kernels.row_weights(first, last, self.indptr, self.rows, w, out)
            return out

        return np.asarray(sum(kernels.over(self.n, work)))

    def adjoint_project(self, R: Real) -> Real:
        """(d1, k) sum_j DPhi_j R_j^T for R (n, k, d2)."""
        return self.back(np.sum([product(S, R[:, :, b]) for b, S in enumerate(self.transposed)], axis=0))

    def grams(self, w: Real, *, at_most: int | None = None) -> Real:
        """(d2, d1, d1) the weighted Gram matrix of each column block of the designs.

        With `at_most`, from that many comparisons, evenly spaced, that stand for all.
        """
        total = np.zeros((self.d2, self.d1, self.d1))
        stride = 1 if at_most is None else max(1, self.n // at_most)
        index = np.arange(0, self.n, stride)
        share = float(w[index].sum())
        scaled = w[index] * (float(w.sum()) / share if share > 0 else 1.0)
        if len(index) > self.n_rows and len(self.rows) <= SHORT * self.n:
            return self._grams_by_rows(index, scaled)
        step = max(1, DENSE_ENTRIES // (self.d1 * self.d2))
        for begin in range(0, len(index), step):
            D = self.dense(index[begin : begin + step])
            for b in range(self.d2):
                total[b] += D[:, :, b].T @ (scaled[begin : begin + step, None] * D[:, :, b])
        return total

    def _grams_by_rows(self, index: Int, w: Real) -> Real:
        """The same as X^T (S_b^T diag(w) S_b) X: less to do where few rows stand for many comparisons."""
        terms = _terms_of(self.indptr, np.diff(self.indptr), index)
        pointers = np.concatenate([[0], np.cumsum(np.diff(self.indptr)[index])])
        rows, shape = self.rows[terms], (len(index), self.n_rows)
        total = np.empty((self.d2, self.d1, self.d1))
        for b in range(self.d2):
            values = self.signs[terms] * (self.Y[self.cols[terms], b] if self.d2 > 1 else 1.0)
            weighted = values * np.repeat(w, np.diff(pointers))
            S = csr_array((values, rows, pointers), shape=shape)
            G = product(csr_array((weighted, rows, pointers), shape=shape).T @ S, self.X)
            total[b] = product(self.X.T, G)
        return total

    def dense(self, index: Int) -> Real:
        """(len(index), d1, d2) the designs of a few comparisons, by features."""
        out = np.zeros((len(index), self.d1, self.d2))
        assert isinstance(self.X, np.ndarray), "designs of a sparse table are not formed"
        kernels.dense(np.asarray(index, dtype=np.int64), *self.terms, self.X, self.Y, out)
        return out

    def columns(self, index: Int) -> list[Sparse]:
        """d2 sparse (m, d1) matrices: DPhi_j[:, b] of m comparisons, for every b."""
        return [csr_array(S @ self.X) for S in self.row_designs(index)]

    def row_designs(self, index: Int) -> list[Sparse]:
        """d2 sparse (m, M) matrices: the same over the rows of the table."""
        m, lengths = len(index), np.diff(self.indptr)[index]
        terms, own = _terms_of(self.indptr, np.diff(self.indptr), index), np.repeat(np.arange(m), lengths)
        found = []
        for b in range(self.d2):
            data = self.signs[terms] * (self.Y[self.cols[terms], b] if self.d2 > 1 else 1.0)
            kept = data != 0
            found.append(csr_array((data[kept], (own[kept], self.rows[terms][kept])), shape=(m, self.n_rows)))
        return found

    def thinned(self, stride: int) -> "Design":
        """The comparisons of every stride-th user, who become users 0, 1, 2, ..."""
        if stride == 1:
            return self
        users = np.arange(0, self.n_users, stride)
        counts = self.counts()[users]
        pointers = np.concatenate([[0], np.cumsum(counts)])
        index = np.repeat(self.pointers[users] - pointers[:-1], counts) + np.arange(pointers[-1])
        lengths = self.indptr[index + 1] - self.indptr[index]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        terms = np.repeat(self.indptr[index] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return replace(
            self,
            indptr=indptr,
            rows=self.rows[terms],
            cols=self.cols[terms] if self.d2 > 1 else self.cols,
            signs=self.signs[terms],
            pointers=pointers,
            user=np.repeat(np.arange(len(users)), counts),
            n_users=len(users),
            label=self.label[index],
            weight=self.weight[index],
            order=self.order[index],
        )

    def answered(self, label: Real, weight: Real) -> "Design":
        """The same questions with other answers and weights."""
        return replace(self, label=label, weight=weight)


def design_of(
    comparisons: Comparisons,
    features: FeatureMap,
    *,
    item_ids: Int | None = None,
    dependence: float = 0.0,
    half_life_seconds: float | None = None,
) -> Design:
    """Comparisons as operators in the model's features.

    Parameters
    ----------
    dependence
        How much of what the model leaves unexplained is the same whenever a user meets an option again; 0: nothing.
    item_ids
        (E,) ascending: the items with effects of their own; none by default.
    """
    c = comparisons
    sorted_ = bool((c.user[1:] >= c.user[:-1]).all())
    order = np.arange(len(c)) if sorted_ else np.argsort(c.user, kind="stable")
    occurring, row = _used(c.X, c.rows)
    if features.plain and 2 * len(occurring) >= c.X.shape[0]:
        # No copy of a table whose rows nearly all occur: designs of the same comparisons share it.
        occurring, row = np.arange(c.X.shape[0]), c.rows
    mapped = features.rows(c.X if len(occurring) == c.X.shape[0] else c.X[occurring])
    contexts, column = _used(c.Y, c.cols) if features.d2 > 1 else (np.zeros(0, dtype=np.int64), c.cols[:0])
    terms: Int | slice = slice(None)
    indptr = c.indptr
    if not sorted_:
        lengths = np.diff(c.indptr)
        terms, indptr = _terms_of(c.indptr, lengths, order), np.concatenate([[0], np.cumsum(lengths[order])])
    user = c.user if sorted_ else c.user[order]
    rows = row[terms].astype(np.int32)
    pointers = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=c.n_users))]).astype(np.int64)
    indptr = writable(np.asarray(indptr, dtype=np.int64))
    weight = writable(c.weight) if sorted_ else c.weight[order]
    if dependence > 0.0 and not c.tabular:
        key = rows.astype(np.int64) * len(c.Y) + c.cols[terms]
        weight = weight * effective_weights(pointers, indptr, key, dependence)
    if half_life_seconds is not None and c.age_seconds is not None:
        weight = weight * 0.5 ** (c.age_seconds[order] / half_life_seconds)
    known = NO_ITEMS if item_ids is None or c.item_ids is None else item_ids
    return Design(
        X=mapped if issparse(mapped) else real(np.ascontiguousarray(mapped)),
        Y=writable(features.columns(c.Y[contexts])) if features.d2 > 1 else np.ones((1, 1)),
        item=place_of(known, NO_ITEMS if c.item_ids is None else c.item_ids[occurring], len(occurring)),
        item_ids=known,
        indptr=indptr,
        rows=rows,
        cols=column[terms].astype(np.int32) if features.d2 > 1 else np.zeros(0, dtype=np.int32),
        signs=c.signs[terms].astype(np.int8),
        pointers=pointers,
        user=user,
        n_users=c.n_users,
        label=c.label if sorted_ else c.label[order],
        weight=weight,
        order=order,
    )


def effective_weights(pointers: Int, indptr: Int, key: Int, dependence: float) -> Real:
    """(n,) what each comparison counts, 1 / (1 + dependence (r - 1)), its options being in r comparisons of its user.

    What the model leaves unexplained about a user and an option is the same in all of them: with equally correlated
    errors, r comparisons say as much as r / (1 + dependence (r - 1)) independent ones (Kish's design effect).
    """
    recurrence = np.empty(int(pointers[-1]))
    kernels.over_users(pointers, lambda i, j: kernels.recurrences(i, j, pointers, indptr, key, recurrence))
    return np.asarray(1.0 / (1.0 + dependence * (recurrence - 1.0)))


def place_of(known: Int, ids: Int, n: int) -> NDArray[np.int32]:
    """(n,) where each id stands among the known ones (E,), ascending; E for all others."""
    if not len(known) or not len(ids):
        return np.full(n, len(known), dtype=np.int32)
    position = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[position] == ids, position, len(known)).astype(np.int32)


def _terms_of(indptr: Int, lengths: Int, order: Int) -> Int:
    """Where the terms of the comparisons in this order stand."""
    begins = np.concatenate([[0], np.cumsum(lengths[order])])
    return np.repeat(indptr[order] - begins[:-1], lengths[order]) + np.arange(begins[-1])


def _used(table: Table, rows: Int) -> tuple[Int, Int]:
    """Which rows of a table occur, and their places: one user's few comparisons must not cost a whole catalogue."""
    height = table.shape[0]
    if len(rows) < height // 2:
        occurring, position = np.unique(rows, return_inverse=True)
        return occurring, np.asarray(position, dtype=np.int64)
    occurs = np.zeros(height, dtype=np.bool_)
    occurs[rows] = True
    occurring = np.flatnonzero(occurs)
    return occurring, (np.cumsum(occurs) - 1)[rows] if len(occurring) < height else rows


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
