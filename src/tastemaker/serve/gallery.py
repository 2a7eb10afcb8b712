"""The pictures at hand and what they are made of: found by facets and words, and read from folders into the store.

A picture's id is its file's name, `a-red-apple-3-1a2b3c4d5e`: prompt, seed and a digest of the recipe, but not the
model, so that an address tells nothing in a blind comparison. What the store knows (model, recipe) and what the models'
cards and a folder's `models.csv` and `prompts.csv` add (maker, base, tag) is kept in memory, with a number for each
value of a facet: finding among 18,000 pictures is a few comparisons of arrays.

    FOLDER/catalogue.csv, PNG files      as `tastemaker grid` writes them
    FOLDER/PNG files                     without a catalogue: those that carry a recipe, as `tastemaker mix` writes them
    FOLDER/prompts.csv                   prompt, tag (optional)
    FOLDER/models.csv                    model, title, maker, base, licence, downloads (optional, any of them)
"""

from __future__ import annotations

import contextlib
import csv
import re
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, UnknownId
from tastemaker.generate import zoo
from tastemaker.generate.catalogue import CATALOGUE
from tastemaker.generate.picture import Recipe, read_recipe
from tastemaker.generate.plan import slug
from tastemaker.serve.events import Made
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Item, Store

FACETS = ("tag", "base", "maker", "model")
NONE = "(none)"
_UNSIZED = 512  # pixels, where a file's first bytes do not tell
_PART = re.compile(r"(.+?)(:[\d.e+-]+)?( \((?:left|right|top|bottom|mask)\))?", re.DOTALL)  # of the name of a mix
HALVES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Model:
    """A model as people see it; `cards` and `models.csv` tell what the name does not.

    Attributes:
        name: zoo/ink, or a path.
        downloads: how well known it is.
        examples: prompt and file of pictures on its card.
        draws: whether this server may draw with it.
    """

    name: str
    title: str
    maker: str | None = None
    base: str | None = None
    licence: str | None = None
    downloads: int | None = None
    trigger: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    examples: tuple[tuple[str, Path], ...] = ()
    draws: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery. `prompt` is without the model's trigger words; the recipe has them."""

    id: str
    row: int
    prompt: str
    tag: str
    model: str
    title: str
    maker: str
    base: str
    seed: int
    kind: str
    user: str | None
    time: int
    file: Path
    width: int
    height: int
    hidden: bool
    recipe: Recipe


@dataclass(frozen=True)
class Wish:
    """What somebody looks for; an empty value is anything."""

    tag: str = ""
    base: str = ""
    maker: str = ""
    model: str = ""
    words: str = ""


