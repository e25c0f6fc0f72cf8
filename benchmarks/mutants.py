"""How many wrong programs the tests notice: mutants of the core, the planner and the store, drawn at random.

    python benchmarks/mutants.py [--count 500] [--seed 1] [--only app/policy ...] [--page docs/mutants.md]

Claim: of 500 mutants of `app/learning`, `app/policy` and `app/store` the tests kill at least 85%. A site is drawn at
random, every one as likely as any other, then one of cosmic-ray's operators that apply to it. Not drawn, because no
test could ever tell: annotations; the decorators of numba (they say how fast, not what) and `override`;
`preparation.py`, which computes what nobody reads; and a mutant that compiles to the same code.

Tests run on a copy of the working tree, against one PostgreSQL. A first run under coverage tells which test reaches
which line; a mutant is tried by the tests that reach its statement, its own package's first and the quickest of those,
until one fails, and by no more than some `MOST_SECONDS` of them. A mutant with which a test takes ten times its time,
or stands still, is killed too. Compiled loops are first tried uncompiled, where coverage sees into them, and what
survives that is compiled and tried again.

What is known is kept in the work folder, and a run that was broken off goes on where it was. A mutant is tried again
once its module has changed, or, if it survived, the tests that try it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mutation.drawing import PACKAGES, Mutant, draw, modules
from mutation.reach import COMPILED, PLAIN, Maps, Reach, digest, measure
from mutation.trial import Trial, Trying, forked, serving, trial_of

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).with_suffix(".toml")
"""What we have to say about survivors, by module and by change."""

HEAD = """# Wrong programs that the tests notice

