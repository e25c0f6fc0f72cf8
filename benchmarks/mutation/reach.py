"""Which test reaches which line, and how long it takes: one run under coverage, kept by file of tests."""

import ast
import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import signal
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mutation import vectors
from mutation.drawing import PACKAGES, Mutant

PLAIN, COMPILED = "plain", "compiled"
WHOLE = ("tests/package/test_values.py",)
"""Tests that look at every module; they try what only an import reaches."""
NEXT = {"store": ("tests/api/",)}
"""Folders of tests that try a package too, beside its own."""
BESIDE = {"app/store/schema.py": ("tests/store/test_migrations.py",)}

SUITES = {
    PLAIN: ("tests/learning", "tests/policy", "tests/store/test_importing.py"),
    COMPILED: ("tests/learning", "tests/policy", "tests/store", "tests/api", *WHOLE),
}
"""Compiled, those are run that uncompiled take too long."""

LEFT_OUT = ("tests/learning/test_scale.py", "tests/api/test_conformance.py")
"""Which take minutes."""

KERNELS = ("app/learning/kernels.py", "app/policy/kernels.py", "app/policy/master.py", "app/store/binary_rows.py")
"""Compiled loops, into which coverage does not see unless they run uncompiled."""
VECTORS = "app/learning/lanes.py"
"""Written for the compiler; nothing runs it uncompiled."""

SLOWEST_TEST_SECONDS = {PLAIN: 0.7, COMPILED: 3.0}
"""Of CPU time, under coverage; slower tests are left out, and those for which making ready takes ten times as long."""

MOST_SECONDS = 20.0
"""Of the tests of a folder that try one mutant, as they took when the map was made."""


@dataclass(frozen=True, slots=True)
class Reach:
    seconds: dict[str, float]
    """By test."""
    places: dict[str, dict[str, dict[str, list[str]]]]
    """By file, function and text of a line, the tests that reach it: numbers would change with every line above."""

    def add(self, other: "Reach") -> None:
        self.seconds.update(other.seconds)
        for path, functions in other.places.items():
            for function, lines in functions.items():
                mine = self.places.setdefault(path, {}).setdefault(function, {})
                for line, tests in lines.items():
                    mine[line] = [*mine.get(line, []), *tests]


class Maps:
    """What is known of the tests' reach, in a folder, by file of tests; measured again where that has changed.

    Only of the tests that try mutants of the modules `paths`.
    """

    def __init__(self, tree: Path, folder: Path, paths: Iterable[str]) -> None:
        self._tree, self._folder = tree, folder
        self._wanted = (*{place for path in paths for place in folders_of(path)}, *WHOLE)

    def missing(self, suite: str) -> list[str]:
        return [file for file in self._files(suite) if not self._kept(suite, file).exists()]

    def load(self, suite: str) -> Reach:
        found = Reach({}, {})
        for file in self._files(suite):
            found.add(Reach(**json.loads(self._kept(suite, file).read_text())))
        return found

    def keep(self, suite: str, file: str, reach: Reach) -> None:
        self._kept(suite, file).parent.mkdir(parents=True, exist_ok=True)
        self._kept(suite, file).write_text(json.dumps(asdict(reach)))

    def _files(self, suite: str) -> list[str]:
        places = [self._tree / place for place in SUITES[suite]]
        found = (path for place in places for path in (sorted(place.glob("test_*.py")) if place.is_dir() else [place]))
        names = (str(path.relative_to(self._tree)) for path in found)
        return [name for name in names if name.startswith(self._wanted) and name not in LEFT_OUT]

    def _kept(self, suite: str, file: str) -> Path:
        name = file.replace("/", "-").removesuffix(".py")
        return self._folder / suite / f"{name}-{digest([self._tree / file])}.json"


def digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


def measure(tree: Path, maps: Maps, suite: str, file: str, lock: Path | None) -> None:
    import coverage
    import pytest

    known = maps.load(PLAIN).seconds if suite == COMPILED else {}
    os.chdir(tree)
    if suite == PLAIN:
        uncompiled()
    measured = coverage.Coverage(
        data_file=None, source=[str(tree / package) for package in PACKAGES], concurrency=["thread", "greenlet"]
    )
    measured.start()
    plugin = _Measuring(measured, SLOWEST_TEST_SECONDS[suite], known, lock)
    pytest.main([*ARGUMENTS, file], plugins=[plugin])
    measured.stop()
    data = measured.get_data()
    places: dict[str, dict[str, dict[str, list[str]]]] = {}
    for module in data.measured_files():
        text = Text(Path(module))
        functions = places.setdefault(str(Path(module).relative_to(tree)), {})
        for line, reached in data.contexts_by_lineno(module).items():
            if line > len(text.lines):
                continue  # of what numba makes of a module while it compiles
            tests = functions.setdefault(text.function(line), {}).setdefault(text.lines[line - 1], [])
            tests += [test for test in reached if test in plugin.seconds]
    maps.keep(suite, file, Reach(plugin.seconds, places))


