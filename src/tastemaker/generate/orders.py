"""Cocktails with everything written down: recipes first, then the pictures they ask for.

`order` turns a picture, a content model and styles into one recipe a style, one a share of two styles, or one for all
where each draws a region; `mix` makes what recipes ask for, with one inversion for all, and says how it went. Drawing a
cocktail again is `mix` on its recipe.

The numbers, each between a picture and its source as the content model saw it:
- round trip: the inversion sampled back by the content model, relative error of the latents; what is lost before any
  style comes in.
- structure kept: correlation of the two maps of edges, 1 where all coincide (`evaluate.images.structure`).
- style reached: probability of the wanted style among the embedded models, by a reader that learned from the examples
  on their cards (`evaluate.images.style`); only for embedded models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.images.structure import edge_structure
from tastemaker.evaluate.images.style import StyleReader
from tastemaker.generate import record, zoo
from tastemaker.generate.cocktail import Cocktail, cocktail
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.grid import AUTO, Loading, Say
from tastemaker.generate.inject import HALVES, Injection, Mask
from tastemaker.generate.invert import Cache, Inversion
from tastemaker.generate.load import wear
from tastemaker.generate.mix_weights import mix_weights
from tastemaker.generate.picture import Part, Recipe, Setting, read_picture
from tastemaker.generate.settings import DEFAULT, Settings
from tastemaker.generate.variations import OutOfReach, auto_alpha

LEARN = 4  # examples a style, at least, that its reader learns from


@dataclass(frozen=True, eq=False)
class Mixed:
    """One cocktail.

    Attributes:
        recipe: What was asked.
        picture: What came out.
        source: The picture as the content model saw it, after resizing.
        numbers: By name; see the module.
    """

    recipe: Recipe
    picture: Image.Image
    source: Image.Image
    numbers: Mapping[str, float]


def order(
    picture: str | Path,
    *,
    content: str,
    styles: Sequence[str],
    prompt: str,
    inversion_prompt: str | None = None,
    settings: Settings = DEFAULT,
    mask: str | Path | None = None,
    regions: Sequence[str | Path] = (),
    shares: Sequence[float] = (),
    loras: Sequence[tuple[str, float]] = (),
    triggers: bool = True,
) -> tuple[Recipe, ...]:
    """A recipe for each style, or with `shares` (of the second of two styles, weights mixed) one for each share.

    With `regions` one recipe, in whose picture each style draws its region.

    Args:
        inversion_prompt: What the content model is told; the prompt without trigger words when None.
        mask: left, right, top or bottom, or a picture: white takes the source's structure, black is free. It stands in
            for the mask of `settings`.
        regions: One a style, in their order, as `mask`: where it draws; where they overlap the styles share.
        loras: On the styles; the content model wears none.

    Raises:
        InvalidArgument: no style, shares without exactly two styles, not one region a style, both shares and regions,
            a share or scale that is not finite, settings a recipe cannot hold.
        DataError, UnknownName: a file or model that is not there.
    """
    if shares and len(styles) != 2:
        raise InvalidArgument(f"shares (gamma) mix two styles into one; {len(styles)} given")
    if regions and (shares or len(regions) != len(styles)):
        raise InvalidArgument(
            f"{len(regions)} regions, {len(styles)} styles and {len(shares)} shares (gamma); expected one region a "
            "style, in the order of the styles, and no shares"
        )
    for name, number in [
        *(("share (gamma)", share) for share in shares),
        *((f"scale of {lora}", by) for lora, by in loras),
    ]:
        if not math.isfinite(number):
            raise InvalidArgument(f"{name} = {number}; expected a finite number, such as 0.5")
    if settings.injection.layers is not None or settings.injection.mask is not None:
        raise InvalidArgument("a recipe holds no shares by layer and no mask as an array; give the mask as a file")
    for given in (*([] if mask is None else [mask]), *regions):
        if given not in HALVES and not Path(given).exists():
            raise UnknownName("mask (a picture, or a half of one)", str(given), HALVES)
    parts = [Part(name, zoo.fingerprint(zoo.resolve(name))) for name in styles]
    if shares:
        pairs = [(replace(parts[0], scale=1 - share), replace(parts[1], scale=share)) for share in shares]
        models: list[tuple[Part, ...]] = [tuple(part for part in pair if part.scale) for pair in pairs]
    else:
        models = [tuple(parts)] if regions else [(part,) for part in parts]
    worn = tuple(Part(name, zoo.fingerprint(zoo.resolve(name, "lora")), scale) for name, scale in loras)
    recipes = []
    for several in models:
        names = [part.name for part in (*several, *worn)] if triggers else []
        said = zoo.with_triggers(prompt, names)
        if settings.trigger_first and (words := said.removeprefix(prompt)):
            said = f"{words.removeprefix(', ')}, {prompt}"
        before = said if settings.trigger_everywhere else prompt
        recipes.append(
            Recipe(
                kind="cocktail",
                prompt=said,
                negative=settings.negative,
                models=several,
                loras=worn,
                seed=0,  # the start is inverted noise
                steps=settings.steps,
                guidance=settings.guidance,
                picture=Part(str(picture), _hash(Path(picture))),
                content=Part(content, zoo.fingerprint(zoo.resolve(content))),
                cocktail=_held(settings, mask, regions, inversion_prompt or before),
            )
        )
    if not recipes:
        raise InvalidArgument("no style; give one model or more")
    return tuple(recipes)


def mix(
    recipes: Sequence[Recipe], loading: Loading = AUTO, say: Say = lambda done, total, text: None
) -> Iterator[Mixed]:
    """The cocktails of recipes that share a picture and a content model, one after the other.

    Raises what `cocktail` raises, and DataError for a picture or mask that has changed since the recipe was written.
    """
    first = recipes[0]
    if first.picture is None or first.content is None:
        raise DataError("no recipe of a cocktail: it names no picture and no content model")
    picture = read_picture(_unchanged(first.picture))
    say(0, len(recipes), f"loading {first.content.name}")
    content = loading.load(zoo.resolve(first.content.name), ())
    cache = Cache()
    for done, recipe in enumerate(recipes):
        name = style_name(recipe)
        held = record.read(_Held, json.dumps(dict(recipe.cocktail)), "recipe's cocktail")
        say(done, len(recipes), f"loading {name}")
        with _styles(recipe, held, loading) as styles:
            made = cocktail(
                picture,
                content=content,
                style=styles,
                prompt=recipe.prompt,
                inversion_prompt=held.inversion_prompt,
                regions=_regions(held),
                settings=_settings(recipe, held),
                cache=cache,
                on_step=lambda what, step, steps, done=done, name=name: say(  # type: ignore[misc]
                    done + (step / steps if what == "drawing" else 0), len(recipes), f"{what} for {name}"
                ),
            )
        yield Mixed(recipe, made.picture, made.sources[0], _numbers(made, recipe))


def keeping(
    recipes: Sequence[Recipe],
    structure: float,
    loading: Loading = AUTO,
    say: Say = lambda done, total, text: None,
) -> tuple[Recipe, ...]:
    """The recipes, each with the alpha at which it keeps that much structure (see the module; 1 is all of it).

    Alpha is searched from 0 to 8 in six halvings: eight drawings a recipe, one inversion for each.

    Raises:
        InvalidArgument: a structure that no alpha of that range reaches; the message says what the ends reach.
    """
    if not 0 <= structure <= 1:
        raise InvalidArgument(
            f"structure = {structure:g}; expected what is kept of the picture, from 0 to 1 (all of it)"
        )
    found = []
    for done, recipe in enumerate(recipes):
        if recipe.picture is None or recipe.content is None:
            raise DataError("no recipe of a cocktail: it names no picture and no content model")
        held = record.read(_Held, json.dumps(dict(recipe.cocktail)), "recipe's cocktail")
        say(done, len(recipes), f"searching alpha for {style_name(recipe)}")
        with _styles(recipe, held, loading) as styles:
            try:
                alpha, _ = auto_alpha(
                    read_picture(_unchanged(recipe.picture)),
                    content=loading.load(zoo.resolve(recipe.content.name), ()),
                    style=styles,
                    prompt=recipe.prompt,
                    inversion_prompt=held.inversion_prompt,
                    regions=_regions(held),
                    target=1 - structure,
                    distance=lambda source, made: 1 - structure_kept(source, made),
                    settings=_settings(recipe, held),
                )
            except OutOfReach as error:
                raise InvalidArgument(
                    f"structure = {structure:g}; expected {1 - error.far:.2f} to {1 - error.near:.2f}, what alpha 0 "
                    f"and 8 keep in the style {style_name(recipe)}; ask for one between, or take a strength below 1, "
                    "which keeps more"
                ) from error
        found.append(replace(recipe, cocktail=replace(held, alpha=alpha).values()))
    return tuple(found)


def style_name(recipe: Recipe) -> str:
    """The style of a cocktail in a few words: its model, or its models with their shares, and its LoRAs."""
    models = [part.name if part.scale == 1 else f"{part.scale:g} {part.name}" for part in recipe.models]
    return " + ".join([*models, *(f"{part.name}:{part.scale:g}" for part in recipe.loras)])


# -- settings as a recipe holds them -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """What a recipe's `cocktail` holds: the settings that are not fields of the recipe itself, flat."""

    alpha: float
    beta: float
    sampling_steps: int | None
    attention: float
    convolution: float
    mask: str | None
    mask_hash: str | None
    inversion: Literal["ddim", "fixed-point", "bdia", "edict"]
    iterations: int
    gamma: float
    mix: float
    prompt_by: Literal["style", "content"]
    side: int | None
    even: bool
    inversion_prompt: str
    regions: tuple[str, ...] = ()
    region_hashes: tuple[str | None, ...] = ()
    strength: float = 1.0

    def __post_init__(self) -> None:
        if len(self.regions) != len(self.region_hashes):
            counts = f"{len(self.regions)} regions and {len(self.region_hashes)} region_hashes"
            raise DataError(f"the recipe's cocktail has {counts}; expected a hash a region, null for a half")

    def values(self) -> dict[str, Setting]:
        """Without what came later and is as it was before, so that such recipes keep their digests."""
        later = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in record.values(self).items() if value != later[name]}


