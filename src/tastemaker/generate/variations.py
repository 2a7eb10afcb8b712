"""More from the cocktail: every content in every style, collages as content, and alpha chosen by structure.

The paper (arXiv 2312.08873) counts m models as m x m pictures of one prompt, and harmonises hand-made collages by
simply inverting them. `auto_alpha` turns its advice, that larger alpha keeps more structure, into a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from PIL import Image

from tastemaker.errors import InvalidArgument
from tastemaker.generate.cocktail import (
    Cocktail,
    Model,
    as_model,
    as_models,
    check_inputs,
    cocktail,
    common_times,
    fitted,
    refuse_overflow,
    shown,
    to_tensor,
)
from tastemaker.generate.denoiser import Denoiser
from tastemaker.generate.draw import draw, refuse_blank
from tastemaker.generate.inject import Mask
from tastemaker.generate.invert import Cache, Trajectory, invert
from tastemaker.generate.lanes import Count, lanes
from tastemaker.generate.mixer import Mixer, Progress, drawn, said, stacked, told
from tastemaker.generate.settings import DEFAULT, Settings
from tastemaker.generate.sheet import thumbnail

Box = tuple[int, int, int, int]
Form = Literal["row", "column", "grid"]
CELL = 1024  # the most pixels a side of one picture among several; models draw no larger


class OutOfReach(InvalidArgument):
    """No alpha between the ends reaches a structure distance; `far` and `near` are the distances at the ends."""

    def __init__(self, target: float, low: float, far: float, high: float, near: float) -> None:
        self.far, self.near = far, near
        super().__init__(
            f"a structure distance of {target:g} cannot be bracketed: it is {far:g} at alpha {low:g} and {near:g} at "
            f"alpha {high:g}; choose a target between, or other ends"
        )


def transfer_matrix(
    models: Sequence[Model],
    *,
    prompt: str,
    pictures: Sequence[Image.Image] | None = None,
    seed: int = 0,
    negative: str | None = None,
    settings: Settings = DEFAULT,
    cache: Cache | None = None,
    on_step: Progress | None = None,
) -> tuple[tuple[Image.Image, ...], ...]:
    """m x m pictures: row i, column j has the content of model i in the style of model j.

    Each model inverts its own picture (drawn from the prompt and seed where none are given); then each style draws all
    contents as one batch. Same size and schedule for all models; errors as `cocktail`. `on_step` hears of every step
    of any model, first of inverting, then of drawing.
    """
    drinks = [as_model(model) for model in models]
    refuse_blank(prompt)
    if not drinks or (pictures is not None and len(pictures) != len(drinks)):
        raise InvalidArgument(f"{len(drinks)} models and {len(pictures or ())} pictures; expected one picture a model")
    times = common_times(drinks[0], drinks, settings)
    negative = settings.negative if negative is None else negative
    prompts = [prompt] * len(drinks)
    count = Count(told(on_step, "inverting"), len(drinks) * settings.steps)

    def drew(model: Denoiser) -> Image.Image:
        steps, guidance = len(times), settings.guidance
        return draw(model, [prompt], seeds=[seed], negative=negative, steps=steps, guidance=guidance)[0]

    def inverted(model: Denoiser, picture: Image.Image) -> Trajectory:
        texts = model.condition([prompt, negative])
        condition = texts[:1].scaled(settings.alpha, texts[1:], settings.beta)
        latents = model.encode(to_tensor(fitted(picture, model, settings)))
        how = settings.inversion
        found = invert(model, latents, condition, steps=settings.steps, inversion=how, cache=cache, on_step=count)
        refuse_overflow(found.latents[times[0]], model, settings)
        return found

    with lanes(drinks) as run:
        if pictures is None:
            pictures = run([partial(drew, model) for model in drinks])
        check_inputs(pictures, prompts, prompts)
        found = run([partial(inverted, *both) for both in zip(drinks, pictures, strict=True)])
    trajectory = stacked(found)
    mixers = [
        Mixer(model, trajectory, said(model, None, prompts, negative), settings, times, cache, plain=False)
        for model in drinks
    ]
    latents = drawn(mixers, trajectory, times, None, on_step)
    columns = [shown(model, x, settings) for model, x in zip(drinks, latents, strict=True)]
    return tuple(zip(*columns, strict=True))


def auto_alpha(
    picture: Image.Image,
    *,
    content: Model,
    style: Model | Sequence[Model],
    prompt: str,
    target: float,
    distance: Callable[[Image.Image, Image.Image], float],
    inversion_prompt: str | None = None,
    regions: Sequence[Mask] | None = None,
    low: float = 0.0,
    high: float = 8.0,
    rounds: int = 6,
    tolerance: float = 0.0,
    settings: Settings = DEFAULT,
    cache: Cache | None = None,
) -> tuple[float, Cocktail]:
    """The alpha, by bisection, whose result lies at a wanted structure distance from its source; and that result.

    Args:
        distance: of (source, result), falling as alpha grows, such as `evaluate.images` has.
        inversion_prompt: what the content model is told; the prompt when None.
        regions: of several styles, where each draws, as `cocktail` takes them.
        rounds: halvings of the interval; it ends earlier within `tolerance` of the target.

    Raises:
        OutOfReach: a target that is not between the distances at `low` and `high`; the message has both.
    """
    source, styles, cache = as_model(content), as_models(style), cache or Cache()

    def at(alpha: float) -> tuple[float, Cocktail]:
        made = cocktail(
            picture,
            content=source,
            style=styles,
            prompt=prompt,
            inversion_prompt=inversion_prompt,
            regions=regions,
            settings=replace(settings, alpha=alpha),
            round_trip=False,
            cache=cache,
        )
        return distance(made.sources[0], made.picture), made

    (far, at_low), (near, at_high) = at(low), at(high)
    if not near <= target <= far:
        raise OutOfReach(target, low, far, high, near)
    tried = [(abs(far - target), low, at_low), (abs(near - target), high, at_high)]
    for _ in range(rounds):
        best = min(tried, key=lambda one: one[0])
        if best[0] <= tolerance:
            break
        middle = (low + high) / 2
        found, made = at(middle)
        tried.append((abs(found - target), middle, made))
        low, high = (middle, high) if found > target else (low, middle)
    _, alpha, made = min(tried, key=lambda one: one[0])
    return alpha, made


def collage(parts: Sequence[tuple[Image.Image, Box]], size: tuple[int, int], *, ground: str = "white") -> Image.Image:
    """A picture of (width, height) with each part resized into its box (left, top, right, bottom), later ones on top.

    Transparent parts show what lies below. Raises InvalidArgument for an empty list or a box outside the picture.
    """
    if not parts:
        raise InvalidArgument("a collage of no pictures; give a list of (picture, box)")
    canvas = Image.new("RGBA", size, ground)
    for picture, (left, top, right, bottom) in parts:
        if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
            raise InvalidArgument(
                f"a box {(left, top, right, bottom)} in a picture of {size[0]} x {size[1]}; expected left < right and "
                "top < bottom, all inside"
            )
        part = picture.convert("RGBA").resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        canvas.alpha_composite(part, (left, top))
    return canvas.convert("RGB")


def laid_out(pictures: Sequence[Image.Image], form: Form) -> Image.Image:
    """A collage of equal cells on white, filled row by row; a grid has as many columns as rows, or one more.

    A cell is as large as the first picture, but at most 1,024 pixels a side; each picture is fitted into its cell,
    whole and centred. Raises InvalidArgument for an empty list.
    """
    if not pictures:
        raise InvalidArgument("a collage of no pictures; give one or more")
    across = {"row": len(pictures), "column": 1, "grid": math.ceil(math.sqrt(len(pictures)))}[form]
    down = math.ceil(len(pictures) / across)
    width, height = thumbnail(pictures[0], CELL).size
    parts = []
    for at, picture in enumerate(pictures):
        left, top = at % across * width, at // across * height
        scale = min(width / picture.width, height / picture.height)
        w, h = (max(1, round(scale * length)) for length in picture.size)
        left, top = left + (width - w) // 2, top + (height - h) // 2
        parts.append((picture, (left, top, left + w, top + h)))
    return collage(parts, (across * width, down * height))
