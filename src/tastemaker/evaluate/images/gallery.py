"""Scores of a prompts x models grid of pictures: GEMRec (Guo et al. 2023, arXiv 2308.02205), and robust variants.

For the picture of model m for prompt p, within each prompt:
    clip_score   100 cos(text_p, picture_pm): does it show the prompt?
    mcos_score   mean over models m' of cos(picture_pm, picture_pm'), m itself included: low is distinct
    nsfw_score   (largest margin of a safety checker's concepts + 1) / 2
    norm_clip    clip_score, norm_mcos  1 - mcos_score: from 0 to 1 over the models of a prompt
    norm_pop     log10(downloads + 1), from 0 to 1 over the models; norm_nsfw from 0 to 1 over all pictures
    total_score  1.0 norm_clip + 0.8 norm_mcos + 0.2 norm_pop

`paper=True` rounds clip score, norms and total to 4 decimals, as published.

Facts that are easy to get wrong:
- Everything is joined by (prompt, model). Published code repeated lists for a complete grid, so that one missing
  picture shifted every later row. A missing cell is refused here, or left out by key with `missing="keep"`.
- Minimum and maximum are two pictures: one outlier squeezes all others together, and the score depends on who else is
  in the pool. `scale="rank"` (share of models beaten, ties half) and `scale="z"` (standard deviations) are steadier.
- Leaving m itself out of mcos is x -> (n x - 1) / (n - 1) within a prompt: norms and order stay, and only then do
  prompts with different numbers of models have comparable values.
- Two models are equally far from each other: with two in a prompt mcos says nothing, and min-max of rounding errors
  would be 0 and 1. Values closer than 1e-9 count as equal; min-max then raises, ranks and z-scores tie.
- norm_mcos is high for *distinct* pictures, which a broken model also draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.images.embedding import Embeddings

Floats = NDArray[np.float64]
Scale = Literal["minmax", "rank", "z"]
Missing = Literal["refuse", "keep"]

PROMPT, MODEL, DOWNLOADS = "prompt", "model", "downloads"
CLIP, MCOS, NSFW, TOTAL = "clip_score", "mcos_score", "nsfw_score", "total_score"

_DECIMALS = 4
_EQUAL = 1e-9


@dataclass(frozen=True)
class Weights:
    """Weights of the total; the defaults are the paper's."""

    clip: float = 1.0
    mcos: float = 0.8
    popularity: float = 0.2


def mcos(vectors: ArrayLike, *, include_self: bool = True) -> Floats:
    """Mean cosine of each picture of one prompt with all of them, shape (n_models,).

    Args:
        vectors: unit vectors of the pictures of one prompt, shape (n_models, dim).
        include_self: as published; without, the mean is over the n_models - 1 others.
    """
    v = np.asarray(vectors, np.float64)
    if v.ndim != 2 or len(v) < (1 if include_self else 2):
        raise InvalidArgument(f"vectors of shape {v.shape}; expected (n_models, dim), with others to compare with")
    with_self = v @ v.sum(0)
    return np.asarray(with_self / len(v) if include_self else (with_self - (v * v).sum(1)) / (len(v) - 1))


def measure(
    cells: pl.DataFrame,
    vectors: ArrayLike,
    texts: Embeddings,
    *,
    include_self: bool = True,
    paper: bool = False,
    missing: Missing = "refuse",
) -> pl.DataFrame:
    """`clip_score` and `mcos_score` of every cell.

    Args:
        cells: columns prompt and model, one row a picture, any order; further columns are kept.
        vectors: unit vector of each row's picture, shape (n_cells, dim).
        texts: vectors of the prompts; ids are the prompts of `cells`, as text.
        paper: round the clip score to 4 decimals.
        missing: "keep" lets a model lack a prompt: it is then left out of that prompt's mean, by key.

    Returns:
        the rows of `cells` in their order, with both scores.
    """
    require_cells(cells, missing=missing)
    v = np.asarray(vectors, np.float64)
    if v.shape != (cells.height, texts.vectors.shape[1]):
        raise InvalidArgument(
            f"vectors of shape {v.shape} for {cells.height} cells and texts of {texts.vectors.shape[1]} dimensions; "
            f"expected one row a cell, in the same space"
        )
    if not (np.abs(np.linalg.norm(v, axis=1) - 1) < 1e-3).all():
        raise InvalidArgument("some picture vectors are not of length 1; divide them by their length")
    clip, alike = np.empty(cells.height), np.empty(cells.height)
    by_prompt = cells.select(PROMPT).with_row_index("row").group_by(PROMPT, maintain_order=True).agg("row")
    for prompt, rows in by_prompt.iter_rows():
        clip[rows] = 100 * v[rows] @ texts.at([str(prompt)])[0].astype(np.float64)
        alike[rows] = mcos(v[rows], include_self=include_self)
    return cells.with_columns(pl.Series(CLIP, clip.round(_DECIMALS) if paper else clip), pl.Series(MCOS, alike))


