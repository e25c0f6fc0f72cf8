"""Lists of items read and written as bytes, against the standard library's JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.itemlists import read_items, write_rewards
from app.serving import IdTable

IDS = st.text("abz09.:_-~@/ {}[],é", max_size=12)
SPACE = st.text(" \n\t\r", max_size=2)


def ids_in(body: bytes, most: int = 1000) -> list[str] | None:
    found = read_items(body, most)
    return None if found is None else [bytes(found.text[begin:end]).decode() for begin, end in found.spans]


@given(st.lists(IDS, min_size=1, max_size=5), st.data())
def test_a_list_of_items_is_read_with_any_white_space(ids: list[str], data: st.DataObject) -> None:
    tokens = ["{", '"options"', ":", "["]
    for place, one in enumerate(ids):
        tokens += [*([","] if place else []), "{", '"item"', ":", json.dumps(one), "}"]
    spaces = data.draw(st.lists(SPACE, min_size=len(tokens) + 3, max_size=len(tokens) + 3))
    body = "".join(space + token for space, token in zip(spaces, [*tokens, "]", "}", ""], strict=True)).encode()
    # What JSON writes by an escape is somebody else's.
    assert ids_in(body) == (ids if all(one.isascii() for one in ids) else None)
    assert ids_in(body, len(ids) - 1) is None


@given(
    st.lists(IDS, min_size=1, max_size=3),
    st.integers(0, 80),
    st.integers(0, 3),
    st.sampled_from([b"", b",", b'"', b"\\", b"}", b"]", b"x", b"\x00", b"\xff", b'"context":null,', b"1"]),
)
def test_whatever_else_a_body_is_nothing_is_read_that_it_does_not_say(
    ids: list[str], place: int, taken: int, put: bytes
) -> None:
    whole = json.dumps({"options": [{"item": one} for one in ids]}).encode()
    body = whole[:place] + put + whole[place + taken :]
    found = ids_in(body)
    if found is not None:
        assert json.loads(body) == {"options": [{"item": one} for one in found]}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"options":[]}', b'{"options":null}', b'{"options":[{"item":1}]}', b"["]
)
def test_no_list_of_items_is_left_to_somebody_else(body: bytes) -> None:
    assert read_items(body, 10) is None


@given(st.lists(st.lists(st.floats(-999_999, 999_999), min_size=4, max_size=4), min_size=1, max_size=4))
def test_rewards_are_written_to_nine_decimals(rows: list[list[float]]) -> None:
    numbers = np.rint(np.array(rows) * 1e9) / 1e9 + 0.0
    written = write_rewards(numbers)
    assert written is not None
    names = ("reward", "stderr", "lower", "upper")
    assert json.loads(b"[" + written + b"]") == [dict(zip(names, row, strict=True)) for row in numbers.tolist()]
    assert b"-0.0}" not in written


def test_rewards_beyond_nine_decimals_are_left_to_somebody_else() -> None:
    for value in (1e6, -1e6, np.inf, np.nan):
        assert write_rewards(np.array([[value, 0.0, 0.0, 0.0]])) is None


@given(st.sets(IDS, max_size=200), st.lists(IDS, min_size=1, max_size=5), st.data())
def test_ids_are_found_where_they_stand(known: set[str], strange: list[str], data: st.DataObject) -> None:
    ids = sorted(known)
    table = IdTable.of(ids)
    asked = data.draw(st.lists(st.sampled_from(ids), max_size=20)) if ids else []
    wanted = [*asked, *strange] if data.draw(st.booleans()) else asked
    body = json.dumps({"options": [{"item": one} for one in wanted]}, ensure_ascii=False).encode()
    found = read_items(body, 100)
    if found is not None:
        rows = table.rows(found)
        expected = [ids.index(one) for one in wanted] if set(wanted) <= known else None
        assert (None if rows is None else rows.tolist()) == expected
