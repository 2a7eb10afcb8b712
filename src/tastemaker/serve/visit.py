"""Who asks, from which session, of which gallery: what every page needs, and how it answers.

The session is a signed cookie that holds a person's id and a random number. It is made at the first page; a person is
stored then too, for what they are shown is logged. Every POST carries a token that belongs to the session, in the field
`csrf` or the header X-CSRF-Token: another site can make a browser send the cookie, but cannot read the token.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.serve.answers import Refused, answer, wants_json
from tastemaker.serve.chooser import Chooser
from tastemaker.serve.events import Conflict, Joined
from tastemaker.serve.gallery import Gallery
from tastemaker.serve.jobs import Jobs
from tastemaker.serve.kept import Kept
from tastemaker.serve.learn import Learner
from tastemaker.serve.settings import Settings
from tastemaker.serve.signing import Signer
from tastemaker.serve.store import Store

COOKIE = "tastemaker"


@dataclass(frozen=True, eq=False)
class Site:
    """A gallery being served."""

    settings: Settings
    store: Store
    jobs: Jobs
    learner: Learner
    gallery: Gallery
    chooser: Chooser
    signer: Signer
    accounts: Kept[Any]  # what the page Audit tells
    boards: dict[str, Kept[Any]] = field(default_factory=dict)  # leaderboards of tags
    tables: dict[str, Any] = field(default_factory=dict)  # leaderboards as HTML
    own: threading.local = field(default_factory=threading.local)
    count: itertools.count[int] = field(default_factory=itertools.count)

    def rng(self) -> np.random.Generator:
        """A generator of this thread's own, for they are not to be shared; with a seed, of this request's own."""
        if (seed := self.settings.seed) is not None:
            return np.random.default_rng([seed, next(self.count)])
        if not hasattr(self.own, "rng"):
            self.own.rng = np.random.default_rng()
        found: np.random.Generator = self.own.rng
        return found

    def join(self, person: str) -> str:
        """Store a person who is not there yet."""
        try:
            self.store.user(person)  # who comes back after a restart costs no write
        except UnknownId:
            self.store.add(Joined(person))
        return person

    def due(self, seq: int) -> bool:
        """Whether it may be time to fit anew, at the event `seq`: fifty are not many after a million.

        Counted from the newest fit: after a roll-back the one in force would be older with every event.
        """
        after, version = self.settings.refit_after, self.learner.newest
        return after > 0 and seq - version.seq >= max(after, version.words // 10)

    def learned(self) -> None:
        """Fit anew in the background where enough was said since."""
        after = self.settings.refit_after
        if after and self.learner.crowded():  # a flood: look at it before more of it counts
            self.learner.refit_in_background()
        elif after and self.due(self.store.seq()):
            counts = self.store.counts()
            if counts["feedback"] + counts["votes"] >= after // 2:
                self.learner.refit_in_background()


@dataclass(frozen=True, eq=False)
class Visit:
    """A request of a person."""

    request: Request
    site: Site
    person: str
    number: str  # of the session
    fresh: bool  # the cookie is to be set

    @property
    def token(self) -> str:
        return self.site.signer.tag("csrf", self.number)

    @property
    def public(self) -> bool:
        return self.site.settings.public

    @property
    def htmx(self) -> bool:
        """Whether a piece of a page is asked for."""
        return "hx-request" in self.request.headers

    def page(
        self, template: str, facts: Mapping[str, Any], *, view: Mapping[str, Any] | None = None, status: int = 200
    ) -> Response:
        """The facts as a page or as JSON; `view` is for the page alone."""
        return self.remembered(answer(self.request, template, facts, who=self, view=view, status=status))

    def go(self, where: str, facts: Mapping[str, Any]) -> Response:
        """After a POST: on to a page, or the facts as JSON."""
        if wants_json(self.request):
            return self.remembered(JSONResponse(dict(facts)))
        if self.htmx:
            return self.remembered(Response(status_code=204, headers={"HX-Redirect": where}))
        return self.remembered(RedirectResponse(where, 303))

    def remembered(self, response: Response) -> Response:
        """The response with the session's cookie where it is new."""
        if self.fresh:
            value = self.site.signer.seal("session", [self.person, self.number])
            response.set_cookie(
                COOKIE, value, max_age=365 * 86400, httponly=True, samesite="lax", secure=self.public, path="/"
            )
        return response

    def as_person(self, person: str) -> Visit:
        """The same request, its session now another person's."""
        return Visit(self.request, self.site, person, secrets.token_hex(8), fresh=True)


async def visit(request: Request) -> Visit:
    """Dependency: the visit, its session made where there is none, its token checked where something is changed."""
    site: Site = request.app.state.site
    found = _session(request, site)
    if request.method not in ("GET", "HEAD"):
        if found is None:
            raise Refused(403, "no session; open a page first (GET /session gives a token), then send its cookie along")
        form = await request.form()
        given = request.headers.get("x-csrf-token") or form.get("csrf")
        if not isinstance(given, str) or not secrets.compare_digest(
            given.encode(), site.signer.tag("csrf", found[1]).encode()
        ):
            raise Refused(403, "the token of this form is missing or of another session; load the page again")
        if (origin := request.headers.get("origin")) and urlsplit(origin).netloc != request.headers.get("host"):
            raise Refused(403, f"a request from {origin[:80]}; only this gallery's own pages may change something")
    person, number = found or (f"guest-{secrets.token_hex(3)}", secrets.token_hex(8))
    if not site.store.knows(person):
        with contextlib.suppress(Conflict):  # stored meanwhile by another rule, such as an import
            await run_in_threadpool(site.join, person)
    request.state.person = person
    return Visit(request, site, person, number, fresh=found is None)


def _place(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


Here = Annotated[Visit, Depends(visit)]
There = Annotated[Site, Depends(_place)]  # for files: nobody in particular asks, no session is made


def _session(request: Request, site: Site) -> tuple[str, str] | None:
    try:
        person, number = site.signer.open("session", request.cookies.get(COOKIE, ""))
    except (InvalidArgument, ValueError, TypeError):
        return None
    return str(person), str(number)
