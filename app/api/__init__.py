"""The HTTP interface: routers by resource, the wire format, problems, authentication, limits."""

from app.api.application import build_application
from app.api.itemlists import prepare
from app.api.lines import prepare as prepare_import
from app.api.rates import RateLimiter
from app.api.services import Services

__all__ = ["RateLimiter", "Services", "build_application", "prepare", "prepare_import"]
