"""Preferences as columns, and the comparisons that the numeric core makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array, hstack, kron

from app.domain.environment import CatalogEnvironment, Environment, MdpEnvironment
from app.learning import Comparisons

Int = NDArray[np.int64]
Real = NDArray[np.float64]
Sparse = csr_array[Any, Any]

CONSTANT = 1e-9
"""Relative spread below which a feature is the same everywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class ItemTable:
    """The live items of a catalogue, in the order of their ids."""

    ids: tuple[str, ...]
    features: NDArray[np.float32]
    """(M, d1)"""
    titles: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceTable:
    """n preferences of N users over M options in C contexts, oldest first.

    A catalogue's preferences fill the first block of columns, those of an MDP the second.
    """

    user_ids: tuple[str, ...]
    user: Int
    """(n,) index into `user_ids`."""
    label: Real
    weight: Real
    occurred_at: Real
    """(n,) seconds since 1970."""

    items: NDArray[np.float32]
    """(M, d1), every option that is compared, catalogue or inline."""
    item_keys: Int
    """(M,) ascending; what identifies the option in every table of this environment."""
    chosen: Int
    rejected: Int
    """(n,) rows of `items`."""
    contexts: NDArray[np.float32]
    """(C, d2)"""
    context: Int
    """(n,) rows of `contexts`; -1 where a preference has none."""

    chosen_steps: NDArray[np.int32]
    rejected_steps: NDArray[np.int32]
    """(n, 2H): the states of a trajectory, then its actions."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def feedback_count(self) -> Int:
        """(N,) how many preferences each user has here."""
        return np.bincount(self.user, minlength=self.n_users)


UserPreferences = PreferenceTable
"""The table of one user, who is in it even without a preference."""


def comparisons(
    table: PreferenceTable,
    environment: Environment,
    *,
    absent_context: NDArray[np.floating] | None = None,
    now: float | None = None,
) -> Comparisons:
    """The comparisons of a table, in its order, with its users' indices.

    Parameters
    ----------
    table
        n preferences.
    environment
        The one that they are about.
    absent_context
        (d2,) stands in for the context of preferences that have none; by default the mean of the table's contexts,
        which says nothing about the choice.
    now
        Seconds since 1970 from which ages are counted; without it comparisons have no age.
    """
    age_seconds = None if now is None else np.maximum(now - table.occurred_at, 0.0)
    match environment:
        case MdpEnvironment():
            tables = reward_tables(environment)
            return Comparisons.from_trajectories(
                len(environment.states),
                len(environment.actions),
                table.chosen_steps,
                table.rejected_steps,
                user=table.user,
                n_users=table.n_users,
                label=table.label,
                weight=table.weight,
                age_seconds=age_seconds,
                state_table=tables.states,
                action_table=tables.actions,
            )
        case CatalogEnvironment():
            contexts, context = _contexts(table, environment, absent_context)
            return Comparisons.from_pairs(
                table.items if len(table.items) else np.zeros((1, environment.item_dim)),
                table.chosen,
                table.rejected,
                user=table.user,
                n_users=table.n_users,
                contexts=contexts,
                context=context,
                label=table.label,
                weight=table.weight,
                age_seconds=age_seconds,
            )
        case _:
            assert_never(environment)


@dataclass(frozen=True, slots=True, eq=False)
class RewardTables:
    """What an MDP's rewards are linear in; nothing stands for indicators."""

    states: Real | Sparse | None
    """(S, d1), or (H * S, d1) where rewards depend on the step; sparse where it is of indicators. Rows of terminal
    states are zero: nothing is earned."""
    actions: Real | None
    """(A, d2)"""


def reward_tables(environment: MdpEnvironment) -> RewardTables:
    """The tables of an MDP.

    Features stand beside a constant and are scaled to unit spread, so that states, actions and their interplay are all
    priced. Rewards by step are those of all steps and a difference of each step's own: what is said about one step says
    something about the others.
    """
    n_states, horizon = len(environment.states), environment.horizon
    per_step = environment.rewards == "per_step"
    states = _scaled(environment.state_features, without=environment.terminal)
    actions = _scaled(environment.action_features)
    if states is None and not environment.terminal and not per_step:
        return RewardTables(None, actions)
    going = np.ones(n_states)
    going[list(environment.terminal)] = 0.0
    if states is not None:
        states *= going[:, None]
        return RewardTables(_by_step(states, horizon).toarray() if per_step else states, actions)
    indicators = diags_array(going).tocsr()
    indicators.eliminate_zeros()
    return RewardTables(_by_step(indicators, horizon) if per_step else indicators, actions)


def _by_step(states: Real | Sparse, horizon: int) -> Sparse:
    """(H * S, (1 + H) * d1) of a table (S, d1): the columns of all steps, and those of each step."""
    every = kron(np.ones((horizon, 1)), states, format="csr")
    return csr_array(hstack([every, kron(eye_array(horizon), states)], format="csr"))


def reward_dimensions(environment: MdpEnvironment) -> int:
    """d1, the columns of the states' table."""
    features = environment.state_features
    own = len(environment.states) if features is None else 1 + features.shape[1]
    return own * (1 + environment.horizon) if environment.rewards == "per_step" else own


def _scaled(features: Real | None, *, without: Sequence[int] = ()) -> Real | None:
    """(m, 1 + f) a constant and the features with mean 0 and spread 1; a feature that never differs becomes 0."""
    if features is None:
        return None
    used = np.delete(features, list(without), axis=0) if len(without) < len(features) else features
    centre, spread = used.mean(axis=0), used.std(axis=0)
    spread[spread <= CONSTANT * (1.0 + np.abs(centre))] = np.inf
    return np.hstack([np.ones((len(features), 1)), (features - centre) / spread])


def _contexts(
    table: PreferenceTable, environment: CatalogEnvironment, absent: NDArray[np.floating] | None
) -> tuple[Real | None, Int | None]:
    """The context table with one row more, which stands for "none" and is where -1 points."""
    if environment.context_dim is None:
        return None, None
    given = np.asarray(table.contexts, dtype=np.float64)
    if absent is None:
        absent = given.mean(axis=0) if len(given) else np.zeros(environment.context_dim)
    row = np.where(table.context < 0, len(given), table.context)
    return np.vstack([given, np.asarray(absent, dtype=np.float64)[None, :]]), row
