"""PIE-Bench (Ju et al. 2024, arXiv 2310.01506): the published row that a cocktail with one model must reproduce.

"Direct Inversion + PnP" there feeds Plug-and-Play with the inversion's own latents at each time, which is a cocktail
whose content and style are SD 1.5, alpha 1, beta 0, with an inversion prompt of its own: 50 steps, injection 0.5 / 0.8,
guidance 7.5. So the row tests the whole path with real weights; a few per cent off is arithmetic, more is a mistake.

The folder is the data set's: `mapping_file.json` and `annotation_images/`. Brackets in prompts mark words that change
and are taken out; masks are runs (start, length) over 512 x 512 pixels, row by row, and every border pixel counts as
edited, as in the published code. Pictures are squashed to 512 x 512.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.evaluate.images.alignment import clip_score
from tastemaker.evaluate.images.measured import Measured
from tastemaker.evaluate.images.perceptual import Squeeze, lpips
from tastemaker.evaluate.images.pixels import mse, psnr, ssim
from tastemaker.evaluate.images.structure import structure_distance
from tastemaker.evaluate.images.vit import ViT
from tastemaker.generate.cocktail import Settings, cocktail
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.embed import Encoder
from tastemaker.generate.load import load
from tastemaker.generate.picture import read_picture, write_picture
from tastemaker.generate.zoo import resolve

SIDE = 512
NEGATIVE = "ugly, blurry, black, low res, unrealistic"
SETTINGS = Settings(steps=50, guidance=7.5, negative=NEGATIVE)
PUBLISHED = {  # figure -> its value and what it is multiplied with
    "structure": (24.29, 1e3), "psnr": (22.46, 1), "lpips": (106.06, 1e3), "mse": (80.45, 1e4), "ssim": (79.68, 1e2),
    "clip_whole": (25.41, 1e2), "clip_edited": (22.62, 1e2),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Edit:
    """One of the 700: its picture, what that shows, what it shall show, and the edited part, (512, 512) bool."""

    key: str
    picture: Path
    shows: str
    wanted: str
    edited: NDArray[np.bool_]


def read(folder: Path) -> list[Edit]:
    """Every edit of the folder. Raises DataError for a missing or malformed mapping, run or picture."""
    path = folder / "mapping_file.json"
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
        edits = [
            Edit(
                key,
                folder / "annotation_images" / item["image_path"],
                _plain(item["original_prompt"]),
                _plain(item["editing_prompt"]),
                mask(item["mask"]),
            )
            for key, item in mapping.items()
        ]
    except OSError as error:
        raise DataError(f"no readable mapping_file.json ({error.strerror}); expected PIE-Bench", file=folder) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not PIE-Bench's mapping: {type(error).__name__} {error}", file=path) from error
    if absent := [edit.picture for edit in edits if not edit.picture.is_file()]:
        raise DataError(f"{len(absent)} of {len(edits)} pictures are missing", file=absent[0])
    if not edits:
        raise DataError("names no edit", file=path)
    return edits


def mask(runs: list[int], side: int = SIDE) -> NDArray[np.bool_]:
    """Runs (start, length) over the rows of a square, and its border."""
    if len(runs) % 2:
        raise ValueError(f"a mask of {len(runs)} numbers; expected pairs of start and length")
    flat = np.zeros(side * side, np.bool_)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    found = flat.reshape(side, side)
    found[[0, -1]] = True
    found[:, [0, -1]] = True
    return found


def run(given: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict[str, float], str]:
    """Figures and page, of the first `--count` edits or all; measures whose networks were not given are left out."""
    if given.model is None:
        raise InvalidArgument("--pie-bench without --model; give the folder or file of SD 1.5")
    edits = read(given.pie_bench)[: given.count]
    model = load(resolve(given.model), device=given.device, dtype=given.dtype)
    settings = replace(SETTINGS, steps=given.steps or SETTINGS.steps)
    keep = None if given.keep is None else given.keep / f"{model.identity[:8]}-{settings.steps}"
    results = list(draw(model, edits, settings, keep, say))
    say("judging")
    measured = judge(
        edits, results,
        encoder=None if given.encoder is None else Encoder.load(given.encoder),
        vit=None if given.vit is None else ViT.load(given.vit, resize="short side"),
        squeeze=None if given.squeeze is None else Squeeze.load(given.squeeze, given.lpips),
    )  # fmt: skip
    figures, rows = dict[str, float](), []
    for name, one in measured.items():
        published, scale = PUBLISHED[name]
        values = one.values[np.isfinite(one.values)] * scale
        figures |= {f"pie_bench.{name}": float(values.mean()), f"pie_bench.{name}.published": published}
        rows.append(f"| {one.name} | {published:.2f} | {values.mean():.2f} | {values.mean() / published - 1:+.1%} |")
    missing = [name for name in PUBLISHED if name not in measured]
    left = f"\n\nLeft out, for lack of --vit, --squeeze or --encoder: {', '.join(missing)}." if missing else ""
    heads = "| measure | published | here | difference |\n| --- | --- | --- | --- |"
    table = "\n".join([heads, *rows])
    return figures, f"{len(edits)} edits by {model.name}, content and style.\n\n{table}{left}\n"


def draw(
    model: StableDiffusion, edits: list[Edit], settings: Settings, keep: Path | None, say: Callable[[str], None]
) -> Iterator[Image.Image]:
    """Each edit's result, from `keep` where it lies there already."""
    for number, edit in enumerate(edits, 1):
        path = None if keep is None else keep / f"{edit.key}.png"
        if path is not None and path.exists():
            yield read_picture(path)
            continue
        say(f"edit {number} of {len(edits)}")
        made = cocktail(
            source(edit), content=model, style=model, prompt=edit.wanted, inversion_prompt=edit.shows,
            settings=settings, round_trip=False,
        ).picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)  # fmt: skip
        if path is not None:
            write_picture(made, path)
        yield made


def source(edit: Edit) -> Image.Image:
    return read_picture(edit.picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def judge(
    edits: list[Edit], results: list[Image.Image], *, encoder: Encoder | None, vit: ViT | None, squeeze: Squeeze | None
) -> dict[str, Measured]:
    """What the table has, in its order: structure and CLIP of the whole, the part to keep in the published way."""
    sources = [source(edit) for edit in edits]
    kept, edited = [~edit.edited for edit in edits], [edit.edited for edit in edits]
    wanted = [edit.wanted for edit in edits]
    found = {
        name: measure(sources, results, masks=kept, paper=True)
        for name, measure in (("psnr", psnr), ("mse", mse), ("ssim", ssim))
    }
    if vit is not None:
        found["structure"] = structure_distance(sources, results, vit)
    if squeeze is not None:
        found["lpips"] = lpips(sources, results, squeeze, masks=kept)
    if encoder is not None:
        found["clip_whole"] = clip_score(encoder, results, wanted)
        found["clip_edited"] = clip_score(encoder, results, wanted, masks=edited)
    return {name: found[name] for name in PUBLISHED if name in found}


def _plain(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")