class Gallery:
    """Every picture of a store whose file is known. Any thread may ask."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.models: dict[str, Model] = {model.name: model for model in known_models(settings)}
        self._files, self._tags = _files(settings.galleries), _tags(settings.galleries)
        self._gate = threading.Lock()
        self._rows = 0  # of the store, looked at
        self._pictures: dict[str, Picture] = {}
        self._index = _Index.of([])
        self.refresh()

    def refresh(self, n_items: int | None = None) -> None:
        """Take up what was made since; asks nothing of a store that is known to hold `n_items` things, all met."""
        new = self.store.items(start=self._rows) if n_items is None or n_items > self._rows else []
        if not new:
            return
        with self._gate:
            fresh = [item for item in new if item.row >= self._rows]
            pictures = [picture for item in fresh if (picture := self._picture(item)) is not None]
            self._pictures = self._pictures | {picture.id: picture for picture in pictures}
            self._rows = max(self._rows, new[-1].row + 1)
            if pictures:
                self._index = _Index.of([one for one in self._pictures.values() if not one.hidden])

    def __len__(self) -> int:
        return len(self._index.pictures)

    @property
    def tags(self) -> list[str]:
        """Every tag that a picture has."""
        return [tag for tag in self._index.values["tag"] if tag != NONE]

    def get(self, id: str) -> Picture:
        """A picture by its id. Raises UnknownId."""
        if id not in self._pictures:
            self.refresh()
        if id not in self._pictures:
            raise UnknownId(f"no picture is called '{id[:80]}'; look for it on the Explore page")
        return self._pictures[id]

    def has(self, id: str) -> bool:
        return id in self._pictures

    def everything(self) -> tuple[Picture, ...]:
        """Every picture that may be shown, oldest first."""
        return self._index.pictures

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Of each of the store's rows whether it is one of `everything`; none beyond its end is."""
        return self._index.allowed

    @property
    def rows(self) -> NDArray[np.int32]:
        """The store's row of each of `everything`."""
        return self._index.rows

    def find(self, wish: Wish, without: Collection[str] = ()) -> tuple[tuple[Picture, ...], NDArray[np.int32]]:
        """What somebody looks for, oldest first, but for the ids in `without`: pictures, and the places of these."""
        index = self._index
        at = np.flatnonzero(index.fits(wish)).astype(np.int32)
        if without:
            at = at[[index.pictures[one].id not in without for one in at]]
        return index.pictures, at

    def counts(self, wish: Wish) -> dict[str, list[tuple[str, int]]]:
        """For each facet its values and how many pictures each would leave, the other facets as wished."""
        index, found = self._index, {}
        for facet in FACETS:
            n = np.bincount(index.codes[facet][index.fits(replace(wish, **{facet: ""}))], minlength=1)
            names = index.values[facet]
            found[facet] = [(name, int(n[at])) for at, name in enumerate(names) if at < len(n) and n[at]]
        return found

    def battles(self, tag: str = "") -> dict[str, Mapping[str, list[Picture]]]:
        """Prompts of a tag, or all, that two models or more drew: the pictures of each model."""
        wanted = self._index.tagged.get(tag, ()) if tag else self._index.models
        return {prompt: of for prompt in wanted if len(of := self._index.models[prompt]) > 1}

    def by_prompt(self) -> Mapping[str, list[Picture]]:
        """The pictures of each prompt."""
        return self._index.prompts

    def model(self, name: str) -> Model:
        """What is known of a model; raises UnknownId where neither a card nor a picture names it."""
        if name in self.models:
            return self.models[name]
        if name in self._index.values["model"]:
            return Model(name, name)
        raise UnknownId(f"no model is called '{name[:80]}'; the leaderboard lists those there are")

    def _picture(self, item: Item) -> Picture | None:
        """None for what is no picture, or whose file is not known."""
        file = self._files.get(item.id) or self.settings.pictures / f"{item.id}.png"
        if item.recipe is None or not file.is_file():
            return None
        try:
            recipe = Recipe.from_json(item.recipe)
        except DataError:
            return None  # a recipe of another program
        name = item.model or recipe.models[0].name
        drawn = [self.models.get(part.name) for part in (*recipe.models, *recipe.loras)]
        facts = self.models.get(name) or next((model for model in drawn if model), None) or Model(name, name)
        prompt = _without(recipe.prompt, [word for model in drawn if model for word in model.trigger])
        width, height = _size(file)
        return Picture(
            item.id, item.row, prompt, self._tags.get(prompt.lower(), NONE), name, self.title(name),
            facts.maker or NONE, facts.base or NONE, recipe.seed, recipe.kind, item.user, item.time,
            file, width, height, self.settings.refuse(prompt), recipe,
        )  # fmt: skip

    def title(self, name: str) -> str:
        """What a model, or a mix of models, is called on cards."""
        told = []
        for part in re.split(r"( → | \+ )", name):
            one, scale, where = _PART.fullmatch(part).groups(default="")  # type: ignore[union-attr]  # matches any text
            title = self.models[one].title if one in self.models else one.removeprefix(zoo.PREFIX)
            told.append(f"{title}{scale.replace(':', ' × ') if scale != ':1' else ''}{where}")
        return "".join(told)


