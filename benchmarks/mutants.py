"""How many wrong programs the tests notice: mutants of the core, the planner and the store, drawn at random.

Claim: of 500 mutants of `app/learning`, `app/policy` and `app/store` the tests kill at least 85%. A site is drawn at
random, then one of cosmic-ray's operators that apply to it. Not drawn, because no test could ever tell: annotations;
the decorators of numba (they say how fast, not what) and `override`; `preparation.py`, which computes what nobody
reads; and a mutant that compiles to the same code. Everything else that survives counts as survived.

Tests run on a copy of the working tree. A first run under coverage tells which test reaches which line; a mutant is
tried by the tests that reach its statement, quickest first, until one fails, and by no more than `MOST_SECONDS` of
them. A mutant that takes ten times the time that its tests take, or stands still, is killed too. Compiled loops
(`KERNELS`) are first tried uncompiled, where coverage sees into them, and what survives that is compiled and tried by
the tests of its package. Results are kept in the work folder, and a run that was broken off goes on where it was.
Prints a table in Markdown, and with --survivors what survived.

    make mutants
    python benchmarks/mutants.py --count 500 --seed 1 --work build/mutants --survivors
"""

import argparse
import ast
import contextlib
import fcntl
import gc
import importlib
import inspect
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("app/learning", "app/policy", "app/store")
PLAIN_TESTS = ("tests/learning", "tests/policy")
TESTS = ("tests/store",)
SLOW_TESTS = ("tests/learning/test_fitting.py", "tests/learning/test_confidence.py")
"""Whole fits, which try what no quicker test reaches."""
SLOW_SECONDS = 300.0
LEFT_OUT = ("tests/learning/test_scale.py", "tests/store/test_embedded.py")
"""Minutes of fits; and servers that are started and killed."""

KERNELS = ("app/learning/kernels.py", "app/policy/kernels.py", "app/policy/master.py")
VECTORS = "app/learning/lanes.py"
"""Written for the compiler; nothing runs it uncompiled."""
COMPILE_SECONDS = 120.0

UNREAD = ("preparation.py", "__init__.py")
UNTOLD_DECORATORS = ("njit", "override")

MOST_SECONDS = 15.0
"""Of the tests that try one mutant, as they took without it."""

SLOWEST_TEST_SECONDS = {"plain": 2.0, "compiled": 20.0}
"""Of CPU time, while a map is made; slower tests are left out of it."""

NOT_SWAPPED, FAULT = 77, 78
"""Exit statuses: the module must be loaded anew; this script has a fault."""

STUCK_SECONDS = 60.0
"""Without using the processor: what waits for ever."""


@dataclass(frozen=True, slots=True)
class Reach:
    seconds: dict[str, float]
    """By test."""
    lines: dict[str, dict[str, list[str]]]
    """By file and line, the tests that reach it."""

    def add(self, other: "Reach") -> None:
        self.seconds.update(other.seconds)
        for path, lines in other.lines.items():
            mine = self.lines.setdefault(path, {})
            for line, tests in lines.items():
                mine[line] = [*mine.get(line, []), *tests]


@dataclass(frozen=True, slots=True)
class Mutant:
    path: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line}:{self.column} {self.operator.removeprefix('core/')} #{self.occurrence}"


def main() -> None:
    options = _options()
    work = options.work.resolve()
    tree = work / "tree"
    if options.fresh:
        shutil.rmtree(work, ignore_errors=True)
    if not tree.exists():
        _copy(tree)
    os.environ |= {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PSHARELORA_TEST_DIRECTORY": str(work / "run"),
        "TMPDIR": str(work),
    }
    sys.path.insert(0, str(tree))
    for name, tests in (("plain", PLAIN_TESTS), ("compiled", TESTS)):
        if not (work / f"{name}.json").exists():
            _say(f"which test reaches which line, {name}")
            with _server(work):
                _forked(partial(_map, tree, work, name, tests), log=work / f"{name}.log", seconds=7200)
    reach = {name: Reach(**json.loads((work / f"{name}.json").read_text())) for name in ("plain", "compiled")}
    reach["compiled"].add(reach["plain"])
    mutants = _drawn(tree, work, options.count, options.seed)
    results = _load(work / f"results-{options.seed}.jsonl")
    if not options.report:
        _run(mutants, results, reach, tree, work, options)
    _report([one for one in mutants if one.name in results], results, survivors=options.survivors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "build/mutants", help="the copy, the map and the results")
    parser.add_argument("--fresh", action="store_true", help="forget the copy, the map and the results")
    parser.add_argument("--lock", type=Path, help="a file that is locked (shared) while a mutant is tried")
    parser.add_argument("--survivors", action="store_true", help="list them, with what was changed")
    parser.add_argument("--report", action="store_true", help="try none, print what is known")
    return parser.parse_args()


