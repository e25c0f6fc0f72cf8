"""What compiled code reads, pydantic reads as well, and to the same preference."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.api.conversion import Reader
from app.api.decoding import decode_body
from app.api.schemas.preferences import PreferenceBatch, PreferencesBody
from app.domain import CatalogEnvironment, InvalidInputError, Preference
from app.store.preferences import content_hash

_slow = TypeAdapter[Any](PreferencesBody)
_reader = Reader(CatalogEnvironment("shop", item_dim=2, context_dim=2), {"words": [1.0, 2.0], "more": [3.0, 4.0]})  # type: ignore[dict-item]  # rows

ids = st.sampled_from(["a", "b", "x" * 128, "~._:@-9", "", "a b", "a\n", "x" * 129, "é", 1, None])
numbers = st.sampled_from([0, 1, 0.5, 1.0, -0.0, 1e-9, 1e6, 1000001, 1e9, 1e10, -1, True, None, "1", [1]])
times = st.sampled_from(
    [
        "2026-05-01T09:30:00Z",
        "2026-05-01T09:30:00.125+02:00",
        "2026-05-01T09:30:00.1234567Z",
        "2026-05-01 09:30:00Z",
        "2026-05-01T09:30:00",
        "2026-02-30T09:30:00Z",
        "2026-05-01T09:30:60Z",
        "1969-12-31T23:59:59Z",
        "2999-01-01T00:00:00Z",
        "1700000000",
        1700000000,
        "soon",
        None,
    ]
)
contents: st.SearchStrategy[Any] = st.one_of(
    st.fixed_dictionaries({"item": ids}),
    st.fixed_dictionaries({"features": st.lists(numbers, max_size=3)}),
    st.fixed_dictionaries({"text": st.sampled_from(["words", "more", "", "x\x00", "x" * 20_001, "\ud800", 3])}),
    st.fixed_dictionaries({"trajectory": st.lists(st.lists(numbers, max_size=2), max_size=2)}),
    st.sampled_from([{}, {"item": "a", "text": "words"}, {"item": "a", "more": 1}, None, "a", []]),
)
preferences = st.fixed_dictionaries(
    {"user": ids, "chosen": contents, "rejected": contents},
    optional={
        "context": contents,
        "label": numbers,
        "weight": numbers,
        "occurred_at": times,
        "id": ids,
        "unknown": st.just(1),
    },
)
good = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["ada", "bob"]),
        "chosen": st.sampled_from([{"item": "a"}, {"features": [1, 2.5]}, {"text": "words"}]),
        "rejected": st.sampled_from([{"item": "b"}, {"features": [0.5, 2]}, {"text": "more"}]),
    },
    optional={
        "context": st.sampled_from([None, {"features": [1, 0]}, {"text": "words"}]),
        "label": st.sampled_from([0, 1, 0.25]),
        "weight": st.sampled_from([1, 2.5]),
        "occurred_at": times,
        "id": st.sampled_from([None, "one"]),
    },
)
bodies = st.one_of(
    good,
    st.lists(good, min_size=1, max_size=3).map(lambda many: {"preferences": many}),
    preferences,
    st.fixed_dictionaries({"preferences": st.lists(st.one_of(good, preferences), max_size=3)}),
    st.sampled_from([{}, [], None, 1, {"preferences": 1}, {"preferences": [], "user": "a"}]),
)


def quickly(body: bytes) -> list[Any] | None:
    try:
        return list(decode_body(body)[0])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def thoroughly(body: bytes) -> list[Any] | None:
    try:
        read = _slow.validate_python(json.loads(body))
    except (ValidationError, ValueError):
        return None
    return list(read.preferences) if isinstance(read, PreferenceBatch) else [read]


def as_said(bodies: list[Any]) -> list[tuple[bytes, str | None]] | str:
    """What the domain makes of it, or the sentence that says why it is none."""
    try:
        read: list[Preference] = [_reader.preference(one, f"/{index}") for index, one in enumerate(bodies)]
    except InvalidInputError as error:
        return f"{error.pointer} {error.message}"
    return [(content_hash(one), one.id) for one in read]


@given(bodies)
def test_both_read_the_same(body: Any) -> None:
    sent = json.dumps(body).encode()
    quick, thorough = quickly(sent), thoroughly(sent)
    if quick is not None:
        assert thorough is not None
        assert as_said(quick) == as_said(thorough)


@pytest.mark.parametrize("indent", [None, 2])
def test_the_usual_is_read_by_compiled_code(indent: int | None) -> None:
    one = {
        "user": "ada",
        "chosen": {"item": "a"},
        "rejected": {"features": [1, 2]},
        "context": None,
        "label": 1,
        "weight": 2,
        "occurred_at": "2026-05-01T09:30:00Z",
        "id": "x",
    }
    for body in (one, {"preferences": [one, one]}):
        assert quickly(json.dumps(body, indent=indent).encode()) is not None


@pytest.mark.parametrize("body", [b"", b"{", b'{"user": "\xff"}', b'{"user": NaN}', b"[" * 100_000])
def test_what_is_no_json_is_left_to_the_other(body: bytes) -> None:
    assert quickly(body) is None
