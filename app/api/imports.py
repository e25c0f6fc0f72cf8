"""An import: a stream of lines becomes batches, each recorded by its own transaction."""

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from app.api.conversion import Reader, reader_for
from app.api.schemas.base import MAX_BATCH
from app.api.schemas.preferences import ImportAnswer, LineError, PreferenceBody
from app.api.services import Services
from app.api.validation import encodable, first_sentence, pointer_to
from app.domain import ConflictError, DomainError, Environment, InvalidInputError, Preference
from app.store import record_preferences

MAX_LINE_BYTES = 1024 * 1024
"""Twice what two options of 4,096 features and a context take."""

REPORTED_LINES = 20

LONGEST_BLAME = 8
"""Offenders that are taken out of a batch one after the other, before it is recorded line by line."""

_line = TypeAdapter(PreferenceBody)


class Import:
    """Counts what became of every line; holds one batch in memory."""

    def __init__(self, services: Services, environment: Environment) -> None:
        self._services = services
        self._environment = environment
        self._rest = b""
        self._too_long = False
        self._number = 0
        self._batch: list[tuple[int, PreferenceBody]] = []
        self._accepted = self._duplicates = self._rejected = 0
        self._errors: list[LineError] = []

    async def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            await self._add(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._too_long = True
            self._rest = b""

    async def finish(self) -> ImportAnswer:
        if self._rest or self._too_long:
            await self._add(self._rest)
        await self._record_batch()
        return ImportAnswer(
            accepted=self._accepted,
            duplicates=self._duplicates,
            rejected=self._rejected,
            errors=self._errors,
        )

    async def _add(self, line: bytes) -> None:
        self._number += 1
        if self._too_long or len(line) > MAX_LINE_BYTES:
            self._too_long = False
            self._reject(self._number, f"the line has more than {MAX_LINE_BYTES:,} bytes.", None)
            return
        if not line.strip():
            return
        try:
            self._batch.append((self._number, _line.validate_json(line)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":
                self._reject(self._number, f"the line is not JSON: {first['ctx']['error']}.", None)
            else:
                self._reject(self._number, first_sentence(first, root="the line"), pointer_to(first["loc"]))
        if len(self._batch) == MAX_BATCH:
            await self._record_batch()

    async def _record_batch(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        reader = await reader_for(self._environment, [body for _, body in batch], self._services.encoder_for)
        readable = [read for number, body in batch if (read := self._read(reader, number, body)) is not None]
        for _ in range(LONGEST_BLAME):
            if (offender := await self._record(readable)) is None:
                return
            readable = [*readable[:offender], *readable[offender + 1 :]]
        for one in readable:
            await self._record([one])

    def _read(self, reader: Reader, number: int, body: PreferenceBody) -> tuple[int, Preference] | None:
        try:
            return number, reader.preference(body, "")
        except InvalidInputError as error:
            self._reject(number, error.message, error.pointer)
            return None

    async def _record(self, batch: Sequence[tuple[int, Preference]]) -> int | None:
        """Record all, or blame the one that stands in the way: its index."""
        if not batch:
            return None
        try:
            recorded = await record_preferences(
                self._services.db, self._environment.name, [preference for _, preference in batch]
            )
        except (InvalidInputError, ConflictError) as error:
            offender, pointer = _blamed(error)
            self._reject(batch[offender][0], error.message, pointer)
            return offender
        self._services.metrics.count_preferences(accepted=recorded.accepted, duplicates=recorded.duplicates)
        self._accepted += recorded.accepted
        self._duplicates += recorded.duplicates
        return None

    def _reject(self, number: int, detail: str, pointer: str | None) -> None:
        self._rejected += 1
        shown = None if pointer is None else encodable(pointer)
        self._errors.append(LineError(line=number, detail=encodable(detail), pointer=shown))
        # A batch is judged after the lines that were no preferences at all, so bad lines do not come in order.
        self._errors.sort(key=lambda error: error.line)
        del self._errors[REPORTED_LINES:]


def _blamed(error: DomainError) -> tuple[int, str]:
    """The store's pointer is /preferences/<index>/<rest>."""
    if error.pointer is None:
        raise error
    _, _, index, *rest = error.pointer.split("/")
    return int(index), "".join(f"/{part}" for part in rest)