def _drawn(tree: Path, work: Path, count: int, seed: int) -> list[Mutant]:
    """Kept, because it takes minutes."""
    kept = work / f"drawn-{count}-{seed}.json"
    if not kept.exists():
        _say(f"drawing {count} mutants")
        kept.write_text(json.dumps([asdict(one) for one in draw(tree, count, seed)]))
    return [Mutant(**one) for one in json.loads(kept.read_text())]


def draw(tree: Path, count: int, seed: int) -> list[Mutant]:
    """`count` sites at random, and a mutant of each; the first of a larger draw are those of a smaller one."""
    sites = [site for path in _modules(tree) for site in _sites(tree, path)]
    rng = random.Random(seed)
    rng.shuffle(sites)
    drawn: list[Mutant] = []
    for site in sites:
        mutant = rng.choice(site)
        if len(drawn) < count and _tells(tree, mutant):
            drawn.append(mutant)
    return drawn


def _modules(tree: Path) -> list[str]:
    found = (path for package in PACKAGES for path in sorted((tree / package).rglob("*.py")))
    return [str(path.relative_to(tree)) for path in found if path.name not in UNREAD]


def _sites(tree: Path, path: str) -> list[list[Mutant]]:
    """The mutants at every place of a module that has any, outside what no test can tell."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    nodes = list(ast_nodes(get_ast_from_path(tree / path)))
    silent = _silent((tree / path).read_text())
    sites: dict[tuple[tuple[int, int], tuple[int, int]], list[Mutant]] = defaultdict(list)
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments():
            continue
        positions = (place for node in nodes for place in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start < last for first, last in silent):
                sites[start, end].append(Mutant(path, name, occurrence, *start))
    return [sites[place] for place in sorted(sites)]


def _silent(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and decorators that change no answer begin and end."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                found.append(annotation)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found += [one for one in node.decorator_list if _called(one) in UNTOLD_DECORATORS]
                if not isinstance(node, ast.ClassDef) and node.returns is not None:
                    found.append(node.returns)
    # A decorator's own place begins at its sign.
    return [((one.lineno, max(one.col_offset - 1, 0)), (one.end_lineno or 0, one.end_col_offset or 0)) for one in found]


def _called(decorator: ast.expr) -> str:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return name.id if isinstance(name, ast.Name) else ""


def _mutated(tree: Path, mutant: Mutant) -> str:
    import cosmic_ray.plugins
    from cosmic_ray.mutating import mutate_code

    operator = cosmic_ray.plugins.get_operator(mutant.operator)()
    code: str = mutate_code((tree / mutant.path).read_text(), operator, mutant.occurrence)
    return code


def _tells(tree: Path, mutant: Mutant) -> bool:
    """It is Python, and other Python than before."""
    try:
        return ast.dump(ast.parse(_mutated(tree, mutant))) != ast.dump(ast.parse((tree / mutant.path).read_text()))
    except SyntaxError:
        return False


def _copy(tree: Path) -> None:
    named = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(named, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


class Mapping:
    """A pytest plugin: which lines a test reaches, and how long it takes. Slow tests are ended."""

    def __init__(self, coverage: Any, slowest: float, known: Collection[str]) -> None:
        self._coverage, self._slowest, self._known = coverage, slowest, known
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._known]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)
        self._begun = time.process_time()
        signal.signal(signal.SIGVTALRM, _too_slow)
        signal.setitimer(signal.ITIMER_VIRTUAL, self._slowest, 1.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration

    def pytest_runtest_logfinish(self) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        self._coverage.switch_context("")


def _too_slow(*_: object) -> None:
    """As a skip, which hypothesis passes on and does not try to make smaller."""
    import pytest

    pytest.skip("too slow for mutants")


def _map(tree: Path, work: Path, name: str, tests: Sequence[str]) -> None:
    import coverage
    import pytest

    os.chdir(tree)
    if name == "plain":
        _uncompiled()
    measured = coverage.Coverage(
        data_file=None, source=[str(tree / package) for package in PACKAGES], concurrency=["thread", "greenlet"]
    )
    measured.start()
    known = work / "plain.json"
    plugin = Mapping(
        measured, SLOWEST_TEST_SECONDS[name], json.loads(known.read_text())["seconds"] if known.exists() else ()
    )
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    pytest.main([*_arguments(), *left_out, *(path for path in tests if (tree / path).exists())], plugins=[plugin])
    measured.stop()
    data = measured.get_data()
    lines = {
        str(Path(path).relative_to(tree)): {
            line: [test for test in reached if test in plugin.seconds]
            for line, reached in data.contexts_by_lineno(path).items()
        }
        for path in data.measured_files()
    }
    (work / f"{name}.json").write_text(json.dumps({"seconds": plugin.seconds, "lines": lines}))


def _uncompiled() -> None:
    """Have numba compile nothing; what only its compiler understands is done by NumPy."""
    import numba.core.config
    import numba.extending
    from numpy.typing import NDArray

    def vectors(array: NDArray[Any]) -> NDArray[Any]:
        return array.reshape(-1, 8)

    def add_scaled(y: Any, at_y: int, x: Any, at_x: int, a: Any, at_a: int, count: int) -> None:
        vectors(y)[at_y : at_y + count] += vectors(a)[at_a] * vectors(x)[at_x : at_x + count]

    def add_product(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, count: int) -> None:
        vectors(y)[at_y] += (vectors(a)[at_a : at_a + count] * vectors(b)[at_b : at_b + count]).sum(axis=0)

    def add_singles(y: Any, x: Any, at_x: int, count: int) -> None:
        y[:count] += x.reshape(-1)[at_x : at_x + count]

    plain = {"_add_scaled": add_scaled, "_add_product": add_product, "_add_singles": add_singles}
    numba.core.config.DISABLE_JIT = 1
    numba.extending.intrinsic = lambda function: plain[function.__name__]


def _arguments() -> list[str]:
    return ["-v", "-n0", "--no-header", "--tb=no", "-p", "no:randomly"]


def _tests_of(mutant: Mutant, reach: Reach, tree: Path) -> list[str]:
    """Tests that reach the statement, or, where only an import does, those that reach the module: quickest first."""
    lines = reach.lines.get(mutant.path, {})
    found = {test for line in _statement(tree / mutant.path, mutant.line) for test in lines.get(str(line), [])}
    if not found and mutant.path.startswith("app/learning/") and mutant.path not in KERNELS:
        return list(SLOW_TESTS)
    return _affordable(found or {test for tests in lines.values() for test in tests}, reach)


def _tests_of_package(mutant: Mutant, reach: Reach) -> list[str]:
    package = mutant.path.split("/")[1]
    return _affordable({test for test in reach.seconds if test.startswith(f"tests/{package}/")}, reach)


def _affordable(tests: set[str], reach: Reach) -> list[str]:
    chosen: list[str] = []
    total = 0.0
    for test in sorted(tests, key=lambda one: (reach.seconds[one], one)):
        total += reach.seconds[test]
        if chosen and total > MOST_SECONDS:
            break
        chosen.append(test)
    return chosen


def _statement(path: Path, line: int) -> range:
    """The lines of the innermost statement around a line, without the statements that it has in it."""
    around = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if not around:
        return range(line, line + 1)
    inner = max(around, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
    body = getattr(inner, "body", None)
    return range(inner.lineno, body[0].lineno if body else (inner.end_lineno or line) + 1)


def _run(
    mutants: list[Mutant],
    results: dict[str, dict[str, Any]],
    reach: dict[str, Reach],
    tree: Path,
    work: Path,
    options: argparse.Namespace,
) -> None:
    """First in processes that have the program loaded, uncompiled and compiled, then what must be loaded anew."""
    out = work / f"results-{options.seed}.jsonl"
    anew = work / f"anew-{options.seed}.txt"
    anew.touch()
    with _server(work):
        for name in ("plain", "compiled"):
            mine = [one for one in mutants if one.path != VECTORS and (one.path in KERNELS) == (name == "plain")]
            rest = [one for one in mine if one.name not in results and one.name not in anew.read_text().splitlines()]
            if rest:
                host = partial(_host, name, rest, len(mutants), reach[name], tree, anew, out, options.lock)
                status = _forked(host, log=None, seconds=10**6)
                assert status == 0, f"the process that tries mutants ended with {status}"
                results |= _load(out)
        _import_libraries()
        for mutant in mutants:
            if mutant.name not in results:
                with _locked(options.lock):
                    result = _loaded_anew(mutant, reach, tree)
                results |= _note(mutant, result, out, len(mutants))


def _note(mutant: Mutant, result: dict[str, Any], out: Path, n: int) -> dict[str, dict[str, Any]]:
    with out.open("a") as file:
        file.write(json.dumps({"mutant": mutant.name, **result}) + "\n")
    known = _load(out)
    killed = sum(one["outcome"] != "survived" for one in known.values())
    _say(f"{len(known)}/{n}  {killed} killed  {result['outcome']:8} {mutant.name}")
    return known


def _import_libraries() -> None:
    """Once, before the processes that try mutants are forked; nothing of the project itself."""
    for name in ("fastapi", "numba", "procrastinate", "psycopg", "pytest", "scipy.optimize", "sqlalchemy.ext.asyncio"):
        importlib.import_module(name)
    hypothesis = importlib.import_module("hypothesis")
    # A failure is enough; nobody reads a small example of it.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")


def _host(
    name: str, mutants: list[Mutant], n: int, reach: Reach, tree: Path, anew: Path, out: Path, lock: Path | None
) -> None:
    """Load program and tests once, and try in forks of this process what only changes functions."""
    import pytest

    _import_libraries()
    os.chdir(tree)
    if name == "plain":
        _uncompiled()
    chosen = {mutant.name: _tests_of(mutant, reach, tree) for mutant in mutants}
    files = {test.partition("::")[0] for tests in chosen.values() for test in tests}
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main([*_arguments(), "--collect-only", *sorted(files)])
    gc.freeze()
    for mutant in mutants:
        with _locked(lock):
            result = _try(mutant, chosen[mutant.name], reach, tree, prepare=partial(_swap, tree, mutant.path))
        if result["status"] == NOT_SWAPPED or (name == "plain" and result["outcome"] == "survived"):
            with anew.open("a") as file:
                file.write(mutant.name + "\n")
        else:
            _note(mutant, result, out, n)


def _swap(tree: Path, path: str, original: str) -> None:
    """Give the functions that are loaded the code that their file has now; ends the process where that is not all."""
    file = str(tree / path)
    before, after = (compile(text, file, "exec") for text in (original, (tree / path).read_text()))
    changed = dict(_changed(before, after))
    functions = [
        one for one in gc.get_objects() if isinstance(one, types.FunctionType) and one.__code__.co_filename == file
    ]
    found = set()
    for function in functions:
        key = (function.__code__.co_qualname, function.__code__.co_firstlineno)
        if key in changed:
            function.__code__ = changed[key]
            found.add(key)
    if not found:
        os._exit(NOT_SWAPPED)


def _changed(before: types.CodeType, after: types.CodeType) -> Iterator[tuple[tuple[str, int], types.CodeType]]:
    """The functions that differ, with those in them; ends the process where the code around them does."""
    inner = [[one for one in code.co_consts if isinstance(one, types.CodeType)] for code in (before, after)]
    same = _bare(before) == _bare(after) and len(inner[0]) == len(inner[1])
    if not same and not before.co_flags & inspect.CO_NEWLOCALS:
        os._exit(NOT_SWAPPED)
    if before.co_flags & inspect.CO_NEWLOCALS and before != after:
        yield (before.co_qualname, before.co_firstlineno), after
    if same:
        for one, other in zip(*inner, strict=True):
            yield from _changed(one, other)


def _bare(code: types.CodeType) -> tuple[object, ...]:
    consts = tuple(repr(one) for one in code.co_consts if not isinstance(one, types.CodeType))
    return code.co_code, code.co_names, code.co_varnames, consts


def _loaded_anew(mutant: Mutant, reach: dict[str, Reach], tree: Path) -> dict[str, Any]:
    if mutant.path in KERNELS:
        result = _try(mutant, _tests_of(mutant, reach["plain"], tree), reach["plain"], tree, prepare=_uncompiled_anew)
        if result["outcome"] != "survived":
            return result
    if mutant.path in {*KERNELS, VECTORS}:
        tests = _tests_of_package(mutant, reach["compiled"])
        return _try(mutant, tests, reach["compiled"], tree, prepare=_compiled_anew, more_seconds=COMPILE_SECONDS)
    return _try(mutant, _tests_of(mutant, reach["compiled"], tree), reach["compiled"], tree)


def _uncompiled_anew(_original: str) -> None:
    _uncompiled()


def _compiled_anew(_original: str) -> None:
    import numba.core.config

    numba.core.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(dir=os.environ["TMPDIR"])


def _try(
    mutant: Mutant,
    tests: list[str],
    reach: Reach,
    tree: Path,
    *,
    prepare: Callable[[str], None] | None = None,
    more_seconds: float = 0.0,
) -> dict[str, Any]:
    """`prepare` is called with the module's text as it was, in the process that then runs the tests."""
    if not tests:
        return {"outcome": "survived", "status": 0, "tests": 0}
    path = tree / mutant.path
    original, times = path.read_text(), path.stat()
    begun = time.monotonic()

    def test() -> int:
        import pytest

        os.chdir(tree)
        if prepare is not None:
            prepare(original)
        return int(pytest.main([*_arguments(), "-x", *tests]))

    try:
        path.write_text(_mutated(tree, mutant))
        allowed = 30 + 10 * sum(reach.seconds.get(test, SLOW_SECONDS) for test in tests) + more_seconds
        status = _forked(test, log=tree.parent / "last.log", seconds=allowed)
    finally:
        path.write_text(original)
        os.utime(path, (times.st_atime, times.st_mtime))
    outcome = "survived" if status == 0 else "timeout" if status < 0 else "killed"
    return {"outcome": outcome, "status": status, "tests": len(tests), "seconds": round(time.monotonic() - begun, 1)}