ARGUMENTS = ["-v", "-n0", "--no-header", "--tb=short", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
"""Libraries are imported before pytest is."""


class _Measuring:
    """A pytest plugin: tells coverage whose lines these are, takes the time, and ends slow tests."""

    def __init__(self, coverage: Any, slowest: float, known: dict[str, float], lock: Path | None) -> None:
        self._coverage, self._slowest, self._known, self._lock = coverage, slowest, known, lock
        self._while = contextlib.ExitStack()
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._known]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._while.enter_context(locked(self._lock))
        self._coverage.switch_context(nodeid)

    def pytest_runtest_setup(self) -> None:
        self._skip_after(10 * self._slowest)

    def pytest_runtest_call(self) -> None:
        self._skip_after(self._slowest)

    def pytest_runtest_teardown(self) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _skip_after(self, seconds: float) -> None:
        signal.signal(signal.SIGVTALRM, _too_slow)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration

    def pytest_runtest_logfinish(self) -> None:
        self._coverage.switch_context("")
        self._while.close()


def _too_slow(_signal: int, frame: types.FrameType | None) -> None:
    """As a skip, which hypothesis passes on and does not try to make smaller; never while coverage holds its lock."""
    import pytest

    if frame is None or "/coverage/" not in frame.f_code.co_filename:
        pytest.skip("too slow for mutants")


def uncompiled() -> None:
    """Have numba compile nothing; what only its compiler understands is done by NumPy."""
    import numba.core.config
    import numba.extending

    numba.core.config.DISABLE_JIT = 1
    numba.extending.intrinsic = lambda function: getattr(vectors, function.__name__.removeprefix("_"))


def import_libraries() -> None:
    """Once, before the processes that try mutants are forked; nothing of the project itself."""
    for name in ("fastapi", "numba", "procrastinate", "psycopg", "pytest", "scipy.optimize", "sqlalchemy.ext.asyncio"):
        importlib.import_module(name)
    hypothesis = importlib.import_module("hypothesis")
    # A failure is enough; nobody reads a small example of it.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")


class Text:
    """A module's source, and where what in it begins and ends."""

    def __init__(self, path: Path) -> None:
        source = path.read_text()
        self.lines = [line.strip() for line in source.splitlines()]
        self._statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]

    def _around(self, line: int) -> list[ast.stmt]:
        """The statements that a line is in, the outermost first."""
        found = [node for node in self._statements if node.lineno <= line <= (node.end_lineno or 0)]
        return sorted(found, key=lambda node: (node.lineno, -(node.end_lineno or 0)))

    def function(self, line: int) -> str:
        """Its name, with those around it; nothing where only an import comes by."""
        around = [node for node in self._around(line) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        classes = [node for node in self._around(line) if isinstance(node, ast.ClassDef)]
        # The line of its name is no line in it.
        inside = [node.name for node in around if node.lineno < line or node.body[0].lineno == line]
        return ".".join([*(node.name for node in classes), *inside]) if inside else ""

    def statement(self, line: int) -> Iterator[str]:
        """The lines of the innermost statement around a line, without the statements that it has in it."""
        around = self._around(line)
        if not around:
            return
        body = getattr(around[-1], "body", None)
        last = body[0].lineno if body else (around[-1].end_lineno or line) + 1
        yield from self.lines[around[-1].lineno - 1 : last - 1]


def tests_of(mutant: Mutant, reach: Reach, tree: Path) -> list[str]:
    """Tests that reach the statement; or, where none is known to, its function, or at least its module."""
    text = Text(tree / mutant.path)
    functions, near = reach.places.get(mutant.path, {}), folders_of(mutant.path)
    name = text.function(mutant.line)
    lines = functions.get(name, {}) if name else {}

    def reaching(lines: Iterable[list[str]]) -> set[str]:
        return {test for tests in lines for test in tests if test.startswith(near)}

    found = reaching(lines.get(line, []) for line in text.statement(mutant.line)) or reaching(lines.values())
    if not found:
        found = reaching(tests for lines in functions.values() for tests in lines.values())
        beside = (*BESIDE.get(mutant.path, ()), *WHOLE)
        return [
            *(test for test in sorted(reach.seconds) if test.startswith(beside)),
            *_affordable(mutant, found, reach),
        ]
    return _affordable(mutant, found, reach)


def _affordable(mutant: Mutant, tests: set[str], reach: Reach) -> list[str]:
    """The quickest of each folder first."""
    return [
        test
        for folder in folders_of(mutant.path)
        for test in _quickest([one for one in tests if one.startswith(folder)], reach.seconds)
    ]


def folders_of(path: str) -> tuple[str, ...]:
    """Of the tests that try a module: its package's own, then those of who is next to it."""
    package = path.split("/")[1]
    return f"tests/{package}/", *NEXT.get(package, ())


def _quickest(tests: Sequence[str], seconds: dict[str, float]) -> Iterator[str]:
    total = 0.0
    for i, test in enumerate(sorted(tests, key=lambda one: (seconds[one], one))):
        total += seconds[test]
        if i and total > MOST_SECONDS:
            return
        yield test


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
