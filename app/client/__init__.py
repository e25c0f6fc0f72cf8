"""The typed Python client; it speaks the public HTTP contract and imports nothing else of the project."""

from app.client.client import Client
from app.client.errors import ApiError, ServerUnreachableError

__all__ = ["ApiError", "Client", "ServerUnreachableError"]
