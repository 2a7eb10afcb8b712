"""From pictures on disk to a shelf of models to choose from: embed, score every cell, learn.

A promptbook drawn by `tastemaker grid` does, and so do the examples on the cards of the embedded models. Quality is the
CLIP score of each picture with its prompt, by the encoder given; the embedded one knows the zoo's words only. The same
vectors are the features (`Look`) by which one person's taste in pictures is learned (`taste`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose.predictor import Examples, Mean, Predictor, Styled
from tastemaker.choose.rank import Pictures, Taste, learned, look
from tastemaker.choose.retrieve import Shelf
from tastemaker.choose.signature import pictures, signatures
from tastemaker.choose.votes import Vote
from tastemaker.data.catalog import Catalog
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, SEED, Promptbook
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError
from tastemaker.evaluate.images.embedding import Encoder
from tastemaker.generate import zoo
from tastemaker.generate.picture import read_picture

if TYPE_CHECKING:
    from tastemaker.generate.embed import Encoder as Clip

FEW = 8  # prompts; below, only each model's mean is learned


def eyes(folder: Path | None = None) -> Clip:
    """The CLIP model of a folder; the embedded one by default. Raises DataError, MissingExtra."""
    from tastemaker.generate.embed import Encoder  # imports torch

    folder = folder or zoo.ROOT.parent / "zoo_encoder"
    if not folder.is_dir():
        raise DataError("no such folder; expected a CLIP model such as --encoder clip/", file=folder)
    return Encoder.load(folder)


def zoo_book() -> Promptbook:
    """The embedded models and the examples on their cards; pictures are named zoo/NAME/FILE. No vectors yet.

    Raises DataError where no models are embedded.
    """
    cards = [card for card in zoo.zoo() if card.kind == "model"]
    if not cards:
        raise DataError("no embedded models in this version; give a folder of pictures", file=zoo.ROOT)
    drawn = [(example, card) for card in cards for example in card.examples]
    texts = list(dict.fromkeys(example.prompt for example, _ in drawn))
    facts = {"id": "source", "name": "title", "maker": "maker", "licence": "licence", "base": "base"}
    models = pl.DataFrame({column: [getattr(card, field) for card in cards] for column, field in facts.items()})
    cells = pl.DataFrame(
        {
            PROMPT: [example.prompt for example, _ in drawn],
            MODEL: [card.source for _, card in drawn],
            SEED: [example.seed for example, _ in drawn],
            PICTURE: [f"{card.source}/{example.file}" for example, card in drawn],
        }
    )
    return Promptbook(Catalog(models), Catalog(pl.DataFrame({"id": texts, "text": texts})), cells)


def embedded(book: Promptbook, encoder: Encoder, where: Callable[[str], Path]) -> Promptbook:
    """The book with vectors by `encoder`; `where` gives the file of a picture. Raises what reading pictures raises."""
    found = [read_picture(where(name)) for name in book.cells[PICTURE].to_list()]
    vectors = encoder.embed_pictures(found).vectors
    return replace(book, pictures=vectors, texts=encoder.embed_texts(book.prompts.table["text"].to_list()).vectors)


def stock(
    book: Promptbook, encoder: Encoder, *, models: Catalog | None = None, predictor: Predictor | None = None
) -> Shelf:
    """A shelf of the book's models, or of `models`: those without pictures are guessed from their words.

    The predictor is `Styled` from eight prompts up; below, models differ in their mean only.

    Raises DataError for a book without vectors, or whose vectors are not the encoder's.
    """
    if book.pictures is None or book.texts is None:
        raise DataError("the promptbook has no vectors; add them with `embedded`")
    asked = encoder.embed_texts([str(book.prompts.table["text"][0])]).vectors[0]
    if asked.shape != book.texts[0].shape or float(asked @ book.texts[0]) < 0.99:
        raise DataError("the promptbook's vectors are another encoder's; give the one they were made with")
    one, quality = _merged(book)
    vectors = pictures(one)
    assert one.texts is not None
    groups = np.arange(len(one.prompts))
    examples = Examples(one.models.ids, one.texts.astype(np.float64), quality, groups, vectors)
    predictor = predictor or (Styled() if len(one.prompts) >= FEW else Mean())
    return Shelf.of(models or one.models, predictor.fit(examples), signatures=signatures(one), encoder=encoder)


@dataclass(frozen=True, eq=False)
class Look:
    """How pictures become features of taste: how well each shows its prompt, and where it lies among its kind.

    Attributes:
        axes: directions in which the book's pictures differ most, shape (k, dim).
        fit: standard deviation of the clip score within a prompt.
    """

    axes: NDArray[np.float64]
    fit: float

    @classmethod
    def of(cls, book: Promptbook, k: int = 4) -> Look:
        """From a book with vectors."""
        assert book.pictures is not None
        assert book.texts is not None
        at = book.prompts.ids.rows(book.cells[PROMPT])
        off = _within(book.pictures, at)
        fits = _within((book.pictures * book.texts[at]).sum(1, keepdims=True), at)
        return cls(look(off, min(k, *off.shape)), max(float(fits.std()), 1e-6))

    def book(self, book: Promptbook) -> Pictures:
        """The book's pictures, each beside the others of its prompt."""
        assert book.pictures is not None
        assert book.texts is not None
        at = book.prompts.ids.rows(book.cells[PROMPT])
        return self._seen(book.cells[PICTURE].to_list(), book.pictures, book.texts[at], at)

    def drawn(self, ids: list[str], vectors: NDArray[np.float32], text: NDArray[np.float32]) -> Pictures:
        """Fresh pictures of one prompt, each beside the others."""
        return self._seen(ids, vectors, np.broadcast_to(text, vectors.shape), np.zeros(len(ids), np.int32))

    def _seen(
        self, ids: list[str], vectors: NDArray[np.float32], texts: NDArray[np.float32], at: NDArray[np.int32]
    ) -> Pictures:
        fits = _within((vectors * texts).sum(1, keepdims=True), at) / self.fit
        features = np.hstack([fits, _within(vectors, at) @ self.axes.T]).astype(np.float64)
        return Pictures(Vocabulary.of(ids), features, ("fit to the prompt", *["look"] * len(self.axes)))


