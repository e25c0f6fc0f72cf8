"""The HTTP interface: routers by resource, the wire format, problems, authentication, limits."""

from app.api.application import build_application
from app.api.services import Services

__all__ = ["Services", "build_application"]
