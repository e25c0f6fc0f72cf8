"""Files of preferences as people have them, as the lines that an import takes.

Our own lines (`user`, and `chosen` as an object) pass through. Otherwise a record is what preference data sets hold:
`user_id` or `user`, `prompt`, `chosen`, `rejected`, `weight` or `margin`, `label`, `id`, `occurred_at`; other columns
are left out. Line n of what is sent is record n of the file: a record that cannot be read is sent as an empty line.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from app.cli.tables import Told, columns_of, is_table, readable, rows_of, unpacked
from app.client import content_id

REPORTED_RECORDS = 20

BLOCK_BYTES = 256 * 1024
# What is sent at once; a line by itself costs more to send than to read.


_CHOSEN_PLAINLY = re.compile(rb'"chosen"[ \t]*:[ \t]*[^{ \t]')
# `chosen` is no object, as far as one can see without reading the lines.


class BadRecordError(ValueError):
    """A record that is no preference; the message says why."""


@dataclass(slots=True)
class Reading:
    """How a file's records are to be understood, and what was wrong with some."""

    options: Literal["item", "text"]
    """What a string in `chosen` and `rejected` is."""
    with_context: bool
    """The environment has contexts, and a prompt is one."""
    id_prefix: str | None = None
    """Records without an id get this and their number."""
    rejected: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def blocks(self, file: Path, raw: BinaryIO, told: Told) -> Iterator[bytes]:
        """NDJSON, a line a record, in pieces that are worth sending; `told` hears how many bytes have been read."""
        if is_table(file):
            rows = ({name: _json_or_text(value) for name, value in row.items()} for row in rows_of(file, raw, told))
            yield from _joined(self._read(number, row) for number, row in enumerate(rows, start=1))
            return
        number = 1
        for block in _whole_lines(file, unpacked(file, raw)):
            told(raw.tell())
            if self._is_ours(block):
                yield block
            else:
                yield from _joined(
                    line.rstrip(b"\r") + b"\n" if self._is_ours(line) else self._read(at, line)
                    for at, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=number)
                )
            number += block.count(b"\n")

    def _is_ours(self, lines: bytes) -> bool:
        """Whatever has no sign of a data set's columns; the service says what is wrong with it."""
        return (
            self.id_prefix is None
            and b'"user_id"' not in lines
            and b'"prompt"' not in lines
            and _CHOSEN_PLAINLY.search(lines) is None
        )

    def _read(self, number: int, record: bytes | dict[str, Any]) -> bytes:
        try:
            return self._line(number, record) + b"\n"
        except BadRecordError as error:
            self.rejected += 1
            if len(self.errors) < REPORTED_RECORDS:
                self.errors.append({"line": number, "detail": str(error), "pointer": None})
            return b"\n"

    def _line(self, number: int, record: bytes | dict[str, Any]) -> bytes:
        given = _parsed(record) if isinstance(record, bytes) else record
        if given is None:
            return b""
        said: dict[str, Any] = {"user": str(_first(given, "user", "user_id"))}
        prompt, chosen, rejected = _split(given.get("prompt"), _first(given, "chosen"), _first(given, "rejected"))
        said |= {"chosen": self._option(chosen), "rejected": self._option(rejected)}
        if isinstance(given.get("context"), dict):
            said["context"] = _as_json(given["context"])
        elif self.with_context and prompt:
            said["context"] = {"text": prompt}
        said |= _numbers(given)
        if _there(given, "occurred_at"):
            said["occurred_at"] = _moment(given["occurred_at"])
        if _there(given, "id"):
            said["id"] = str(given["id"])
        elif self.id_prefix is not None:
            said["id"] = f"{self.id_prefix}-{number}"
        else:
            # Of what is said: a table that is imported again counts nothing twice.
            said["id"] = content_id(said)
        return json.dumps(said).encode()

    def _option(self, given: Any) -> Any:
        if isinstance(given, dict):
            return _as_json(given)
        return {self.options: given if isinstance(given, str) else str(given)}


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _whole_lines(file: Path, source: IO[bytes]) -> Iterator[bytes]:
    """Blocks that end where a line does."""
    with readable(file):
        while block := source.read(BLOCK_BYTES):
            yield block + source.readline()


def _parsed(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadRecordError(f"the line is not JSON: {error}.") from error
    except RecursionError as error:
        raise BadRecordError("the line is nested too deeply.") from error
    if not isinstance(record, dict):
        raise BadRecordError("expected an object with user_id, chosen and rejected.")
    return record


def _json_or_text(value: Any) -> Any:
    """A cell; chat messages are in a text as JSON."""
    if isinstance(value, str) and value.startswith("[{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _there(record: dict[str, Any], name: str) -> bool:
    return record.get(name) not in {None, ""} if not isinstance(record.get(name), list | dict) else True


def _first(record: dict[str, Any], *names: str) -> Any:
    for name in names:
        if _there(record, name):
            return record[name]
    if any(name in record for name in names):
        raise BadRecordError(f"{next(name for name in names if name in record)} is empty.")
    raise BadRecordError(_missing(names, [str(name) for name in record]))


def _missing(names: Sequence[str], columns: Sequence[str]) -> str:
    meant = [close for name in names for close in difflib.get_close_matches(name, columns, n=1)]
    hint = f" Is it {meant[0]!r}?" if meant else ""
    return f"expected a column {' or '.join(names)}; found {', '.join(columns) or 'nothing'}.{hint}"


def check_columns(file: Path) -> None:
    """Of a table, before anything is sent or made.

    Raises
    ------
    BadRecordError
        A column that every preference has is not there.
    """
    if not is_table(file):
        return
    columns = columns_of(file)
    for names in (("user", "user_id"), ("chosen",), ("rejected",)):
        if not set(names) & set(columns):
            raise BadRecordError(_missing(names, columns))


def _as_json(given: dict[str, Any]) -> dict[str, Any]:
    """A table's cell may hold what JSON has no words for."""
    try:
        json.dumps(given)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRecordError(f"expected what JSON can say: {error}.") from error
    return given


def _moment(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, date):
        return given.isoformat()
    raise BadRecordError(f"occurred_at: expected a date and time; found {given!r}.")


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """`margin` is another name for how much a preference counts."""
    numbers: dict[str, float] = {}
    for name, meant in (("weight", "weight"), ("margin", "weight"), ("label", "label")):
        if meant not in numbers and _there(record, name):
            try:
                numbers[meant] = float(record[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise BadRecordError(f"{name}: expected a number; found {record[name]!r}.") from error
    return numbers


def _split(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, Any, Any]:
    """The prompt, and what differs: chats often repeat the prompt in front of both answers."""
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        return _text(prompt), _text(chosen), _text(rejected)
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return _text(prompt) or _text(chosen[:shared]), _text(chosen[shared:]), _text(rejected[shared:])


def _text(given: Any) -> Any:
    """Messages as their contents, one under the other."""
    if given is None:
        return ""
    if not isinstance(given, list):
        return given
    try:
        return "\n\n".join(message["content"] for message in given)
    except (TypeError, KeyError) as error:
        raise BadRecordError('expected chat messages, [{"role": ..., "content": ...}, ...].') from error
