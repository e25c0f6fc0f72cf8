"""A fault tried several times under load, and what came of it."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg

from app.store import Database
from tests.support.faults.clients import Crowd
from tests.support.faults.installation import Installation
from tests.support.faults.kinds import Fault
from tests.support.faults.verdict import Verdict, judge

RECOVERY_SECONDS = 120.0
"""Who has not recovered by then needed a hand."""


@dataclass
class Found:
    fault: Fault
    verdict: Verdict
    answering_again: list[float] = field(default_factory=list)
    """Seconds from the end of the fault until every client had an acknowledgement and an answer."""
    refitting_again: list[float] = field(default_factory=list)
    """Likewise until a refit that was asked for since has succeeded."""
    never: int = 0
    """How often either did not come by itself."""
    deadlocks: int = 0
    """Races that PostgreSQL had to end, each after a second."""
    refused: int = 0
    unanswered: int = 0
    late: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        v = self.verdict
        broken = self.unanswered if not self.fault.kills_api else 0
        return not (v.lost or v.doubled or v.half_models or v.wrong or self.never or self.late or broken)

    def complaints(self) -> list[str]:
        v = self.verdict
        said = [*v.lost[:3], *v.doubled[:3], *v.half_models[:3], *v.wrong[:5], *self.late[:3]]
        if self.never:
            said.append(f"{self.never} times no recovery in time")
        if self.unanswered and not self.fault.kills_api:
            said.append(f"{self.unanswered} connections broke, and the API was not touched")
        return said


def tried(
    installation: Installation,
    fault: Fault,
    times: int,
    *,
    seed: int,
    clients: int = 4,
    patience_seconds: float = RECOVERY_SECONDS,
) -> Found:
    """Try a fault under load, at random moments; judge what is left when all is over."""
    rng = random.Random(f"{fault.name} {seed}")
    name = f"{fault.name}-{uuid4().hex[:8]}"
    found = Found(fault, Verdict(0))
    with Crowd(installation.api_url, name, seed=rng.randrange(10**6), clients=clients) as crowd:
        for number in range(1, times + 1):
            time.sleep(rng.uniform(0.2, 1.2))
            fault.deed(installation, rng)
            refits = fault.hits_workers or number % 4 == 0 or number == times
            _wait_for_recovery(crowd, time.monotonic(), found, refits=refits, seconds=patience_seconds)
        for clock in installation.clocks.values():
            clock.jump(0.0)
    told = crowd.told
    found.refused, found.unanswered, found.late = told.refused, told.unanswered, told.late
    if fault.kills_api:
        # Whoever waits at the door of a process that is only coming has no answer, rather than a wrong one.
        found.unanswered, found.late = told.unanswered + len(told.late), []
    found.verdict = judged(installation, crowd)
    found.deadlocks = _deadlocks(installation)
    return found


def _wait_for_recovery(crowd: Crowd, over: float, found: Found, *, refits: bool, seconds: float) -> None:
    deadline = over + seconds
    waiting = [*crowd.clients, crowd.refitter] if refits else crowd.clients
    while not all(one.good_since(over) for one in waiting):
        if time.monotonic() > deadline:
            found.never += 1
            return
        time.sleep(0.01)
    found.answering_again.append(max(one.first_good_since(over) for one in crowd.clients) - over)
    if refits:
        found.refitting_again.append(crowd.refitter.first_good_since(over) - over)


def judged(installation: Installation, crowd: Crowd) -> Verdict:
    async def look() -> Verdict:
        db = Database(installation.postgres.url, pool_size=2)
        try:
            return await judge(db, installation.postgres.url, crowd.told)
        finally:
            await db.dispose()

    return asyncio.run(look())


def median(seconds: list[float]) -> float:
    return statistics.median(seconds) if seconds else float("nan")


def worst(seconds: list[float]) -> float:
    return max(seconds, default=float("nan"))


def _deadlocks(installation: Installation) -> int:
    """Since the server started, or crashed."""
    with psycopg.connect(installation.postgres.url) as connection:
        row = connection.execute("SELECT sum(deadlocks)::int FROM pg_stat_database").fetchone()
    return row[0] if row else 0
