"""What the pages Generate and Mix can bring back of a picture's recipe, and in words what they cannot."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tastemaker.serve.gallery import HALVES, Gallery, Picture, regions

#: With which the page Mix begins: the library's defaults, here without loading what draws.
START: dict[str, Any] = {
    "strength": 1.0, "alpha": 3.0, "beta": 0.0, "guidance": 2.5, "attention": 0.5, "convolution": 0.8, "steps": 25,
    "inversion": "ddim",
}  # fmt: skip
#: Settings of a cocktail that the page has no field for, as they are where nobody sets them.
_FIXED: dict[str, Any] = {
    "sampling_steps": None, "iterations": 5, "gamma": 1.0, "mix": 0.93, "prompt_by": "style", "side": None,
    "even": True,
}  # fmt: skip


def source_of(gallery: Gallery, picture: Picture) -> Picture | None:
    """The picture that a mix began with, where this gallery has the very same file."""
    part = picture.recipe.picture
    if part is None or not gallery.has(id := Path(part.name).stem):
        return None
    found = gallery.get(id)
    same = found.file.is_file() and hashlib.sha256(found.file.read_bytes()).hexdigest()[:32] == part.hash
    return found if same else None


def address(picture: Picture) -> str:
    """Of the page that orders such a picture, filled in."""
    recipe = picture.recipe
    if recipe.kind == "cocktail":
        return f"/mix?{urlencode({'like': picture.id})}"
    given = {"prompt": picture.prompt, "seed": picture.seed, "models": [part.name for part in recipe.models]}
    given |= {"steps": recipe.steps, "guidance": recipe.guidance}
    given |= {"negative": recipe.negative} if recipe.negative else {}
    given |= {"like": picture.id}
    return f"/generate?{urlencode(given, doseq=True)}"


def in_short(picture: Picture) -> str:
    """What matters most of a recipe, beside prompt and models, for a card."""
    recipe = picture.recipe
    first = f"seed {recipe.seed}"
    if recipe.kind == "cocktail":
        first = f"alpha {_number(recipe.cocktail.get('alpha'), START['alpha']):g}"
    return f"{first}, {recipe.steps} steps, guidance {recipe.guidance:g}"


def settings_of(gallery: Gallery, picture: Picture) -> dict[str, Any]:
    """Of a mix what the fields of the page Mix hold. The share is that of the style which the page names last."""
    recipe, held = picture.recipe, picture.recipe.cocktail
    found = {name: _number(held.get(name), value) for name, value in START.items() if name != "inversion"}
    place = {name: at for at, name in enumerate(gallery.models)}
    shares = [part.scale for part in sorted(recipe.models, key=lambda part: place.get(part.name, len(place)))]
    return found | {
        "inversion": str(held.get("inversion", START["inversion"])),
        "steps": recipe.steps, "guidance": recipe.guidance, "negative": recipe.negative, "prompt": picture.prompt,
        "content": "" if recipe.content is None else recipe.content.name,
        "styles": [part.name for part in recipe.models],
        "share": shares[1] if len(shares) == 2 and shares[1] != 1 else None,
        "mask": held.get("mask") if held.get("mask") in HALVES else "",
    }  # fmt: skip


def lacking(gallery: Gallery, picture: Picture) -> list[str]:
    """What cannot be brought back, in sentences."""
    recipe, held = picture.recipe, picture.recipe.cocktail
    parts = [*recipe.models, *([recipe.content] if recipe.content else [])]
    away = [name for name in dict.fromkeys(part.name for part in parts) if not _draws(gallery, name)]
    told = [f"{gallery.title(name)} does not draw here." for name in away]
    told += [f"The LoRA {gallery.title(part.name)} cannot be worn here." for part in recipe.loras]
    if recipe.kind != "cocktail":
        return told
    if recipe.picture is not None and source_of(gallery, picture) is None:
        told.append(f"The picture it began with ({Path(recipe.picture.name).name}) is not here: choose or upload one.")
    if where := regions(recipe):
        each = ", ".join(f"{gallery.title(part.name)} {at}" for part, at in zip(recipe.models, where, strict=False))
        told.append(f"Each style drew a region of one picture ({each}): only tastemaker mix --region can order that.")
    if held.get("mask") not in (None, "", *HALVES):
        told.append("Its mask was a picture: upload it again.")
    other = [f"{name} {held[name]}" for name, usual in _FIXED.items() if name in held and held[name] != usual]
    if held.get("inversion_prompt") not in (None, recipe.prompt, picture.prompt):
        other.append(f"inversion prompt “{held['inversion_prompt']}”")
    if other:
        told.append(f"This page has no field for {', '.join(other)}.")
    return told


def _number(value: object, usual: float) -> float:
    """Of a recipe that may be another program's."""
    return value if isinstance(value, int | float) and math.isfinite(value) else usual


def _draws(gallery: Gallery, name: str) -> bool:
    return name in gallery.models and gallery.models[name].draws
