"""A fault tried several times under load, and what came of it."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from app.store import Database
from tests.support.faults.clients import Crowd
from tests.support.faults.installation import Installation
from tests.support.faults.kinds import Fault
from tests.support.faults.verdict import Verdict, judge

RECOVERY_SECONDS = 60.0
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
            said.append(f"{self.never} times no recovery in {RECOVERY_SECONDS:g} s")
        if self.unanswered and not self.fault.kills_api:
            said.append(f"{self.unanswered} connections broke, and the API was not touched")
        return said


def tried(
    installation: Installation,
    fault: Fault,
    times: int,
    *,
    seed: int,
    clients: int = 5,
    each: Callable[[int], None] = lambda _number: None,
) -> Found:
    """Try a fault under load, at random moments; judge what is left when all is over."""
    rng = random.Random(f"{fault.name} {seed}")
    name = f"{fault.name}-{uuid4().hex[:8]}"
    found = Found(fault, Verdict(0))
    with Crowd(installation.api_url, name, seed=rng.randrange(10**6), clients=clients) as crowd:
        for number in range(times):
            time.sleep(rng.uniform(0.2, 1.2))
            fault.deed(installation, rng)
            over = time.monotonic()
            _wait_for_recovery(crowd, over, found)
            each(number + 1)
        for clock in installation.clocks.values():
            clock.jump(0.0)
    told = crowd.told
    found.refused, found.unanswered, found.late = told.refused, told.unanswered, told.late
    found.verdict = asyncio.run(_judged(installation, crowd))
    return found


def _wait_for_recovery(crowd: Crowd, over: float, found: Found) -> None:
    deadline = over + RECOVERY_SECONDS
    waiting = [*crowd.clients, crowd.refitter]
    while time.monotonic() < deadline:
        if all(one.good_since(over) for one in waiting):
            break
        time.sleep(0.01)
    else:
        found.never += 1
        return
    found.answering_again.append(max(one.first_good_since(over) for one in crowd.clients) - over)
    found.refitting_again.append(crowd.refitter.first_good_since(over) - over)


async def _judged(installation: Installation, crowd: Crowd) -> Verdict:
    db = Database(installation.postgres.url, pool_size=2)
    try:
        return await judge(db, installation.postgres.url, crowd.told)
    finally:
        await db.dispose()


def median(seconds: list[float]) -> float:
    return statistics.median(seconds) if seconds else float("nan")


def worst(seconds: list[float]) -> float:
    return max(seconds, default=float("nan"))
