"""What to do for a user in an MDP, or which item of a catalogue to choose, and why."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from app import serving
from app.api.auth import Reader
from app.api.consistency import After
from app.api.conversion import options_and_context
from app.api.environments import EnvironmentName, example
from app.api.problems import ASKED, problems
from app.api.replay import AsItWas
from app.api.revalidation import RevalidatedRoute
from app.api.schemas import answers
from app.api.schemas.answers import (
    ActionAnswer,
    ActionBody,
    ActionExplanationAnswer,
    ActionExplanationBody,
    ActionsAnswer,
    ActionsBody,
    PolicyAnswer,
    SetName,
    SlateAnswer,
    SlateBody,
)
from app.api.schemas.base import Label
from app.api.schemas.options import ContextBody
from app.api.services import Services, UsedServices
from app.api.users import UserId
from app.domain import Context

router = APIRouter(tags=["policies"], route_class=RevalidatedRoute)

_CERTIFICATE: dict[str, Any] = {
    "model_version": 1,
    "feedback_seen": 12,
    "set": "ellipsoid",
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

_EXPLANATION: dict[str, Any] = {
    **_CERTIFICATE,
    "state": "tired",
    "step": 0,
    "planned_from": "start",
    "action": "rest",
    "probability": 0.9,
    "over_reference": {"robust": 0.41, "estimate": 0.87, "caution": 0.46, "stderr": 0.2},
    "next_best": "train",
    "over_next_best": {"robust": 0.0, "estimate": 0.31, "caution": 0.31, "stderr": 0.12},
    "population": 0.5,
    "own": 0.37,
    "comparisons": [
        {
            "preference": {
                "user": "ada",
                "chosen": {"trajectory": [[0, 0], [1, 1], [1, 1]]},
                "rejected": {"trajectory": [[0, 1], [0, 1], [0, 0]]},
                "label": 1.0,
                "weight": 1.0,
                "occurred_at": "2026-05-01T09:30:00Z",
            },
            "over_reference": 0.12,
            "over_next_best": 0.08,
        }
    ],
}

_SLATE: dict[str, Any] = {
    **_CERTIFICATE,
    "slates": [{"items": ["a", "c", "b"], "probability": 0.7}, {"items": ["a", "d", "b"], "probability": 0.3}],
    "any_items": 0.0,
    "best": ["a", "c", "b"],
    "best_lower": 0.39,
    "sampled": ["a", "c", "b"],
}

_ROBUST = (
    "The policy with the best worst case over the rewards that this user's preferences leave possible at `confidence`. "
    "`lower` is what it is certainly worth more than the reference policy, in log-odds summed over the horizon, and "
    "`upper` what no policy exceeds; `nominal` is its worth for the expected rewards. 0 is no better than the "
    "reference."
)

Confidence = Annotated[float | None, Query(ge=0, lt=1, allow_inf_nan=False, description=answers.CONFIDENCE)]
Set = Annotated[SetName | None, Query(alias="set", description=answers.SET)]

_BODY_FAILURES = problems(*ASKED, "refit-state")


@router.get(
    "/v1/environments/{environment}/users/{user}/policy",
    summary="The robust policy for a user",
    description=_ROBUST,
    responses={200: example(_POLICY), **problems("not-found", "model-not-ready", "corrupt-model", "refit-state")},
)
async def policy(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
    confidence: Confidence = None,
    kind: Set = None,
) -> PolicyAnswer:
    answer = await services.runtime.policy(
        environment, user, confidence=confidence, kind=kind, after=after, replay=replay
    )
    return PolicyAnswer(
        **_certificate(answer),
        states=list(answer.states),
        actions=list(answer.actions),
        policy=answer.policy.tolist(),
        greedy=[[None if a < 0 else answer.actions[a] for a in step] for step in answer.greedy.tolist()],
    )


@router.get(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user",
    description=f"What the robust policy does in this state at this step; of a catalogue, which item to choose. "
    f"{_ROBUST}",
    responses={200: example(_ACTION), **problems("not-found", "model-not-ready", "corrupt-model", "refit-state")},
)
async def actions(
    environment: EnvironmentName,
    user: UserId,
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
    state: Annotated[
        Label | None, Query(description="A state's name or index; a catalogue has none.", examples=["tired"])
    ] = None,
    step: Annotated[int, Query(ge=0, le=1000, description="From 0.")] = 0,
    confidence: Confidence = None,
    kind: Set = None,
    seed: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Makes `sampled` reproducible.")] = None,
) -> ActionAnswer:
    answer = await services.runtime.actions(
        environment, user, state, step, confidence=confidence, kind=kind, seed=seed, after=after, replay=replay
    )
    return _action(answer)


@router.post(
    "/v1/environments/{environment}/users/{user}/actions",
    summary="The robust action for a user, in a context",
    description="The same as the GET, for clients that prefer a body, and for catalogues with contexts.",
    responses={
        200: example(_ACTION),
        **_BODY_FAILURES,
    },
)
async def actions_by_body(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[ActionBody, Body(openapi_examples={"state": {"value": {"state": "tired", "step": 0, "seed": 7}}})],
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
) -> ActionAnswer:
    context = await _context(services, environment, body.context)
    answer = await services.runtime.actions(
        environment,
        user,
        body.state,
        body.step,
        confidence=body.confidence,
        kind=body.set,
        context=context,
        seed=body.seed,
        after=after,
        replay=replay,
    )
    return _action(answer)


@router.post(
    "/v1/environments/{environment}/users/{user}/actions/batch",
    summary="The robust actions for a user in several states",
    description="The same for each of several places, by one plan and in the time of one: where somebody may go next "
    "can be asked for ahead.",
    responses={200: example({"actions": [_ACTION]}), **_BODY_FAILURES},
)
async def actions_in_places(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[
        ActionsBody,
        Body(openapi_examples={"states": {"value": {"places": [{"state": "tired"}, {"state": "fit", "step": 1}]}}}),
    ],
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
) -> ActionsAnswer:
    context = await _context(services, environment, body.context)
    found = await services.runtime.actions_at(
        environment,
        user,
        [(place.state, place.step) for place in body.places],
        confidence=body.confidence,
        kind=body.set,
        context=context,
        seed=body.seed,
        after=after,
        replay=replay,
    )
    return ActionsAnswer(actions=[_action(answer) for answer in found])


@router.post(
    "/v1/environments/{environment}/users/{user}/actions/explanation",
    summary="Why an action",
    description="What an action (of a catalogue, an item) is worth over the next best and over the reference policy, "
    "how much of that is estimate and how much is caution, how much is everybody's and how much the user's own, and "
    "which of the user's own comparisons weighed most. The caution is what the worst case that the plan guards against "
    "takes away.",
    responses={200: example(_EXPLANATION), **_BODY_FAILURES},
)
async def explanation(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[ActionExplanationBody, Body(openapi_examples={"state": {"value": {"state": "tired", "step": 0}}})],
    services: UsedServices,
    _: Reader,
    after: After,
) -> ActionExplanationAnswer:
    context = await _context(services, environment, body.context)
    answer = await services.runtime.explain_action(
        environment,
        user,
        body.state,
        body.step,
        action=body.action,
        confidence=body.confidence,
        kind=body.set,
        context=context,
        n=body.n,
        after=after,
    )
    return ActionExplanationAnswer(
        **_certificate(answer),
        **{name: getattr(answer, name) for name in _EXPLAINED},
        over_reference=answers.Advantage(**asdict(answer.over_reference)),
        over_next_best=None if answer.over_next_best is None else answers.Advantage(**asdict(answer.over_next_best)),
        comparisons=[answers.Influence(**asdict(one)) for one in answer.comparisons],
    )


@router.post(
    "/v1/environments/{environment}/users/{user}/slates",
    summary="Several items of a catalogue at once",
    description="A robust choice of `size` items, by the same planner: a slate is worth the mean reward of its items, "
    "and the mixture that is answered has the best worst case. Values are told over the mean of the catalogue. "
    "The sets are `credible`, `ellipsoid` and `frobenius`.",
    responses={200: example(_SLATE), **_BODY_FAILURES},
)
async def slates(
    environment: EnvironmentName,
    user: UserId,
    body: Annotated[SlateBody, Body(openapi_examples={"three": {"value": {"size": 3, "seed": 7}}})],
    services: UsedServices,
    _: Reader,
    after: After,
    replay: AsItWas,
) -> SlateAnswer:
    context = await _context(services, environment, body.context)
    answer = await services.runtime.slate(
        environment,
        user,
        body.size,
        confidence=body.confidence,
        kind=body.set,
        context=context,
        seed=body.seed,
        after=after,
        replay=replay,
    )
    return SlateAnswer(
        **_certificate(answer),
        slates=[answers.ShownSlate(items=list(one.items), probability=one.probability) for one in answer.slates],
        any_items=answer.any_items,
        best=list(answer.best),
        best_lower=answer.best_lower,
        sampled=list(answer.sampled),
    )


async def _context(services: Services, environment: str, given: ContextBody | None) -> Context | None:
    defined = (await services.current.environment(environment)).definition
    return (await options_and_context(defined, (), given, services.encoder_for))[1]


_EXPLAINED = ("state", "step", "planned_from", "action", "probability", "next_best", "population", "own")


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


def _certificate(answer: serving.CertifiedAnswer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in _CERTIFICATE}
