"""A gallery folder as `tastemaker grid` writes one, its pictures drawn by ruler and compass: six subjects, four styles.

Models are called flat, ink, neon and paper; two makers, one well known. No network draws anything here. `plant_zoo`
writes one of what the embedded models drew for their cards.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from tastemaker.generate import zoo
from tastemaker.generate.catalogue import Catalogue
from tastemaker.generate.picture import Part, Recipe, read_picture, write_picture
from tastemaker.generate.plan import slug

SUBJECTS = {
    "a red apple": "food", "a yellow lemon": "food", "a blue moon": "sky", "a bright star": "sky",
    "a small house": "town", "a tall tower": "town",
}  # fmt: skip
MODELS = {
    "flat": ("Flat colours", "Ada", "base", 9000), "ink": ("Ink lines", "Ada", "base", 4000),
    "neon": ("Neon night", "Bela", "dark", 300), "paper": ("Paper cut", "Bela", "base", 120),
}  # fmt: skip
_INKS = {
    "flat": ("#fff4e0", "#d84a3a"), "ink": ("#fdfdfb", "#22242a"), "neon": ("#120d26", "#3df5c8"),
    "paper": ("#d9e6dc", "#e2a33c"),
}  # fmt: skip


def plant(folder: Path, seeds: int = 2, side: int = 64) -> Path:
    """Write the folder: six subjects x four models x `seeds`."""
    with Catalogue(folder) as catalogue:
        for model in MODELS:
            for prompt in SUBJECTS:
                for seed in range(seeds):
                    recipe = Recipe("generate", prompt, (Part(model, f"hash of {model}"),), seed, 20, 4.0)
                    file = f"{model}/{slug(prompt)}-{seed}-{recipe.digest[:10]}.png"
                    image = picture(prompt, model, seed, side)
                    write_picture(image, folder / file, recipe)
                    catalogue.add(file, recipe, image, 0.5, small=False)
    _table(folder / "prompts.csv", ["prompt", "tag"], SUBJECTS.items())
    facts = [(name, *rest) for name, rest in MODELS.items()]
    _table(folder / "models.csv", ["model", "title", "maker", "base", "downloads"], facts)
    return folder


def plant_zoo(folder: Path, prompts: int = 12) -> Path:
    """Write the folder: the first examples on the cards of the embedded models, as if a grid had drawn them."""
    with Catalogue(folder) as catalogue:
        for card in zoo.zoo():
            for example in card.examples[:prompts] if card.kind == "model" else ():
                part = Part(card.source, f"hash of {card.name}")
                recipe = Recipe("generate", example.prompt, (part,), example.seed, card.steps, card.guidance)
                file = f"{card.name}/{slug(example.prompt)}-{example.seed}-{recipe.digest[:10]}.png"
                image = read_picture(zoo.ROOT / card.name / example.file)
                write_picture(image, folder / file, recipe)
                catalogue.add(file, recipe, image, 0.5, small=False)
    return folder


def picture(prompt: str, model: str, seed: int, side: int = 64) -> Image.Image:
    """A subject in a style; the seed moves it a little."""
    ground, ink = _INKS[model]
    image = Image.new("RGB", (256, 256), ground)
    draw = ImageDraw.Draw(image)
    x, y, r = 128 + 14 * math.cos(2.4 * seed), 128 + 14 * math.sin(2.4 * seed), 78
    look = {"fill": None, "outline": ink, "width": 9} if model in ("ink", "neon") else {"fill": ink}
    word = prompt.split()[-1]
    if word == "star":
        points = [(x + (r if k % 2 == 0 else r * 0.42) * math.sin(k * math.pi / 5),
                   y - (r if k % 2 == 0 else r * 0.42) * math.cos(k * math.pi / 5)) for k in range(10)]  # fmt: skip
        draw.polygon(points, **look)
    elif word in ("house", "tower"):
        half = r * (0.8 if word == "house" else 0.42)
        draw.rectangle((x - half, y - r * (0.1 if word == "house" else 0.6), x + half, y + r), **look)
        draw.polygon([(x - half * 1.25, y - r * (0.1 if word == "house" else 0.6)), (x, y - r * 1.15),
                      (x + half * 1.25, y - r * (0.1 if word == "house" else 0.6))], **look)  # fmt: skip
    elif word == "lemon":
        draw.ellipse((x - r, y - r * 0.66, x + r, y + r * 0.66), **look)
    else:
        draw.ellipse((x - r, y - r, x + r, y + r), **look)
        if word == "moon":
            draw.ellipse((x - r * 0.35, y - r * 1.05, x + r * 1.25, y + r * 0.6), fill=ground)
        if word == "apple":
            draw.line((x, y - r, x + 16, y - r - 34), fill=ink, width=10)
    if model == "neon":
        image = Image.blend(image, image.filter(ImageFilter.GaussianBlur(9)), 0.5)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _table(path: Path, names: list[str], rows: object) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([names, *rows])  # type: ignore[misc]
