"""Draw pictures from prompts with one model: deterministic DDIM with classifier-free guidance.

Song et al. 2021 (arXiv 2010.02502), eta = 0; Ho and Salimans 2022 (arXiv 2207.12598). The noise of a picture is drawn
in float32 on the CPU from its own seed, so a picture depends on neither device, dtype nor the pictures drawn beside it
(but for the last bits of its arithmetic). Every dtype is said outright: while another model loads in a thread beside,
the libraries below change the process-wide default. Guidance of 1 or less switches the negative prompt off, as
diffusers does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import Condition, Denoiser, join, pairs

MAX_SIDE = 4096


def draw(
    model: Denoiser,
    prompts: Sequence[str],
    *,
    negative: str = "",
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 5.0,
    width: int | None = None,
    height: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """One picture for each pair of prompt and seed, in one batch (or one for each length, if prompts are very long).

    Args:
        seeds: as many as prompts.
        width, height: in pixels, multiples of `model.factor`; what the model was trained for if None.
        on_step: called with (steps done, steps) after each.

    Raises:
        InvalidArgument: no or a blank prompt, not as many seeds, impossible size, steps or guidance.
    """
    if isinstance(prompts, str) or not prompts:
        raise InvalidArgument(f"prompts = {prompts!r}; expected a list with at least one prompt")
    for prompt in prompts:
        refuse_blank(prompt)
    if len(seeds) != len(prompts):
        raise InvalidArgument(f"{len(prompts)} prompts and {len(seeds)} seeds; expected one seed a prompt")
    if not guidance >= 0:
        raise InvalidArgument(f"guidance = {guidance}; expected 0 or more (5 is usual)")
    size = (model.size[0] if width is None else width, model.size[1] if height is None else height)
    starts = [noise(model, seed, size) for seed in seeds]
    said = {prompt: model.condition([prompt, negative]) for prompt in dict.fromkeys(prompts)}
    groups: dict[int, list[int]] = {}  # prompts of one length go together: padding would change the shorter ones
    for row, prompt in enumerate(prompts):
        groups.setdefault(said[prompt].tokens.shape[1], []).append(row)
    drawn: dict[int, Image.Image] = {}
    for number, rows in enumerate(groups.values()):
        wanted, unwanted = (join([said[prompts[row]][[at]] for row in rows]) for at in (0, 1))
        x = sample(
            model,
            torch.cat([starts[row] for row in rows]),
            wanted,
            unwanted if guidance > 1 else None,
            steps=steps,
            guidance=guidance,
            on_step=None if on_step is None else partial(_counted, on_step, number, len(groups)),
        )
        drawn |= zip(rows, to_images(model.decode(x)), strict=True)
    return [drawn[row] for row in range(len(prompts))]


def _counted(on_step: Callable[[int, int], None], number: int, of: int, done: int, steps: int) -> None:
    on_step(number * steps + done, of * steps)


def sample(
    model: Denoiser,
    x: Tensor,
    wanted: Condition,
    unwanted: Condition | None,
    *,
    steps: int,
    guidance: float,
    start: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (B, C, h, w) at the level of the time number `start` to clean latents; `unwanted` None is unguided."""
    times = model.schedule.timesteps(steps)[start:]
    condition = wanted if unwanted is None else join([unwanted, wanted])
    for done, (t, s) in enumerate(pairs(times), 1):
        raw = model.predict(x if unwanted is None else torch.cat([x, x]), t, condition)
        if unwanted is not None:
            without, with_prompt = raw.chunk(2)
            raw = without + guidance * (with_prompt - without)
        a, b = model.schedule.step(t, s)
        x = a * x + b * raw
        if on_step is not None:
            on_step(done, len(times))
    return x


def noise(model: Denoiser, seed: int, size: tuple[int, int]) -> Tensor:
    """Gaussian latents (1, C, h, w) for a picture of (width, height) pixels."""
    for side in size:
        if side < model.factor or side % model.factor or side > MAX_SIDE:
            raise InvalidArgument(
                f"a picture of {size[0]} x {size[1]} pixels; expected multiples of {model.factor} up to {MAX_SIDE}"
            )
    if not 0 <= seed < 2**63:
        raise InvalidArgument(f"seed {seed}; expected a whole number from 0 to 2**63 - 1")
    shape = (1, model.channels, size[1] // model.factor, size[0] // model.factor)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return drawn.to(model.device)


def refuse_blank(prompt: str) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidArgument(f"prompt {prompt!r} is blank; say what the picture shows, such as 'a red apple'")


def to_images(pictures: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] to pictures of 8 bits."""
    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in pixels]
