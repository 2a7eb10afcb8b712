"""Pictures in and out: a strict reader, an atomic writer, and the recipe a picture carries.

What is read becomes 8-bit sRGB, by stated rules: the EXIF rotation is applied, an embedded colour profile is applied,
16 bit a channel becomes 8 (the low byte is dropped), transparency is laid over white. What has no single right answer
is refused with a reason: animations (which frame?), CMYK and other print modes (which ink?), pictures too large to
hold. A truncated file is refused; a JPEG that is damaged but whole decodes to whatever the damage says, as everywhere.

A picture we draw is a PNG with its `Recipe` as JSON in the text chunk 'tastemaker': enough to draw it again. It is
written under another name and renamed when whole, so that no kill and no full disk leaves half a picture behind.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from tastemaker.errors import DataError, MissingExtra
from tastemaker.generate import record

try:
    from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
except ModuleNotFoundError as error:
    raise MissingExtra("PIL", "generate") from error

PIXELS, SIDE = 40_000_000, 16_384  # the most that is read; a picture of 6,000 x 6,000 is within
FORMATS = ("PNG", "JPEG", "WEBP")
CHUNK = "tastemaker"
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # what Pillow raises on bad bytes

Setting = float | int | str | bool | None | tuple[str | None, ...]


@dataclass(frozen=True)
class Part:
    """A file or model that went into a picture.

    Attributes:
        name: What it was called: zoo/ink, or a path.
        hash: Hash of its content; the name may move, this may not.
        scale: Strength of a LoRA, share of a model in a mix; 1 otherwise.
    """

    name: str
    hash: str
    scale: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """All it takes to draw a picture again.

    Attributes:
        kind: Drawn from noise (generate) or from a picture (cocktail).
        prompt, negative: What the picture should show and should not, trigger words included.
        models: The model that drew it; of a weight mix every model with its share.
        loras: LoRAs on top, with their strength.
        seed, steps, guidance, sampler: How it was drawn.
        width, height: Pixels as asked for; None is the model's own size (the picture tells which).
        picture, content: Of a cocktail the picture it started from and the model that read it.
        cocktail: Of a cocktail every other setting by name.
        version: tastemaker's version that drew it.
    """

    kind: Literal["generate", "cocktail"]
    prompt: str
    models: tuple[Part, ...]
    seed: int
    steps: int
    guidance: float
    width: int | None = None
    height: int | None = None
    negative: str = ""
    loras: tuple[Part, ...] = ()
    sampler: str = "DDIM"
    picture: Part | None = None
    content: Part | None = None
    cocktail: Mapping[str, Setting] = field(default_factory=dict)
    version: str = metadata.version("tastemaker")

    def __post_init__(self) -> None:
        object.__setattr__(self, "cocktail", MappingProxyType(dict(self.cocktail)))

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return record.write(self)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe in a JSON text; raises DataError on unknown, missing or wrong fields."""
        return record.read(cls, text, "recipe")

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name the picture: equal for equal content, whatever the parts are called and
        whichever version of tastemaker drew it."""
        values = json.loads(self.to_json()) | {"version": ""}
        for part in [*values["models"], *values["loras"], values["picture"], values["content"]]:
            if part is not None:
                part["name"] = ""
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def read_picture(path: str | Path, *, limit: int = PIXELS) -> Image.Image:
    """A PNG, JPEG or WebP file as an RGB picture of 8 bits a channel, by the rules above.

    Raises DataError, naming the file, where there is no picture, it is damaged, animated, CMYK, has more than `limit`
    pixels or a side of more than 16,384 pixels.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}); expected a PNG, JPEG or WebP picture", file=path
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit speaks
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"{error}; make the picture smaller first", file=path) from error
    except UnidentifiedImageError as error:
        raise DataError("not a PNG, JPEG or WebP picture, or its first bytes are damaged", file=path) from error
    except DAMAGED as error:
        raise DataError(f"damaged ({error}); get a whole copy of it", file=path) from error
    width, height = image.size
    if width * height > limit or max(width, height) > SIDE:
        problem = f"{width} x {height} pixels; at most {limit:,} pixels and {SIDE:,} a side are read, make it smaller"
        raise DataError(problem, file=path)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a photo and its thumbnails
        raise DataError("an animation; save the frame you mean as a picture of its own", file=path)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B"):
        raise DataError(f"has colour mode {image.mode}; convert it to RGB with its colour profile first", file=path)
    try:
        if image.format == "PNG":
            _check_png(content)
        image.load()
        return _plain(image)
    except (*DAMAGED, ImageCms.PyCMSError) as error:
        raise DataError(f"damaged or truncated ({error}); get a whole copy of it", file=path) from error


def write_picture(image: Image.Image, path: str | Path, recipe: Recipe | None = None) -> Path:
    """Write a PNG with its recipe, whole or not at all; makes the folder. Raises DataError where it cannot."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise DataError("pictures are written as PNG; give a name that ends in .png", file=path)
    chunks = PngImagePlugin.PngInfo()
    if recipe is not None:
        chunks.add_text(CHUNK, recipe.to_json())
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=chunks)
    return write_bytes(content.getvalue(), path)


def write_bytes(content: bytes, path: Path) -> Path:
    """Write a file whole or not at all; makes the folder. Raises DataError where it cannot."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"cannot be written ({error.strerror}); free some space or choose another place"
        raise DataError(problem, file=path) from error
    return path


def read_recipe(path: str | Path) -> Recipe:
    """The recipe a PNG carries. Raises DataError where the file is no PNG, or carries none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(CHUNK)
    except FileNotFoundError as error:
        raise DataError("no such picture", file=path) from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise DataError(f"not a readable PNG ({error}); recipes live in PNG files only", file=path) from error
    if not isinstance(text, str):
        raise DataError(
            "carries no recipe; only PNG files that tastemaker wrote do, if no program re-saved them", file=path
        )
    try:
        return Recipe.from_json(text)
    except DataError as error:
        raise DataError(error.problem, file=path) from error


def check_whole(path: str | Path) -> None:
    """That every chunk of a PNG is there with its checksum; its pixels are not decoded. Raises DataError."""
    try:
        _check_png(Path(path).read_bytes())
    except DAMAGED as error:
        raise DataError(f"damaged or truncated ({error}); get a whole copy of it", file=path) from error


# -- reading ---------------------------------------------------------------------------------------------------------


def _plain(image: Image.Image) -> Image.Image:
    """The loaded picture as upright 8-bit sRGB over white."""
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if profile:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() == "RGB":  # a grey profile says nothing about RGB values
            ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), inPlace=True)
    return image


def _check_png(content: bytes) -> None:
    """Every chunk whole, its checksum right, and the last one there: Pillow lets the tail of a file go missing."""
    at = 8
    while True:
        size, kind = struct.unpack_from(">I4s", content, at)
        (stated,) = struct.unpack_from(">I", content, at + 8 + size)
        if zlib.crc32(content[at + 4 : at + 8 + size]) != stated:
            raise ValueError(f"wrong checksum of its {kind.decode('latin1')} chunk")
        if kind == b"IEND":
            return
        at += 12 + size
