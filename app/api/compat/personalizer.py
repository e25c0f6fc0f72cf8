"""Azure Personalizer's Rank and Reward calls, for those whose code still makes them.

A reward becomes preferences of the chosen action over each of the others that it was chosen from: a reward r in [-1, 1]
is the label (1 + r) / 2, and the event as a whole weighs as much as one answer.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Body, Header, Path, Response
from pydantic import Field

from app.api.auth import Feeder, Reader, check_acts, check_visible
from app.api.compat.wire import ForeignBody, readable
from app.api.conversion import options_and_context, reader_for
from app.api.environments import example
from app.api.problems import problems
from app.api.schemas.base import ID_PATTERN, MAX_TEXT, Answer, Id
from app.api.schemas.options import ContextBody, ItemBody, OptionBody, TextBody
from app.api.schemas.preferences import PreferenceBody
from app.api.services import Services, UsedServices
from app.domain import (
    ApiKey,
    CatalogEnvironment,
    ConflictError,
    Environment,
    InvalidInputError,
    ModelNotReadyError,
    RankedEvent,
)
from app.serving.exploration import Explored, explore
from app.store import find_event, item_features, note_event, record_event

router = APIRouter(tags=["compatibility"])

ANONYMOUS = "anonymous"
"""Stands for everybody whose context features name no user."""

MAX_ACTIONS = 50
_USER_KEYS = ("user", "userid", "user_id")

EventId = Annotated[
    str, Path(pattern=r"^[^\x00-\x1f]{1,256}$", description="As the rank call gave or got it.", examples=["event-1"])
]
EnvironmentHeader = Annotated[
    Id | None,
    Header(alias="X-Psharelora-Environment", description="Needed unless the key is for one environment only."),
]
UserHeader = Annotated[
    Id | None,
    Header(
        alias="X-Psharelora-User",
        description="Needs the scope act-as-user; else a context feature named user, userId or user_id.",
    ),
]


class ActionFeatures(ForeignBody):
    id: str = Field(min_length=1, max_length=256)
    features: list[Any] = Field(default=[], description="Read as text, unless the id is an item of the catalogue.")


class RankRequest(ForeignBody):
    actions: list[ActionFeatures] = Field(min_length=1, max_length=MAX_ACTIONS)
    context_features: list[Any] | None = Field(default=None, alias="contextFeatures")
    excluded_actions: list[str] | None = Field(default=None, alias="excludedActions")
    event_id: str | None = Field(default=None, alias="eventId", pattern=r"^[^\x00-\x1f]{1,256}$")
    defer_activation: bool | None = Field(default=None, alias="deferActivation")


class RankedAction(Answer):
    id: str
    probability: float = Field(description="How likely this action was to be the chosen one.")


class RankResponse(Answer):
    ranking: list[RankedAction] = Field(description="Excluded actions keep their places.")
    event_id: str = Field(serialization_alias="eventId")
    reward_action_id: str = Field(serialization_alias="rewardActionId", description="The chosen action.")


class RewardRequest(ForeignBody):
    value: float = Field(ge=-1, le=1)


_FAILURES = problems(
    "malformed-json",
    "not-found",
    "conflict",
    "body-too-large",
    "unsupported-media-type",
    "encoder-unavailable",
    "corrupt-model",
)
_KEY = (
    "The key may come as `Ocp-Apim-Subscription-Key`, with the scopes `read` and `feedback`; a key for one environment "
    "only needs no `X-Psharelora-Environment`. Errors are problem documents that also carry Azure's `error`."
)
_RANK_BODY = {
    "contextFeatures": [{"user": "ada"}, {"daytime": "morning"}],
    "actions": [{"id": "news", "features": [{"topic": "politics"}]}, {"id": "match", "features": [{"topic": "sport"}]}],
    "eventId": "event-1",
}


@router.post(
    "/personalizer/v1.0/rank",
    summary="Rank, as Azure Personalizer has it",
    description="Chooses one of the actions for a user by Thompson sampling: as often as it is believed to be the "
    "best. Before the first model all are equally likely, so that there are rewards to learn from. " + _KEY,
    status_code=201,
    response_model_by_alias=True,
    responses={
        201: example(
            {
                "ranking": [{"id": "match", "probability": 0.81}, {"id": "news", "probability": 0.19}],
                "eventId": "event-1",
                "rewardActionId": "match",
            },
            "Ranked.",
        ),
        **_FAILURES,
    },
)
async def rank(
    body: Annotated[RankRequest, Body(openapi_examples={"two": {"value": _RANK_BODY}})],
    services: UsedServices,
    key: Reader,
    environment: EnvironmentHeader = None,
    user: UserHeader = None,
) -> RankResponse:
    name = _environment_of(key, environment)
    check_acts(key, user)
    ranked = _ranked_actions(body)
    defined = (await services.current.environment(name)).definition
    options = await _options(services, defined, ranked)
    context = _context(defined, body.context_features)
    person = user or _user_in(body.context_features)
    event_id = body.event_id or uuid4().hex
    explored = await _explored(services, defined, person, options, context, event_id)
    others = tuple(option.model_dump() for index, option in enumerate(options) if index != explored.chosen)
    await record_event(
        services.db,
        name,
        RankedEvent(
            id=event_id,
            user=person,
            chosen=options[explored.chosen].model_dump(),
            others=others,
            context=None if context is None else context.model_dump(),
            active=not body.defer_activation,
        ),
    )
    return RankResponse(
        ranking=_in_places(body, ranked, explored), event_id=event_id, reward_action_id=ranked[explored.chosen].id
    )


@router.post(
    "/personalizer/v1.0/events/{event_id}/reward",
    summary="Reward, as Azure Personalizer has it",
    description="The first reward of an event becomes preferences of the chosen action over the others: 1 prefers it, "
    "0 is a tie, -1 prefers the others; all of them together weigh as much as one answer. Later rewards change "
    "nothing. Events expire after seven days. " + _KEY,
    status_code=204,
    response_class=Response,
    responses=_FAILURES,
)
async def reward(
    event_id: EventId,
    body: Annotated[RewardRequest, Body(openapi_examples={"liked": {"value": {"value": 1.0}}})],
    services: UsedServices,
    key: Feeder,
    environment: EnvironmentHeader = None,
) -> Response:
    name = _environment_of(key, environment)
    event = await find_event(services.db, name, event_id)
    if event.reward is None:
        if event.active:
            await _learn(services, name, event, body.value)
        await note_event(services.db, name, event_id, reward=body.value)
    return Response(status_code=204)


@router.post(
    "/personalizer/v1.0/events/{event_id}/activate",
    summary="Activate, as Azure Personalizer has it",
    description="The user has seen what an event chose, which `deferActivation` left open. " + _KEY,
    status_code=204,
    response_class=Response,
    responses=problems("not-found", "conflict", "encoder-unavailable"),
)
async def activate(
    event_id: EventId,
    services: UsedServices,
    key: Feeder,
    environment: EnvironmentHeader = None,
) -> Response:
    name = _environment_of(key, environment)
    event = await find_event(services.db, name, event_id)
    if not event.active:
        if event.reward is not None:
            await _learn(services, name, event, event.reward)
        await note_event(services.db, name, event_id, active=True)
    return Response(status_code=204)


def _environment_of(key: ApiKey, named: str | None) -> str:
    if named is not None:
        check_visible(key, named)
        return named
    if key.environments is not None and len(key.environments) == 1:
        return next(iter(key.environments))
    raise InvalidInputError(
        "the environment is not known: send the header X-Psharelora-Environment, or use a key that is for one "
        "environment only (psharelora keys create NAME --scope read --scope feedback --environment ENVIRONMENT)."
    )


def _ranked_actions(body: RankRequest) -> list[ActionFeatures]:
    """The actions that may be chosen."""
    seen: set[str] = set()
    for index, action in enumerate(body.actions):
        if action.id in seen:
            raise InvalidInputError(
                f"/actions/{index}/id: {action.id!r} is there twice.", pointer=f"/actions/{index}/id"
            )
        seen.add(action.id)
    excluded = set(body.excluded_actions or ())
    ranked = [action for action in body.actions if action.id not in excluded]
    if not ranked:
        raise InvalidInputError("/excludedActions: every action is excluded.", pointer="/excludedActions")
    return ranked


async def _options(services: Services, environment: Environment, actions: Sequence[ActionFeatures]) -> list[OptionBody]:
    """An action whose id is an item of the catalogue is that item; another one is what its features say, as text."""
    name = environment.name
    if not isinstance(environment, CatalogEnvironment):
        raise InvalidInputError(f"environment {name!r} is an MDP; actions to rank are options of a catalogue.")
    candidates = [action.id for action in actions if re.fullmatch(ID_PATTERN, action.id)]
    items = await item_features(services.db, name, candidates)
    options: list[OptionBody] = []
    for index, action in enumerate(actions):
        if action.id in items:
            options.append(ItemBody(item=action.id))
        elif environment.encoder is None:
            raise InvalidInputError(
                f"/actions/{index}: {action.id!r} is no item of environment {name!r}, which has no encoder to read its "
                "features with.",
                pointer=f"/actions/{index}",
            )
        else:
            options.append(readable(in_words(action.features) or action.id))
    return options


def _context(environment: Environment, features: Sequence[Any] | None) -> TextBody | None:
    has_contexts = isinstance(environment, CatalogEnvironment) and environment.context_dim is not None
    said = in_words(features) if has_contexts else ""
    return readable(said) if said else None


async def _explored(
    services: Services,
    environment: Environment,
    user: str,
    options: Sequence[OptionBody],
    context: ContextBody | None,
    event_id: str,
) -> Explored:
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest()))
    read, read_context = await options_and_context(environment, options, context, services.encoder_for)
    try:
        answer = await services.runtime.rewards(environment.name, user, read, read_context)
    except ModelNotReadyError:
        return explore(None, len(options), rng)
    return explore(answer.rewards, len(options), rng)


def _in_places(body: RankRequest, ranked: Sequence[ActionFeatures], explored: Explored) -> list[RankedAction]:
    """The chosen action, then the others by their probability; excluded ones stay where they were."""
    by_probability = sorted(
        range(len(ranked)), key=lambda index: (index != explored.chosen, -explored.probabilities[index])
    )
    best_first = iter([RankedAction(id=ranked[i].id, probability=explored.probabilities[i]) for i in by_probability])
    excluded = set(body.excluded_actions or ())
    return [
        RankedAction(id=action.id, probability=0.0) if action.id in excluded else next(best_first)
        for action in body.actions
    ]


async def _learn(services: Services, name: str, event: RankedEvent, value: float) -> None:
    """An event that was the only action teaches nothing."""
    if not event.others:
        return
    bodies = [
        PreferenceBody.model_validate(
            {
                "user": event.user,
                "chosen": event.chosen,
                "rejected": other,
                "context": event.context,
                "label": (1.0 + value) / 2.0,
                "weight": 1.0 / len(event.others),
                "id": _preference_id(event.id, index),
            }
        )
        for index, other in enumerate(event.others)
        if other != event.chosen
    ]
    environment = (await services.current.environment(name)).definition
    reader = await reader_for(environment, bodies, services.encoder_for)
    batch = [reader.preference(body, f"/others/{index}") for index, body in enumerate(bodies)]
    try:
        recorded = await services.recorder.record(name, batch)
    except ConflictError:
        # Another reward for the same event came first.
        return
    services.metrics.count_preferences(accepted=recorded.accepted, duplicates=recorded.duplicates)


def _preference_id(event_id: str, index: int) -> str:
    """The same for the same event, whatever characters its id has."""
    return f"event-{hashlib.blake2b(event_id.encode(), digest_size=16).hexdigest()}-{index}"


def in_words(features: Any) -> str:
    """Features as lines of text, `name: value`, in the order of their names; no more of them than encoders read.

    Neither names nor values are ours, so neither how deep they are nested nor how often a long name stands before a
    value may cost more than a text may be long.
    """
    lines, length = list[str](), 0
    opened: list[Iterator[tuple[str, Any]]] = [iter([("", features)])]
    while opened and length < MAX_TEXT:
        found = next(opened[-1], None)
        if found is None:
            opened.pop()
            continue
        path, value = found
        match value:
            case dict():
                opened.append(_by_name(path, value))
            case list():
                opened.append(zip(repeat(path), value))
            case None:
                pass
            case _:
                lines.append(f"{path}: {value}" if path else str(value))
                length += len(lines[-1]) + 1
    return "\n".join(lines)


def _by_name(path: str, features: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in sorted(features):
        yield f"{path} {name}".strip()[:MAX_TEXT], features[name]


def _user_in(features: Any) -> str:
    """The first feature that is named like a user's id and is one."""
    left = [features]
    while left:
        inside = left.pop()
        if isinstance(inside, dict):
            for key, value in inside.items():
                inner = value.get("id", value.get("name")) if isinstance(value, dict) else value
                if key.lower() in _USER_KEYS and isinstance(inner, str) and re.fullmatch(ID_PATTERN, inner):
                    return inner
            left += reversed(inside.values())
        elif isinstance(inside, list):
            left += reversed(inside)
    return ANONYMOUS
