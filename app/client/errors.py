"""What can go wrong between a client and the service."""

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """The service refused a request; `problem` is its RFC 9457 document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail", "no detail was given"))
        self.pointer: str | None = problem.get("pointer")
        where = f" at {self.pointer}" if self.pointer else ""
        super().__init__(f"{status} {self.code}{where}: {self.detail}")


class ServerUnreachableError(Exception):
    """No answer came from the service's address."""
