"""How the server answers: a page, a piece of one for htmx, or the same facts as JSON, from one call.

JSON is given where the address ends in ?format=json or the client accepts JSON rather than HTML. Errors have the same
three forms, and say what was given, what was expected and what to do.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from tastemaker.errors import DataError, InvalidArgument, TastemakerError, UnknownId, UnknownName
from tastemaker.serve.events import Conflict, StoreDown

HERE = Path(__file__).parent


class Refused(TastemakerError):
    """A request that is refused whatever it says, with the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Who(Protocol):
    """Whose page it is."""

    @property
    def person(self) -> str: ...
    @property
    def token(self) -> str: ...


def wants_json(request: Request) -> bool:
    """Whether the client asked for JSON."""
    if asked := request.query_params.get("format"):
        return asked == "json"
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def answer(
    request: Request,
    template: str,
    facts: Mapping[str, Any],
    *,
    who: Who | None = None,
    view: Mapping[str, Any] | None = None,
    status: int = 200,
) -> Response:
    """Facts as JSON, or in a template, which may also see `view`. Templates that begin with _ are pieces of pages."""
    headers = {"Vary": "Accept, HX-Request, Cookie", "Cache-Control": "no-store"}
    if wants_json(request):
        body = json.dumps(facts, default=plain, ensure_ascii=False, allow_nan=False)
        return Response(body, status, headers, "application/json")
    text = templates().get_template(template).render({**facts, **(view or {}), "who": who, "path": request.url.path})
    return HTMLResponse(text, status, headers)


def refusal(request: Request, error: Exception) -> Response:
    """An error as a page or as JSON."""
    status = status_of(error)
    message = str(error)
    if isinstance(error, StoreDown):  # where the store is, and what it said, is the owner's to know
        logging.getLogger("tastemaker.serve").error("%s %s: %s", request.method, request.url.path, error)
        message = (
            "the gallery cannot reach its store, or cannot write to it; nothing was stored: send it again in a moment"
        )
    facts = {"status": status, "problem": HTTPStatus(status).phrase, "message": message}
    headers = {"Retry-After": "5"} if status in (429, 503) else {}
    if wants_json(request):
        return JSONResponse(facts, status, headers)
    template = "_error.html" if request.headers.get("hx-request") else "error.html"
    text = templates().get_template(template).render({**facts, "who": None, "path": request.url.path})
    return HTMLResponse(text, status, headers)


def status_of(error: Exception) -> int:
    """The HTTP status of an error of this library."""
    if isinstance(error, Refused):
        return error.status
    kinds: list[tuple[type[Exception] | tuple[type[Exception], ...], int]] = [
        ((UnknownId, UnknownName), 404), (Conflict, 409), (StoreDown, 503), ((InvalidArgument, DataError), 422),
    ]  # fmt: skip
    return next((status for kind, status in kinds if isinstance(error, kind)), 400)


def plain(value: Any) -> Any:
    """What JSON lacks, as plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


@cache
def templates() -> Environment:
    """The pages' templates; a name they use and nobody gave is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["ago"] = ago
    made.filters["short"] = lambda value: f"{value:.3g}"
    return made


def ago(time: int) -> str:
    """How long ago a time in microseconds since 1970 is, in words."""
    seconds = max(0.0, dt.datetime.now(dt.UTC).timestamp() - time / 1e6)
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'s' if n > 1 else ''} ago"
    return "just now"