def nsfw(
    vectors: ArrayLike, concepts: ArrayLike, thresholds: ArrayLike, special: ArrayLike, special_thresholds: ArrayLike
) -> Floats:
    """Explicitness by a safety checker's concept vectors, shape (n,); see `nsfw_of_margins`.

    Args:
        vectors: pictures in the checker's space, shape (n, dim).
        concepts, thresholds: shapes (n_concepts, dim) and (n_concepts,).
        special, special_thresholds: the special-care concepts.
    """
    v = _unit(vectors)
    margins = v @ _unit(concepts).T - np.asarray(thresholds, np.float64)
    careful = v @ _unit(special).T - np.asarray(special_thresholds, np.float64)
    return nsfw_of_margins(margins, (careful > 0).any(1))


def nsfw_of_margins(margins: ArrayLike, special: ArrayLike) -> Floats:
    """(largest margin + 1) / 2.

    Args:
        margins: cosine less threshold of each concept, shape (n, n_concepts).
        special: True where a special-care concept exceeds its threshold: adds 0.01 to every margin, shape (n,).
    """
    m, careful = np.asarray(margins, np.float64), np.asarray(special)
    if m.ndim != 2 or careful.dtype != np.bool_ or careful.shape != (len(m),):
        raise InvalidArgument(
            f"margins of shape {m.shape}, special {careful.shape}, {careful.dtype}; expected a bool each"
        )
    return np.asarray(((m + 0.01 * careful[:, None]).max(1) + 1) / 2)


def score(
    cells: pl.DataFrame,
    models: pl.DataFrame | None = None,
    *,
    weights: Weights | None = None,
    scale: Scale = "minmax",
    paper: bool = False,
    missing: Missing = "refuse",
) -> pl.DataFrame:
    """Norms and the total of every cell.

    Args:
        cells: prompt, model, clip_score, mcos_score, and nsfw_score where it is known.
        models: columns model and downloads, one row a model; popularity is relative to all of them. May be left out
            where its weight is 0.
        weights: of the total; by default the paper's 1.0, 0.8, 0.2.
        scale: "minmax" as published, "rank" or "z"; the last two also for popularity. NSFW is always min-max.
        paper: round norms and total to 4 decimals. Only with "minmax".
        missing: as in `measure`.

    Returns:
        the rows of `cells` in their order, with norm_clip, norm_mcos, norm_pop, norm_nsfw (where they can be had) and
        total_score.

    Raises:
        DataError: a missing or doubled cell, a model without downloads, a score that is null or NaN, or min-max over
            values that are all equal.
    """
    weights = weights or Weights()
    if scale not in ("minmax", "rank", "z"):
        raise UnknownName("scale", scale, ["minmax", "rank", "z"])
    if paper and scale != "minmax":
        raise InvalidArgument(f"paper=True with scale='{scale}'; the paper's norms are 'minmax'")
    require_cells(cells, [CLIP, MCOS, *([NSFW] if NSFW in cells.columns else [])], missing=missing)
    out = cells.with_columns(
        _scaled(cells, CLIP, scale, over=PROMPT).alias("norm_clip"),
        _scaled(cells, MCOS, scale, over=PROMPT, lower_is_better=True).alias("norm_mcos"),
    )
    if models is not None:
        out = _joined(out, _popularity(models, scale))
    elif weights.popularity:
        raise InvalidArgument(
            f"no table of models, but popularity weighs {weights.popularity:g}; pass models (model, downloads) or "
            f"weights=Weights(popularity=0)"
        )
    if NSFW in cells.columns:
        out = out.with_columns(_scaled(cells, NSFW, "minmax").alias("norm_nsfw"))
    norms = [name for name in ("norm_clip", "norm_mcos", "norm_pop", "norm_nsfw") if name in out.columns]
    if paper:
        out = out.with_columns(pl.col(norms).round(_DECIMALS))
    total = weights.clip * pl.col("norm_clip") + weights.mcos * pl.col("norm_mcos")
    if models is not None:
        total = total + weights.popularity * pl.col("norm_pop")
    return out.with_columns((total.round(_DECIMALS) if paper else total).alias(TOTAL))


def ranked(scores: pl.DataFrame, k: int | None = None) -> pl.DataFrame:
    """Models of each prompt, best total first, with `rank` from 0; equal totals in the order of the model's id.

    Args:
        k: keep the first k of each prompt.
    """
    require_columns(scores, [PROMPT, MODEL, TOTAL])
    ordered = scores.sort(PROMPT, TOTAL, MODEL, descending=[False, True, False], maintain_order=True)
    ordered = ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).over(PROMPT).alias("rank"))
    return ordered if k is None else ordered.filter(pl.col("rank") < k)


