"""What compiled code reads, pydantic reads as well, and to the same preference."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.api.conversion import Reader
from app.api.decoding import decode_body
from app.api.lines import Lines, read_lines
from app.api.schemas.preferences import PreferenceBatch, PreferenceBody, PreferencesBody
from app.domain import CatalogEnvironment, InvalidInputError, ItemOption, Preference
from app.store.preferences import content_of

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


def as_said(bodies: list[Any]) -> list[tuple[Any, str | None]] | str:
    """What the domain makes of it, or the sentence that says why it is none."""
    try:
        read: list[Preference] = [_reader.preference(one, f"/{index}") for index, one in enumerate(bodies)]
    except InvalidInputError as error:
        return f"{error.pointer} {error.message}"
    return [(content_of(one), one.id) for one in read]


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


# Lines of an import as columns

_line = TypeAdapter(PreferenceBody)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

literals = st.sampled_from(
    [
        *("0", "1", "0.5", "1.0", "0.12345678901234567", "0.7310585786300049", "123456.75", "1000000", "1000000.1"),
        *("1e-3", "5E-1", "1e+2", "1e400", "1e-400", "0." + "0" * 30 + "1", "0.1" + "0" * 40),
        *("01", "1.", ".5", "-", "-1", "-0.0", "+1", "0x1", "NaN", "null", "true", "1_0", '"1"'),
    ]
)
blanks = st.sampled_from(["", "", "", " ", "\t", " \r "])


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A line about items as people write numbers and space, sometimes with a byte too many or too few."""
    quoted = st.sampled_from(["ada", "bob", "~._:@-9", "x" * 128, "x" * 129, "", "a b", "é", "\\u0061"]).map(
        '"{}"'.format
    )
    option = st.tuples(blanks, quoted, blanks).map(lambda one: f'{{{one[0]}"item"{one[2]}:{one[1]}{one[0]}}}')
    moment = times.map(json.dumps)
    values = {"user": quoted, "chosen": option, "rejected": option}
    more = {"id": quoted, "label": literals, "weight": literals, "occurred_at": moment, "context": st.just("null")}
    names = draw(st.permutations([*values, *draw(st.lists(st.sampled_from([*more, "user", "odd"]), max_size=3))]))
    said = [
        f'{draw(blanks)}"{name}"{draw(blanks)}:{draw(blanks)}{draw({**more, **values, "odd": literals}[name])}'
        for name in names
    ]
    line = f"{draw(blanks)}{{{','.join(said)}{draw(blanks)}}}{draw(blanks)}".encode()
    at = draw(st.integers(0, len(line)))
    return draw(st.sampled_from([line] * 6 + [line[:at] + line[at + 1 :], line[:at] + b'"' + line[at:], line[:at]]))


def in_columns(content: bytes) -> Lines:
    return read_lines(content, latest=int((datetime.now(UTC) + timedelta(days=1)).timestamp() * 1e6))


def preference_in(lines: Lines, at: int) -> Preference:
    said = lines.preferences
    moment = int(said.moment[at])
    return Preference(
        user=said.users[said.user[at]],
        chosen=ItemOption(said.items[said.chosen[at]]),
        rejected=ItemOption(said.items[said.rejected[at]]),
        label=float(said.label[at]),
        weight=float(said.weight[at]),
        occurred_at=None if moment < 0 else EPOCH + timedelta(microseconds=moment),
        id=said.id(at),
    )


@given(
    st.lists(
        st.one_of(written(), good.map(lambda one: json.dumps(one).encode()), st.binary(max_size=60)),
        min_size=1,
        max_size=5,
    )
)
def test_lines_as_columns_say_the_same(given_lines: list[bytes]) -> None:
    content = b"".join(line.replace(b"\n", b"") + b"\n" for line in given_lines)
    lines = in_columns(content)
    split = content.split(b"\n")[:-1]
    assert lines.n == len(split)
    assert all(split[row] == line for row, line in lines.unusual)
    accounted = {*lines.usual.tolist(), *(row for row, _ in lines.unusual)}
    assert all(not line.strip() for row, line in enumerate(split) if row not in accounted)
    for at, row in enumerate(lines.usual.tolist()):
        thorough = _reader.preference(_line.validate_json(split[row]), "")
        found = preference_in(lines, at)
        assert (content_of(found), found.id) == (content_of(thorough), thorough.id)


def test_the_usual_lines_become_columns() -> None:
    usual = [
        b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"}}',
        b'{"id": "1", "label": 0.7310585786300049, "rejected": {"item": "b"}, "chosen": {"item": "a"}, "user": "u"}\r',
        b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"},"occurred_at":"2026-02-28T23:59:59.5-01:00"}',
        b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"},"id":null,"context":null,"weight":1e3}',
    ]
    lines = in_columns(b"\n".join(usual) + b"\n \n" + usual[0])
    assert (lines.n, lines.unusual, lines.usual.tolist()) == (6, [], [0, 1, 2, 3, 5])
    assert preference_in(lines, 2).occurred_at == datetime(2026, 3, 1, 0, 59, 59, 500_000, tzinfo=UTC)
    assert (preference_in(lines, 1).label, preference_in(lines, 3).weight) == (0.7310585786300049, 1000.0)


@given(st.dates(min_value=EPOCH.date(), max_value=datetime(2026, 1, 1, tzinfo=UTC).date()))
def test_every_day_is_the_same_moment(day: Any) -> None:
    said = f'{{"user":"u","chosen":{{"item":"a"}},"rejected":{{"item":"b"}},"occurred_at":"{day}T01:02:03Z"}}'
    assert preference_in(in_columns(said.encode()), 0).occurred_at == datetime(
        day.year, day.month, day.day, 1, 2, 3, tzinfo=UTC
    )
