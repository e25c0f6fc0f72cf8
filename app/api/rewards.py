"""How a user values options: rewards, rankings, and what to ask next."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from app.api.auth import Reader
from app.api.consistency import After
from app.api.conversion import options_and_context
from app.api.environments import EnvironmentName, example
from app.api.hot import HotRoute, rank_shortcut, rewards_shortcut, with_shortcut
from app.api.problems import problems
from app.api.schemas import answers
from app.api.schemas.answers import QueriesAnswer, RankAnswer, RankBody, Ranked, Reward, RewardsAnswer, RewardsBody
from app.api.schemas.options import OptionBody
from app.api.services import UsedServices
from app.api.users import UserId
from app.serving import RewardAnswer

router = APIRouter(tags=["rewards"], route_class=HotRoute)

_REWARD: dict[str, Any] = {"reward": 1.31, "stderr": 0.42, "lower": 0.49, "upper": 2.13}
_REWARDS_BODY: dict[str, Any] = {"options": [{"item": "a"}, {"features": [7.0, 1.0, 0.0, 1.0, 0.0, 0.0]}]}

_FAILURES = problems(
    "malformed-json",
    "not-found",
    "body-too-large",
    "unsupported-media-type",
    "model-not-ready",
    "encoder-unavailable",
    "corrupt-model",
)


@router.post(
    "/v1/environments/{environment}/users/{user}/rewards",
    summary="What options are worth to a user",
    description=f"One reward an option, in their order. {answers.REWARD} The interval holds at the environment's "
    "`confidence`.",
    responses={
        200: example({"model_version": 1, "feedback_seen": 36, "rewards": [_REWARD, {**_REWARD, "reward": 0.2}]}),
        **_FAILURES,
    },
)
@with_shortcut(rewards_shortcut)
async def rewards(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[RewardsBody, Body(openapi_examples={"options": {"value": _REWARDS_BODY}})],
    services: UsedServices,
    _: Reader,
    after: After,
) -> RewardsAnswer:
    defined = (await services.current.environment(environment)).definition
    options, context = await options_and_context(defined, body.options, body.context, services.encoder_for)
    answer = await services.runtime.rewards(environment, user, options, context, after=after)
    return RewardsAnswer(
        model_version=answer.model_version,
        feedback_seen=answer.feedback_seen,
        rewards=[Reward(**_numbers(one)) for one in answer.rewards],
    )


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
        **_FAILURES,
    },
)
@with_shortcut(rank_shortcut)
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
) -> RankAnswer:
    defined = (await services.current.environment(environment)).definition
    options, context = await options_and_context(defined, body.options or (), body.context, services.encoder_for)
    answer = await services.runtime.rank(
        environment,
        user,
        None if body.options is None else options,
        context,
        top_n=body.top_n,
        by=body.by,
        after=after,
    )
    return RankAnswer(
        model_version=answer.model_version,
        feedback_seen=answer.feedback_seen,
        by=body.by,
        options=[
            Ranked(**_numbers(one.reward), option=_given(one.index, one.item, body.options), index=one.index)
            for one in answer.ranking
        ],
    )


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


def _numbers(one: RewardAnswer) -> dict[str, float]:
    return {"reward": one.reward, "stderr": one.stderr, "lower": one.lower, "upper": one.upper}


def _given(index: int | None, item: str | None, options: Sequence[OptionBody] | None) -> dict[str, Any]:
    if options is None or index is None:
        return {"item": item}
    given: dict[str, Any] = options[index].model_dump()
    return given
