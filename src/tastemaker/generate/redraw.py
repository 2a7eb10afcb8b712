"""Draw a picture again from its recipe, or refuse where that would be another picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tastemaker.errors import DataError
from tastemaker.generate import zoo
from tastemaker.generate.grid import AUTO, Loading, Say, draw_recipes
from tastemaker.generate.orders import mix
from tastemaker.generate.picture import Part, Recipe
from tastemaker.generate.zoo import Kind


def redraw(recipe: Recipe, loading: Loading = AUTO, say: Say = lambda done, total, text: None) -> Image.Image:
    """The picture the recipe describes. Raises DataError where a model or picture is gone or has changed since."""
    for part in (*recipe.models, *([recipe.content] if recipe.content else [])):
        _check(part, "model")
    for part in recipe.loras:
        _check(part, "lora")
    if recipe.kind == "cocktail":
        return next(mix([recipe], loading, say)).picture
    name = recipe.models[0].name
    say(0, 1, f"loading {name}")
    model = loading.load(zoo.resolve(name), [(part.name, part.scale) for part in recipe.loras])
    return draw_recipes(model, [recipe], lambda part: say(part, 1, f"drawing with {name}"))[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures over all pixels and channels, of 255. Raises DataError for unequal sizes."""
    if one.size != other.size:
        raise DataError(f"pictures of {one.size} and {other.size} pixels cannot be compared")
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def _check(part: Part, kind: Kind) -> None:
    """That a part of the recipe is still what it was."""
    path: Path = zoo.resolve(part.name, kind)
    if (found := zoo.fingerprint(path)) != part.hash:
        raise DataError(f"has changed since: its hash is {found}, in the recipe {part.hash}; bring it back", file=path)
