"""The promptbook: every prompt x every model x every seed, drawn once and never twice.

A finished picture is a PNG that carries its recipe, and a row of `catalogue.csv` (which `Catalog.read` reads). Nothing
else is remembered: whoever starts the same grid again, after a kill or a full disk, finds the finished pictures by
their recipes and goes on; a damaged one is drawn anew. File names end in a digest of the recipe without model names, so
other settings, a retrained model or more prompts in the same folder never overwrite or get mistaken for what is there.

    FOLDER/catalogue.csv                       one row a picture, appended when the picture is whole
    FOLDER/MODEL/PROMPT-SEED-DIGEST.png        the pictures
    FOLDER/thumbnails/MODEL/...                the same, at most 128 pixels wide

One model's failure is written down and the others go on; a picture that cannot be written stops the grid, for the next
one could not be either. While one model draws, a thread loads the next: two models are in memory then. Small ones draw
several batches side by side (generate.lanes).
"""

from __future__ import annotations

import itertools
import statistics
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, TastemakerError
from tastemaker.generate import zoo
from tastemaker.generate.catalogue import Catalogue, seconds_a_step
from tastemaker.generate.picture import Recipe, read_picture, write_picture
from tastemaker.generate.plan import AUTO, Loading, Plan, Planned, plan, read_prompts, slug, survey
from tastemaker.generate.sheet import CELL, Cell, sheet, thumbnail

if TYPE_CHECKING:
    from tastemaker.generate.denoiser import StableDiffusion

__all__ = [
    "AUTO", "Estimate", "Failure", "Loading", "Outcome", "Plan", "draw_grid", "draw_recipes", "estimate", "plan",
    "promptbook", "read_prompts", "slug",
]  # fmt: skip

Say = Callable[[float, int, str], None]  # pictures done (a part of one counts as such), pictures in all, what goes on


@dataclass(frozen=True)
class Failure:
    """A model that could not be used, why, and how many pictures are missing for it."""

    model: str
    problem: str
    missing: int


