"""A catalogue of five items, what people say about it, and all that is stored of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from app.domain import Preference
from app.store import (
    Database,
    export_user,
    list_environments,
    load_preferences,
    put_environment,
    upsert_items,
    user_state,
)
from tests.support.builders import catalog, items, prefers

N_ITEMS = 5
N_USERS = 7
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""Of the first day on which anybody says when something happened; the last is before the next noon."""

LATER = NOON + timedelta(days=1)


async def open_shop(db: Database, name: str) -> None:
    await put_environment(db, catalog(name))
    await upsert_items(db, name, items(N_ITEMS))


def said(seed: int, n: int) -> list[Preference]:
    """With and without ids of their own, labels, weights and times."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(n):
        chosen, rejected = rng.permutation(N_ITEMS)[:2]
        more: dict[str, Any] = {"id": f"{seed}-{index}"} if rng.random() < 0.6 else {}
        if rng.random() < 0.3:
            more |= {"label": float(rng.random()), "weight": float(rng.random() + 0.1)}
            more["occurred_at"] = NOON + timedelta(microseconds=int(rng.integers(1_000_000)))
        made.append(prefers(f"u{rng.integers(N_USERS)}", f"item-{chosen}", f"item-{rejected}", **more))
    return made


async def all_of(db: Database, name: str) -> list[Any]:
    """What is stored of everybody, each in the order in which they said it, but for the time of arrival."""
    (summary,) = [each for each in await list_environments(db) if each.environment.name == name]
    assert summary.n_preferences == len(await load_preferences(db, name))
    found: list[Any] = []
    for user in [f"u{index}" for index in range(N_USERS)]:
        state = await user_state(db, name, user)
        found.append(None if state is None else (state.feedback_count, min(state.first_at, LATER)))
        exported = await export_user(db, name, user)
        found += [{**one, "occurred_at": min(one["occurred_at"], LATER)} for one in exported]
    return found
