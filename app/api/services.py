"""What the routers work with; made by app.main, one of each a process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from app.api.conversion import EncoderFor
from app.api.rates import RateLimiter
from app.observability import HttpMetrics
from app.serving import ServingRuntime
from app.store import Current, Database, Recorder


@dataclass(frozen=True, slots=True)
class Services:
    db: Database
    current: Current
    recorder: Recorder
    """Stores preferences."""
    runtime: ServingRuntime
    encoder_for: EncoderFor
    probe_dim: Callable[[str, str], Awaitable[int]]
    """How wide the embeddings of (url, model) are."""
    metrics: HttpMetrics
    admin_key: str | None
    """The bootstrap key from the settings."""
    rates: RateLimiter
    max_items: int
    """Of one catalogue."""
    open_to_all: bool
    """Everybody is an administrator; only ever on a loopback address."""


def services_of(request: Request) -> Services:
    return cast("Services", request.app.state.services)


UsedServices = Annotated[Services, Depends(services_of)]
