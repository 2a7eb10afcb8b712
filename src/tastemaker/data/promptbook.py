"""Promptbook: prompts x models, and the picture of each cell, as in GEMRec (Guo et al. 2023, arXiv 2308.02205).

Everything is joined by key, never by position: a picture that is missing shifts nothing, it leaves a hole that
`rows()` shows as -1. `data.read.gemrec` reads the paper's files, `data.read.grid` a folder drawn by our own grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.data.catalog import ID, Catalog
from tastemaker.data.vocabulary import Ids
from tastemaker.errors import DataError, InvalidArgument

PROMPT, MODEL, SEED, PICTURE = "prompt", "model", "seed", "picture"
KEY = [PROMPT, MODEL, SEED]

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Promptbook:
    """A grid of pictures.

    Attributes:
        models: facts about each model; for GEMRec also `downloads`, `tags`, `base`.
        prompts: facts about each prompt; column `text` is what the prompt says.
        cells: one row a picture: prompt and model (ids of the above), seed, picture (text, unique), then other facts.
        pictures: unit vector of each cell's picture, shape (n_cells, dim), in the order of `cells`.
        texts: unit vector of each prompt, shape (n_prompts, dim), in the order of `prompts`, in the same space.

    Raises DataError for a cell of an unknown prompt or model, a cell or picture that is there twice, or vectors that do
    not fit.
    """

    models: Catalog
    prompts: Catalog
    cells: pl.DataFrame
    pictures: Vectors | None = None
    texts: Vectors | None = None

    def __post_init__(self) -> None:
        if absent := [name for name in (*KEY, PICTURE) if name not in self.cells.columns]:
            raise DataError(f"cells lack the columns {absent}; found {self.cells.columns}")
        for name, catalog in ((PROMPT, self.prompts), (MODEL, self.models)):
            if (unknown := catalog.ids.find(self.cells[name]) < 0).any():
                stray = self.cells[name][int(np.argmax(unknown))]
                raise DataError(
                    f"{int(unknown.sum())} cells are of a {name} nobody lists, such as {stray}", column=name
                )
        for names in (KEY, [PICTURE]):
            twice = self.cells.filter(self.cells.select(names).is_duplicated())
            if twice.height:
                told = ", ".join(f"{name} {twice[name][0]}" for name in names)
                raise DataError(f"{told} is there twice; expected one picture a cell", column=names[-1])
        for what, vectors, n in (
            ("picture", self.pictures, self.cells.height),
            ("prompt", self.texts, len(self.prompts)),
        ):
            if vectors is not None:
                _require_unit(what, vectors, n)
        if self.pictures is not None and self.texts is not None and self.pictures.shape[1] != self.texts.shape[1]:
            raise DataError(f"pictures have {self.pictures.shape[1]} dimensions and texts {self.texts.shape[1]}")

    @property
    def complete(self) -> bool:
        """Whether every model drew every prompt, each with the same number of seeds."""
        each = self.cells.group_by(PROMPT, MODEL).len()
        return each.height == len(self.prompts) * len(self.models) and each["len"].n_unique() <= 1

    def rows(self) -> NDArray[np.int32]:
        """Row in `cells` of each prompt and model, shape (n_prompts, n_models), -1 where there is no picture.

        Raises DataError where a cell has several seeds; choose one with `only(seeds=...)`.
        """
        grid = np.full((len(self.prompts), len(self.models)), -1, np.int32)
        at = self.prompts.ids.rows(self.cells[PROMPT]), self.models.ids.rows(self.cells[MODEL])
        grid[at] = np.arange(self.cells.height, dtype=np.int32)
        if (filled := int((grid >= 0).sum())) < self.cells.height:
            raise DataError(f"{self.cells.height} pictures for {filled} cells; choose a seed with only(seeds=[...])")
        return grid

    def only(
        self, *, prompts: Ids | None = None, models: Ids | None = None, seeds: Sequence[int] | None = None
    ) -> Promptbook:
        """The part with these prompts, models and seeds, in the order given. Raises UnknownId for unknown ids."""
        if seeds is not None and (absent := sorted(set(seeds) - set(self.cells[SEED]))):
            raise InvalidArgument(
                f"no picture has the seed {absent[0]}; known: {sorted(set(self.cells[SEED]))[:5]} ..."
            )
        kept_prompts, kept_models = _part(self.prompts, prompts), _part(self.models, models)
        keep = pl.col(PROMPT).is_in(kept_prompts.table[ID].implode()) & pl.col(MODEL).is_in(
            kept_models.table[ID].implode()
        )
        if seeds is not None:
            keep = keep & pl.col(SEED).is_in(list(seeds))
        mask = self.cells.select(keep).to_series()
        texts = None if self.texts is None else self.texts[self.prompts.ids.rows(kept_prompts.table[ID])]
        pictures = None if self.pictures is None else self.pictures[mask.to_numpy()]
        return replace(
            self,
            models=kept_models,
            prompts=kept_prompts,
            cells=self.cells.filter(mask),
            pictures=pictures,
            texts=texts,
        )


def _part(catalog: Catalog, ids: Ids | None) -> Catalog:
    return catalog if ids is None else Catalog(catalog.table[catalog.ids.rows(ids).astype(np.int64)])


def _require_unit(what: str, vectors: Vectors, n: int) -> None:
    if vectors.ndim != 2 or len(vectors) != n:
        raise DataError(f"{what} vectors of shape {vectors.shape}; expected ({n}, dim), one row a {what}")
    bad = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if bad.any():
        raise DataError(f"{int(bad.sum())} {what} vectors are not of length 1, the first in row {int(np.argmax(bad))}")
