"""Who you are here: a profile of this machine, or, in a public gallery, a guest of your own."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import APIRouter, Form
from sqlalchemy import select
from starlette.responses import Response

from tastemaker.errors import InvalidArgument
from tastemaker.serve import schema as s
from tastemaker.serve.answers import Refused
from tastemaker.serve.events import Conflict, Joined
from tastemaker.serve.visit import Here, Site

router = APIRouter(tags=["you"])


@router.get("/session", summary="Your session: who you are, and the token that every POST needs")
def session(here: Here) -> Response:
    facts = {"person": here.person, "token": here.token, "public": here.public}
    return here.page("people.html", facts, view={"people": _people(here.site, here.public)})


@router.post("/session", summary="Become another person, by name or a new guest")
def become(here: Here, name: Annotated[str, Form(max_length=60)] = "") -> Response:
    name = " ".join(name.split())
    if not name:
        name = f"guest-{secrets.token_hex(3)}"
    if not name.isprintable():
        raise InvalidArgument(f"the name {name!r} holds characters that cannot be shown; use letters and spaces")
    if name not in _people(here.site, public=False):
        try:
            here.site.store.add(Joined(name))
        except Conflict as error:
            raise Refused(409, f"'{name}' stands for a simulated person; choose another name") from error
    elif here.public and name != here.person:
        raise Refused(403, f"'{name}' is somebody else's; choose a name that nobody has")
    other = here.as_person(name)
    return other.go("/for-you", {"person": other.person, "token": other.token})


def _people(site: Site, public: bool) -> list[str]:
    """Real people by name; in a public gallery they are nobody's business."""
    if public:
        return []
    query = select(s.users.c.id).where(~s.users.c.simulated).order_by(s.users.c.id)
    with site.store.reading() as db:
        return list(db.scalars(query))
