"""Logs, metrics and traces, the same for every process."""

from app.observability.logs import configure_logging
from app.observability.metrics import HttpMetrics, WorkerMetrics
from app.observability.tracing import (
    TracingUnavailableError,
    configure_tracing,
    end_tracing,
    is_tracing,
    span,
    traceparent,
)

__all__ = [
    "HttpMetrics",
    "TracingUnavailableError",
    "WorkerMetrics",
    "configure_logging",
    "configure_tracing",
    "end_tracing",
    "is_tracing",
    "span",
    "traceparent",
]
