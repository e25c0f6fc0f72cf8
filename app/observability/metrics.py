"""What Prometheus may scrape. Labels are route templates and environments' kinds, never users' names."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

LATENCY_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a cached ranking (about a millisecond) to a robust policy at its time limit."""


class HttpMetrics:
    """The counters of one API process, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "psharelora_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "psharelora_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route", "method"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._preferences = Counter(
            "psharelora_preferences",
            "Preferences acknowledged, by what became of them.",
            ["outcome"],
            registry=self._registry,
        )
        self._of_calls: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        for outcome in ("accepted", "duplicate"):
            self._preferences.labels(outcome)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        call = (route, method, status)
        if call not in self._of_calls:
            self._of_calls[call] = (
                self._requests.labels(route, method, str(status)),
                self._latency.labels(route, method),
            )
        counter, histogram = self._of_calls[call]
        counter.inc()
        histogram.observe(seconds)

    def count_preferences(self, *, accepted: int, duplicates: int) -> None:
        self._preferences.labels("accepted").inc(accepted)
        self._preferences.labels("duplicate").inc(duplicates)

    def render(self) -> bytes:
        return generate_latest(self._registry)
