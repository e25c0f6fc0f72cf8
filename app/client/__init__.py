"""The typed Python client; it speaks the public HTTP contract and imports nothing else of the project."""

from app.client.calls import content_id
from app.client.client import DEFAULT_URL, AsyncClient, Client
from app.client.errors import ApiError, ServerUnreachableError

__all__ = ["DEFAULT_URL", "ApiError", "AsyncClient", "Client", "ServerUnreachableError", "content_id"]
