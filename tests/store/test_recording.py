"""What a batch of preferences does: recorded whole or not at all, once however often it is sent."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from app.domain import (
    ConflictError,
    Context,
    FeaturesOption,
    InvalidInputError,
    ItemOption,
    NotFoundError,
    Preference,
    Recorded,
    TextOption,
    TrajectoryOption,
)
from app.store import (
    Database,
    erase_user,
    export_user,
    list_environments,
    list_items,
    load_preferences,
    put_environment,
    record_preferences,
    retire_item,
    serving_state,
    upsert_items,
    user_state,
)
from tests.support.builders import DIM, catalog, items, mdp, prefers, trajectory, walks

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def shop(db: Database, environment_name: str) -> str:
    await put_environment(db, catalog(environment_name, context_dim=2))
    await upsert_items(db, environment_name, items(5))
    return environment_name


def features(*values: float) -> FeaturesOption:
    return FeaturesOption(np.array(values, dtype=np.float32))


def context(*values: float, text: str | None = None) -> Context:
    return Context(np.array(values, dtype=np.float32), text)


async def n_preferences(db: Database, name: str) -> int:
    """The kept count, which must be the number of rows."""
    (summary,) = [each for each in await list_environments(db) if each.environment.name == name]
    assert summary.n_preferences == len(await load_preferences(db, name))
    return summary.n_preferences


async def test_everything_said_is_there_again(db: Database, shop: str) -> None:
    text = TextOption("an answer", np.array([1, 2, 3, 4], dtype=np.float32))
    batch = [
        prefers("anna", "item-0", "item-1", label=0.75, weight=2.0, occurred_at=NOON, id="first"),
        Preference("anna", features(1, 2, 3, 4), text, context=context(0.5, -1)),
        Preference("anna", text, ItemOption("item-2"), context=context(1, 1, text="at night")),
    ]
    assert await record_preferences(db, shop, batch) == Recorded(accepted=3, duplicates=0)
    first, second, third = await export_user(db, shop, "anna")
    assert first == {
        "user": "anna",
        "chosen": {"item": "item-0"},
        "rejected": {"item": "item-1"},
        "label": 0.75,
        "weight": 2.0,
        "occurred_at": NOON,
        "id": "first",
    }
    assert (second["chosen"], second["rejected"]) == ({"features": [1.0, 2.0, 3.0, 4.0]}, {"text": "an answer"})
    assert (second["context"], third["context"]) == ({"features": [0.5, -1.0]}, {"text": "at night"})
    assert [item.id for item in await list_items(db, shop, limit=10)] == [f"item-{index}" for index in range(5)]


async def test_the_order_of_a_batch_is_kept(db: Database, shop: str) -> None:
    ids = ["c", "a", None, "b", "aa", None]
    batch = [prefers("anna", "item-0", f"item-{1 + index % 4}", id=each) for index, each in enumerate(ids)]
    await record_preferences(db, shop, batch)
    assert [each.get("id") for each in await export_user(db, shop, "anna")] == ids


async def test_the_same_again_is_a_duplicate(db: Database, shop: str) -> None:
    batch = [prefers("anna", "item-0", "item-1", id="a"), prefers("ben", "item-0", "item-1", id="b")]
    await record_preferences(db, shop, batch)
    more = [*batch, prefers("ben", "item-2", "item-1", id="c")]
    assert await record_preferences(db, shop, more) == Recorded(accepted=1, duplicates=2)
    assert await n_preferences(db, shop) == 3


async def test_a_duplicate_inside_a_batch_counts_once(db: Database, shop: str) -> None:
    batch = [prefers("anna", "item-0", "item-1", id="a")] * 3
    assert await record_preferences(db, shop, batch) == Recorded(accepted=1, duplicates=2)
    assert (await serving_state(db, shop, "anna")).feedback_count == 1


async def test_without_an_id_the_same_is_said_twice(db: Database, shop: str) -> None:
    assert await record_preferences(db, shop, [prefers("anna", "item-0", "item-1")] * 2) == Recorded(2, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"user": "ben"},
        {"chosen": ItemOption("item-3")},
        {"rejected": features(0, 0, 0, 1)},
        {"context": Context(np.ones(2, dtype=np.float32))},
        {"label": 0.5},
        {"weight": 3.0},
        {"occurred_at": NOON},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_id_cannot_be_used_for_other_content(db: Database, shop: str, change: dict[str, Any]) -> None:
    said = prefers("anna", "item-0", "item-1", id="a")
    await record_preferences(db, shop, [said])
    with pytest.raises(ConflictError, match="id 'a' is taken") as refused:
        await record_preferences(db, shop, [prefers("carl", "item-0", "item-1"), replace(said, **change)])
    assert refused.value.pointer == "/preferences/1/id"
    assert await user_state(db, shop, "carl") is None
    assert await n_preferences(db, shop) == 1


async def test_two_contents_for_one_id_in_a_batch_are_refused(db: Database, shop: str) -> None:
    said = prefers("anna", "item-0", "item-1", id="a")
    with pytest.raises(ConflictError) as refused:
        await record_preferences(db, shop, [said, said, replace(said, label=0.5)])
    assert refused.value.pointer == "/preferences/2/id"
    assert await n_preferences(db, shop) == 0


async def test_ids_of_two_environments_are_apart(db: Database, shop: str) -> None:
    await put_environment(db, catalog(f"{shop}-2"))
    await upsert_items(db, f"{shop}-2", items(2))
    said = prefers("anna", "item-0", "item-1", id="a")
    await record_preferences(db, shop, [said])
    assert await record_preferences(db, f"{shop}-2", [replace(said, label=0.5)]) == Recorded(1, 0)


@pytest.mark.parametrize(
    ("bad", "pointer", "message"),
    [
        (prefers("a", "item-0", "item-99"), "/preferences/1/rejected/item", "There is no item 'item-99'"),
        (prefers("a", "item-4", "item-0"), "/preferences/1/chosen/item", "Item 'item-4' is retired"),
        (prefers("a", "item-1", "item-1"), "/preferences/1/rejected", "are the same"),
        (Preference("a", features(1, 0, 0, 0), features(1, 0, 0, 0)), "/preferences/1/rejected", "are the same"),
        (Preference("a", features(1, 0, 0), ItemOption("item-1")), "/preferences/1/chosen", "Expected 4 features"),
        (prefers("a", "item-0", "item-1", context=context(1)), "/preferences/1/context", "Expected 2 features"),
        (walks("a", "000", "111"), "/preferences/1/chosen", "compares items"),
    ],
)
async def test_what_cannot_be_compared_is_refused(
    db: Database, shop: str, bad: Preference, pointer: str, message: str
) -> None:
    await retire_item(db, shop, "item-4")
    with pytest.raises(InvalidInputError, match=message) as refused:
        await record_preferences(db, shop, [prefers("anna", "item-0", "item-1"), bad])
    assert refused.value.pointer == pointer
    assert await n_preferences(db, shop) == 0


async def test_a_context_needs_an_environment_with_contexts(db: Database, environment_name: str) -> None:
    await put_environment(db, catalog(environment_name))
    said = Preference("anna", features(1, 0, 0, 0), features(0, 1, 0, 0), context=context(1, 1))
    with pytest.raises(InvalidInputError, match="has no contexts"):
        await record_preferences(db, environment_name, [said])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (walks("a", "000", "000"), "are the same"),
        (walks("a", "000", "11"), "has 3 steps"),
        (Preference("a", TrajectoryOption((0, 0), (0, 0, 0)), trajectory("000")), "has 3 steps"),
        (prefers("a", "item-0", "item-1"), "compares trajectories"),
    ],
)
async def test_what_is_no_pair_of_trajectories_is_refused(
    db: Database, environment_name: str, bad: Preference, message: str
) -> None:
    await put_environment(db, mdp(environment_name))
    with pytest.raises(InvalidInputError, match=message):
        await record_preferences(db, environment_name, [bad])


async def test_trajectories_are_there_again(db: Database, environment_name: str) -> None:
    await put_environment(db, mdp(environment_name))
    await record_preferences(db, environment_name, [walks("anna", "011", "100", id="a")])
    (said,) = await export_user(db, environment_name, "anna")
    assert said["chosen"] == {"trajectory": [[0, 0], [0, 1], [1, 1]]}
    assert said["rejected"] == {"trajectory": [[0, 1], [1, 0], [0, 0]]}


async def test_a_users_state_spans_what_they_said(db: Database, shop: str) -> None:
    later = NOON.replace(hour=15)
    for moment in (later, NOON):
        await record_preferences(db, shop, [prefers("anna", "item-0", "item-1", occurred_at=moment)])
    state = await user_state(db, shop, "anna")
    assert state is not None
    assert (state.feedback_count, state.first_at, state.last_at) == (2, NOON, later)


async def test_nothing_is_recorded_for_nothing(db: Database, shop: str) -> None:
    assert await record_preferences(db, shop, []) == Recorded(0, 0)
    with pytest.raises(NotFoundError):
        await record_preferences(db, "nowhere", [])


async def test_overlapping_batches_at_once_lose_nothing_and_double_nothing(db: Database, shop: str) -> None:
    """Sixteen writers send windows of the same ids, each in an order of its own, with shared inline options."""
    rng = np.random.default_rng(7)
    said = [
        Preference(f"user-{index % 7}", features(index % 3, 0, 0, 1), ItemOption(f"item-{index % 5}"), id=f"id-{index}")
        for index in range(120)
    ]
    batches = [[said[index] for index in rng.choice(120, size=60, replace=False)] for _ in range(16)]
    results = await asyncio.gather(*(record_preferences(db, shop, batch) for batch in batches))
    expected = {each.id for batch in batches for each in batch}
    assert sum(result.accepted for result in results) == len(expected) == await n_preferences(db, shop)
    assert sum(result.duplicates for result in results) == 16 * 60 - len(expected)
    for user in range(7):
        stored = [each["id"] for each in await export_user(db, shop, f"user-{user}")]
        assert len(stored) == len(set(stored))
        assert set(stored) == {each.id for each in said if each.id in expected and each.user == f"user-{user}"}
        assert (await serving_state(db, shop, f"user-{user}")).feedback_count == len(stored)


async def test_erasing_while_recording_leaves_a_whole_state(db: Database, shop: str) -> None:
    """The same inline texts and contexts are stored and erased at once: no preference may lose its options."""

    def say(user: str, index: int) -> Preference:
        option = TextOption(f"text {index % 3}", np.full(DIM, index % 3, dtype=np.float32))
        return Preference(user, option, ItemOption("item-0"), context=context(index % 2, 0), id=f"{user}-{index}")

    async def record(user: str) -> None:
        for start in range(0, 40, 4):
            await record_preferences(db, shop, [say(user, index) for index in range(start, start + 4)])

    async def erase() -> None:
        for _ in range(12):
            await erase_user(db, shop, "anna")

    await asyncio.gather(record("anna"), record("ben"), record("anna"), erase(), erase())
    assert len(await export_user(db, shop, "ben")) == 40
    left = await export_user(db, shop, "anna")
    assert (await serving_state(db, shop, "anna")).feedback_count == len(left)
    assert all("text" in each["chosen"] and "features" in each["context"] for each in left)
    assert await n_preferences(db, shop) == 40 + len(left)
