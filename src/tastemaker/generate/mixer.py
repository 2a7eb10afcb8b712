"""Draw in one style from an inversion, with the reference's features injected: the second stage of a cocktail.

For each time t the style model predicts, with Z the inversion's latents and x what is drawn,
    [ Z[t] under the empty prompt | x under the positive | x under the negative prompt ]
with the first stream's features in the other two. `plain` does just that. Otherwise, the result being the same:
- the reference stream, which does not depend on x, runs ahead: several steps to a batch, no further than the last layer
  that is read, and not at all once nothing is injected any more; a cache keeps what it found for other prompts and
  guidance of the same style;
- injected layers compute neither queries nor keys of their own, and attention is fused.
Several styles draw side by side (generate.lanes).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import Condition, Denoiser, join, pairs
from tastemaker.generate.inject import Features, Mask, copying, injecting, mask_on, read
from tastemaker.generate.invert import Cache, Trajectory, retrace
from tastemaker.generate.lanes import Count, lanes
from tastemaker.generate.settings import Settings

Progress = Callable[[str, int, int], None]  # what is done, steps done, steps
AHEAD = 8  # rows of the reference stream in one batch


@dataclass(eq=False)
class Mixer:
    """One style at work: its guided prediction under injection, for latents of the sampler's choosing.

    `said` is [empty | positive | negative], each of as many rows as there are pictures.
    """

    model: Denoiser
    trajectory: Trajectory
    said: Condition
    settings: Settings
    times: list[int]
    cache: Cache | None
    plain: bool

    def __post_init__(self) -> None:
        self.until = self.settings.injection.until(self.model.unet, len(self.times))
        self.rows = len(self.said) // 3
        self.ahead: dict[int, Features] = {}

    def predict(self, x: Tensor, t: int) -> Tensor:
        step = self.times.index(t)
        layers = [name for name, until in self.until.items() if step < until]
        if self.plain:
            with copying(self.model.unet, layers, 3, self.settings.injection.mask):
                raw = self.model.predict(torch.cat([self.trajectory.latents[t], x, x]), t, self.said)
            return self.guide(*raw.chunk(3)[1:])
        with self.injected(t, layers):
            if self.settings.guidance == 1:  # the negative stream would be multiplied with zero
                return self.model.predict(x, t, self.said[self.rows : 2 * self.rows])
            return self.guide(*self.model.predict(torch.cat([x, x]), t, self.said[self.rows :]).chunk(2))

    def guide(self, wanted: Tensor, unwanted: Tensor) -> Tensor:
        return unwanted + self.settings.guidance * (wanted - unwanted)

    def injected(self, t: int, layers: list[str]) -> contextlib.AbstractContextManager[None]:
        if not layers:
            return contextlib.nullcontext()
        if t not in self.ahead:
            self.ahead = self.look_ahead(t, layers)
        return injecting(self.model.unet, self.ahead[t], self.settings.injection.mask)

    def look_ahead(self, t: int, layers: list[str]) -> dict[int, Features]:
        """Features of this time and the next ones that have the same layers on, by time, read in one batch."""
        step, end = self.times.index(t), min(self.until[name] for name in layers)
        times = self.times[step : min(end, step + max(1, AHEAD // self.rows))]
        about = repr((self.trajectory.key, self.model.identity, layers, times))
        key = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
        known = None if self.cache is None else self.cache.get(key)
        if isinstance(known, dict):
            return known
        latents = torch.cat([self.trajectory.latents[one] for one in times])
        moments = torch.tensor(times, device=latents.device).repeat_interleave(self.rows)
        empty = self.said[: self.rows].repeat(len(times))
        features = read(self.model, latents, moments, empty, layers)
        found: dict[int, Features] = {
            one: {
                name: tuple(part[k * self.rows : (k + 1) * self.rows] for part in parts)
                for name, parts in features.items()
            }
            for k, one in enumerate(times)
        }
        if self.cache is not None:
            self.cache.put(key, found, sum(part.nbytes for parts in features.values() for part in parts))
        return found


def drawn(
    mixers: Sequence[Mixer],
    trajectory: Trajectory,
    times: list[int],
    shares: Sequence[Tensor] | None,
    on_step: Progress | None,
) -> list[Tensor]:
    """Clean latents of each style, or with `shares` of all together."""
    tell = told(on_step, "drawing")
    with lanes([mixer.model for mixer in mixers]) as run:
        if shares is None:
            count = Count(tell, len(mixers) * len(times))
            alone = [(_counted(mixer, count), mixer.model.schedule) for mixer in mixers]
            return run([partial(retrace, predict, schedule, trajectory, times) for predict, schedule in alone])
        x = trajectory.latents[times[0]]
        shares = [share.to(x.device) for share in shares]
        for done, (t, s) in enumerate(pairs(times), 1):
            predicted = run([partial(mixer.predict, x, t) for mixer in mixers])
            moves = [mixer.model.schedule.step(t, s) for mixer in mixers]
            moved = [a * x + b * raw for (a, b), raw in zip(moves, predicted, strict=True)]
            x = torch.stack([share * part for share, part in zip(shares, moved, strict=True)]).sum(0)
            if tell is not None:
                tell(done, len(times))
        return [x]


def _counted(mixer: Mixer, count: Count) -> Callable[[Tensor, int], Tensor]:
    def predict(x: Tensor, t: int) -> Tensor:
        raw = mixer.predict(x, t)
        count()
        return raw

    return predict


def told(on_step: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_step is None else lambda done, steps: on_step(what, done, steps)


def shares_of(regions: Sequence[Mask], height: int, width: int) -> list[Tensor]:
    """What part of the latents each style draws, summing to 1 everywhere, each (height, width) of the latents."""
    grids = [torch.ones(height, width) if one is None else mask_on(one, height, width) for one in regions]
    total = torch.stack(grids).sum(0)
    if bool((total <= 0).any()):
        raise InvalidArgument("the regions leave a part of the picture to no style; let the masks cover it")
    return [grid / total for grid in grids]


def said(model: Denoiser, by: Denoiser | None, prompts: Sequence[str], negative: str) -> Condition:
    """[empty | positive | negative]; with `by`, its text encoder reads the last two and the model's own the first."""
    rows = len(prompts)
    texts = [""] * rows + list(prompts) + [negative] * rows
    own = model.condition(texts)
    if by is None or by is model:
        return own
    other = by.condition(texts)
    if other.tokens.shape != own.tokens.shape:
        raise InvalidArgument(
            f"{by.name} reads prompts as {tuple(other.tokens.shape[1:])} and {model.name} as "
            f"{tuple(own.tokens.shape[1:])} numbers; use prompt_by='style'"
        )
    return join([own[:rows], other[rows:]])


def stacked(found: Sequence[Trajectory]) -> Trajectory:
    """Several trajectories of the same times as one batch."""
    key = hashlib.blake2b(repr([one.key for one in found]).encode(), digest_size=16).hexdigest()
    latents = {t: torch.cat([one.latents[t] for one in found]) for t in found[0].latents}
    second = {t: torch.cat([one.second[t] for one in found]) for t in found[0].second}
    return Trajectory(latents, found[0].inversion, key, second)