def taste(votes: Sequence[Vote], person: str, pictures: Pictures) -> Taste:
    """One person's taste, from their votes among these and what others' votes say that people share."""
    own, others = ([vote for vote in votes if (vote.person == person) == mine] for mine in (True, False))
    start = Taste.start(pictures.names)
    return (learned(others, pictures, start) if others else start).of(person).update(own, pictures)


def _within(values: NDArray[np.floating], at: NDArray[np.int32]) -> NDArray[np.float64]:
    """Values less the mean of those with the same number, shape (n, d)."""
    total = np.zeros((int(at.max()) + 1, values.shape[1]))
    np.add.at(total, at, values)
    return np.asarray(values - (total / np.maximum(np.bincount(at), 1)[:, None])[at])


def _merged(book: Promptbook) -> tuple[Promptbook, NDArray[np.float64]]:
    """One cell a prompt and model, its vector the mean over seeds; and the mean CLIP score (n_prompts, n_models)."""
    assert book.pictures is not None
    assert book.texts is not None
    at = book.prompts.ids.rows(book.cells[PROMPT]), book.models.ids.rows(book.cells[MODEL])
    shape = len(book.prompts), len(book.models)
    total, vectors, count = np.zeros(shape), np.zeros((*shape, book.texts.shape[1])), np.zeros(shape)
    np.add.at(total, at, (book.pictures * book.texts[at[0]]).sum(1))
    np.add.at(vectors, at, book.pictures)
    np.add.at(count, at, 1)
    cells = book.cells.unique([PROMPT, MODEL], keep="first", maintain_order=True)
    kept = vectors[book.prompts.ids.rows(cells[PROMPT]), book.models.ids.rows(cells[MODEL])]
    unit = (kept / np.linalg.norm(kept, axis=1, keepdims=True)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return replace(book, cells=cells, pictures=unit), total / count
