"""MDPs and trajectories: what JSON says by name or index becomes index arrays, checked on the way."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.api.schemas.base import MAX_DIM
from app.api.schemas.environments import MdpDefinition
from app.api.validation import quoted
from app.domain import InvalidInputError, MdpEnvironment, RefitPolicy, TrajectoryOption
from app.domain.arrays import reward_dimensions
from app.policy import InvalidMdpError
from app.serving import mdp_of

SUM_TOLERANCE = 1e-9
"""How far probabilities may be from summing to 1: what is left of rounding decimal fractions."""

LARGEST_TABLE = 10_000_000
"""Entries of a policy, states x actions x horizon: 80 MB of probabilities."""


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
    names = _Names(states, actions)
    environment = MdpEnvironment(
        name=name,
        states=states,
        actions=actions,
        horizon=body.horizon,
        initial=_initial(body.initial, len(states)),
        transitions=_transitions(body.transitions, names, body.horizon),
        reference_policy=_reference(body.reference_policy, len(states), len(actions), body.horizon),
        rank=body.rank,
        confidence=body.confidence,
        refit=RefitPolicy(body.refit.every_seconds, body.refit.min_new_preferences),
        terminal=_terminal(body.terminal, names),
        unavailable=_unavailable(body.unavailable, names),
        state_features=_features(body.state_features, len(states), "state"),
        action_features=_features(body.action_features, len(actions), "action"),
        rewards=body.rewards,
    )
    _check_dimensions(environment)
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


def _transitions(given: list[Any], reader: "_Names", horizon: int) -> tuple[NDArray[np.float64], ...]:
    """One (rows, 4) array, or H of them where the body has a list of rows a step."""
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


def _terminal(given: list[Any], names: "_Names") -> tuple[int, ...]:
    states = [names.state(state, f"/terminal/{index}") for index, state in enumerate(given)]
    return tuple(sorted(set(states)))


def _unavailable(given: list[Any], names: "_Names") -> tuple[tuple[int, int], ...]:
    pairs = set()
    for index, pair in enumerate(given):
        pointer = f"/unavailable/{index}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise InvalidInputError(f"{pointer}: expected [state, action]; found {quoted(pair)}.", pointer=pointer)
        pairs.add((names.state(pair[0], f"{pointer}/0"), names.action(pair[1], f"{pointer}/1")))
    return tuple(sorted(pairs))


def _features(given: list[list[float]] | None, n: int, noun: str) -> NDArray[np.float64] | None:
    """(n, f) a row a state or action."""
    if given is None:
        return None
    field = f"{noun}_features"
    if len(given) != n:
        raise InvalidInputError(
            f"{field}: expected {n} rows, one {'an' if noun == 'action' else 'a'} {noun}; found {len(given)}.",
            pointer=f"/{field}",
        )
    width = len(given[0])
    for index, row in enumerate(given):
        if len(row) != width:
            raise InvalidInputError(
                f"{field}: row {index} has {len(row)} numbers, row 0 has {width}; all must have the same.",
                pointer=f"/{field}/{index}",
            )
    return np.array(given, dtype=np.float64)


def _check_dimensions(environment: MdpEnvironment) -> None:
    """What is learnt must be of a size that can be learnt."""
    dimensions = reward_dimensions(environment)
    if environment.rewards == "per_step" and dimensions > MAX_DIM:
        raise InvalidInputError(
            f"rewards: per_step makes {dimensions:,} numbers a state's reward is linear in; at most {MAX_DIM:,} are "
            "expected. Give state_features, or stationary rewards.",
            pointer="/rewards",
        )
    if environment.rank != "auto" and environment.rank > dimensions:
        what = "the number of states" if dimensions == len(environment.states) else "what a state's reward is linear in"
        raise InvalidInputError(
            f"rank: expected at most {dimensions}, {what}; found {environment.rank}.", pointer="/rank"
        )


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
    try:
        mdp = mdp_of(environment)
        if isinstance(environment.reference_policy, np.ndarray):
            mdp.policy(environment.reference_policy)
    except InvalidMdpError as error:
        # A row's index alone does not say which step's list it is in; pairs are sorted, and told by the message.
        stepwise = error.field == "transitions" and len(environment.transitions) > 1
        stepwise |= error.field == "reference_policy" and np.ndim(environment.reference_policy) == 3
        place = "" if error.index is None or stepwise or error.field == "unavailable" else f"/{error.index}"
        raise InvalidInputError(str(error), pointer=f"/{error.field}{place}") from error


class TrajectoryReader:
    """Turns `[[state, action], ...]` into a trajectory that the environment's MDP can take."""

    def __init__(self, environment: MdpEnvironment) -> None:
        self._horizon = environment.horizon
        self._states = environment.states
        self._actions = environment.actions
        self._names = _Names(environment.states, environment.actions)
        self._possible = [
            _Possible(rows, len(environment.states), len(environment.actions)) for rows in environment.transitions
        ]
        self._terminal = frozenset(environment.terminal)
        self._unavailable = frozenset(environment.unavailable)

    def read(self, steps: Sequence[Any], pointer: str) -> TrajectoryOption:
        """A trajectory of the whole horizon; one that came to a terminal state stays there, and may stop short."""
        if len(steps) > self._horizon or (len(steps) < self._horizon and not self._terminal):
            raise InvalidInputError(
                f"{pointer}: expected {self._horizon} steps, the environment's horizon; found {len(steps)}.",
                pointer=pointer,
            )
        pairs = [self._step(step, f"{pointer}/{index}") for index, step in enumerate(steps)]
        for index, (pair, following) in enumerate(pairwise(pairs), start=1):
            if not self._can_follow(index - 1, pair, following[0]):
                raise InvalidInputError(
                    f"{pointer}/{index}: state {self._states[following[0]]} cannot follow state "
                    f"{self._states[pair[0]]} and action {self._actions[pair[1]]}.",
                    pointer=f"{pointer}/{index}",
                )
        pairs += [(self._end(pairs, pointer), 0)] * (self._horizon - len(pairs))
        return TrajectoryOption(tuple(state for state, _ in pairs), tuple(action for _, action in pairs))

    def _can_follow(self, step: int, pair: tuple[int, int], following: int) -> bool:
        if pair[0] in self._terminal:
            return following == pair[0]
        return (*pair, following) in self._possible[min(step, len(self._possible) - 1)]

    def _end(self, pairs: Sequence[tuple[int, int]], pointer: str) -> int:
        """The terminal state in which a trajectory that stops short of the horizon has ended."""
        if len(pairs) == self._horizon or pairs[-1][0] in self._terminal:
            return pairs[-1][0]
        for state in sorted(self._terminal):
            if self._can_follow(len(pairs) - 1, pairs[-1], state):
                return state
        raise InvalidInputError(
            f"{pointer}: it stops after {len(pairs)} of {self._horizon} steps, but state {self._states[pairs[-1][0]]} "
            f"and action {self._actions[pairs[-1][1]]} do not lead to a terminal state.",
            pointer=f"{pointer}/{len(pairs) - 1}",
        )

    def _step(self, step: Any, pointer: str) -> tuple[int, int]:
        if not isinstance(step, list) or len(step) != 2:
            raise InvalidInputError(f"{pointer}: expected [state, action]; found {quoted(step)}.", pointer=pointer)
        state, action = self._names.state(step[0], f"{pointer}/0"), self._names.action(step[1], f"{pointer}/1")
        if state in self._terminal:
            # Whatever is said to be done where nothing can be done is the same.
            return state, 0
        if (state, action) in self._unavailable:
            raise InvalidInputError(
                f"{pointer}: action {self._actions[action]} cannot be taken in state {self._states[state]}.",
                pointer=f"{pointer}/1",
            )
        return state, action


class _Possible:
    """Which moves have a probability, sorted: a process may have a million, and a request names a few."""

    def __init__(self, rows: NDArray[np.float64], n_states: int, n_actions: int) -> None:
        self._n_states, self._n_actions = n_states, n_actions
        likely = rows[rows[:, 3] > 0, :3].astype(np.int64)
        self._keys = (likely[:, 0] * n_actions + likely[:, 1]) * n_states + likely[:, 2]
        if (np.diff(self._keys) < 0).any():
            self._keys.sort()

    def __contains__(self, move: object) -> bool:
        match move:
            case (int(state), int(action), int(following)):
                key = (state * self._n_actions + action) * self._n_states + following
                place = int(np.searchsorted(self._keys, key))
                return place < len(self._keys) and int(self._keys[place]) == key
            case _:
                return False


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
        "terminal": list(environment.terminal),
        "unavailable": [list(pair) for pair in environment.unavailable],
        "state_features": _listed(environment.state_features),
        "action_features": _listed(environment.action_features),
        "rewards": environment.rewards,
    }


def _listed(features: NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if features is None else [[float(value) for value in row] for row in features]
