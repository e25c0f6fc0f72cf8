"""The HTTP interface: routers by resource, the wire format, problems, authentication, limits."""

from app.api.application import build_application
from app.api.preparation import prepare
from app.api.rates import RateLimiter
from app.api.services import Services

__all__ = ["RateLimiter", "Services", "build_application", "prepare"]
