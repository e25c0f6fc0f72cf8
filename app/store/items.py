"""A catalogue's items. A retired item keeps its row, because preferences rest on its features."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import InvalidInputError, Item, NotFoundError
from app.domain.arrays import ItemTable
from app.store.audit import note
from app.store.database import Database, driver_connection, transaction
from app.store.encoding import bytes_to_floats, floats_to_bytes
from app.store.environments import EnvironmentRow, environment_key, find_environment, lock_environment
from app.store.notices import announce_environment
from app.store.schema import environments, items


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of a batch of items, after its commit; those that were already so are in neither count."""

    created: int
    updated: int


ITEMS_A_PAGE = 5_000
# Of a few milliseconds each; with the widest features, 80 MB.

_PAGE = """
    SELECT array_agg(item_id), array_agg(title), string_agg(features, ''::bytea)
    FROM (
        SELECT item_id, title, features FROM items
        WHERE environment_id = %s AND item_id > %s AND retired_at IS NULL ORDER BY item_id LIMIT %s
    ) AS page
"""

_UPSERT = text(
    """
    INSERT INTO items (environment_id, item_id, features, text, title)
    SELECT :environment_id, given.*
    FROM unnest(
        CAST(:ids AS text[]), CAST(:features AS bytea[]), CAST(:texts AS text[]), CAST(:titles AS text[])
    ) AS given (item_id, features, text, title)
    ORDER BY given.item_id COLLATE "C"
    ON CONFLICT (environment_id, item_id) DO UPDATE
    SET features = EXCLUDED.features, text = EXCLUDED.text, title = EXCLUDED.title, retired_at = NULL
    WHERE (items.features, items.text, items.title) IS DISTINCT FROM (EXCLUDED.features, EXCLUDED.text, EXCLUDED.title)
       OR items.retired_at IS NOT NULL
    RETURNING (xmax = 0) AS created
    """
)


@transaction
async def upsert_items(
    connection: AsyncConnection, name: str, batch: Sequence[Item], *, at_most: int | None = None
) -> Upserted:
    """Add items, or give known ones new features, text and title; an item that was retired is back.

    `at_most`: how many items the catalogue may have then.
    """
    environment = await lock_environment(connection, name)
    _check_batch(environment, batch)
    rows = await connection.execute(
        _UPSERT,
        {
            "environment_id": environment.id,
            "ids": [item.id for item in batch],
            "features": [floats_to_bytes(item.features) for item in batch],
            "texts": [item.text for item in batch],
            "titles": [item.title for item in batch],
        },
    )
    created = [row.created for row in rows]
    if created:
        if at_most is not None:
            await _check_size(connection, environment, at_most)
        await _note_change(connection, environment.id)
        await note(connection, "items.upsert", name, f"{len(created)} items")
    return Upserted(created=sum(created), updated=len(created) - sum(created))


@transaction
async def list_items(connection: AsyncConnection, name: str, *, limit: int, after: str | None = None) -> list[Item]:
    """Live items by id, those behind `after` only."""
    query = _live(await environment_key(connection, name)).order_by(items.c.item_id).limit(limit)
    if after is not None:
        query = query.where(items.c.item_id > after)
    return [_item(row) for row in await connection.execute(query)]


@transaction
async def item_features(connection: AsyncConnection, name: str, ids: Sequence[str]) -> dict[str, Item]:
    """The live items among these, by id."""
    key = await environment_key(connection, name)
    rows = await connection.execute(
        _live(key).where(text("items.item_id = ANY(CAST(:ids AS text[]))")), {"ids": list(ids)}
    )
    return {row.item_id: _item(row) for row in rows}


async def all_items(db: Database, name: str) -> ItemTable:
    """The whole live catalogue, by id, as of one moment."""
    ids: list[str] = []
    titles: list[str | None] = []
    features: list[bytes] = []
    async with db.begin(isolation="REPEATABLE READ") as connection:
        environment = await find_environment(connection, name)
        async for page in _pages(await driver_connection(connection), environment.id):
            ids += page[0]
            titles += page[1]
            features.append(page[2])
    table = bytes_to_floats(b"".join(features)).reshape(len(ids), environment.item_dim or 0)
    return ItemTable(ids=tuple(ids), features=table, titles=tuple(titles))


@transaction
async def retire_item(connection: AsyncConnection, name: str, item_id: str) -> None:
    """Take an item out of the catalogue; what was said about it stays."""
    environment = await lock_environment(connection, name, exclusive=True)
    retired = await connection.execute(
        update(items)
        .where(items.c.environment_id == environment.id, items.c.item_id == item_id, items.c.retired_at.is_(None))
        .values(retired_at=func.now())
    )
    if retired.rowcount == 0:
        raise NotFoundError(f"There is no item {item_id!r} in environment {name!r}.")
    await _note_change(connection, environment.id)
    await note(connection, "items.retire", name, item_id)


async def _pages(driver: psycopg.AsyncConnection[Any], environment_id: int) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Ids, titles, and the features' bytes together: of 100,000 items a few values, and no turns of the event loop."""
    last, is_full = "", True
    while is_full:
        async with driver.cursor(binary=True) as cursor:
            await cursor.execute(_PAGE, [environment_id, last, ITEMS_A_PAGE])
            page = await cursor.fetchone()
        if page is None or page[0] is None:
            return
        yield page
        last, is_full = page[0][-1], len(page[0]) == ITEMS_A_PAGE


def _live(environment_id: int) -> Any:
    c = items.c
    return select(c.item_id, c.features, c.text, c.title).where(
        c.environment_id == environment_id, c.item_id.is_not(None), c.retired_at.is_(None)
    )


def _item(row: Any) -> Item:
    return Item(id=row.item_id, features=bytes_to_floats(row.features), text=row.text, title=row.title)


def _check_batch(environment: EnvironmentRow, batch: Sequence[Item]) -> None:
    if environment.kind != "catalog":
        raise InvalidInputError(f"Environment {environment.name!r} is an MDP and has no items.")
    seen: set[str] = set()
    for index, item in enumerate(batch):
        if np.shape(item.features) != (environment.item_dim,):
            raise InvalidInputError(
                f"Item {item.id!r} has {np.size(item.features)} features; environment {environment.name!r} has "
                f"{environment.item_dim}.",
                pointer=f"/items/{index}/features",
            )
        if item.id in seen:
            raise InvalidInputError(f"Item {item.id!r} is given twice.", pointer=f"/items/{index}/id")
        seen.add(item.id)


async def _check_size(connection: AsyncConnection, environment: EnvironmentRow, at_most: int) -> None:
    live = _live(environment.id).subquery()
    found = await connection.scalar(select(func.count()).select_from(live)) or 0
    if found > at_most:
        raise InvalidInputError(
            f"Environment {environment.name!r} would have {found:,} items; a catalogue may have at most {at_most:,} "
            "(PSHARELORA_MAX_ITEMS). Nothing of this request was stored.",
            pointer="/items",
        )


async def _note_change(connection: AsyncConnection, environment_id: int) -> None:
    """Tell those who keep the catalogue in memory."""
    await connection.execute(
        update(environments)
        .where(environments.c.id == environment_id)
        .values(catalog_revision=environments.c.catalog_revision + 1)
    )
    await announce_environment(connection, environment_id)
