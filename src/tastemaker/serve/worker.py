"""Who draws: one process a device, which takes jobs from the store and stores every picture as it is finished.

Three kinds of work, as the pages order them:

    generate   a prompt by several models, with several seeds
    mix        the content of one picture in the style of several models, or of a weight mix of two
    matrix     every model's drawing of a prompt in every other model's style

A picture goes to PICTURES/ID.png with its recipe, then into the store under a key of its job: a job that is claimed
again after a kill finds what is finished and goes on. Models stay loaded, the last few of them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, MissingExtra
from tastemaker.generate import zoo
from tastemaker.generate.grid import draw_recipes
from tastemaker.generate.picture import Recipe, read_recipe, write_picture
from tastemaker.generate.plan import Loading, plan, survey
from tastemaker.serve.events import Conflict, Made
from tastemaker.serve.gallery import HALVES, maker, named
from tastemaker.serve.jobs import Job, Jobs, Tell, work_on
from tastemaker.serve.store import Store

if TYPE_CHECKING:
    from tastemaker.generate.denoiser import StableDiffusion
    from tastemaker.generate.settings import Settings

_KEPT = 3  # models
_BATCH = 4  # pictures drawn at once
_EVERY = 0.5  # seconds between two words on how far a job is
_DEVICE = re.compile(r"none|auto|cpu|mps|(cuda|xpu)(:\d+)?")


@dataclass(frozen=True)
class Kept(Loading):
    """A loading that keeps the last models it loaded; `kept` is theirs."""

    kept: OrderedDict[object, StableDiffusion] = field(default_factory=OrderedDict, compare=False)

    def load(self, path: Path, loras: Sequence[tuple[str, float]]) -> StableDiffusion:
        name = (str(path), tuple(loras), zoo.fingerprint(path))
        if name not in self.kept:
            self.kept[name] = super().load(path, loras)
        self.kept.move_to_end(name)
        while len(self.kept) > _KEPT:
            self.kept.popitem(last=False)
        return self.kept[name]


@dataclass(frozen=True, eq=False)
class Draftsman:
    """Does jobs.

    Attributes:
        pictures: folder of what is drawn.
        loading: where and how models are loaded.
    """

    store: Store
    pictures: Path
    loading: Loading = field(default_factory=Kept)

    def __call__(self, job: Job, tell: Tell) -> Mapping[str, Any]:
        """The pictures of a job, and numbers about those that have any. Raises what drawing raises."""
        kinds: dict[str, Callable[[Job, Tell], Mapping[str, Any]]] = {
            "generate": self._generate, "mix": self._mix, "matrix": self._matrix,
        }  # fmt: skip
        kind = job.work.get("kind")
        if kind not in kinds:
            raise InvalidArgument(f"work of the kind {kind!r}; this worker knows {', '.join(kinds)}")
        return kinds[kind](job, _seldom(tell))

    def _generate(self, job: Job, tell: Tell) -> Mapping[str, Any]:
        work = job.work
        asked = plan(
            [work["prompt"]], work["models"], work["seeds"], negative=work["negative"],
            steps=work["steps"], guidance=work["guidance"],
        )  # fmt: skip
        made: list[str] = []
        for name in asked.models:
            tell(len(made) / len(asked), f"loading {name}")
            path, _, planned = survey(asked, name, self.pictures)
            made += self._draw(job, path, [one.recipe for one in planned], len(made), len(asked), tell)
        return {"pictures": made}

    def _draw(self, job: Job, path: Path, recipes: list[Recipe], before: int, total: int, tell: Tell) -> list[str]:
        """Recipes of one model and prompt, those that are not finished yet drawn."""
        found = {named(recipe): recipe for recipe in recipes}
        missing = [id for id, recipe in found.items() if not self._finished(id, recipe)]
        done = before + len(found) - len(missing)
        model = self.loading.load(path, ()) if missing else None
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            assert model is not None
            drawn = partial(_drawn, tell, done, total, f"drawing with {recipes[0].models[0].name}")
            images = draw_recipes(model, [found[id] for id in some], drawn)
            for id, image in zip(some, images, strict=True):
                self._keep(job, id, found[id], image)
            done += len(some)
        for id in found.keys() - set(missing):  # killed between the picture and its event, or drawn for another job
            self._keep(job, id, found[id], None)
        return list(found)

    def _mix(self, job: Job, tell: Tell) -> Mapping[str, Any]:
        from tastemaker.generate import orders

        work = job.work
        recipes = orders.order(
            work["picture"], content=work["content"], styles=work["styles"], prompt=work["prompt"],
            settings=_settings(work), mask=work["mask"], shares=work["shares"],
        )  # fmt: skip
        return self._mixed(job, recipes, 0, len(recipes), tell)

    def _matrix(self, job: Job, tell: Tell) -> Mapping[str, Any]:
        from tastemaker.generate import orders

        work = job.work
        models: list[str] = work["models"]
        total = len(models) ** 2
        asked = plan([work["prompt"]], models, [work["seed"]], negative=work["negative"])
        found: dict[str, Any] = {"pictures": [], "numbers": {}, "rows": []}
        for row, content in enumerate(models):
            path, _, planned = survey(asked, content, self.pictures)
            own = self._draw(job, path, [planned[0].recipe], row * len(models), total, tell)[0]
            styles = [name for name in models if name != content]
            recipes = orders.order(
                self.pictures / f"{own}.png", content=content, styles=styles, prompt=work["prompt"],
                settings=_settings(work),
            ) if styles else ()  # fmt: skip
            mixed = self._mixed(job, recipes, row * len(models) + 1, total, tell) if recipes else {"pictures": []}
            line = list(mixed["pictures"])
            line.insert(row, own)
            found["rows"].append(line)
            found["pictures"] += line
            found["numbers"] |= mixed.get("numbers", {})
        return found

    def _mixed(self, job: Job, recipes: Sequence[Recipe], before: int, total: int, tell: Tell) -> dict[str, Any]:
        from tastemaker.generate import orders

        def say(done: float, _: int, text: str) -> None:
            tell((before + done) / total, text)

        made: list[str] = []
        numbers: dict[str, dict[str, float]] = {}
        for one in orders.mix(recipes, self.loading, say):
            id = named(one.recipe)
            self._keep(job, id, _shown(one.recipe, str(job.work.get("source", ""))), one.picture)
            made.append(id)
            told = one.numbers.items()  # an undefined one, such as the edges kept of a plain ground, is left out
            numbers[id] = {name: round(float(value), 4) for name, value in told if math.isfinite(value)}
        return {"pictures": made, "numbers": numbers}

    def _finished(self, id: str, recipe: Recipe) -> bool:
        try:
            return read_recipe(self.pictures / f"{id}.png").digest == recipe.digest
        except DataError:
            return False

    def _keep(self, job: Job, id: str, recipe: Recipe, image: Image.Image | None) -> None:
        """The picture on disk, then the event, for whoever reads the event wants the picture."""
        if image is not None:
            write_picture(image, self.pictures / f"{id}.png", recipe)
        with contextlib.suppress(Conflict):  # an earlier job made the same picture
            made = Made(id, maker(recipe), job.user, recipe.to_json(), job.job)
            self.store.add(made, key=f"job {job.job}: {id}")


def run(where: str, pictures: Path, device: str, parent: int | None = None, *, once: bool = False) -> None:
    """A worker's process, until it is told to end or the process `parent` is gone; with `once`, until nothing waits."""
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    with Store(where) as store:
        draws = Draftsman(store, pictures, Kept(device))
        stop = lambda: ends.is_set() or parent not in (None, os.getppid())  # noqa: E731
        work_on(Jobs(store), draws, worker=f"{os.uname().nodename} {os.getpid()}", device=device, stop=stop, once=once)


