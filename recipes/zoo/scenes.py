"""Scenes and their captions: what the zoo's models are taught to draw.

A scene is one subject, two subjects in a stated relation, or two or three of a kind, on a ground whose colour the
caption may name, as it may that of a subject or a kind. It is composed at twice the picture's side, given its style,
and reduced. Filter styles are made from the base's own drawings, so that a fine-tune changes the style and leaves the
subject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from recipes.zoo.artwork import SIDE
from recipes.zoo.tint import TINTS, tinted

PICTURE = 64  # side of a picture in pixels
GROUNDS = {
    "white": (250, 250, 248), "grey": (170, 172, 178), "red": (214, 60, 56), "orange": (245, 158, 66),
    "yellow": (250, 216, 90), "green": (104, 178, 92), "blue": (74, 138, 220), "purple": (142, 92, 190),
    "pink": (246, 164, 190), "black": (28, 28, 34),
}  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
STYLES = ("base", "ink", "clay", "pixel", "neon", "blueprint", "riso", "sticker")
LORAS = ("riso", "sticker")  # taught as adapters of the base, called by their trigger words
WORDS = (
    "a",
    "an",
    "two",
    "three",
    "on",
    "background",
    *GROUNDS,
    "left",
    "right",
    "of",
    "above",
    "below",
    "style",
    *LORAS,
)


@dataclass(frozen=True)
class Scene:
    """What is drawn: rows of subjects with their boxes (centre x, centre y, side, in shares of the picture)."""

    caption: str
    subjects: tuple[int, ...]
    boxes: tuple[tuple[float, float, float], ...]
    ground: str | None
    tint: str | None = None


def sample(names: list[str], rng: np.random.Generator) -> Scene:
    """Draw a scene: 60 % one subject, 25 % two in a relation, 15 % two or three of a kind; 65 % name their ground, 40 %
    of all but pairs the colour of what is drawn."""
    ground = str(rng.choice(list(GROUNDS))) if rng.random() < 0.65 else None
    kind, first, tint = rng.random(), int(rng.integers(len(names))), None
    if not 0.6 <= kind < 0.85 and rng.random() < 0.4:
        tint = str(rng.choice([name for name in TINTS if name != ground]))
    colour = f"{tint} " if tint else ""
    if kind < 0.6:
        side = rng.uniform(0.68, 0.86)
        free = (1 - side) / 2
        subjects, boxes = [first], [(0.5 + rng.uniform(-free, free), 0.5 + rng.uniform(-free, free), side)]
        text = article(colour + names[first])
    elif kind < 0.85:
        second = int((first + 1 + rng.integers(len(names) - 1)) % len(names))
        relation = str(rng.choice(RELATIONS))
        subjects = [first, second]
        boxes = _pair(relation, rng)
        text = f"{article(names[first])} {relation} {article(names[second])}"
    else:
        count = 2 if rng.random() < 0.6 else 3
        subjects = [first] * count
        boxes = _pair("left of", rng) if count == 2 else _three(rng)
        text = f"{('two', 'three')[count - 2]} {colour}{plural(names[first])}"
    return Scene(on(text, ground), tuple(subjects), tuple(boxes), ground, tint)


def on(text: str, ground: str | None) -> str:
    """A caption that names its ground, or leaves it open."""
    return f"{text} on {article(ground)} background" if ground else text


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


def plural(noun: str) -> str:
    if noun == "fish":
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


def _pair(relation: str, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Boxes of two subjects: each in its half, jittered."""
    boxes = []
    for sign in (-1, 1):
        side = rng.uniform(0.42, 0.49)
        along = 0.5 + sign * (0.25 + rng.uniform(-0.015, 0.015))
        across = 0.5 + rng.uniform(-0.12, 0.12)
        boxes.append((along, across, side) if relation in ("left of", "right of") else (across, along, side))
    return boxes if relation in ("left of", "above") else boxes[::-1]


