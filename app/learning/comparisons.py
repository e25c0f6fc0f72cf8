"""Comparisons: what people preferred, as arrays.

A comparison's design is a short signed sum of outer products,

    DPhi_j = sum_l  s_l  X[row_l]  Y[col_l]^T        (d1, d2)

with s_l = +1 on the chosen side and -1 on the rejected one. The designs themselves are never formed.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import eye_array

from app.learning.arrays import Int, Real, Sparse, Table, integers, real, table
from app.learning.errors import InvalidComparisonsError
from app.learning.items import content_ids


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """n comparisons of N users, with M items (or states) and C contexts (or actions)."""

    X: Table
    """(M, d1) row features, as given by the caller; sparse where they are indicators of states."""
    Y: Real
    """(C, d2) column features; [[1]] when choices have no context."""
    indptr: Int
    """(n + 1,) where each comparison's terms begin in `rows`, `cols`, `signs`."""
    rows: Int
    """(nnz,) rows of X."""
    cols: Int
    """(nnz,) rows of Y."""
    signs: Real
    """(nnz,) +1 on the chosen side, -1 on the rejected one."""
    user: Int
    """(n,) user index, 0 <= user < n_users."""
    n_users: int
    label: Real
    """(n,) in [0, 1]: how surely `chosen` was preferred; 1 is an ordinary choice, 0.5 a tie."""
    weight: Real
    """(n,) > 0."""
    age_seconds: Real | None = None
    """(n,) age of each comparison; only used with a half-life."""
    tabular: bool = False
    """X and Y are the indicators of states and actions, to be left exactly as they are."""
    item_ids: Int | None = None
    """(M,) which item each row of X is, NO_IDENTITY where it is none; None: no row has an identity."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "X", table(self.X))
        for name in ("Y", "signs", "label", "weight"):
            object.__setattr__(self, name, real(getattr(self, name)))
        for name in ("indptr", "rows", "cols", "user"):
            object.__setattr__(self, name, integers(getattr(self, name)))
        if self.age_seconds is not None:
            object.__setattr__(self, "age_seconds", real(self.age_seconds))
        if self.item_ids is not None:
            object.__setattr__(self, "item_ids", integers(self.item_ids))
        _check_tables(self)
        _check_columns(self)
        _check_terms(self)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def items(self) -> Real:
        """(M, d1) X as a dense array, which of many states would be large."""
        return self.X if isinstance(self.X, np.ndarray) else real(self.X.toarray())

    @classmethod
    def from_pairs(
        cls,
        X: ArrayLike,
        chosen: ArrayLike,
        rejected: ArrayLike,
        *,
        user: ArrayLike,
        n_users: int | None = None,
        contexts: ArrayLike | None = None,
        context: ArrayLike | None = None,
        label: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        age_seconds: ArrayLike | None = None,
        item_ids: ArrayLike | None = None,
    ) -> "Comparisons":
        """Choices between two items each, perhaps in a context.

        Parameters
        ----------
        X
            (M, d1) item features.
        item_ids
            (M,) numbers that name the rows of X from one call to the next, NO_IDENTITY (-1) for what is no item; by
            default rows with the same features are the same item.
        chosen, rejected
            (n,) rows of X.
        contexts, context
            (C, d2) context features and the (n,) row of each comparison; both or neither.
        """
        first, second, users = integers(chosen), integers(rejected), integers(user)
        if not first.shape == second.shape == users.shape:
            raise InvalidComparisonsError(
                "chosen, rejected and user must have one entry a comparison; "
                f"found {first.shape}, {second.shape} and {users.shape}."
            )
        if (contexts is None) != (context is None):
            raise InvalidComparisonsError("contexts and context belong together: give both or neither.")
        n = len(first)
        column = np.zeros(n, dtype=np.int64) if context is None else integers(context)
        if column.shape != (n,):
            raise InvalidComparisonsError(f"context must have one entry a comparison ({n}); found {column.shape}.")
        _refuse_equal_sides(first, second)
        return cls(
            X=real(X),
            Y=real([[1.0]] if contexts is None else contexts),
            indptr=2 * np.arange(n + 1),
            rows=np.column_stack([first, second]).ravel(),
            cols=np.repeat(column, 2),
            signs=np.tile([1.0, -1.0], n),
            user=users,
            n_users=_count_users(users, n_users),
            label=_default_ones(label, n),
            weight=_default_ones(weight, n),
            age_seconds=None if age_seconds is None else real(age_seconds),
            item_ids=content_ids(real(X)) if item_ids is None else integers(item_ids),
        )

    @classmethod
    def from_trajectories(
        cls,
        n_states: int,
        n_actions: int,
        chosen: ArrayLike,
        rejected: ArrayLike,
        *,
        user: ArrayLike,
        n_users: int | None = None,
        label: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        age_seconds: ArrayLike | None = None,
        state_table: ArrayLike | Sparse | None = None,
        action_table: ArrayLike | None = None,
    ) -> "Comparisons":
        """Choices between two trajectories of a tabular MDP.

        Parameters
        ----------
        chosen, rejected
            (n, 2H): the H states of a trajectory, then its H actions.
        state_table
            (S, d1) what a state's reward is linear in, by default its indicator; or (H * S, d1), step by step, where
            rewards depend on the step. Sparse tables stay sparse: nothing of size S^2 is made.
        action_table
            (A, d2) the same of actions.
        """
        first, second, users = np.atleast_2d(integers(chosen)), np.atleast_2d(integers(rejected)), integers(user)
        n, width = len(users), first.shape[1]
        if first.shape != (n, width) or second.shape != (n, width) or width % 2:
            raise InvalidComparisonsError(
                f"chosen and rejected must be (n, 2H) with n = {n}; found {first.shape} and {second.shape}."
            )
        H = width // 2
        _refuse_equal_sides(first, second)
        X = table(eye_array(n_states, format="csr") if state_table is None else state_table)
        by_step = n_states * np.arange(H) if X.shape[0] == H * n_states else 0
        return cls(
            X=X,
            Y=real(np.eye(n_actions) if action_table is None else action_table),
            indptr=width * np.arange(n + 1),
            rows=np.hstack([first[:, :H] + by_step, second[:, :H] + by_step]).ravel(),
            cols=np.hstack([first[:, H:], second[:, H:]]).ravel(),
            signs=np.tile(np.repeat([1.0, -1.0], H), n),
            user=users,
            n_users=_count_users(users, n_users),
            label=_default_ones(label, n),
            weight=_default_ones(weight, n),
            age_seconds=None if age_seconds is None else real(age_seconds),
            tabular=True,
        )

    def subset(self, selection: NDArray[np.bool_] | Int) -> "Comparisons":
        """The comparisons of a boolean mask (n,) or of row numbers, with the users' indices unchanged."""
        chosen = np.asarray(selection)
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else integers(chosen)
        lengths = np.diff(self.indptr)[index]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        terms = np.repeat(self.indptr[index] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return replace(
            self,
            indptr=indptr,
            rows=self.rows[terms],
            cols=self.cols[terms],
            signs=self.signs[terms],
            user=self.user[index],
            label=self.label[index],
            weight=self.weight[index],
            age_seconds=None if self.age_seconds is None else self.age_seconds[index],
        )

    def of_users(self, users: ArrayLike) -> "Comparisons":
        """The comparisons of these users only, who become users 0, 1, 2, ... in the order given."""
        wanted = integers(users)
        position = np.full(self.n_users, -1, dtype=np.int64)
        position[wanted] = np.arange(len(wanted))
        kept = self.subset(position[self.user] >= 0)
        return replace(kept, user=position[kept.user], n_users=len(wanted))

    def thinned(self, at_most: int) -> "Comparisons":
        """The comparisons of evenly spaced users, about `at_most` of them; all where there are no more than that."""
        stride = -(-len(self) // at_most)
        return self if stride <= 1 else self.of_users(np.arange(0, self.n_users, stride))


def _default_ones(values: ArrayLike | None, n: int) -> Real:
    return np.ones(n) if values is None else real(values)


def _count_users(user: Int, n_users: int | None) -> int:
    if n_users is not None:
        return n_users
    return int(user.max()) + 1 if len(user) else 0


def _refuse_equal_sides(chosen: Int, rejected: Int) -> None:
    same = chosen == rejected if chosen.ndim == 1 else (chosen == rejected).all(axis=1)
    if same.any():
        raise InvalidComparisonsError(
            f"comparison {int(np.argmax(same))}: chosen and rejected are the same; two different options were expected."
        )


def _check_tables(c: Comparisons) -> None:
    for name, values in (("X", c.X), ("Y", c.Y)):
        if values.ndim != 2 or values.shape[1] == 0:
            raise InvalidComparisonsError(
                f"{name} must be a table with at least one column; found shape {values.shape}."
            )
        if not isinstance(values, np.ndarray):
            _check_sparse(values, tabular=c.tabular)
            continue
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InvalidComparisonsError(
                f"{name}: row {row}, column {column} is {values[row, column]}; a finite number was expected."
            )


def _check_sparse(X: Sparse, *, tabular: bool) -> None:
    if not tabular:
        raise InvalidComparisonsError(
            "X: it is sparse; only the states of trajectories may be, items are expected dense."
        )
    if not np.isfinite(X.data).all():
        row = int(np.searchsorted(X.indptr, np.argmax(~np.isfinite(X.data)), side="right")) - 1
        raise InvalidComparisonsError(f"X: row {row} has an entry that is not a finite number.")


def _check_columns(c: Comparisons) -> None:
    n = len(c.user)
    if c.item_ids is not None and c.item_ids.shape != (c.X.shape[0],):
        raise InvalidComparisonsError(
            f"item_ids must have one entry a row of X ({c.X.shape[0]}); found shape {c.item_ids.shape}."
        )
    columns: list[tuple[str, Real | Int]] = [("user", c.user), ("label", c.label), ("weight", c.weight)]
    if c.age_seconds is not None:
        columns.append(("age_seconds", c.age_seconds))
    for name, values in columns:
        if values.shape != (n,):
            raise InvalidComparisonsError(f"{name} must have one entry a comparison ({n}); found shape {values.shape}.")
    _refuse("user", c.user, (c.user < 0) | (c.user >= c.n_users), f"0 <= user < {c.n_users}")
    _refuse("label", c.label, ~((c.label >= 0) & (c.label <= 1)), "a number between 0 and 1")
    _refuse("weight", c.weight, ~((c.weight > 0) & np.isfinite(c.weight)), "a positive number")
    if c.age_seconds is not None:
        _refuse("age_seconds", c.age_seconds, ~(c.age_seconds >= 0), "a number that is not negative")


def _refuse(name: str, values: Real | Int, bad: NDArray[np.bool_], expected: str) -> None:
    if bad.any():
        j = int(np.argmax(bad))
        raise InvalidComparisonsError(f"comparison {j}: {name} is {values[j]}; {expected} was expected.")


def _check_terms(c: Comparisons) -> None:
    n, nnz = len(c.user), len(c.rows)
    if c.indptr.shape != (n + 1,) or c.indptr[0] != 0 or c.indptr[-1] != nnz or (np.diff(c.indptr) < 0).any():
        raise InvalidComparisonsError(
            f"indptr must rise from 0 to {nnz} in {n + 1} entries; found shape {c.indptr.shape}."
        )
    if c.cols.shape != (nnz,) or c.signs.shape != (nnz,):
        raise InvalidComparisonsError(f"rows, cols and signs must have {nnz} entries each.")
    for name, index, height in (("row", c.rows, c.X.shape[0]), ("column row", c.cols, len(c.Y))):
        bad = (index < 0) | (index >= height)
        if bad.any():
            term = int(np.argmax(bad))
            j = int(np.searchsorted(c.indptr, term, side="right")) - 1
            raise InvalidComparisonsError(
                f"comparison {j}: {name} {index[term]} lies outside the table, which has {height} rows."
            )
