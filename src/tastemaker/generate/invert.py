"""Invert: which noise would this model have made this picture from?

Going up from clean latents z, time by time, each step asks for x_t such that the sampler would step from it to x_s:

    x_s = a x_t + b f(x_t, t),    so    x_t = (x_s - b f(?, t)) / a

- `ddim`: f is evaluated at the new time but the old latents, f(x_s, t). For epsilon-models this is the usual DDIM
  inversion, as in Diffusion Cocktail (arXiv 2312.08873) and Plug-and-Play. For v-models the raw v is held, not the
  noise it means, which would bring the whole picture along to a time where no signal is left.
- `fixed-point` (AIDI, Pan et al., ICCV 2023): iterate x_t <- (x_s - b f(x_t, t)) / a from there.
- `bdia` (Zhang et al., arXiv 2307.10829): a two-step rule that can be solved for the noisier latents; no further calls.
- `edict` (Wallace et al., CVPR 2023): two coupled latents that step in turn; twice the calls.
The last two are exact up to rounding when sampled by their own rules (`retrace`), whatever f is.

Easy to get wrong:
- The two times of a step differ. With the same time on both sides nothing moves, and inversion is the identity.
- The condition is alpha * E(positive) - beta * E(negative), one stream, without guidance.
- The trajectory is keyed by time; the clean latents stand under END.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.generate.denoiser import END, Condition, Denoiser, Schedule, pairs

Kind = Literal["ddim", "fixed-point", "bdia", "edict"]
NOTHING = 0.1  # a step that leaves less than this of the latents divides what is predicted by it, and blows it up
Predict = Callable[[Tensor, int], Tensor]  # latents (B, C, h, w) and a time to the raw prediction


@dataclass(frozen=True)
class Inversion:
    """Attributes:
    kind: see the module.
    iterations: of the fixed point, in each step; it ends earlier where nothing changes any more.
    gamma: of BDIA, in (0, 1]; rounding errors grow by 1 / gamma a step, 0 would be DDIM.
    mix: of EDICT, how much of a latent stays its own, in (0.5, 1].
    """

    kind: Kind = "ddim"
    iterations: int = 5
    gamma: float = 1.0
    mix: float = 0.93

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UnknownName("inversion", self.kind, get_args(Kind))
        if self.iterations < 1 or not 0 < self.gamma <= 1 or not 0.5 < self.mix <= 1:
            raise InvalidArgument(f"{self}; expected iterations >= 1, 0 < gamma <= 1 and 0.5 < mix <= 1")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Latents of pictures at every time of an inversion.

    Attributes:
        latents: time to (B, C, h, w), float32; END has the clean latents.
        second: EDICT's other latents, likewise; empty for other kinds.
        key: hash of everything it was made from.
        round_trip: root mean square difference between the clean latents and those sampled back from the noise with the
            same condition, relative to the clean latents' own; None if it was not measured.
    """

    latents: Mapping[int, Tensor]
    inversion: Inversion
    key: str
    second: Mapping[int, Tensor] = field(default_factory=dict)
    round_trip: float | None = None

    @property
    def times(self) -> list[int]:
        """Descending, without END."""
        return sorted((t for t in self.latents if t != END), reverse=True)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.latents.values(), *self.second.values()))


