"""Choosing the rank and how far comparisons depend on each other on held-out comparisons.

A user's comparisons often share items, so random rows would be half known. Where a user's comparisons fall into
groups that share no item (choice tasks, separate questions), whole groups are held out; where they hang together by
recurring items, a third of the user's items is held out, comparisons among those validate, and the mixed ones are
left aside. Trajectories visit the same states over and over, and their features are those states: there rows are held
out as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, stdtrit

from app.learning.arrays import Int, Real
from app.learning.comparisons import Comparisons
from app.learning.diagnostics import PersonalGain
from app.learning.metrics import gains_of_users

HELD_OUT_SHARE = 0.25
"""Share of groups held out."""
HELD_OUT_ITEMS = 0.25
"""Share of a user's items held out: 6% of the comparisons validate, 56% fit."""
DEPENDENCES = (0.0, 0.03, 0.1, 0.3, 1.0)
"""Tried, from independent comparisons to an option's recurring ones counting as one."""
RANKS = (1, 2, 4, 8, 16)
"""Ranks tried below min(d1, 16), beside that number itself and 0."""
MAX_ADAPTER_SIZE = 48
"""Largest k * d2 that `auto` tries."""
PERSONAL_GAIN = 5e-4
"""Nats a comparison below which one model for everybody is served, however sure the gain."""
SURE = 2.0
"""Standard errors that the gain over one model for everybody must exceed, unless users are known to differ; where users
are few, as many as Student's t asks."""
HANDFUL = 5
"""Users: how far fewer differ says little of others', so that even a rank that was given must surely gain."""
DOUBT = 0.5
"""Standard errors by which a rank may look worse than a lower one: trials learn from less than what is served."""
SMALLEST_GAIN = 2e-4
"""Nats a comparison: a higher rank that surely gains less is not worth its computation."""
ENOUGH_HELD_OUT = 15_000
"""Held-out comparisons that several splits are drawn for."""
MOST_SPLITS = 4
FURTHER_SPLITS = 2
"""Times as many, fresh, where the first cannot tell a personal model from one for everybody."""
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
    dependence: float
    user_losses: Real
    """(N,) summed held-out log-loss of each user, so that paired errors can be taken over users."""
    user_counts: Real
    """(N,) held-out comparisons of each user, by weight."""
    residual: bool = False
    """Users have a personal residual beside the shared directions."""

    @property
    def count(self) -> float:
        return float(self.user_counts.sum())

    @property
    def log_loss(self) -> float:
        return float(self.user_losses.sum()) / self.count


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    rank: int
    dependence: float
    trials: tuple[Trial, ...]
    reason: str
    alone: Trial | None = None
    """The best model for everybody, where one was tried."""
    personal: Trial | None = None
    """The best personal model, served or not."""
    everybody: float = 0.0
    """The dependence of the model for everybody."""
    kept: bool = False
    """From the previous model, without trials."""
    residual: bool = False
    """Users have a personal residual beside the shared directions."""


