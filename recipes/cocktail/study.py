"""Through all pairs of models: draw what each method draws, once, and keep it.

One job is an arm on the pictures of one source, for one target; inversions are shared between targets and between arms
that differ in nothing the inversion depends on. With a folder every finished job lies there as an .npz file, called by
the weights of both models: a run that was stopped goes on where it was, a model or a prompt that comes later costs its
own pictures alone, and pictures can be judged anew without being drawn anew. Several processes may share the jobs
(`together`).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from recipes.cocktail.methods import ABLATIONS, Arm, Batch, drawn
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate import zoo
from tastemaker.generate.cocktail import common_times
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.draw import draw
from tastemaker.generate.invert import Cache
from tastemaker.generate.load import load
from tastemaker.generate.settings import DEFAULT

Pictures = NDArray[np.uint8]  # (n, height, width, 3)
Kept = tuple[Pictures, float | None]  # with the mean round-trip error, where it was measured
Say = Callable[[str], None]
OTHER, LEARN = (
    1_000_000,
    2_000_000,
)  # what is added to seeds: for other noise, for pictures the style reader learns from


@dataclass(frozen=True)
class Plan:
    """What decides the pictures.

    Attributes:
        models: as they were given.
        prompts: what every model draws.
        seeds: pictures of each prompt.
        seed: the first seed.
        steps, guidance: of every method that has no own.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: int
    seed: int
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if len(self.models) < 2 or len(set(self.names)) < len(self.models):
            raise InvalidArgument(f"models {', '.join(self.models) or 'none'}; expected two or more of different names")
        if not self.prompts or self.seeds < 1 or self.steps < 2:
            raise InvalidArgument(
                f"{len(self.prompts)} prompts, {self.seeds} seeds, {self.steps} steps; expected at least 1, 1 and 2"
            )

    @property
    def names(self) -> list[str]:
        return [Path(model).stem for model in self.models]

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(number of the prompt, seed) of each picture a model draws."""
        n = len(self.prompts)
        return [(at, self.seed + n * turn + at) for turn in range(self.seeds) for at in range(n)]

    @property
    def asked(self) -> list[tuple[str, int]]:
        """Prompt and seed of each picture a model draws."""
        return [(self.prompts[at], seed) for at, seed in self.cells]


@dataclass(frozen=True, eq=False)
class Study:
    """The plan with its models loaded.

    Attributes:
        models: by short name, in the plan's order.
        keep: folder of finished jobs, or None.
        batch: pictures drawn at once.
        pairs: (source, target) of those that are compared; None for all.
    """

    plan: Plan
    models: dict[str, StableDiffusion]
    keep: Path | None = None
    batch: int = 16
    pairs: frozenset[tuple[str, str]] | None = None
    say: Say = field(default=lambda _: None)

    @classmethod
    def of(cls, plan: Plan, *, device: str, dtype: str | None, **how: Any) -> Study:
        """With the plan's models loaded; `how` has the other attributes."""
        loaded = [load(zoo.resolve(name), device=device, dtype=dtype) for name in plan.models]
        return cls(plan, dict(zip(plan.names, loaded, strict=True)), **how)

    def __post_init__(self) -> None:
        """All that can be refused is refused before any work."""
        first, *others = self.models.values()
        common_times(first, others, DEFAULT)
        if len({model.size for model in self.models.values()}) > 1:
            sizes = {name: model.size for name, model in self.models.items()}
            raise InvalidArgument(f"models of sizes {sizes}; expected one size, to compare their pictures")
        if self.keep is not None:
            self._same_plan(self.keep)

    def jobs(self, arms: Sequence[Arm]) -> Iterator[tuple[str, Arm]]:
        """Sources and what is done with them: ablations with the first model's pictures only."""
        first, sources = next(iter(self.models)), [name for name in self.models if self.targets(name)]
        return ((name, arm) for name in sources for arm in arms if arm.method not in ABLATIONS or name == first)

    def targets(self, source: str) -> list[str]:
        """The models whose style the source's pictures are brought into."""
        others = [name for name in self.models if name != source]
        return [name for name in others if self.pairs is None or (source, name) in self.pairs]

    def finished(self, arms: Sequence[Arm]) -> tuple[Study, list[Arm]]:
        """What a study that was stopped has whole: its pairs, and the settings that are there for all of them."""

        def there(source: str, target: str, arm: Arm) -> bool:
            return not arm.asks_source or self._whole(self._job(source, target, arm))

        methods = [arm for arm in arms if arm.method not in ABLATIONS]
        both = [(source, target) for source in self.models for target in self.targets(source)]
        pairs = [pair for pair in both if all(there(*pair, arm) for arm in methods)]
        if not pairs:
            raise InvalidArgument(f"no pair of models of which all {len(methods)} settings are kept; draw them first")
        first = [pair for pair in pairs if pair[0] == next(iter(self.models))]
        kept = [arm for arm in arms if arm in methods or all(there(*pair, arm) for pair in first)]
        return replace(self, pairs=frozenset(pairs)), kept

    def own(self, name: str) -> Pictures:
        """What the model draws itself, a picture a cell."""
        return self._own(name, 0, self.plan.guidance)

    def learn(self, name: str) -> Pictures:
        """Two more pictures of each cell, with other seeds, that no method is judged on."""
        return np.concatenate([self._own(name, offset, self.plan.guidance) for offset in (LEARN, LEARN + OTHER)])

    def brought(self, source: str, arm: Arm) -> tuple[dict[str, Pictures], float | None]:
        """The source's pictures in the style of each other model, and the mean round-trip error if it was measured."""
        if not arm.asks_source:
            noise = OTHER if arm.method == "alone" else 0
            return {name: self._own(name, noise, arm.guidance) for name in self.targets(source)}, None
        found = {target: self._pair(source, target, arm) for target in self.targets(source)}
        trips = [trip for _, trip in found.values() if trip is not None]
        return {target: pictures for target, (pictures, _) in found.items()}, float(np.mean(trips)) if trips else None

    def _pair(self, source: str, target: str, arm: Arm) -> Kept:
        def make(chunk: list[int]) -> tuple[list[Image.Image], float | None]:
            self.say(f"{source} to {target}: {arm.name}")
            return drawn(
                arm, self.models[source], self.models[target], self._batch(source, target, chunk),
                steps=self.plan.steps, cache=self._cache,
            )  # fmt: skip

        return self._kept(self._job(source, target, arm), make)

    def _job(self, source: str, target: str, arm: Arm) -> str:
        return f"{self._weights(source)}/{self._weights(target)}/{arm.job}"

    def _weights(self, name: str) -> str:
        """A folder for what depends on this model's weights."""
        return f"{name}-{hashlib.sha256(self.models[name].identity.encode()).hexdigest()[:8]}"

    @cached_property
    def _lengths(self) -> dict[str, tuple[int, ...]]:
        """How many tokens every model makes of a prompt and of what it says for that."""
        return {
            prompt: tuple(
                model.condition([text]).tokens.shape[1]
                for name, model in self.models.items()
                for text in (prompt, self._said(name, prompt))
            )
            for prompt in self.plan.prompts
        }

    def chunks(self, first: int = 0) -> list[list[int]]:
        """Numbers of cells from `first` on that go together: prompts of equal length, `batch` at most."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, (at, _) in list(enumerate(self.plan.cells))[first:]:
            groups.setdefault(self._lengths[self.plan.prompts[at]], []).append(row)
        return [rows[i : i + self.batch] for rows in groups.values() for i in range(0, len(rows), self.batch)]

    @cached_property
    def _cache(self) -> Cache:
        return Cache()

    def _said(self, name: str, prompt: str) -> str:
        """The prompt with the model's trigger words, where its card has any."""
        return zoo.with_triggers(prompt, [self.plan.models[self.plan.names.index(name)]])

    def _batch(self, source: str, target: str, rows: Sequence[int]) -> Batch:
        cells = [self.plan.cells[row] for row in rows]
        prompts = [self.plan.prompts[at] for at, _ in cells]
        return Batch(
            [Image.fromarray(self.own(source)[row]) for row in rows],
            [self._said(source, prompt) for prompt in prompts],
            [self._said(target, prompt) for prompt in prompts],
            [seed for _, seed in cells],
            [seed + OTHER for _, seed in cells],
        )

    def _own(self, name: str, offset: int, guidance: float) -> Pictures:
        job = f"own-{offset}" if guidance == self.plan.guidance else f"own-{offset}-at-{guidance:g}"

        def make(chunk: list[int]) -> tuple[list[Image.Image], float | None]:
            self.say(f"{name}: {job}")
            cells = [self.plan.cells[row] for row in chunk]
            made = draw(
                self.models[name], [self._said(name, self.plan.prompts[at]) for at, _ in cells],
                seeds=[seed + offset for _, seed in cells], steps=self.plan.steps, guidance=guidance,
            )  # fmt: skip
            return made, None

        return self._kept(f"{self._weights(name)}/{job}", make)[0]

    # -- what is kept --------------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> dict[str, Kept]:
        return {}

    def _kept(self, name: str, make: Callable[[list[int]], tuple[list[Image.Image], float | None]]) -> Kept:
        """A job's pictures: from memory, from the folder, or made, cells that are not there alone, and put there."""
        if name in self._held:
            return self._held[name]
        path = None if self.keep is None else self.keep / f"{name}.npz"
        found = None if path is None or not path.exists() else _read(path)
        there = 0 if found is None else len(found[0])
        if found is None or there < len(self.plan.cells):
            rows = {} if found is None else dict(enumerate(found[0]))
            trips = [] if found is None or found[1] is None else [found[1]] * there
            for chunk in self.chunks(there):
                made, trip = make(chunk)
                rows |= zip(chunk, map(np.asarray, made), strict=True)
                trips += [] if trip is None else [trip] * len(chunk)
            found = np.stack([rows[row] for row in range(len(rows))]), float(np.mean(trips)) if trips else None
            if path is not None:
                _write(path, found)
        if path is None or "/own-" in name:
            self._held[name] = found
        return found

    def _whole(self, name: str) -> bool:
        """Whether the folder has the job's pictures of all cells."""
        path = None if self.keep is None else self.keep / f"{name}.npz"
        return path is not None and path.exists() and len(_read(path)[0]) == len(self.plan.cells)

    def _same_plan(self, folder: Path) -> None:
        """The folder may hold the first cells of the plan: the others are then drawn, each job's as it is asked for."""
        path = folder / "plan.json"
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                was = Plan(self.plan.models, **(kept | {"prompts": tuple(kept["prompts"])}))
            except (ValueError, TypeError, KeyError) as error:
                text = "is not a kept plan; expected what --keep wrote: take another folder"
                raise DataError(text, file=path) from error
            other = [name for name in ("seed", "steps", "guidance") if getattr(was, name) != getattr(self.plan, name)]
            if not other and was.asked != self.plan.asked[: len(was.asked)]:
                other = ["prompts"]
            if other:
                raise DataError(
                    f"holds pictures of other {', '.join(other)}; take another folder for --keep", file=path
                )
        wanted = {name: at for name, at in asdict(self.plan).items() if name != "models"}
        part = path.with_suffix(f".part{os.getpid()}")
        part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


