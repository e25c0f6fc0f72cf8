"""The calls that come most often: usual bodies are decoded, answered and encoded by compiled code over bytes.

These are short ways of `app.api.compiled`. What is not usual (another shape of body, an unknown item, a context, a
mistake) takes the declared way, so that errors and their words are the same on both.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from fastapi import Request, Response

from app.api.auth import check_scope, check_visible
from app.api.consistency import position_of
from app.api.itemlists import read_items, write_rewards
from app.api.schemas.base import ID_PATTERN, MAX_BATCH
from app.api.services import Services
from app.domain import ApiKey, Scope
from app.serving import RankedItems

_ID = re.compile(ID_PATTERN)

ROWS_AT_A_TIME = 2_000
"""Of an answer, encoded in one go: a millisecond."""


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item: str


_Items = Annotated[list[_Item], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class _RankBody(msgspec.Struct, forbid_unknown_fields=True):
    options: _Items | None = None
    context: None = None
    top_n: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    by: Literal["mean", "lower"] = "mean"


class _Ranked(msgspec.Struct, gc=False):
    reward: float
    stderr: float
    lower: float
    upper: float
    option: _Item
    index: int | None


_rank_body = msgspec.json.Decoder(_RankBody)
_encode = msgspec.json.Encoder().encode


async def usual_rewards(request: Request) -> Response | None:
    asked = _asked(request)
    items = None if asked is None else read_items(await request.body(), MAX_BATCH)
    if asked is None or items is None:
        return None
    answer = await asked.services.runtime.item_rewards(asked.environment, asked.user, items, after=asked.after())
    rewards = None if answer is None else write_rewards(answer.numbers)
    if answer is None or rewards is None:
        return None
    head = b'{"model_version":%d,"feedback_seen":%d,"rewards":[' % (answer.model_version, answer.feedback_seen)
    return _json(b"".join((head, rewards, b"]}")))


async def usual_ranking(request: Request) -> Response | None:
    asked = _asked(request)
    if asked is None:
        return None
    try:
        body = _rank_body.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    items = None if body.options is None else [option.item for option in body.options]
    answer = await asked.services.runtime.item_ranking(
        asked.environment, asked.user, items, top_n=body.top_n, by=body.by, after=asked.after()
    )
    if answer is None:
        return None
    if len(answer.ids) <= ROWS_AT_A_TIME:
        return _json(_written(answer, body.by))
    return _json(await asyncio.to_thread(_written, answer, body.by))


def _written(answer: RankedItems, by: str) -> bytes:
    """In pieces, so that who writes a long one in a thread lets others have the interpreter in between."""
    head = b'{"model_version":%d,"feedback_seen":%d,"by":"%s","options":[' % (
        answer.model_version,
        answer.feedback_seen,
        by.encode(),
    )
    begins = range(0, len(answer.ids), ROWS_AT_A_TIME)
    rows = (_encode(_ranked(answer, slice(begin, begin + ROWS_AT_A_TIME)))[1:-1] for begin in begins)
    return b"".join((head, b",".join(rows), b"]}"))


def _ranked(answer: RankedItems, some: slice) -> list[_Ranked]:
    numbers, ids = answer.numbers[some].tolist(), answer.ids[some]
    places = [None] * len(ids) if answer.index is None else answer.index[some].tolist()
    return [
        _Ranked(reward, stderr, lower, upper, _Item(item), place)
        for (reward, stderr, lower, upper), item, place in zip(numbers, ids, places, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Whom a request asks, and about whom."""

    services: Services
    environment: str
    user: str
    token: str | None

    def after(self) -> int | None:
        """How new the answer must be."""
        return None if self.token is None else position_of(self.token)


def _asked(request: Request) -> _Asked | None:
    """None where the request is not usual."""
    scope = request.scope
    content_type, token = b"", None
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"consistency-token":
            token = value.decode("latin-1")
    environment, user = scope["path_params"]["environment"], scope["path_params"]["user"]
    if (
        content_type != b"application/json"
        or scope["query_string"]
        or not _ID.fullmatch(environment)
        or not _ID.fullmatch(user)
    ):
        return None
    key: ApiKey = scope["state"]["key"]
    check_scope(key, Scope.READ)
    check_visible(key, environment)
    return _Asked(scope["app"].state.services, environment, user, token)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
