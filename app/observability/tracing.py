"""Traces by OpenTelemetry: a request, its transactions, and the refit that it asked for, under one trace.

Off unless `configure_tracing` is called; then a span costs one look at a variable. OpenTelemetry is the extra
`psharelora[tracing]`; where spans go is said by its own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the others).
No key, text or feature is ever an attribute.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

Kind = Literal["server", "internal", "consumer"]

_tracer: Any = None
_NOTHING = nullcontext()


class TracingUnavailableError(RuntimeError):
    """Tracing was asked for, and OpenTelemetry is not installed."""


def configure_tracing(process: str, *, exporter: Any = None) -> None:
    """Trace this process under `psharelora-<process>`; without an exporter, by OTLP over HTTP.

    Raises
    ------
    TracingUnavailableError
        The message says what to install.
    """
    global _tracer  # noqa: PLW0603 - one provider a process, as OpenTelemetry itself has it
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingUnavailableError(
            "PSHARELORA_TRACING=on needs OpenTelemetry: pip install 'psharelora[tracing]'."
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"psharelora-{process}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter() if exporter is None else exporter))
    _tracer = provider.get_tracer("psharelora")
    _tracer.provider = provider


def end_tracing() -> None:
    """Send what waits to be sent, and trace no more."""
    global _tracer  # noqa: PLW0603
    if _tracer is not None:
        _tracer.provider.shutdown()
        _tracer = None


def is_tracing() -> bool:
    return _tracer is not None


def span(
    name: str, attributes: Mapping[str, str | int] | None = None, *, kind: Kind = "internal", parent: str | None = None
) -> AbstractContextManager[Any]:
    """A span around a block, below the one that is open; `parent` is a `traceparent` of another process.

    It enters as the span, or as None where nothing is traced.
    """
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract({"traceparent": parent})
    opened: AbstractContextManager[Any] = _tracer.start_as_current_span(
        name, context=context, kind=SpanKind[kind.upper()], attributes=dict(attributes or {})
    )
    return opened


def traceparent() -> str | None:
    """The open span as W3C's header, to be continued elsewhere; None where nothing is traced."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
