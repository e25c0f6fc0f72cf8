"""Counts that cost next to nothing to keep, and that any process of a host can tell for all of them.

A process counts in plain numbers of its own. With a folder it also writes them to a file there, a moment after they
changed; whoever is asked adds up the files. What a process that is gone had counted is moved to one file that stays,
so that sums never fall and files never pile up; its gauges go with it. A process that is killed takes the counts of its
last `WRITE_SECONDS` along.
"""

import asyncio
import fcntl
import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

WRITE_SECONDS = 0.1
"""How long after a count the file has it."""

GONE = "gone.json"
"""What processes counted that have ended."""

Labels = tuple[str, ...]
Rows = dict[Labels, list[float]]
Counted = dict[str, Rows]
"""By metric and labels: what a process knows."""


class Counter:
    """A number that only grows, by labels."""

    def __init__(self, name: str, told: str, labels: Sequence[str] = (), *, known: Sequence[Labels] = ()) -> None:
        self.name, self.told, self.labels = name, told, tuple(labels)
        self.rows: Rows = {key: [0.0] for key in known}
        """`known` labels are told from the beginning, as 0."""

    def add(self, key: Labels = (), amount: float = 1.0) -> None:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = [0.0]
        row[0] += amount

    def family(self, rows: Rows) -> Metric:
        family = CounterMetricFamily(self.name, self.told, labels=self.labels)
        for key, row in rows.items():
            family.add_metric(key, row[0])
        return family


class Distribution:
    """How many values lay in which bucket, and their sum, by labels."""

    def __init__(self, name: str, told: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> None:
        self.name, self.told, self.labels, self.buckets = name, told, tuple(labels), tuple(buckets)
        self.edges = (*(str(float(bucket)) for bucket in buckets), "+Inf")
        self.rows: Rows = {} if labels else {(): self._nothing()}

    def observe(self, value: float, key: Labels = ()) -> None:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = self._nothing()
        row[bisect_left(self.buckets, value)] += 1.0
        row[-1] += value

    def family(self, rows: Rows) -> Metric:
        family = HistogramMetricFamily(self.name, self.told, labels=self.labels)
        for key, row in rows.items():
            total, buckets = 0.0, []
            for edge, count in zip(self.edges, row, strict=False):
                total += count
                buckets.append((edge, total))
            family.add_metric(key, buckets, sum_value=row[-1])
        return family

    def _nothing(self) -> list[float]:
        return [0.0] * (len(self.buckets) + 2)


class Gauge:
    """A number of now, asked for when somebody wants to know; the processes' are added up."""

    def __init__(self, name: str, told: str, ask: Callable[[], float] = lambda: 0.0) -> None:
        self.name, self.told, self.ask = name, told, ask
        self.labels: Labels = ()

    @property
    def rows(self) -> Rows:
        return {(): [self.ask()]}

    def family(self, rows: Rows) -> Metric:
        return GaugeMetricFamily(self.name, self.told, value=rows.get((), [0.0])[0])


class Tally:
    """The metrics of a process, used in one event loop; with a folder, of all processes that share it."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, metrics: Sequence[Counter | Distribution | Gauge], folder: Path | None = None) -> None:
        self._metrics = tuple(metrics)
        self._folder = folder
        self._written = True
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._bury(folder, also=os.getpid())

    def changed(self) -> None:
        """Something was counted: a moment later the file has it."""
        if self._written and self._folder is not None:
            self._written = False
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)

    def write(self) -> None:
        self._written = True
        if self._folder is not None:
            with suppress(OSError):
                # A full disk, or a folder that somebody tidied away: counting goes on, and the next write may do.
                _write(self._folder / f"{os.getpid()}.json", self._own())

    def render(self, *, more: Sequence[Metric] = ()) -> bytes:
        """Prometheus' text: of all processes, with `more` at the end."""
        registry = CollectorRegistry()
        registry.register(_Families([*self.families(), *more]))
        return generate_latest(registry)

    def families(self) -> list[Metric]:
        counted = self._everybodys()
        return [one.family(counted.get(one.name, {})) for one in self._metrics]

    def described(self) -> list[Metric]:
        """Names, kinds and words."""
        return [one.family({}) for one in self._metrics]

    def _own(self) -> Counted:
        return {one.name: dict(one.rows) for one in self._metrics}

    def _everybodys(self) -> Counted:
        if self._folder is None:
            return self._own()
        self.write()
        try:
            with self._locked():
                self._bury(self._folder)
                return _sum(_read(path) for path in sorted(self._folder.glob("*.json")))
        except OSError:
            return self._own()

    def _bury(self, folder: Path, *, also: int | None = None) -> None:
        """Move what processes counted that are gone; `also` is this one before it began, of the same number."""
        lasting = {one.name for one in self._metrics if not isinstance(one, Gauge)}
        for path in folder.glob("[0-9]*.json"):
            process = int(path.stem)
            if process == also or not _lives(process):
                left = {name: rows for name, rows in _read(path).items() if name in lasting}
                _write(folder / GONE, _sum([_read(folder / GONE), left]))
                path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        assert self._folder is not None
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _Families:
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _sum(parts: Iterator[Counted] | Sequence[Counted]) -> Counted:
    total: Counted = {}
    for part in parts:
        for name, rows in part.items():
            into = total.setdefault(name, {})
            for key, row in rows.items():
                known = into.get(key, [0.0] * len(row))
                into[key] = [a + b for a, b in zip(known, row, strict=True)]
    return total


def _read(path: Path) -> Counted:
    if not path.exists():
        return {}
    written: Mapping[str, list[tuple[list[str], list[float]]]] = json.loads(path.read_text())
    return {name: {tuple(key): row for key, row in rows} for name, rows in written.items()}


def _write(path: Path, counted: Counted) -> None:
    """Whole or not at all."""
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps({name: list(rows.items()) for name, rows in counted.items()}))
    aside.replace(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
