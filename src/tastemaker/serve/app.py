"""The gallery as an ASGI application: pages for people, the same addresses as JSON for programs.

Everything runs from this package: no file comes from elsewhere. Endpoints are plain functions in a pool of threads, for
the store's calls wait for the disk. What a request says wrong is answered with 4xx and a message; 503 means that the
store cannot be reached and nothing was acknowledged.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tastemaker.errors import MissingExtra, TastemakerError

try:
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from pydantic import BaseModel
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import RedirectResponse, Response
    from starlette.staticfiles import StaticFiles
except ModuleNotFoundError as error:
    raise MissingExtra(error.name or "fastapi", "serve") from error

import tastemaker
from tastemaker.serve.answers import HERE, Refused, refusal
from tastemaker.serve.chooser import Chooser
from tastemaker.serve.gallery import Gallery, import_folder
from tastemaker.serve.guard import Guard
from tastemaker.serve.jobs import Jobs
from tastemaker.serve.kept import Kept
from tastemaker.serve.learn import Learner, Plan
from tastemaker.serve.pages import audit, explore, make, model, people, picture, taste, vote
from tastemaker.serve.settings import Settings
from tastemaker.serve.signing import Signer
from tastemaker.serve.store import Store
from tastemaker.serve.trust import Watch
from tastemaker.serve.visit import Site

ABOUT = """Every page has a JSON twin: ask with `Accept: application/json` or `?format=json`. Every POST needs the
session's cookie and its token, which `GET /session` tells, in the header `X-CSRF-Token` or the field `csrf`. A header
`Idempotency-Key` makes sending again safe."""


class Problem(BaseModel):
    """What went wrong, in words that say what was given, what was expected and what to do."""

    status: int
    problem: str
    message: str


def create_app(settings: Settings) -> FastAPI:
    """A gallery, its folders read into the store, ready to serve. The store closes when the server ends.

    Raises:
        DataError: a folder or store that cannot be read.
        UnknownName: a model that is not there.
        StoreDown: a database that cannot be reached.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    store = Store(settings.where)
    try:
        for folder in settings.galleries:
            import_folder(store, Path(folder))
        store.meet()
        gallery = Gallery(store, settings)
        learner = Learner(store, settings.versions, Plan(trust=Watch() if settings.trust else None))
        chooser = Chooser(settings, store, gallery, learner)
        signer, accounts = Signer.of(settings.home / "secret"), Kept(partial(audit.accounts, store, gallery))
        site = Site(settings, store, Jobs(store), learner, gallery, chooser, signer, accounts)
    except BaseException:
        store.close()
        raise

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        gc.collect()
        gc.freeze()  # the catalogue stays: looking through all of it for garbage would stop every request
        yield
        gc.unfreeze()
        learner.close()
        store.close()

    problems: dict[int | str, dict[str, Any]] = {
        number: {"model": Problem, "description": HTTPStatus(number).phrase}
        for number in (400, 403, 404, 409, 413, 421, 422, 429, 503)
    }
    app = FastAPI(
        title="tastemaker", version=tastemaker.__version__, description=ABOUT, lifespan=life, responses=problems,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.site = site
    for part in (explore, taste, vote, make, picture, model, people, audit):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_api_route("/", _front, include_in_schema=False)
    app.add_exception_handler(TastemakerError, _known)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(HTTPException, _unknown_address)
    app.add_exception_handler(Exception, _ours)
    app.add_middleware(Guard, settings=settings)
    return app


def _front() -> Response:
    return RedirectResponse("/explore", 303)


def _known(request: Request, error: Exception) -> Response:
    return refusal(request, error)


def _unfit(request: Request, error: Exception) -> Response:
    """A field that is missing or of another kind."""
    assert isinstance(error, RequestValidationError)
    said = []
    for one in error.errors()[:5]:
        if one["type"] == "json_invalid":
            said.append(f"the body is not JSON: {one['ctx']['error']} at character {one['loc'][-1]}")
            continue
        place = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
        given = "nothing" if one["type"] == "missing" else repr(one.get("input"))[:80]
        said.append(f"{place}: given {given}, expected: {one['msg'].removeprefix('Input should be ')}")
    return refusal(request, Refused(422, f"{'; '.join(said)}. Correct it and send it again"))


def _unknown_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {
        400: f"the form cannot be read ({error.detail}); send multipart/form-data or application/x-www-form-urlencoded",
        404: f"there is no page {request.url.path[:80]}; begin at /explore",
        405: f"{request.method} is not for {request.url.path[:80]}; /openapi.json lists what is",
    }
    answer = refusal(request, Refused(error.status_code, said.get(error.status_code, str(error.detail))))
    answer.headers.update(error.headers or {})
    return answer


def _ours(request: Request, error: Exception) -> Response:
    """A fault of this program: written to the log, told without details."""
    logging.getLogger("tastemaker.serve").error("%s %s", request.method, request.url.path, exc_info=error)
    return refusal(request, Refused(500, "this is a fault of the gallery, not yours; what you had said before is safe"))
