"""Users' adapters and the projected catalogue in files that the processes of a host share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from app.domain import Item, RefitPolicy
from app.learning import Adapter
from app.serving import IdsInText, ServingRuntime, shared, shelf
from app.serving.answers import ItemsAnswer
from app.serving.shelf import Adapters, Shelf
from app.store import Current, Database, Notices, erase_user, record_preferences, retire_item, upsert_items
from app.store.encoding import pack_arrays
from app.store.environments import environment_state
from app.store.users import user_count
from tests.support.builders import catalog, prefers
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, record, refitted
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

BY_HAND = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)
ITEMS = [f"item-{index}" for index in range(12)]


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAPPED_USERS", 1)
    monkeypatch.setattr(shared, "MAPPED_ITEMS", 1)
    monkeypatch.setattr(shared, "MAPPED_BYTES", 1)
    monkeypatch.setattr(shelf, "MAPPED_FILE_BYTES", 256)


@asynccontextmanager
async def process(url: str, folder: Path | None) -> AsyncIterator[ServingRuntime]:
    """A runtime as a process of its own would have it."""
    db = Database(url, pool_size=2)
    notices = Notices(db.url)
    await notices.start()
    runtime = ServingRuntime(db, Current(db, notices), cache_dir=folder)
    yield runtime
    await runtime.aclose()
    await notices.aclose()
    await db.dispose()


def volumes(folder: Path, pattern: str) -> dict[str, int]:
    """When each was made, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


async def answer(runtime: ServingRuntime, name: str, user: str, items: IdsInText = IdsInText.of(ITEMS)) -> ItemsAnswer:
    found = await runtime.item_rewards(name, user, items)
    assert found is not None
    return found


async def test_answers_from_shared_files_are_those_from_the_database(
    db: Database, database_url: str, environment_name: str, tmp_path: Path
) -> None:
    catalogue = await define(db, catalog(environment_name, refit=BY_HAND, rank=2))
    await record(db, environment_name, choices(catalogue, 30, 10))
    await refitted(db, database_url, environment_name)
    users = ["user-3", "user-17", "nobody"]
    async with process(database_url, None) as plain:
        expected = [await answer(plain, environment_name, user) for user in users]
    async with process(database_url, tmp_path) as first, process(database_url, tmp_path) as second:
        await first.warm(environment_name)
        await eventually(lambda: bool(volumes(tmp_path, "adapters-*.1-*")))
        made = volumes(tmp_path, "*.1-*")
        assert {name.partition("-")[0] for name in made} == {"adapters", "catalogue", "model", "projection"}
        for runtime in (first, second):
            for user, one in zip(users, expected, strict=True):
                found = await answer(runtime, environment_name, user)
                assert (found.model_version, found.feedback_seen) == (one.model_version, one.feedback_seen)
                np.testing.assert_allclose(found.numbers, one.numbers, rtol=1e-12)
        assert volumes(tmp_path, "*.1-*") == made
        # What was said since the fit is folded in as ever.
        await record_preferences(db, environment_name, [prefers("user-3", "item-1", "item-2")])
        state = await environment_state(db, environment_name)
        key = (await user_count(db, state.id, "user-3")).user_key
        assert key is not None
        adapters = Adapters(tmp_path / next(iter(volumes(tmp_path, "adapters-*.1-*"))))
        assert adapters.find(key, 11) is None
        assert adapters.find(key, 10) is not None
        assert len(adapters) == 30
        # An erased user is overwritten in the file.
        await erase_user(db, environment_name, "user-3")
        await eventually(lambda: len(adapters) == 29)
        assert adapters.find(key, 10) is None
        # A new version takes the place of the old one.
        await refitted(db, database_url, environment_name)
        await first.warm(environment_name)
        await eventually(lambda: bool(volumes(tmp_path, "adapters-*.2-*")) and not volumes(tmp_path, "[amp]*.1-*"))
        # Of a changed catalogue the items that changed are projected anew.
        changed = [Item("item-1", catalogue[2].features), Item("a-new-one", catalogue[3].features + 1)]
        await upsert_items(db, environment_name, changed)
        await retire_item(db, environment_name, "item-11")
        asked = IdsInText.of(["item-1", "a-new-one", "item-5", "item-10"])
        async with process(database_url, None) as plain:
            expected = [await answer(plain, environment_name, user, asked) for user in users]
        for user, one in zip(users, expected, strict=True):
            for runtime in (first, second):
                np.testing.assert_allclose((await answer(runtime, environment_name, user, asked)).numbers, one.numbers)
        assert await first.item_rewards(environment_name, "nobody", IdsInText.of(["item-11"])) is None


async def test_a_volume_that_failed_leaves_nothing_behind(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with suppress(ZeroDivisionError):
        async with shelf.making("a.1") as fresh:
            assert fresh is not None
            (fresh / "half").touch()
            raise ZeroDivisionError
    assert list(volumes(tmp_path, "*")) == ["a.lock"]
    async with shelf.making("a.1") as fresh:
        assert fresh is not None
    async with shelf.making("a.1") as again:
        assert again is None


async def test_a_million_adapters_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    """Opening takes no longer, and no more memory, than for few: nothing is read but what is asked for."""
    n, adapter = 1_000_000, Adapter(np.ones((8, 1)), np.eye(8), 5, converged=True, iterations=3)
    packed = np.frombuffer(pack_arrays(adapter.to_arrays()), dtype=np.uint8)
    np.save(tmp_path / "keys.npy", np.arange(0, 2 * n, 2))
    np.save(tmp_path / "counts.npy", np.full(n, 5))
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.uint8, (n, len(packed)))
    rows[777_777] = packed  # a file with holes: the other rows take no room
    del rows
    adapters = Adapters(tmp_path)
    found = adapters.find(2 * 777_777, 5)
    assert found is not None
    np.testing.assert_array_equal(found.covariance, adapter.covariance)
    assert adapters.find(2 * 777_777 + 1, 5) is None
    assert adapters.find(2 * n, 5) is None
    adapters.wipe(2 * 777_777)
    assert adapters.find(2 * 777_777, 5) is None


async def test_who_stops_waiting_for_another_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def make() -> None:
        async with Shelf(tmp_path).making("model.1") as folder:
            assert folder is not None
            begun.set()
            await ended.wait()

    async def wait() -> None:
        async with Shelf(tmp_path).making("model.1"):
            raise AssertionError("nobody may have it now")

    making = asyncio.create_task(make())
    await begun.wait()
    waiting = asyncio.create_task(wait())
    await asyncio.sleep(3 * shelf.LOCK_SECONDS)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ended.set()
    await making
    assert list(volumes(tmp_path, "model.1")) == ["model.1"]
    async with asyncio.timeout(5), Shelf(tmp_path).making("model.2") as folder:
        assert folder is not None
