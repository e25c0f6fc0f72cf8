"""What to do for a user in an MDP."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from app import serving
from app.api.auth import Reader
from app.api.consistency import After
from app.api.conversion import options_and_context
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.schemas.answers import ActionAnswer, ActionBody, PolicyAnswer
from app.api.schemas.base import Label
from app.api.services import UsedServices
from app.api.users import UserId

router = APIRouter(tags=["policies"])

_CERTIFICATE: dict[str, Any] = {
    "model_version": 1,
    "feedback_seen": 12,
    "confidence": 0.95,
    "lower": 0.412,
    "upper": 0.41203,
    "gap": 0.00003,
    "nominal": 0.87,
    "greedy_nominal": 0.91,
    "greedy_lower": 0.233,
    "beta": 3.08,
    "converged": True,
    "reason": "tolerance",
}
_ACTION: dict[str, Any] = {
    **_CERTIFICATE,
    "state": "tired",
    "step": 0,
    "planned_from": "start",
    "distribution": {"rest": 0.9, "train": 0.1},
    "greedy": "rest",
    "sampled": "rest",
}
_POLICY: dict[str, Any] = {
    **_CERTIFICATE,
    "states": ["tired", "fit"],
    "actions": ["rest", "train"],
    "policy": [[[0.9, 0.1], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5]]],
    "greedy": [["rest", "train"], ["rest", "train"], ["rest", "rest"]],
}

_ROBUST = (
    "The policy with the best worst case over the rewards that this user's preferences leave possible at `confidence`. "
    "`lower` is what it is certainly worth more than the reference policy, in log-odds summed over the horizon, and "
    "`upper` what no policy exceeds; `nominal` is its worth for the expected rewards. 0 is no better than the "
    "reference."
)

Confidence = Annotated[
    float | None,
    Query(ge=0, lt=1, allow_inf_nan=False, description="The environment's if absent; 0 trusts the estimate."),
]


@router.get(
    "/v1/environments/{environment}/users/{user}/policy",
    summary="The robust policy for a user",
    description=_ROBUST,
    responses={200: example(_POLICY), **problems("not-found", "model-not-ready", "corrupt-model")},
)
async def policy(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    confidence: Confidence = None,
) -> PolicyAnswer:
    answer = await services.runtime.policy(environment, user, confidence=confidence, after=after)
    return PolicyAnswer(
        **_certificate(answer),
        states=list(answer.states),
        actions=list(answer.actions),
        policy=answer.policy.tolist(),
        greedy=[[answer.actions[action] for action in step] for step in answer.greedy.tolist()],
    )


@router.get(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user",
    description=f"What the robust policy does in this state at this step; of a catalogue, which item to choose. "
    f"{_ROBUST}",
    responses={200: example(_ACTION), **problems("not-found", "model-not-ready", "corrupt-model")},
)
async def actions(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    state: Annotated[
        Label | None, Query(description="A state's name or index; a catalogue has none.", examples=["tired"])
    ] = None,
    step: Annotated[int, Query(ge=0, le=1000, description="From 0.")] = 0,
    confidence: Confidence = None,
    seed: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")] = None,
) -> ActionAnswer:
    answer = await services.runtime.actions(
        environment, user, state, step, confidence=confidence, seed=seed, after=after
    )
    return _action(answer)


@router.post(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user, in a context",
    description="The same as the GET, for clients that prefer a body, and for catalogues with contexts.",
    responses={
        200: example(_ACTION),
        **problems(
            "malformed-json",
            "not-found",
            "body-too-large",
            "unsupported-media-type",
            "model-not-ready",
            "encoder-unavailable",
            "corrupt-model",
        ),
    },
)
async def actions_by_body(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[ActionBody, Body(openapi_examples={"state": {"value": {"state": "tired", "step": 0, "seed": 7}}})],
    services: UsedServices,
    _: Reader,
    after: After,
) -> ActionAnswer:
    defined = (await services.current.environment(environment)).definition
    _options, context = await options_and_context(defined, (), body.context, services.encoder_for)
    answer = await services.runtime.actions(
        environment,
        user,
        body.state,
        body.step,
        confidence=body.confidence,
        context=context,
        seed=body.seed,
        after=after,
    )
    return _action(answer)


def _action(answer: serving.ActionAnswer) -> ActionAnswer:
    return ActionAnswer(
        **_certificate(answer),
        state=answer.state,
        step=answer.step,
        planned_from=answer.planned_from,
        distribution=dict(zip(answer.actions, answer.distribution.tolist(), strict=True)),
        greedy=answer.actions[answer.greedy],
        sampled=answer.actions[answer.sampled],
    )


def _certificate(answer: serving.ActionAnswer | serving.PolicyAnswer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in _CERTIFICATE}
