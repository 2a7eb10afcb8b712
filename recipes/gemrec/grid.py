"""The paper's grid as arrays: the promptbook, its scores, and examples to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose.predictor import Examples
from tastemaker.choose.signature import pictures
from tastemaker.data.promptbook import Promptbook
from tastemaker.data.read.gemrec import read_gemrec
from tastemaker.errors import DataError
from tastemaker.evaluate.images import gallery
from tastemaker.evaluate.images.embedding import Embeddings


@dataclass(frozen=True, eq=False)
class Grid:
    """A promptbook with vectors.

    Attributes:
        book: roster, prompts, cells.
        scores: the rows of `book.cells` with clip_score, mcos_score, their norms and total_score.
    """

    book: Promptbook
    scores: pl.DataFrame

    def values(self, name: str) -> NDArray[np.float64]:
        """One score of every cell, shape (n_prompts, n_models), NaN where there is no picture."""
        rows = self.book.rows()
        return np.where(rows >= 0, self.scores[name].to_numpy()[rows], np.nan)

    def examples(self, target: str) -> Examples:
        """To learn "clip" or "total" from; prompts with one seed are a group."""
        assert self.book.texts is not None
        groups = self.book.prompts.groups("seed")[0].astype(np.int64)
        quality = self.values("clip_score" if target == "clip" else "total_score")
        return Examples(self.book.models.ids, self.book.texts.astype(np.float64), quality, groups, pictures(self.book))


def read(data: Path) -> Grid:
    """From the folder of GEMRec's files, or the one that holds it as `gemrec`. Raises DataError without embeddings."""
    folder = data / "gemrec" if (data / "gemrec").is_dir() else data
    book = read_gemrec(folder)
    if book.pictures is None or book.texts is None:
        raise DataError("holds no embeddings; expected image_embeddings.npy and text_embeddings.npy", file=folder)
    texts = Embeddings(book.texts, tuple(map(str, book.prompts.table["id"])))
    measured = gallery.measure(book.cells, book.pictures, texts)
    models = book.models.table.select(model="id", downloads="downloads")
    return Grid(book, gallery.score(measured, models))
