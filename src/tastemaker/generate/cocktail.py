"""Diffusion Cocktail: redraw a picture's content in the style of another *model*.

Ditail (arXiv 2312.08873). The content model inverts the picture; the style model draws again from the noise so found,
and while it draws, features of the inverted latents are injected into its decoder (see `generate.inject`). No training.

    Z     inversion by the content model under c = alpha E(p+) - beta E(p-), at every time t         (generate.invert)
    x     Z[largest t]; then for each t the style model predicts, in one batch,
          [ Z[t] under the empty prompt | x under the positive | x under the negative prompt ]
          with the first stream's features in the other two; guidance; one deterministic step; decode with its own VAE

`Settings()` is our default, `SURFACES` holds the published defaults of each official surface. `plain=True` runs the
lines above as they stand; otherwise one inversion serves all styles and drawing saves what it can (generate.mixer).

Easy to get wrong:
- The reference stream is read from Z[t] anew at every step, by the *style* model, and its prediction is thrown away.
- alpha, beta and guidance are floats. The published sweep cut them to whole numbers.
- The start is inverted noise, so no seed has any effect.
- Styles must understand the content model's latents (channels, factor, scale) and noise levels: checked beforehand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import END, Denoiser
from tastemaker.generate.draw import refuse_blank, to_images
from tastemaker.generate.inject import Injection, Mask
from tastemaker.generate.invert import Cache, Trajectory, invert
from tastemaker.generate.load import load
from tastemaker.generate.mixer import Mixer, Progress, drawn, said, shares_of, told
from tastemaker.generate.settings import DEFAULT, SURFACES, Settings

Model = Denoiser | str | Path
MAX_SIDE = 4096
__all__ = ["SURFACES", "Cocktail", "Settings", "cocktail"]


@dataclass(frozen=True, eq=False)
class Cocktail:
    """What came out.

    Attributes:
        pictures: a row a style, in it each picture; with regions one style, made of all.
        sources: the pictures as the content model saw them, after resizing.
        round_trip: relative error of inverting and sampling back, None if it was not measured.
        seconds: 'inversion' and 'drawing', of the wall clock.
        record: everything that decides the result, ready for JSON.
    """

    pictures: tuple[tuple[Image.Image, ...], ...]
    sources: tuple[Image.Image, ...]
    round_trip: float | None
    seconds: Mapping[str, float]
    record: Mapping[str, Any]

    @property
    def picture(self) -> Image.Image:
        """The first picture in the first style."""
        return self.pictures[0][0]


def cocktail(
    picture: Image.Image | Sequence[Image.Image],
    *,
    content: Model,
    style: Model | Sequence[Model],
    prompt: str | Sequence[str],
    negative: str | None = None,
    inversion_prompt: str | Sequence[str] | None = None,
    inversion_negative: str | None = None,
    trigger: str = "",
    settings: Settings = DEFAULT,
    regions: Sequence[Mask] | None = None,
    round_trip: bool = True,
    cache: Cache | None = None,
    plain: bool = False,
    on_step: Progress | None = None,
) -> Cocktail:
    """Pictures redrawn by each style model, from one inversion.

    Args:
        picture: one, or several of one size that go as one batch; see `collage` to lay one out of several.
        content, style: models, or what `load` takes. Several styles give a picture each.
        prompt: what the pictures show: one for all, or one each.
        inversion_prompt, inversion_negative: for the first stage, None for the same.
        trigger: words that call the style; appended to the prompt, or as `settings` say.
        regions: one soft mask a style, (h, w) of any size: each style draws where its mask is, and there is one result.
        round_trip: also measure the inversion's error, for as many calls of the content model again.
        cache: keeps inversions and reference features for later calls.
        plain: as published, without the speed-ups; the result is the same up to rounding.

    Raises:
        InvalidArgument: blank prompts, pictures of several sizes, styles whose latents or noise levels differ from the
            content model's, sampling times the inversion does not have, masks that do not fit. All before any work;
            and settings under which the networks' numbers overflow, once they do.
    """
    pictures = [picture] if isinstance(picture, Image.Image) else list(picture)
    prompts = [prompt] * len(pictures) if isinstance(prompt, str) else list(prompt)
    before = prompts if inversion_prompt is None else inversion_prompt
    before = [before] * len(pictures) if isinstance(before, str) else list(before)
    check_inputs(pictures, prompts, before)
    source = as_model(content)
    styles = as_models(style)
    times = common_times(source, styles, settings)
    sources = [fitted(one, source, settings) for one in pictures]
    shares = _shares(regions, styles, sources[0].height // source.factor, sources[0].width // source.factor)
    negative = settings.negative if negative is None else negative
    negative_before = negative if inversion_negative is None else inversion_negative
    if trigger:
        prompts = [called(text, trigger, settings) for text in prompts]
        before = [called(text, trigger, settings) for text in before] if settings.trigger_everywhere else before

    began = time.perf_counter()
    texts = source.condition([*before, negative_before])
    wanted, unwanted = texts[: len(before)], texts[len(before) :].repeat(len(before))
    trajectory = invert(
        source,
        source.encode(torch.cat([to_tensor(one) for one in sources])),
        wanted.scaled(settings.alpha, unwanted, settings.beta),
        steps=settings.steps,
        inversion=settings.inversion,
        round_trip=round_trip,
        cache=cache,
        on_step=told(on_step, "inverting"),
    )
    refuse_overflow(trajectory.latents[trajectory.times[0]], source, settings)
    inverted = time.perf_counter()
    by_content = source if settings.prompt_by == "content" else None
    mixers = [
        Mixer(one, trajectory, said(one, by_content, prompts, negative), settings, times, cache, plain)
        for one in styles
    ]
    latents = drawn(mixers, trajectory, times, shares, on_step)
    results = tuple(tuple(shown(one, x, settings)) for one, x in zip(styles, latents, strict=False))
    record = _record(source, styles, prompts, negative, before, negative_before, settings, regions, trajectory)
    seconds = {"inversion": inverted - began, "drawing": time.perf_counter() - inverted}
    return Cocktail(results, tuple(sources), trajectory.round_trip, seconds, record)


def to_tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"), dtype=np.float32))
    return (pixels / 127.5 - 1).permute(2, 0, 1)[None]


def called(prompt: str, trigger: str, settings: Settings) -> str:
    """The prompt with the words that call a style."""
    return f"{trigger}, {prompt}" if settings.trigger_first else f"{prompt}, {trigger}"


def shown(model: Denoiser, latents: Tensor, settings: Settings) -> list[Image.Image]:
    """Latents as pictures. Raises InvalidArgument where they hold infinities or NaN, which would be black."""
    pixels = model.decode(latents)
    refuse_overflow(pixels, model, settings)
    return to_images(pixels)


def refuse_overflow(found: Tensor, model: Denoiser, settings: Settings) -> None:
    if not bool(found.isfinite().all()):
        raise InvalidArgument(
            f"the numbers of {model.name} overflow with alpha {settings.alpha:g}, beta {settings.beta:g} and guidance "
            f"{settings.guidance:g}; take smaller ones (alpha 0 to 8, guidance 1 to 15), or float32 arithmetic"
        )


# -- before any work ---------------------------------------------------------------------------------------------------


def as_model(given: Model) -> Denoiser:
    return load(given) if isinstance(given, str | Path) else given


def as_models(given: Model | Sequence[Model]) -> list[Denoiser]:
    return [as_model(one) for one in ([given] if isinstance(given, Denoiser | str | Path) else given)]


def check_inputs(pictures: Sequence[Image.Image], prompts: Sequence[str], before: Sequence[str]) -> None:
    if not pictures or len(prompts) != len(pictures) or len(before) != len(pictures):
        raise InvalidArgument(
            f"{len(pictures)} pictures, {len(prompts)} prompts and {len(before)} inversion prompts; expected a picture "
            "or more and one prompt for all or one each"
        )
    for prompt in prompts:
        refuse_blank(prompt)
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise InvalidArgument(
            f"pictures of sizes {sorted(sizes)} in one batch; resize them to one, or take them singly"
        )


def _shares(regions: Sequence[Mask] | None, styles: Sequence[Denoiser], height: int, width: int) -> list[Tensor] | None:
    if regions is None:
        return None
    if len(regions) != len(styles):
        raise InvalidArgument(f"{len(regions)} regions and {len(styles)} styles; expected one mask a style")
    for region in regions:
        Injection(mask=region)  # its checks are those of any mask
    return shares_of(regions, height, width)


def common_times(source: Denoiser, styles: Sequence[Denoiser], settings: Settings) -> list[int]:
    """The times of drawing, after a look that styles and content fit together."""
    if not styles:
        raise InvalidArgument("no style; give one model or more")
    inverted = source.schedule.timesteps(settings.steps)
    steps = settings.sampling_steps or settings.steps
    times = source.schedule.timesteps(steps)
    if not set(times) <= set(inverted):
        nest = [n for n in range(1, settings.steps + 1) if set(source.schedule.timesteps(n)) <= set(inverted)]
        raise InvalidArgument(
            f"{steps} sampling steps do not nest in {settings.steps} inversion steps: time "
            f"{next(t for t in times if t not in inverted)} was never inverted; numbers of sampling steps that nest: "
            f"{', '.join(map(str, nest))}"
        )
    times = times[steps - max(1, round(settings.strength * steps)) :]
    for style in styles:
        if style.unet is source.unet and style.identity != source.identity:
            raise InvalidArgument(
                f"{style.name} with and without a LoRA is one network, which cannot be both at a time; load the style "
                "as a model of its own, with load(..., lora=...)"
            )
        ours, theirs = (source.channels, source.factor, source.scale), (style.channels, style.factor, style.scale)
        if ours[:2] != theirs[:2] or abs(ours[2] - theirs[2]) > 1e-6:
            raise InvalidArgument(
                f"{source.name} and {style.name} do not share latents: channels, pixels a latent and scale are {ours} "
                f"and {theirs}; mix models of one family"
            )
        levels = [(source.schedule.alpha(t), _alpha(style, t)) for t in (*inverted, END)]
        if max(abs(a - b) for a, b in levels) > 1e-4:
            raise InvalidArgument(
                f"{source.name} and {style.name} have different noise schedules; mix models of one family"
            )
        settings.injection.until(style.unet, len(times))
    return times


def _alpha(model: Denoiser, t: int) -> float:
    return model.schedule.alpha(t) if t < len(model.schedule.alpha_bar) else -1.0


def fitted(picture: Image.Image, model: Denoiser, settings: Settings) -> Image.Image:
    """The picture in RGB with its short side as wanted, aspect kept."""
    side = settings.side or min(model.size)
    scale = side / min(picture.size)
    width, height = (round(length * scale) for length in picture.size)
    if settings.even:
        width, height = (round(length / model.multiple) * model.multiple for length in (width, height))
    if min(width, height) < model.factor:
        step = model.multiple if settings.even else model.factor
        raise InvalidArgument(
            f"side = {side}; {model.name} takes sides of {step} pixels or more: take {step}, or its own size, "
            f"{min(model.size)}"
        )
    if max(width, height) > MAX_SIDE:
        raise InvalidArgument(
            f"a picture of {picture.size[0]} x {picture.size[1]} would become {width} x {height}; expected at most "
            f"{MAX_SIDE} a side: crop it"
        )
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _record(
    source: Denoiser,
    styles: Sequence[Denoiser],
    prompts: Sequence[str],
    negative: str,
    before: Sequence[str],
    negative_before: str,
    settings: Settings,
    regions: Sequence[Mask] | None,
    trajectory: Trajectory,
) -> dict[str, Any]:
    plain = replace(settings, injection=replace(settings.injection, mask=None))
    record = dataclasses.asdict(plain)
    record["injection"]["mask"] = _told(settings.injection.mask)
    return record | {
        "content": {"name": source.name, "identity": source.identity},
        "style": [{"name": style.name, "identity": style.identity} for style in styles],
        "prompts": list(prompts),
        "negative": negative,
        "inversion_prompts": list(before),
        "inversion_negative": negative_before,
        "regions": None if regions is None else [_told(region) for region in regions],
        "trajectory": trajectory.key,
    }


def _told(mask: Mask) -> str | None:
    """A mask as a record holds it: its word, or a hash of its values."""
    if not isinstance(mask, Tensor):
        return mask
    digest = hashlib.blake2b(repr(tuple(mask.shape)).encode(), digest_size=16)
    digest.update(mask.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
