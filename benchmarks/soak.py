"""Ten minutes of everything at once, and whether anything grows, leaks or fails.

    python benchmarks/soak.py [--minutes 10] [--seed 1] [--page docs/soak.md]

Real processes: PostgreSQL, two API processes, two workers. Clients post preferences and ask for rewards that must know
of them, import files, rank the catalogue, ask for policies, have users erased, make, use and revoke keys, and have
models refitted, without a pause. In the first minutes they say what is new; then they say all of it again, with the
same ids, so that what is stored stays the same, and what grows then is a leak. Every answer is checked, and at the end
all that was acknowledged is compared with the tables.

Memory is what a process has that is no file's (the kernel's `Pss_Anon`), sampled every five seconds: its share of the
programs' own pages depends on who else on the machine runs them, and PostgreSQL's shared buffers are as large as they
were set, but count only once they are touched. A straight line is fitted to it after the first third, in which caches
fill. Status 1 where anything failed, leaked or grew.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import prepare as prepare_learning
from app.policy import prepare as prepare_planner
from tests.support.faults.clients import Crowd
from tests.support.faults.installation import Installation, installed
from tests.support.faults.mixed import mixed
from tests.support.faults.trials import judged
from tests.support.processes import api_processes, children, memory

WORDS = {
    "c": "a preference, new or said before, and rewards that must know of it",
    "import": "a file of 20 preferences, likewise",
    "ranker": "a ranking of the catalogue",
    "trainee": "a preference between courses of an MDP, and its policy or an action",
    "forgotten": "a user who says something and is erased",
    "keys": "a key that is made, used, revoked and refused",
    "refits": "a refit",
}
"""What a client does, by its name."""

ROUNDS = (500, 100)
"""After so many, clients say the same again: what is stored does not grow, and whatever grows then is a leak."""

SAMPLE_SECONDS = 5.0
FEWEST_SAMPLES = 12
WARM_UP = 1 / 3
LAST_SECONDS = 60.0
"""At the end, in which nobody is erased: an erasure empties the versions before it, whose answers cannot be checked."""
FLAT_AN_HOUR = 0.10
"""Growth in an hour that counts as flat, as a part of the level; taken at the lower end of the slope's interval."""


@dataclass
class Series:
    """What was seen of one kind of process, by time."""

    megabytes: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def report(self, minutes: list[float]) -> dict[str, Any]:
        """Over the time after the warm-up."""
        start = int(len(minutes) * WARM_UP)
        at, memory, files = np.array(minutes[start:]), np.array(self.megabytes[start:]), self.descriptors[start:]
        line = stats.theilslopes(memory, at)
        level = float(np.median(memory))
        half = len(files) // 2
        return {
            "megabytes": round(level, 1),
            "megabytes_first_and_last": [round(float(memory[0]), 1), round(float(memory[-1]), 1)],
            "slope_megabytes_a_minute": round(float(line.slope), 3),
            "slope_interval": [round(float(line.low_slope), 3), round(float(line.high_slope), 3)],
            "grows": bool(line.low_slope * 60 > FLAT_AN_HOUR * level),
            "descriptors_first_and_second_half_most": [max(files[:half]), max(files[half:])],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, help="write what came of it into this page")
    options = parser.parse_args()
    prepare_learning()
    prepare_planner()
    with installed() as installation:
        report = soak(installation, options.minutes, options.seed)
    print(json.dumps(report, indent=1))
    if options.page is not None:
        options.page.write_text(page_of(report), encoding="utf-8")
    sys.exit(0 if report["good"] else 1)


def soak(installation: Installation, minutes: float, seed: int) -> dict[str, Any]:
    series = {name: Series() for name in ("api", "worker", "postgresql")}
    connections: list[int] = []
    largest: list[float] = []
    at: list[float] = []
    begun = time.monotonic()
    with (
        psycopg.connect(installation.postgres.url, autocommit=True) as watching,
        Crowd(installation.api_url, "soak", seed=seed, also=mixed, rounds=ROUNDS) as crowd,
    ):
        while (elapsed := time.monotonic() - begun) < minutes * 60:
            at.append(elapsed / 60)
            largest.append(sample(installation, series))
            connections.append(connections_beside(watching))
            if elapsed > minutes * 60 - LAST_SECONDS:
                crowd.by_name["forgotten"].stop()
            time.sleep(SAMPLE_SECONDS)
        rounds = {name: len(one.rounds) for name, one in crowd.by_name.items()}
    verdict = judged(installation, crowd)
    told = crowd.told
    wrong = [*verdict.wrong, *verdict.half_models, *told.late]
    if len(at) < FEWEST_SAMPLES:
        raise SystemExit(f"{len(at)} samples say nothing; let it run for longer")
    start = int(len(at) * WARM_UP)
    half = (start + len(at)) // 2
    report: dict[str, Any] = {
        "minutes": round(at[-1], 1),
        "rounds": rounds,
        "acknowledged": verdict.acknowledged,
        "lost": len(verdict.lost),
        "doubled": len(verdict.doubled),
        "answers_checked": verdict.checked,
        "models": verdict.versions,
        "wrong": len(wrong),
        "wrong_for_example": wrong[:5],
        "refused": told.refused,
        "unanswered": told.unanswered,
        "connections_first_and_second_half_most": [max(connections[start:half]), max(connections[half:])],
        "connection_megabytes_first_and_second_half_most": [max(largest[start:half]), max(largest[half:])],
        "processes": {name: one.report(at) for name, one in series.items()},
    }
    report["good"] = is_good(report)
    return report