def _held(
    settings: Settings, mask: str | Path | None, regions: Sequence[str | Path], inversion_prompt: str
) -> dict[str, Setting]:
    injection, inversion = settings.injection, settings.inversion
    held = _Held(
        settings.alpha, settings.beta, settings.sampling_steps,
        injection.attention, injection.convolution, None if mask is None else str(mask),
        _mask_hash(mask),
        inversion.kind, inversion.iterations, inversion.gamma, inversion.mix,
        settings.prompt_by, settings.side, settings.even, inversion_prompt,
        tuple(map(str, regions)), tuple(map(_mask_hash, regions)), settings.strength,
    )  # fmt: skip
    return held.values()


def _settings(recipe: Recipe, held: _Held) -> Settings:
    return Settings(
        steps=recipe.steps,
        sampling_steps=held.sampling_steps,
        strength=held.strength,
        alpha=held.alpha,
        beta=held.beta,
        guidance=recipe.guidance,
        negative=recipe.negative,
        injection=Injection(held.attention, held.convolution, mask=_mask(held.mask, held.mask_hash)),
        inversion=Inversion(held.inversion, held.iterations, held.gamma, held.mix),
        prompt_by=held.prompt_by,
        side=held.side,
        even=held.even,
    )


def _regions(held: _Held) -> list[Mask] | None:
    return [_mask(name, digest) for name, digest in zip(held.regions, held.region_hashes, strict=True)] or None


