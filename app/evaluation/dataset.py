"""A data set in memory: items, who chose what over what, and which part each comparison plays."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from app.learning import Comparisons

Real = NDArray[np.float64]
Int = NDArray[np.int64]

FEW_SHOT_SIZES = (0, 1, 2, 4, 8, 16, 32)
"""Comparisons of an unseen user after which the methods are measured."""


class InvalidDatasetError(ValueError):
    """A data set folder cannot be read; the message names the file and the first offender."""


class Part(IntEnum):
    """What a comparison is for."""

    UNUSED = -1
    LEARN = 0
    """Seen users, to learn from."""
    TEST = 1
    """Seen users, to test on."""
    ADAPT = 2
    """Unseen users, to adapt with, in order."""
    UNSEEN_TEST = 3
    """Unseen users, to test on after adapting."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """n comparisons of N users between M items, perhaps in one of C contexts."""

    name: str
    X: Real
    """(M, d1) item features."""
    contexts: Real | None
    """(C, c) context features."""
    user: Int
    """(n,) 0 <= user < N."""
    chosen: Int
    """(n,) rows of X."""
    rejected: Int
    """(n,) rows of X."""
    context: Int | None
    """(n,) rows of contexts; None exactly if contexts is."""
    split: Int
    """(n,) a `Part` each."""
    split_rule: str
    """In a sentence, where the split came from."""
    fold: Int | None = None
    """(n,) cuts the rows to learn from for choosing a model: 0 fit, 1 validate, -1 neither."""
    time: Real | None = None
    """(n,) seconds since 1970."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return int(self.user.max()) + 1 if len(self.user) else 0

    def take(self, rows: Int) -> "Dataset":
        """The comparisons of these rows, in their order."""

        def of(column: Int | None) -> Int | None:
            return None if column is None else column[rows]

        return replace(
            self,
            user=self.user[rows],
            chosen=self.chosen[rows],
            rejected=self.rejected[rows],
            context=of(self.context),
            split=self.split[rows],
            fold=of(self.fold),
            time=None if self.time is None else self.time[rows],
        )

    def part(self, part: Part) -> "Dataset":
        return self.take(np.flatnonzero(self.split == part))

    def renumbered(self, users: Int) -> "Dataset":
        """The comparisons of these users only, who become users 0, 1, 2, ... in the order given."""
        position = np.full(max(self.n_users, int(users.max(initial=-1)) + 1), -1, dtype=np.int64)
        position[users] = np.arange(len(users))
        kept = self.take(np.flatnonzero(position[self.user] >= 0))
        return replace(kept, user=position[kept.user])

    def comparisons(self, n_users: int) -> Comparisons:
        return Comparisons.from_pairs(
            self.X,
            self.chosen,
            self.rejected,
            user=self.user,
            n_users=n_users,
            contexts=self.contexts,
            context=self.context,
            age_seconds=None if self.time is None else self.time.max(initial=0.0) - self.time,
        )


def choice_tasks(user: Int, chosen: Int) -> Int:
    """(n,) which choice task each comparison belongs to.

    A task is a run of consecutive comparisons of one user that share the chosen item: "this one rather than
    any of those" is one answer, and must not be half learnt from and half tested on.
    """
    if len(user) == 0:
        return np.empty(0, dtype=np.int64)
    order = np.argsort(user, kind="stable")
    begins = np.r_[True, (np.diff(user[order]) != 0) | (np.diff(chosen[order]) != 0)]
    tasks = np.empty(len(user), dtype=np.int64)
    tasks[order] = np.cumsum(begins) - 1
    return tasks


DERIVED_SPLIT_RULE = (
    "derived: a fifth of the users unseen; of a seen user's choice tasks (consecutive comparisons that share the "
    "chosen item) a quarter drawn to test on; of an unseen user's tasks the last quarter to test on, the earlier ones, "
    "at most 32 comparisons, to adapt with; always the same draw"
)


def derive_split(user: Int, chosen: Int) -> Int:
    """(n,) a `Part` for each comparison of a data set that has no split; see `DERIVED_SPLIT_RULE`."""
    rng = np.random.default_rng(0)
    tasks = choice_tasks(user, chosen)
    split = np.full(len(user), int(Part.UNUSED), dtype=np.int64)
    users = rng.permutation(int(user.max(initial=-1)) + 1)
    unseen = frozenset(users[: len(users) // 5].tolist())
    for one in range(len(users)):
        rows = np.flatnonzero(user == one)
        own = np.unique(tasks[rows])
        order: Callable[[Int], Int] = (lambda tasks: tasks) if one in unseen else rng.permutation
        n_test = (len(own) + 3) // 4 if len(own) > 1 else 0
        tested = np.isin(tasks[rows], order(own)[len(own) - n_test :])
        if one in unseen:
            split[rows[tested]] = Part.UNSEEN_TEST
            split[rows[~tested][: FEW_SHOT_SIZES[-1]]] = Part.ADAPT
        else:
            split[rows] = np.where(tested, int(Part.TEST), int(Part.LEARN))
    return split


def validation_rows(learn: Dataset, *, seed: int) -> tuple[Int, Int]:
    """The rows of `learn` to fit and to validate on when a strength is chosen.

    By the data set's own `fold` where it has one, since pairs made from ratings share items, and a random validation
    set is then nearly the training set. Else a fifth of each user's choice tasks, drawn by `seed`.
    """
    if learn.fold is not None and (learn.fold == 0).any() and (learn.fold == 1).any():
        return np.flatnonzero(learn.fold == 0), np.flatnonzero(learn.fold == 1)
    tasks = choice_tasks(learn.user, learn.chosen)
    n_tasks = int(tasks.max(initial=-1)) + 1
    owner = np.zeros(n_tasks, dtype=np.int64)
    owner[tasks] = learn.user
    order = np.lexsort((np.random.default_rng(seed).random(n_tasks), owner))
    first = np.searchsorted(owner[order], owner[order])
    rank = np.empty(n_tasks, dtype=np.int64)
    rank[order] = np.arange(n_tasks) - first
    size = np.bincount(owner, minlength=learn.n_users)
    validated = (rank < np.ceil(size[owner] / 5)) & (size[owner] > 1)
    return np.flatnonzero(~validated[tasks]), np.flatnonzero(validated[tasks])
