"""How the parent of several API processes watches them."""

import time
from typing import Any

from typing_extensions import override
from uvicorn.supervisors import multiprocess


class WatchedProcess(multiprocess.Process):
    """Asked whether it lives without being waited for.

    uvicorn waits for the answer of one process before it looks at the next. One that is just starting answers after
    seconds, and one that is killed while it is asked never; meanwhile nobody would notice that the others died, and
    clients would wait at a port that nobody listens to.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._asked_at: float | None = None

    @override
    def is_alive(self, timeout: float = 5) -> bool:
        if not self.process.is_alive():
            return False
        now = time.monotonic()
        try:
            if self._asked_at is None:
                self.parent_conn.send(b"ping")
                self._asked_at = now
            if self.parent_conn.poll():
                self.parent_conn.recv()
                self._asked_at = None
                return True
        except (OSError, EOFError):
            return False
        return now - self._asked_at < timeout


def watch_processes() -> None:
    """Let uvicorn's supervisor make processes of this kind, which it has no argument for."""
    setattr(multiprocess, "Process", WatchedProcess)  # noqa: B010 - a module's class cannot be assigned to for mypy
