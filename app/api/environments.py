"""Environments: the decision problems that preferences are about."""

from collections.abc import Mapping
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Body, Path, Response

from app.api.auth import Admin, Definer, Reader, can_see
from app.api.mdps import definition_of, mdp_environment
from app.api.problems import problems
from app.api.revalidation import RevalidatedRoute
from app.api.schemas.base import Id
from app.api.schemas.environments import (
    CatalogDefinition,
    EncoderUrl,
    EnvironmentAnswer,
    EnvironmentDefinition,
    EnvironmentList,
    EnvironmentOverview,
    MdpDefinition,
)
from app.api.services import Services, UsedServices
from app.domain import (
    CatalogEnvironment,
    EncoderSpec,
    Environment,
    InvalidInputError,
    MdpEnvironment,
    RefitPolicy,
)
from app.encoders import BUILTIN_DIM
from app.store import (
    EnvironmentSummary,
    delete_environment,
    environment_summary,
    list_environments,
    put_environment,
)

router = APIRouter(tags=["environments"], route_class=RevalidatedRoute)

EnvironmentName = Annotated[Id, Path(description="The environment's name.", examples=["contracts"])]

_CATALOG: dict[str, Any] = {"kind": "catalog", "item_dim": 6}
_MDP: dict[str, Any] = {
    "kind": "mdp",
    "states": ["tired", "fit"],
    "actions": ["rest", "train"],
    "horizon": 3,
    "initial": [1.0, 0.0],
    "transitions": [
        ["tired", "rest", "fit", 0.8],
        ["tired", "rest", "tired", 0.2],
        ["tired", "train", "tired", 1.0],
        ["fit", "rest", "fit", 1.0],
        ["fit", "train", "fit", 0.5],
        ["fit", "train", "tired", 0.5],
    ],
}
_DEFINITIONS: Mapping[str, Any] = {
    "catalog": {"summary": "Items described by six numbers", "value": _CATALOG},
    "texts": {"summary": "Texts, by the built-in encoder", "value": {"kind": "catalog", "encoder": "builtin"}},
    "mdp": {"summary": "A small decision process", "value": _MDP},
}
_ANSWER = {
    "name": "contracts",
    "kind": "catalog",
    "definition": {
        "kind": "catalog",
        "rank": "auto",
        "confidence": 0.95,
        "refit": {"every_seconds": 60.0, "min_new_preferences": 20},
        "item_dim": 6,
        "context_dim": None,
        "encoder": None,
    },
    "n_items": 35,
    "n_users": 361,
    "n_preferences": 12924,
    "model_version": 1,
    "created_at": "2026-05-01T09:30:00Z",
}


def example(value: Any, description: str = "Successful Response") -> dict[str, Any]:
    """OpenAPI's response with an example body."""
    return {"description": description, "content": {"application/json": {"example": value}}}


@router.put(
    "/v1/environments/{environment}",
    summary="Define an environment",
    description="Idempotent. A redefinition may change rank, confidence, refit, transitions and the reference policy; "
    "what would change the meaning of stored preferences (kind, states, actions, horizon, terminal states, features, "
    "whether rewards depend on the step, dimensions, encoder) is a 409 once there are any. "
    "Rewards are always differences from the environment's reference: a catalogue's mean "
    "item, or an MDP's `reference_policy`.",
    status_code=200,
    responses={
        201: {"model": EnvironmentAnswer, **example(_ANSWER, "Newly defined.")},
        200: example(_ANSWER, "Redefined, or as it was."),
        **problems("malformed-json", "conflict", "body-too-large", "unsupported-media-type", "encoder-unavailable"),
    },
)
async def put(
    environment: EnvironmentName,
    definition: Annotated[EnvironmentDefinition, Body(openapi_examples=dict(_DEFINITIONS))],
    services: UsedServices,
    _: Definer,
    response: Response,
) -> EnvironmentAnswer:
    defined = await _defined(environment, definition, services)
    created = (await put_environment(services.db, defined))[1]
    response.status_code = 201 if created else 200
    return _answer(await environment_summary(services.db, environment))