class Cache:
    """Trajectories (and features read from them) by the hash of what they were made from.

    In memory the least recently used go when `limit` bytes are exceeded; with a folder, trajectories are also written
    there as safetensors, a file each, complete or not at all.
    """

    def __init__(self, folder: str | Path | None = None, *, limit: int = 1 << 29) -> None:
        self.folder, self.limit = None if folder is None else Path(folder), limit
        self._held: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()  # styles that draw side by side share a cache

    def get(self, key: str) -> object | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
            return None

    def put(self, key: str, value: object, nbytes: int) -> None:
        if nbytes > self.limit:
            return
        with self._lock:
            self._held[key] = (value, nbytes)
            while sum(size for _, size in self._held.values()) > self.limit:
                self._held.popitem(last=False)

    def trajectory(self, key: str, device: torch.device) -> Trajectory | None:
        held = self.get(key)
        if isinstance(held, Trajectory):
            return held
        path = self._file(key)
        if path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                facts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(f"a damaged cached inversion: {error}; delete the file", file=path) from error
        found = Trajectory(
            {int(name): tensor for name, tensor in tensors.items() if not name.startswith("second.")},
            Inversion(**json.loads(facts["inversion"])),
            key,
            {int(name[7:]): tensor for name, tensor in tensors.items() if name.startswith("second.")},
            float(facts["round_trip"]) if facts["round_trip"] else None,
        )
        self.put(key, found, found.nbytes)
        return found

    def keep(self, found: Trajectory) -> None:
        self.put(found.key, found, found.nbytes)
        path = self._file(found.key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {str(t): x.contiguous() for t, x in found.latents.items()}
        tensors |= {f"second.{t}": x.contiguous() for t, x in found.second.items()}
        trip = "" if found.round_trip is None else repr(found.round_trip)
        part = path.with_suffix(f".part{os.getpid()}")
        save_file(tensors, part, metadata={"inversion": json.dumps(asdict(found.inversion)), "round_trip": trip})
        part.replace(path)

    def _file(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.safetensors"


def invert(
    model: Denoiser,
    latents: Tensor,
    condition: Condition,
    *,
    steps: int,
    inversion: Inversion = Inversion(),
    round_trip: bool = False,
    cache: Cache | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """The trajectory of clean latents (B, C, h, w) up to noise, `steps` times, all pictures in one batch.

    Args:
        condition: of B rows, or of one for all; see `Condition.scaled` for alpha and beta.
        round_trip: also sample back and report the error; as many calls again.

    Raises:
        InvalidArgument: rows of condition and latents that do not fit, or impossible steps.
    """
    if len(condition) not in (1, len(latents)):
        raise InvalidArgument(f"{len(latents)} pictures and {len(condition)} conditions; expected as many, or one")
    condition = condition if len(condition) == len(latents) else condition.repeat(len(latents))
    times = model.schedule.timesteps(steps)
    key = _key(model, latents, condition, times, inversion)
    cached = None if cache is None else cache.trajectory(key, latents.device)
    if cached is not None and not (round_trip and cached.round_trip is None):
        return cached

    def predict(x: Tensor, t: int) -> Tensor:
        return model.predict(x, t, condition)

    latents = latents.float()
    found, second = climb(predict, model.schedule, latents, times, inversion, on_step)
    trajectory = Trajectory(found, inversion, key, second)
    if round_trip:
        back = retrace(predict, model.schedule, trajectory, times)
        error = (back - latents).square().mean().sqrt() / latents.square().mean().sqrt()
        trajectory = replace(trajectory, round_trip=float(error))
    if cache is not None:
        cache.keep(trajectory)
    return trajectory


def climb(
    predict: Predict,
    schedule: Schedule,
    x: Tensor,
    times: Sequence[int],
    inversion: Inversion = Inversion(),
    on_step: Callable[[int, int], None] | None = None,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Latents at every time (and EDICT's second ones) from clean latents x; `times` descend."""
    found, second = {END: x}, {END: x.clone()} if inversion.kind == "edict" else {}
    upward = pairs(times)[::-1]
    for done, (t, s) in enumerate(upward, 1):
        a, b = schedule.step(t, s)
        if a < NOTHING:
            raise InvalidArgument(
                f"steps = {len(times)}; a step from a clean picture to pure noise cannot be inverted: take 2 or more "
                "(25 are usual)"
            )
        if inversion.kind == "edict":
            found[t], second[t] = _uncouple(predict, found[s], second[s], t, a, b, inversion.mix, done % 2 == 1)
        elif inversion.kind == "bdia" and s != END:
            below = upward[done - 2][1]  # the time under s
            raw = predict(found[s], s)
            down, up = _leap(schedule, raw, found[s], s, below), _leap(schedule, raw, found[s], s, t)
            kept = (1 - inversion.gamma) * found[s]
            found[t] = (found[below] - kept - (down - found[s])) / inversion.gamma + (up - found[s])
        else:
            found[t] = (found[s] - b * predict(found[s], t)) / a
            for _ in range(inversion.iterations if inversion.kind == "fixed-point" else 0):
                moved = (found[s] - b * predict(found[t], t)) / a
                change, found[t] = float((moved - found[t]).abs().max()), moved
                if change < 1e-6:
                    break
        if on_step is not None:
            on_step(done, len(times))
    return found, second


def retrace(predict: Predict, schedule: Schedule, trajectory: Trajectory, times: Sequence[int]) -> Tensor:
    """Clean latents from the trajectory's noise at times[0], by the sampler that matches its inversion.

    `predict` may be anything, such as another model with guidance; with the one that was inverted, BDIA and EDICT give
    back what they were given. Times must be times of the trajectory; BDIA and EDICT are exact with all of them.
    """
    inversion, x = trajectory.inversion, trajectory.latents[times[0]]
    y = trajectory.second.get(times[0], x)
    above = x
    for number, (t, s) in enumerate(pairs(times)):
        a, b = schedule.step(t, s)
        if inversion.kind == "edict":
            x, y = _couple(predict, x, y, t, a, b, inversion.mix, (len(times) - number) % 2 == 1)
        elif inversion.kind == "bdia" and number == 0 and s != END:
            above, x = x, trajectory.latents[s]  # the rule takes two latents to begin with
        elif inversion.kind == "bdia" and number:
            raw = predict(x, t)
            down, up = _leap(schedule, raw, x, t, s), _leap(schedule, raw, x, t, times[number - 1])
            below = inversion.gamma * (above - (up - x)) + (1 - inversion.gamma) * x + (down - x)
            above, x = x, below
        else:
            x = a * x + b * predict(x, t)
    return x


def _leap(schedule: Schedule, raw: Tensor, x: Tensor, t: int, s: int) -> Tensor:
    """Where one DDIM step of x at time t to time s lands."""
    a, b = schedule.step(t, s)
    return a * x + b * raw


def _couple(
    predict: Predict, x: Tensor, y: Tensor, t: int, a: float, b: float, mix: float, swap: bool
) -> tuple[Tensor, Tensor]:
    """One EDICT step down; the two latents take turns in going first."""
    x, y = (y, x) if swap else (x, y)
    x = a * x + b * predict(y, t)
    y = a * y + b * predict(x, t)
    x = mix * x + (1 - mix) * y
    y = mix * y + (1 - mix) * x
    return (y, x) if swap else (x, y)


def _uncouple(
    predict: Predict, x: Tensor, y: Tensor, t: int, a: float, b: float, mix: float, swap: bool
) -> tuple[Tensor, Tensor]:
    """`_couple` solved for the latents it began with."""
    x, y = (y, x) if swap else (x, y)
    y = (y - (1 - mix) * x) / mix
    x = (x - (1 - mix) * y) / mix
    y = (y - b * predict(x, t)) / a
    x = (x - b * predict(y, t)) / a
    return (y, x) if swap else (x, y)


def _key(model: Denoiser, latents: Tensor, condition: Condition, times: list[int], inversion: Inversion) -> str:
    digest = hashlib.blake2b(repr((model.identity, times, inversion)).encode(), digest_size=16)
    for tensor in (latents, condition.tokens, condition.pooled):
        if tensor is not None:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
