"""A load of HTTP requests from a process of its own: raw bytes over keep-alive connections.

Other benchmarks call `loaded`, which starts this file with a job on its standard input. Requests are whole HTTP
requests as bytes, sent in turn. Without a rate the next one is sent when the last answer has come (throughput); with a
rate, in requests a second, they are sent when they are due, and latency counts from then on, so that a server that
stands still is not spared.
"""

import asyncio
import json
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import uvloop

WARM_UP_SECONDS = 0.7


def loaded(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    rate: float | None = None,
    core: int | None = None,
) -> dict[str, Any]:
    """What a load found, from a process of its own; on one core of the machine if so asked."""
    job = {"port": port, "requests": requests, "connections": connections, "seconds": seconds, "rate": rate}
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    done = subprocess.run(
        [*pinned, sys.executable, __file__], input=pickle.dumps(job), stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = bytearray()
        self._expected = 0
        self.begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.idle(self)

    def send(self, request: bytes, begun: float) -> None:
        self.begun = begun
        self._transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            at = self._received.lower().find(b"content-length:", 0, head)
            self._expected = head + 4 + int(self._received[at + 15 : self._received.find(b"\r\n", at)])
        if len(self._received) < self._expected:
            return
        good = self._received[9:10] == b"2"
        self._received.clear()
        self._expected = 0
        self._load.answered(self, good=good)

    def connection_lost(self, _: Exception | None) -> None:
        self._load.failures += int(self._load.open)


class Load:
    def __init__(self, job: dict[str, Any]) -> None:
        self._requests = job["requests"]
        self._rate = job["rate"]
        self._next = 0
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()
        self.latencies: list[float] = []
        self.failures = 0
        self.open = False
        self._counting_from = 0.0

    def idle(self, connection: Connection) -> None:
        if self._rate is None:
            self._send(connection, time.perf_counter())
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)

    def answered(self, connection: Connection, *, good: bool) -> None:
        if not self.open:
            return
        self.failures += not good
        if connection.begun >= self._counting_from:
            self.latencies.append(time.perf_counter() - connection.begun)
        self.idle(connection)

    def _send(self, connection: Connection, begun: float) -> None:
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        connection.send(request, begun)

    async def run(self, port: int, connections: int, seconds: float) -> dict[str, Any]:
        self.open = True
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        self._counting_from = begun + WARM_UP_SECONDS
        self._used = time.process_time()
        made = [await loop.create_connection(lambda: Connection(self), "127.0.0.1", port) for _ in range(connections)]
        end = begun + WARM_UP_SECONDS + seconds
        if self._rate is None:
            await asyncio.sleep(end - time.perf_counter())
        else:
            await self._keep_rate(end)
        self.open = False
        taken = time.perf_counter() - self._counting_from
        for transport, _ in made:
            transport.abort()
        return self._report(taken)

    async def _keep_rate(self, end: float) -> None:
        begun, sent = time.perf_counter(), 0
        while (now := time.perf_counter()) < end:
            while begun + sent / self._rate <= now:
                due = begun + sent / self._rate
                sent += 1
                if self._idle:
                    self._send(self._idle.popleft(), due)
                else:
                    self._due.append(due)
            await asyncio.sleep(max(0.0, begun + sent / self._rate - time.perf_counter()))

    def _report(self, taken: float) -> dict[str, Any]:
        found = sorted(self.latencies)
        if not found:
            raise SystemExit("nothing was answered")
        return {
            "requests_per_second": round(len(found) / taken, 1),
            "p50_ms": round(1e3 * found[len(found) // 2], 3),
            "p99_ms": round(1e3 * found[min(len(found) - 1, int(0.99 * len(found)))], 3),
            "answers": len(found),
            "sent": self._next,
            "failures": self.failures,
            "load_cpu_share": round((time.process_time() - self._used) / (taken + WARM_UP_SECONDS), 2),
        }


def main() -> None:
    job = pickle.load(sys.stdin.buffer)
    load = Load(job)
    print(json.dumps(uvloop.run(load.run(job["port"], job["connections"], job["seconds"]))))


if __name__ == "__main__":
    main()