def import_folder(store: Store, folder: Path) -> int:
    """Store the pictures of a folder that the store does not know yet; how many.

    Raises DataError where no picture of the folder carries a recipe, or one of its catalogue carries none.
    """
    known = {item.id for item in store.items()}
    waiting = []
    for id, file in _listed(folder).items():
        if id not in known:
            known.add(id)
            recipe = read_recipe(file)
            made = Made(id, model=maker(recipe), recipe=recipe.to_json())
            waiting.append(store.submit(made, key=f"made {id}"))
            if len(waiting) % 1000 == 0:  # not more than may wait
                waiting[-1].result()
    for one in waiting:
        one.result()
    return len(waiting)


def named(recipe: Recipe) -> str:
    """A picture's id: its prompt, its seed or that it is a mix, and its recipe's digest."""
    what = str(recipe.seed) if recipe.kind == "generate" else "mix"
    return f"{slug(recipe.prompt)}-{what}-{recipe.digest[:10]}"


def regions(recipe: Recipe) -> list[str]:
    """Where each model of a mix drew: left, right, top, bottom, or mask; empty where each drew everywhere."""
    held = recipe.cocktail.get("regions")
    return [str(one) if one in HALVES else "mask" for one in held] if isinstance(held, tuple | list) else []


def maker(recipe: Recipe) -> str:
    """The model a picture stands for on the leaderboard; a mix stands for its pair, with the shares or regions."""
    where = [f" ({one})" for one in regions(recipe)] or [""] * len(recipe.models)
    drew = " + ".join(
        f"{part.name}{'' if part.scale == 1 else f':{part.scale:.2g}'}{region}"
        for part, region in zip(recipe.models, where, strict=False)
    )
    drew += "".join(f" + {part.name}:{part.scale:g}" for part in recipe.loras)
    return drew if recipe.content is None else f"{recipe.content.name} → {drew}"


def known_models(settings: Settings) -> Iterator[Model]:
    """Models that may draw, then those that folders tell of."""
    sources = [source for source in settings.models if source != "zoo" or zoo.zoo()]
    named = _named(settings.galleries)
    for name in zoo.find(sources) if sources else ():
        card = zoo.card_of(name)
        if card is None:
            model = Model(name, Path(name).stem, draws=True)
        else:
            examples = tuple((example.prompt, Path(zoo.resolve(name)) / example.file) for example in card.examples)
            model = Model(
                name, card.title, card.maker, card.base, card.licence, None, card.trigger, card.data, examples, True
            )
        facts = {key: value for key, value in named.pop(name, {}).items() if key != "name"}
        yield replace(model, **facts)  # type: ignore[arg-type]
    for card in zoo.zoo():
        if card.kind == "lora":
            yield Model(card.source, card.title, card.maker, card.base, card.licence, trigger=card.trigger)
    for name, facts in named.items():
        yield replace(Model(name, name), **facts)  # type: ignore[arg-type]


# -- finding -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Index:
    """Pictures as arrays: for each facet its values and each picture's value number."""

    pictures: tuple[Picture, ...]
    rows: NDArray[np.int32]
    allowed: NDArray[np.bool_]
    values: Mapping[str, list[str]]
    codes: Mapping[str, NDArray[np.int32]]
    texts: tuple[str, ...]
    prompts: Mapping[str, list[Picture]]
    models: Mapping[str, Mapping[str, list[Picture]]]  # the same, by model
    tagged: Mapping[str, list[str]]  # prompts of each tag

    @classmethod
    def of(cls, pictures: list[Picture]) -> _Index:
        values, codes = {}, {}
        for facet in FACETS:
            values[facet] = sorted({getattr(picture, facet) for picture in pictures}, key=lambda v: (v == NONE, v))
            number = {value: at for at, value in enumerate(values[facet])}
            codes[facet] = np.array([number[getattr(picture, facet)] for picture in pictures], np.int32)
        texts = tuple(f"{one.prompt} {one.title} {one.model} {one.tag}".lower() for one in pictures)
        prompts: dict[str, list[Picture]] = {}
        for picture in pictures:
            prompts.setdefault(picture.prompt, []).append(picture)
        models: dict[str, dict[str, list[Picture]]] = {prompt: {} for prompt in prompts}
        for picture in pictures:
            models[picture.prompt].setdefault(picture.model, []).append(picture)
        tagged: dict[str, list[str]] = {}
        for prompt, (first, *_) in prompts.items():
            tagged.setdefault(first.tag, []).append(prompt)
        rows = np.array([picture.row for picture in pictures], np.int32)
        allowed = np.zeros(rows.max(initial=-1) + 1, bool)
        allowed[rows] = True
        return cls(tuple(pictures), rows, allowed, values, codes, texts, prompts, models, tagged)

    def fits(self, wish: Wish) -> NDArray[np.bool_]:
        found = np.ones(len(self.pictures), bool)
        for facet in FACETS:
            if value := getattr(wish, facet):
                at = self.values[facet].index(value) if value in self.values[facet] else -1
                found &= self.codes[facet] == at
        for word in wish.words.lower().split()[:10]:
            found &= np.fromiter((word in text for text in self.texts), bool, len(self.texts))
        return found


