"""Errors as RFC 9457 problem documents: the one table from an error's class to its HTTP status."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Scope

from app.api.validation import encodable, first_sentence, located
from app.domain import (
    ConflictError,
    CorruptModelError,
    DomainError,
    EncoderUnavailableError,
    InvalidInputError,
    ModelNotReadyError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    RefitStateError,
    StoreUnavailableError,
    UnauthenticatedError,
)

MEDIA_TYPE = "application/problem+json"

RETRY_AFTER_SECONDS = "5"
"""A database that restarts, an embeddings service or a first refit are usually back or done by then."""

OVERLOAD_SECONDS = "1"
"""What waits to be stored is a fraction of a second's work."""

BODY_TOO_SLOW = "body-too-slow"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A meaning that an error can have, as clients tell them apart."""

    code: str
    status: int
    title: str
    description: str


_KINDS = (
    ProblemKind("malformed-json", 400, "The body is not JSON", "The request's body could not be parsed as JSON."),
    ProblemKind(
        UnauthenticatedError.code,
        401,
        "A valid API key is needed",
        "Send `Authorization: Bearer <key>` with a key that exists and has not been revoked.",
    ),
    ProblemKind(
        PermissionDeniedError.code,
        403,
        "The API key does not allow this",
        "The key is valid, but lacks the scope or the environment that the call needs; the detail names it.",
    ),
    ProblemKind(
        NotFoundError.code,
        404,
        "No such thing",
        "The address is unknown, or names an environment, item, refit, model or key that does not exist or is not "
        "visible to this API key.",
    ),
    ProblemKind("method-not-allowed", 405, "Not a method of this address", "The `Allow` header lists those that are."),
    ProblemKind(
        ConflictError.code,
        409,
        "Taken by other content",
        "An id was used before with other content, or a change would alter what stored preferences mean.",
    ),
    ProblemKind(
        RefitStateError.code,
        409,
        "Not possible in this state",
        "The refit or the model version is not in a state that allows this call.",
    ),
    ProblemKind(
        "body-too-large",
        413,
        "The body is too large",
        "The body, or one line of an import, is longer than the limit that the detail names.",
    ),
    ProblemKind(
        BODY_TOO_SLOW,
        408,
        "The body came too slowly",
        "The body was not whole, or an import stood still, for longer than the detail says; the connection is closed.",
    ),
    ProblemKind(
        "unsupported-media-type", 415, "Not JSON", "Send the body with the header `Content-Type: application/json`."
    ),
    ProblemKind(
        InvalidInputError.code,
        422,
        "The input contradicts its contract",
        "The detail says what is wrong with the first offender, `pointer` where it is in the body (RFC 6901), and "
        "`errors` lists all that were found. Nothing of the request was stored.",
    ),
    ProblemKind(
        RateLimitedError.code,
        429,
        "Too many requests",
        "The API key has made as many requests as it may in a minute. Nothing was done; `Retry-After` says when the "
        "next one is taken, the headers `RateLimit-Policy` and `RateLimit` how many there are and how many are left.",
    ),
    ProblemKind("internal", 500, "A fault of this service", "The log has the details under the request's id."),
    ProblemKind(
        CorruptModelError.code,
        500,
        "A stored model cannot be read",
        "Promote another version, or retrain; the preferences are not affected.",
    ),
    ProblemKind(
        ModelNotReadyError.code,
        503,
        "No model has been published yet",
        "The environment has not been fitted; the detail says how many preferences are stored and how to retrain.",
    ),
    ProblemKind(
        EncoderUnavailableError.code,
        503,
        "Text cannot be encoded now",
        "The environment's embeddings service did not answer as expected. Nothing of the request was stored.",
    ),
    ProblemKind(
        StoreUnavailableError.code, 503, "The database does not answer", "Try again; nothing was acknowledged."
    ),
    ProblemKind(
        OverloadedError.code,
        503,
        "Too much waits to be stored",
        "More preferences come than the database takes. Nothing of the request was stored; send it again after "
        "`Retry-After`.",
    ),
    ProblemKind("not-ready", 503, "Not ready to serve", "`errors` lists which checks failed and why."),
)

PROBLEMS: Mapping[str, ProblemKind] = {kind.code: kind for kind in _KINDS}
"""By code. A domain error's class is found by its `code`; whoever adds a class adds a row."""


