"""Through all pairs of models: draw what each method draws, once, and keep it.

One job is an arm on the pictures of one source, for all targets; inversions are shared between targets and between arms
that differ in nothing the inversion depends on. With a folder every finished job lies there as an .npz file, so a run
that was stopped goes on where it was, and pictures can be judged anew without being drawn anew.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.cocktail.methods import Arm, Batch, drawn
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate import zoo
from tastemaker.generate.cocktail import common_times
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.draw import draw
from tastemaker.generate.invert import Cache
from tastemaker.generate.settings import DEFAULT

Pictures = NDArray[np.uint8]  # (n, height, width, 3)
Say = Callable[[str], None]
OTHER, LEARN = (
    1_000_000,
    2_000_000,
)  # what is added to seeds: for other noise, for pictures the style reader learns from
ALONE = {"same_noise": 0, "other_noise": OTHER}


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


@dataclass(frozen=True, eq=False)
class Study:
    """The plan with its models loaded.

    Attributes:
        models: by short name, in the plan's order.
        keep: folder of finished jobs, or None.
        batch: pictures drawn at once.
    """

    plan: Plan
    models: dict[str, StableDiffusion]
    keep: Path | None = None
    batch: int = 16
    say: Say = field(default=lambda _: None)

    def __post_init__(self) -> None:
        """All that can be refused is refused before any work."""
        first, *others = self.models.values()
        common_times(first, others, DEFAULT)
        if len({model.size for model in self.models.values()}) > 1:
            sizes = {name: model.size for name, model in self.models.items()}
            raise InvalidArgument(f"models of sizes {sizes}; expected one size, to compare their pictures")
        if self.keep is not None:
            self._same_plan(self.keep)

    def own(self, name: str) -> Pictures:
        """What the model draws itself, a picture a cell."""
        return self._own(name, 0)

    def learn(self, name: str) -> Pictures:
        """Two more pictures of each cell, with other seeds, that no method is judged on."""
        return np.concatenate([self._own(name, LEARN), self._own(name, LEARN + OTHER)])

    def brought(self, source: str, arm: Arm) -> tuple[dict[str, Pictures], float | None]:
        """The source's pictures in the style of each other model, and the mean round-trip error if it was measured."""
        targets = [name for name in self.models if name != source]
        if arm.method in ALONE:
            return {name: self._own(name, ALONE[arm.method]) for name in targets}, None

        def make() -> tuple[Pictures, float | None]:
            self.say(f"{source}: {arm.name}")
            pictures, trips = [], []
            for target in targets:
                rows: dict[int, Image.Image] = {}
                for chunk in self.chunks:
                    made, trip = drawn(
                        arm, self.models[source], self.models[target], self._batch(source, target, chunk),
                        steps=self.plan.steps, guidance=self.plan.guidance, cache=self._cache,
                    )  # fmt: skip
                    rows |= zip(chunk, made, strict=True)
                    trips += [] if trip is None else [trip]
                pictures.append(np.stack([np.asarray(rows[row]) for row in range(len(rows))]))
            return np.stack(pictures), float(np.mean(trips)) if trips else None

        found, trip = self._kept(f"{source}/{arm.job}", make)
        return dict(zip(targets, found, strict=True)), trip

    @cached_property
    def chunks(self) -> list[list[int]]:
        """Numbers of cells that go together: prompts as long as each other for every model, `batch` at most."""
        lengths: dict[str, tuple[int, ...]] = {
            prompt: tuple(
                model.condition([text]).tokens.shape[1]
                for name, model in self.models.items()
                for text in (prompt, self._said(name, prompt))
            )
            for prompt in self.plan.prompts
        }
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, (at, _) in enumerate(self.plan.cells):
            groups.setdefault(lengths[self.plan.prompts[at]], []).append(row)
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

    def _own(self, name: str, offset: int) -> Pictures:
        def make() -> tuple[Pictures, float | None]:
            self.say(f"{name}: its own pictures")
            rows: dict[int, Image.Image] = {}
            for chunk in self.chunks:
                cells = [self.plan.cells[row] for row in chunk]
                made = draw(
                    self.models[name], [self._said(name, self.plan.prompts[at]) for at, _ in cells],
                    seeds=[seed + offset for _, seed in cells], steps=self.plan.steps, guidance=self.plan.guidance,
                )  # fmt: skip
                rows |= zip(chunk, made, strict=True)
            return np.stack([np.asarray(rows[row]) for row in range(len(rows))]), None

        return self._kept(f"{name}/own-{offset}", make)[0]

    # -- what is kept --------------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> dict[str, tuple[Pictures, float | None]]:
        return {}

    def _kept(self, name: str, make: Callable[[], tuple[Pictures, float | None]]) -> tuple[Pictures, float | None]:
        """A job's pictures: from memory, from the folder, or made and put there whole."""
        if name in self._held:
            return self._held[name]
        path = None if self.keep is None else self.keep / f"{name}.npz"
        if path is not None and path.exists():
            found = _read(path)
        else:
            found = make()
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".part{os.getpid()}")
                with part.open("wb") as file:
                    np.savez_compressed(file, pictures=found[0], trip=np.nan if found[1] is None else found[1])
                part.replace(path)
        if path is None or "/own-" in name:
            self._held[name] = found
        return found

    def _same_plan(self, folder: Path) -> None:
        wanted = json.loads(json.dumps(asdict(self.plan) | {"identities": [m.identity for m in self.models.values()]}))
        path = folder / "plan.json"
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            other = [name for name in wanted if kept.get(name) != wanted[name]]
        except (ValueError, AttributeError) as error:
            raise DataError("is not a kept plan; expected what --keep wrote: take another folder", file=path) from error
        if other:
            raise DataError(f"holds pictures of other {', '.join(other)}; take another folder for --keep", file=path)


def _read(path: Path) -> tuple[Pictures, float | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            pictures, trip = file["pictures"], float(file["trip"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not what --keep wrote ({error}); delete it", file=path) from error
    return pictures, None if np.isnan(trip) else trip
