"""Waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 20.0


async def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.002)
