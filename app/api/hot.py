"""The calls that come most often: usual bodies are decoded, answered and encoded by compiled code over bytes.

These are short ways of `app.api.compiled`. What is not usual (another shape of body, an unknown item, a context, a
mistake) takes the declared way, so that errors and their words are the same on both.
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec
from fastapi import Request, Response

from app.api.auth import check_scope, check_visible
from app.api.consistency import position_of
from app.api.schemas.base import ID_PATTERN, MAX_BATCH
from app.api.services import Services
from app.domain import ApiKey, Scope
from app.serving import ItemsAnswer

S = TypeVar("S", bound=msgspec.Struct)

_ID = re.compile(ID_PATTERN)

ROWS_AT_A_TIME = 2_000
"""Of an answer, encoded in one go: a millisecond."""


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    item: str


_Items = Annotated[list[_Item], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class _RewardsBody(msgspec.Struct, forbid_unknown_fields=True):
    options: _Items
    context: None = None


class _RankBody(msgspec.Struct, forbid_unknown_fields=True):
    options: _Items | None = None
    context: None = None
    top_n: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    by: Literal["mean", "lower"] = "mean"


class _Reward(msgspec.Struct, gc=False):
    reward: float
    stderr: float
    lower: float
    upper: float


class _RewardsAnswer(msgspec.Struct, gc=False):
    model_version: int
    feedback_seen: int
    rewards: list[_Reward]


class _Ranked(msgspec.Struct, gc=False):
    reward: float
    stderr: float
    lower: float
    upper: float
    option: _Item
    index: int | None


class _RankAnswer(msgspec.Struct, gc=False):
    model_version: int
    feedback_seen: int
    by: Literal["mean", "lower"]
    options: list[_Ranked]


_rewards_body = msgspec.json.Decoder(_RewardsBody)
_rank_body = msgspec.json.Decoder(_RankBody)
_encode = msgspec.json.Encoder().encode


async def usual_rewards(request: Request) -> Response | None:
    found = await _read(request, _rewards_body)
    if found is None:
        return None
    services, environment, user, after, body = found
    items = [option.item for option in body.options]
    answer = await services.runtime.item_rewards(environment, user, items, after=after)
    if answer is None:
        return None
    rewards = [_Reward(*row) for row in answer.numbers.tolist()]
    return _json(_encode(_RewardsAnswer(answer.model_version, answer.feedback_seen, rewards)))


async def usual_ranking(request: Request) -> Response | None:
    found = await _read(request, _rank_body)
    if found is None:
        return None
    services, environment, user, after, body = found
    items = None if body.options is None else [option.item for option in body.options]
    answer = await services.runtime.item_ranking(environment, user, items, top_n=body.top_n, by=body.by, after=after)
    if answer is None:
        return None
    if len(answer.ids) <= ROWS_AT_A_TIME:
        return _json(_encode(_RankAnswer(answer.model_version, answer.feedback_seen, body.by, _ranked(answer))))
    return None


def _ranked(answer: ItemsAnswer) -> list[_Ranked]:
    places = [None] * len(answer.ids) if answer.index is None else answer.index.tolist()
    return [
        _Ranked(reward, stderr, lower, upper, _Item(item), place)
        for (reward, stderr, lower, upper), item, place in zip(answer.numbers.tolist(), answer.ids, places, strict=True)
    ]


async def _read(
    request: Request, decoder: "msgspec.json.Decoder[S]"
) -> tuple[Services, str, str, int | None, S] | None:
    """Whom the request asks, about whom, how new, and the body; None where it is not usual or not allowed."""
    scope = request.scope
    content_type, token = b"", b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"consistency-token":
            token = value
    environment, user = scope["path_params"]["environment"], scope["path_params"]["user"]
    if content_type != b"application/json" or not _ID.fullmatch(environment) or not _ID.fullmatch(user):
        return None
    try:
        body = decoder.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    key: ApiKey = scope["state"]["key"]
    check_scope(key, Scope.READ)
    check_visible(key, environment)
    after = position_of(token.decode("latin-1")) if token else None
    return scope["app"].state.services, environment, user, after, body


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