class FieldError(BaseModel):
    detail: str
    pointer: str | None = Field(default=None, description="JSON pointer into the request's body.")


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str = Field(description="Address of this kind of problem's description.")
    title: str
    status: int
    detail: str = Field(description="What is wrong, where, what was expected and what was found.")
    code: str = Field(description="Stable name of the kind of problem.")
    request_id: str = Field(description="The request's id, under which the log has it.")
    pointer: str | None = Field(default=None, description="JSON pointer to the first offender in the body.")
    errors: list[FieldError] | None = Field(default=None, description="Every offender that was found.")


class ProblemDescription(BaseModel):
    code: str
    status: int
    title: str
    description: str


class ProblemError(Exception):
    """A problem that is not one of the domain's: `code` is a row of the table."""

    def __init__(self, code: str, detail: str, *, errors: Sequence[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors


def problem_response(
    scope: Scope,
    code: str,
    detail: str,
    *,
    pointer: str | None = None,
    errors: Sequence[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    kind = PROBLEMS[code]
    detail = encodable(detail)
    document = Problem(
        type=f"/problems/{code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        request_id=request_id_of(scope),
        pointer=None if pointer is None else encodable(pointer),
        errors=None if errors is None else list(errors),
    )
    sent = dict(headers or {})
    if kind.status == 401:
        sent["WWW-Authenticate"] = 'Bearer realm="psharelora"'
    if kind.status == 503:
        sent["Retry-After"] = OVERLOAD_SECONDS if code == OverloadedError.code else RETRY_AFTER_SECONDS
    content = document.model_dump(exclude_none=True)
    if scope["path"].startswith("/personalizer/"):
        # What Azure's clients look for.
        content["error"] = {"code": _AZURE_CODES.get(kind.status, "BadRequest"), "message": detail}
    return JSONResponse(content, status_code=kind.status, media_type=MEDIA_TYPE, headers=sent)


_AZURE_CODES = {404: "ResourceNotFound", 500: "InternalServerError", 503: "InternalServerError"}


def request_id_of(scope: Scope) -> str:
    request_id: str = scope.get("state", {}).get("request_id", "")
    return request_id


def domain_problem(scope: Scope, error: DomainError) -> JSONResponse:
    code = error.code if error.code in PROBLEMS else "internal"
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, RateLimitedError) else None
    return problem_response(scope, code, error.message, pointer=error.pointer, headers=headers)


def install_problem_handlers(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    app.state.routers = (app.router, *routers)
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, handler)


async def answer_to_error(request: Request, error: Exception) -> Response | None:
    """What the framework answers to an error inside a route; None to one that nobody foresaw."""
    handler = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), None)
    return None if handler is None else await handler(request, error)


async def _on_domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    if PROBLEMS.get(error.code, PROBLEMS["internal"]).status >= 500:
        log.warning("request_unavailable", code=error.code, detail=error.message)
    return domain_problem(request.scope, error)


async def _on_problem_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return problem_response(request.scope, error.code, error.detail, errors=error.errors)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found: Sequence[Any] = error.errors()
    first = found[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        reason = first.get("ctx", {}).get("error", "it could not be parsed")
        return problem_response(
            request.scope, "malformed-json", f"the body is not JSON: {reason}, at character {position}."
        )
    if located(first["loc"]) == "" and isinstance(first.get("input"), bytes):
        sent = request.headers.get("content-type") or "no content type"
        return problem_response(
            request.scope, "unsupported-media-type", f"the body must be application/json; found {sent}."
        )
    errors = [_field_error(one) for one in found]
    return problem_response(
        request.scope, InvalidInputError.code, errors[0].detail, pointer=errors[0].pointer, errors=errors
    )


def _field_error(found: Mapping[str, Any]) -> FieldError:
    pointer = located(found["loc"])
    return FieldError(detail=encodable(first_sentence(found)), pointer=None if pointer is None else encodable(pointer))


_BY_STATUS = {
    404: (NotFoundError.code, "there is nothing at {path}."),
    405: ("method-not-allowed", "{method} is not a method of {path}."),
    400: ("malformed-json", "the body could not be read."),
    408: (BODY_TOO_SLOW, "{detail}"),
    413: ("body-too-large", "{detail}"),
}


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself raises: an unknown address, a wrong method, a body that is not UTF-8."""
    assert isinstance(error, HTTPException)
    code, sentence = _BY_STATUS.get(error.status_code, ("internal", "the request could not be answered."))
    if isinstance(error.__cause__, RecursionError):
        sentence = "the body is nested too deeply."
    detail = sentence.format(path=request.url.path, method=request.method, detail=error.detail)
    headers = {"Allow": _methods_of(request)} if error.status_code == 405 else error.headers
    return problem_response(request.scope, code, detail, headers=headers)


def _methods_of(request: Request) -> str:
    """All methods of this address; the framework names those of the first route that it finds there."""
    routes = (route for router in request.app.state.routers for route in router.routes)
    found = (route for route in routes if isinstance(route, Route) and route.path_regex.match(request.url.path))
    return ", ".join(sorted({method for route in found for method in route.methods or ()}))


_HANDLERS: dict[type[Any], Callable[[Request, Exception], Awaitable[Response]]] = {
    DomainError: _on_domain_error,
    ProblemError: _on_problem_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_exception,
}


ASKED = (
    "malformed-json",
    "not-found",
    "body-too-large",
    "unsupported-media-type",
    "model-not-ready",
    "encoder-unavailable",
    "corrupt-model",
)
"""What a question about a user that comes in a body can end in."""


def problems(*codes: str, authenticated: bool = True) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these codes, with those that every authenticated call can end in."""
    always = (
        (
            UnauthenticatedError.code,
            PermissionDeniedError.code,
            InvalidInputError.code,
            RateLimitedError.code,
            StoreUnavailableError.code,
        )
        if authenticated
        else ()
    )
    # What may be too large may also come too slowly.
    slow = (BODY_TOO_SLOW,) if "body-too-large" in codes else ()
    by_status: dict[int, list[ProblemKind]] = {}
    for code in (*always, *codes, *slow):
        kind = PROBLEMS[code]
        by_status.setdefault(kind.status, []).append(kind)
    return {status: _documented(kinds) for status, kinds in sorted(by_status.items())}


def _documented(kinds: Sequence[ProblemKind]) -> dict[str, Any]:
    examples = {
        kind.code: {
            "value": {
                "type": f"/problems/{kind.code}",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.description,
                "code": kind.code,
                "request_id": "5f0c6d1e8a6b4d0f9a3f5d1c2b7e4a90",
            }
        }
        for kind in kinds
    }
    description = " ".join(f"`{kind.code}`: {kind.title}." for kind in kinds)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}}
    return {"description": description, "content": content}


router = APIRouter(tags=["operations"])


@router.get(
    "/problems",
    summary="List the kinds of problems",
    description="Every `code` that an error may have, with its status and meaning.",
)
async def list_problems() -> list[ProblemDescription]:
    return [_described(kind) for kind in _KINDS]


@router.get(
    "/problems/{code}",
    summary="Explain a kind of problem",
    description="What the `type` of a problem document leads to.",
    responses=problems(NotFoundError.code, InvalidInputError.code, authenticated=False),
)
async def explain_problem(
    code: Annotated[str, Path(description="The `code` of a problem.", examples=["invalid-input"])],
) -> ProblemDescription:
    if code not in PROBLEMS:
        raise NotFoundError(f"there is no kind of problem named {code}.")
    return _described(PROBLEMS[code])


def _described(kind: ProblemKind) -> ProblemDescription:
    return ProblemDescription(code=kind.code, status=kind.status, title=kind.title, description=kind.description)