def _forked(deed: Callable[[], int | None], *, log: Path | None, seconds: float) -> int:
    """Run in a process of its own; its exit status, or less than 0 where it used up its time or waits for ever."""
    child = os.fork()
    if child == 0:
        # In a process group of its own, and in the session that it was started in: it keeps its low priority.
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 5))
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
    used, since = 0.0, time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        now = _cpu_seconds(child)
        if now > used + 0.02:
            used, since = now, time.monotonic()
        if time.monotonic() - since > STUCK_SECONDS:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.02)


def _cpu_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _server(work: Path) -> Iterator[None]:
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


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _load(path: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row.pop("mutant"): row for row in rows}


def _report(mutants: list[Mutant], results: dict[str, dict[str, Any]], *, survivors: bool) -> None:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        for row in (str(Path(mutant.path).parent), "all"):
            outcomes[row][results[mutant.name]["outcome"]] += 1
    print("| package | mutants | killed by a test | by time | survived | killed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in (*PACKAGES, "all"):
        found = outcomes[row]
        n = sum(found.values())
        share = (n - found["survived"]) / max(n, 1)
        print(f"| {row} | {n} | {found['killed']} | {found['timeout']} | {found['survived']} | {share:.1%} |")
    if survivors:
        for mutant in sorted(mutants, key=lambda one: (one.path, one.line)):
            if results[mutant.name]["outcome"] == "survived":
                print(f"\n{mutant.name}")


def _say(sentence: str) -> None:
    print(f"==> {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
