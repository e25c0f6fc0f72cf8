"""An import: a stream of lines becomes parts, each recorded by its own transaction while the next one is read."""

import asyncio
from collections.abc import Sequence

import msgspec
from pydantic import TypeAdapter, ValidationError

from app.api.conversion import reader_for
from app.api.decoding import WirePreference, decode_one
from app.api.schemas.preferences import ImportAnswer, ImportProgress, LineError, PreferenceBody
from app.api.services import Services
from app.api.validation import encodable, first_sentence, pointer_to
from app.domain import Environment, InvalidInputError, Preference
from app.store import import_preferences, refresh_statistics

MAX_LINE_BYTES = 1024 * 1024
"""Twice what two options of 4,096 features and a context take."""

PART_BYTES = 2 * 1024 * 1024
"""Some 15,000 lines about items: enough that a line's own cost dominates."""

SLICE_LINES = 250
"""Lines that are read between two looks at other requests."""

REPORTED_LINES = 20

Body = PreferenceBody | WirePreference

_line = TypeAdapter(PreferenceBody)


class Import:
    """Counts what became of every line; holds two parts in memory, one being read and one being stored."""

    def __init__(self, services: Services, environment: Environment) -> None:
        self._services = services
        self._environment = environment
        self._held = bytearray()
        self._skipping = False
        self._number = 0
        self._storing: asyncio.Task[None] | None = None
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
        if len(self._held) < PART_BYTES:
            return False
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
        """Read a part while the one before it is stored, then begin to store it."""
        bodies: list[tuple[int, Body]] = []
        lines = part.removesuffix(b"\n").split(b"\n") if part else []
        for start in range(0, len(lines), SLICE_LINES):
            for line in lines[start : start + SLICE_LINES]:
                self._number += 1
                if line.strip() and (body := self._decoded(line)) is not None:
                    bodies.append((self._number, body))
            await asyncio.sleep(0)
        reader = await reader_for(self._environment, [body for _, body in bodies], self._services.encoder_for)
        batch: list[tuple[int, Preference]] = []
        for start in range(0, len(bodies), SLICE_LINES):
            for number, body in bodies[start : start + SLICE_LINES]:
                try:
                    batch.append((number, reader.preference(body, "")))
                except InvalidInputError as error:
                    self._reject(number, error.message, error.pointer)
            await asyncio.sleep(0)
        await self._stored()
        if batch:
            self._storing = asyncio.create_task(self._store(batch))

    def _decoded(self, line: bytes) -> Body | None:
        if len(line) > MAX_LINE_BYTES:
            self._reject(self._number, _TOO_LONG, None)
            return None
        try:
            return decode_one(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        try:
            return _line.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":
                self._reject(self._number, f"the line is not JSON: {first['ctx']['error']}.", None)
            else:
                self._reject(self._number, first_sentence(first, root="the line"), pointer_to(first["loc"]))
            return None

    async def _stored(self) -> None:
        if self._storing is not None:
            storing, self._storing = self._storing, None
            await storing

    async def _store(self, batch: Sequence[tuple[int, Preference]]) -> None:
        first = self._accepted == 0
        stored = await import_preferences(
            self._services.db, self._environment.name, [preference for _, preference in batch]
        )
        self._services.metrics.count_preferences(accepted=stored.accepted, duplicates=stored.duplicates)
        self._accepted += stored.accepted
        self._duplicates += stored.duplicates
        self.position = stored.position or self.position
        if first and stored.accepted:
            await refresh_statistics(self._services.db)
        for index, error in stored.refused:
            self._reject(batch[index][0], error.message, error.pointer)

    def _reject_long_line(self) -> None:
        self._skipping = False
        self._number += 1
        self._reject(self._number, _TOO_LONG, None)

    def _reject(self, number: int, detail: str, pointer: str | None) -> None:
        self._rejected += 1
        if len(self._errors) == REPORTED_LINES and number > self._errors[-1].line:
            return
        shown = None if pointer is None else encodable(pointer)
        self._errors.append(LineError(line=number, detail=encodable(detail), pointer=shown))
        # A part is judged after the lines that were no preferences at all, so bad lines do not come in order.
        self._errors.sort(key=lambda error: error.line)
        del self._errors[REPORTED_LINES:]


_TOO_LONG = f"the line has more than {MAX_LINE_BYTES:,} bytes."
