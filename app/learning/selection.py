"""Choosing the rank and the effective weight of a comparison on held-out comparisons.

A user's comparisons often share items, so random rows would be half known. Where a user's comparisons fall into
groups that share no item (choice tasks, separate questions), whole groups are held out; where they hang together by
recurring items, a third of the user's items is held out, comparisons among those validate, and the mixed ones are
left aside. Trajectories visit the same states over and over, and their features are those states: there rows are held
out as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from app.learning.arrays import Int, Real
from app.learning.comparisons import Comparisons

HELD_OUT_SHARE = 0.25
"""Share of groups held out."""
HELD_OUT_ITEMS = 0.35
"""Share of a user's items held out: 12% of the comparisons validate, 42% fit."""
WEIGHTS = (1.0, 0.6, 0.4, 0.25, 0.15)
"""Effective weights tried, from independent comparisons downwards."""
RANKS = (1, 2, 4, 8, 16)
"""Ranks tried below min(d1, 16), beside that number itself and 0."""
FIRST_RANK = 4
"""Where the walk over ranks begins."""
MAX_ADAPTER_SIZE = 48
"""Largest k * d2 that `auto` tries."""
SMALLEST_GAIN = 5e-4
"""Nats a comparison below which a higher rank is not worth its computation, however sure the gain."""
MIN_HELD_OUT = 20
"""With fewer held-out comparisons, nothing can be chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    fit: NDArray[np.bool_]
    """(n,)"""
    validate: NDArray[np.bool_]
    """(n,)"""

    @property
    def usable(self) -> bool:
        return int(self.validate.sum()) >= MIN_HELD_OUT and int(self.fit.sum()) >= MIN_HELD_OUT


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    rank: int
    effective_weight: float
    user_losses: Real
    """(N,) summed held-out log-loss of each user, so that paired errors can be taken over users."""
    count: int

    @property
    def log_loss(self) -> float:
        return float(self.user_losses.sum()) / self.count


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    rank: int
    effective_weight: float
    trials: tuple[Trial, ...]
    reason: str


def split_comparisons(comparisons: Comparisons, rng: np.random.Generator) -> Split:
    """Hold out comparisons whose items their user's fitted comparisons do not contain."""
    n = len(comparisons)
    if n == 0 or comparisons.tabular:
        held = rng.random(n) < HELD_OUT_SHARE
        return Split(~held, held)
    node = _user_item_nodes(comparisons)
    term_comparison = np.repeat(np.arange(n), np.diff(comparisons.indptr))
    component = _components(node, term_comparison, n)
    if _largest_share(component, comparisons.user, comparisons.n_users) < 0.5:
        held = (rng.random(int(component.max()) + 1) < HELD_OUT_SHARE)[component]
        return Split(~held, held)
    held_node = rng.random(int(node.max()) + 1) < HELD_OUT_ITEMS
    held_terms = np.bincount(term_comparison, held_node[node], minlength=n)
    return Split(held_terms == 0, held_terms == np.diff(comparisons.indptr))


def _user_item_nodes(c: Comparisons) -> Int:
    """(nnz,) a number for each pair of a user and an item in a context."""
    user = np.repeat(c.user, np.diff(c.indptr))
    key = (user * len(c.X) + c.rows) * len(c.Y) + c.cols
    return np.asarray(np.unique(key, return_inverse=True)[1], dtype=np.int64)


def _components(node: Int, term_comparison: Int, n: int) -> Int:
    """(n,) which connected group of its user's item graph each comparison belongs to."""
    graph = csr_array((np.ones(len(node)), (term_comparison, n + node)), shape=(n + int(node.max()) + 1,) * 2)
    return np.asarray(connected_components(graph, directed=False)[1][:n], dtype=np.int64)


def _largest_share(component: Int, user: Int, n_users: int) -> float:
    """Share of a typical comparison's user's comparisons that hang together with it."""
    sizes = np.bincount(component)[component]
    return float(np.median(sizes / np.bincount(user, minlength=n_users)[user]))


def choose(
    run: Callable[[int, float], Trial],
    *,
    ranks: tuple[int, ...],
    start: tuple[int, float],
    weights: tuple[float, ...] = WEIGHTS,
) -> Choice:
    """Walk over effective weights at one rank, then over ranks at the best weight, up while it pays and down while it
    costs nothing.

    A higher rank must gain more than one standard error over users, paired, and more than `SMALLEST_GAIN`; rank 0 is
    one model for everybody.
    """
    tried: dict[tuple[int, float], Trial] = {}

    def trial(rank: int, weight: float) -> Trial:
        key = (rank, weight if rank else 1.0)
        if key not in tried:
            tried[key] = run(*key)
        return tried[key]

    rank = min((r for r in ranks if r > 0), key=lambda r: abs(r - start[0]))
    weight = _best_weight(weights, min(weights, key=lambda w: abs(w - start[1])), lambda w: trial(rank, w).log_loss)
    for higher in ranks[ranks.index(rank) + 1 :]:
        if not _pays(trial(rank, weight), trial(higher, weight)):
            break
        rank = higher
    best = trial(rank, weight)
    for lower in ranks[: ranks.index(rank)][::-1]:
        if _pays(trial(lower, weight), best):
            break
        rank = lower
    if rank and ranks[0] == 0 and not _pays(trial(0, 1.0), trial(rank, weight)):
        rank = 0
    return Choice(rank, weight if rank else 1.0, tuple(tried.values()), _explain(tried, rank))


def _explain(tried: dict[tuple[int, float], Trial], rank: int) -> str:
    if (0, 1.0) not in tried:
        return "the rank was given; the effective weight is the best on held-out comparisons"
    candidates = (t for t in tried.values() if (t.rank == rank if rank else t.rank > 0))
    shown = min(candidates, key=lambda t: t.log_loss)
    gain, error = _paired_gain(tried[0, 1.0], shown)
    margin = f"{gain:.4f} nats a comparison, standard error {error:.4f}"
    if rank == 0:
        return (
            f"held-out comparisons show no reliable gain of rank {shown.rank} over one model for everybody ({margin})"
        )
    return f"the smallest rank not worse than the best on held-out comparisons; its gain over rank 0: {margin}"


def _best_weight(weights: tuple[float, ...], start: float, loss: Callable[[float], float]) -> float:
    begin = weights.index(start)
    best = start
    for direction in (weights[begin + 1 :], weights[:begin][::-1]):
        for weight in direction:
            if loss(weight) >= loss(best):
                break
            best = weight
    return best


def _pays(smaller: Trial, larger: Trial) -> bool:
    gain, error = _paired_gain(smaller, larger)
    return gain > max(error, SMALLEST_GAIN)


def _paired_gain(baseline: Trial, other: Trial) -> tuple[float, float]:
    """Mean gain in nats a comparison, and its standard error with users as the sampling unit."""
    difference = baseline.user_losses - other.user_losses
    active = difference[(baseline.user_losses != 0) | (other.user_losses != 0)]
    gain = float(difference.sum()) / baseline.count
    spread = float(np.sqrt(len(active) * active.var())) if len(active) > 1 else abs(float(difference.sum()))
    return gain, spread / baseline.count


def rank_ladder(d1: int, d2: int, n_users: int) -> tuple[int, ...]:
    """0 and the ranks that `auto` tries: no larger than the features, the users and the adapter's size allow."""
    top = min(d1, 16, max(1, MAX_ADAPTER_SIZE // d2))
    if n_users < 2:
        return (0,)
    return (0, *(r for r in RANKS if r < top), top)
