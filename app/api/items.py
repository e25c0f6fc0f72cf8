"""A catalogue's items."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from app.api.auth import Admin, Reader
from app.api.conversion import reader_for
from app.api.environments import EnvironmentName, example
from app.api.problems import problems
from app.api.revalidation import RevalidatedRoute
from app.api.schemas.base import Id
from app.api.schemas.preferences import ItemAnswer, ItemList, ItemsBody, UpsertedAnswer
from app.api.services import UsedServices
from app.domain import CatalogEnvironment, InvalidInputError
from app.store import list_items, retire_item, upsert_items

router = APIRouter(tags=["items"], route_class=RevalidatedRoute)

_ITEMS = {
    "items": [
        {"id": "a", "title": "Local supplier, fixed price", "features": [7.0, 5.0, 1.0, 0.0, 0.0, 0.0]},
        {"id": "b", "title": "Big supplier, seasonal price", "features": [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]},
    ]
}
_ITEM = {
    "id": "a",
    "title": "Local supplier, fixed price",
    "text": None,
    "features": [7.0, 5.0, 1.0, 0.0, 0.0, 0.0],
}


@router.put(
    "/v1/environments/{environment}/items",
    summary="Add or change items",
    description="At most 1,000 a call, all or nothing, and as many in all as PSHARELORA_MAX_ITEMS says. An item has "
    "`features`, or a `text` that the environment's encoder turns into features. Items that are already so "
    "count as neither created nor updated.",
    responses={
        200: example({"created": 2, "updated": 0}),
        **problems("malformed-json", "not-found", "body-too-large", "unsupported-media-type", "encoder-unavailable"),
    },
)
async def put(
    environment: EnvironmentName,
    body: Annotated[ItemsBody, Body(openapi_examples={"features": {"value": _ITEMS}})],
    services: UsedServices,
    _: Admin,
) -> UpsertedAnswer:
    defined = (await services.current.environment(environment)).definition
    if not isinstance(defined, CatalogEnvironment):
        raise InvalidInputError(f"environment {environment} is an MDP, and has no items.", pointer="/items")
    reader = await reader_for(defined, body.items, services.encoder_for)
    items = [reader.item(item, f"/items/{index}") for index, item in enumerate(body.items)]
    upserted = await upsert_items(services.db, environment, items, at_most=services.max_items)
    return UpsertedAnswer(created=upserted.created, updated=upserted.updated)


@router.get(
    "/v1/environments/{environment}/items",
    summary="List items",
    description="By id; read on with `after`.",
    responses={200: example({"items": [_ITEM], "next": None}), **problems("not-found")},
)
async def list_all(
    environment: EnvironmentName,
    services: UsedServices,
    _: Reader,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    after: Annotated[Id | None, Query(description="The last id of the page before.")] = None,
) -> ItemList:
    items = await list_items(services.db, environment, limit=limit + 1, after=after)
    page = items[:limit]
    return ItemList(
        items=[
            ItemAnswer(id=item.id, title=item.title, text=item.text, features=item.features.tolist()) for item in page
        ],
        next=page[-1].id if len(items) > limit else None,
    )


@router.delete(
    "/v1/environments/{environment}/items/{item}",
    summary="Retire an item",
    description="It is no longer ranked or offered. Preferences about it stay, and still teach.",
    status_code=204,
    responses=problems("not-found"),
)
async def delete(
    environment: EnvironmentName,
    item: Annotated[Id, Path(description="The item's id.", examples=["a"])],
    services: UsedServices,
    _: Admin,
) -> None:
    await retire_item(services.db, environment, item)
