"""One mutant after the other, each in a process of its own, by the tests that reach it.

Forks of a process that has the program loaded try what only changes functions; what changes a class, a constant or
compiled code is loaded anew.
"""

import contextlib
import gc
import hashlib
import inspect
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mutation.drawing import Mutant, mutated
from mutation.reach import (
    ARGUMENTS,
    COMPILED,
    KERNELS,
    PLAIN,
    VECTORS,
    Reach,
    import_libraries,
    locked,
    tests_of,
    uncompiled,
)

COMPILE_SECONDS = 120.0
LEAST_SECONDS, SETUP_SECONDS = 8.0, 120.0
"""Of CPU time."""

NOT_SWAPPED, FAULT = 77, 78
"""Exit statuses: the module must be loaded anew; this script has a fault."""

STUCK_SECONDS, STUCK_SHARE = 60.0, 0.02
"""How long without using more of the processor than who looks again and again: what waits for ever."""

LOOK_SECONDS = 0.02
"""How often it is looked at what a trial does."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant and the tests that try it: uncompiled, then as the program runs."""

    mutant: Mutant
    plain: list[str]
    compiled: list[str]

    def digest(self, tree: Path) -> str:
        """Of the tests; who survived them is tried again by others."""
        tests = [*self.plain, *self.compiled]
        files = sorted({test.partition("::")[0] for test in tests})
        texts = [(tree / file).read_text() for file in files]
        return hashlib.sha256("\0".join([*sorted(tests), *texts]).encode()).hexdigest()[:16]


def trial_of(mutant: Mutant, reach: dict[str, Reach], tree: Path) -> Trial:
    plain = tests_of(mutant, reach[PLAIN], tree) if mutant.path in KERNELS else []
    return Trial(mutant, plain, tests_of(mutant, reach[COMPILED], tree))


@dataclass(frozen=True, slots=True)
class Trying:
    """Where and how."""

    tree: Path
    reach: dict[str, Reach]
    lock: Path | None
    note: Callable[[Trial, dict[str, Any]], None]

    @property
    def work(self) -> Path:
        return self.tree.parent

    def run(self, trials: list[Trial]) -> None:
        anew = self.work / "anew.txt"
        anew.write_text("")
        with serving(self.work):
            for suite in (PLAIN, COMPILED):
                mine = [one for one in trials if _suite(one.mutant) == suite]
                if mine:
                    status = forked(partial(self._host, suite, mine, anew), log=None, stuck=None)
                    assert status == 0, f"the process that tries mutants ended with {status}"
            import_libraries()
            rest = set(anew.read_text().splitlines())
            # What must be compiled takes a minute each, and comes last.
            for trial in sorted(trials, key=lambda one: one.mutant.path in {*KERNELS, VECTORS}):
                if trial.mutant.name in rest or trial.mutant.path == VECTORS:
                    with locked(self.lock):
                        result = self._loaded_anew(trial)
                    self.note(trial, result)

    def _host(self, suite: str, trials: list[Trial], anew: Path) -> None:
        """Load program and tests once, and try in forks of this process what only changes functions."""
        import pytest

        import_libraries()
        os.chdir(self.tree)
        if suite == PLAIN:
            uncompiled()
        files = {test.partition("::")[0] for trial in trials for test in _tests(trial, suite)}
        log = self.work / f"collect-{suite}.log"
        with log.open("w") as out, contextlib.redirect_stdout(out):
            pytest.main([*ARGUMENTS, "--collect-only", *sorted(files)])
        functions = _functions(self.tree)
        gc.freeze()
        killers = set()
        for trial in trials:
            swap = partial(_swap, self.tree, trial.mutant.path, functions[str(self.tree / trial.mutant.path)])
            with locked(self.lock):
                result = self._try(trial.mutant, _tests(trial, suite), suite, prepare=swap)
            if result["status"] == NOT_SWAPPED or (suite == PLAIN and result["outcome"] == "survived"):
                with anew.open("a") as file:
                    file.write(trial.mutant.name + "\n")
            else:
                self.note(trial, result)
                killers |= {result["killer"]} - {""}
        self._control(sorted(killers))

    def _control(self, killers: list[str]) -> None:
        """Whoever killed a mutant spares the program as it is."""
        import pytest

        log = self.work / "control.log"
        if killers:
            status = forked(lambda: int(pytest.main([*ARGUMENTS, *killers])), log=log, stuck=None)
            assert status == 0, f"tests fail without any mutant: see {log}"

    def _loaded_anew(self, trial: Trial) -> dict[str, Any]:
        if trial.mutant.path in KERNELS:
            result = self._try(trial.mutant, trial.plain, PLAIN, prepare=_uncompiled_anew)
            if result["outcome"] != "survived":
                return result
        if trial.mutant.path in {*KERNELS, VECTORS}:
            return self._try(
                trial.mutant, trial.compiled, COMPILED, prepare=_compiled_anew, more_seconds=COMPILE_SECONDS
            )
        return self._try(trial.mutant, trial.compiled, COMPILED)

    def _try(
        self,
        mutant: Mutant,
        tests: list[str],
        suite: str,
        *,
        prepare: Callable[[str], None] | None = None,
        more_seconds: float = 0.0,
    ) -> dict[str, Any]:
        """`prepare` is called with the module's text as it was, in the process that then runs the tests."""
        if not tests:
            return {"outcome": "survived", "status": 0, "tests": 0, "seconds": 0.0, "killer": ""}
        path = self.tree / mutant.path
        original, times = path.read_text(), path.stat()
        begun = time.monotonic()

        def test() -> int:
            import pytest

            os.chdir(self.tree)
            if prepare is not None:
                prepare(original)
            return int(pytest.main([*ARGUMENTS, "-x", *tests], plugins=[limits]))

        limits = _Limits(self.reach[suite].seconds, more_seconds)
        log = self.work / "last.log"
        try:
            path.write_text(mutated(original, mutant.operator, mutant.occurrence))
            status = forked(test, log=log, stuck=STUCK_SECONDS)
        finally:
            path.write_text(original)
            os.utime(path, (times.st_atime, times.st_mtime))
        said = log.read_text(errors="replace")
        failed = re.search(r"^(tests/.*) (?:FAILED|ERROR) ", said, re.MULTILINE)
        # Pytest may end in an exception of its own, once a test has failed.
        if (status == FAULT and not failed) or "ERROR: not found:" in said:
            raise AssertionError(f"{mutant.name}: see {log}")
        timed_out = status in {-signal.SIGVTALRM, -signal.SIGKILL}
        outcome = "survived" if status == 0 else "timeout" if timed_out else "killed"
        seconds = round(time.monotonic() - begun, 1)
        killer = failed[1] if failed else ""
        return {"outcome": outcome, "status": status, "tests": len(tests), "seconds": seconds, "killer": killer}


