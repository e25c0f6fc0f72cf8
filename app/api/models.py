"""Model versions: listed, examined, promoted."""

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path

from app.api.auth import Admin
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.revalidation import RevalidatedRoute
from app.api.schemas.models import ModelAnswer, ModelList
from app.api.services import UsedServices
from app.domain import DomainError
from app.store import get_model, list_models, promote_model

router = APIRouter(tags=["models"], route_class=RevalidatedRoute)

Version = Annotated[int, Path(ge=1, le=2_147_483_647, description="1, 2, 3, ... within the environment.", examples=[1])]

_MODEL: dict[str, Any] = {
    "environment": "contracts",
    "version": 1,
    "status": "published",
    "reason": "the first model of this environment",
    "rank": 4,
    "estimator": "evidence",
    "n_users": 361,
    "n_preferences": 12924,
    "diagnostics": {"singular_values": [31.0, 12.5, 8.1, 3.9], "nu": 0.042, "tail_energy": 1.3},
    "metrics": {"global": {"accuracy": 0.707, "log_loss": 0.556}, "new": {"accuracy": 0.845, "log_loss": 0.371}},
    "created_at": "2026-05-01T09:30:00Z",
    "published_at": "2026-05-01T09:30:08Z",
}


@router.get(
    "/v1/admin/environments/{environment}/models",
    summary="List model versions",
    description="Newest first, with why each was published or not.",
    responses={200: example({"models": [_MODEL]}), **problems("not-found")},
)
async def list_all(environment: EnvironmentName, services: UsedServices, _: Admin) -> ModelList:
    return ModelList(models=[ModelAnswer.of(version) for version in await list_models(services.db, environment)])


@router.get(
    "/v1/admin/environments/{environment}/models/{version}",
    summary="Examine a model version",
    description="Diagnostics: the singular values of the users' differences, the condition number `nu`, the tail "
    "energy that the rank leaves out, the distance from the version before. Metrics: accuracy, log-loss and "
    "calibration on held-out comparisons, beside a model that is the same for everybody and one per user.",
    responses={200: example(_MODEL), **problems("not-found")},
)
async def get(environment: EnvironmentName, version: Version, services: UsedServices, _: Admin) -> ModelAnswer:
    return ModelAnswer.of(await get_model(services.db, environment, version))


@router.post(
    "/v1/admin/environments/{environment}/models/{version}/promote",
    summary="Promote a model version",
    description="Serve this version from now on: an older one again, or a candidate after all.",
    responses={200: example(_MODEL), **problems("not-found", "refit-state")},
)
async def promote(environment: EnvironmentName, version: Version, services: UsedServices, _: Admin) -> ModelAnswer:
    promoted = await promote_model(services.db, environment, version)
    with suppress(DomainError):
        await services.runtime.warm(environment)
    return ModelAnswer.of(promoted)
