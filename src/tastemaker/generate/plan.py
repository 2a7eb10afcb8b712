"""What a grid is to draw: prompts x models x seeds, checked, and which of it is on disk already."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate import zoo
from tastemaker.generate.picture import Part, Recipe, check_whole, read_recipe

if TYPE_CHECKING:
    from tastemaker.generate.denoiser import StableDiffusion

STEPS, GUIDANCE, PROMPT = 25, 5.0, 2_000  # of models without a card; characters of a prompt


@dataclass(frozen=True)
class Plan:
    """What to draw; made by `plan`, which checks it.

    Attributes:
        prompts, models, seeds: Every combination is a picture.
        negative: What no picture should show.
        loras: LoRAs on top of every model, each with its strength.
        steps, guidance: None takes what a model's card suggests, else 25 and 5.
        width, height: Pixels; None is the model's own size.
        triggers: Whether the trigger words of a model and its LoRAs are appended to prompts that lack them.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    negative: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    triggers: bool = True

    def __len__(self) -> int:
        return len(self.prompts) * len(self.models) * len(self.seeds)


@dataclass(frozen=True)
class Loading:
    """Where and how models are loaded, as `load` takes it.

    Attributes:
        device: auto, cpu, cuda, ...
        dtype: None is what suits the device.
        config: For single-file checkpoints a diffusers folder of the same family.
    """

    device: str = "auto"
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    config: Path | None = None

    def load(self, path: Path, loras: Sequence[tuple[str, float]]) -> StableDiffusion:
        from tastemaker.generate.load import load

        lora = [(zoo.resolve(name, "lora"), scale) for name, scale in loras]
        return load(path, lora=lora, device=self.device, dtype=self.dtype, config=self.config)


AUTO = Loading()


@dataclass(frozen=True)
class Planned:
    """One picture of a plan, where it belongs and how it is made.

    Attributes:
        key: prompt, model, seed as planned.
        file: Where it belongs, below the grid's folder.
        damaged: A file stands there that is damaged, or is not this picture.
    """

    key: tuple[str, str, int]
    file: str
    recipe: Recipe
    damaged: bool = False


def plan(
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    *,
    negative: str = "",
    loras: Sequence[tuple[str, float]] = (),
    steps: int | None = None,
    guidance: float | None = None,
    width: int | None = None,
    height: int | None = None,
    triggers: bool = True,
) -> Plan:
    """A checked plan. Raises InvalidArgument for an empty list, a repeated or unusable prompt, or a wrong number.

    Models are looked up when their turn comes, so that one that is missing does not stop the others.
    """
    for what, values in (("prompt", prompts), ("model", models), ("seed", seeds)):
        if not values:
            raise InvalidArgument(f"a grid needs at least one {what}")
        if twice := [value for value in dict.fromkeys(values) if list(values).count(value) > 1]:
            raise InvalidArgument(f"the {what} {twice[0]!r} is given twice; give it once")
    for prompt in prompts:
        if not prompt.strip() or not prompt.isprintable() or len(prompt) > PROMPT:
            shown = f"{prompt[:40]!r} ({len(prompt):,} characters)"
            raise InvalidArgument(f"prompt {shown}; expected one line of 1 to {PROMPT:,} printable characters")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise InvalidArgument(f"seed {seed}; expected a whole number from 0 to 2**63 - 1")
    if steps is not None and steps < 1:
        raise InvalidArgument(f"steps = {steps}; expected at least 1")
    if guidance is not None and not 0 <= guidance < math.inf:
        raise InvalidArgument(f"guidance = {guidance}; expected 0 or more (5 is usual)")
    return Plan(
        tuple(prompts), tuple(models), tuple(int(seed) for seed in seeds), negative, tuple(loras),
        steps, guidance, width, height, triggers,
    )  # fmt: skip


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """One prompt a line; empty lines and lines that begin with # are left out. Raises DataError."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as prompts, one a line in UTF-8 ({error})", file=path) from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise DataError("holds no prompt; expected one a line", file=path)
    if twice := [prompt for prompt in dict.fromkeys(prompts) if prompts.count(prompt) > 1]:
        raise DataError(f"the prompt {twice[0]!r} stands there twice", file=path)
    return tuple(prompts)


def survey(plan: Plan, name: str, folder: Path) -> tuple[Path, list[Planned], list[Planned]]:
    """Where a model lies, which of its pictures are finished, and which are missing; a damaged one is missing."""
    path = zoo.resolve(name)
    model = Part(name, zoo.fingerprint(path))
    loras = tuple(Part(lora, zoo.fingerprint(zoo.resolve(lora, "lora")), scale) for lora, scale in plan.loras)
    card = zoo.card_of(name)
    styles = (name, *(lora for lora, _ in plan.loras)) if plan.triggers else ()
    finished: list[Planned] = []
    missing: list[Planned] = []
    for prompt, seed in itertools.product(plan.prompts, plan.seeds):
        recipe = Recipe(
            kind="generate",
            prompt=zoo.with_triggers(prompt, styles),
            negative=plan.negative,
            models=(model,),
            loras=loras,
            seed=seed,
            steps=plan.steps or (card.steps if card else STEPS),
            guidance=plan.guidance if plan.guidance is not None else card.guidance if card else GUIDANCE,
            width=plan.width,
            height=plan.height,
        )
        file = f"{slug(Path(name).name)}/{slug(prompt)}-{seed}-{recipe.digest[:10]}.png"
        whole = _recipe_at(folder / file) == recipe.digest
        damaged = not whole and (folder / file).exists()
        (finished if whole else missing).append(Planned((prompt, name, seed), file, recipe, damaged))
    return path, finished, missing


def _recipe_at(path: Path) -> str | None:
    """Digest of the recipe a picture carries; None where there is no whole picture of ours."""
    try:
        check_whole(path)
        return read_recipe(path).digest
    except DataError:
        return None


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.removesuffix(".safetensors").lower())[:40].strip("-") or "x"
