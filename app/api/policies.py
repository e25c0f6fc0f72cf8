"""What to do for a user in an MDP."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from app.api.auth import Reader
from app.api.environments import EnvironmentName, example
from app.api.mdps import state_index, state_named
from app.api.problems import problems
from app.api.schemas.answers import ActionAnswer, ActionBody, PolicyAnswer
from app.api.services import Services, UsedServices
from app.api.users import UserId
from app.domain import InvalidInputError, MdpEnvironment
from app.store import get_environment

router = APIRouter(tags=["policies"])

_CERTIFICATE: dict[str, Any] = {
    "model_version": 1,
    "feedback_seen": 12,
    "confidence": 0.95,
    "lower": 0.412,
    "upper": 0.41203,
    "gap": 0.00003,
    "nominal": 0.87,
    "beta": 3.08,
    "converged": True,
    "reason": "tolerance",
}
_ACTION: dict[str, Any] = {
    **_CERTIFICATE,
    "state": "tired",
    "step": 0,
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

Confidence = Annotated[float | None, Query(gt=0, lt=1, allow_inf_nan=False, description="The environment's if absent.")]


@router.get(
    "/v1/environments/{environment}/users/{user}/policy",
    summary="The robust policy for a user",
    description=_ROBUST,
    responses={200: example(_POLICY), **problems("not-found", "model-not-ready", "corrupt-model")},
)
async def policy(
    environment: EnvironmentName, user: UserId, services: UsedServices, _: Reader, confidence: Confidence = None
) -> PolicyAnswer:
    mdp = await _mdp(services, environment)
    answer = await services.runtime.policy(environment, user, confidence=confidence)
    return PolicyAnswer(
        **_certificate(answer),
        states=list(mdp.states),
        actions=list(mdp.actions),
        policy=answer.policy.tolist(),
        greedy=[[mdp.actions[action] for action in step] for step in answer.greedy.tolist()],
    )


@router.get(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user",
    description=f"What the robust policy does in this state at this step. {_ROBUST}",
    responses={200: example(_ACTION), **problems("not-found", "model-not-ready", "corrupt-model")},
)
async def actions(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    state: Annotated[str, Query(min_length=1, max_length=200, description="A name or an index.", examples=["tired"])],
    step: Annotated[int, Query(ge=0, le=1000, description="From 0.")],
    confidence: Confidence = None,
    seed: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")] = None,
) -> ActionAnswer:
    mdp = await _mdp(services, environment)
    index = state_named(mdp, state)
    return await _action(services, mdp, user, index, step, confidence, seed)


@router.post(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user, by a body",
    description="The same as the GET, for clients that prefer a body.",
    responses={
        200: example(_ACTION),
        **problems(
            "malformed-json",
            "not-found",
            "body-too-large",
            "unsupported-media-type",
            "model-not-ready",
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
) -> ActionAnswer:
    mdp = await _mdp(services, environment)
    index = state_index(mdp, body.state)
    return await _action(services, mdp, user, index, body.step, body.confidence, body.seed)


async def _action(
    services: Services,
    mdp: MdpEnvironment,
    user: str,
    state: int,
    step: int,
    confidence: float | None,
    seed: int | None,
) -> ActionAnswer:
    if step >= mdp.horizon:
        raise InvalidInputError(f"step: expected 0 to {mdp.horizon - 1}, the horizon less 1; found {step}.")
    answer = await services.runtime.actions(mdp.name, user, state, step, confidence=confidence, seed=seed)
    return ActionAnswer(
        **_certificate(answer),
        state=mdp.states[state],
        step=step,
        distribution=dict(zip(mdp.actions, answer.distribution.tolist(), strict=True)),
        greedy=mdp.actions[answer.greedy],
        sampled=mdp.actions[answer.sampled],
    )


async def _mdp(services: Services, name: str) -> MdpEnvironment:
    environment = await get_environment(services.db, name)
    if not isinstance(environment, MdpEnvironment):
        raise InvalidInputError(f"environment {name} is a catalogue; only an MDP has policies: use /rank.")
    return environment


def _certificate(answer: Any) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in _CERTIFICATE}
