"""The embedded models, and how models are named: `zoo/NAME`, a path, or a pattern over either.

Each folder of `zoo_models/` is one model in the diffusers layout (or one LoRA) with a `card.json`, the JSON object of
`Card` below. `zoo/NAME` is always the embedded model; a folder of yours that happens to be called so is `./zoo/NAME`.
A pattern takes only what is a model: `zoo/*` the embedded models (or, where LoRAs are asked for, the LoRAs), `models/*`
every folder with a model_index.json and every .safetensors file in `models`. A path named in full, or expanded by the
shell, must be a model.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.generate import record

ROOT = Path(__file__).parent / "zoo_models"
PREFIX = "zoo/"
Kind = Literal["model", "lora"]
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # pickles too: who loads them says how to convert


@dataclass(frozen=True)
class Example:
    """A picture the model drew with its suggested settings.

    Attributes:
        prompt, seed: What it was asked.
        file: Name of a small PNG in the model's folder.
    """

    prompt: str
    seed: int
    file: str


@dataclass(frozen=True)
class Card:
    """What stands in card.json.

    Attributes:
        name: Name of the embedded model's folder; the model is `zoo/NAME`.
        title: A few words for people.
        kind: model or lora.
        base: Name of the embedded model it was tuned from; None for the base itself.
        maker, licence: Who made it, under which licence.
        data: What it was trained on, one source a line.
        trigger: Words that call the style; they belong into the prompt.
        size: Width and height it was trained at, in pixels.
        steps, guidance: Suggested settings.
        examples: Pictures it drew.
    """

    name: str
    title: str
    kind: Kind
    base: str | None
    maker: str
    licence: str
    data: tuple[str, ...]
    trigger: tuple[str, ...]
    size: int
    steps: int
    guidance: float
    examples: tuple[Example, ...]

    @property
    def source(self) -> str:
        """How it is named everywhere: zoo/NAME."""
        return PREFIX + self.name

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return ROOT / self.name


def read_card(folder: str | Path) -> Card:
    """The card of one model folder. Raises DataError where it is missing, wrong, or names missing files.

    A copy of an embedded model keeps its card, whatever its folder is called.
    """
    path = Path(folder) / "card.json"
    try:
        card = record.read(Card, path.read_bytes(), "card")
        for example in card.examples:
            if Path(example.file).name != example.file or not (path.parent / example.file).is_file():
                raise DataError(f"the example '{example.file}' is not a file in the card's folder")
    except OSError as error:
        raise DataError(f"no readable card ({error.strerror})", file=path) from error
    except DataError as error:
        raise DataError(error.problem, file=path) from error
    return card


def zoo() -> tuple[Card, ...]:
    """Every embedded model and LoRA: the base first, then models, then LoRAs, by name."""
    cards = [read_card(path.parent) for path in ROOT.glob("*/card.json")]
    for card in cards:
        if not card.folder.is_dir():
            raise DataError(f"the card of an embedded model names '{card.name}'; expected its folder's name", file=ROOT)
    return tuple(sorted(cards, key=lambda card: (card.kind == "lora", card.base is not None, card.name)))


def card_of(source: str) -> Card | None:
    """The card of an embedded model, or of a folder of yours that has one; None where there is none."""
    known = {card.source: card for card in zoo()}
    if source in known or not (Path(source) / "card.json").is_file():
        return known.get(source)
    return read_card(source)


def with_triggers(prompt: str, sources: Iterable[str]) -> str:
    """The prompt and, after commas, the trigger words of these models' cards that it does not hold yet."""
    words = [word for source in sources if (card := card_of(source)) for word in card.trigger]
    return ", ".join([prompt, *(word for word in dict.fromkeys(words) if word.lower() not in prompt.lower())])


def unknown_words(prompt: str, sources: Iterable[str]) -> tuple[str, ...]:
    """Words of a prompt that the embedded models among these were never taught: their tokenizer splits them.

    None where none of the models is embedded. Numerals and signs are not words.
    """
    if not any((card := card_of(source)) and card.source == source and card.kind == "model" for source in sources):
        return ()
    tokenizer = json.loads((ROOT / "base" / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    words = re.findall(r"(?<!['’])[^\W\d_]+", prompt)
    return tuple(dict.fromkeys(word for word in words if f"{word.lower()}</w>" not in tokenizer["model"]["vocab"]))


def resolve(source: str, kind: Kind = "model") -> Path:
    """Where a model or LoRA lies. Raises UnknownName, InvalidArgument or DataError with the nearest known name."""
    embedded = {card.source: card for card in zoo()}
    path = Path(source)
    if card := embedded.get(source):
        if card.kind != kind:
            raise InvalidArgument(f"'{source}' is a {card.kind}, not a {kind}; {kind}s: {', '.join(_names(kind))}")
        return card.folder
    if path.exists():
        if not _is(path, kind):
            layout = (
                "a folder with model_index.json, or a .safetensors file" if kind == "model" else "a .safetensors file"
            )
            raise DataError(f"not a {kind}; expected {layout} (a quoted pattern takes models only)", file=source)
        return path
    if source.startswith(PREFIX):
        raise UnknownName(f"embedded {kind}", source, _names(kind))
    places = [path.parent] if path.parent.is_dir() else [place for place in Path().iterdir() if place.is_dir()]
    beside = [str(other) for place in places for other in _folder(place, kind)]
    near = difflib.get_close_matches(source, [*_names(kind), *beside], n=1, cutoff=0.5)
    known = f"did you mean '{near[0]}'?" if near else f"embedded: {', '.join(_names(kind)) or 'none'}"
    raise DataError(f"no such {kind}; expected zoo/NAME, a folder or a .safetensors file; {known}", file=source)


def find(sources: Iterable[str], kind: Kind = "model") -> tuple[str, ...]:
    """The names that names, paths, patterns and folders of models stand for, in their order, each once.

    Raises what `resolve` raises, and DataError for a pattern or folder in which there is no model.
    """
    found: list[str] = []
    for source in sources:
        if source in ("zoo", "zoo/"):
            source = "zoo/*"
        if source.startswith(PREFIX) and glob.has_magic(source):
            hits = [name for name in _names(kind) if Path(name).match(source)]
        elif glob.has_magic(source) and not Path(source).exists():
            hits = sorted(name for name in glob.glob(source) if _is(Path(name), kind))
        elif source not in _names(None) and Path(source).is_dir() and not _is(Path(source), kind):
            hits = [str(path) for path in _folder(Path(source), kind)]
        else:
            resolve(source, kind)
            hits = [source]
        if not hits:
            raise DataError(f"no {kind} there; embedded: {', '.join(_names(kind)) or 'none'}", file=source)
        found += hits
    return tuple(dict.fromkeys(found))


def fingerprint(path: Path) -> str:
    """Hash of a model's content, 32 hex digits: every file of a folder but cards and pictures, or one file."""
    if path.is_file():
        return _digest(path)
    files = [
        f for f in path.rglob("*") if f.is_file() and f.suffix in (".json", ".txt", *WEIGHTS) and f.name != "card.json"
    ]
    lines = sorted(f"{file.relative_to(path).as_posix()} {_digest(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _names(kind: Kind | None) -> list[str]:
    return [card.source for card in zoo() if kind in (None, card.kind)]


def _folder(path: Path, kind: Kind) -> list[Path]:
    return sorted(inside for inside in path.iterdir() if _is(inside, kind))


def _is(path: Path, kind: Kind) -> bool:
    if path.is_file():
        return path.suffix in WEIGHTS
    if kind == "model":
        return (path / "model_index.json").is_file()
    return any(path.glob("*.safetensors"))
