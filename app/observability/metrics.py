"""What Prometheus may scrape. Labels are route templates, phases and outcomes, never users' names.

The processes' own numbers are here; what the database knows of an environment becomes metrics in `app.api.facts`,
where a key says who may see it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric

from app.observability.tally import Counter, Distribution, Gauge, Tally

LATENCY_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a cached ranking (about a millisecond) to a robust policy at its time limit."""

GROUP_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Preferences of a transaction: from an idle service to a full group."""

PHASE_BUCKETS_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class HttpMetrics:
    """Of an API process, or, with a folder that they share, of all of a host."""

    def __init__(self, folder: Path | None = None) -> None:
        self._requests = Counter("psharelora_requests", "Requests answered.", ["route", "method", "status"])
        self._latency = Distribution(
            "psharelora_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route", "method"],
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._preferences = Counter(
            "psharelora_preferences",
            "Preferences acknowledged, by what became of them.",
            ["outcome"],
            known=[("accepted",), ("duplicate",)],
        )
        self._group = Distribution(
            "psharelora_commit_preferences",
            "Preferences that one transaction of the group commit stored.",
            buckets=GROUP_BUCKETS,
        )
        self._commit = Distribution(
            "psharelora_commit_seconds",
            "Time that such a transaction took.",
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._fold_in = Distribution(
            "psharelora_fold_in_seconds",
            "Time to estimate one user's adapter at the published subspace; its count is the fold-ins.",
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._waiting = Gauge("psharelora_waiting_preferences", "Preferences that wait to be stored.")
        self._connections = Gauge("psharelora_database_connections", "Database connections in use.")
        self._tally = Tally(
            [
                self._requests,
                self._latency,
                self._preferences,
                self._group,
                self._commit,
                self._fold_in,
                self._waiting,
                self._connections,
                Gauge("psharelora_processes", "API processes of which these are the numbers.", lambda: 1.0),
            ],
            folder,
        )
        self.content_type = self._tally.content_type

    def watch(self, *, waiting_preferences: Callable[[], float], database_connections: Callable[[], float]) -> None:
        """Where to ask for what is now."""
        self._waiting.ask, self._connections.ask = waiting_preferences, database_connections

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.add((route, method, str(status)))
        self._latency.observe(seconds, (route, method))
        self._tally.changed()

    def count_preferences(self, *, accepted: int, duplicates: int) -> None:
        self._preferences.add(("accepted",), accepted)
        self._preferences.add(("duplicate",), duplicates)
        self._tally.changed()

    def count_commit(self, preferences: int, seconds: float) -> None:
        self._group.observe(preferences)
        self._commit.observe(seconds)
        self._tally.changed()

    def count_fold_in(self, seconds: float) -> None:
        self._fold_in.observe(seconds)
        self._tally.changed()

    def render(self, *, more: Sequence[Metric] = ()) -> bytes:
        return self._tally.render(more=more)

    def described(self) -> list[Metric]:
        return self._tally.described()

    def write(self) -> None:
        """At the end of the process: what it counted last is not lost."""
        self._tally.write()


class WorkerMetrics:
    """Of one worker."""

    def __init__(self) -> None:
        self._refits = Counter(
            "psharelora_refits",
            "Attempts at refits that this worker ended, by how: succeeded, failed, cancelled, abandoned, or again "
            "(to be tried again).",
            ["outcome"],
            known=[("succeeded",), ("failed",), ("cancelled",), ("abandoned",), ("again",)],
        )
        self._phase = Distribution(
            "psharelora_refit_phase_seconds",
            "Time that refits spent loading, evaluating, fitting and publishing.",
            ["phase"],
            buckets=PHASE_BUCKETS_SECONDS,
        )
        self._stalled = Counter("psharelora_stalled_jobs", "Jobs of lost workers that this one took up.")
        self._running = 0
        self._tally = Tally(
            [
                self._refits,
                self._phase,
                self._stalled,
                Gauge("psharelora_refits_running", "Refits that this worker does now.", lambda: self._running),
            ]
        )

    def begin_refit(self) -> None:
        self._running += 1

    def end_refit(self, outcome: str, phases: Mapping[str, float]) -> None:
        """`phases`: seconds of those that came to their end."""
        self._running -= 1
        self._refits.add((outcome,))
        for phase, seconds in phases.items():
            self._phase.observe(seconds, (phase,))

    def count_stalled(self, jobs: int) -> None:
        self._stalled.add((), jobs)

    @contextmanager
    def answering(self, host: str, port: int) -> Iterator[None]:
        """Answer /metrics on a port, in a thread."""
        registry = CollectorRegistry()
        registry.register(self)
        server, thread = start_http_server(port, host, registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def collect(self) -> Sequence[Metric]:
        """What a registry of prometheus_client asks for."""
        return self._tally.families()

    def described(self) -> list[Metric]:
        return self._tally.described()
