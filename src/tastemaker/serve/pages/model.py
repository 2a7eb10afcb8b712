"""A model's page: its card, its place, what its pictures have in common, and examples.

Pictures of the gallery are shown, logged and liked as everywhere. The examples on a model's card are its maker's choice
and no items of the gallery: nobody can like them, so nothing is logged.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from starlette.responses import FileResponse, Response

from tastemaker.errors import UnknownId
from tastemaker.serve.cards import show
from tastemaker.serve.gallery import Model
from tastemaker.serve.pages.vote import placed
from tastemaker.serve.visit import Here, Site, There

router = APIRouter(tags=["look"])
_LATEST = 12  # of its pictures


@router.get("/model/{name:path}", summary="A model: its card, what people think of it, what it draws like, examples")
def model(here: Here, name: str) -> Response:
    site = here.site
    site.gallery.refresh()
    known = site.gallery.model(name)
    pictures = [one for one in site.gallery.everything() if one.model == name]
    board = placed(site, site.learner.leaderboard()) if len(site.gallery) else []
    latest = pictures[-_LATEST:][::-1]
    sign, unsigned = _sign(site, known)
    facts = {
        "model": {field: value for field, value in vars(known).items() if field != "examples"},  # files stay here
        "place": next((row for row in board if row["id"] == name), None), "of": len(board), "pictures": len(pictures),
        "examples": show(site, here.person, latest, "model page", [1.0] * len(latest)),
        "card": [
            {"prompt": prompt, "image": f"/card/{number}.png?{urlencode({'model': name})}"}
            for number, (prompt, _) in enumerate(known.examples)
        ],
        "sign": sign, "unsigned": unsigned,
    }  # fmt: skip
    return here.page("model.html", facts, view={"draws": known.draws, "titled": site.gallery.title})


@router.get("/card/{number}.png", summary="An example on a model's card", response_class=FileResponse)
def example(
    site: There,
    number: Annotated[int, InPath(ge=0, le=1000)],
    model: Annotated[str, Query(max_length=1000)],
) -> Response:
    examples = site.gallery.model(model).examples
    if number >= len(examples) or not examples[number][1].is_file():
        raise UnknownId(f"the card of '{model[:80]}' has no example {number}; its page shows those there are")
    return FileResponse(examples[number][1], media_type="image/png", headers={"Cache-Control": "public, max-age=3600"})


def _sign(site: Site, known: Model) -> tuple[dict[str, Any] | None, str]:
    """What the model's pictures have in common, or why that is not known."""
    if not known.draws:
        return None, "it does not draw here"
    stocked = site.chooser.stocked()
    if isinstance(stocked, str):
        return None, stocked
    sign = stocked.signs.get(known.name)
    return (None, "it came after the last look") if sign is None else (vars(sign), "")
