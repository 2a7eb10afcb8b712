"""Does a stranger see what was asked for? Small networks, taught on real renders, name subject, style and colours.

They never see a generated picture before they judge one. Half of the real ones are as the autoencoder gives them back,
for every generated picture comes out of that. They read the square around one subject, so that the same reader tells
whether a picture of two subjects has both, each in its half: where in the half is not known, so it looks at several
squares and the one it is surest of counts. What they make of fresh real renders is measured too (`ceiling`): no
generated picture can be asked for more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

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
BARE = {"base": "white", "pixel": "white", "neon": "black"}  # what their grounds look like if the caption names none
_TINTS, _GROUNDS = [*TINTS], [*GROUNDS, "own"]  # classes; clay and sticker have a bare ground like no named one
Net = TypeVar("Net", bound=nn.Module)
UNTOLD = -100  # what cross-entropy leaves out
OTHER = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Reader(nn.Module):
    """(n, 3, P, P) in [-1, 1] -> logits of subjects and of styles."""

    def __init__(self, subjects: int) -> None:
        super().__init__()
        self.body = _body()
        self.subject = nn.Linear(128 * 16, subjects)
        self.style = nn.Linear(2 * 128, len(scenes.STYLES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.body(pictures)
        summary = torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], 1)
        return self.subject(F.dropout(grid.flatten(1), 0.3, self.training)), self.style(summary)


class Colours(nn.Module):
    """(n, 3, P, P) in [-1, 1] -> logits of a subject's colour and of its ground's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _body()
        self.tint, self.ground = nn.Linear(128 * 16, len(_TINTS)), nn.Linear(128 * 16, len(_GROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        places = F.dropout(self.body(pictures).flatten(1), 0.3, self.training)
        return self.tint(places), self.ground(places)


def _body() -> nn.Sequential:
    """(n, 3, P, P) -> (n, 128, P/16, P/16)."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
            for a, b in pairwise([3, 32, 64, 128, 128])
        )
    )


def cut(picture: np.ndarray, box: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """The square around a subject, loosely, at full size; a subject that fills the picture keeps its ground."""
    x, y, side = box
    reach = min(1.0, side * rng.uniform(1.0, 1.35))
    left, top = (np.clip(at + rng.uniform(-0.1, 0.1) * side - reach / 2, 0, 1 - reach) * PICTURE for at in (x, y))
    square = (left, top, left + reach * PICTURE, top + reach * PICTURE)
    return np.asarray(Image.fromarray(picture).resize((PICTURE, PICTURE), Image.Resampling.BILINEAR, box=square))


def teach(pools: Sequence[Pool], subjects: int, plan: Plan) -> Reader:
    """A reader of subjects and styles."""
    torch.manual_seed(plan.seed)
    return _taught(Reader(subjects), pools, plan, lambda s, style, at: (s.subjects[at], scenes.STYLES.index(style)))


def teach_colours(pools: Sequence[Pool], plan: Plan) -> Colours:
    """A reader of colours, taught on pools of `COLOURED` styles."""
    torch.manual_seed(plan.seed)
    return _taught(Colours(), pools, plan, lambda s, style, _: _colours(s.tint, s.ground, style))


def _taught(
    net: Net, pools: Sequence[Pool], plan: Plan, classes: Callable[[scenes.Scene, str, int], tuple[int, int]]
) -> Net:
    """The network taught on squares of real renders, some blurred or noisy; `classes(scene, style, number of the
    subject)` are the two it should tell, UNTOLD for one that is left out."""
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
        wanted = torch.tensor([classes(pools[p].scenes[row], pools[p].style, at) for p, row, at in chosen]).T
        return torch.stack([F.cross_entropy(seen, of) for seen, of in zip(net(real), wanted, strict=True)]).sum()

    averaged = Running(plan, {plan.folder.name: net}).run(loss)[plan.folder.name]
    net.load_state_dict(averaged)
    return net.eval()


@dataclass(frozen=True)
class Reading:
    """Shares in [0, 1] of what a model drew: subject named right, style named right, both subjects in their places,
    the colour asked for on the subject, and on the ground, the style's bare one where none was; the last two of
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
def ceiling(reader: Reader, colours: Colours, found: Pool, rows: range) -> Reading:
    """What the readers make of these rows of a pool of real renders."""
    single = [row for row in rows if len(found.scenes[row].subjects) == 1]
    subject, style = reader(to_unit(found.pictures[single], "cpu"))
    named = [row for row in single if found.scenes[row].tint]
    asked = [(found.scenes[row].tint, found.scenes[row].ground) for row in named]
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
        *_coloured(colours, found.style, to_unit(found.pictures[named], "cpu"), asked),
    )


def _colours(tint: str | None, ground: str | None, style: str) -> tuple[int, int]:
    """Classes of a subject's colour, untold where the caption leaves it open, and of its ground."""
    return _TINTS.index(tint) if tint else UNTOLD, _GROUNDS.index(ground or BARE.get(style, "own"))


def _coloured(
    colours: Colours, style: str, pictures: Tensor, asked: Sequence[tuple[str | None, str | None]]
) -> tuple[float | None, float | None]:
    """Shares of pictures (n, 3, P, P) whose subject and whose ground has the colour asked for."""
    if style not in COLOURED:
        return None, None
    tint, ground = (logits.argmax(1) for logits in colours(pictures))
    tint_of, ground_of = torch.tensor([_colours(*both, style) for both in asked]).T
    return float((tint == tint_of).float().mean()), float((ground == ground_of).float().mean())


@torch.no_grad()
def judge(
    reader: Reader, colours: Colours, style: str, done: Path, names: list[str], rng: np.random.Generator, sheet: Path
) -> Reading:
    """Draw every subject twice, once more in a colour, and some pairs with one model, write a sheet, and let the
    readers judge."""
    adapter = style in scenes.LORAS
    model = load(done / ("base" if adapter else style), lora=[(_weights(done / style), 1.0)] if adapter else None)
    trigger = f", {style} style" if adapter else ""
    wanted = list(range(len(names))) * TURNS
    single = [on(article(names[at]), rng.choice([None, *GROUNDS])) + trigger for at in wanted]
    pairs = [(*rng.choice(len(names), 2, replace=False), str(rng.choice(RELATIONS))) for _ in range(PAIRS)]
    double = [f"{article(names[a])} {how} {article(names[b])}{trigger}" for a, b, how in pairs]
    asked = []
    for _ in names:
        tint = str(rng.choice(_TINTS))
        asked.append((tint, rng.choice([None, *(ground for ground in GROUNDS if ground != tint)])))
    tinted = [
        on(article(f"{tint} {name}"), ground) + trigger for name, (tint, ground) in zip(names, asked, strict=True)
    ]
    pictures = []
    for at, prompt in enumerate([*single, *double, *tinted]):
        pictures += draw(model, [prompt], seeds=[1000 + at], steps=20, guidance=4.0)
    units = torch.cat([_unit(picture) for picture in pictures])
    subject, drawn_style = reader(units[: len(wanted)])
    doubles = zip(pictures[len(wanted) : len(wanted) + PAIRS], pairs, strict=True)
    both = [placed(reader, picture, how) == [a, b] for picture, (a, b, how) in doubles]
    write_sheet(pictures, sheet)
    return Reading(
        float((subject.argmax(1) == torch.tensor(wanted)).float().mean()),
        float((drawn_style.argmax(1) == scenes.STYLES.index(style)).float().mean()),
        float(np.mean(both)),
        *_coloured(colours, style, units[len(wanted) + PAIRS :], asked),
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
