"""Does a stranger see what was asked for? A small reader, taught on real renders, names subject, style and colours.

It never sees a generated picture before it judges one. Half of the real ones are as the autoencoder gives them back,
for every generated picture comes out of that. It reads the square around one subject, so that the same reader tells
whether a picture of two subjects has both, each in its half: where in the half is not known, so it looks at several
squares and the one it is surest of counts. What it makes of fresh real renders is measured too (`ceiling`): no
generated picture can be asked for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from recipes.zoo import scenes
from recipes.zoo.pool import Pool
from recipes.zoo.scenes import GROUNDS, PICTURE, RELATIONS, article, on
from recipes.zoo.tint import TINTS
from recipes.zoo.train import Plan, Running, rows, to_unit
from tastemaker.generate.draw import draw
from tastemaker.generate.load import load

TURNS, PAIRS = 2, 40  # drawings of every subject by each model, and of two subjects
COLOURED = ("base", "clay", "pixel", "neon", "sticker")  # styles that show the colour of a subject and of its ground
_TINTS, _GROUNDS = [None, *TINTS], [None, *GROUNDS]  # classes of the reader
OTHER = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Reader(nn.Module):
    """(n, 3, P, P) in [-1, 1] -> logits of subjects, of styles, of `TINTS` and of `GROUNDS`, none of these first."""

    def __init__(self, subjects: int) -> None:
        super().__init__()
        widths = [3, 32, 64, 128, 128]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
                for a, b in pairwise(widths)
            )
        )
        self.subject = nn.Linear(128 * 16, subjects)
        self.style = nn.Linear(2 * 128, len(scenes.STYLES))
        self.tint = nn.Linear(128 * 16, len(_TINTS))
        self.ground = nn.Linear(128 * 16, len(_GROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grid = self.body(pictures)
        summary = torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], 1)
        places = F.dropout(grid.flatten(1), 0.3, self.training)
        return self.subject(places), self.style(summary), self.tint(places), self.ground(places)


def cut(picture: np.ndarray, box: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """The square around a subject, loosely, at full size; a subject that fills the picture keeps its ground."""
    x, y, side = box
    reach = min(1.0, side * rng.uniform(1.0, 1.35))
    left, top = (np.clip(at + rng.uniform(-0.1, 0.1) * side - reach / 2, 0, 1 - reach) * PICTURE for at in (x, y))
    square = (left, top, left + reach * PICTURE, top + reach * PICTURE)
    return np.asarray(Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR, box=square))


def teach(pools: Sequence[Pool], subjects: int, plan: Plan) -> Reader:
    """A reader taught on squares of real renders, some blurred or noisy."""
    torch.manual_seed(plan.seed)
    reader = Reader(subjects)
    places = [
        (p, row, at)
        for p, found in enumerate(pools)
        for row, s in enumerate(found.scenes)
        for at in range(len(s.boxes))
    ]

    def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step])
        chosen = [places[i] for i in rows(plan, step, len(places))]
        squares = np.stack([cut(pools[p].pictures[row], pools[p].scenes[row].boxes[at], rng) for p, row, at in chosen])
        real = to_unit(squares, plan.device)
        soft = F.avg_pool2d(real, 3, stride=1, padding=1, count_include_pad=False)
        amount = torch.rand(len(real), 1, 1, 1, generator=generator).to(real) * 1.2
        real = torch.lerp(real, soft, amount) + 0.05 * torch.randn(real.shape, generator=generator).to(real)
        of = [(pools[p].scenes[row], pools[p].style, at) for p, row, at in chosen]
        wanted = zip(
            *((s.subjects[at], scenes.STYLES.index(style), *_colours(s.tint, s.ground)) for s, style, at in of),
            strict=True,
        )
        read = zip(reader(real), wanted, strict=True)
        return torch.stack([F.cross_entropy(seen, torch.tensor(true)) for seen, true in read]).sum()

    averaged = Running(plan, {"reader": reader}).run(loss)["reader"]
    reader.load_state_dict(averaged)
    return reader.eval()


@dataclass(frozen=True)
class Reading:
    """Shares in [0, 1] of what a model drew: subject named right, style named right, both subjects in their places,
    the colour asked for on the subject, and on the ground, white or the style's own where none was; the last two of
    `COLOURED` styles only."""

    subject: float
    style: float
    both: float
    colour: float | None
    ground: float | None


def placed(reader: Reader, picture: Image.Image, relation: str) -> list[int]:
    """The two subjects that are seen in a picture: first the one that the relation is said of."""
    seen = []
    for half in (relation, OTHER[relation]):
        along = 0 if half in ("left of", "above") else PICTURE // 2
        across = [round(PICTURE * (0.25 + shift)) for shift in (-0.12, -0.06, 0, 0.06, 0.12)]
        corners = [(along, at) if half in ("left of", "right of") else (at, along) for at in across]
        boxes = [(x, y, x + PICTURE // 2, y + PICTURE // 2) for x, y in corners]
        squares = torch.cat([_unit(picture.resize((PICTURE, PICTURE), box=box)) for box in boxes])
        seen.append(int(reader(squares)[0].softmax(1).amax(0).argmax()))
    return seen


@torch.no_grad()
def ceiling(reader: Reader, found: Pool, rows: range) -> Reading:
    """What the reader makes of these rows of a pool of real renders."""
    single = [row for row in rows if len(found.scenes[row].subjects) == 1]
    subject, style, _, _ = reader(to_unit(found.pictures[single], "cpu"))
    named = [row for row in single if found.scenes[row].tint]
    colours = [_colours(found.scenes[row].tint, found.scenes[row].ground) for row in named]
    both = [
        placed(reader, Image.fromarray(found.pictures[row]), relation) == list(found.scenes[row].subjects)
        for row in np.intersect1d(found.pairs, rows)
        for relation in RELATIONS
        if f" {relation} " in found.scenes[row].caption
    ]
    wanted = torch.tensor([found.scenes[row].subjects[0] for row in single])
    return Reading(
        float((subject.argmax(1) == wanted).float().mean()),
        float((style.argmax(1) == scenes.STYLES.index(found.style)).float().mean()),
        float(np.mean(both)),
        *_coloured(reader, found.style, to_unit(found.pictures[named], "cpu"), colours),
    )


def _colours(tint: str | None, ground: str | None) -> tuple[int, int]:
    """The reader's classes of a subject's colour and of its ground."""
    return _TINTS.index(tint), _GROUNDS.index(ground)


def _coloured(
    reader: Reader, style: str, pictures: Tensor, wanted: Sequence[tuple[int, int]]
) -> tuple[float | None, float | None]:
    """Shares of pictures (n, 3, P, P) whose subject and whose ground has its colour."""
    if style not in COLOURED:
        return None, None
    _, _, tint, ground = (logits.argmax(1) for logits in reader(pictures))
    tint_of, ground_of = torch.tensor(wanted).T
    return float((tint == tint_of).float().mean()), float((ground == ground_of).float().mean())


@torch.no_grad()
def judge(reader: Reader, style: str, done: Path, names: list[str], rng: np.random.Generator, sheet: Path) -> Reading:
    """Draw every subject and some pairs with one model, write a sheet, and let the reader judge."""
    adapter = style in scenes.LORAS
    model = load(done / ("base" if adapter else style), lora=[(_weights(done / style), 1.0)] if adapter else None)
    trigger = f", {style} style" if adapter else ""
    wanted = list(range(len(names))) * TURNS
    single = [on(article(names[at]), rng.choice(_GROUNDS)) + trigger for at in wanted]
    pairs = [(*rng.choice(len(names), 2, replace=False), str(rng.choice(RELATIONS))) for _ in range(PAIRS)]
    double = [f"{article(names[a])} {how} {article(names[b])}{trigger}" for a, b, how in pairs]
    asked = [(name, rng.choice(list(TINTS))) for name in names]
    colours = [(tint, rng.choice([other for other in _GROUNDS if other != tint])) for _, tint in asked]
    tinted = [
        on(article(f"{tint} {name}"), ground) + trigger
        for (name, tint), (_, ground) in zip(asked, colours, strict=True)
    ]
    pictures = []
    for at, prompt in enumerate([*single, *double, *tinted]):
        pictures += draw(model, [prompt], seeds=[1000 + at], steps=20, guidance=4.0)
    units = torch.cat([_unit(picture) for picture in pictures])
    subject, drawn_style, _, _ = reader(units[: len(wanted)])
    doubles = zip(pictures[len(wanted) : len(wanted) + PAIRS], pairs, strict=True)
    both = [placed(reader, picture, how) == [a, b] for picture, (a, b, how) in doubles]
    write_sheet(pictures, sheet)
    return Reading(
        float((subject.argmax(1) == torch.tensor(wanted)).float().mean()),
        float((drawn_style.argmax(1) == scenes.STYLES.index(style)).float().mean()),
        float(np.mean(both)),
        *_coloured(reader, style, units[len(wanted) + PAIRS :], [_colours(*both) for both in colours]),
    )


def write_sheet(pictures: Sequence[Image.Image], file: Path, columns: int = 10, scale: int = 2) -> None:
    side = PICTURE * scale
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for at, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (at % columns * side, at // columns * side))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _unit(picture: Image.Image) -> Tensor:
    return to_unit(np.asarray(picture)[None].copy(), "cpu")
