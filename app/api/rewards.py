"""How a user values options: rewards, rankings, and what to ask next."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel

from app import serving
from app.api.auth import Reader
from app.api.compiled import first_try
from app.api.consistency import After
from app.api.conversion import options_and_context
from app.api.environments import EnvironmentName, example
from app.api.hot import usual_ranking, usual_rewards
from app.api.problems import ASKED, problems
from app.api.replay import AsItWas
from app.api.revalidation import RevalidatedRoute
from app.api.schemas import answers
from app.api.schemas.answers import (
    QueriesAnswer,
    RankAnswer,
    RankBody,
    Ranked,
    Reward,
    RewardsAnswer,
    RewardsBody,
    UserRanking,
    UserRewards,
    UsersRankAnswer,
    UsersRankBody,
    UsersRewardsAnswer,
    UsersRewardsBody,
)
from app.api.schemas.options import OptionBody
from app.api.services import Services, UsedServices
from app.api.users import UserId
from app.domain import Context, InvalidInputError, Option
from app.serving import Replay, RewardAnswer

router = APIRouter(tags=["rewards"], route_class=RevalidatedRoute)

MAX_ANSWERS = 100_000
"""Rewards in one answer: some ten megabytes."""

_REWARD: dict[str, Any] = {"reward": 1.31, "stderr": 0.42, "lower": 0.49, "upper": 2.13}
_REWARDS_BODY: dict[str, Any] = {"options": [{"item": "a"}, {"features": [7.0, 1.0, 0.0, 1.0, 0.0, 0.0]}]}

_FAILURES = problems(*ASKED)
_PERSONAL = problems(*ASKED, "refit-state")
"""Where answers can be given again, also from versions that are gone."""


@router.post(
    "/v1/environments/{environment}/users/{user}/rewards",
    summary="What options are worth to a user",
    description=f"One reward an option, in their order. {answers.REWARD} The interval holds at the environment's "
    "`confidence`.",
    responses={
        200: example({"model_version": 1, "feedback_seen": 36, "rewards": [_REWARD, {**_REWARD, "reward": 0.2}]}),
        **_PERSONAL,
    },
)
@first_try(usual_rewards)
async def rewards(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[RewardsBody, Body(openapi_examples={"options": {"value": _REWARDS_BODY}})],
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
) -> RewardsAnswer:
    defined = (await services.current.environment(environment)).definition
    options, context = await options_and_context(defined, body.options, body.context, services.encoder_for)
    answer = await services.runtime.rewards(environment, user, options, context, after=after, replay=replay)
    return RewardsAnswer(**_rewards(answer))


@router.post(
    "/v1/environments/{environment}/rewards",
    response_model=UsersRewardsAnswer,
    summary="What options are worth to several users",
    description=f"The same options for at most 1,000 users, and at most {MAX_ANSWERS:,} rewards in all. "
    f"{answers.REWARD} Each user's answer names what it rests on.",
    responses={
        200: example(
            {"answers": [{"user": "ada", "model_version": 1, "feedback_seen": 36, "rewards": [_REWARD, _REWARD]}]}
        ),
        **_FAILURES,
    },
)
async def rewards_of_users(
    environment: EnvironmentName,
    body: Annotated[
        UsersRewardsBody, Body(openapi_examples={"users": {"value": {"users": ["ada", "bob"], **_REWARDS_BODY}}})
    ],
    services: UsedServices,
    _: Reader,
    after: After,
) -> Response:
    _check_size(len(body.users), len(body.options))
    defined = (await services.current.environment(environment)).definition
    options, context = await options_and_context(defined, body.options, body.context, services.encoder_for)
    found = [
        (user, await services.runtime.rewards(environment, user, options, context, after=after)) for user in body.users
    ]
    return await _in_pieces(lambda: (UserRewards(user=user, **_rewards(answer)) for user, answer in found))


@router.post(
    "/v1/environments/{environment}/users/{user}/rank",
    summary="Options, best first",
    description=f"The given options, or the whole catalogue. {answers.REWARD} With `by` = `lower` they are ordered by "
    "the lower end of their intervals: what is surely good comes before what is perhaps better.",
    responses={
        200: example(
            {
                "model_version": 1,
                "feedback_seen": 36,
                "by": "mean",
                "options": [{**_REWARD, "option": {"item": "a"}, "index": None}],
            }
        ),
        **_PERSONAL,
    },
)
@first_try(usual_ranking)
async def rank(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[
        RankBody,
        Body(openapi_examples={"catalogue": {"value": {"top_n": 5}}, "options": {"value": _REWARDS_BODY}}),
    ],
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
) -> RankAnswer:
    defined = (await services.current.environment(environment)).definition
    options, context = await options_and_context(defined, body.options or (), body.context, services.encoder_for)
    answer = await _ranked(services, environment, user, body, options, context, after, replay)
    return RankAnswer(**_ranking(answer, body))


@router.post(
    "/v1/environments/{environment}/rank",
    response_model=UsersRankAnswer,
    summary="Options, best first, for several users",
    description=f"For at most 1,000 users, and at most {MAX_ANSWERS:,} places in all: name a `top_n` for the "
    f"catalogue. {answers.REWARD}",
    responses={
        200: example(
            {
                "answers": [
                    {
                        "user": "ada",
                        "model_version": 1,
                        "feedback_seen": 36,
                        "by": "mean",
                        "options": [{**_REWARD, "option": {"item": "a"}, "index": None}],
                    }
                ]
            }
        ),
        **_FAILURES,
    },
)
async def rank_for_users(
    environment: EnvironmentName,
    body: Annotated[
        UsersRankBody, Body(openapi_examples={"catalogue": {"value": {"users": ["ada", "bob"], "top_n": 5}}})
    ],
    services: UsedServices,
    _: Reader,
    after: After,
) -> Response:
    state = await services.current.environment(environment)
    given = MAX_ANSWERS if body.options is None else len(body.options)
    _check_size(len(body.users), given if body.top_n is None else min(given, body.top_n))
    options, context = await options_and_context(
        state.definition, body.options or (), body.context, services.encoder_for
    )
    found = [(user, await _ranked(services, environment, user, body, options, context, after)) for user in body.users]
    return await _in_pieces(lambda: (UserRanking(user=user, **_ranking(answer, body)) for user, answer in found))


@router.get(
    "/v1/environments/{environment}/users/{user}/queries",
    summary="What to ask a user next",
    description="Pairs of the catalogue whose answer is expected to tell most about this user's rewards.",
    responses={
        200: example(
            {
                "model_version": 1,
                "feedback_seen": 3,
                "queries": [
                    {"first": {"item": "a"}, "second": {"item": "b"}, "information": 0.31, "probability": 0.48}
                ],
            }
        ),
        **problems("not-found", "model-not-ready", "corrupt-model"),
    },
)
async def queries(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    n: Annotated[int, Query(ge=1, le=100, description="How many pairs.")] = 1,
) -> QueriesAnswer:
    answer = await services.runtime.queries(environment, user, n, after=after)
    return QueriesAnswer(
        model_version=answer.model_version,
        feedback_seen=answer.feedback_seen,
        queries=[
            answers.Query(first=one.first, second=one.second, information=one.information, probability=one.probability)
            for one in answer.queries
        ],
    )


def _check_size(users: int, each: int) -> None:
    if users * each > MAX_ANSWERS:
        raise InvalidInputError(
            f"users: {users} users with {each:,} answers each are more than {MAX_ANSWERS:,}; ask for fewer, or with a "
            "smaller top_n.",
            pointer="/users",
        )


async def _in_pieces(make: Callable[[], Iterable[BaseModel]]) -> Response:
    """`{"answers": [...]}`, made in a thread and one user at a time: 100,000 rewards would stop the event loop."""
    written = await asyncio.to_thread(lambda: b",".join(one.model_dump_json().encode() for one in make()))
    return Response(b'{"answers":[%b]}' % written, media_type="application/json")


def _rewards(answer: serving.RewardsAnswer) -> dict[str, Any]:
    return {
        "model_version": answer.model_version,
        "feedback_seen": answer.feedback_seen,
        "rewards": [Reward(**_numbers(one)) for one in answer.rewards],
    }


async def _ranked(
    services: Services,
    environment: str,
    user: str,
    body: RankBody,
    options: Sequence[Option],
    context: Context | None,
    after: int | None,
    replay: Replay | None = None,
) -> serving.RankAnswer:
    given = None if body.options is None else options
    return await services.runtime.rank(
        environment, user, given, context, top_n=body.top_n, by=body.by, after=after, replay=replay
    )


def _ranking(answer: serving.RankAnswer, body: RankBody) -> dict[str, Any]:
    return {
        "model_version": answer.model_version,
        "feedback_seen": answer.feedback_seen,
        "by": body.by,
        "options": [
            Ranked(**_numbers(one.reward), option=_given(one.index, one.item, body.options), index=one.index)
            for one in answer.ranking
        ],
    }


def _numbers(one: RewardAnswer) -> dict[str, float]:
    return {"reward": one.reward, "stderr": one.stderr, "lower": one.lower, "upper": one.upper}


def _given(index: int | None, item: str | None, options: Sequence[OptionBody] | None) -> dict[str, Any]:
    if options is None or index is None:
        return {"item": item}
    given: dict[str, Any] = options[index].model_dump()
    return given
