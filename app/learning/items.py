"""Items' own effects: what an item is worth beyond its features, to everybody and along the shared directions.

With an item m's own indicator among its features, Theta_0 has a row for it, its bias, and B has one, its loadings;

    bias_m ~ N(0, bias_prior),    loadings_m ~ N(0, prior),

both priors estimated with the rest. So an item that is seen often is known by its own record, a rare one by its
features, and where features say everything the priors shrink to nothing. An item that was not in the fit has the
prior's mean and its uncertainty.
"""

from dataclasses import dataclass, replace

import numpy as np

from app.learning.arrays import Int, Real

NO_IDENTITY = -1
"""The id of something that was compared and is no item: features or a text given with the request."""
BLOCK_NUMBERS = 1_000_000
"""Numbers of a table that are looked at at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The posterior of E items' own effects; the last row of every array stands for all other items."""

    ids: Int
    """(E,) ascending."""
    bias: Real
    """(E + 1,) in log-odds."""
    bias_variance: Real
    """(E + 1,)"""
    loadings: Real
    """(E + 1, k)"""
    covariance: Real
    """(E + 1, k, k) of each item's loadings."""
    bias_prior: float
    """Variance of a bias before anything is known."""
    prior: Real
    """(k, k) covariance of an item's loadings before anything is known."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rank(self) -> int:
        return int(self.loadings.shape[1])


def no_items(k: int) -> Items:
    """Nothing has effects of its own."""
    nothing = np.zeros(1)
    return Items(
        np.zeros(0, dtype=np.int64), nothing, nothing, np.zeros((1, k)), np.zeros((1, k, k)), 0.0, np.zeros((k, k))
    )


def turned(items: Items, A: Real) -> Items:
    """The same effects with loadings A for loadings, A (k, k)."""
    return Items(
        items.ids,
        items.bias,
        items.bias_variance,
        items.loadings @ A,
        np.ascontiguousarray(A.T @ items.covariance @ A),
        items.bias_prior,
        A.T @ items.prior @ A,
    )


def widened(items: Items, columns: int) -> Items:
    """The same effects with no loadings along so many further directions."""
    loadings, covariance = np.pad(items.loadings, ((0, 0), (0, columns))), ((0, 0), (0, columns), (0, columns))
    prior = np.pad(items.prior, (0, columns))
    return replace(items, loadings=loadings, covariance=np.pad(items.covariance, covariance), prior=prior)


def narrowed(items: Items, k: int) -> Items:
    """The effects along the first k directions."""
    if items.rank == k:
        return items
    loadings, covariance = items.loadings[:, :k].copy(), items.covariance[:, :k, :k].copy()
    return replace(items, loadings=loadings, covariance=covariance, prior=items.prior[:k, :k].copy())


def content_ids(X: Real) -> Int:
    """(M,) ids of rows by what they hold, for items that have no name: equal rows are one item."""
    odd = np.random.default_rng(0).integers(0, 2**63, size=X.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    step, total = max(1, BLOCK_NUMBERS // max(X.shape[1], 1)), np.empty(len(X), dtype=np.uint64)
    for begin in range(0, len(X), step):
        bits = np.ascontiguousarray(X[begin : begin + step] + 0.0, dtype=np.float64).view(np.uint64)
        mixed = (bits ^ (bits >> np.uint64(29))) * odd
        total[begin : begin + step] = (mixed ^ (mixed >> np.uint64(32))).sum(axis=1, dtype=np.uint64)
    return np.asarray((total >> np.uint64(1)).astype(np.int64))
