"""The second process of `bench.serving`: asks a server at a fixed rate, whether answers come or not.

Latency counts from the moment a request was due, not from when it could be sent, so that a server that falls behind
pays for every request that had to wait (no coordinated omission). Connections are kept alive; there are as many as it
takes, up to `CONNECTIONS`, and then requests wait.

Reads from stdin JSON: {"port", "seconds", "warm", "loads": {name: {"rate", "requests": [text, ...]}}}; each load goes
round its requests. Writes to stdout JSON: {name: {"ms": [...], "statuses": {status: n}, "bodies": a few}}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from typing import Any

CONNECTIONS = 256  # a load


class Line(asyncio.Protocol):
    """One connection, one request at a time, in as much HTTP/1.1 as the server speaks: Content-Length, keep-alive."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.due = 0.0
        self._got, self._whole = bytearray(), -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._whole < 0:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._got[:end]).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r")[0]
            self._whole = end + 4 + int(length or 0)
        if len(self._got) >= self._whole:
            status, self._whole = int(self._got[9:12]), -1
            body = bytes(self._got)
            self._got.clear()
            self.load.answered(self, status, body)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.load.busy:
            self.load.answered(self, 0, b"", lost=True)
        elif self in self.load.free:
            self.load.free.remove(self)


class Load:
    """Requests that are due one after the other at a fixed rate."""

    def __init__(self, port: int, rate: float, requests: list[bytes], seconds: float, warm: float) -> None:
        self.port, self.rate, self.requests = port, rate, requests
        self.seconds, self.warm = seconds, warm
        self.free: list[Line] = []
        self.busy: set[Line] = set()
        self.opening = 0
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.bad: list[str] = []
        self.last = 0.0
        self.began = 0.0

    async def run(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        self.began = began = time.perf_counter()
        total = int((self.warm + self.seconds) * self.rate)
        for number in range(total):
            due = began + number / self.rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 50 == 0:
                await asyncio.sleep(0)
            self.waiting.append((self.requests[number % len(self.requests)], due))
            self.send(loop)
        until = time.perf_counter() + 30
        while (self.busy or self.waiting) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        return {
            "ms": [round(1e3 * one, 3) for one in self.latencies],
            "statuses": dict(self.statuses),
            "bad": self.bad,
            "unanswered": len(self.busy) + len(self.waiting),
            "rate": len(self.latencies) / max(1e-9, self.last - began - self.warm),
        }

    def send(self, loop: asyncio.AbstractEventLoop) -> None:
        while self.waiting and self.free:
            line = self.free.pop()
            self.busy.add(line)
            line.ask(*self.waiting.popleft())
        if len(self.waiting) > self.opening and len(self.busy) + self.opening < CONNECTIONS:
            self.opening += 1
            loop.create_task(self.open())

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(lambda: Line(self), "127.0.0.1", self.port)
            self.free.append(line)
        finally:
            self.opening -= 1
        self.send(loop)

    def answered(self, line: Line, status: int, body: bytes, lost: bool = False) -> None:
        now = time.perf_counter()
        self.busy.discard(line)
        if not lost:
            self.free.append(line)
        if line.due - self.began >= self.warm:
            self.latencies.append(now - line.due)
            self.last = now
        self.statuses[status] += 1
        if not 200 <= status < 300 and len(self.bad) < 3:
            self.bad.append(body[-300:].decode(errors="replace"))
        self.send(asyncio.get_running_loop())


async def drive(told: dict[str, Any]) -> dict[str, Any]:
    loads = {
        name: Load(
            told["port"], one["rate"], [text.encode() for text in one["requests"]], told["seconds"], told["warm"]
        )
        for name, one in told["loads"].items()
    }
    found = await asyncio.gather(*(load.run() for load in loads.values()))
    return dict(zip(loads, found, strict=True))


if __name__ == "__main__":
    json.dump(asyncio.run(drive(json.load(sys.stdin))), sys.stdout)
