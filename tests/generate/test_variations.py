"""Made from cocktails: collages, the matrix of all pairs, alpha for a wanted structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import InvalidArgument
from tastemaker.generate.cocktail import Settings, cocktail
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.variations import auto_alpha, collage, laid_out, transfer_matrix
from tests.generate.tiny import photo

Models = Callable[[str], StableDiffusion]
FEW = Settings(steps=5)


def test_collage() -> None:
    red, hole = Image.new("RGB", (4, 4), "red"), Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    made = collage([(red, (0, 0, 10, 20)), (hole, (0, 0, 5, 5))], (20, 20))
    assert (made.mode, made.size) == ("RGB", (20, 20))
    assert made.getpixel((2, 2)) == (255, 0, 0)
    assert made.getpixel((15, 15)) == (255, 255, 255)
    with pytest.raises(InvalidArgument, match="no pictures"):
        collage([], (20, 20))
    for box in ((0, 0, 21, 5), (5, 0, 5, 5), (-1, 0, 5, 5)):
        with pytest.raises(InvalidArgument, match="all inside"):
            collage([(red, box)], (20, 20))


def test_pictures_are_laid_out_whole_in_equal_cells() -> None:
    square, wide, line = (Image.new("RGB", size, "red") for size in ((20, 20), (10, 5), (1, 500)))
    sizes = {form: laid_out([square] * 5, form).size for form in ("row", "column", "grid")}
    assert sizes == {"row": (100, 20), "column": (20, 100), "grid": (60, 40)}
    cell = np.asarray(laid_out([square, wide], "row"))[:, 20:]
    assert (cell == 255).all(-1).sum() == cell[..., 0].size / 2  # half of the second cell stays white
    assert (cell[5:15] == (255, 0, 0)).all()
    assert laid_out([square, line], "column").getpixel((9, 30)) == (255, 0, 0)
    assert laid_out([Image.new("RGB", (3000, 1500))] * 2, "row").size == (2048, 512)
    with pytest.raises(InvalidArgument, match="no pictures"):
        laid_out([], "grid")


def test_the_transfer_matrix_is_every_pair(models: Models) -> None:
    pair = [models("sd1"), models("sd1-style")]
    pictures = [photo(1), photo(2)]
    matrix = transfer_matrix(pair, prompt="a dog", pictures=pictures, settings=FEW)
    for row, content in enumerate(pair):
        for column, style in enumerate(pair):
            alone = cocktail(
                pictures[row], content=content, style=style, prompt="a dog", settings=FEW, round_trip=False
            )
            difference = np.asarray(matrix[row][column], int) - np.asarray(alone.picture, int)
            assert np.abs(difference).max() <= 1
    assert len(transfer_matrix(pair, prompt="a dog", settings=Settings(steps=2))) == 2


def test_auto_alpha(models: Models) -> None:
    def brightness(_source: Image.Image, made: Image.Image) -> float:
        return float(np.asarray(made, float).mean())

    shared: dict[str, Any] = {
        "content": models("sd1"),
        "style": models("sd1-style"),
        "prompt": "a dog",
        "settings": FEW,
    }
    ends = [
        brightness(photo(), cocktail(photo(), **{**shared, "settings": replace(FEW, alpha=alpha)}).picture)
        for alpha in (0.0, 8.0)
    ]
    falling = 1 if ends[0] > ends[1] else -1
    target = falling * (0.3 * ends[0] + 0.7 * ends[1])
    alpha, made = auto_alpha(
        photo(), target=target, distance=lambda a, b: falling * brightness(a, b), rounds=4, tolerance=0.05, **shared
    )
    assert 0 <= alpha <= 8
    assert made.record["alpha"] == alpha
    assert abs(falling * brightness(photo(), made.picture) - target) <= abs(ends[0] - ends[1]) * 0.3
    with pytest.raises(InvalidArgument, match="cannot be bracketed"):
        auto_alpha(photo(), target=1e9, distance=lambda a, b: falling * brightness(a, b), **shared)
