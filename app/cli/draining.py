"""How a server process leaves without anybody noticing."""

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

GRACE_SECONDS = 1.0
# How long an idle connection is kept for a request that is on its way when the process is told to end.


class DrainingProtocol(HttpToolsProtocol):
    """Ends an idle connection after one more request, or when none has come for a while.

    Without it an idle connection is closed at once, and a client that is just sending its next request has it refused.
    """

    _draining = False

    @override
    def shutdown(self) -> None:
        if self._is_idle():
            self._draining = True
            self.loop.call_later(GRACE_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    @override
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._draining:
            # The answer says `Connection: close`.
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()
