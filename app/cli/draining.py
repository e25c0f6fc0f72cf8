"""How server processes leave without anybody noticing."""

from typing import ClassVar

from typing_extensions import override
from uvicorn.supervisors import Multiprocess

from app.cli.heads import PunctualProtocol

GRACE_SECONDS = 1.0
# How long an idle connection is kept for a request that is on its way when the process is told to end.


class DrainingProtocol(PunctualProtocol):
    """Ends an idle connection after one more request, or when none has come for a while.

    Without it an idle connection is closed at once, and a client that is just sending its next request has it refused.
    """

    _draining: ClassVar[bool] = False
    """Of the process: a connection that is made in the last moment is told nothing by the server."""

    @override
    def shutdown(self) -> None:
        DrainingProtocol._draining = True
        if self.is_idle():
            self.loop.call_later(GRACE_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    @override
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._draining:
            # The answer says `Connection: close`.
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self.is_idle() and not self.transport.is_closing():
            self.transport.close()


class Supervisor(Multiprocess):
    """The parent of several API processes, which listen on a socket that it has bound."""

    @override
    def terminate_all(self) -> None:
        # While the parent has it open, a new connection waits in it for nobody, and is lost when the parent ends.
        for one in self.sockets:
            one.close()
        super().terminate_all()
