"""Tabular finite-horizon MDPs with sparse transitions.

Conventions: states s < S, actions a < A, steps h < H, all from 0. A kernel is a sparse (S * A, S) matrix whose row
s * A + a is the distribution of the next state; there is one kernel, or one a step. The last step's transition leads
nowhere and costs nothing, but its row is checked like any other. An action that cannot be taken in a state has an empty
row. A state without any action is terminal: the episode ends there, and nothing more is earned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

Real = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
Kernel = csr_array[Any, Any]

PROBABILITY_TOLERANCE = 1e-9
"""How far a distribution's sum may be from 1: a few hundred roundings of double precision."""


class InvalidMdpError(ValueError):
    """The definition of an MDP contradicts itself; the message names the first offender."""

    def __init__(self, message: str, *, field: str, index: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        """The argument: "transitions", "initial", "unavailable", "terminal", "state_features", "action_features" or
        "reference_policy"."""
        self.index = index
        """The offending row of the list that was given, where there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class FiniteHorizonMDP:
    """An MDP without rewards: those belong to a user."""

    n_states: int
    n_actions: int
    horizon: int
    initial: Real
    """(S,)"""
    kernels: tuple[Kernel, ...]
    """One (S * A, S) matrix, or H of them."""
    available: Bool | None = None
    """(S, A) which actions there are, none in a terminal state; nothing where all are everywhere."""
    state_features: Real | None = None
    """(S, d1), if rewards are functions of features."""
    action_features: Real | None = None
    """(A, d2)"""

    @classmethod
    def from_triples(
        cls,
        n_states: int,
        n_actions: int,
        horizon: int,
        transitions: ArrayLike | Sequence[ArrayLike],
        initial: ArrayLike,
        *,
        unavailable: ArrayLike = (),
        terminal: ArrayLike = (),
        state_features: ArrayLike | None = None,
        action_features: ArrayLike | None = None,
    ) -> "FiniteHorizonMDP":
        """Build and check an MDP from rows [s, a, s2, p].

        Parameters
        ----------
        n_states, n_actions, horizon
            S, A and H.
        transitions
            One (rows, 4) array, or a sequence of H such arrays; rows of the same (s, a, s2) add up.
        initial
            (S,) distribution of the first state.
        unavailable
            (rows, 2) pairs [s, a] that cannot be chosen; they have no transitions.
        terminal
            States in which the episode ends; they have no actions and no transitions.
        state_features, action_features
            (S, d1) and (A, d2), where rewards are functions of them: then they extend to pairs nobody has seen.

        Raises
        ------
        InvalidMdpError
            An index out of range, a probability outside [0, 1], a distribution that does not sum to 1 within 1e-9, a
            transition out of a pair that cannot be chosen, a state that is left without actions but not terminal, or
            features that are not finite numbers, one row a state or action.
        ValueError
            A size below 1.
        """
        for name, size in (("n_states", n_states), ("n_actions", n_actions), ("horizon", horizon)):
            if size < 1:
                raise ValueError(f"{name}: it is {size}; it must be at least 1.")
        steps = _steps(transitions, horizon)
        available = _available(n_states, n_actions, unavailable, terminal)
        kernels = tuple(
            _kernel(rows, n_states, n_actions, available, step if len(steps) > 1 else None)
            for step, rows in enumerate(steps)
        )
        return cls(
            n_states,
            n_actions,
            horizon,
            _distribution(initial, n_states),
            kernels,
            None if available.all() else available,
            _features(state_features, "state_features", "state", n_states),
            _features(action_features, "action_features", "action", n_actions),
        )

    @classmethod
    def bandit(cls, n_actions: int) -> "FiniteHorizonMDP":
        """One state, one step: choosing an item of a catalogue."""
        return cls.contextual_bandit([1.0], n_actions)

    @classmethod
    def contextual_bandit(cls, contexts: ArrayLike, n_actions: int) -> "FiniteHorizonMDP":
        """One step: choosing an item in each of several contexts, which come with probabilities `contexts` (S,).

        Planning over all contexts at once lets the worst reward of the set be one and the same for all of them, so
        that their uncertainties may cancel; caution in each context by itself is a `bandit` a context.
        """
        initial = _distribution(contexts, np.size(contexts))
        # The only step's transition leads nowhere; one entry a row keeps the kernel a kernel.
        rows = np.arange(initial.size * n_actions)
        kernel = csr_array((np.ones(rows.size), (rows, np.zeros_like(rows))), shape=(rows.size, initial.size))
        return cls(initial.size, n_actions, 1, initial, (kernel,))

    def kernel(self, step: int) -> Kernel:
        """(S * A, S) of the move from `step` to the next."""
        return self.kernels[step if len(self.kernels) > 1 else 0]

    def uniform_policy(self) -> Real:
        """(H, S, A): any action that there is, everywhere; zeros in terminal states."""
        shape = (self.horizon, self.n_states, self.n_actions)
        if self.available is None:
            return np.full(shape, 1.0 / self.n_actions)
        return np.broadcast_to(self.available / np.maximum(self.available.sum(axis=1, keepdims=True), 1), shape).copy()

    @property
    def terminal(self) -> Bool:
        """(S,) where the episode ends."""
        if self.available is None:
            return np.zeros(self.n_states, dtype=np.bool_)
        return np.asarray(~self.available.any(axis=1))

    def policy(self, given: ArrayLike) -> Real:
        """Check a stochastic policy (S, A) or (H, S, A) and return it as (H, S, A).

        Raises
        ------
        InvalidMdpError
            A wrong shape, or a row that is not a distribution.
        """
        policy = np.asarray(given, dtype=np.float64)
        shape = (self.horizon, self.n_states, self.n_actions)
        if policy.shape not in {shape, shape[1:]}:
            raise InvalidMdpError(
                f"reference_policy: its shape is {policy.shape}; it must be {shape[1:]} or {shape}.",
                field="reference_policy",
            )
        full = np.broadcast_to(policy, shape)
        totals = full.sum(axis=2)
        bad = ~np.isfinite(full).all(axis=2) | (full < 0).any(axis=2) | (np.abs(totals - 1.0) > PROBABILITY_TOLERANCE)
        bad &= ~self.terminal
        if bad.any():
            step, state = (int(i) for i in np.argwhere(bad)[0])
            raise InvalidMdpError(
                f"reference_policy: the action probabilities in state {state}, step {step} sum to "
                f"{full[step, state].sum():.12g}; they must be non-negative and sum to 1 within "
                f"{PROBABILITY_TOLERANCE:g}.",
                field="reference_policy",
                index=state,
            )
        if self.available is None:
            return np.asarray(full / totals[:, :, None])
        impossible = (full > 0) & ~self.available & ~self.terminal[:, None]
        if impossible.any():
            step, state, action = (int(i) for i in np.argwhere(impossible)[0])
            raise InvalidMdpError(
                f"reference_policy: action {action} has the probability {full[step, state, action]:.12g} in state "
                f"{state}, step {step}; it cannot be taken there, so it must be 0.",
                field="reference_policy",
                index=state,
            )
        return np.where(self.available, full / np.where(self.terminal, 1.0, totals)[:, :, None], 0.0)


def _available(n_states: int, n_actions: int, unavailable: ArrayLike, terminal: ArrayLike) -> Bool:
    available = np.ones((n_states, n_actions), dtype=np.bool_)
    pairs = _indices(unavailable, "unavailable", ("state", "action"), (n_states, n_actions))
    available[pairs[:, 0], pairs[:, 1]] = False
    empty = np.flatnonzero(~available.any(axis=1))
    ended = _indices(np.reshape(terminal, (-1, 1)), "terminal", ("state",), (n_states,))[:, 0]
    stuck = np.setdiff1d(empty, ended)
    if stuck.size:
        raise InvalidMdpError(
            f"unavailable: state {stuck[0]} is left without any action; one must remain, or the state be terminal.",
            field="unavailable",
            index=int(np.flatnonzero(pairs[:, 0] == stuck[0])[0]),
        )
    available[ended] = False
    return available


def _indices(given: ArrayLike, field: str, names: tuple[str, ...], sizes: tuple[int, ...]) -> Int:
    """(rows, len(names)) whole numbers below `sizes`."""
    rows = np.asarray(given, dtype=np.float64)
    rows = rows.reshape(0, len(names)) if rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise InvalidMdpError(f"{field}: every row must be [{', '.join(names)}].", field=field)
    outside = ~((rows >= 0) & (rows < np.array(sizes)) & (rows == np.floor(rows)))
    if outside.any():
        row, column = (int(i) for i in np.argwhere(outside)[0])
        raise InvalidMdpError(
            f"{field}: row {row}: the {names[column]} is {rows[row, column]:g}; it must be a whole number from 0 to "
            f"{sizes[column] - 1}.",
            field=field,
            index=row,
        )
    return rows.astype(np.int64)


def _features(given: ArrayLike | None, field: str, name: str, n: int) -> Real | None:
    if given is None:
        return None
    features = np.asarray(given, dtype=np.float64)
    if features.ndim != 2 or len(features) != n:
        raise InvalidMdpError(
            f"{field}: the shape is {features.shape}; it must be ({n}, d), a row a {name}.", field=field
        )
    bad = np.argwhere(~np.isfinite(features))
    if bad.size:
        row, column = (int(i) for i in bad[0])
        raise InvalidMdpError(
            f"{field}: entry {column} of {name} {row} is {features[row, column]}; it must be a finite number.",
            field=field,
            index=row,
        )
    return features


def _steps(transitions: ArrayLike | Sequence[ArrayLike], horizon: int) -> list[Real]:
    if isinstance(transitions, np.ndarray):
        steps = [transitions] if transitions.ndim == 2 else list(transitions)
    else:
        first = np.asarray(transitions[0], dtype=np.float64) if len(transitions) else np.empty(0)  # type: ignore[arg-type,index]
        steps = [np.asarray(transitions)] if first.ndim < 2 else [np.asarray(rows) for rows in transitions]  # type: ignore[union-attr]
    if len(steps) not in {1, horizon}:
        raise InvalidMdpError(
            f"transitions: {len(steps)} lists were given; there must be one for all steps, or one for each of the "
            f"{horizon} steps.",
            field="transitions",
        )
    return [np.asarray(rows, dtype=np.float64) for rows in steps]


def _kernel(rows: Real, n_states: int, n_actions: int, available: Bool, step: int | None) -> Kernel:
    at = "" if step is None else f", step {step}"
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InvalidMdpError(
            "transitions: every row must be [state, action, next state, probability].", field="transitions"
        )
    limits = np.array([n_states, n_actions, n_states], dtype=np.float64)
    indices, probability = rows[:, :3], rows[:, 3]
    outside = ~((indices >= 0) & (indices < limits) & (indices == np.floor(indices)))
    if outside.any():
        row, column = (int(i) for i in np.argwhere(outside)[0])
        name = ("state", "action", "next state")[column]
        raise InvalidMdpError(
            f"transitions: row {row}{at}: the {name} is {indices[row, column]:g}; it must be a whole number from 0 to "
            f"{limits[column] - 1:g}.",
            field="transitions",
            index=row,
        )
    improper = ~((probability >= 0) & (probability <= 1 + PROBABILITY_TOLERANCE))
    if improper.any():
        row = int(np.flatnonzero(improper)[0])
        raise InvalidMdpError(
            f"transitions: row {row}{at}: the probability is {probability[row]:g}; it must lie in [0, 1].",
            field="transitions",
            index=row,
        )
    pairs = (indices[:, 0] * n_actions + indices[:, 1]).astype(np.int64)
    impossible = np.flatnonzero(~available.ravel()[pairs])
    if impossible.size:
        row = int(impossible[0])
        state, action = divmod(int(pairs[row]), n_actions)
        raise InvalidMdpError(
            f"transitions: row {row}{at}: it leads out of state {state}, action {action}, which cannot be chosen: the "
            f"state is terminal or the action unavailable.",
            field="transitions",
            index=row,
        )
    totals = np.bincount(pairs, weights=probability, minlength=n_states * n_actions)
    wrong = np.flatnonzero((np.abs(totals - 1.0) > PROBABILITY_TOLERANCE) & available.ravel())
    if wrong.size:
        state, action = divmod(int(wrong[0]), n_actions)
        given = np.flatnonzero(pairs == wrong[0])
        raise InvalidMdpError(
            f"transitions: the probabilities out of state {state}, action {action}, step {step or 0} sum to "
            f"{totals[wrong[0]]:.12g}; they must sum to 1 within {PROBABILITY_TOLERANCE:g}.",
            field="transitions",
            index=int(given[0]) if given.size else None,
        )
    coordinates = (pairs, indices[:, 2].astype(np.int64))
    return csr_array(coo_array((probability / totals[pairs], coordinates), shape=(n_states * n_actions, n_states)))


def _distribution(initial: ArrayLike, n_states: int) -> Real:
    values = np.asarray(initial, dtype=np.float64)
    if values.shape != (n_states,):
        raise InvalidMdpError(
            f"initial: {values.size} probabilities were given; there are {n_states} states.", field="initial"
        )
    negative = np.flatnonzero(~(values >= 0))
    if negative.size:
        raise InvalidMdpError(
            f"initial: the probability of state {negative[0]} is {values[negative[0]]:g}; it must lie in [0, 1].",
            field="initial",
            index=int(negative[0]),
        )
    if abs(values.sum() - 1.0) > PROBABILITY_TOLERANCE:
        raise InvalidMdpError(
            f"initial: the probabilities sum to {values.sum():.12g}; they must sum to 1 within "
            f"{PROBABILITY_TOLERANCE:g}.",
            field="initial",
        )
    return np.asarray(values / values.sum())
