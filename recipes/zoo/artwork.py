"""The open artwork the zoo is trained on: npm packages of emoji, named with version and licence, rendered once.

Two sets are used: Noto (Apache-2.0), the drawings of the base model and of all filter styles, and Fluent 3D (MIT),
those of the clay style. Sets with share-alike or unclear terms are left out.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 112  # pixels of a rendered drawing; scenes are composed at twice the picture's side and never enlarge it


@dataclass(frozen=True)
class Package:
    """An npm package of drawings: its name and version, who made them, under which licence."""

    name: str
    version: str
    maker: str
    licence: str


PACKAGES = {
    "noto": Package("@iconify-json/noto", "1.2.9", "Google LLC (Noto Emoji)", "Apache-2.0"),
    "clay": Package("@lobehub/fluent-emoji-3d", "1.1.0", "Microsoft (Fluent Emoji), packed by LobeHub", "MIT"),
}

# name -> code point. The order is the order of training: a run with fewer subjects takes the first ones.
SUBJECTS = {
    "apple": "1f34e", "banana": "1f34c", "strawberry": "1f353", "pineapple": "1f34d", "carrot": "1f955",
    "pizza": "1f355", "donut": "1f369", "mushroom": "1f344", "cactus": "1f335", "tree": "1f332",
    "sunflower": "1f33b", "dog": "1f436", "cat": "1f431", "panda": "1f43c", "fox": "1f98a",
    "lion": "1f981", "frog": "1f438", "penguin": "1f427", "fish": "1f420", "octopus": "1f419",
    "butterfly": "1f98b", "car": "1f697", "rocket": "1f680", "sailboat": "26f5", "house": "1f3e0",
    "star": "2b50", "moon": "1f319", "snowman": "26c4", "umbrella": "2602", "heart": "2764",
    "balloon": "1f388", "crown": "1f451", "bell": "1f514", "book": "1f4d5", "watch": "231a",
    "guitar": "1f3b8", "ghost": "1f47b", "pumpkin": "1f383", "robot": "1f916", "cake": "1f382",
    "rose": "1f339", "owl": "1f989", "ladybug": "1f41e", "whale": "1f433", "turtle": "1f422",
    "snail": "1f40c", "bee": "1f41d", "pig": "1f437", "chick": "1f424", "rabbit": "1f430",
    "unicorn": "1f984", "bus": "1f68c", "airplane": "2708", "castle": "1f3f0", "sun": "1f31e",
    "cloud": "2601", "rainbow": "1f308", "gift": "1f381", "key": "1f511", "camera": "1f4f7",
    "cookie": "1f36a", "burger": "1f354", "tulip": "1f337",
}  # fmt: skip


def fetch(folder: Path) -> dict[str, Path]:
    """The packages' archives in `folder`, downloaded by the npm client where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for art, package in PACKAGES.items():
        archive = folder / f"{package.name.strip('@').replace('/', '-')}-{package.version}.tgz"
        if not archive.exists():
            subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=folder, check=True)
        found[art] = archive
    return found


def drawings(folder: Path, subjects: list[str]) -> dict[str, np.ndarray]:
    """Every subject in every set: art -> (subjects, SIDE, SIDE, 4) uint8, straight alpha, cropped to what is drawn."""
    return {
        art: np.stack([_square(picture) for picture in (_bitmaps if art == "clay" else _vectors)(archive, subjects)])
        for art, archive in fetch(folder).items()
    }


def _vectors(archive: Path, subjects: list[str]) -> list[Image.Image]:
    """Render the drawings of an Iconify package."""
    import resvg_py

    with tarfile.open(archive) as tar:
        icons = json.load(_member(tar, "package/icons.json"))
        names = {_bare(code): name for code, name in json.load(_member(tar, "package/chars.json")).items()}
    pictures = []
    for subject in subjects:
        icon = icons["icons"][names[SUBJECTS[subject]]]
        width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        rendered = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIDE, height=2 * SIDE)
        pictures.append(Image.open(io.BytesIO(bytes(rendered))).convert("RGBA"))
    return pictures


def _bitmaps(archive: Path, subjects: list[str]) -> list[Image.Image]:
    """Read the drawings of a package that holds one WebP file a code point."""
    with tarfile.open(archive) as tar:
        files = {_bare(Path(name).stem): name for name in tar.getnames() if name.endswith(".webp")}
        return [
            Image.open(io.BytesIO(_member(tar, files[SUBJECTS[subject]]).read())).convert("RGBA")
            for subject in subjects
        ]


def _member(tar: tarfile.TarFile, name: str) -> io.BufferedReader:
    member = tar.extractfile(name)
    if member is None:
        raise FileNotFoundError(f"{tar.name}: no {name}; expected the package's usual layout")
    return member  # type: ignore[return-value]


def _bare(code: str) -> str:
    """A code point without its variation selector, which some sets write and some do not."""
    return code.lower().removesuffix("-fe0f")


def _square(picture: Image.Image) -> np.ndarray:
    """Crop to what is drawn, fit into the square. Resized with premultiplied alpha, so that edges keep their colour."""
    picture = picture.crop(picture.getbbox(alpha_only=True))
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(picture, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(square)
