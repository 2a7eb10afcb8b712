"""Drawings in another colour: "a blue apple" is learned from them, and that "a red apple" leaves the ground alone.

The part of a drawing that carries its main hue takes the colour, darker and lighter where it was; leaves, eyes and
outlines stay. What has hardly any hue, a ghost or a robot, takes it where it is pale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

TINTS = {
    "red": (222, 46, 44), "orange": (247, 140, 34), "yellow": (250, 208, 54), "green": (72, 160, 66),
    "blue": (44, 112, 214), "purple": (132, 70, 186), "pink": (245, 140, 178), "black": (44, 44, 52),
}  # fmt: skip
_LEAST = 0.31  # share of a drawing that must carry its main hue, or its pale part takes the colour
_LUMA = np.array([0.3, 0.59, 0.11], dtype=np.float32)

Drawing = NDArray[np.uint8]
Shares = NDArray[np.float32]


def tinted(drawing: Drawing, tint: str) -> Drawing:
    """The drawing, (side, side, 4) straight alpha, with its main part in that colour of `TINTS`."""
    part = _main_part(drawing)
    weight = part * (drawing[..., 3] / 255)
    colour = drawing[..., :3].astype(np.float32) / 255
    tone = (colour.max(-1) + colour @ _LUMA) / 2
    middle = float((tone * weight).sum() / weight.sum())
    target = np.array(TINTS[tint], dtype=np.float32) / 255
    depth = (tone / middle)[..., None]
    light = np.clip((depth - 1) / max(1 / middle - 1, 0.05), 0, 1)
    taken = np.where(depth < 1, target * depth, target + (1 - target) * 0.7 * light)
    mixed = part[..., None] * taken + (1 - part[..., None]) * colour
    return np.dstack([np.clip(mixed * 255 + 0.5, 0, 255).astype(np.uint8), drawing[..., 3]])


def _main_part(drawing: Drawing) -> Shares:
    """How much each pixel belongs to the part that takes the colour, (side, side) in [0, 1]."""
    hsv = np.asarray(Image.fromarray(drawing[..., :3]).convert("HSV"), dtype=np.float32)
    hue, saturation, value, alpha = hsv[..., 0], hsv[..., 1] / 255, hsv[..., 2] / 255, drawing[..., 3] / 255
    found = np.bincount(hue.astype(int).ravel(), (saturation * value * alpha).ravel(), minlength=256)
    main = int(ndimage.gaussian_filter1d(found, 6, mode="wrap").argmax())
    away = np.abs((hue - main + 128) % 256 - 128) * 360 / 256
    coloured = np.clip((saturation - 0.2) / 0.2, 0, 1) * np.clip((55 - away) / 20, 0, 1)
    if (coloured * alpha).sum() >= _LEAST * alpha.sum():
        return coloured.astype(np.float32)
    pale = np.clip((0.5 - saturation) / 0.2, 0, 1) * np.clip((value - 0.4) / 0.2, 0, 1)
    return pale.astype(np.float32)