def _mask(name: str | None, digest: str | None) -> Mask:
    if name is None or digest is None:
        return name  # type: ignore[return-value]  # Injection checks it
    grey = read_picture(_unchanged(Part(name, digest))).convert("L")
    return torch.from_numpy(np.asarray(grey, np.float32) / 255)


def _mask_hash(mask: str | Path | None) -> str | None:
    return None if mask is None or mask in HALVES else _hash(Path(mask))


def _hash(path: Path) -> str:
    read_picture(path)  # says what is wrong with it
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _unchanged(part: Part) -> Path:
    path = Path(part.name)
    if (found := _hash(path)) != part.hash:
        raise DataError(f"has changed since: its hash is {found}, in the recipe {part.hash}; bring it back", file=path)
    return path


@contextlib.contextmanager
def _styles(recipe: Recipe, held: _Held, loading: Loading) -> Iterator[list[StableDiffusion]]:
    """The styles of a recipe with its LoRAs on: one a region, or a single one, which may be several mixed by weight."""
    loras = [(zoo.resolve(part.name, "lora"), part.scale) for part in recipe.loras]
    models = [loading.load(zoo.resolve(part.name), ()) for part in recipe.models]
    if len(models) > 1 and not held.regions:
        models = [mix_weights(models, [part.scale for part in recipe.models])]
    with contextlib.ExitStack() as worn:
        yield [worn.enter_context(wear(model, loras)) for model in models]


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numbers(made: Cocktail, recipe: Recipe) -> dict[str, float]:
    numbers = {} if made.round_trip is None else {"round trip": made.round_trip}
    numbers["structure kept"] = structure_kept(made.sources[0], made.picture)
    reader, wanted = _reader(made.picture.size), recipe.models[0].name
    if len(recipe.models) == 1 and not recipe.loras and reader is not None and wanted in reader.styles:
        numbers["style reached"] = float(reader.reached([made.picture], wanted).values[0])
    return numbers


def structure_kept(source: Image.Image, made: Image.Image) -> float:
    """See the module; NaN where either has no edges.

    A result has whole latents, so it may be a few pixels smaller than its source (`Settings.even`): the source is
    brought to its size.
    """
    source = source if source.size == made.size else source.resize(made.size, Image.Resampling.LANCZOS)
    return float(edge_structure([source], [made]).values[0])


def _reader(size: tuple[int, int]) -> StyleReader | None:
    """A reader of the embedded styles for pictures of one size, if their cards have examples enough of it."""
    samples = {}
    for card in zoo.zoo():
        examples = [read_picture(card.folder / example.file) for example in card.examples]
        same = [example for example in examples if example.size == size]
        if card.kind == "model" and len(same) >= LEARN:
            samples[card.source] = same
    return StyleReader.fit(samples) if len(samples) > 1 else None
