"""psharelora: every user's own reward function, learnt from pairwise preferences.

`Client` and `AsyncClient` talk to a running service; `psharelora.learning` and `psharelora.policy` are the method
itself, for a notebook without a server; `psharelora.trl` and `psharelora.verl` are reward functions for training.
"""

from app.client import ApiError, AsyncClient, Client, ServerUnreachableError

__all__ = ["ApiError", "AsyncClient", "Client", "ServerUnreachableError"]