class _Limits:
    """A pytest plugin: ends the process, compiled loop or not, where a test takes ten times the time it took."""

    def __init__(self, seconds: dict[str, float], more_seconds: float) -> None:
        self._seconds, self._more_seconds = seconds, more_seconds

    def pytest_runtest_setup(self) -> None:
        """What tests share is made by the first of them that is run, whichever that is."""
        self._end_after(SETUP_SECONDS)

    def pytest_runtest_call(self, item: Any) -> None:
        self._end_after(LEAST_SECONDS + 10 * self._seconds[item.nodeid])

    def _end_after(self, seconds: float) -> None:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds + self._more_seconds)


def _suite(mutant: Mutant) -> str:
    return "" if mutant.path == VECTORS else PLAIN if mutant.path in KERNELS else COMPILED


def _tests(trial: Trial, suite: str) -> list[str]:
    return trial.plain if suite == PLAIN else trial.compiled


def _functions(tree: Path) -> dict[str, list[types.FunctionType]]:
    found = defaultdict(list)
    for one in gc.get_objects():
        if isinstance(one, types.FunctionType) and one.__code__.co_filename.startswith(f"{tree}/app/"):
            found[one.__code__.co_filename].append(one)
    return found


def _swap(tree: Path, path: str, functions: list[types.FunctionType], original: str) -> None:
    """Give the functions that are loaded the code that their file has now; ends the process where that is not all."""
    file = str(tree / path)
    before, after = (compile(text, file, "exec") for text in (original, (tree / path).read_text()))
    changed = dict(_changed(before, after))
    found = set()
    for function in functions:
        key = (function.__code__.co_qualname, function.__code__.co_firstlineno)
        if key in changed:
            try:
                function.__code__ = changed[key]
            except ValueError:  # It sees other variables of the function around it.
                os._exit(NOT_SWAPPED)
            found.add(key)
    if not found:
        os._exit(NOT_SWAPPED)


def _changed(before: types.CodeType, after: types.CodeType) -> Iterator[tuple[tuple[str, int], types.CodeType]]:
    """The functions that differ, with those in them; ends the process where the code around them does."""
    inner = [[one for one in code.co_consts if isinstance(one, types.CodeType)] for code in (before, after)]
    same = _bare(before) == _bare(after) and len(inner[0]) == len(inner[1])
    is_function = bool(before.co_flags & inspect.CO_NEWLOCALS)
    if not same and not is_function:
        os._exit(NOT_SWAPPED)
    if is_function and before != after:
        yield (before.co_qualname, before.co_firstlineno), after
    if same:
        for one, other in zip(*inner, strict=True):
            yield from _changed(one, other)


def _bare(code: types.CodeType) -> tuple[object, ...]:
    consts = tuple(repr(one) for one in code.co_consts if not isinstance(one, types.CodeType))
    return code.co_code, code.co_names, code.co_varnames, consts


def _uncompiled_anew(_original: str) -> None:
    uncompiled()


def _compiled_anew(_original: str) -> None:
    import numba.core.config

    numba.core.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(dir=os.environ["TMPDIR"])


def forked(deed: Callable[[], int | None], *, log: Path | None, stuck: float | None) -> int:
    """Run in a process of its own; its exit status, or less than 0 where a signal ended it, as if it waits for ever."""
    child = os.fork()
    if child == 0:
        # In a process group of its own, and in the session that it was started in: it keeps its low priority.
        os.setpgid(0, 0)
        if log is not None:
            with log.open("wb") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
        try:
            os._exit(deed() or 0)
        except BaseException:  # noqa: BLE001 - whatever a mutant does must not reach the parent's code
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAULT)
    used, idle = 0.0, 0.0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        now = _cpu_seconds(child)
        if now > used + LOOK_SECONDS + STUCK_SHARE * idle:
            used, idle = now, 0.0
        if stuck is not None and idle > stuck:
            os.killpg(child, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
        # Not by the clock, which goes on where both are stopped for a while.
        idle += LOOK_SECONDS


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(work: Path) -> Iterator[None]:
    """The tests' embedded server, kept running between mutants by a process of the unmutated program."""
    folder = work / "run"
    folder.mkdir(exist_ok=True)
    keep = """
import sys
from pathlib import Path
from app.store import EmbeddedPostgres
from tests.support.postgres import NOT_DURABLE
with EmbeddedPostgres(Path(sys.argv[1]), settings=NOT_DURABLE):
    print("up", flush=True)
    input()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", keep, str(folder / "embedded")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=work / "tree",
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "up", "the embedded server did not start"
    try:
        yield
    finally:
        child.communicate("\n")
