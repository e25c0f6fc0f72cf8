"""MDPs and trajectories: what JSON says by name or index becomes index arrays, checked on the way."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.schemas.environments import MdpDefinition
from app.api.validation import quoted
from app.domain import InvalidInputError, MdpEnvironment, RefitPolicy, TrajectoryOption
from app.policy import FiniteHorizonMDP, InvalidMdpError

SUM_TOLERANCE = 1e-9
"""How far probabilities may be from summing to 1: what is left of rounding decimal fractions."""

LARGEST_TABLE = 4_000_000
"""Entries of a policy, states x actions x horizon: 32 MB of probabilities."""


def mdp_environment(name: str, body: MdpDefinition) -> MdpEnvironment:
    """The domain's environment, with an MDP that planning will accept."""
    states = _names(body.states, "states")
    actions = _names(body.actions, "actions")
    if len(states) * len(actions) * body.horizon > LARGEST_TABLE:
        raise InvalidInputError(
            f"states x actions x horizon: expected at most {LARGEST_TABLE:,}; "
            f"found {len(states) * len(actions) * body.horizon:,}.",
            pointer="/horizon",
        )
    if body.rank != "auto" and body.rank > len(states):
        raise InvalidInputError(
            f"rank: expected at most {len(states)}, the number of states; found {body.rank}.", pointer="/rank"
        )
    environment = MdpEnvironment(
        name=name,
        states=states,
        actions=actions,
        horizon=body.horizon,
        initial=_initial(body.initial, len(states)),
        transitions=_transitions(body.transitions, states, actions, body.horizon),
        reference_policy=_reference(body.reference_policy, len(states), len(actions), body.horizon),
        rank=body.rank,
        confidence=body.confidence,
        refit=RefitPolicy(body.refit.every_seconds, body.refit.min_new_preferences),
    )
    _check_as_mdp(environment)
    return environment


def _names(given: int | list[str], field: str) -> tuple[str, ...]:
    if isinstance(given, int):
        return tuple(str(index) for index in range(given))
    seen: set[str] = set()
    for index, name in enumerate(given):
        if name in seen:
            raise InvalidInputError(f'{field}: "{name}" is listed twice.', pointer=f"/{field}/{index}")
        seen.add(name)
    return tuple(given)


def _initial(given: list[float] | None, n_states: int) -> NDArray[np.float64]:
    if given is None:
        return np.full(n_states, 1 / n_states)
    if len(given) != n_states:
        raise InvalidInputError(
            f"initial: expected {n_states} probabilities, one a state; found {len(given)}.", pointer="/initial"
        )
    return np.array(given, dtype=np.float64)


def _transitions(
    given: list[Any], states: Sequence[str], actions: Sequence[str], horizon: int
) -> tuple[NDArray[np.float64], ...]:
    """One (rows, 4) array, or H of them where the body has a list of rows a step."""
    reader = _Names(states, actions)
    first = given[0]
    if not (isinstance(first, list) and first and isinstance(first[0], list)):
        return (reader.rows(given, "/transitions"),)
    if len(given) != horizon:
        raise InvalidInputError(
            f"transitions: expected one list of rows, or {horizon} of them, one a step; found {len(given)}.",
            pointer="/transitions",
        )
    return tuple(reader.rows(step, f"/transitions/{index}") for index, step in enumerate(given))


class _Names:
    """Finds states and actions by name or index."""

    def __init__(self, states: Sequence[str], actions: Sequence[str]) -> None:
        self._states = {name: index for index, name in enumerate(states)}
        self._actions = {name: index for index, name in enumerate(actions)}

    def state(self, given: Any, pointer: str) -> int:
        return _found(given, self._states, "state", pointer)

    def action(self, given: Any, pointer: str) -> int:
        return _found(given, self._actions, "action", pointer)

    def rows(self, given: Any, pointer: str) -> NDArray[np.float64]:
        if not isinstance(given, list) or not given:
            raise InvalidInputError(
                f"{pointer}: expected rows [state, action, next state, probability]; found {quoted(given)}.",
                pointer=pointer,
            )
        return np.array([self._row(row, f"{pointer}/{index}") for index, row in enumerate(given)], dtype=np.float64)

    def _row(self, row: Any, pointer: str) -> tuple[int, int, int, float]:
        if not isinstance(row, list) or len(row) != 4:
            raise InvalidInputError(
                f"{pointer}: expected [state, action, next state, probability]; found {quoted(row)}.", pointer=pointer
            )
        return (
            self.state(row[0], f"{pointer}/0"),
            self.action(row[1], f"{pointer}/1"),
            self.state(row[2], f"{pointer}/2"),
            _probability(row[3], f"{pointer}/3"),
        )


def _found(given: Any, known: dict[str, int], noun: str, pointer: str) -> int:
    """By its name; a number is an index."""
    if isinstance(given, str) and given in known:
        return known[given]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(known):
        return given
    raise InvalidInputError(
        f"{pointer}: there is no {noun} {quoted(given)}; expected a name, or an index from 0 to {len(known) - 1}.",
        pointer=pointer,
    )


