"""What a model's pictures have in common: its signature (as CARLoS, CVPR 2026, here from a grid of pictures).

For each picture take its deviation, the picture's vector minus the mean over the models that drew the same prompt. A
model's signature is the mean of its deviations: the direction is its style, the length its strength, and the mean
pairwise cosine of its deviations says how consistently the model draws in that style.

Facts that are easy to get wrong:
- The deviation is from the models that drew *this* prompt, by key; a missing picture shifts nothing.
- Consistency leaves out each deviation's cosine with itself, which would add 1/n for nothing.
- A model without pictures has a guessed signature (`cold`), and `pictures` says 0. Guesses lean to the mean, so they
  are shorter than real ones: a strength of a guess must not be compared with a measured one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose.words import guess
from tastemaker.data.catalog import Catalog
from tastemaker.data.promptbook import Promptbook
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signatures:
    """One row a model.

    Attributes:
        ids: the models.
        vectors: mean deviation, shape (n, dim).
        consistency: mean pairwise cosine of the deviations, shape (n,); NaN for fewer than two pictures.
        pictures: how many the signature is made of, shape (n,); 0 where it is guessed from words.
    """

    ids: Vocabulary
    vectors: Floats
    consistency: Floats
    pictures: NDArray[np.int64]

    @property
    def strength(self) -> Floats:
        """Length of each signature, shape (n,)."""
        return np.asarray(np.linalg.norm(self.vectors, axis=1))

    @property
    def direction(self) -> Floats:
        """Signatures of length 1, shape (n, dim); a signature of length 0 stays 0."""
        return np.asarray(self.vectors / np.maximum(self.strength, 1e-12)[:, None])

    def table(self) -> pl.DataFrame:
        """id, strength, consistency, pictures."""
        facts = {"strength": self.strength, "consistency": self.consistency, "pictures": self.pictures}
        return pl.DataFrame({"id": self.ids.series, **facts})

    def cold(self, models: Catalog, *, penalty: float = 1.0) -> Signatures:
        """Signatures for all of `models`: known ones as they are, the others guessed from their words (`words.guess`).

        Raises UnknownId where a model with a signature is not in `models`.
        """
        known = self.ids.rows(models.table["id"].filter(models.table["id"].is_in(self.ids.series.implode())))
        vectors = guess(self.vectors, self.ids, models, penalty=penalty)
        consistency, pictures = np.full(len(models), np.nan), np.zeros(len(models), np.int64)
        at = models.ids.rows(self.ids.ids(known))
        consistency[at], pictures[at] = self.consistency[known], self.pictures[known]
        return Signatures(models.ids, vectors, consistency, pictures)


def signatures(book: Promptbook) -> Signatures:
    """The signature of each model of a grid. Raises DataError where the book has no vectors or no pictures."""
    if book.pictures is None or not book.cells.height:
        raise DataError(
            "the promptbook has no vectors of pictures; embed them: dataclasses.replace(book, pictures=...)"
        )
    deviation, drawn = deviations(pictures(book).astype(np.float64))
    unit = deviation / np.maximum(np.linalg.norm(deviation, axis=2, keepdims=True), 1e-12)
    n = drawn.sum(0)
    together = np.linalg.norm(unit.sum(0), axis=1) ** 2
    consistency = np.divide(together - n, n * (n - 1), out=np.full(len(n), np.nan), where=n > 1)
    vectors = deviation.sum(0) / np.maximum(n, 1)[:, None]
    return Signatures(book.models.ids, vectors, consistency, n)


def pictures(book: Promptbook) -> NDArray[np.float32]:
    """Vector of each cell's picture, shape (n_prompts, n_models, dim), NaN where there is none."""
    if book.pictures is None:
        raise DataError(
            "the promptbook has no vectors of pictures; embed them: dataclasses.replace(book, pictures=...)"
        )
    rows = book.rows()
    found = book.pictures[rows]
    found[rows < 0] = np.nan
    return found


def deviations(vectors: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Each picture minus the mean over the models that drew its prompt, and which pictures there are.

    Args:
        vectors: shape (n_prompts, n_models, dim), NaN where there is no picture.

    Returns:
        deviations of the same shape, 0 where there is no picture, and flags (n_prompts, n_models).
    """
    drawn = ~np.isnan(vectors[..., 0])
    whole = bool(drawn.all())
    filled = vectors if whole else np.where(drawn[..., None], vectors, 0)
    deviation = filled - filled.sum(1, keepdims=True) / np.maximum(drawn.sum(1), 1)[:, None, None].astype(vectors.dtype)
    if not whole:
        deviation[~drawn] = 0
    return deviation, drawn
