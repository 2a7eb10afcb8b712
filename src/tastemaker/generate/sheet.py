"""Sheets: many pictures side by side with labels, dark text on a light ground.

A sheet shows what was asked along its edges and what came out in between. A picture that is missing is said so in its
place, never left out: the eye counts rows. Pictures are scaled to fit their cell whole. Text is set in Pillow's own
scalable font, which knows Latin letters only: others print as boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from tastemaker.errors import InvalidArgument

GROUND, EMPTY, INK, FAINT = "#fbfaf7", "#ecebe6", "#1c1c1c", "#5f5f5f"
CELL, GAP, MOST = 192, 10, 8_000  # pixels: side of a cell, space between, longest side of a sheet
SMALLEST = 8  # pixels, of letters
Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Cell:
    """One place of a sheet.

    Attributes:
        picture: What is shown; None leaves a grey place with `caption` in it.
        caption: Lines under the picture, the first one dark, the others faint.
    """

    picture: Image.Image | None
    caption: tuple[str, ...] = ()


def sheet(
    rows: Sequence[Sequence[Cell | None]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cell: int = CELL,
) -> Image.Image:
    """Rows of cells with labels; None leaves a place blank.

    Cells shrink so that no side of the sheet exceeds 8,000 pixels. Raises InvalidArgument where there is nothing to
    show, labels do not match the cells, or so many cells cannot be shown (a sheet a part, then).
    """
    n_columns = max((len(row) for row in rows), default=0)
    if n_columns == 0:
        raise InvalidArgument("a sheet needs at least one cell")
    for name, labels, n in (("row", row_labels, len(rows)), ("column", column_labels, n_columns)):
        if labels and len(labels) != n:
            raise InvalidArgument(f"{len(labels)} {name} labels for {n} {name}s")
    cell = min(cell, MOST // (n_columns + 1) - GAP, MOST // (len(rows) + 1) - GAP)
    if cell < 32:
        raise InvalidArgument(f"{len(rows)} x {n_columns} cells are too many for a sheet; draw several")

    size = max(10, cell // 13)
    label, small = _font(size), _font(max(9, size - 2))
    side_font, side = _beside(row_labels, size, cell)
    heads = [_wrapped(text, label, cell, 3) for text in column_labels]
    captions = [[_caption(place, small, cell) for place in row] for row in rows]
    left = GAP + (cell if row_labels else 0)
    title_height = 2 * size + GAP if title else 0
    head_height = _height(max((len(lines) for lines in heads), default=0), label)
    tops, y = [], GAP + title_height + head_height
    for row, under in zip(rows, captions, strict=True):
        tops.append(y)
        tallest = max((_shown(place, cell)[1] for place in row), default=cell)
        n_lines = [len(one) for place, one in zip(row, under, strict=True) if place is not None and place.picture]
        y += tallest + _height(max(n_lines, default=0), small) + GAP
    page = Image.new("RGB", (left + n_columns * (cell + GAP), y), GROUND)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, GAP), _wrapped(title, _font(size + 4), page.width - 2 * GAP, 1)[0], INK, _font(size + 4))
    for column, lines in enumerate(heads):
        top = GAP + title_height + head_height - _height(len(lines), label)
        _text(draw, left + column * (cell + GAP), top, lines, label)
    for number, row in enumerate(rows):
        if side:
            _text(draw, GAP, tops[number], side[number], side_font)
        for column, place in enumerate(row):
            if place is not None:
                at = left + column * (cell + GAP), tops[number]
                _place(page, draw, place, at, cell, captions[number][column], small)
    return page


def before_after(
    source: Image.Image,
    mixes: Sequence[tuple[str, Image.Image, Mapping[str, float]]],
    *,
    title: str = "",
    cell: int = 256,
) -> Image.Image:
    """The picture before and, beside it, after each style with its name and numbers underneath; six to a row."""
    places = [Cell(source, ("source",))]
    for name, picture, numbers in mixes:
        places.append(Cell(picture, (name, *(f"{what} {value:.3g}" for what, value in numbers.items()))))
    rows = [places[start : start + 6] for start in range(0, len(places), 6)]
    return sheet(rows, title=title, cell=cell)


def thumbnail(picture: Image.Image, side: int = 128) -> Image.Image:
    """A copy that fits into `side` x `side` pixels; never larger than the picture."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


# -- one cell --------------------------------------------------------------------------------------------------------


def _shown(place: Cell | None, cell: int) -> tuple[int, int]:
    """Width and height at which a picture fits its cell."""
    if place is None or place.picture is None:
        return cell, cell
    width, height = place.picture.size
    scale = cell / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _place(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: Cell,
    at: tuple[int, int],
    cell: int,
    lines: list[str],
    font: Font,
) -> None:
    x, y = at
    width, height = _shown(place, cell)
    if place.picture is None:
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), EMPTY)
        _text(draw, x + GAP, y + GAP, lines, font, FAINT)
        return
    page.paste(place.picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (x, y))
    _text(draw, x, y + height + 3, lines[:1], font)
    _text(draw, x, y + height + 3 + _line(font), lines[1:], font, FAINT)


def _caption(place: Cell | None, font: Font, cell: int) -> list[str]:
    if place is None:
        return []
    if place.picture is None:
        return _wrapped(" ".join(place.caption), font, cell - 2 * GAP, 6)
    first = [_wrapped(line, font, cell, 1)[0] for line in place.caption[:1]]
    return first + [part for line in place.caption[1:] for part in _wrapped(line, font, cell, 3)]


# -- text ------------------------------------------------------------------------------------------------------------


@cache
def _font(size: int) -> Font:
    font = ImageFont.load_default(size)
    if not isinstance(font, Font):
        raise InvalidArgument("this Pillow was built without FreeType, so text cannot be set; install its wheel")
    return font


def _line(font: Font) -> int:
    return round(1.25 * font.size)


def _height(lines: int, font: Font) -> int:
    return lines * _line(font) + (5 if lines else 0)


def _text(draw: ImageDraw.ImageDraw, x: int, y: int, lines: Sequence[str], font: Font, colour: str = INK) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * _line(font)), line, colour, font)


def _beside(labels: Sequence[str], size: int, cell: int) -> tuple[Font, list[list[str]]]:
    """Labels of rows in lines, and their font: smaller than `size` where they would not fit beside a cell whole."""
    for smaller in range(size, SMALLEST - 1, -1):
        font = _font(smaller)
        lines = [_wrapped(text, font, cell - GAP, cell // _line(font)) for text in labels]
        if all(" ".join(one) == " ".join(text.split()) for one, text in zip(lines, labels, strict=True)):
            break
    return font, lines


def _wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """The text in lines no wider than `width` pixels; where `most` lines are not enough the last one ends in dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    cut = len(lines) > most
    lines = lines[:most]
    return [
        _fitted(line + ("..." if cut and number == most - 1 else ""), font, width) for number, line in enumerate(lines)
    ]


def _fitted(line: str, font: Font, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    line = line.removesuffix("...")
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
