"""`tastemaker zoo`, `generate`, `grid` and `recipe`: which models there are, what they draw, how a picture was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from cyclopts import Parameter

from tastemaker.cli.app import Json, app
from tastemaker.errors import InvalidArgument, TastemakerError
from tastemaker.terminal import counting, err, out, print_facts, print_json, print_table

if TYPE_CHECKING:
    from PIL import Image

    from tastemaker.generate.grid import Failure, Loading, Plan

Models = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Machine:
    """Where models run.

    Attributes:
        device: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        dtype: Arithmetic of the networks; float32 on the CPU and float16 on a GPU when not given.
        family: For single .safetensors checkpoints: a diffusers folder of the same family, for tokenizer and scheduler.
    """

    device: str = "auto"
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    family: Path | None = None

    @property
    def loading(self) -> Loading:
        from tastemaker.generate.grid import Loading

        return Loading(self.device, self.dtype, self.family)


@Parameter(name="*")
@dataclass(frozen=True)
class Drawing:
    """How to draw.

    Attributes:
        negative: What no picture should show.
        lora: LoRAs on top of every model: FILE, FILE:SCALE or zoo/NAME:SCALE; may be given several times.
        seeds: Pictures of each prompt by each model; their seeds count up from --seed.
        seed: The first seed.
        steps: Denoising steps; what the model's card suggests when not given, else 25.
        guidance: How strictly to follow the prompt; what the model's card suggests when not given, else 5.
        width: Pixels; the model's own size when not given.
        height: Pixels; the model's own size when not given.
        batch: Pictures drawn at once; more is faster on a GPU and takes more memory.
        trigger: Append the trigger words of models and LoRAs to prompts that lack them.
    """

    negative: str = ""
    lora: Annotated[list[str], Parameter(consume_multiple=True, negative="")] = field(default_factory=list)
    seeds: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    batch: int = 4
    trigger: bool = True

    def plan(self, prompts: Sequence[str], models: Sequence[str]) -> Plan:
        from tastemaker.generate import grid, zoo

        if self.seeds < 1:
            raise InvalidArgument(f"--seeds {self.seeds}; expected the number of pictures of each prompt, at least 1")
        return grid.plan(
            prompts,
            zoo.find(models),
            range(self.seed, self.seed + self.seeds),
            negative=self.negative,
            loras=scaled(self.lora),
            steps=self.steps,
            guidance=self.guidance,
            width=self.width,
            height=self.height,
            triggers=self.trigger,
        )


MACHINE, DRAWING = Machine(), Drawing()


def scaled(loras: Sequence[str], usual: float = 1.0) -> list[tuple[str, float]]:
    """FILE:SCALE as (file, scale); the scale is the usual one when not given. A file's name may hold a colon."""
    pairs = []
    for given in loras:
        name, colon, scale = given.rpartition(":")
        try:
            pairs.append((name, float(scale)) if colon and not Path(given).exists() else (given, usual))
        except ValueError as error:
            raise InvalidArgument(f"--lora {given}; expected FILE or FILE:SCALE, such as wash:0.7") from error
    return pairs


@app.command
def zoo(*, sheet: Path | None = None, json: Json = False) -> None:
    """The embedded models: small, real, drawing without GPU, hub or network.

    Each is named zoo/NAME wherever a model is asked for; zoo/* (or just zoo)
    means all of them.

    Args:
        sheet: Write one picture with an example of each to this .png file.
    """
    from tastemaker.generate import sheet as sheets
    from tastemaker.generate import zoo as models
    from tastemaker.generate.picture import read_picture, write_picture

    cards = models.zoo()
    if not cards:
        err.print("no embedded models in this version; give --models a folder in diffusers layout instead")
    if sheet is not None:
        examples = [
            sheets.Cell(read_picture(card.folder / one.file), (card.source, f"{card.title}: {one.prompt}"))
            for card in cards
            for one in card.examples[:1]
        ]
        rows = [examples[start : start + 4] for start in range(0, len(examples), 4)]
        write_picture(sheets.sheet(rows, title="The embedded models"), sheet)
    if json:
        print_json([{"model": card.source, **asdict(card)} for card in cards])
    else:
        table = [
            {
                "model": card.source,
                "draws": card.title,
                "kind": card.kind,
                "trigger words": ", ".join(card.trigger) or None,
                "pixels": card.size,
                "licence": card.licence,
            }
            for card in cards
        ]
        print_table("the embedded models", pl.DataFrame(table), whole=("model",))
        if cards:
            out.print("\nthey know", *cards[0].data[1:], sep="\n  ", highlight=False)
            out.print(f"\ntry: tastemaker generate {cards[0].examples[0].prompt!r} --models 'zoo/*'", highlight=False)
    if sheet is not None:
        err.print(f"sheet: {sheet.resolve()}", soft_wrap=True)


