"""A picture's page with its recipe, the picture itself, its thumbnail, and pictures that were uploaded."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi import Path as InPath
from PIL import Image
from starlette.responses import FileResponse, Response

from tastemaker.errors import UnknownId
from tastemaker.generate.picture import read_picture, write_bytes
from tastemaker.serve import reuse
from tastemaker.serve.answers import plain
from tastemaker.serve.cards import SMALL, card, show
from tastemaker.serve.gallery import Picture, regions
from tastemaker.serve.visit import Here, Site, There

router = APIRouter(tags=["look"])
Id = Annotated[str, InPath(max_length=200)]
_OTHERS = 12  # pictures of the same prompt
THUMBNAIL = 320  # pixels of the long side
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}  # an id names its content
_UPLOAD = re.compile(r"[0-9a-f]{32}")


@router.get("/picture/{id}", summary="A picture, its recipe, and others of its prompt")
def picture_page(here: Here, id: Id) -> Response:
    site = here.site
    picture = site.gallery.get(id)
    shown = show(site, here.person, [picture], "opened", [1.0])[0]
    recipe = json.loads(picture.recipe.to_json())
    others = [one for one in site.gallery.by_prompt().get(picture.prompt, []) if one.id != picture.id][:_OTHERS]
    ranked = site.chooser.rank(here.person, others)
    others = list(others if ranked is None else ranked.pictures)
    source = reuse.source_of(site.gallery, picture)
    facts = {"card": shown, "recipe": recipe, "others": [card(one) for one in others]}
    facts |= {"ordered": None if ranked is None else ranked.about}
    facts |= {"source": None if source is None else card(source), "lacking": reuse.lacking(site.gallery, picture)}
    view = {
        "mix": f"/mix?{urlencode({'picture': picture.id})}",
        "rows": _rows(picture),
        "known": site.gallery.models,
    }
    return here.page("picture.html", facts, view=view)


@router.get("/images/{id}.png", summary="A picture, its recipe inside", response_class=FileResponse)
def image(site: There, id: Id) -> Response:
    picture = site.gallery.get(id)
    return FileResponse(_there(picture.file), media_type="image/png", headers=_FOREVER)


@router.get("/images/{id}.webp", summary="Its thumbnail; a small picture is its own", response_class=FileResponse)
def thumbnail(site: There, id: Id) -> Response:
    picture = site.gallery.get(id)
    if max(picture.width, picture.height) <= max(SMALL, THUMBNAIL // 2):
        return image(site, id)
    return FileResponse(_thumbnail(site, picture), media_type="image/webp", headers=_FOREVER)


@router.get("/uploads/{id}.png", summary="A picture you uploaded", response_class=FileResponse)
def upload(site: There, id: Id) -> Response:
    if _UPLOAD.fullmatch(id) is None:
        raise UnknownId("no upload is called so")
    return FileResponse(
        _there(site.settings.uploads / f"{id}.png"), media_type="image/png", headers={"Cache-Control": "private"}
    )


def _there(file: Path) -> Path:
    if not file.is_file():
        raise UnknownId(f"the file of '{file.stem[:80]}' is gone; bring its folder back")
    return file


def _thumbnail(site: Site, picture: Picture) -> Path:
    file = site.settings.home / "thumbnails" / f"{picture.id}.webp"
    if not file.is_file():
        small = read_picture(_there(picture.file))
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        small.save(content, "WEBP", quality=82)
        write_bytes(content.getvalue(), file)
    return file


def _rows(picture: Picture) -> list[tuple[str, str]]:
    """The recipe as rows for people."""
    recipe = picture.recipe
    rows = [("Prompt", recipe.prompt), ("Not", recipe.negative)]
    rows += [("Content of", Path(recipe.picture.name).name)] if recipe.picture else []
    rows += [("Content read by", recipe.content.name)] if recipe.content else []
    where = [f" ({one})" for one in regions(recipe)] or [""] * len(recipe.models)
    drew = [f"{one.name}{f' × {one.scale:g}' if one.scale != 1 else ''}" for one in recipe.models]
    rows += [("Drawn by", " + ".join(map("".join, zip(drew, where, strict=False))))]
    rows += [("LoRA", ", ".join(f"{one.name} × {one.scale:g}" for one in recipe.loras))]
    rows += [("Seed", str(recipe.seed))] if recipe.kind == "generate" else []
    rows += [("Steps", str(recipe.steps)), ("Guidance", f"{recipe.guidance:g}"), ("Sampler", recipe.sampler)]
    rows += [("Size", f"{picture.width} × {picture.height}")]
    named = {"alpha": "Alpha", "beta": "Beta", "attention": "Attention injected", "convolution": "Features injected",
             "mask": "Mask", "inversion": "Inversion"}  # fmt: skip
    held = json.loads(json.dumps(recipe.cocktail, default=plain))
    rows += [(title, Path(str(held[name])).name) for name, title in named.items() if held.get(name) is not None]
    return [(name, value) for name, value in rows if value]
