"""What a worker does not need any more, the machine has back."""

import asyncio
import ctypes
import os

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import RefitPolicy
from app.store import Database
from tests.support.builders import catalog
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, record, refitted
from tests.support.processes import memory

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not GNU's"),
]

MEGABYTES = 80.0


def scattered() -> list[NDArray[np.float64]]:
    """A few of many arrays that were made one after the other: the heap between them is free."""
    arrays = [np.ones(500) for _ in range(int(MEGABYTES * 250))]
    return arrays[::50]


async def test_what_is_free_between_things_in_use_goes_back_after_a_refit(
    db: Database, database_url: str, environment_name: str
) -> None:
    by_hand = RefitPolicy(every_seconds=3600, min_new_preferences=NEVER_BY_ITSELF)
    catalogue = await define(db, catalog(environment_name, refit=by_hand))
    await record(db, environment_name, choices(catalogue, 3, 5))
    await refitted(db, database_url, environment_name)

    kept = await asyncio.to_thread(scattered)
    before = memory(os.getpid())["Pss_Anon"]
    await refitted(db, database_url, environment_name)

    assert memory(os.getpid())["Pss_Anon"] < before - MEGABYTES / 2
    assert len(kept) == int(MEGABYTES * 250) // 50
