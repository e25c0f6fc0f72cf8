"""What breaks, and what that costs: every fault tried again and again against real processes under load.

    python benchmarks/faults.py [--only NAME ...] [--times N] [--seed S] [--page docs/faults.md]

PostgreSQL, two API processes and two workers, a network between them, and clients that send preferences (one by one and
as files), ask for rewards and for refits all the while. A supervisor starts again what has ended; nothing else helps.
Then the tables are compared with what was acknowledged, and every answer with the same answer computed anew.

Status 1 where anything was lost, doubled, wrong or not recovered.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.learning import prepare as prepare_learning
from app.policy import prepare as prepare_planner
from tests.support.faults.installation import installed
from tests.support.faults.kinds import BY_NAME, FAULTS, Fault
from tests.support.faults.trials import Found, median, tried, worst

SMALL_DISK_MEGABYTES = 300

COLUMNS = (
    "fault", "tried", "acknowledged", "lost", "doubled", "half models", "answers checked", "wrong", "503", "no answer",
    "answers again: median", "worst", "refits again: median", "worst",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=sorted(BY_NAME), help="these alone; none named: what --keep has")
    parser.add_argument("--times", type=int, help="how often each is tried; without it as often as the table says")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument("--keep", type=Path, help="a file for what was found, which a later run adds to")
    options = parser.parse_args()
    prepare_learning()
    prepare_planner()
    rows = kept(options.keep)
    chosen = FAULTS if options.only is None else [BY_NAME[name] for name in options.only]
    good = True
    for found in all_found(chosen, options.times, options.seed):
        rows[found.fault.name] = row_of(found)
        good = good and found.is_good
        print(f"{found.fault.name}: {', '.join(rows[found.fault.name][1:])}", file=sys.stderr, flush=True)
        print(f"    {found.deadlocks} deadlocks", file=sys.stderr, flush=True)
        for complaint in found.complaints():
            print(f"    {complaint}", file=sys.stderr, flush=True)
        if options.keep is not None:
            options.keep.write_text(json.dumps(rows, indent=1))
    table = table_of(rows[fault.name] for fault in FAULTS if fault.name in rows)
    print(f"seed {options.seed}\n\n{table}")
    if options.page is not None:
        runs = SEVERAL_RUNS if options.keep is not None else ""
        head = HEAD.format(seed=options.seed, cores=os.cpu_count(), missing=missing(rows), runs=runs)
        options.page.write_text(f"{head}\n{table}\n", encoding="utf-8")
    sys.exit(0 if good else 1)


def missing(rows: Collection[str]) -> str:
    """What a reader must not take for tried."""
    left = [fault.words for fault in FAULTS if fault.name not in rows]
    return f" Not in this run: {'; '.join(left)}." if left else ""


def kept(file: Path | None) -> dict[str, list[str]]:
    return json.loads(file.read_text()) if file is not None and file.exists() else {}


def all_found(faults: Sequence[Fault], times: int | None, seed: int) -> Iterator[Found]:
    """Those that need a small disk have an installation of their own."""
    for small in (False, True):
        of_these = [fault for fault in faults if (fault.needs == "small disk") is small]
        if not of_these:
            continue
        try:
            with installed(disk_megabytes=SMALL_DISK_MEGABYTES if small else None) as installation:
                for fault in of_these:
                    if fault.needs == "clock" and not installation.clocks["api"].settings:
                        print(f"{fault.name}: left out, for there is no C compiler here", file=sys.stderr)
                        continue
                    begun = time.monotonic()
                    yield tried(installation, fault, times or fault.times, seed=seed)
                    print(f"    {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        except PermissionError as error:
            print(f"left out, for no file system can be mounted here: {error}", file=sys.stderr)


def row_of(found: Found) -> list[str]:
    verdict = found.verdict
    counts = (
        verdict.acknowledged, len(verdict.lost), len(verdict.doubled), len(verdict.half_models), verdict.checked,
        len(verdict.wrong) + len(found.late), found.refused, found.unanswered,
    )  # fmt: skip
    times = len(found.answering_again) + found.never
    seconds = (
        median(found.answering_again),
        worst(found.answering_again),
        median(found.refitting_again),
        worst(found.refitting_again),
    )
    never = [f"never ({found.never})"] if found.never else []
    shown = [f"{one:.2f}" for one in seconds[:1]] + (never or [f"{seconds[1]:.2f}"])
    shown += [f"{one:.2f}" for one in seconds[2:]]
    return [found.fault.words, str(times), *(f"{count:,}" for count in counts), *shown]


def table_of(rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in COLUMNS[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (COLUMNS, rule, *rows))


HEAD = """# What faults cost

Written by `python benchmarks/faults.py --page docs/faults.md` (seed {seed}), which tries every fault against real
processes under load: PostgreSQL, two API processes, two workers, and six clients, of which four send preferences one by
one and ask for rewards that must know of them, one sends files, and one asks for refits. A client sends again, with the
same `id`, what was not acknowledged. A supervisor starts again what has ended, as `restart: unless-stopped` in
`docker-compose.yml` does; nobody else helps. Seconds are those of a machine with {cores} cores on which other work ran.

- *Lost*: acknowledged, and not in the table. *Doubled*: there more often than it was said, or counted more often than
  it is there. *Half models*: versions of which a part is missing.
- *Wrong*: answers that differ from the same answer computed anew from the `model_version` and `feedback_seen` that they
  name, that do not know of what their asker had said before, that are an error other than a 503 or 429 with a problem
  document, or that did not come within 20 seconds. *503*: honest refusals. *No answer*: connections that broke with the
  process that held them.
- *Again*: seconds from the end of the fault (a kill ends at once) until every client had an acknowledgement and an
  answer, and until a refit that was asked for since had succeeded.

`docs/OPERATIONS.md` says what to do about each.{runs}{missing}
"""

SEVERAL_RUNS = " The rows are of several runs (`--only`, `--keep`)."


if __name__ == "__main__":
    main()
