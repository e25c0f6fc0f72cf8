"""The real worker, in a thread of this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.worker import run_worker
from tests.support.api import settings_for


@contextmanager
def working(database_url: str, **values: Any) -> Iterator[None]:
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    begun = threading.Event()

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        begun.set()
        await run_worker(database_url, settings_for(database_url, schedule_seconds=3600, **values), stop=stop)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert begun.wait(10)
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