# -- folders -----------------------------------------------------------------------------------------------------------


def _listed(folder: Path) -> dict[str, Path]:
    """Files of a folder's catalogue by id, or its pictures that carry a recipe; none lies outside the folder."""
    path = folder / CATALOGUE
    if folder.is_dir() and not path.exists():
        return _carrying(folder)
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            names = [row.get("id") or "" for row in csv.DictReader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"no readable catalogue ({error}); give a folder that `tastemaker grid` made", file=path
        ) from error
    root = folder.resolve()
    files = [folder / name for name in dict.fromkeys(names) if name]
    for line, file in enumerate(files, 2):
        if not file.resolve().is_relative_to(root) or file.suffix != ".png":
            raise DataError(f"'{file}' is no PNG file inside the folder", file=path, line=line, column="id")
    return {file.stem: file for file in files if file.is_file()}


def _carrying(folder: Path) -> dict[str, Path]:
    """Pictures with a recipe. Their ids are made of it: a file's name may tell the model, and Compare is blind."""
    found = {}
    for file in sorted(folder.glob("*.png")):
        with contextlib.suppress(DataError):  # a sheet, a collage, a picture from elsewhere
            found[named(read_recipe(file))] = file
    if not found:
        problem = f"no {CATALOGUE}, and no PNG file with a recipe; give a folder that `tastemaker grid` or `mix` wrote"
        raise DataError(problem, file=folder)
    return found


def _files(folders: Collection[Path]) -> dict[str, Path]:
    return {id: file for folder in folders for id, file in _listed(folder).items()}


def _tags(folders: Collection[Path]) -> dict[str, str]:
    rows = (row for folder in folders for row in _rows(folder / "prompts.csv", "prompt", "tag"))
    return {row["prompt"].strip().lower(): row["tag"].strip() or NONE for row in rows}


def _named(folders: Collection[Path]) -> dict[str, dict[str, object]]:
    """Facts of models.csv by model."""
    found: dict[str, dict[str, object]] = {}
    for folder in folders:
        for line, row in enumerate(_rows(folder / "models.csv", "model"), 2):
            facts: dict[str, object] = {
                name: row[name] for name in ("title", "maker", "base", "licence") if row.get(name)
            }
            if row.get("downloads"):
                try:
                    facts["downloads"] = int(row["downloads"])
                except ValueError as error:
                    problem = f"'{row['downloads']}' is no whole number"
                    raise DataError(problem, file=folder / "models.csv", line=line, column="downloads") from error
            found[row["model"]] = facts
    return found


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", file=path) from error
    if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
        raise DataError(f"has no column '{missing[0]}'; found {reader.fieldnames}", file=path)
    return rows


def _without(prompt: str, words: list[str]) -> str:
    """The prompt before trigger words were appended."""
    for word in reversed(words):
        prompt = prompt.removesuffix(f", {word}")
    return prompt


def _size(file: Path) -> tuple[int, int]:
    """Width and height from a PNG's first bytes."""
    with file.open("rb") as content:
        first = content.read(24)
    if len(first) < 24 or first[12:16] != b"IHDR":
        return _UNSIZED, _UNSIZED
    width, height = struct.unpack(">II", first[16:24])
    return width, height