def _probability(given: Any, pointer: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise InvalidInputError(
            f"{pointer}: expected a probability from 0 to 1; found {quoted(given)}.", pointer=pointer
        )
    return float(given)


def _reference(given: Any, n_states: int, n_actions: int, horizon: int) -> Any:
    """(S, A) or (H, S, A) probabilities, or the word that says where they come from."""
    if isinstance(given, str):
        return given
    stepwise = bool(given and isinstance(given[0], list) and given[0] and isinstance(given[0][0], list))
    if not stepwise:
        return _policy_table(given, n_states, n_actions, "/reference_policy")
    if len(given) != horizon:
        raise InvalidInputError(
            f"reference_policy: expected {horizon} tables, one a step; found {len(given)}.", pointer="/reference_policy"
        )
    return np.stack(
        [_policy_table(table, n_states, n_actions, f"/reference_policy/{index}") for index, table in enumerate(given)]
    )


def _policy_table(given: Any, n_states: int, n_actions: int, pointer: str) -> NDArray[np.float64]:
    if not isinstance(given, list) or len(given) != n_states:
        raise InvalidInputError(
            f"{pointer}: expected {n_states} rows, one a state; found {quoted(given)}.", pointer=pointer
        )
    return np.array([_policy_row(row, n_actions, f"{pointer}/{index}") for index, row in enumerate(given)])


def _policy_row(row: Any, n_actions: int, pointer: str) -> list[float]:
    if not isinstance(row, list) or len(row) != n_actions:
        raise InvalidInputError(
            f"{pointer}: expected {n_actions} probabilities, one an action; found {quoted(row)}.", pointer=pointer
        )
    probabilities = [_probability(value, f"{pointer}/{index}") for index, value in enumerate(row)]
    if abs(sum(probabilities) - 1) > SUM_TOLERANCE:
        raise InvalidInputError(
            f"{pointer}: the probabilities sum to {sum(probabilities):.12g}; they must sum to 1 within "
            f"{SUM_TOLERANCE:g}.",
            pointer=pointer,
        )
    return probabilities


def _check_as_mdp(environment: MdpEnvironment) -> None:
    transitions = environment.transitions
    try:
        FiniteHorizonMDP.from_triples(
            len(environment.states),
            len(environment.actions),
            environment.horizon,
            transitions[0] if len(transitions) == 1 else list(transitions),
            initial=environment.initial,
        )
    except InvalidMdpError as error:
        # A row's index alone does not say which step's list it is in.
        place = "" if error.index is None or len(transitions) > 1 else f"/{error.index}"
        raise InvalidInputError(str(error), pointer=f"/{error.field}{place}") from error


class TrajectoryReader:
    """Turns `[[state, action], ...]` into a trajectory that the environment's MDP can take."""

    def __init__(self, environment: MdpEnvironment) -> None:
        self._horizon = environment.horizon
        self._states = environment.states
        self._actions = environment.actions
        self._names = _Names(environment.states, environment.actions)
        self._possible = [_possible(rows) for rows in environment.transitions]

    def read(self, steps: Sequence[Any], pointer: str) -> TrajectoryOption:
        if len(steps) != self._horizon:
            raise InvalidInputError(
                f"{pointer}: expected {self._horizon} steps, the environment's horizon; found {len(steps)}.",
                pointer=pointer,
            )
        pairs = [self._step(step, f"{pointer}/{index}") for index, step in enumerate(steps)]
        for index, (pair, following) in enumerate(pairwise(pairs), start=1):
            possible = self._possible[min(index - 1, len(self._possible) - 1)]
            if (*pair, following[0]) not in possible:
                raise InvalidInputError(
                    f"{pointer}/{index}: state {self._states[following[0]]} cannot follow state "
                    f"{self._states[pair[0]]} and action {self._actions[pair[1]]}.",
                    pointer=f"{pointer}/{index}",
                )
        return TrajectoryOption(tuple(state for state, _ in pairs), tuple(action for _, action in pairs))

    def _step(self, step: Any, pointer: str) -> tuple[int, int]:
        if not isinstance(step, list) or len(step) != 2:
            raise InvalidInputError(f"{pointer}: expected [state, action]; found {quoted(step)}.", pointer=pointer)
        return self._names.state(step[0], f"{pointer}/0"), self._names.action(step[1], f"{pointer}/1")


def _possible(rows: NDArray[np.float64]) -> frozenset[tuple[int, int, int]]:
    likely = rows[rows[:, 3] > 0, :3].astype(int)
    return frozenset((state, action, following) for state, action, following in likely.tolist())


def definition_of(environment: MdpEnvironment) -> dict[str, Any]:
    """As a client would put it: with names, and integers where indices are meant."""
    steps = [[[int(s), int(a), int(t), p] for s, a, t, p in rows.tolist()] for rows in environment.transitions]
    reference = environment.reference_policy
    return {
        "states": list(environment.states),
        "actions": list(environment.actions),
        "horizon": environment.horizon,
        "initial": environment.initial.tolist(),
        "transitions": steps[0] if len(steps) == 1 else steps,
        "reference_policy": reference if isinstance(reference, str) else reference.tolist(),
    }