@router.get(
    "/v1/environments/{environment}",
    summary="Read an environment",
    description="Its definition, complete, and how much is stored in it.",
    responses={200: example(_ANSWER), **problems("not-found")},
)
async def get(environment: EnvironmentName, services: UsedServices, _: Reader) -> EnvironmentAnswer:
    return _answer(await environment_summary(services.db, environment))


@router.get(
    "/v1/environments",
    summary="List environments",
    description="Those that the API key can see, by name.",
    responses={
        200: example({"environments": [{name: _ANSWER[name] for name in _ANSWER if name != "definition"}]}),
        **problems(),
    },
)
async def list_all(services: UsedServices, key: Reader) -> EnvironmentList:
    summaries = await list_environments(services.db)
    seen = [summary for summary in summaries if can_see(key, summary.environment.name)]
    return EnvironmentList(environments=[_overview(summary) for summary in seen])


@router.delete(
    "/v1/environments/{environment}",
    summary="Delete an environment",
    description="With its items, users, preferences and models. There is no way back.",
    status_code=204,
    responses=problems("not-found"),
)
async def delete(environment: EnvironmentName, services: UsedServices, _: Admin) -> None:
    await delete_environment(services.db, environment)


async def _defined(name: str, body: MdpDefinition | CatalogDefinition, services: Services) -> Environment:
    if isinstance(body, MdpDefinition):
        return await anyio.to_thread.run_sync(mdp_environment, name, body)
    encoder = await _encoder(body, services)
    item_dim = body.item_dim if encoder is None else encoder.dim
    if item_dim is None:
        raise InvalidInputError("item_dim: is required where there is no encoder, and missing.", pointer="/item_dim")
    if body.rank != "auto" and body.rank > item_dim:
        raise InvalidInputError(
            f"rank: expected at most {item_dim}, the number of features; found {body.rank}.", pointer="/rank"
        )
    return CatalogEnvironment(
        name=name,
        item_dim=item_dim,
        context_dim=body.context_dim,
        encoder=encoder,
        rank=body.rank,
        confidence=body.confidence,
        refit=RefitPolicy(body.refit.every_seconds, body.refit.min_new_preferences),
    )


async def _encoder(body: CatalogDefinition, services: Services) -> EncoderSpec | None:
    match body.encoder:
        case None:
            return None
        case "builtin":
            if body.item_dim not in {None, BUILTIN_DIM}:
                raise InvalidInputError(
                    f"item_dim: expected {BUILTIN_DIM}, what the built-in encoder makes; found {body.item_dim}.",
                    pointer="/item_dim",
                )
            return EncoderSpec("builtin", BUILTIN_DIM)
        case EncoderUrl(url=url, model=model):
            dim = body.item_dim or await services.probe_dim(url, model)
            return EncoderSpec("url", dim, url=url, model=model)


def _answer(summary: EnvironmentSummary) -> EnvironmentAnswer:
    overview = _overview(summary)
    return EnvironmentAnswer(**overview.model_dump(), definition=_definition(summary.environment))


def _overview(summary: EnvironmentSummary) -> EnvironmentOverview:
    return EnvironmentOverview(
        name=summary.environment.name,
        kind=summary.environment.kind,
        n_items=summary.n_items,
        n_users=summary.n_users,
        n_preferences=summary.n_preferences,
        model_version=summary.model_version,
        created_at=summary.created_at,
    )


def _definition(environment: Environment) -> dict[str, Any]:
    shared = {
        "kind": environment.kind,
        "rank": environment.rank,
        "confidence": environment.confidence,
        "refit": {
            "every_seconds": environment.refit.every_seconds,
            "min_new_preferences": environment.refit.min_new_preferences,
        },
    }
    if isinstance(environment, MdpEnvironment):
        return {**shared, **definition_of(environment)}
    encoder: Any = None
    if environment.encoder is not None:
        spec = environment.encoder
        encoder = "builtin" if spec.kind == "builtin" else {"url": spec.url, "model": spec.model}
    return {
        **shared,
        "item_dim": environment.item_dim,
        "context_dim": environment.context_dim,
        "encoder": encoder,
    }
