"""How long a refit takes where users are erased all the while.

    python benchmarks/erasures.py [--users 40] [--tries 20] [--seed 1]

The real worker refits an environment in a real PostgreSQL: in turn alone, which takes T seconds, and while users are
erased at random moments (a Poisson process), so many of them a T on average. A fit that somebody is erased during
begins again without them, so what is waited for is a pause of T between two erasures, which comes after
T (e^r - 1) / r seconds on average at r erasures a T. All of it takes some 7 T a try.
"""

import argparse
import asyncio
import json
import math
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.domain import RefitPolicy, RefitState
from app.learning import prepare
from app.observability import configure_logging
from app.store import Database, EmbeddedPostgres, erase_user, migrate, record_preferences, request_refit
from tests.support.builders import catalog, prefers
from tests.support.feedback import NEVER_BY_ITSELF, choices, define, ended, record
from tests.support.worker import working

NAME = "erasures"
RATES = (0.0, 0.5, 1.0, 2.0)
"""Erasures on average in the time that a refit takes alone."""

MOST_SECONDS = 600.0


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Whoever is told to end leaves no database behind. The worker has a thread of its own, or it would take the signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    configure_logging("warning", "console")
    prepare()
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as url:
        migrate(url)
        db = Database(url, pool_size=4)
        try:
            await measured(db, url, options)
        finally:
            await db.dispose()


async def measured(db: Database, url: str, options: argparse.Namespace) -> None:
    """Print what is known after every round of all rates: what else the machine does weighs on all of them alike."""
    by_hand = RefitPolicy(every_seconds=10**6, min_new_preferences=NEVER_BY_ITSELF)
    catalogue = await define(db, catalog(NAME, rank=2, refit=by_hand, item_dim=32), n_items=200)
    await record(db, NAME, choices(catalogue, options.users, 40))
    rng = np.random.default_rng(options.seed)
    seconds: dict[float, list[float]] = {rate: [] for rate in RATES}
    with working(url, stalled_seconds=3.0):
        for _ in range(options.tries):
            for rate, found in seconds.items():
                # As every refit after an erasure, this one takes nothing over from the model before.
                await forget(db)
                eraser = asyncio.create_task(erase(db, statistics.mean(seconds[0.0]) / rate, rng)) if rate else None
                found.append(await refit_seconds(db))
                if eraser is not None:
                    eraser.cancel()
                    await asyncio.wait([eraser])
            print(json.dumps([row(rate, found, statistics.mean(seconds[0.0])) for rate, found in seconds.items()]))


def row(rate: float, seconds: list[float], alone: float) -> dict[str, float]:
    times = [one / alone for one in seconds]
    return {
        "erasures_a_refit": rate,
        "tries": len(times),
        "seconds": round(statistics.mean(seconds), 1),
        "refits_of_time": round(statistics.mean(times), 2),
        "stderr": round(statistics.stdev(times) / math.sqrt(len(times)), 2) if len(times) > 1 else 0.0,
        "expected": round((math.exp(rate) - 1) / rate, 2) if rate else 1.0,
    }


async def refit_seconds(db: Database) -> float:
    begun = time.monotonic()
    refit, _ = await request_refit(db, NAME)
    found = await ended(db, refit, seconds=MOST_SECONDS)
    assert found.state is RefitState.SUCCEEDED, found.error
    return time.monotonic() - begun


async def erase(db: Database, mean_seconds: float, rng: np.random.Generator) -> None:
    while True:
        await asyncio.sleep(rng.exponential(mean_seconds))
        await forget(db)


async def forget(db: Database) -> None:
    """Somebody comes, says something, and is erased."""
    await record_preferences(db, NAME, [prefers("passing", "item-0", "item-1")])
    await erase_user(db, NAME, "passing")


if __name__ == "__main__":
    asyncio.run(main())