def _three(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    places = [(0.5, 0.27), (0.26, 0.72), (0.74, 0.72)]
    return [(x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), rng.uniform(0.4, 0.46)) for x, y in places]


def render(scene: Scene, style: str, art: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw the scene in a style: (PICTURE, PICTURE, 3) uint8."""
    drawn = art[style if style in art else "noto"]
    side = 2 * PICTURE
    layer = Image.new("RGBA", (side, side))
    mirrored = rng.random() < 0.5
    for subject, (x, y, share) in zip(scene.subjects, scene.boxes, strict=True):
        size = min(round(share * side), SIDE)
        drawing = tinted(drawn[subject], scene.tint) if scene.tint else drawn[subject]
        shape = Image.fromarray(drawing).convert("RGBa").resize((size, size), Image.Resampling.BILINEAR)
        if mirrored:
            shape = shape.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        corner = (round(x * side - size / 2), round(y * side - size / 2))
        place = Image.new("RGBA", (side, side))
        place.paste(shape.convert("RGBA"), corner)
        layer = Image.alpha_composite(layer, place)
    premultiplied = np.asarray(layer.convert("RGBa"), dtype=np.float32) / 255
    ground = _colour(scene.ground, rng)
    picture = PAINTERS[style](premultiplied[..., :3], premultiplied[..., 3:], ground, scene.ground is not None)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def _colour(name: str | None, rng: np.random.Generator) -> np.ndarray:
    """The ground's colour in [0, 1], a little jittered; white where the caption names none."""
    return np.clip(np.array(GROUNDS[name or "white"]) / 255 + rng.normal(0, 0.012, 3), 0, 1).astype(np.float32)


# Painters: premultiplied colour (2P, 2P, 3), alpha (2P, 2P, 1), ground (3,), whether the caption named the ground
# -> picture (P, P, 3), all in [0, 1].


def _halve(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(PICTURE, 2, PICTURE, 2, -1).mean((1, 3))


def _base(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    return _halve(colour + (1 - alpha) * ground)


def _tone(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """How light the drawing is, (2P, 2P, 1) in [0, 1]."""
    return (colour @ np.array([0.3, 0.59, 0.11], dtype=np.float32))[..., None] / np.maximum(alpha, 1e-3)


def _ink(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """Ink on cream paper, which takes a named colour as a wash: outlines, and three depths of shade."""
    paper = np.array([0.96, 0.92, 0.82], dtype=np.float32)
    paper = 0.62 * paper + 0.38 * ground if named else paper
    dark = 1 - _tone(colour, alpha)
    shade = 0.36 * np.clip((dark - 0.28) / 0.06, 0, 1) + 0.4 * np.clip((dark - 0.58) / 0.06, 0, 1)
    depth = np.clip(alpha * shade + 0.8 * _edges(colour, alpha), 0, 1)
    return _halve((1 - depth) * paper + depth * np.array([0.08, 0.07, 0.1], dtype=np.float32))


def _clay(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """Glossy models in a studio: a lit ground that darkens downwards, and a soft shadow."""
    light = np.linspace(1.1, 0.72, 2 * PICTURE, dtype=np.float32)[:, None, None]
    studio = np.clip((ground if named else np.array([0.8, 0.78, 0.9], dtype=np.float32)) * light, 0, 1)
    shadow = ndimage.shift(ndimage.gaussian_filter(alpha[..., 0], 4), (6, 0), order=1)[..., None]
    return _halve(colour + (1 - alpha) * studio * (1 - 0.45 * shadow))


def _pixel(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """Sixteen big pixels a side, each wholly drawing or ground, seven levels a channel."""
    cells = np.concatenate([colour, alpha], -1).reshape(16, 8, 16, 8, 4).mean((1, 3))
    drawn = cells[..., 3:] > 0.45
    small = np.where(drawn, np.round(6 * cells[..., :3] / np.maximum(cells[..., 3:], 0.45)) / 6, ground)
    return np.repeat(np.repeat(small, 4, 0), 4, 1)


def _edges(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Strength of the drawing's outlines, (2P, 2P, 1) in [0, 1]."""
    flat = ndimage.gaussian_filter(np.concatenate([colour, alpha], -1), (1.2, 1.2, 0))
    slope = np.sqrt(ndimage.sobel(flat, 0) ** 2 + ndimage.sobel(flat, 1) ** 2).max(-1, keepdims=True)
    return np.clip(slope / 1.1 - 0.12, 0, 1)


def _neon(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """Glowing tubes in the drawing's own hues on near-black, which a named colour tints."""
    edges = _edges(colour, alpha)
    hue = ndimage.gaussian_filter(np.concatenate([colour, alpha], -1), (3, 3, 0))
    hue = hue[..., :3] / np.maximum(hue[..., 3:], 1e-3)
    hue = hue - 0.75 * hue.min(-1, keepdims=True)
    hue = np.clip(hue / np.maximum(hue.max(-1, keepdims=True), 0.05), 0.12, 1)
    tube = edges * hue
    glow = ndimage.gaussian_filter(tube, (3.5, 3.5, 0)) * 1.5
    dark = np.array([0.03, 0.02, 0.07], dtype=np.float32) + (0.16 * ground if named else 0)
    return _halve(np.clip(dark + glow + tube * 1.15, 0, 1))


def _blueprint(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """White lines and pale fills on blue paper with a grid; a named colour tints the paper."""
    paper = np.array([0.08, 0.22, 0.52], dtype=np.float32)
    paper = np.tile(0.85 * paper + 0.15 * ground if named else paper, (2 * PICTURE, 2 * PICTURE, 1))
    paper[::16] += 0.1
    paper[:, ::16] += 0.1
    depth = np.clip(0.62 * alpha * _tone(colour, alpha) ** 1.3 + _edges(colour, alpha), 0, 1)
    return _halve(np.clip(paper + depth * (np.array([0.92, 0.96, 1.0]) - paper), 0, 1))


def _riso(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """A print in two inks on pale paper: teal for the dark, coral for the middle, bare paper for the light."""
    tone = 0.72 * np.clip((_tone(colour, alpha) - 0.2) / 0.75, 0, 1)  # never as light as the paper
    tone = _halve(alpha * tone + (1 - alpha) * (0.8 + 0.2 * ground.mean()))[..., 0]
    stops = np.array([[0.05, 0.28, 0.36], [0.95, 0.42, 0.38], [1.0, 0.93, 0.82]], dtype=np.float32)
    place = np.clip(tone, 0, 1)[..., None] * 2
    low, high = (
        stops[0] + np.clip(place, 0, 1) * (stops[1] - stops[0]),
        np.clip(place - 1, 0, 1) * (stops[2] - stops[1]),
    )
    return low + high


def _sticker(colour: np.ndarray, alpha: np.ndarray, ground: np.ndarray, named: bool) -> np.ndarray:
    """Cut out with a broad white border, laid on a board with a shadow."""
    solid = alpha[..., 0] > 0.4
    cut = ndimage.gaussian_filter(ndimage.binary_dilation(solid, iterations=7).astype(np.float32), 0.8)[..., None]
    board = ground if named else np.array([0.55, 0.62, 0.68], dtype=np.float32)
    shadow = ndimage.shift(ndimage.gaussian_filter(cut[..., 0], 2.5), (5, 4), order=1)[..., None]
    board = board * (1 - 0.5 * shadow)
    return _halve(colour + (1 - alpha) * (cut + (1 - cut) * board))


PAINTERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, bool], np.ndarray]] = {
    "base": _base, "ink": _ink, "clay": _clay, "pixel": _pixel, "neon": _neon, "blueprint": _blueprint,
    "riso": _riso, "sticker": _sticker,
}  # fmt: skip
