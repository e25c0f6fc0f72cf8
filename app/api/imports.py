"""An import: a stream of lines becomes parts, each recorded by its own transaction while the next ones are read.

Most lines say which item of a catalogue was chosen over which; those are read and stored as columns, by compiled code
(`app.api.lines`). A part with other preferences in it is read line by line.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from pydantic import TypeAdapter, ValidationError

from app.api.conversion import reader_for
from app.api.decoding import WirePreference, decode_one
from app.api.lines import MAX_LINE_BYTES, Lines, read_lines
from app.api.schemas.preferences import CLOCK_ALLOWANCE, ImportAnswer, ImportProgress, LineError, PreferenceBody
from app.api.services import Services
from app.api.validation import encodable, first_sentence, pointer_to
from app.domain import CatalogEnvironment, Environment, InvalidInputError, Preference, StoreUnavailableError
from app.store import Imported, draw_numbers, import_item_preferences, import_preferences, refresh_statistics

FIRST_PART_BYTES = 1024 * 1024
PART_BYTES = 8 * 1024 * 1024
"""Some 80,000 lines about items: enough that a user's own cost is shared by many. The first parts are smaller, so that
there is progress to be told of soon."""

OBJECTS_BYTES = 2 * 1024 * 1024
"""The same where lines become objects, which take far more room."""

STORING = 2
"""Parts that are stored at the same time: the database uses a core for each."""

STORING_SECONDS = 120.0
"""How long that may take with its repetitions: a hundred times what it takes, and longer than locks are waited for."""

SLICE_LINES = 250
"""Lines that are read between two looks at other requests."""

REPORTED_LINES = 20

Body = PreferenceBody | WirePreference
Numbered = Sequence[tuple[int, bytes]]

_line = TypeAdapter(PreferenceBody)


class Import:
    """Counts what became of every line; holds a few parts in memory, one being read and the others being stored."""

    def __init__(self, services: Services, environment: Environment) -> None:
        self._services = services
        self._environment = environment
        self._held = bytearray()
        self._part_bytes = FIRST_PART_BYTES
        self._skipping = False
        self._number = 0
        self._storing: list[asyncio.Task[None]] = []
        self._known = False
        self._accepted = self._duplicates = self._rejected = 0
        self._errors: list[LineError] = []
        self.position: int | None = None

    @property
    def progress(self) -> ImportProgress:
        return ImportProgress(
            lines=self._number, accepted=self._accepted, duplicates=self._duplicates, rejected=self._rejected
        )

    async def feed(self, chunk: bytes) -> bool:
        """Take more of the stream; whether that was enough to read a part, so that there is progress."""
        if self._skipping:
            _, ended, chunk = chunk.partition(b"\n")
            if not ended:
                return False
            self._reject_long_line()
        self._held += chunk
        if len(self._held) < self._part_bytes:
            return False
        self._part_bytes = min(2 * self._part_bytes, PART_BYTES)
        end = self._held.rfind(b"\n") + 1
        part = bytes(self._held[:end])
        del self._held[:end]
        if not part:
            self._skipping = True
            self._held.clear()
        await self._read(part)
        return True

    async def finish(self) -> ImportAnswer:
        """What is left is stored, a last line without its end as well."""
        if self._skipping:
            self._reject_long_line()
        await self._read(bytes(self._held))
        await self._stored()
        return ImportAnswer(
            accepted=self._accepted, duplicates=self._duplicates, rejected=self._rejected, errors=self._errors
        )

    async def break_off(self) -> None:
        """The stream ended before its end: store the lines that came whole."""
        await self._read(bytes(self._held[: self._held.rfind(b"\n") + 1]))
        await self._stored()

    async def _read(self, part: bytes) -> None:
        """Read a part while those before it are stored, then begin to store it."""
        if not part:
            return
        if isinstance(self._environment, CatalogEnvironment):
            latest = int((time.time() + CLOCK_ALLOWANCE.total_seconds()) * 1e6)
            lines = await run_sync(lambda: read_lines(part, latest=latest))
            if not lines.unusual or await self._are_bad(lines.unusual):
                await self._begin(lines)
                return
        for piece in _pieces(part):
            await self._read_objects(piece)

    async def _are_bad(self, lines: Numbered) -> bool:
        """Whether none of these lines is a preference; if so, they have been rejected."""
        bad: list[LineError] = []
        for start in range(0, len(lines), SLICE_LINES):
            for row, line in lines[start : start + SLICE_LINES]:
                body = _decoded(line, self._number + row + 1)
                if not isinstance(body, LineError):
                    return False
                bad.append(body)
            await asyncio.sleep(0)
        for error in bad:
            self._reject(error)
        return True

    async def _begin(self, lines: Lines) -> None:
        """Begin to store columns, beside those of the part before."""
        first = self._number + 1
        self._number += lines.n
        if not len(lines.usual):
            return
        await self._stored(but=STORING - 1)
        # Here, so that parts that are stored at the same time keep their order.
        numbers = await draw_numbers(self._services.db, len(lines.usual))

        async def store() -> None:
            stored = await _in_time(
                import_item_preferences(
                    self._services.db, self._environment.name, lines.preferences, numbers, again=self._known
                )
            )
            self._known = stored.duplicates > 0
            await self._count(stored, (first + lines.usual).tolist() if stored.refused else ())

        self._storing.append(asyncio.create_task(store()))

    async def _read_objects(self, part: bytes) -> None:
        bodies: list[tuple[int, Body]] = []
        lines = part.removesuffix(b"\n").split(b"\n")
        for start in range(0, len(lines), SLICE_LINES):
            for line in lines[start : start + SLICE_LINES]:
                self._number += 1
                if not line.strip():
                    continue
                body = _decoded(line, self._number)
                if isinstance(body, LineError):
                    self._reject(body)
                else:
                    bodies.append((self._number, body))
            await asyncio.sleep(0)
        reader = await reader_for(self._environment, [body for _, body in bodies], self._services.encoder_for)
        batch: list[tuple[int, Preference]] = []
        for start in range(0, len(bodies), SLICE_LINES):
            for number, body in bodies[start : start + SLICE_LINES]:
                try:
                    batch.append((number, reader.preference(body, "")))
                except InvalidInputError as error:
                    self._reject(_line_error(number, error.message, error.pointer))
            await asyncio.sleep(0)
        await self._stored()
        if batch:
            self._storing.append(asyncio.create_task(self._store_objects(batch)))

    async def _store_objects(self, batch: Sequence[tuple[int, Preference]]) -> None:
        preferences = [preference for _, preference in batch]
        stored = await _in_time(import_preferences(self._services.db, self._environment.name, preferences))
        await self._count(stored, [number for number, _ in batch])

    async def _stored(self, but: int = 0) -> None:
        """Wait until no more than so many parts are being stored; when one fails, for all of them."""
        while len(self._storing) > but:
            try:
                await self._storing[0]
            except BaseException:
                await asyncio.gather(*self._storing, return_exceptions=True)
                self._storing.clear()
                raise
            del self._storing[0]

    async def _count(self, stored: Imported, numbers: Sequence[int]) -> None:
        self._services.metrics.count_preferences(accepted=stored.accepted, duplicates=stored.duplicates)
        first = self._accepted == 0
        self._accepted += stored.accepted
        self._duplicates += stored.duplicates
        if stored.position is not None:
            self.position = max(stored.position, self.position or 0)
        for index, error in stored.refused:
            self._reject(_line_error(numbers[index], error.message, error.pointer))
        if first and stored.accepted:
            await refresh_statistics(self._services.db)

    def _reject_long_line(self) -> None:
        self._skipping = False
        self._number += 1
        self._reject(_line_error(self._number, _TOO_LONG, None))

    def _reject(self, error: LineError) -> None:
        self._rejected += 1
        if len(self._errors) == REPORTED_LINES and error.line > self._errors[-1].line:
            return
        self._errors.append(error)
        # A part is judged after the lines that were no preferences at all, so bad lines do not come in order.
        self._errors.sort(key=lambda one: one.line)
        del self._errors[REPORTED_LINES:]


async def _in_time(storing: Coroutine[Any, Any, Imported]) -> Imported:
    try:
        async with asyncio.timeout(STORING_SECONDS):
            return await storing
    except TimeoutError as error:
        raise StoreUnavailableError(f"The database did not answer within {STORING_SECONDS:g} seconds.") from error


def _pieces(part: bytes) -> Iterator[bytes]:
    """Whole lines, of some two megabytes."""
    begin = 0
    while begin < len(part):
        end = part.rfind(b"\n", begin, begin + OBJECTS_BYTES) + 1 if len(part) - begin > OBJECTS_BYTES else len(part)
        if end == 0:
            end = part.find(b"\n", begin) + 1 or len(part)
        yield part[begin:end]
        begin = end


def _decoded(line: bytes, number: int) -> Body | LineError:
    if len(line) > MAX_LINE_BYTES:
        return _line_error(number, _TOO_LONG, None)
    try:
        return decode_one(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return _line.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            return _line_error(number, f"the line is not JSON: {first['ctx']['error']}.", None)
        return _line_error(number, first_sentence(first, root="the line"), pointer_to(first["loc"]))


def _line_error(number: int, detail: str, pointer: str | None) -> LineError:
    return LineError(line=number, detail=encodable(detail), pointer=None if pointer is None else encodable(pointer))


_TOO_LONG = f"the line has more than {MAX_LINE_BYTES:,} bytes."
