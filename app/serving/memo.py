"""Values that are dear to compute, kept while there is room; what several ask for at once is computed once."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """The values last used, by key, as many as `capacity` allows; for one event loop.

    Parameters
    ----------
    capacity
        Total size of what is kept.
    size
        The size of a value, in the unit of `capacity`.
    """

    def __init__(self, capacity: int, *, size: Callable[[V], int] = lambda _: 1) -> None:
        self._capacity = capacity
        self._size = size
        self._used = 0
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._pending: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        """The value of a key. A caller who goes away leaves the others waiting; a failure is nobody's value."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._pending:
            self._pending[key] = asyncio.create_task(self._compute(key, compute))
            self._pending[key].add_done_callback(_retrieve)
        return await asyncio.shield(self._pending[key])

    def peek(self, key: K) -> V | None:
        """What is kept of a key, computed or put."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value that was computed elsewhere, in the place of an older one."""
        self.forget(key)
        self._keep(key, value)

    def forget(self, key: K) -> None:
        """Drop one key, if it is kept."""
        if key in self._kept:
            self._used -= self._size(self._kept.pop(key))

    def drop(self, doomed: Callable[[K], bool]) -> None:
        """Forget the keys that are doomed."""
        for key in [key for key in self._kept if doomed(key)]:
            self._used -= self._size(self._kept.pop(key))

    async def close(self) -> None:
        """Forget everything, and wait for what is being computed."""
        while self._pending:
            await asyncio.wait(self._pending.values())
        self.drop(lambda _: True)

    async def _compute(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await compute()
            self._keep(key, value)
            return value
        finally:
            del self._pending[key]

    def _keep(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._used += self._size(value)
        while self._used > self._capacity and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._used -= self._size(oldest)


def _retrieve(task: "asyncio.Task[V]") -> None:
    """Where every caller has gone away, nobody else looks at the failure."""
    if not task.cancelled():
        task.exception()
