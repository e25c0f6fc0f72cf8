"""Definitions of MDPs: what is right comes back as it was put, and what is wrong is named; never anything else."""

import json
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.api.mdps import definition_of, mdp_environment
from app.api.schemas.environments import MdpDefinition
from app.domain import InvalidInputError

_definition: TypeAdapter[MdpDefinition] = TypeAdapter(MdpDefinition)


def read(definition: Any) -> dict[str, Any]:
    """As the API does: through JSON, by the schema, then by what the numbers mean."""
    body = _definition.validate_json(json.dumps(definition))
    return definition_of(mdp_environment("e", body))


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, Any]:
    states, actions = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    horizon = draw(st.integers(1, 3))

    def distribution(n: int) -> list[float]:
        parts = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
        return [part / sum(parts) for part in parts]

    def rows() -> list[Any]:
        return [
            [state, action, following, probability]
            for state in range(states)
            for action in range(actions)
            for following, probability in enumerate(distribution(states))
        ]

    def table() -> list[Any]:
        return [distribution(actions) for _ in range(states)]

    features = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=2)
    return {
        "kind": "mdp",
        "states": draw(st.sampled_from([states, [f"state {index}" for index in range(states)]])),
        "actions": draw(st.sampled_from([actions, [f"do {index}" for index in range(actions)]])),
        "horizon": horizon,
        "initial": distribution(states),
        "transitions": rows() if draw(st.booleans()) else [rows() for _ in range(horizon)],
        "reference_policy": draw(st.sampled_from(["uniform", "feedback", table()])),
        "state_features": draw(st.one_of(st.none(), st.lists(features, min_size=states, max_size=states))),
        "rewards": draw(st.sampled_from(["stationary", "per_step"])),
    }


@given(definitions())
def test_a_definition_comes_back_as_it_was_put(definition: dict[str, Any]) -> None:
    first = read(definition)
    assert read({"kind": "mdp", **first}) == first
    for name in ("horizon", "initial", "reference_policy", "rewards"):
        assert first[name] == definition[name]


places = st.lists(st.integers(0, 5), max_size=5)
odd = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.lists(st.integers(-1, 9), max_size=5),
)  # fmt: skip


def spoil(value: Any, place: list[int], by: Any) -> Any:
    """The same with something else somewhere in it."""
    if not place or not isinstance(value, dict | list) or not value:
        return by
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key: Any = keys[place[0] % len(keys)]
    value[key] = spoil(value[key], place[1:], by)
    return value


@given(definitions(), places, odd)
def test_a_spoilt_definition_is_read_or_named(definition: dict[str, Any], place: list[int], by: Any) -> None:
    spoilt = spoil(deepcopy(definition), place, by)
    try:
        found = read(spoilt)
    except (ValidationError, InvalidInputError):
        return
    assert read({"kind": "mdp", **found}) == found
