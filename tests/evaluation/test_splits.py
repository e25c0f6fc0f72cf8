import numpy as np
import pytest

from app.evaluation import Part, choice_tasks, derive_split
from app.evaluation.dataset import Dataset, Int, validation_rows


def tasks_of(n_users: int, n_tasks: int, size: int = 3) -> tuple[Int, Int]:
    """Users and chosen items of n_tasks choice tasks each, `size` comparisons a task."""
    user = np.repeat(np.arange(n_users), n_tasks * size)
    chosen = np.tile(np.repeat(np.arange(n_tasks), size), n_users)
    return user, chosen


def learnt(user: Int, chosen: Int, fold: Int | None = None) -> Dataset:
    return Dataset(
        name="drawn",
        X=np.eye(100),
        contexts=None,
        user=user,
        chosen=chosen,
        rejected=chosen + 1,
        context=None,
        split=np.zeros(len(user), dtype=np.int64),
        split_rule="",
        fold=fold,
    )


def test_a_choice_task_is_a_run_of_one_users_comparisons_with_one_chosen_item() -> None:
    user = np.array([0, 0, 1, 0, 1, 0, 0])
    chosen = np.array([5, 5, 5, 7, 5, 7, 5])
    tasks = choice_tasks(user, chosen)
    groups = {tuple(np.flatnonzero(tasks == task).tolist()) for task in np.unique(tasks)}
    assert groups == {(0, 1), (3, 5), (6,), (2, 4)}


def test_a_fifth_of_the_users_is_unseen_and_nobody_is_both() -> None:
    user, chosen = tasks_of(50, 8)
    split = derive_split(user, chosen)
    seen = np.unique(user[np.isin(split, [Part.LEARN, Part.TEST])])
    unseen = np.unique(user[np.isin(split, [Part.ADAPT, Part.UNSEEN_TEST])])
    assert len(unseen) == 10
    assert not np.intersect1d(seen, unseen).size
    assert len(seen) == 40


def test_a_seen_user_is_tested_on_a_quarter_of_whole_tasks() -> None:
    user, chosen = tasks_of(50, 8)
    split, tasks = derive_split(user, chosen), choice_tasks(user, chosen)
    for task in np.unique(tasks):
        assert len(np.unique(split[tasks == task])) == 1
    for one in np.unique(user[split == Part.LEARN]):
        assert (split[user == one] == Part.TEST).sum() == 2 * 3


def test_an_unseen_user_adapts_to_the_earlier_tasks_and_at_most_32_comparisons() -> None:
    user, chosen = tasks_of(10, 20)
    split = derive_split(user, chosen)
    for one in np.unique(user[split == Part.ADAPT]):
        own = split[user == one]
        assert own.tolist() == [Part.ADAPT] * 32 + [Part.UNUSED] * 13 + [Part.UNSEEN_TEST] * 15


def test_the_derived_split_is_always_the_same_draw() -> None:
    user, chosen = tasks_of(30, 6)
    np.testing.assert_array_equal(derive_split(user, chosen), derive_split(user, chosen))


def test_a_user_with_one_task_is_never_tested_on_what_was_learnt() -> None:
    split = derive_split(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))
    assert split.tolist() == [Part.LEARN] * 3


def test_validation_rows_are_a_fifth_of_each_users_whole_tasks() -> None:
    user, chosen = tasks_of(6, 10)
    learn = learnt(user, chosen)
    fit, validate = validation_rows(learn, seed=1)
    assert sorted([*fit, *validate]) == list(range(len(learn)))
    tasks = choice_tasks(user, chosen)
    assert not np.intersect1d(tasks[fit], tasks[validate]).size
    np.testing.assert_array_equal(np.bincount(user[validate]), np.full(6, 2 * 3))


def test_validation_differs_by_seed_only() -> None:
    learn = learnt(*tasks_of(6, 10))
    np.testing.assert_array_equal(validation_rows(learn, seed=1)[1], validation_rows(learn, seed=1)[1])
    assert not np.array_equal(validation_rows(learn, seed=1)[1], validation_rows(learn, seed=2)[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_data_sets_own_fold_is_used_where_there_is_one(seed: int) -> None:
    user, chosen = tasks_of(2, 3, size=1)
    fit, validate = validation_rows(learnt(user, chosen, np.array([0, 1, -1, 0, 0, 1])), seed=seed)
    assert fit.tolist() == [0, 3, 4]
    assert validate.tolist() == [1, 5]