Written by `make mutants` (seed {seed}): {tried} mutants of `app/learning`, `app/policy` and `app/store`, drawn at
random from all places that [cosmic-ray](https://cosmic-ray.readthedocs.io) can change, each tried by the tests that
reach the statement. `benchmarks/mutants.py` says how, and what is not drawn. *By time*: the mutant made a test take
more than ten times as long, or wait for ever. *Equivalent*: no test could tell, for the reason given below; the first
rate counts these as survivors, the second leaves them out.
"""


def main() -> None:
    options = _options()
    work = options.work.resolve()
    tree = work / "tree"
    _copy(tree)
    os.environ |= {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PSHARELORA_TEST_DIRECTORY": str(work / "run"),
        "TMPDIR": str(work),
    }
    sys.path.insert(0, str(tree))
    mutants = [one for one in _drawn(tree, work, options) if one.path.startswith(tuple(options.only))]
    results = Results(work / f"results-{options.seed}.jsonl", tree)
    if not options.report:
        reach = _reach(Maps(tree, work / "maps", {one.path for one in mutants}), tree, work, options.lock)
        trials = [trial_of(mutant, reach, tree) for mutant in mutants]
        rest = [trial for trial in trials if results.of(trial.mutant, trial.digest(tree)) is None]
        _say(f"{len(trials)} mutants, {len(rest)} to be tried")
        Trying(tree, reach, options.lock, results.note).run(rest)
        # Most of it was noted by other processes.
        results = Results(results.path, tree)
    found = [(mutant, result) for mutant in mutants if (result := results.of(mutant)) is not None]
    page = _page(found, len(mutants), options.seed)
    print(page)
    if options.page is not None:
        options.page.write_text(page)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=PACKAGES, help="of those drawn, only what is in these folders")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build/mutants", help="where copy, maps and results are kept"
    )
    parser.add_argument("--lock", type=Path, help="a file that is locked (shared) while a test runs")
    parser.add_argument("--page", type=Path, help="write what came of it into this page")
    parser.add_argument("--report", action="store_true", help="try none, tell what is known")
    return parser.parse_args()


def _copy(tree: Path) -> None:
    """The working tree as it is now; what is the same stays as it was, and so does what was compiled of it."""
    named = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(named, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for name in sorted(names):
        copy = tree / name
        if not copy.exists() or copy.read_bytes() != (ROOT / name).read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
    for path in tree.rglob("*.py"):
        if str(path.relative_to(tree)) not in names:
            path.unlink()


def _drawn(tree: Path, work: Path, options: argparse.Namespace) -> list[Mutant]:
    """Kept, because it takes a minute."""
    kept = work / f"drawn-{options.count}-{options.seed}-{digest(tree / path for path in modules(tree))}.json"
    if not kept.exists():
        _say(f"drawing {options.count} mutants")
        kept.write_text(json.dumps([asdict(one) for one in draw(tree, options.count, options.seed)]))
    return [Mutant(**one) for one in json.loads(kept.read_text())]


def _reach(maps: Maps, tree: Path, work: Path, lock: Path | None) -> dict[str, Reach]:
    for suite in (PLAIN, COMPILED):
        missing = maps.missing(suite)
        if not missing:
            continue
        _say(f"which test reaches which line, {suite}: {len(missing)} files")
        with serving(work):
            for file in missing:
                log = work / f"{suite}.log"
                status = forked(partial(measure, tree, maps, suite, file, lock), log=log, stuck=None)
                assert status == 0, f"the measurement ended with {status}: see {log}"
    reach = {suite: maps.load(suite) for suite in (PLAIN, COMPILED)}
    reach[COMPILED].add(reach[PLAIN])
    return reach


class Results:
    """What came of which mutant, in a file."""

    def __init__(self, path: Path, tree: Path) -> None:
        self.path, self._tree = path, tree
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows: dict[str, dict[str, Any]] = {row["mutant"]: row for row in map(json.loads, lines)}
        self._tried = 0

    def of(self, mutant: Mutant, tests: str | None = None) -> dict[str, Any] | None:
        """If its module is still the same, and, where it survived, these tests are."""
        row = self._rows.get(mutant.name)
        if row is None or row["module"] != self._module(mutant):
            return None
        return row if tests is None or row["outcome"] != "survived" or row["by"] == tests else None

    def note(self, trial: Trial, result: dict[str, Any]) -> None:
        name = trial.mutant.name
        row = {"mutant": name, "module": self._module(trial.mutant), "by": trial.digest(self._tree), **result}
        self._rows[name] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._tried += 1
        _say(f"{self._tried}  {result['outcome']:8} {result['seconds']:5}  {name}")

    def _module(self, mutant: Mutant) -> str:
        return digest([self._tree / mutant.path])


def _page(found: list[tuple[Mutant, dict[str, Any]]], drawn: int, seed: int) -> str:
    words = Words(WORDS)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, result in found:
        outcome = result["outcome"]
        if outcome == "survived" and words.is_equivalent(mutant):
            outcome = "equivalent"
        for row in ("**all**", f"**{Path(mutant.path).parent}**", mutant.path):
            counts[row][outcome] += 1
    tried = f"{len(found)}" if len(found) == drawn else f"so far {len(found)} of {drawn}"
    head = HEAD.format(seed=seed, tried=tried)
    survivors = [mutant for mutant, result in found if result["outcome"] == "survived"]
    return "\n".join([head, *_table(counts), "", "## Who survived", "", *words.told(survivors), ""])


def _table(counts: dict[str, Counter[str]]) -> Iterator[str]:
    yield "| where | mutants | killed by a test | by time | survived | equivalent | killed | of those not equivalent |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in sorted(counts, key=lambda one: (one != "**all**", not one.startswith("**"), one)):
        found = counts[row]
        n, killed = found.total(), found["killed"] + found["timeout"]
        rates = f"{killed / n:.1%} | {killed / max(n - found['equivalent'], 1):.1%}"
        numbers = [n, *(found[one] for one in ("killed", "timeout", "survived", "equivalent"))]
        yield f"| {row} | {' | '.join(str(number) for number in numbers)} | {rates} |"


class Words:
    """What we have to say about survivors."""

    def __init__(self, path: Path) -> None:
        rows = tomllib.loads(path.read_text())["survivor"] if path.exists() else []
        self._rows = {(row["module"], row["was"], row["becomes"]): row for row in rows}

    def is_equivalent(self, mutant: Mutant) -> bool:
        return bool(self._row(mutant).get("equivalent", False))

    def told(self, mutants: Iterable[Mutant]) -> Iterator[str]:
        for mutant in sorted(mutants, key=lambda one: (one.path, one.line, one.becomes)):
            row = self._row(mutant)
            kind = "Equivalent: " if self.is_equivalent(mutant) else ""
            becomes = f"became `{mutant.becomes.strip()}`" if mutant.becomes else "went"
            yield f"- `{mutant.path}`: `{mutant.was.strip()}` {becomes}. {kind}{row.get('word', '')}"

    def _row(self, mutant: Mutant) -> dict[str, Any]:
        return self._rows.get((mutant.path, mutant.was.strip(), mutant.becomes.strip()), {})


def _say(sentence: str) -> None:
    print(f"==> {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