@dataclass(frozen=True)
class Outcome:
    """What a grid came to.

    Attributes:
        files: The finished picture of each (prompt, model, seed) of the plan, in the plan's order.
        drawn, kept: How many were drawn now, and how many were there already.
        failures: Models that failed.
        seconds: Time it took.
        damaged: Files that stood in the place of pictures and were not those, or not whole; they counted as missing.
    """

    files: dict[tuple[str, str, int], Path]
    drawn: int
    kept: int
    failures: tuple[Failure, ...]
    seconds: float
    damaged: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What a grid will cost.

    Attributes:
        pictures, finished: In all, and there already.
        seconds_each: Seconds a picture.
        source: Where that comes from.
        seconds: For all that is left, loading not counted.
        failures: Models that cannot be used as they are.
        damaged: Files in the place of pictures that are not those, or not whole; they count as missing.
    """

    pictures: int
    finished: int
    seconds_each: float
    source: str
    seconds: float
    failures: tuple[Failure, ...]
    damaged: tuple[Path, ...] = ()


def draw_grid(
    plan: Plan,
    folder: str | Path,
    *,
    batch: int = 4,
    loading: Loading = AUTO,
    thumbnails: bool = True,
    say: Say = lambda done, total, text: None,
) -> Outcome:
    """Draw what is missing of a plan, in batches of `batch` pictures.

    Raises DataError where a picture cannot be written (what is finished stays and counts next time) or another process
    is drawing into the folder. Whatever a model does wrong is a Failure of the outcome.
    """
    if batch < 1:
        raise InvalidArgument(f"batch = {batch}; expected at least 1")
    folder, began = Path(folder), time.monotonic()
    files: dict[tuple[str, str, int], Path] = {}
    failures: list[Failure] = []
    damaged: list[Path] = []
    kept = 0
    with Catalogue(folder) as catalogue:
        for job in _prepared(plan, folder, loading):
            if isinstance(job, Failure):
                failures.append(job)
                continue
            for picture in job.finished:
                files[picture.key] = folder / picture.file
                if picture.file not in catalogue.ids:  # killed between the picture and its row
                    image = read_picture(folder / picture.file)
                    catalogue.add(picture.file, picture.recipe, image, None, small=thumbnails)
            kept += len(job.finished)
            damaged += [folder / picture.file for picture in job.missing if picture.damaged]
            for made in _drawn(job, batch, lambda text, part: say(len(files) + part, len(plan), text)):
                if isinstance(made, Failure):
                    failures.append(made)
                    continue
                picture, image, seconds = made
                try:
                    write_picture(image, folder / picture.file, picture.recipe)
                    catalogue.add(picture.file, picture.recipe, image, seconds, small=thumbnails)
                except DataError as error:
                    kept_note = f"{len(files):,} of {len(plan):,} pictures are finished and stay; the same call goes on"
                    raise DataError(f"{error.problem}; {kept_note}", file=error.file) from error
                files[picture.key] = folder / picture.file
    in_order = {key: files[key] for key in itertools.product(plan.prompts, plan.models, plan.seeds) if key in files}
    seconds = time.monotonic() - began
    return Outcome(in_order, len(files) - kept, kept, tuple(failures), seconds, tuple(damaged))


def estimate(plan: Plan, folder: str | Path, *, batch: int = 4, loading: Loading = AUTO) -> Estimate:
    """What a plan will cost, by the seconds its finished pictures took, else by a probe of the first model.

    The probe draws one batch with two steps and one with five, after one to warm up. Writes nothing.
    """
    folder = Path(folder)
    missing: list[Planned] = []
    finished: list[Planned] = []
    failures: list[Failure] = []
    for name in plan.models:
        try:
            _, found, absent = survey(plan, name, folder)
        except (TastemakerError, OSError) as error:
            failures.append(Failure(name, str(error), len(plan) // len(plan.models)))
            continue
        finished += found
        missing += absent
    taken = seconds_a_step(folder, {picture.file for picture in finished})
    steps = statistics.mean(picture.recipe.steps for picture in missing) if missing else 0.0
    each, source = 0.0, "nothing is left to draw"
    if taken:
        each, source = statistics.median(taken) * steps, f"median of {len(taken)} finished pictures"
    elif missing:
        each, source = _probe(plan, missing, batch, round(steps), loading, failures)
    damaged = tuple(folder / picture.file for picture in missing if picture.damaged)
    return Estimate(len(plan), len(finished), each, source, each * len(missing), tuple(failures), damaged)


def promptbook(plan: Plan, outcome: Outcome, *, rows: int = 12) -> list[Image.Image]:
    """Contact sheets of a finished grid: prompts and seeds down, models across, at most `rows` rows a sheet."""
    problems = {failure.model: failure.problem for failure in outcome.failures}
    lines = list(itertools.product(plan.prompts, plan.seeds))
    sheets = []
    for part in (lines[start : start + rows] for start in range(0, len(lines), rows)):
        cells = []
        for prompt, seed in part:
            found = [(model, outcome.files.get((prompt, model, seed))) for model in plan.models]
            cells.append(
                [
                    Cell(thumbnail(read_picture(file), CELL)) if file else Cell(None, (problems.get(model, "missing"),))
                    for model, file in found
                ]
            )
        labels = [f"{prompt} (seed {seed})" if len(plan.seeds) > 1 else prompt for prompt, seed in part]
        sheets.append(sheet(cells, row_labels=labels, column_labels=plan.models))
    return sheets


# -- one model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Job:
    name: str
    model: StableDiffusion | None  # None where nothing is missing
    finished: list[Planned]
    missing: list[Planned]


def _prepared(plan: Plan, folder: Path, loading: Loading) -> Iterator[_Job | Failure]:
    """Every model of the plan ready to draw, the next one loading while the caller works with this one."""
    coming = _ahead(plan, plan.models[0], folder, loading)
    try:
        for name, following in itertools.zip_longest(plan.models, plan.models[1:]):
            job: _Job | Failure
            try:
                job = coming.result()
            except Exception as error:  # whatever it is, it is this model's; the others go on
                job = Failure(name, _said(error), len(plan) // len(plan.models))
            if following is not None:
                coming = _ahead(plan, following, folder, loading)
            yield job
    finally:
        wait([coming])


def _ahead(plan: Plan, name: str, folder: Path, loading: Loading) -> Future[_Job]:
    """`_prepare` in a thread that ends with it.

    One that stayed would keep OpenMP threads of its own, and where there are more of those than cores, the ones that
    draw sleep between two operations instead of waiting: half the speed on two cores.
    """
    loader = ThreadPoolExecutor(1)
    coming = loader.submit(_prepare, plan, name, folder, loading)
    loader.shutdown(wait=False)
    return coming


def _prepare(plan: Plan, name: str, folder: Path, loading: Loading) -> _Job:
    path, finished, missing = survey(plan, name, folder)
    return _Job(name, loading.load(path, plan.loras) if missing else None, finished, missing)


def _drawn(
    job: _Job, batch: int, tell: Callable[[str, float], None]
) -> Iterator[tuple[Planned, Image.Image, float] | Failure]:
    """The missing pictures of a model with the seconds each took; a Failure ends them."""
    if job.model is None:
        return
    done, what = 0, f"drawing with {job.name}"
    tell(what, 0)
    try:
        batches = iter(_batches(job.model, job.missing, batch))
        while some := list(itertools.islice(batches, _abreast(job.model))):
            start = time.monotonic()
            recipes = [[picture.recipe for picture in one] for one in some]
            drawn = _side_by_side(job.model, recipes, partial(tell, what))
            seconds = (time.monotonic() - start) / sum(map(len, some))
            errors = [images for images in drawn if isinstance(images, Exception)]
            for pictures, images in zip(some, drawn, strict=True):
                if not isinstance(images, Exception):
                    for picture, image in zip(pictures, images, strict=True):
                        yield picture, image, seconds
                    done += len(pictures)
            if errors:
                raise errors[0]
    except Exception as error:  # whatever it is, it is this model's; the others go on
        yield Failure(job.name, _said(error), len(job.missing) - done)


def _abreast(model: StableDiffusion) -> int:
    """How many batches of a model to draw at a time."""
    from tastemaker.generate.lanes import MOST, abreast

    return abreast([model] * MOST, hooks=False)


def _side_by_side(
    model: StableDiffusion, batches: Sequence[Sequence[Recipe]], tell: Callable[[float], None] = lambda part: None
) -> list[list[Image.Image] | Exception]:
    """The pictures of each batch, or what went wrong with it; `tell` gets how many pictures are done in all."""
    from tastemaker.generate.lanes import lanes

    parts, lock = [0.0] * len(batches), threading.Lock()

    def told(at: int, part: float) -> None:
        with lock:
            parts[at] = part
            tell(sum(parts))

    def drawn(at: int) -> list[Image.Image] | Exception:
        try:
            return draw_recipes(model, batches[at], partial(told, at))
        except Exception as error:  # the other batches go on
            return error

    with lanes([model] * len(batches), hooks=False) as run:
        return run([partial(drawn, at) for at in range(len(batches))])


def _batches(model: StableDiffusion, pictures: Sequence[Planned], batch: int) -> Iterator[list[Planned]]:
    """At most `batch` pictures at a time whose prompts are read in equally many pieces.

    Beside a longer prompt a shorter one is filled up, which would change its picture.
    """
    prompts = {picture.recipe.prompt: picture.recipe.negative for picture in pictures}
    lengths = {prompt: model.condition([prompt, negative]).tokens.shape[1] for prompt, negative in prompts.items()}
    for length in sorted(set(lengths.values())):
        alike = [picture for picture in pictures if lengths[picture.recipe.prompt] == length]
        yield from (alike[start : start + batch] for start in range(0, len(alike), batch))


def draw_recipes(
    model: StableDiffusion, recipes: Sequence[Recipe], tell: Callable[[float], None] = lambda part: None
) -> list[Image.Image]:
    """One batch of recipes that differ in prompt and seed only; `tell` gets how many of them are done."""
    from tastemaker.generate.draw import draw

    one = recipes[0]
    return draw(
        model,
        [recipe.prompt for recipe in recipes],
        negative=one.negative,
        seeds=[recipe.seed for recipe in recipes],
        steps=one.steps,
        guidance=one.guidance,
        width=one.width,
        height=one.height,
        on_step=lambda step, steps: tell(len(recipes) * step / steps),
    )


def _probe(
    plan: Plan, missing: Sequence[Planned], batch: int, steps: int, loading: Loading, failures: list[Failure]
) -> tuple[float, str]:
    """Seconds a picture, from a batch of two steps and one of five of the first model that draws, and its name.

    Models that do not are added to `failures`.
    """
    for name in dict.fromkeys(picture.key[1] for picture in missing):
        own = [picture.recipe for picture in missing if picture.key[1] == name]
        taken = {}
        try:
            model = loading.load(zoo.resolve(name), plan.loras)
            wide = _abreast(model)
            for n in (1, 2, 5):  # the first one warms up
                start = time.monotonic()
                few = [replace(recipe, steps=n) for recipe in own[: batch * wide]]
                for drawn in _side_by_side(model, [few[at : at + batch] for at in range(0, len(few), batch)]):
                    if isinstance(drawn, Exception):
                        raise drawn
                taken[n] = (time.monotonic() - start) / len(few)
        except Exception as error:  # whatever it is, it is this model's
            failures.append(Failure(name, _said(error), len(own)))
            continue
        return max(taken[2], taken[2] + (steps - 2) * (taken[5] - taken[2]) / 3), f"a probe of {name}"
    return 0.0, "no model draws"


def _said(error: Exception) -> str:
    """What went wrong, in a line: the libraries below sometimes list every tensor."""
    said = str(error) if isinstance(error, TastemakerError) else f"{type(error).__name__}: {error}"
    return textwrap.shorten(said, 400, placeholder=" ...")
