"""What a published model needs much memory for, kept once a host: users' adapters and the projected catalogue."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from app.domain import CorruptModelError, DomainError
from app.learning import Adapter, Projection, ReferenceItem, project
from app.serving.shelf import Adapters, Shelf, mapped, write_adapters
from app.serving.snapshot import Catalogue, Snapshot, Versions
from app.store import Database, Notice, adapter_count, adapter_pages

log = structlog.get_logger()

MAPPED_USERS = 1_000
"""With fewer, a model's adapters are read one by one as they are asked for."""

MAPPED_ITEMS = 5_000
"""Fewer items are projected by each process for itself."""

Compute = Callable[[Callable[[], Any]], Awaitable[Any]]


class Shared:
    """One per process, used in one event loop; the files are those of all processes that have the folder.

    Parameters
    ----------
    folder
        Without one, nothing is shared: adapters are read one by one, and each process projects for itself.
    compute
        Runs a function in a thread.
    """

    def __init__(self, db: Database, folder: Path | None, compute: Compute) -> None:
        self._db = db
        self._shelf = None if folder is None else Shelf(folder)
        self._compute = compute
        self._database = hashlib.blake2b(db.url.encode(), digest_size=6).hexdigest()
        self._adapters: dict[int, tuple[int, Adapters]] = {}
        self._mapping: dict[tuple[int, int], asyncio.Task[None]] = {}

    async def aclose(self) -> None:
        for task in self._mapping.values():
            task.cancel()
        await asyncio.gather(*self._mapping.values(), return_exceptions=True)

    def adapter(self, environment_id: int, version: int, user_key: int, feedback_count: int) -> Adapter | None:
        """A user's adapter where it is mapped, and rests on as much feedback as that."""
        held = self._adapters.get(environment_id)
        return None if held is None or held[0] != version else held[1].find(user_key, feedback_count)

    def map_adapters(self, environment_id: int, snapshot: Snapshot) -> None:
        """Begin to have a version's adapters mapped; until they are, each is asked for."""
        key = (environment_id, snapshot.version)
        if self._shelf is None or snapshot.n_users < MAPPED_USERS or key in self._mapping:
            return
        self._mapping[key] = asyncio.create_task(self._map(self._shelf, environment_id, snapshot))
        self._mapping[key].add_done_callback(lambda _: self._mapping.pop(key))

    def forget(self, notice: Notice) -> None:
        """Overwrite the adapter of a user who was erased."""
        if notice.erased_key is not None and notice.environment_id in self._adapters:
            self._adapters[notice.environment_id][1].wipe(notice.erased_key)

    async def projection(self, versions: Versions, snapshot: Snapshot, catalogue: Catalogue) -> Projection | None:
        """The catalogue as the model sees it; None for an MDP, and where items are valued in contexts."""
        model, reference = snapshot.model, snapshot.reference
        if not isinstance(reference, ReferenceItem) or model.features.d2 != 1 or not catalogue.ids:
            return None
        here, revision, catalog_revision, version = versions
        shelf = self._shelf
        if shelf is None or len(catalogue.ids) < MAPPED_ITEMS:
            made: Projection = await self._compute(lambda: project(model, catalogue.features, reference))
            return made
        name = f"projection-{self._database}-{here}.{version}-{snapshot.stamp}-{revision}-{catalog_revision}"
        async with shelf.making(name) as fresh:
            if fresh is not None:
                await self._compute(lambda: _write_projection(fresh, project(model, catalogue.features, reference)))
        await self._compute(lambda: shelf.keep_only(name))
        return _map_projection(shelf.path(name))

    async def _map(self, shelf: Shelf, here: int, snapshot: Snapshot) -> None:
        version = snapshot.version
        name = f"adapters-{self._database}-{here}.{version}-{snapshot.stamp}"
        try:
            n = await adapter_count(self._db, here, version)
            found = shelf.find(name)
            if found is not None and len(Adapters(found)) != n:
                shelf.discard(name)
            async with shelf.making(name) as fresh:
                if fresh is not None:
                    await write_adapters(fresh, n, adapter_pages(self._db, here, version))
            self._adapters[here] = version, Adapters(shelf.path(name))
            if await adapter_count(self._db, here, version) != len(self._adapters[here][1]):
                del self._adapters[here]
                shelf.discard(name)
                raise CorruptModelError("somebody was erased while the adapters were copied.")
            await self._compute(lambda: shelf.keep_only(name))
        except (OSError, DomainError) as error:
            log.warning("adapters_not_mapped", environment=here, version=version, reason=str(error))


def _write_projection(folder: Path, projection: Projection) -> None:
    np.save(folder / "means.npy", projection.means)
    if projection.spreads is not None:
        np.save(folder / "spreads.npy", projection.spreads)


def _map_projection(folder: Path) -> Projection:
    spreads = folder / "spreads.npy"
    return Projection(mapped(folder / "means.npy"), mapped(spreads) if spreads.exists() else None)
