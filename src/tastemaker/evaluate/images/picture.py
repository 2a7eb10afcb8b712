"""Pictures in: a Pillow picture or an array becomes (height, width, 3) uint8, or an error that says why not.

Facts that are easy to get wrong:
- The same picture brought to the same size by two libraries differs by several grey levels. Everything here is resized
  by Pillow's bicubic filter, which widens with the shrinking factor (antialiased), as CLIP's own preprocessing does.
- "squash" ignores the aspect, "crop" keeps it and loses the ends of the long side.
- Dropping the alpha of a transparent picture shows whatever colour was hidden under it. Such pictures are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, InvalidArgument, MissingExtra, UnknownName

try:
    from PIL import Image
except ModuleNotFoundError as error:
    raise MissingExtra("PIL", "generate") from error

Pixels = NDArray[np.uint8]
Picture = Image.Image | Pixels
Fit = Literal["squash", "crop"]


def rgb(picture: Picture) -> Pixels:
    """The pixels of one picture, shape (height, width, 3) uint8.

    Raises DataError for anything but 8 bits a channel, for other shapes, and for transparent pictures.
    """
    if isinstance(picture, Image.Image):
        return _converted(picture)
    if not isinstance(picture, np.ndarray):
        raise DataError(f"{picture!r} is a {type(picture).__name__}; expected a picture: read the file first")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise DataError(
            f"a picture of shape {picture.shape}, {picture.dtype}; expected (height, width, 3) uint8, values 0..255"
        )
    return picture


def rgbs(pictures: Sequence[Picture]) -> list[Pixels]:
    """`rgb` of each; a single picture instead of a list is refused."""
    if isinstance(pictures, Image.Image) or getattr(pictures, "ndim", 4) == 3:
        raise InvalidArgument("one picture was given; expected a list of pictures: [picture]")
    return [rgb(picture) for picture in pictures]


def fitted(pixels: Pixels, size: int, fit: Fit) -> Pixels:
    """A square of `size` pixels: squashed, or the middle after the short side was brought to `size`."""
    picture = Image.fromarray(pixels)
    if fit == "squash":
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    if fit != "crop":
        raise UnknownName("fit", fit, ["squash", "crop"])
    short = min(picture.size)
    width, height = (side * size // short for side in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


def content_hash(pixels: Pixels) -> str:
    """What the picture shows, in 32 hexadecimal digits: equal pixels and shape, equal hash, whatever the file."""
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:32]


def luminance(pixels: Pixels) -> NDArray[np.float64]:
    """Rec. 601 luma in 0..1, shape (height, width)."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114])) / 255


def _converted(picture: Image.Image) -> Pixels:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise DataError(f"a picture of mode {picture.mode}; expected 8 bits a channel: convert it to RGB")
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise DataError(f"{(alpha < 255).mean():.0%} of the pixels are transparent; lay the picture on a ground")
    return np.array(picture.convert("RGB"))
