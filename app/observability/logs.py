"""Logs are events with stable names and fields, bound once (request id, environment, refit) and inherited.

No key, text or feature is ever a field. Exceptions are told by their types and where they were raised: their messages
may quote what somebody sent, or a row of the database.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger


def configure_logging(level: Literal["debug", "info", "warning", "error"], form: Literal["json", "console"]) -> None:
    """Send structlog's events, and what libraries log, to standard error in one form."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _without_colours],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(form)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    # Every request is logged once, by us; httpx would add a line a call to an embeddings endpoint, Alembic two a look.
    for noisy in ("uvicorn.access", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


def _without_colours(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Uvicorn's messages come a second time, with terminal colours."""
    event.pop("color_message", None)
    return event


def _rendering(form: Literal["json", "console"]) -> list[Processor]:
    if form == "json":
        return [structlog.processors.ExceptionRenderer(_without_messages), structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_print_without_messages, pad_event_to=20
        )
    ]


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _print_without_messages(stream: TextIO, exc_info: _ExcInfo) -> None:
    stream.write("\n" + _without_messages(exc_info))


def _without_messages(exc_info: _ExcInfo) -> str:
    """A traceback as Python prints it, without what the exceptions say; of the database's, their code."""
    return "\n".join(_told(exc_info[1], set()))


def _told(error: BaseException, seen: set[int]) -> list[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [*_told(before, seen), "", "which led to:", ""] if before is not None and id(before) not in seen else []
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    code = getattr(error, "sqlstate", None)
    what = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    lines += ["Traceback (most recent call last):", frames, what if code is None else f"{what} ({code})"]
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            lines += ["", "of which:", "", *_told(one, seen)]
    return lines
