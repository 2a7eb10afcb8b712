"""What the gallery's pictures teach of the models that drew them: a promptbook, and what each model is known by.

A picture counts under the prompt that was asked for, without its model's trigger words, so that models can be compared;
prompts that one model alone drew say nothing about models. Examples on cards count as well: a gallery without a picture
knows its embedded models from the first order on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from tastemaker.choose.retrieve import Shelf
from tastemaker.choose.votes import BAR, Vote
from tastemaker.data.catalog import ID
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, SEED
from tastemaker.evaluate.images.embedding import Encoder
from tastemaker.serve.gallery import Gallery, Model

_MOST = 6000  # pictures looked at
_WORDS = 500  # that may name a style
_NEAR = 0.3  # cosine from which on a word, or a model, is said to be near
_PLAIN = {
    "and", "the", "with", "for", "its", "left", "right", "above", "below", "over", "under", "two", "three",
    "background",
}  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """What a model's pictures have in common (`choose.signature`).

    Attributes:
        strength: how far its pictures lie from others' of the same prompts; 0 is just like the rest.
        consistency: how alike these differences are, up to 1; None for fewer than two pictures.
        pictures: how many it is made of; 0 where it is guessed from the model's words.
        words: nearest to the direction, with their cosines; of prompts and models' names, so a hint and no caption.
        alike: models that draw most like it, with the cosines of their signatures.
    """

    strength: float
    consistency: float | None
    pictures: int
    words: tuple[tuple[str, float], ...]
    alike: tuple[tuple[str, float], ...]


def signs(shelf: Shelf, texts: Sequence[str], encoder: Encoder) -> dict[str, Sign]:
    """The sign of every model of a shelf with signatures."""
    found = shelf.signatures
    assert found is not None
    names = found.ids.series.to_list()
    words = _words([*texts, *names])
    vectors = encoder.embed_texts(words).vectors.astype(np.float64)
    vectors -= vectors.mean(0)  # what all words share is no style
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    to_words, to_models = found.direction @ vectors.T, found.direction @ found.direction.T
    np.fill_diagonal(to_models, -1)

    def near(cosines: np.ndarray[tuple[int], np.dtype[np.float64]], of: Sequence[str]) -> tuple[tuple[str, float], ...]:
        return tuple((of[at], float(cosines[at])) for at in np.argsort(-cosines)[:3] if cosines[at] >= _NEAR)

    return {
        name: Sign(
            float(found.strength[row]),
            None if np.isnan(found.consistency[row]) else float(found.consistency[row]),
            int(found.pictures[row]), near(to_words[row], words), near(to_models[row], names),
        )
        for row, name in enumerate(names)
    }  # fmt: skip


def _words(texts: Sequence[str]) -> list[str]:
    """The words that occur most, without those that name no look."""
    count = Counter(word for text in texts for word in re.findall(r"[^\W\d_]{3,}", text.lower()))
    return [word for word, _ in count.most_common(_WORDS + len(_PLAIN)) if word not in _PLAIN][:_WORDS]


def on_these(votes: Iterable[Vote], known: set[str]) -> list[Vote]:
    """Votes with the choices among these pictures alone."""
    kept = []
    for vote in votes:
        choices = tuple(one for one in vote.choices if all(item is BAR or item in known for item in one.among))
        if choices:
            kept.append(replace(vote, choices=choices, tag=None))
    return kept


def facts(models: Sequence[Model]) -> pl.DataFrame:
    """What cards say, as a catalogue's table."""
    of: dict[str, Callable[[Model], object]] = {
        ID: lambda one: one.name, "name": lambda one: one.title, "maker": lambda one: one.maker,
        "base": lambda one: one.base, "licence": lambda one: one.licence,
    }  # fmt: skip
    return pl.DataFrame({name: pl.Series([tell(one) for one in models], dtype=pl.String) for name, tell in of.items()})


def drawn_before(gallery: Gallery, names: set[str]) -> tuple[pl.DataFrame, dict[str, Path]]:
    """Cells of a promptbook by these models, and each picture's file: the gallery's, and examples on cards.

    Prompts that one model alone drew say nothing about models and are left out; where there are too many pictures,
    prompts that fewest models drew.
    """
    cells: dict[tuple[str, str, int], tuple[str, Path]] = {}
    for name in sorted(names):
        for number, (prompt, file) in enumerate(gallery.models[name].examples):
            cells[prompt, name, -1 - number] = (f"{name} {number}", file)
    for one in gallery.everything():
        if one.kind == "generate" and one.model in names:
            cells.setdefault((one.prompt, one.model, one.seed), (one.id, one.file))
    drew: dict[str, set[str]] = {}
    for prompt, model, _ in cells:
        drew.setdefault(prompt, set()).add(model)
    often = Counter(prompt for prompt, _, _ in cells)
    kept, n = set(), 0
    for prompt in sorted(drew, key=lambda text: -len(drew[text])):
        if len(drew[prompt]) >= 2 and n + often[prompt] <= _MOST:
            kept.add(prompt)
            n += often[prompt]
    rows = [(*key, *cell) for key, cell in cells.items() if key[0] in kept]
    table = pl.DataFrame(
        [row[:4] for row in rows],
        {PROMPT: pl.String, MODEL: pl.String, SEED: pl.Int64, PICTURE: pl.String},
        orient="row",
    )
    return table, {row[3]: row[4] for row in rows}
