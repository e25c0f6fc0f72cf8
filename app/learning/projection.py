"""A catalogue as one model sees it: what can be computed of every item before knowing the user.

For a user with adapter mean w (k,) and covariance C (k, k), and l = (1, w), an item with features x less the
reference's, projected z = B^T x + its loadings less the reference's, has

    mean     = offset + z . w,
    variance = l^T Q l + tr(C (z z^T + L)),        Q = F^T F + diag(v, L),

where F (r, 1 + k) is what the shared error of [Theta_0, B] does along x, v the variance of the item's own bias and L
(k, k) the covariance of its loadings. Both are linear in what is known of the user, so that scoring m items is one
product of their rows with a vector; it agrees with `Model.rewards`, which forms the factor of the joint covariance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.learning import kernels
from app.learning.adapters import Adapter
from app.learning.arrays import Real, real
from app.learning.model import Model, ReferenceItem

MAX_WORK = 4e10
"""Multiplications spent on the quadratic forms: a second or two. Larger catalogues of wide items do without them."""

BLOCK_NUMBERS = 1_000_000
"""Products of features that are formed at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """M items without context, ready to be scored for any user."""

    means: Real
    """(M, 1 + k): offset and z."""
    spreads: Real | None
    """(M, t): the triangles of Q and of z z^T + L; none where they would cost too much."""

    def __len__(self) -> int:
        return len(self.means)

    def mean(self, taste: "Taste") -> Real:
        """(M,) rewards of all items."""
        return np.asarray(self.means @ taste.mean)

    def rewards(self, taste: "Taste", rows: NDArray[np.int64]) -> tuple[Real, Real]:
        """(m,) rewards of some items, and their standard errors.

        Raises
        ------
        ValueError
            There are no quadratic forms.
        """
        if self.spreads is None:
            raise ValueError("this projection has no quadratic forms.")
        mean, stderr = np.empty(len(rows)), np.empty(len(rows))
        kernels.score_rows(self.means, self.spreads, taste.mean, taste.spread, rows, mean, stderr)
        return mean, stderr


@dataclass(frozen=True, slots=True, eq=False)
class Taste:
    """One user as a projection sees them."""

    mean: Real
    """(1 + k,)"""
    spread: Real
    """(t,) calibrated."""


def taste_of(adapter: Adapter, inflation: float) -> Taste:
    """What a projection multiplies; `inflation` is the model's."""
    loading = np.concatenate([[1.0], adapter.mean[:, 0]])
    second = np.concatenate([_twice(np.outer(loading, loading)), _twice(adapter.covariance)])
    return Taste(real(loading), real(inflation**2 * second))


def project(model: Model, items: Real, reference: ReferenceItem, item_ids: ArrayLike | None = None) -> Projection:
    """Items (M, d1), given raw, of a model whose columns are not contexts (d2 = 1)."""
    if model.features.d2 != 1:
        raise ValueError("items of an environment with contexts are projected in each context.")
    own, place = model.shared.items, model.places(items, item_ids)
    (d1, _, r), k, M = model.shared_error.shape, model.width, len(items)
    q, (rows, columns) = 1 + k, np.triu_indices(k)
    means, spreads, step = np.empty((M, q)), None, max(1, BLOCK_NUMBERS // d1)
    if M * min(d1**2 / 2 * q**2 / 2, d1 * q * r) <= MAX_WORK:
        forms, formed = _shared_forms(model.shared_error)
        spreads, step = np.empty((M, q * (q + 1) // 2 + len(rows))), max(1, BLOCK_NUMBERS // max(formed, d1))
    origin = model.features.items(reference.features[None])
    for begin in range(0, M, step):
        block = slice(begin, min(begin + step, M))
        at, centred = place[block], model.features.items(items[block]) - origin
        means[block, 0] = centred @ model.Theta_0[:, 0] + own.bias[at] - reference.bias
        z = centred @ model.B + own.loadings[at] - reference.loadings
        means[block, 1:] = z
        if spreads is None:
            continue
        loadings = own.covariance[at][:, rows, columns]
        Q = forms(centred)
        Q[:, 0] += own.bias_variance[at]
        Q[:, q:] += loadings
        spreads[block] = np.hstack([Q, z[:, rows] * z[:, columns] + loadings])
    return Projection(real(means), None if spreads is None else real(spreads))


def _shared_forms(error: Real) -> tuple[Callable[[Real], Real], int]:
    """For the error E (d1, q, r): of items x (m, d1), (m, q (q + 1) / 2) triangles of F^T F, F = x^T E.

    And how many numbers are formed for each. Wide items go through F itself: less to do, and no matrix of features by
    features.
    """
    d1, q, r = error.shape
    first, second = np.triu_indices(q)
    if d1 * q * r < d1**2 * len(first) / 2:
        flat = error.reshape(d1, q * r)

        def by_factor(x: Real) -> Real:
            F = (x @ flat).reshape(-1, q, r)
            return np.asarray((F @ np.swapaxes(F, 1, 2))[:, first, second])

        return by_factor, q * max(q, r)
    rows, columns = np.triu_indices(d1)
    coefficients = np.empty((len(rows), len(first)))
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        product = error[:, a] @ error[:, b].T
        coefficients[:, pair] = (product + product.T)[rows, columns]
    coefficients[rows == columns] *= 0.5
    return lambda x: np.asarray((x[:, rows] * x[:, columns]) @ coefficients), len(rows)


def _twice(symmetric: Real) -> Real:
    """The upper triangle in row order, its off-diagonal entries counted for both sides."""
    rows, columns = np.triu_indices(len(symmetric))
    return symmetric[rows, columns] * np.where(rows == columns, 1.0, 2.0)
