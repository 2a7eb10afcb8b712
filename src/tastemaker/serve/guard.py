"""What stands before every page: which hosts are answered, how often, how much is taken, and what browsers are told.

- The Host header must name this machine or a name the gallery was given, or a page of another name could be made to
  speak to a gallery on this machine (DNS rebinding).
- A body larger than an upload may be is refused by its stated length, and cut off where it states none.
- When public, requests of one address are counted: a bucket that holds a minute's worth and fills steadily.
- Scripts and styles come from here alone, and no other site may frame a page.
- Whatever changes something is written to the audit log: when, who asked, what, how it ended. Never what was in it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tastemaker.serve.answers import Refused, refusal
from tastemaker.serve.settings import LOCAL, Settings

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_TOLD = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_ROOM = 65_536  # bytes of a body beside an upload
_ADDRESSES = 10_000  # remembered by a bucket


class Buckets:
    """For each address a bucket of `rate` requests that fills in a minute."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._gate = threading.Lock()

    def take(self, address: str) -> bool:
        """Whether one more may come."""
        with self._gate:
            now = self._clock()
            left, since = self._left.pop(address, (float(self._rate), now))
            left = min(self._rate, left + (now - since) * self._rate / 60)
            self._left[address] = (left - 1 if left >= 1 else left, now)
            while len(self._left) > _ADDRESSES:
                self._left.popitem(last=False)
            return left >= 1


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._names = {*LOCAL, *(name.lower() for name in settings.names)}
        self._reads, self._writes = Buckets(settings.reads), Buckets(settings.writes)
        self._log = settings.home / "audit.jsonl"
        told = _TOLD | ({"Strict-Transport-Security": "max-age=31536000"} if settings.public else {})
        self._told = [(name.lower().encode(), value.encode()) for name, value in told.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                given = {name.lower() for name, _ in headers}
                headers += [one for one in self._told if one[0] not in given]
                message = {**message, "headers": headers}
            await send(message)

        request = Request(scope)
        try:
            self._check(request)
            await self.app(scope, self._limited(receive), told)
        except Refused as error:
            await refusal(request, error)(scope, receive, told)
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            self._write_down(request, status)

    def _check(self, request: Request) -> None:
        headers: Headers = request.headers
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._names and "*" not in self._names:
            hint = "open it under one of these, or start it with --name"
            raise Refused(
                421, f"this gallery is not called '{host[:80]}'; it answers to {', '.join(sorted(self._names))}: {hint}"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.upload_bytes + _ROOM:
            most = self.settings.upload_bytes
            raise Refused(413, f"a body of {length[:20]} bytes; at most {most:,} are taken: send a smaller picture")
        if self.settings.public and not request.url.path.startswith("/static/"):
            bucket = self._reads if request.method in ("GET", "HEAD") else self._writes
            if not bucket.take(request.client.host if request.client else "?"):
                raise Refused(429, "too many requests from your address within a minute; wait a few seconds")

    def _limited(self, receive: Receive) -> Receive:
        """Bodies without a stated length count too."""
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.settings.upload_bytes + _ROOM:
                raise Refused(413, f"a body of more than {self.settings.upload_bytes:,} bytes; send a smaller picture")
            return message

        return limited

    def _write_down(self, request: Request, status: int) -> None:
        line = {
            "time": int(time.time()), "address": request.client.host if request.client else None,
            "person": getattr(request.state, "person", None), "method": request.method,
            "path": request.url.path[:200], "status": status,
        }  # fmt: skip
        _append(self._log, json.dumps(line) + "\n")


def _append(path: Path, line: str) -> None:
    """One write of one line, so that two servers' lines do not mix; a full disk costs lines, not answers."""
    try:
        with path.open("ab", buffering=0) as file:
            file.write(line.encode())
    except OSError:
        return
