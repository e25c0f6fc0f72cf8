"""Preferences as columns are stored as the same preferences one by one, and once however often they come."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from app.domain import ConflictError, InvalidInputError, ItemOption, ItemPreferences, NotFoundError, Preference
from app.store import (
    Database,
    draw_numbers,
    erase_user,
    import_item_preferences,
    import_preferences,
    put_environment,
    record_preferences,
    retire_item,
    user_state,
)
from app.store.importing import Imported
from tests.support.builders import mdp, prefers
from tests.support.shops import NOON, all_of, open_shop, said

pytestmark = pytest.mark.anyio

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await open_shop(db, environment_name)
    return environment_name


def columns(batch: Sequence[Preference]) -> ItemPreferences:
    users = sorted({one.user for one in batch}, reverse=True)
    sides = [[option.item for option in (one.chosen, one.rejected) if isinstance(option, ItemOption)] for one in batch]
    names = sorted({item for side in sides for item in side})
    ids = [(one.id or "").encode() for one in batch]
    ends = np.cumsum([len(one) for one in ids])
    return ItemPreferences(
        users=tuple(users),
        items=tuple(names),
        user=np.array([users.index(one.user) for one in batch], dtype=np.int32),
        chosen=np.array([names.index(side[0]) for side in sides], dtype=np.int32),
        rejected=np.array([names.index(side[1]) for side in sides], dtype=np.int32),
        label=np.array([one.label for one in batch]),
        weight=np.array([one.weight for one in batch]),
        moment=np.array([moment(one.occurred_at) for one in batch], dtype=np.int64),
        text=np.frombuffer(b"".join(ids), dtype=np.uint8),
        id_begin=np.array([end - len(one) for end, one in zip(ends, ids, strict=True)], dtype=np.int32),
        id_end=ends.astype(np.int32),
    )


def moment(occurred_at: datetime | None) -> int:
    return -1 if occurred_at is None else (occurred_at - EPOCH) // timedelta(microseconds=1)


async def imported(db: Database, name: str, batch: Sequence[Preference], *, again: bool = False) -> Imported:
    return await import_item_preferences(db, name, columns(batch), await draw_numbers(db, len(batch)), again=again)


async def test_every_way_stores_the_same(db: Database, shop: str) -> None:
    batch = said(1, 200)
    ways = [shop, f"{shop}-2", f"{shop}-3", f"{shop}-4"]
    for name in ways[1:]:
        await open_shop(db, name)
    for part in (batch[:150], batch[150:]):
        assert (await imported(db, ways[0], part)).accepted == len(part)
        assert (await imported(db, ways[1], part, again=True)).accepted == len(part)
        assert (await import_preferences(db, ways[2], part)).accepted == len(part)
        await record_preferences(db, ways[3], part)
    first, *others = [await all_of(db, name) for name in ways]
    assert all(other == first for other in others)


@pytest.mark.parametrize("again", [False, True])
async def test_what_comes_again_counts_once_and_other_content_is_refused(
    db: Database, shop: str, *, again: bool
) -> None:
    batch = [replace(one, id=f"{index}") for index, one in enumerate(said(2, 60))]
    assert (await imported(db, shop, batch)).accepted == 60
    before = await all_of(db, shop)
    changes: list[dict[str, Any]] = [
        {"label": 0.125},
        {"weight": 3.0},
        {"user": "u9"},
        {"occurred_at": NOON - timedelta(1)},
    ]
    changed = [replace(batch[index], **change) for index, change in enumerate(changes)]
    swapped = replace(batch[4], chosen=batch[4].rejected, rejected=batch[4].chosen)
    more = [prefers("u1", "item-0", "item-1", id=name) for name in ("new", "new")]
    found = await imported(db, shop, [*changed, swapped, *batch[5:], *more], again=again)
    assert (found.accepted, found.duplicates) == (1, 56)
    assert [(index, type(error), error.pointer) for index, error in found.refused] == [
        (index, ConflictError, "/id") for index in range(5)
    ]
    assert "id '3' is taken" in found.refused[3][1].message
    assert len(await all_of(db, shop)) == len(before) + 1
    assert await user_state(db, shop, "u9") is None


async def test_one_bad_line_leaves_the_others(db: Database, shop: str) -> None:
    await retire_item(db, shop, "item-4")
    batch = [
        prefers("u0", "item-0", "item-1"),
        prefers("u1", "item-0", "item-4"),
        prefers("u2", "nothing", "item-1"),
        prefers("u0", "item-2", "item-1"),
    ]
    for again in (False, True):
        found = await imported(db, shop, batch, again=again)
        assert (found.accepted, found.duplicates) == (2, 0)
        assert [(index, type(error), error.pointer) for index, error in found.refused] == [
            (1, InvalidInputError, "/rejected/item"),
            (2, InvalidInputError, "/chosen/item"),
        ]
        assert await user_state(db, shop, "u1") is None
    assert (await imported(db, shop, batch[1:3])).position is None
    with pytest.raises(NotFoundError):
        await imported(db, f"{shop}-not", batch)


async def test_an_mdp_takes_no_items(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    found = await imported(db, environment_name, [prefers("u0", "item-0", "item-1")])
    assert [(index, type(error)) for index, error in found.refused] == [(0, InvalidInputError)]


async def test_imports_at_once_of_the_same_lines_store_each_once(db: Database, shop: str) -> None:
    batch = [replace(one, id=f"{index}") for index, one in enumerate(said(3, 300))]
    orders = [batch[start:] + batch[:start] for start in (0, 100, 200)]
    found = await asyncio.gather(
        *(imported(db, shop, order) for order in orders),
        erase_user(db, shop, "u6"),
        record_preferences(db, shop, batch),
    )
    counted = [one.accepted + one.duplicates for one in found if isinstance(one, Imported)]
    assert counted == [300] * 3
    await imported(db, shop, batch)
    stored = [one["id"] for one in await all_of(db, shop) if isinstance(one, dict)]
    assert sorted(stored, key=int) == [f"{index}" for index in range(300)]
