"""Sheets: everything asked for has its place, and the place shows it."""

import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import InvalidArgument
from tastemaker.generate.sheet import (
    EMPTY,
    GROUND,
    MOST,
    Cell,
    _beside,
    _caption,
    _font,
    before_after,
    sheet,
    thumbnail,
)

RED, BLUE = Image.new("RGB", (96, 96), "red"), Image.new("RGB", (64, 32), "blue")


def share(page: Image.Image, colour: str) -> int:
    """Pixels of a colour."""
    return int((np.asarray(page) == np.asarray(Image.new("RGB", (1, 1), colour))).all(2).sum())


def test_every_picture_is_there_whole_and_in_order() -> None:
    page = sheet([[Cell(RED), Cell(BLUE)], [Cell(BLUE), None]], cell=64)
    assert share(page, "red") == 64 * 64
    assert share(page, "blue") == 2 * 64 * 32
    left, right = page.crop((0, 0, page.width // 2, page.height // 2)), page.crop((page.width // 2, 0, *page.size))
    assert share(left, "red")
    assert not share(right, "red")


def test_labels_and_captions_are_dark_on_light() -> None:
    plain = sheet([[Cell(RED)]])
    page = sheet(
        [[Cell(RED, ("zoo/ink", "structure 0.8"))]], row_labels=["an apple"], column_labels=["ink"], title="apples"
    )
    assert page.width > plain.width
    assert page.height > plain.height
    assert page.getpixel((0, 0)) == tuple(bytes.fromhex(GROUND[1:]))
    for box in ((0, 0, 180, 40), (0, 70, 180, 100), (200, 40, 380, 75), (200, 265, 400, 285)):  # where each text stands
        assert np.asarray(page.crop(box).convert("L")).min() < 90, box


def test_a_missing_picture_is_said_in_its_place() -> None:
    page = sheet([[Cell(None, ("no unet here",)), Cell(RED)]])
    assert share(page, EMPTY) > 0.8 * 192 * 192
    assert np.asarray(page.crop((10, 10, 200, 200)).convert("L")).min() < 128


def test_text_never_widens_a_sheet() -> None:
    long = "a very long prompt " * 30 + "x" * 400
    page = sheet([[Cell(RED, (long,))]], row_labels=[long], column_labels=[long], title=long)
    assert page.width == sheet([[Cell(RED)]], row_labels=["a"]).width


def test_many_cells_shrink_and_too_many_are_refused() -> None:
    page = sheet([[Cell(RED)] * 100])
    assert page.width <= MOST
    assert share(page, "red") > 100 * 60 * 60
    with pytest.raises(InvalidArgument, match="1 x 300 cells are too many"):
        sheet([[Cell(RED)] * 300])


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least one cell"):
        sheet([[]])
    with pytest.raises(InvalidArgument, match="1 column labels for 2 columns"):
        sheet([[Cell(RED), Cell(RED)]], column_labels=["a"])


def test_before_and_after() -> None:
    mixes = [(f"zoo/{n}", BLUE, {"structure kept": 0.812345, "style reached": 0.9}) for n in range(7)]
    page = before_after(RED, mixes, cell=96, title="a mix")
    assert share(page, "red") == 96 * 96
    assert share(page, "blue") == 7 * 96 * 48
    assert page.width < 7 * 110  # six to a row


def test_thumbnails_shrink_only() -> None:
    assert thumbnail(RED, 48).size == (48, 48)
    assert thumbnail(BLUE, 48).size == (48, 24)
    assert thumbnail(BLUE).size == BLUE.size
    assert RED.size == (96, 96)


def test_long_prompts_beside_a_row_are_smaller_not_cut() -> None:
    font, (short,) = _beside(["a fox above a balloon"], 14, 192)
    prompt = "a photograph of a lighthouse on a cliff above the sea in a storm at night, " * 5
    smaller, (lines,) = _beside([prompt], 14, 192)
    assert (font.size, " ".join(short)) == (14, "a fox above a balloon")
    assert smaller.size < 14
    assert " ".join(lines) == prompt.strip()
    assert len(lines) * 1.25 * smaller.size <= 192 + smaller.size


def test_captions_go_on_in_a_second_line() -> None:
    caption = "Ink outlines and washes on cream paper: a fox above a balloon"
    assert "".join(_caption(Cell(RED, ("zoo/ink", caption)), _font(12), 192)[1:]).replace(" ", "") == caption.replace(
        " ", ""
    )
