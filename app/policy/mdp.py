"""Tabular finite-horizon MDPs with sparse transitions.

Conventions: states s < S, actions a < A, steps h < H, all from 0. A kernel is a sparse (S * A, S) matrix whose row
s * A + a is the distribution of the next state; there is one kernel, or one a step. The last step's transition leads
nowhere and costs nothing, but its row is checked like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array

Real = NDArray[np.float64]
Int = NDArray[np.int64]
Kernel = csr_array[Any, Any]

PROBABILITY_TOLERANCE = 1e-9
"""How far a distribution's sum may be from 1: a few hundred roundings of double precision."""


class InvalidMdpError(ValueError):
    """The definition of an MDP contradicts itself; the message names the first offender."""

    def __init__(self, message: str, *, field: str, index: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        """"transitions", "initial" or "reference_policy"."""
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

    @classmethod
    def from_triples(
        cls,
        n_states: int,
        n_actions: int,
        horizon: int,
        transitions: ArrayLike | Sequence[ArrayLike],
        initial: ArrayLike,
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

        Raises
        ------
        InvalidMdpError
            An index out of range, a probability outside [0, 1], or a distribution that does not sum to 1 within 1e-9.
        ValueError
            A size below 1.
        """
        for name, size in (("n_states", n_states), ("n_actions", n_actions), ("horizon", horizon)):
            if size < 1:
                raise ValueError(f"{name}: it is {size}; it must be at least 1.")
        steps = _steps(transitions, horizon)
        kernels = tuple(
            _kernel(rows, n_states, n_actions, step if len(steps) > 1 else None) for step, rows in enumerate(steps)
        )
        return cls(n_states, n_actions, horizon, _distribution(initial, n_states), kernels)

    @classmethod
    def bandit(cls, n_actions: int) -> "FiniteHorizonMDP":
        """One state, one step: choosing an item of a catalogue."""
        kernel = csr_array(np.ones((n_actions, 1)))
        return cls(1, n_actions, 1, np.ones(1), (kernel,))

    def kernel(self, step: int) -> Kernel:
        """(S * A, S) of the move from `step` to the next."""
        return self.kernels[step if len(self.kernels) > 1 else 0]

    def uniform_policy(self) -> Real:
        """(H, S, A): any action, everywhere."""
        return np.full((self.horizon, self.n_states, self.n_actions), 1.0 / self.n_actions)

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
        bad = ~np.isfinite(full).all(axis=2) | (full < 0).any(axis=2)
        bad |= np.abs(full.sum(axis=2) - 1.0) > PROBABILITY_TOLERANCE
        if bad.any():
            step, state = (int(i) for i in np.argwhere(bad)[0])
            raise InvalidMdpError(
                f"reference_policy: the action probabilities in state {state}, step {step} sum to "
                f"{full[step, state].sum():.12g}; they must be non-negative and sum to 1 within "
                f"{PROBABILITY_TOLERANCE:g}.",
                field="reference_policy",
                index=state,
            )
        return np.asarray(full / full.sum(axis=2, keepdims=True))


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


def _kernel(rows: Real, n_states: int, n_actions: int, step: int | None) -> Kernel:
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
    totals = np.bincount(pairs, weights=probability, minlength=n_states * n_actions)
    wrong = np.flatnonzero(np.abs(totals - 1.0) > PROBABILITY_TOLERANCE)
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
