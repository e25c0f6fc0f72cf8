"""What to ask a user next: the pairs whose answers teach most.

The gain of a pair is the information of its answer about the adapter, log(1 + w z^T V z) / 2 nats, with z = vec(B^T
DPhi) and w = E[sigma'(eta)] times the comparison's effective weight: at the mean alone, an answer that only seems sure
would count for nothing. A batch is chosen greedily; after each pair V
shrinks by a rank-one update, so that the pairs don't all ask the same thing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from app.learning.adapters import Adapter, expected_curvature, expected_probability
from app.learning.arrays import Int, Real, integers
from app.learning.model import Model

POOL = 4000
"""Candidate pairs; all pairs where there are fewer."""


@dataclass(frozen=True, slots=True)
class InformativePair:
    first: int
    """Row of the items given."""
    second: int
    information: float
    """Expected information about the user's adapter, in nats."""
    probability: float
    """That `first` is preferred, as believed now."""


def most_informative_pairs(
    model: Model,
    adapter: Adapter,
    items: Real,
    n: int,
    *,
    asked: Iterable[tuple[int, int]] = (),
    among: ArrayLike | None = None,
    context: Real | None = None,
    item_ids: ArrayLike | None = None,
    rng: np.random.Generator,
    pool: int = POOL,
) -> list[InformativePair]:
    """At most n pairs of these items for one user, most informative first, none twice and none of those `asked`.

    Parameters
    ----------
    items
        (m, d1) raw features.
    asked
        Pairs of rows in either order that the user has answered already.
    among
        (c, 2) the pairs that may be asked; all pairs by default, or `pool` of them where there are more.
    context
        (c,) raw features in which the questions are asked.
    item_ids
        (m,) as in `Comparisons.from_pairs`.
    """
    pairs = _candidates(len(items), None if among is None else integers(among), asked, pool, rng)
    belief, Z = model.projected_rewards(adapter, items, context, item_ids=item_ids)
    mean = belief[pairs[:, 0]] - belief[pairs[:, 1]]
    Z = Z[pairs[:, 0]] - Z[pairs[:, 1]]
    V = adapter.covariance.copy()
    variance = np.einsum("np,pq,nq->n", Z, V, Z, optimize=True)
    w = model.effective_weight * expected_curvature(mean, variance)
    probability = expected_probability(mean, variance)
    open_ = np.ones(len(pairs), dtype=np.bool_)
    chosen: list[InformativePair] = []
    while len(chosen) < n and open_.any():
        gain = 0.5 * np.log1p(w * np.einsum("np,pq,nq->n", Z, V, Z, optimize=True))
        best = int(np.argmax(np.where(open_, gain, -np.inf)))
        first, second = (int(v) for v in pairs[best])
        chosen.append(InformativePair(first, second, float(gain[best]), float(probability[best])))
        open_[best] = False
        Vz = V @ Z[best]
        V -= np.outer(Vz, Vz) * (w[best] / (1.0 + w[best] * float(Z[best] @ Vz)))
    return chosen


def _candidates(
    m: int, among: Int | None, asked: Iterable[tuple[int, int]], pool: int, rng: np.random.Generator
) -> Int:
    """(at most pool, 2) distinct pairs first < second, none of those asked."""
    if among is not None:
        pairs = np.unique(np.sort(among.reshape(-1, 2), axis=1), axis=0)
    elif m * (m - 1) // 2 <= pool:
        pairs = np.column_stack(np.triu_indices(m, 1))
    else:
        drawn = rng.integers(0, m, size=(2 * pool, 2))
        drawn = np.sort(drawn[drawn[:, 0] != drawn[:, 1]], axis=1)
        pairs = np.unique(drawn, axis=0)
    known = {min(i, j) * m + max(i, j) for i, j in asked}
    fresh = ~np.isin(pairs[:, 0] * m + pairs[:, 1], np.fromiter(known, dtype=np.int64, count=len(known)))
    pairs = pairs[fresh]
    if len(pairs) > pool:
        pairs = pairs[rng.choice(len(pairs), size=pool, replace=False)]
    return np.asarray(pairs, dtype=np.int64)
