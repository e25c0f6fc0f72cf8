"""Preferences: recorded in batches, or imported line by line."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Body, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from app.api.auth import Feeder, check_feeds
from app.api.compiled import first_try, says_json
from app.api.consistency import TOKEN_HEADER, TOKEN_RESPONSE_HEADERS, acknowledge, token_of
from app.api.conversion import reader_for
from app.api.decoding import WirePreference, decode_body
from app.api.environments import EnvironmentName, example
from app.api.imports import Import
from app.api.problems import BODY_TOO_SLOW, problems
from app.api.schemas.preferences import (
    ImportAnswer,
    ImportProgress,
    PreferenceBatch,
    PreferenceBody,
    PreferencesBody,
    RecordedAnswer,
)
from app.api.services import Services, UsedServices, services_of
from app.domain import DomainError, Recorded

router = APIRouter(tags=["preferences"])

log = structlog.get_logger()

NDJSON = "application/x-ndjson"

_ONE: dict[str, Any] = {"user": "ada", "chosen": {"item": "a"}, "rejected": {"item": "b"}, "id": "answer-1"}
_EXAMPLES: dict[str, Any] = {
    "one": {"summary": "One preference between items", "value": _ONE},
    "many": {
        "summary": "A batch, stored whole or not at all",
        "value": {"preferences": [_ONE, {**_ONE, "user": "bob", "id": "answer-2", "label": 0.8}]},
    },
    "texts": {
        "summary": "Two answers of a language model",
        "value": {
            "user": "ada",
            "chosen": {"text": "In short: yes."},
            "rejected": {"text": "It depends on many things."},
            "occurred_at": "2026-05-01T09:30:00Z",
        },
    },
    "trajectories": {
        "summary": "Two courses of an MDP",
        "value": {
            "user": "ada",
            "chosen": {"trajectory": [["tired", "rest"], ["fit", "train"], ["fit", "rest"]]},
            "rejected": {"trajectory": [["tired", "train"], ["tired", "train"], ["tired", "rest"]]},
        },
    },
}


async def _record_usual(request: Request) -> Response | None:
    if not says_json(request):
        return None
    environment = request.path_params["environment"]
    check_feeds(request.state.key, environment)
    services = services_of(request)
    try:
        bodies, many = decode_body(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    recorded = await _recorded(services, environment, bodies, many=many)
    return Response(
        b'{"accepted":%d,"duplicates":%d}' % (recorded.accepted, recorded.duplicates),
        status_code=201,
        headers=None if recorded.position is None else {TOKEN_HEADER: token_of(recorded.position)},
        media_type="application/json",
    )


@router.post(
    "/v1/environments/{environment}/preferences",
    summary="Record preferences",
    description='One preference, or `{"preferences": [...]}` with at most 1,000: all or nothing. Answered after the '
    "commit; the next answer to these users rests on them, without waiting for a refit. Another process answers from "
    "them within milliseconds, and at once where the request sends the `Consistency-Token` of this answer. With an "
    "`id` a preference may be sent again safely.",
    status_code=201,
    responses={
        201: {**example({"accepted": 2, "duplicates": 0}, "Stored."), "headers": TOKEN_RESPONSE_HEADERS},
        **problems(
            "malformed-json",
            "not-found",
            "conflict",
            "body-too-large",
            "unsupported-media-type",
            "encoder-unavailable",
            "overloaded",
        ),
    },
)
@first_try(_record_usual)
async def record(
    environment: EnvironmentName,
    body: Annotated[PreferencesBody, Body(openapi_examples=_EXAMPLES)],
    services: UsedServices,
    response: Response,
    _: Feeder,
) -> RecordedAnswer:
    many = isinstance(body, PreferenceBatch)
    bodies: Sequence[PreferenceBody] = body.preferences if isinstance(body, PreferenceBatch) else [body]
    recorded = await _recorded(services, environment, bodies, many=many)
    acknowledge(response, recorded.position)
    return RecordedAnswer(accepted=recorded.accepted, duplicates=recorded.duplicates)


async def _recorded(
    services: Services, environment: str, bodies: Sequence[PreferenceBody | WirePreference], *, many: bool
) -> Recorded:
    reader = await reader_for(
        (await services.current.environment(environment)).definition, bodies, services.encoder_for
    )
    try:
        batch = [reader.preference(one, f"/preferences/{index}") for index, one in enumerate(bodies)]
        recorded = await services.recorder.record(environment, batch)
    except DomainError as error:
        if many:
            raise
        raise _from_root(error) from error
    services.metrics.count_preferences(accepted=recorded.accepted, duplicates=recorded.duplicates)
    return recorded


def _from_root(error: DomainError) -> DomainError:
    """The same error about a preference that was sent alone, whose pointer begins at the body."""
    alone = "/preferences/0"
    pointer = error.pointer.removeprefix(alone) if error.pointer is not None else None
    return type(error)(error.message.replace(f"{alone}/", "/").replace(f"{alone}:", "the body:"), pointer=pointer)


@router.post(
    "/v1/environments/{environment}/preferences/import",
    summary="Import preferences",
    response_model=ImportAnswer,
    description="NDJSON of any length: one preference a line, stored in parts of some thousand lines, each its own "
    "transaction; an empty body stores nothing. Bad lines do not stop good ones; the first 20 are answered with their "
    "numbers. What was stored stays stored when the connection breaks, and lines with an `id` can be sent again "
    "safely: as duplicates. "
    "With `Accept: application/x-ndjson` the answer comes line by line while the import runs: one object a part, with "
    "`lines`, `accepted`, `duplicates` and `rejected` so far, and at the end the object that is answered otherwise, "
    "with a `consistency_token` that is the header of the other answer, or `code` and `detail` of what stopped it.",
    responses={
        200: {
            **example(
                {
                    "accepted": 2,
                    "duplicates": 0,
                    "rejected": 1,
                    "errors": [
                        {
                            "line": 3,
                            "detail": "/label: should be less than or equal to 1; found 2.",
                            "pointer": "/label",
                        }
                    ],
                }
            ),
            "headers": TOKEN_RESPONSE_HEADERS,
        },
        **problems("not-found", "encoder-unavailable", BODY_TOO_SLOW),
    },
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One preference a line."},
                    "example": json.dumps(_ONE) + "\n",
                }
            },
        }
    },
)
async def import_lines(
    environment: EnvironmentName, request: Request, response: Response, services: UsedServices, _: Feeder
) -> Any:
    importing = Import(services, (await services.current.environment(environment)).definition)
    if request.headers.get("accept") == NDJSON:
        return _WhileReading(_told(importing, request))
    async for _progress in _progress_of(importing, request):
        pass
    answer = await _finished(importing)
    acknowledge(response, importing.position)
    return answer


class _WhileReading(Response):
    """An answer that is sent while the request is read; the framework's own would take parts of the request itself."""

    media_type = NDJSON

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._lines = lines
        del self.headers["content-length"]

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _progress_of(importing: Import, request: Request) -> AsyncIterator[ImportProgress]:
    try:
        async for chunk in request.stream():
            if await importing.feed(chunk):
                yield importing.progress
    except (ClientDisconnect, HTTPException):
        await importing.break_off()
        raise


async def _told(importing: Import, request: Request) -> AsyncIterator[bytes]:
    """Progress line by line; the status has been sent, so what goes wrong is a line as well."""
    try:
        async for progress in _progress_of(importing, request):
            yield progress.model_dump_json().encode() + b"\n"
        answer = (await _finished(importing)).model_dump()
        if importing.position is not None:
            # The headers were sent before anything was stored.
            answer["consistency_token"] = token_of(importing.position)
        yield json.dumps(answer).encode() + b"\n"
    except DomainError as error:
        yield json.dumps({"code": error.code, "detail": error.message}).encode() + b"\n"
    except HTTPException as error:
        yield json.dumps({"code": BODY_TOO_SLOW, "detail": error.detail}).encode() + b"\n"


async def _finished(importing: Import) -> ImportAnswer:
    answer = await importing.finish()
    log.info("import", accepted=answer.accepted, duplicates=answer.duplicates, rejected=answer.rejected)
    return answer
