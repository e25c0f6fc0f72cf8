"""The network between a service and its database: a TCP proxy that can be slow, silent, cut or forgetful."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK_BYTES = 1 << 16


class Link:
    """One connection and its other half."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.lost = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Network:
    """From a port of this machine to a Unix socket; it runs in a thread of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._links: set[Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._delay_seconds = 0.0
        self.port = 0

    # What can be wrong with it

    def slow_down(self, seconds: float) -> None:
        """Everything that is sent takes this long, either way."""
        self._delay_seconds = seconds

    def cut(self) -> None:
        """Connections are reset, and new ones as well, until it is healed."""
        self._run(self._cut())

    def stall(self) -> None:
        """Nothing arrives, and nobody is told; what was sent arrives when it is healed."""
        self._run(self._stop())

    def lose(self) -> None:
        """Connections that there are never carry anything again, and nobody is told; new ones do."""
        self._run(self._lose())

    def heal(self) -> None:
        self._delay_seconds = 0.0
        self._refuses = False
        self._run(self._go_on())

    # How it works

    @contextmanager
    def connecting(self) -> Iterator["Network"]:
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            self.heal()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def _run(self, deed: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(deed, self._loop).result(10)

    async def _cut(self) -> None:
        self._refuses = True
        for link in list(self._links):
            link.abort()

    async def _stop(self) -> None:
        self._flows.clear()

    async def _go_on(self) -> None:
        self._flows.set()

    async def _lose(self) -> None:
        for link in self._links:
            link.lost = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, far_writer)
        self._links.add(link)
        await asyncio.gather(self._carry(link, reader, far_writer), self._carry(link, far_reader, writer))
        self._links.discard(link)

    async def _carry(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                if not link.lost:
                    writer.write(data)
                    await writer.drain()
        # One half that ends is the end of both; a lost connection says nothing to the far side.
        await self._flows.wait()
        for one in link.writers:
            one.close()
