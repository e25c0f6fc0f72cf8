from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.learning import Comparisons, InvalidComparisonsError
from tests.support.learning_worlds import catalogue, tabular

X = np.arange(8.0).reshape(4, 2)


def pairs(**changes: object) -> Comparisons:
    given_: dict[str, object] = {"X": X, "chosen": [0, 1], "rejected": [2, 3], "user": [0, 1], **changes}
    return Comparisons.from_pairs(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pairs(chosen=[0, 9]), "comparison 1: row 9 lies outside the table, which has 4 rows."),
        (lambda: pairs(rejected=[2, -1]), "comparison 1: row -1 lies outside the table, which has 4 rows."),
        (lambda: pairs(rejected=[2, 1]), "comparison 1: chosen and rejected are the same; two different options were"),
        (lambda: pairs(user=[0, -1]), "comparison 1: user is -1; 0 <= user < 1 was expected."),
        (lambda: pairs(user=[0, 5], n_users=2), "comparison 1: user is 5; 0 <= user < 2 was expected."),
        (lambda: pairs(label=[0.5, 1.5]), "comparison 1: label is 1.5; a number between 0 and 1 was expected."),
        (lambda: pairs(label=[np.nan, 1.0]), "comparison 0: label is nan; a number between 0 and 1 was expected."),
        (lambda: pairs(weight=[1.0, 0.0]), "comparison 1: weight is 0.0; a positive number was expected."),
        (
            lambda: pairs(age_seconds=[1.0, -2.0]),
            "comparison 1: age_seconds is -2.0; a number that is not negative was",
        ),
        (lambda: pairs(X=[[0.0, np.inf]] * 4), "X: row 0, column 1 is inf; a finite number was expected."),
        (
            lambda: replace(
                Comparisons.from_trajectories(2, 2, [[0, 1, 0, 1]], [[0, 1, 0, 0]], user=[0]), Y=np.full((2, 2), np.nan)
            ),
            "Y: row 0, column 0 is nan; a finite number was expected.",
        ),
        (lambda: pairs(X=np.zeros((4, 0))), r"X must be a table with at least one column; found shape \(4, 0\)."),
        (lambda: pairs(user=[0]), "chosen, rejected and user must have one entry a comparison"),
        (lambda: pairs(label=[1.0]), r"label must have one entry a comparison \(2\)"),
        (lambda: pairs(contexts=[[1.0]]), "contexts and context belong together"),
        (lambda: pairs(contexts=[[1.0]], context=[0]), r"context must have one entry a comparison \(2\)"),
        (
            lambda: pairs(contexts=[[1.0]], context=[0, 1]),
            "comparison 1: column row 1 lies outside the table, which has 1",
        ),
        (
            lambda: Comparisons.from_trajectories(2, 2, [[0, 1, 0, 1]], [[0, 1, 0, 2]], user=[0]),
            "comparison 0: column row 2 lies outside the table, which has 2 rows.",
        ),
        (
            lambda: Comparisons.from_trajectories(2, 2, [[0, 1, 0]], [[0, 1, 1]], user=[0]),
            r"chosen and rejected must be \(n, 2H\) with n = 1",
        ),
    ],
)
def test_invalid_comparisons_are_refused_by_number_and_row(build: Callable[[], Comparisons], message: str) -> None:
    with pytest.raises(InvalidComparisonsError, match=message):
        build()


def test_arrays_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pairs().label[0] = 0.0


def test_the_callers_own_array_stays_writable() -> None:
    own = X.copy()
    pairs(X=own)
    own[0, 0] = 7.0
    assert own[0, 0] == 7.0


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 29), max_size=30))
def test_a_subset_holds_the_asked_comparisons_in_the_asked_order(rows: list[int]) -> None:
    whole = tabular(np.random.default_rng(1), n_users=3, per_user=10).comparisons
    part = whole.subset(np.array(rows, dtype=np.int64))
    assert len(part) == len(rows)
    for position, row in enumerate(rows):
        here, there = slice(*part.indptr[position : position + 2]), slice(*whole.indptr[row : row + 2])
        np.testing.assert_array_equal(part.rows[here], whole.rows[there])
        np.testing.assert_array_equal(part.cols[here], whole.cols[there])
        np.testing.assert_array_equal(part.signs[here], whole.signs[there])
        assert part.user[position] == whole.user[row]


def test_of_users_renumbers_them_in_the_order_given() -> None:
    whole = catalogue(np.random.default_rng(2), n_users=4, per_user=5).comparisons
    part = whole.of_users([3, 1])
    assert part.n_users == 2
    np.testing.assert_array_equal(np.bincount(part.user), [5, 5])
    np.testing.assert_array_equal(
        part.rows[part.indptr[:-1]][part.user == 0], whole.rows[whole.indptr[:-1]][whole.user == 3]
    )