# -- several processes ----------------------------------------------------------------------------------------------

_SHARED: list[Study] = []  # of a process that draws for another: its own, with its own models


def together(study: Study, arms: Sequence[Arm], hands: int, *, device: str, dtype: str | None) -> None:
    """Draw what is not kept yet with so many processes, for `study` to find in its folder."""
    how = {"device": device, "dtype": dtype, "keep": study.keep, "batch": study.batch}
    with ProcessPoolExecutor(
        hands, multiprocessing.get_context("spawn"), initializer=_join, initargs=(study.plan, hands, how)
    ) as pool:
        list(pool.map(_draw, study.models))
        jobs = list(study.jobs(arms))
        for done, (name, arm) in enumerate(pool.map(_bring, jobs), 1):
            study.say(f"{done} of {len(jobs)} jobs: {name}, {arm.name}")


def _join(plan: Plan, hands: int, how: dict[str, Any]) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // hands))
    _SHARED.append(Study.of(plan, **how))


def _draw(name: str) -> None:
    _SHARED[0].own(name)
    _SHARED[0].learn(name)


def _bring(job: tuple[str, Arm]) -> tuple[str, Arm]:
    _SHARED[0].brought(*job)
    return job


def _write(path: Path, found: Kept) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    with part.open("wb") as file:
        np.savez_compressed(file, pictures=found[0], trip=np.nan if found[1] is None else found[1])
    part.replace(path)


def _read(path: Path) -> Kept:
    try:
        with np.load(path, allow_pickle=False) as file:
            pictures, trip = file["pictures"], float(file["trip"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not what --keep wrote ({error}); delete it", file=path) from error
    return pictures, None if np.isnan(trip) else trip
