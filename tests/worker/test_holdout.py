from dataclasses import replace

import numpy as np
import pytest

from app.domain.arrays import PreferenceTable
from app.worker.holdout import EVERY, MAX_SCORED_USERS, choice_groups, hold_out
from tests.support.tables import table_of


def random_table(n: int, n_users: int, *, n_items: int = 1000, seed: int = 0) -> PreferenceTable:
    rng = np.random.default_rng(seed)
    rows = [(int(rng.integers(n_users)), *rng.choice(n_items, 2, replace=False).tolist()) for _ in range(n)]
    return table_of(rows, n_users=n_users)


def first_rows(table: PreferenceTable, n: int) -> PreferenceTable:
    columns = (
        "user",
        "label",
        "weight",
        "occurred_at",
        "chosen",
        "rejected",
        "context",
        "chosen_steps",
        "rejected_steps",
    )
    return replace(table, **{name: getattr(table, name)[:n] for name in columns})


def test_a_choice_among_several_is_one_group() -> None:
    table = table_of([(0, 5, 1), (1, 5, 1), (0, 5, 2), (0, 5, 3), (0, 1, 5), (0, 1, 2), (1, 5, 2), (1, 2, 5)])
    assert choice_groups(table).tolist() == [0, 0, 0, 0, 1, 1, 0, 1]


def test_another_context_is_another_choice() -> None:
    table = table_of([(0, 5, 1), (0, 5, 2), (0, 5, 3)], context=[0, 0, 1])
    assert choice_groups(table).tolist() == [0, 0, 1]


def test_trajectories_are_told_apart_by_their_steps() -> None:
    steps = np.array([[0, 0], [0, 0], [0, 1], [0, 0]], dtype=np.int32)
    table = replace(table_of([(0, 0, 0)] * 4), chosen_steps=steps, rejected_steps=steps[:, ::-1])
    assert choice_groups(table).tolist() == [0, 0, 1, 2]


def test_a_fifth_is_held_out_in_whole_groups_and_nobody_is_left_without_training() -> None:
    table = random_table(4000, 60)
    split = hold_out(table)
    assert np.mean(~split.train) == pytest.approx(1 / EVERY, abs=0.02)
    for user in range(60):
        mine = table.user == user
        held_groups = set(split.groups[mine & ~split.train].tolist())
        assert held_groups.isdisjoint(split.groups[mine & split.train].tolist())
        assert 0 not in held_groups
    assert not (split.scored & split.train).any()


def test_what_was_held_out_stays_held_out_when_more_is_said() -> None:
    table = random_table(3000, 40)
    whole = hold_out(table)
    for n in (100, 700, 2999):
        assert hold_out(first_rows(table, n)).train.tolist() == whole.train[:n].tolist()


def test_options_that_a_user_knows_from_training_are_not_scored() -> None:
    """A over B and B over C would give A over C away."""
    table = random_table(3000, 100, n_items=300)
    split = hold_out(table)
    assert split.scored.sum() >= 0.05 * (~split.train).sum()
    known = {
        (u, item)
        for side in (table.chosen, table.rejected)
        for u, item in zip(table.user[split.train].tolist(), side[split.train].tolist(), strict=True)
    }
    for j in np.flatnonzero(split.scored):
        user = int(table.user[j])
        assert (user, int(table.chosen[j])) not in known
        assert (user, int(table.rejected[j])) not in known


def test_repetitions_of_training_are_not_scored_unless_there_is_nothing_else() -> None:
    few_items = random_table(600, 20, n_items=12)
    split = hold_out(few_items)
    seen = {
        (u, *sorted(pair))
        for u, *pair in zip(
            few_items.user[split.train].tolist(),
            few_items.chosen[split.train].tolist(),
            few_items.rejected[split.train].tolist(),
            strict=True,
        )
    }
    scored = np.flatnonzero(split.scored)
    fresh = [
        (int(few_items.user[j]), *sorted((int(few_items.chosen[j]), int(few_items.rejected[j])))) not in seen
        for j in scored
    ]
    assert all(fresh)
    two_items = table_of([(u, (j + u) % 2, (j + u + 1) % 2) for u in range(8) for j in range(20)])
    assert hold_out(two_items).scored.any()


def test_only_so_many_users_are_scored() -> None:
    table = random_table(20_000, 2 * MAX_SCORED_USERS)
    split = hold_out(table)
    assert len(np.unique(table.user[split.scored])) == MAX_SCORED_USERS


def test_nothing_is_nothing() -> None:
    table = table_of([], n_users=3)
    split = hold_out(table)
    assert len(split.train) == len(split.scored) == len(split.groups) == 0