def check_devices(devices: Sequence[str]) -> None:
    """Refuse here what a worker's process would only find out with its first job.

    Raises InvalidArgument for what is no device, or one this machine lacks; MissingExtra without PyTorch.
    """
    for one in devices:
        if _DEVICE.fullmatch(one) is None:
            raise InvalidArgument(f"device '{one}'; expected auto, cpu, cuda:0, cuda:1, ..., or none to draw elsewhere")
    if all(one == "none" for one in devices):
        return
    if find_spec("torch") is None or find_spec("diffusers") is None:
        raise MissingExtra("diffusers", "generate")
    for one in devices:
        if one not in ("none", "auto", "cpu"):
            import torch

            try:
                torch.zeros(0, device=one)
            except (RuntimeError, AssertionError) as error:
                told = str(error).splitlines()[0]
                raise InvalidArgument(f"device '{one}' cannot be used here ({told}); try auto or cpu") from error


@contextlib.contextmanager
def workers(where: str, pictures: Path, devices: Sequence[str]) -> Iterator[None]:
    """A worker's process for each device, ended with the block; a job they leave is taken up by the next worker."""
    context = multiprocessing.get_context("spawn")
    here = os.getpid()
    made = [context.Process(target=run, args=(where, pictures, one, here)) for one in devices if one != "none"]
    for one in made:
        one.start()
    try:
        yield
    finally:
        for one in made:
            one.terminate()
        for one in made:
            one.join(5)
            if one.is_alive():
                one.kill()


def _settings(work: Mapping[str, Any]) -> Settings:
    """How to mix, of a job's plain values."""
    from tastemaker.generate.inject import Injection
    from tastemaker.generate.invert import Inversion
    from tastemaker.generate.settings import DEFAULT

    s = work["settings"]
    return replace(
        DEFAULT, steps=s["steps"], strength=s["strength"], alpha=s["alpha"], beta=s["beta"], guidance=s["guidance"],
        negative=work["negative"], injection=Injection(s["attention"], s["convolution"]),
        inversion=Inversion(s["inversion"]),
    )  # fmt: skip


def _shown(recipe: Recipe, source: str) -> Recipe:
    """The recipe of a mix as visitors may see it: without folders of this machine, and without the name of an upload,
    which whoever knows it may look at. The hashes stay."""
    assert recipe.picture is not None
    name = "upload" if source.startswith("/uploads/") else Path(recipe.picture.name).name
    mask = {} if recipe.cocktail.get("mask") in (None, *HALVES) else {"mask": "upload"}
    return replace(recipe, picture=replace(recipe.picture, name=name), cocktail={**recipe.cocktail, **mask})


def _drawn(tell: Tell, done: int, total: int, text: str, part: float) -> None:
    tell((done + part) / total, text)


def _seldom(tell: Tell) -> Tell:
    """Tells are transactions: not more than a few a second."""
    last = 0.0

    def told(progress: float, message: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            tell(progress, message)
            last = time.monotonic()

    return told
