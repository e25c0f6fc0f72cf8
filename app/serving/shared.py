"""What a published model needs much memory for, kept once a host: its arrays, users' adapters, the catalogue."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from app.domain import CorruptModelError, DomainError, StoredModel
from app.domain.arrays import ItemTable
from app.learning import Adapter, Projection, ReferenceItem, project
from app.serving.idtable import IdsInText
from app.serving.shelf import Adapters, Shelf, mapped_arrays, write_adapters, write_arrays
from app.serving.snapshot import Catalogue, Scene, Snapshot, Versions, stamp_of
from app.store import Database, Notice, adapter_count, adapter_pages, get_model, load_model

log = structlog.get_logger()

MAPPED_USERS = 1_000
"""With fewer, a model's adapters are read one by one as they are asked for."""

MAPPED_ITEMS = 5_000
"""Fewer items are projected by each process for itself."""

MAPPED_BYTES = 4 << 20
"""Of a model's arrays or a catalogue's features: less, each process has for itself."""

Real = NDArray[np.float64]

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

    async def model(self, here: int, name: str, version: int) -> StoredModel:
        """A version with the arrays that all users share: where they lie in their files, if they are large."""
        shelf = self._shelf
        if shelf is None:
            return await load_model(self._db, name, version)
        found = await get_model(self._db, name, version)
        volume = f"model-{self._database}-{here}.{version}-{stamp_of(found)}"
        if shelf.find(volume) is None:
            stored = await load_model(self._db, name, version)
            if sum(array.nbytes for array in stored.arrays.values()) < MAPPED_BYTES:
                return stored
            await self._put(shelf, volume, lambda: stored.arrays)
        return StoredModel(version=found, arrays=mapped_arrays(shelf.path(volume)))

    async def catalogue(self, here: int, revision: int, table: ItemTable) -> Catalogue:
        """The items, whose features lie in a file if they are many."""
        made: Catalogue = await self._compute(lambda: Catalogue.of(table))
        shelf = self._shelf
        if shelf is None or made.features.nbytes < MAPPED_BYTES:
            return made
        content = await self._compute(made.digest)
        volume = f"catalogue-{self._database}-{here}.{revision}-{content}"
        await self._put(shelf, volume, lambda: {"features": made.features})
        return replace(made, features=mapped_arrays(shelf.path(volume))["features"])

    async def projection(
        self, versions: Versions, snapshot: Snapshot, catalogue: Catalogue, before: Scene | None
    ) -> Projection | None:
        """The catalogue as the model sees it; None for an MDP, and where items are valued in contexts.

        `before` is the scene that this one comes after: what it has of the same items in the same model is taken over.
        """
        reference = snapshot.reference
        if not isinstance(reference, ReferenceItem) or snapshot.model.features.d2 != 1 or not catalogue.ids:
            return None
        here, revision, catalog_revision, version = versions
        shelf = self._shelf
        if shelf is None or len(catalogue.ids) < MAPPED_ITEMS:
            made: Projection = await self._compute(lambda: _projected(snapshot, reference, catalogue, before))
            return made
        volume = f"projection-{self._database}-{here}.{version}-{snapshot.stamp}-{revision}-{catalog_revision}"
        await self._put(shelf, volume, lambda: _arrays_of(_projected(snapshot, reference, catalogue, before)))
        found = mapped_arrays(shelf.path(volume))
        return Projection(found["means"], found.get("spreads"))

    async def _put(self, shelf: Shelf, volume: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> None:
        """Have a volume, and none that it takes the place of."""
        async with shelf.making(volume) as fresh:
            if fresh is not None:
                await self._compute(lambda: write_arrays(fresh, make()))
        await self._compute(lambda: shelf.keep_only(volume))

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


def _projected(snapshot: Snapshot, reference: ReferenceItem, catalogue: Catalogue, before: Scene | None) -> Projection:
    """Projected anew where an item is new or not what it was."""
    known = None if before is None or before.snapshot is not snapshot else before.projection
    if before is None or known is None:
        return project(snapshot.model, catalogue.features, reference)
    old = before.catalogue.table.places(IdsInText.of(catalogue.ids))
    kept = old >= 0
    kept[kept] = (before.catalogue.features[old[kept]] == catalogue.features[kept]).all(axis=1)
    fresh = project(snapshot.model, catalogue.features[~kept], reference)
    means = _merged(known.means, old, kept, fresh.means)
    if known.spreads is None or fresh.spreads is None:
        return Projection(means, None)
    return Projection(means, _merged(known.spreads, old, kept, fresh.spreads))


def _merged(known: Real, old: NDArray[np.int64], kept: NDArray[np.bool_], fresh: Real) -> Real:
    rows = np.empty((len(kept), known.shape[1]))
    rows[kept], rows[~kept] = known[old[kept]], fresh
    rows.flags.writeable = False
    return rows


def _arrays_of(projection: Projection) -> dict[str, Real]:
    spreads = {} if projection.spreads is None else {"spreads": projection.spreads}
    return {"means": projection.means, **spreads}