def is_good(report: dict[str, Any]) -> bool:
    failed = any(report[name] for name in ("lost", "doubled", "wrong", "refused", "unanswered"))
    # Who never came to an end has tried nothing, and neither has who checked no answer.
    failed = failed or not all(report["rounds"].values()) or not report["answers_checked"]
    # PostgreSQL as a whole grows until all connections, of which there are no more, are as large as the largest.
    processes = {name: one for name, one in report["processes"].items() if name != "postgresql"}
    grows = any(one["grows"] or leaks(one["descriptors_first_and_second_half_most"]) for one in processes.values())
    smaller, larger = report["connection_megabytes_first_and_second_half_most"]
    grows = grows or leaks(report["connections_first_and_second_half_most"]) or larger > (1 + FLAT_AN_HOUR) * smaller
    return not failed and not grows


PAGE = """# What ten minutes of everything leave behind

Written by `python benchmarks/soak.py --page docs/soak.md`: PostgreSQL, two API processes and two workers under
clients who do all at once, without a pause, what an installation is asked for, on a machine with {cores} cores on
which other work ran. After the first minutes clients say again what they had said, with the same ids: what is stored
stays the same, so what grows then is a leak. {minutes} minutes; status {status}.

| what was done | times |
| --- | ---: |
{rounds}

Of {acknowledged:,} acknowledged preferences {lost} were lost and {doubled} doubled; {checked:,} answers were computed
anew from what they named (of those since the last erasure, which empties the versions before it), and of them and all
others that were checked {wrong} were wrong. {refused} requests were refused, and {unanswered} connections broke.
Connections to PostgreSQL, at most in the first half after the warm-up and in the second: {connections}; the largest of
them: {largest} MB.

Memory is what processes have that is no file's (the kernel's `Pss_Anon`), of all processes of a kind together: without
the programs themselves, and without PostgreSQL's shared buffers, which are as large as they were set. The slope is
Theil and Sen's over the last two thirds of the time, with its 95% interval; it counts as growth where even the lower
end would add more than {flat:.0%} in an hour. A connection of PostgreSQL keeps what it has met, tables and the plans of
statements, of which there are so many and no more: PostgreSQL as a whole grows until all of its connections are as
large as the largest, so that what is judged is that one, which may be a tenth larger in the second half, and how many
there are.

| processes | MB | slope, MB a minute | interval | grows | open files, first and second half |
| --- | ---: | ---: | ---: | --- | ---: |
{processes}
"""


def page_of(report: dict[str, Any]) -> str:
    rounds = Counter[str]()
    for name, n in report["rounds"].items():
        rounds[WORDS[name.rstrip("0123456789")]] += n
    processes = [
        f"| {name} | {one['megabytes']:,} | {one['slope_megabytes_a_minute']} | {between(one['slope_interval'])} "
        f"| {'yes' if one['grows'] else 'no'} | {between(one['descriptors_first_and_second_half_most'])} |"
        for name, one in report["processes"].items()
    ]
    return PAGE.format(
        cores=os.cpu_count(),
        minutes=report["minutes"],
        status=0 if report["good"] else 1,
        rounds="\n".join(f"| {words} | {n:,} |" for words, n in rounds.items()),
        acknowledged=report["acknowledged"],
        lost=report["lost"],
        doubled=report["doubled"],
        checked=report["answers_checked"],
        wrong=report["wrong"],
        refused=report["refused"],
        unanswered=report["unanswered"],
        connections=between(report["connections_first_and_second_half_most"]),
        largest=between(round(one, 1) for one in report["connection_megabytes_first_and_second_half_most"]),
        flat=FLAT_AN_HOUR,
        processes="\n".join(processes),
    )


def between(pair: Iterable[float]) -> str:
    return ", ".join(f"{one:,}" for one in pair)


def leaks(most: list[int]) -> bool:
    """More at most in the second half than in the first, by more than a few that come and go."""
    return most[1] > most[0] + 4


def sample(installation: Installation, series: dict[str, Series]) -> float:
    """Megabytes of PostgreSQL's largest connection, beside what is added to the series."""
    leader = installation.postgres.leader
    families = {
        "api": [installation.api.pid, *api_processes(installation.api.pid)],
        "worker": [one.pid for one in installation.workers],
        "postgresql": [] if leader is None else [leader, *children(leader)],
    }
    for name, pids in families.items():
        series[name].megabytes.append(sum(megabytes(pid) for pid in pids))
        # PostgreSQL's own files come and go with its tables; its connections are counted by itself.
        series[name].descriptors.append(0 if name == "postgresql" else sum(descriptors(pids)))
    return max(map(megabytes, families["postgresql"]), default=0.0)


def megabytes(pid: int) -> float:
    """What a process has that is no file's; none once it is gone."""
    with suppress(OSError):
        return memory(pid).get("Pss_Anon", 0.0)
    return 0.0


def descriptors(pids: Iterable[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(OSError):
            found.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
    return found


def connections_beside(watching: psycopg.Connection) -> int:
    row = watching.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    ).fetchone()
    return row[0] if row else 0


if __name__ == "__main__":
    main()