def require_cells(cells: pl.DataFrame, values: Sequence[str] = (), *, missing: Missing = "refuse") -> None:
    """Raise DataError unless each (prompt, model) is there once, and every one unless `missing` is "keep"."""
    if missing not in ("refuse", "keep"):
        raise UnknownName("way with missing cells", missing, ["refuse", "keep"])
    require_columns(cells, [PROMPT, MODEL, *values])
    if cells.is_empty():
        raise DataError("the grid has no cells; expected one row a picture")
    for name in (PROMPT, MODEL, *values):
        column = cells[name]
        bad = column.null_count() + (int(column.is_nan().sum()) if column.dtype.is_float() else 0)
        if bad:
            raise DataError(f"{bad} of {cells.height} values are null or NaN; leave these cells out", column=name)
    twice = cells.group_by(PROMPT, MODEL).len().filter(pl.col("len") > 1)
    if twice.height:
        prompt, model, n = twice.sort(PROMPT, MODEL).row(0)
        raise DataError(f"prompt {prompt} has {n} pictures by model {model}; expected one: average seeds first")
    wanted = cells.select(PROMPT).unique().join(cells.select(MODEL).unique(), how="cross")
    if missing == "refuse" and (gaps := wanted.height - cells.height):
        absent = wanted.join(cells, on=[PROMPT, MODEL], how="anti").sort(PROMPT, MODEL)
        first = ", ".join(f"(prompt {p}, model {m})" for p, m in absent.head(3).iter_rows())
        raise DataError(
            f"{gaps} of {wanted.height} cells are missing, such as {first}; complete the grid, or pass missing='keep' "
            f"to score each prompt among the models that have it"
        )


def require_columns(table: pl.DataFrame, names: Sequence[str]) -> None:
    """Raise DataError unless the table has these columns."""
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise DataError(f"columns {absent} are missing; found {table.columns}")


def _scaled(
    table: pl.DataFrame, name: str, scale: Scale, *, over: str | None = None, lower_is_better: bool = False
) -> pl.Expr:
    """One column brought to a common scale, within each group of `over`; high is good."""

    def within(part: pl.Expr) -> pl.Expr:
        return part if over is None else part.over(over)

    value = pl.col(name).cast(pl.Float64)
    low, high, n = within(value.min()), within(value.max()), within(value.count())
    if scale == "minmax":
        flat = table.filter(high - low < _EQUAL)
        if flat.height:
            where = f"for {over} {flat[over][0]}" if over is not None else "in the whole table"
            raise DataError(f"all values are equal {where}, so min-max is 0/0; use scale='rank'", column=name)
        share = (value - low) / (high - low)
        return 1 - share if lower_is_better else share
    if scale == "rank":
        share = (within((value / _EQUAL).round().rank("average")) - 0.5) / n
        return 1 - share if lower_is_better else share
    spread = within(value.std(ddof=0))
    z = pl.when(spread > _EQUAL).then((value - within(value.mean())) / spread).otherwise(0.0)
    return -z if lower_is_better else z


def _popularity(models: pl.DataFrame, scale: Scale) -> pl.DataFrame:
    """model, norm_pop."""
    require_columns(models, [MODEL, DOWNLOADS])
    if models[MODEL].n_unique() != models.height:
        raise DataError("the table of models holds a model twice; expected one row a model", column=MODEL)
    if models[DOWNLOADS].null_count() or bool((models[DOWNLOADS] < 0).any()):
        raise DataError("downloads are null or negative; expected a count for each model", column=DOWNLOADS)
    logs = models.select(MODEL, (pl.col(DOWNLOADS).cast(pl.Float64) + 1).log10().alias(DOWNLOADS))
    return logs.select(MODEL, _scaled(logs, DOWNLOADS, scale).alias("norm_pop"))


def _joined(cells: pl.DataFrame, popularity: pl.DataFrame) -> pl.DataFrame:
    if cells.schema[MODEL] != popularity.schema[MODEL]:
        raise DataError(
            f"models are {cells.schema[MODEL]} in the cells and {popularity.schema[MODEL]} in the table of models; "
            f"expected one type",
            column=MODEL,
        )
    out = cells.join(popularity, on=MODEL, how="left", maintain_order="left")
    if out["norm_pop"].null_count():
        absent = out.filter(pl.col("norm_pop").is_null())[MODEL].unique().sort()
        raise DataError(f"{len(absent)} models have no downloads, such as {absent[0]}; add them", column=MODEL)
    return out


def _unit(vectors: ArrayLike) -> Floats:
    v = np.asarray(vectors, np.float64)
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))
