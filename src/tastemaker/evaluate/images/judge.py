"""One table: each method's results against their sources, by every measure that can be had.

What cannot be had (no encoder, no transformer, pictures of unequal size) is not left out in silence: `left_out` says in
words which column is missing and why. Higher is better but for structure, mse, lpips, fid and kid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker import columns as c
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.evaluate import compare
from tastemaker.evaluate.compare import Rng
from tastemaker.evaluate.images import distribution, pixels
from tastemaker.evaluate.images.alignment import clip_score
from tastemaker.evaluate.images.embedding import Embeddings, Encoder, Features
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.perceptual import Backbone, lpips
from tastemaker.evaluate.images.picture import Picture, Pixels, content_hash, rgb, rgbs
from tastemaker.evaluate.images.pixels import Masks
from tastemaker.evaluate.images.structure import Keys, edge_structure, structure_distance
from tastemaker.evaluate.images.style import StyleReader, style_similarity

METHOD = "method"

_WHAT = {
    "encoder": "an image-text model",
    "vit": "a vision transformer",
    "backbone": "LPIPS layers",
    "features": "an extractor",
    "targets": "pictures of the target model",
    "prompts": "what results should show",
    "reader": "a fitted StyleReader",
    "style": "the wanted one",
}


@dataclass(frozen=True, eq=False)
class Judgement:
    """How several methods did on the same pictures.

    Attributes:
        table: one row a method: method, n (pictures), and for each measure NAME, NAME_low, NAME_high; FID has no
            interval. Null where the figure or its interval is not defined.
        per_picture: method, user (the number of the picture's group, from 0) and one column a measure.
        left_out: measure -> why it is missing, in words.
        measured_by: measure -> what measured it.
    """

    table: pl.DataFrame
    per_picture: pl.DataFrame
    left_out: Mapping[str, str]
    measured_by: Mapping[str, str]

    def paired(self, a: str, b: str, *, rng: Rng = 0, n: int = 2000, level: float = 0.95) -> pl.DataFrame:
        """Is a different from b on the same pictures? One row a measure, as `compare.paired`.

        Groups are drawn. A picture counts for a measure where both methods have a finite value.
        """
        known = self.table[METHOD].to_list()
        for name in (a, b):
            if name not in known:
                raise UnknownName("method", name, known)
        finite = self.per_picture.with_columns(
            pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64)).name.keep()
        )
        first, second = (finite.filter(pl.col(METHOD) == name).drop(METHOD).group_by(c.USER).mean() for name in (a, b))
        return compare.paired(first, second, rng=rng, n=n, level=level)

    def __str__(self) -> str:
        missing = "".join(f"\nwithout {name}: {why}" for name, why in self.left_out.items())
        return f"{self.table}{missing}"


def judge(
    sources: Sequence[Picture],
    results: Mapping[str, Sequence[Picture]],
    prompts: Sequence[str] | None = None,
    *,
    encoder: Encoder | None = None,
    vit: Keys | None = None,
    backbone: Backbone | None = None,
    features: Features | None = None,
    targets: Sequence[Picture] | None = None,
    reader: StyleReader | None = None,
    style: str | Sequence[str] | None = None,
    masks: Masks | None = None,
    groups: ArrayLike | None = None,
    paper: bool = False,
    level: float = 0.95,
    draws: int = 1000,
    rng: Rng = 0,
) -> Judgement:
    """Judge every method's results against the same sources. Pass the sources as one more method to see the start.

    Args:
        sources: n pictures.
        results: n pictures by method, each made from the source in the same place.
        prompts: what each result should show, n texts, without trigger words of LoRAs.
        encoder: image-text model, for `clip` (with prompts) and `style` (with targets).
        vit: last keys of a transformer, for `structure`.
        backbone: for `lpips`.
        features: for `fid` and `kid` against the targets.
        targets: pictures that the target model draws itself, best for the same prompts.
        reader, style: for `style_read`: who reads styles, and which was wanted, one name or one a picture.
        masks: the part of each source to keep, n bool arrays: then psnr, mse, ssim and lpips judge it alone.
        groups: one label a picture; pictures of one label (one source) are drawn together for intervals.
        paper: the papers' ways: squashed for clip, twice resampled for fid, masked pixels averaged as in PIE-Bench.

    Raises:
        InvalidArgument: no method, or a method with another number of results than there are sources.
    """
    start = rgbs(sources)
    if not results:
        raise InvalidArgument("no methods to judge; expected results by method: {'cocktail': [picture, ...]}")
    drawn = {name: rgbs(pictures) for name, pictures in results.items()}
    for name, pictures in drawn.items():
        require_pairs(start, pictures, ("sources", f"results of '{name}'"))
    labels = np.arange(len(start)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.shape != (len(start),):
        raise InvalidArgument(f"groups of shape {labels.shape} for {len(start)} sources; expected a label each")

    measures, left_out = _measures(start, prompts, encoder, vit, backbone, targets, reader, style, masks, paper)
    uneven = [
        name
        for name, pictures in drawn.items()
        if any(a.shape != b.shape for a, b in zip(start, pictures, strict=True))
    ]
    if uneven:
        for name in ("edges", "psnr", "mse", "ssim", "lpips"):
            if measures.pop(name, None) is not None:
                left_out[name] = f"results of {', '.join(uneven)} differ in size from their sources; resize one of them"

    measured = {name: {method: measure(drawn[method]) for method in drawn} for name, measure in measures.items()}
    sets: dict[str, list[float | None]] = {}
    if features is None or targets is None:
        left_out["fid"] = left_out["kid"] = _lacks(features=features, targets=targets)
    else:
        sets, why = _distances(drawn, features, rgbs(targets), paper, level, rng)
        left_out |= why
    table: dict[str, Sequence[object]] = {METHOD: list(drawn), "n": [len(start)] * len(drawn)}
    for name, by_method in measured.items():
        bounds = [one.interval(groups=labels, level=level, draws=draws, rng=rng) for one in by_method.values()]
        table[name] = [bound.mean for bound in bounds]
        table[f"{name}_low"], table[f"{name}_high"] = [bound.low for bound in bounds], [bound.high for bound in bounds]
    rows = [
        pl.DataFrame(
            {
                METHOD: method,
                c.USER: labels.astype(np.int32),
                **{name: measured[name][method].values for name in measured},
            }
        )
        for method in drawn
    ]
    described = {name: next(iter(by_method.values())).name for name, by_method in measured.items()}
    described |= {
        name: f"{name} by {features.name}" for name in ("fid", "kid") if name in sets and features is not None
    }
    return Judgement(pl.DataFrame(table | sets).fill_nan(None), pl.concat(rows).fill_nan(None), left_out, described)


@dataclass(frozen=True)
class _Once:
    """A transformer that looks at each source once, not once a method; most of a table's time goes there."""

    vit: Keys
    seen: dict[str, NDArray[np.floating] | None]

    @property
    def name(self) -> str:
        return self.vit.name

    def keys(self, picture: Picture) -> NDArray[np.floating]:
        key = content_hash(rgb(picture))
        found = self.seen.get(key)
        if found is None:
            found = self.vit.keys(picture)
            if key in self.seen:
                self.seen[key] = found
        return found


def _measures(
    sources: list[Pixels],
    prompts: Sequence[str] | None,
    encoder: Encoder | None,
    vit: Keys | None,
    backbone: Backbone | None,
    targets: Sequence[Picture] | None,
    reader: StyleReader | None,
    style: str | Sequence[str] | None,
    masks: Masks | None,
    paper: bool,
) -> tuple[dict[str, Callable[[list[Pixels]], Measured]], dict[str, str]]:
    """What can be measured of each method's pictures, and why the rest cannot."""
    left_out: dict[str, str] = {}
    out: dict[str, Callable[[list[Pixels]], Measured]] = {"edges": lambda pictures: edge_structure(sources, pictures)}
    if vit is not None:
        once = _Once(vit, dict.fromkeys(map(content_hash, sources)))
        out["structure"] = lambda pictures: structure_distance(sources, pictures, once)
    else:
        left_out["structure"] = _lacks(vit=vit)
    if encoder is not None and prompts is not None:
        require_pairs(prompts, sources, ("prompts", "sources"))
        out["clip"] = lambda pictures: clip_score(encoder, pictures, prompts, paper=paper)
    else:
        left_out["clip"] = _lacks(encoder=encoder, prompts=prompts)
    if encoder is not None and targets is not None:
        own = _embedded(encoder, rgbs(targets), paper)
        out["style"] = lambda pictures: style_similarity(_embedded(encoder, pictures, paper), own)
    else:
        left_out["style"] = _lacks(encoder=encoder, targets=targets)
    if reader is not None and style is not None:
        out["style_read"] = lambda pictures: reader.reached(pictures, style)
    else:
        left_out["style_read"] = _lacks(reader=reader, style=style)
    out["psnr"] = lambda pictures: pixels.psnr(sources, pictures, masks=masks, paper=paper)
    out["mse"] = lambda pictures: pixels.mse(sources, pictures, masks=masks, paper=paper)
    if min(min(picture.shape[:2]) for picture in sources) >= pixels.SMALLEST:
        out["ssim"] = lambda pictures: pixels.ssim(sources, pictures, masks=masks, paper=paper)
    else:
        left_out["ssim"] = f"a source is smaller than {pixels.SMALLEST} pixels; use larger pictures"
    if backbone is not None:
        out["lpips"] = lambda pictures: lpips(sources, pictures, backbone, masks=masks)
    else:
        left_out["lpips"] = _lacks(backbone=backbone)
    return out, left_out


def _embedded(encoder: Encoder, pictures: list[Pixels], paper: bool) -> Embeddings:
    return encoder.embed_pictures(pictures, fit="squash" if paper else "crop")


def _distances(
    drawn: dict[str, list[Pixels]], extractor: Features, targets: list[Pixels], paper: bool, level: float, rng: Rng
) -> tuple[dict[str, list[float | None]], dict[str, str]]:
    """Columns of FID and KID, and why one is missing. As many blocks as fit, at most ten."""
    n = min(len(targets), *(len(pictures) for pictures in drawn.values()))
    if n < 2:
        why = f"{n} pictures are no distribution; expected at least 2 results and 2 targets"
        return {}, {"fid": why, "kid": why}
    own = distribution.features(targets, extractor, paper=paper)
    seen = [distribution.features(pictures, extractor, paper=paper) for pictures in drawn.values()]
    columns: dict[str, list[float | None]] = {"fid": [distribution.fid(rows, own) for rows in seen]}
    if n < 4:
        return columns, {"kid": f"{n} pictures; its interval needs 2 blocks of 2"}
    kernel = [distribution.kid(rows, own, blocks=min(10, n // 2), level=level, rng=rng) for rows in seen]
    columns["kid"] = [one.value for one in kernel]
    columns["kid_low"] = [one.blocks.low for one in kernel]
    columns["kid_high"] = [one.blocks.high for one in kernel]
    return columns, {}


def _lacks(**given: object) -> str:
    """Which of the needed arguments were not given."""
    absent = [f"{name} ({_WHAT[name]})" for name, value in given.items() if value is None]
    return f"needs {' and '.join(absent)}"
