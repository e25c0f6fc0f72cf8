"""Files that are damaged, or something else than their names say: rows, or one sentence; never a crash."""

import csv
import gzip
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli.formats import guessed_format, preferences_in
from app.cli.preference_files import BadRecordError, Reading, check_columns
from app.cli.tables import UnreadableError

ROWS: list[dict[str, Any]] = [
    {"user": "ada", "chosen": "Yes.", "rejected": "No.", "label": 0.9, "id": str(number), "weight": 2.0}
    for number in range(3)
]


def as_csv() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
WHOLE = {
    "pairs.csv": as_csv(),
    "pairs.csv.gz": gzip.compress(as_csv(), mtime=0),
    "pairs.parquet": as_parquet(),
    "pairs.jsonl": LINES,
    "pairs.jsonl.gz": gzip.compress(LINES, mtime=0),
    "pairs.json": json.dumps(ROWS).encode(),
}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """Something cut out of a good file, something written over it, or anything."""
    name = draw(st.sampled_from(sorted(WHOLE)))
    content = WHOLE[name]
    begin, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    odd = draw(
        st.one_of(st.binary(max_size=40), st.sampled_from([b'"', b"[" * 100_000, b"\xff", b"\0", b"1" + b"0" * 400]))
    )
    return name, draw(st.sampled_from([content[:begin], content[:begin] + odd + content[begin + length :], odd]))


def imported(file: Path) -> bytes:
    """As `psharelora import` reads it."""
    check_columns(file)
    reading = Reading(options="text", with_context=True)
    with file.open("rb") as raw:
        return b"".join(reading.blocks(file, raw, lambda _: None))


@given(damaged())
def test_a_damaged_file_is_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, one: tuple[str, bytes]) -> None:
    name, content = one
    file = tmp_path_factory.mktemp("damaged") / name
    file.write_bytes(content)
    with suppress(BadRecordError, UnreadableError):
        imported(file)
    with suppress(UnreadableError):
        for preference in preferences_in(file, guessed_format(file), user="ada"):
            assert {"user", "chosen", "rejected"} <= set(preference)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_file_is_all_its_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(WHOLE[name])
    found = list(preferences_in(file, guessed_format(file)))
    assert [one["id"] for one in found] == ["0", "1", "2"]
    if not name.endswith(".json"):
        assert [json.loads(line)["id"] for line in imported(file).splitlines()] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("pairs.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "ended before the end-of-stream marker"),
        ("pairs.parquet", b"PAR1", "pairs.parquet: "),
        ("pairs.csv", b"user,chosen,rejected\nada,\xff,b\n", "can't decode byte 0xff"),
        ("pairs.json", b"{}", "expected a list of objects"),
        ("pairs.json", b"[1]", "row 1: expected an object; found '1'"),
        ("pairs.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=sentence):
        list(preferences_in(file, guessed_format(file)))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ('"occurred_at": 5', "occurred_at: expected a date and time; found 5."),
        (f'"weight": 1{"0" * 400}', "weight: expected a number"),
    ],
)
def test_a_record_that_cannot_be_is_named(tmp_path: Path, said: str, sentence: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(f'{{"user_id": "ada", "chosen": "Yes.", "rejected": "No.", {said}}}\n')
    reading = Reading(options="text", with_context=False)
    with file.open("rb") as raw:
        assert b"".join(reading.blocks(file, raw, lambda _: None)) == b"\n"
    assert reading.errors[0]["detail"].startswith(sentence)