def split_comparisons(comparisons: Comparisons, rng: np.random.Generator, *, most: int = MOST_SPLITS) -> list[Split]:
    """Splits, the more the fewer comparisons one holds out: one draw of a few hundred decides nothing."""
    first = split_once(comparisons, rng)
    count = min(most, max(1, ENOUGH_HELD_OUT // max(1, int(first.validate.sum()))))
    drawn = [first, *(split_once(comparisons, rng) for _ in range(count - 1))]
    return [split for split in drawn if split.usable]


def further_splits(comparisons: Comparisons, rng: np.random.Generator, splits: Sequence[Split]) -> list[Split]:
    """Fresh ones, for the last question: what was chosen on the first looks better there than it is."""
    drawn = (split_once(comparisons, rng) for _ in range(FURTHER_SPLITS * len(splits)))
    return [split for split in drawn if split.usable]


def split_once(comparisons: Comparisons, rng: np.random.Generator) -> Split:
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
    key = (user * c.X.shape[0] + c.rows) * len(c.Y) + c.cols
    return np.asarray(np.unique(key, return_inverse=True)[1], dtype=np.int64)


def _components(node: Int, term_comparison: Int, n: int) -> Int:
    """(n,) which connected group of its user's item graph each comparison belongs to."""
    graph = csr_array((np.ones(len(node)), (term_comparison, n + node)), shape=(n + int(node.max()) + 1,) * 2)
    return np.asarray(connected_components(graph, directed=False)[1][:n], dtype=np.int64)


def _largest_share(component: Int, user: Int, n_users: int) -> float:
    """Share of a typical comparison's user's comparisons that hang together with it."""
    sizes = np.bincount(component)[component]
    return float(np.median(sizes / np.bincount(user, minlength=n_users)[user]))


class Run(Protocol):
    """A fit of one rank, dependence and kind, and what it predicts of what was held out."""

    def __call__(self, rank: int, dependence: float, *, residual: bool = False) -> Trial: ...


def choose(
    run: Run,
    *,
    ranks: tuple[int, ...],
    start: tuple[int, float],
    differ: Callable[[], bool] = lambda: False,
    again: Callable[[Trial], Trial] = lambda trial: trial,
    dependences: tuple[float, ...] = DEPENDENCES,
    residuals: Callable[[int], tuple[bool, ...]] = lambda _: (False,),
) -> Choice:
    """Walk over dependences at rank 0, from there at another one, over ranks at the best, and over dependences again.

    Items' and adapters' posteriors keep a generous rank safe, and trials learn from less than the fit will: a higher
    rank is taken unless it looks worse by half a standard error over users, paired, or surely gains nothing. To be
    told from rank 0, one model for everybody, the gain must exceed two standard errors, and stands alone. Where it does
    not, but the rank was given, or users are known to `differ`, which is asked only then, both are tried `again` on
    fresh splits, and their gain decides; of a handful of users it must be sure again.

    `residuals` says with and without which a rank may be tried. Where both may, the walk goes without, and its end is
    tried with the residual too, which is taken where it looks better: posteriors keep it safe as well.
    """
    tried: dict[tuple[int, float, bool], Trial] = {}

    def trial(rank: int, dependence: float, *, residual: bool | None = None) -> Trial:
        key = rank, dependence, residuals(rank)[0] if residual is None else residual
        if key not in tried:
            tried[key] = run(rank, dependence, residual=key[2])
        return tried[key]

    nearest = min(dependences, key=lambda d: abs(d - start[1]))
    # By itself: what is gained by believing comparisons less must not count as personal.
    alone = trial(0, _best_dependence(dependences, nearest, lambda d: trial(0, d).log_loss))
    if not any(ranks):
        return Choice(0, alone.dependence, tuple(tried.values()), "rank 0 was asked for", alone, None, alone.dependence)
    rank = min((r for r in ranks if r > 0), key=lambda r: abs(r - start[0]))
    # From there: from independence, a small step can look worse to adapters where a large one is far better.
    dependence = _best_dependence(dependences, alone.dependence, lambda d: trial(rank, d).log_loss)
    for higher in ranks[ranks.index(rank) + 1 :]:
        if not _worth(trial(rank, dependence), trial(higher, dependence)):
            break
        rank = higher
    for lower in (r for r in ranks[: ranks.index(rank)][::-1] if r):
        if _worth(trial(lower, dependence), trial(rank, dependence)):
            break
        rank = lower
    dependence = _best_dependence(dependences, dependence, lambda d: trial(rank, d).log_loss)
    personal = trial(rank, dependence)
    if len(residuals(rank)) > 1:
        personal = _beside_residual(personal, dependences, lambda d: trial(rank, d, residual=True))
    given = len([r for r in ranks if r]) == 1
    worse = not _pays(alone, personal)
    if worse and _may_gain(alone, personal) and (given or differ()):
        alone, personal = again(alone), again(personal)
        worse = not _gains_again(alone, personal, least=0.0 if given else PERSONAL_GAIN)
    best = alone if worse else personal
    reason = _explain(alone, personal, given=given, worse=worse)
    return Choice(
        best.rank,
        best.dependence,
        tuple(tried.values()),
        reason,
        alone,
        personal,
        alone.dependence,
        residual=best.residual,
    )


def _beside_residual(without: Trial, ladder: tuple[float, ...], run: Callable[[float], Trial]) -> Trial:
    """The best trial with a personal residual, or the one without it where it gains nothing.

    What a low rank leaves over looks like dependence: beside a residual there is likely less of it.
    """
    less = ladder[max(0, ladder.index(without.dependence) - 1)]
    if not _gains(without, run(less)):
        return without
    return run(_best_dependence(ladder, less, lambda dependence: run(dependence).log_loss))


def _explain(alone: Trial, personal: Trial, *, given: bool, worse: bool) -> str:
    gain, error = _paired_gain(alone, personal)
    margin = f"{gain:.4f} nats a comparison, standard error {error:.4f}"
    if given and worse:
        return f"on held-out comparisons rank {personal.rank} is no better than one model for everybody ({margin})"
    if given:
        return f"the rank was given; its gain over one model for everybody on held-out comparisons: {margin}"
    if worse:
        found = f"held-out comparisons show no reliable gain of rank {personal.rank}"
        return f"{found} over one model for everybody ({margin})"
    return f"no other rank is better on held-out comparisons, as far as they can tell; its gain over rank 0: {margin}"


def _best_dependence(ladder: tuple[float, ...], start: float, loss: Callable[[float], float]) -> float:
    begin = ladder.index(start)
    best = start
    for direction in (ladder[begin + 1 :], ladder[:begin][::-1]):
        for dependence in direction:
            if loss(dependence) >= loss(best):
                break
            best = dependence
    return best


def _worth(smaller: Trial, larger: Trial) -> bool:
    """Is the larger rank worth its computation, as far as one can tell?"""
    gain, error = _paired_gain(smaller, larger)
    return gain >= -DOUBT * error and _may_gain(smaller, larger)


def _gains(smaller: Trial, larger: Trial) -> bool:
    return _paired_gain(smaller, larger)[0] > SMALLEST_GAIN


def _may_gain(baseline: Trial, other: Trial) -> bool:
    """Is it not sure that nothing is gained?"""
    gain, error = _paired_gain(baseline, other)
    return gain + SURE * error >= SMALLEST_GAIN


def _pays(alone: Trial, personal: Trial) -> bool:
    gain, error = _paired_gain(alone, personal)
    others = max(1, int(np.count_nonzero(alone.user_counts)) - 1)
    sure = float(stdtrit(others, ndtr(SURE)))
    return gain > max(sure * error, PERSONAL_GAIN)


def _gains_again(alone: Trial, personal: Trial, *, least: float) -> bool:
    """On fresh splits, of which nothing was chosen."""
    if np.count_nonzero(alone.user_counts) < HANDFUL:
        return _pays(alone, personal)
    return _paired_gain(alone, personal)[0] > least


def _paired_gain(baseline: Trial, other: Trial) -> tuple[float, float]:
    """Mean gain in nats a comparison, and its standard error with users as the sampling unit."""
    difference = baseline.user_losses - other.user_losses
    active = difference[baseline.user_counts > 0]
    gain = float(difference.sum()) / baseline.count
    spread = float(np.sqrt(len(active) * active.var(ddof=1))) if len(active) > 1 else abs(float(difference.sum()))
    return gain, spread / baseline.count


def personal_gain(choice: Choice) -> PersonalGain | None:
    """What adapters gained over one model for everybody where both were tried; none where they were not."""
    alone, personal = choice.alone, choice.personal
    if alone is None or personal is None:
        return None
    gain, error = _paired_gain(alone, personal)
    heard = alone.user_counts > 0
    by_user = (alone.user_losses - personal.user_losses)[heard] / alone.user_counts[heard]
    return PersonalGain(
        rank=personal.rank, served=choice.rank > 0, gain=gain, gain_stderr=error, **gains_of_users(by_user)
    )


def rank_ladder(d1: int, d2: int, n_users: int) -> tuple[int, ...]:
    """0 and the ranks that `auto` tries: no larger than the features, the users and the adapter's size allow."""
    top = min(d1, 16, max(1, MAX_ADAPTER_SIZE // d2))
    if n_users < 2:
        return (0,)
    return (0, *(r for r in RANKS if r < top), top)
