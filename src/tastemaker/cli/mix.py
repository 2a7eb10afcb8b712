"""`tastemaker mix`: a picture's content in the style of other models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from cyclopts import Parameter

from tastemaker.cli.app import Json, app
from tastemaker.cli.pictures import MACHINE, Machine, Models, scaled, warn_of_words
from tastemaker.errors import InvalidArgument
from tastemaker.terminal import counting, err, print_facts, print_json, print_table

if TYPE_CHECKING:
    from tastemaker.generate.invert import Kind
    from tastemaker.generate.orders import Mixed
    from tastemaker.generate.settings import Settings
    from tastemaker.generate.variations import Form

Preset = Literal["default", "cli", "batch", "huggingface", "extension", "comfyui"]
LITTLE = 0.2  # structure kept below which hardly anything of a picture can be recognised
Floats = Annotated[list[float], Parameter(consume_multiple=True, negative="")]


@app.command
def mix(
    *pictures: Path,
    content: str,
    style: Models,
    prompt: str,
    inversion_prompt: str | None = None,
    negative: str | None = None,
    preset: Preset = "default",
    steps: int | None = None,
    strength: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    guidance: float | None = None,
    attention: float | None = None,
    resnet: float | None = None,
    inversion: Literal["ddim", "fixed-point", "bdia", "edict"] | None = None,
    mask: str | None = None,
    region: Models = [],  # noqa: B006
    collage: Literal["row", "column", "grid"] | None = None,
    gamma: Floats = [],  # noqa: B006
    structure: float | None = None,
    lora: Models = [],  # noqa: B006
    side: int | None = None,
    trigger: bool = True,
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("mixes"),
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """Mix a cocktail: the content of a picture in the style of a model.

    The content model reads the picture, each style model draws it anew; no
    training. Writes a picture a style, and all beside the source on one
    sheet with their numbers: the round trip (relative error of reading the
    picture and drawing it back, before any style comes in), the structure
    kept (correlation of edges, 1 is all) and the style reached (probability,
    for embedded models).

        mix apple.png --content zoo/base --style zoo/ink --prompt "an apple"
        mix photo.jpg --content sd15/ --style models/* --prompt "a dog" \\
            --alpha 3 --beta 0.5 --guidance 15
        mix a.png --content zoo/base --style zoo/ink zoo/neon --gamma 0.3 0.7 \\
            --prompt "an apple"
        mix a.png --content zoo/base --style zoo/neon --structure 0.7 \\
            --prompt "an apple"
        mix a.png --content zoo/base --style zoo/ink zoo/neon \\
            --region left right --prompt "an apple"
        mix a.png b.png --collage row --content zoo/base --style zoo/ink \\
            --prompt "an apple and a pear"

    More structure: a larger --alpha, --attention or --resnet, or --strength
    below 1. More style: the other way. There is no seed: the start is the picture, not noise.

    Args:
        pictures: The .png, .jpg or .webp to start from; several with --collage.
        content: Model that reads the picture: the one that drew it, or one whose pictures look like it.
        style: Models to draw it anew; several give a picture each. zoo/NAME, paths or patterns.
        prompt: What the picture shows.
        inversion_prompt: What the content model is told; the prompt when not given.
        negative: What the result should not show.
        preset: Our default, or the published defaults of an official surface; the options below go on top.
        steps: Steps of reading and of drawing.
        strength: Share of the steps that are drawn, above 0 up to 1; less keeps more of the picture, style included.
        alpha: Scale of the prompt while reading; more keeps more structure.
        beta: How much of the negative prompt is taken off while reading.
        guidance: How strictly drawing follows the prompt.
        attention: Share of the steps in which self-attention is injected, 0 to 1.
        resnet: Share of the steps in which residual features are injected, 0 to 1.
        inversion: How the picture is read: ddim is the published way, the others come back nearer.
        mask: left, right, top, bottom, or a picture: white keeps the source's structure, black is free.
        region: One a style, in their order: left, right, top, bottom, or a picture that is white where the style draws;
            one picture of all styles then.
        collage: Lay several pictures out as one, in equal cells of the first one's shape; it is written to the folder.
        gamma: Mix the weights of exactly two styles: share of the second; several give a picture each.
        structure: Structure to keep, 0 to 1: alpha is searched until each style keeps that much.
        lora: LoRAs on the styles: FILE, FILE:SCALE or zoo/NAME:SCALE; the scale is 1 when not given, .7 as published.
        side: Short side in pixels; the content model's own when not given.
        trigger: Append the trigger words of styles and LoRAs to the prompt (--preset huggingface puts them first).
        to: Folder for pictures and sheet.
    """
    from tastemaker.generate import orders, zoo
    from tastemaker.generate.settings import DEFAULT, SURFACES

    base = DEFAULT if preset == "default" else SURFACES[preset]
    settings = _changed(
        base,
        {
            "negative": negative,
            "steps": steps,
            "strength": strength,
            "alpha": alpha,
            "beta": beta,
            "guidance": guidance,
            "side": side,
        },
        {"attention": attention, "resnet": resnet},
        inversion,
    )
    picture, styles = _source(pictures, collage, to), zoo.find(style)
    warn_of_words([prompt, inversion_prompt or ""], [content, *styles])
    recipes = orders.order(
        picture,
        content=content,
        styles=styles,
        prompt=prompt,
        inversion_prompt=inversion_prompt,
        settings=settings,
        mask=mask,
        regions=region,
        shares=gamma,
        loras=scaled(lora, settings.lora_scale),
        triggers=trigger,
    )
    if structure is not None:
        with counting("searching", len(recipes)) as say, _flagged("structure", structure):
            recipes = orders.keeping(recipes, structure, machine.loading, say)
    made: list[tuple[Path, Mixed]] = []
    try:
        with counting("reading", len(recipes)) as say, _flagged("side", side):
            for one in orders.mix(recipes, machine.loading, say):
                made.append((_write(one, picture, to), one))
    finally:  # one style's failure does not take the others' sheet along
        sheet = _sheet(made, picture, to, prompt) if made else None
    rows = [{"style": orders.style_name(one.recipe), **_defined(one.numbers)} for _, one in made]
    files = [str(file) for file, _ in made]
    if json:
        mixes = [row | {"file": file} for row, file in zip(rows, files, strict=True)]
        print_json({"sheet": str(sheet), "mixes": mixes})
    else:
        print_table(f"{picture}: {prompt}", pl.DataFrame(rows, infer_schema_length=None))
        print_facts({"sheet": str(sheet), "pictures": files})
    _remark(rows)


@app.command
def matrix(
    prompt: str,
    *,
    models: Models,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("matrix.png"),
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """Every model's content in every model's style: one sheet of m x m pictures.

    Each model draws the prompt; each drawing is then drawn anew by each
    model. A row has one content, a column one style; on the diagonal a model
    redraws its own.

        matrix "a cat" --models zoo/base zoo/ink zoo/neon

    Args:
        prompt: What to draw.
        models: Models of one size; zoo/NAME, paths or patterns.
        negative: What no picture should show.
        steps: Steps of reading and of drawing.
        guidance: How strictly drawing follows the prompt.
        seed: Of each model's own drawing.
        to: The sheet.
    """
    from tastemaker.generate import zoo
    from tastemaker.generate.picture import write_picture
    from tastemaker.generate.settings import DEFAULT
    from tastemaker.generate.sheet import Cell, sheet
    from tastemaker.generate.variations import transfer_matrix

    names = zoo.find(models)
    warn_of_words([prompt], names)
    settings = _changed(DEFAULT, {"negative": negative, "steps": steps, "guidance": guidance}, {}, None)
    loaded = [machine.loading.load(zoo.resolve(name), ()) for name in names]
    with counting("reading", 2) as say:

        def told(what: str, done: int, steps: int) -> None:
            say(done + (steps if what == "drawing" else 0), 2 * steps, what)

        rows = transfer_matrix(loaded, prompt=prompt, seed=seed, settings=settings, on_step=told)
    cells = [[Cell(picture) for picture in row] for row in rows]
    labels = [f"content of {name}" for name in names]
    page = sheet(cells, row_labels=labels, column_labels=[f"style of {name}" for name in names], title=prompt)
    file = write_picture(page, to)
    facts = {"sheet": str(file), "models": list(names)}
    print_json(facts) if json else print_facts(facts)


def _changed(settings: Settings, values: dict[str, Any], injection: dict[str, Any], inversion: Kind | None) -> Settings:
    """The settings with what was given on the command line, one option after the other."""
    for flag, value in values.items():
        if value is not None:
            with _flagged(flag, value):
                settings = replace(settings, **{flag: value})
    for flag, value in injection.items():
        if value is not None:
            name = "convolution" if flag == "resnet" else flag
            with _flagged(flag, value, name):
                changed = replace(settings.injection, **{name: value})
                settings = replace(settings, injection=changed)
    if inversion is not None:
        settings = replace(settings, inversion=replace(settings.inversion, kind=inversion))
    return settings


@contextmanager
def _flagged(flag: str, value: object, name: str = "") -> Iterator[None]:
    """What the library refuses as 'NAME = VALUE; expected ...' is refused by the option's name."""
    try:
        yield
    except InvalidArgument as error:
        given, _, expected = str(error).partition("; ")
        if not given.startswith(f"{name or flag} = "):  # about something else
            raise
        raise InvalidArgument(f"--{flag} {value}; {expected}") from error


def _defined(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """None for what is not defined, such as the structure of a picture without edges: JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _remark(rows: Sequence[Mapping[str, Any]]) -> None:
    """What to try where a picture is hardly recognised. Alpha and guidance do not help there; looked at by eye."""
    kept = {row["style"]: row["structure kept"] for row in rows}
    little = [f"{style} ({share:.2f})" for style, share in kept.items() if share is not None and share < LITTLE]
    if little:
        err.print(
            f"note: little of the picture's structure is kept: {', '.join(little)}. --attention 1 --resnet 1 keeps "
            "somewhat more; --strength 0.65 keeps much more, and with it some of the picture's own look, its "
            "ground first",
            highlight=False,
            soft_wrap=True,
        )


def _source(pictures: Sequence[Path], form: Form | None, folder: Path) -> Path:
    """The one picture to start from; of several their collage, as a file, since a recipe names its source."""
    from tastemaker.generate.grid import slug
    from tastemaker.generate.picture import read_picture, write_picture
    from tastemaker.generate.variations import laid_out

    if form is None and len(pictures) == 1:
        return pictures[0]
    if form is None or not pictures:
        raise InvalidArgument(
            f"{len(pictures)} pictures; expected one before --content, or several and --collage row, column or grid"
        )
    image = laid_out([read_picture(picture) for picture in pictures], form)
    digest = sha256(image.tobytes()).hexdigest()[:10]
    return write_picture(image, folder / f"{slug(pictures[0].stem)}-{form}-{digest}.png")


def _write(one: Mixed, picture: Path, folder: Path) -> Path:
    from tastemaker.generate.grid import slug
    from tastemaker.generate.orders import style_name
    from tastemaker.generate.picture import write_picture

    name = f"{slug(picture.stem)}-{slug(style_name(one.recipe))}-{one.recipe.digest[:10]}.png"
    return write_picture(one.picture, folder / name, one.recipe)


def _sheet(made: list[tuple[Path, Mixed]], picture: Path, folder: Path, prompt: str) -> Path:
    from tastemaker.generate.grid import slug
    from tastemaker.generate.orders import style_name
    from tastemaker.generate.picture import write_picture
    from tastemaker.generate.sheet import before_after

    mixes = [
        (style_name(one.recipe), one.picture, {n: v for n, v in one.numbers.items() if math.isfinite(v)})
        for _, one in made
    ]
    page = before_after(made[0][1].source, mixes, title=prompt)
    digest = sha256("".join(one.recipe.digest for _, one in made).encode()).hexdigest()[:10]
    return write_picture(page, folder / f"{slug(picture.stem)}-sheet-{digest}.png")