@app.command
def generate(
    *prompts: str,
    models: Models = ["zoo/*"],  # noqa: B006
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("pictures"),
    drawing: Drawing = DRAWING,
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """Draw prompts with models, and a contact sheet of all side by side.

    Every picture is a PNG that carries its recipe (see `tastemaker recipe`).
    What is in the folder already is not drawn again. Quote prompts, and put
    them before --models; patterns work quoted or not.

        generate "a red apple" --models zoo/*
        generate "a cat" "a dog" --models zoo/ink zoo/pixel --seeds 4 -o pets
        generate "a lighthouse" --models checkpoints/ --lora wash:0.7

    Args:
        prompts: What to draw, each prompt in quotes.
        models: zoo/NAME, folders in diffusers layout, .safetensors checkpoints, folders of models, or patterns.
        to: Folder for pictures and sheet.
    """
    if not prompts:
        raise InvalidArgument(
            "no prompt; say what to draw before --models, such as: generate 'a red apple' --models zoo"
        )
    plan = drawing.plan(prompts, models)
    _draw(plan, to, drawing.batch, machine, thumbnails=False, json=json)


@app.command
def grid(
    prompts: Path,
    *,
    models: Models = ["zoo/*"],  # noqa: B006
    to: Annotated[Path, Parameter(name=["--out", "-o"])],
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    thumbnails: bool = True,
    drawing: Drawing = DRAWING,
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """Draw a whole promptbook: every prompt by every model with every seed.

    The same command again goes on where the last one ended, however it
    ended; what is finished is recognised by the recipe in each picture.
    A model that fails is reported and skipped, and the exit code is 1 then.
    FOLDER gets the pictures, thumbnails, contact sheets and catalogue.csv
    with a row a picture.

        grid prompts.txt --models 'models/*' --seeds 2 --out book --dry-run
        grid prompts.txt --models 'models/*' --seeds 2 --out book

    Args:
        prompts: Text file with one prompt a line; empty lines and lines that begin with # are left out.
        models: zoo/NAME, folders in diffusers layout, .safetensors checkpoints, folders of models, or patterns.
        to: Folder to fill.
        dry_run: Only say what is left to draw and how long it will take (by a short probe where nothing is drawn yet).
        thumbnails: Also write each picture small.
    """
    from tastemaker.generate import grid as grids

    plan = drawing.plan(grids.read_prompts(prompts), models)
    if not dry_run:
        _draw(plan, to, drawing.batch, machine, thumbnails=thumbnails, json=json)
        return
    warn_of_words(plan.prompts, plan.models)
    with counting("looking", len(plan.models)) as say:
        say(0, len(plan.models), "looking at models, timing the first")
        guess = grids.estimate(plan, to, batch=drawing.batch, loading=machine.loading)
    facts = {
        "pictures": guess.pictures,
        "finished": guess.finished,
        "seconds a picture": guess.seconds_each,
        "measured by": guess.source,
        "seconds left": guess.seconds,
        "time left": f"{_spoken(guess.seconds)} and the loading of models",
    }
    if json:
        print_json(facts | {"failures": [asdict(failure) for failure in guess.failures]})
    else:
        print_facts(facts)
    _mourn(guess.damaged, "is left to draw")
    _complain(guess.failures, len(plan.models))


@app.command
def recipe(
    picture: Path,
    *,
    again: Annotated[bool, Parameter(negative="")] = False,
    to: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """How a picture was made, from the recipe it carries; or make it anew.

    Drawing it anew needs the same models (and for a mix the same source
    picture) where the recipe names them; where their content has changed
    since, this is refused. The difference printed is the largest over all
    pixels, of 255: on another device or another version of torch it is
    small, not always 0.

    Args:
        picture: A .png that tastemaker wrote.
        again: Draw it anew and compare.
        to: Where to write the new picture; PICTURE-again.png when not given.
    """
    from tastemaker.generate import picture as pictures

    read = pictures.read_recipe(picture)
    facts: dict[str, Any] = {"recipe": loads(read.to_json())}
    if again:
        from tastemaker.generate.redraw import difference, redraw

        with counting("drawing", 1) as say:
            image = redraw(read, machine.loading, say)
        place = to or picture.with_name(f"{picture.stem}-again.png")
        facts |= {"again": str(pictures.write_picture(image, place, read))}
        facts |= {"difference": difference(pictures.read_picture(picture), image)}
    if json:
        print_json(facts)
        return
    parts = {"models": read.models, "LoRAs": read.loras, "picture read": [read.picture], "content": [read.content]}
    plain = facts.pop("recipe").items()
    shown = facts | {name: value for name, value in plain if isinstance(value, str | int | float) and value != ""}
    for name, several in parts.items():
        shown[name] = [f"{part.name} x {part.scale:g} ({part.hash})" for part in several if part is not None]
    print_facts({name: value for name, value in (shown | dict(read.cocktail)).items() if value not in ([], None)})


# -- shared by generate and grid -------------------------------------------------------------------------------------


def _draw(plan: Plan, folder: Path, batch: int, machine: Machine, *, thumbnails: bool, json: bool) -> None:
    from tastemaker.generate import grid as grids

    warn_of_words(plan.prompts, plan.models)
    with counting("looking at models", len(plan)) as say:
        outcome = grids.draw_grid(plan, folder, batch=batch, loading=machine.loading, thumbnails=thumbnails, say=say)
    sheets = _write_sheets(grids.promptbook(plan, outcome), folder) if outcome.files else []
    facts = {
        "drawn": outcome.drawn,
        "there already": outcome.kept,
        "seconds": round(outcome.seconds, 1),
        "folder": str(folder),
        "sheet": [str(sheet) for sheet in sheets],
    }
    if json:
        pictures = [
            {"prompt": prompt, "model": model, "seed": seed, "file": str(file)}
            for (prompt, model, seed), file in outcome.files.items()
        ]
        print_json(facts | {"pictures": pictures, "failures": [asdict(failure) for failure in outcome.failures]})
    else:
        print_facts(facts)
    _mourn([file for file in outcome.damaged if file in outcome.files.values()], "was drawn anew")
    _complain(outcome.failures, len(plan.models))


def _write_sheets(sheets: Sequence[Image.Image], folder: Path) -> list[Path]:
    from tastemaker.generate.picture import write_picture

    names = ["sheet.png"] if len(sheets) == 1 else [f"sheet-{number}.png" for number in range(1, len(sheets) + 1)]
    return [write_picture(sheet, folder / name) for sheet, name in zip(sheets, names, strict=True)]


def warn_of_words(prompts: Sequence[str], models: Sequence[str]) -> None:
    """A note on stderr where prompts have words that the embedded models cannot draw."""
    from tastemaker.generate import zoo

    strange = dict.fromkeys(word for prompt in prompts for word in zoo.unknown_words(prompt, models))
    if strange:
        some = ", ".join(repr(word) for word in list(strange)[:8]) + (" ..." if len(strange) > 8 else "")
        note = f"the embedded models do not know {some} and draw something else; `tastemaker zoo` lists what they know"
        err.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)


def _mourn(damaged: Sequence[Path], fate: str) -> None:
    """A line on stderr for each finished picture that was not whole any more."""
    for file in damaged:
        err.print(f"{file}: damaged, or not the picture that belongs there; {fate}", style="yellow", soft_wrap=True)


def _complain(failures: Sequence[Failure], n_models: int) -> None:
    """Each failure on stderr, and exit code 1 where there is one."""
    for failure in failures:
        err.print(f"{failure.model}: {failure.problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if failures:
        missing = sum(failure.missing for failure in failures)
        raise TastemakerError(f"{len(failures)} of {n_models} models failed, {missing:,} pictures are missing")


def _spoken(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"
