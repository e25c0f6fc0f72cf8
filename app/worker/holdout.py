"""Which comparisons a refit holds out to judge models by.

Whole choice groups are held out: a choice among several options is recorded as several comparisons with the same chosen
option, and half of a choice gives the other half away. A user's g-th group is held out or not for good, whatever comes
after it: so what is held out today was held out by every earlier refit, and the current model's evaluated twin (see
`app.worker.evaluation`) has not seen it either. A user's first group is never held out.

Of what is held out, what training gives away is not scored, as long as enough is left: comparisons of options that the
same user compared in training, because A over B and B over C say who wins between A and C without any taste being
learnt; or at least the very same comparisons over again.
"""

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from app.domain.arrays import PreferenceTable

Int = NDArray[np.int64]
Mask = NDArray[np.bool_]

EVERY = 5
"""One group in so many is held out: a fifth of the comparisons."""

FEWEST_SCORED = 20
"""With fewer held-out comparisons nobody can tell two models apart."""

FEWEST_SHARE = 0.05
"""Of the held-out comparisons; fewer would not stand for them."""

MAX_SCORED_USERS = 1000
"""Held-out comparisons of more users are not scored: these tell models apart well enough, and each costs a solve."""


@dataclass(frozen=True, slots=True, eq=False)
class HoldOut:
    train: Mask
    """(n,)"""
    scored: Mask
    """(n,) held out, and not given away by what its user said in training."""
    groups: Int
    """(n,) number of the comparison's choice group within its user."""


def hold_out(table: PreferenceTable) -> HoldOut:
    """Split preferences, oldest first, into those to learn from and those to score."""
    groups = choice_groups(table)
    turn = np.array([1 + crc32(user.encode()) % (EVERY - 1) for user in table.user_ids], dtype=np.int64)
    held = groups % EVERY == turn[table.user] if len(table) else np.zeros(0, dtype=np.bool_)
    enough = max(FEWEST_SCORED, FEWEST_SHARE * float(held.sum()))
    candidates = (held & ~given_away for given_away in (_of_known_options(table, ~held), _repeats(table, ~held)))
    scored = next((fresh for fresh in candidates if fresh.sum() >= enough), held)
    return HoldOut(~held, scored & _is_of_scored_user(table, scored), groups)


def choice_groups(table: PreferenceTable) -> Int:
    """(n,) 0, 1, 2, ... within each user: successive comparisons with the same chosen option and context are one."""
    chosen, _ = _sides(table)
    order = np.argsort(table.user, kind="stable")
    columns = np.stack([table.user[order], chosen[order], table.context[order]])
    begins = np.ones(len(table), dtype=np.bool_)
    begins[1:] = (columns[:, 1:] != columns[:, :-1]).any(axis=0)
    running = np.cumsum(begins)
    first = np.searchsorted(columns[0], columns[0])
    groups = np.empty(len(table), dtype=np.int64)
    groups[order] = running - running[first] if len(table) else 0
    return groups


def _sides(table: PreferenceTable) -> tuple[Int, Int]:
    """(n,) numbers that identify the options that were compared."""
    if not table.chosen_steps.shape[1]:
        return table.chosen, table.rejected
    both = np.vstack([table.chosen_steps, table.rejected_steps])
    number = np.unique(both, axis=0, return_inverse=True)[1].reshape(2, -1).astype(np.int64)
    return number[0], number[1]


def _repeats(table: PreferenceTable, train: Mask) -> Mask:
    """(n,) whether the same user compares the same two options in the same context in training, in either order."""
    chosen, rejected = _sides(table)
    low, high = np.minimum(chosen, rejected), np.maximum(chosen, rejected)
    rows = np.stack([table.user, low, high, table.context], axis=1)
    number = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    return np.asarray(np.isin(number, number[train]))


def _of_known_options(table: PreferenceTable, train: Mask) -> Mask:
    """(n,) whether the same user compares either option in training, in whatever context."""
    sides = np.stack(_sides(table))
    number = np.unique(table.user * (int(sides.max(initial=0)) + 1) + sides, return_inverse=True)[1].reshape(2, -1)
    return np.asarray(np.isin(number, number[:, train]).any(axis=0))


def _is_of_scored_user(table: PreferenceTable, scored: Mask) -> Mask:
    """(n,) whether the user is among those who are scored, spread evenly over all."""
    users = np.unique(table.user[scored])
    if len(users) > MAX_SCORED_USERS:
        users = users[np.linspace(0, len(users) - 1, MAX_SCORED_USERS).astype(np.int64)]
    return np.asarray(np.isin(table.user, users))
