"""Which method keeps more structure at equal style? Curves, compared inside every bootstrap draw.

A method's curve goes through its settings in the order of the dial, each the mean over pairs of models and seeds. What
it keeps at style s is the most structure at any point of the curve whose style is at least s: for both methods alike, a
setting that is worse in both counts for nothing. Two curves are compared at nine styles evenly over the range both
have. Where all styles of one lie above all of the other's, the one with more style is ahead if it keeps more structure
too, by what the best of each keep; otherwise there is no equal style, and the claim is *open*. Styles count to three
digits: a reader that is sure differs in the tenth.

Prompts are drawn again with replacement (2,000 times), the same for both methods, and the gap is computed anew from the
drawn curves, range and all. The claim *holds* where the 95 % interval of the gap lies above 0, *fails* where it lies
below, and is *open* otherwise. Models are not drawn again: the figures speak of these models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import resampled

Floats = NDArray[np.float64]
LEVELS, DRAWS = 9, 2000


@dataclass(frozen=True, eq=False)
class Curve:
    """A method at every setting.

    Attributes:
        dials: settings in print, in order.
        structure, style: per prompt, shape (n_dials, n_prompts), means over pairs and seeds.
    """

    dials: tuple[str, ...]
    structure: Floats
    style: Floats


@dataclass(frozen=True)
class Gap:
    """How much more structure the first method keeps at equal style, with its 95 % interval.

    The mean is NaN where the two have no style in common, the interval where more than 1 in 40 of the draws have none.
    """

    mean: float
    low: float
    high: float

    @property
    def word(self) -> str:
        return "holds" if self.low > 0 else "fails" if self.high < 0 else "open"


def curves(table: pl.DataFrame, structure: str, style: str) -> dict[str, Curve]:
    """A curve a method, settings in the order in which they stand in the table."""
    order = table.select("method", "dial").unique(maintain_order=True)
    means = table.group_by("method", "dial", "prompt").agg(pl.col(structure, style).mean()).sort("prompt")
    found = {}
    for (method,), dials in order.group_by("method", maintain_order=True):
        parts = [means.filter(method=method, dial=dial) for dial in dials["dial"]]
        found[str(method)] = Curve(
            tuple(dials["dial"]),
            np.stack([part[structure].to_numpy() for part in parts]),
            np.stack([part[style].to_numpy() for part in parts]),
        )
    return found


def gap(first: Curve, second: Curve, *, draws: int = DRAWS, rng: int = 0) -> Gap:
    """The first's structure less the second's at equal style, over the same prompts."""
    n = first.style.shape[1]
    if n != second.style.shape[1]:
        raise InvalidArgument(f"curves over {n} and {second.style.shape[1]} prompts; expected the same prompts")
    columns = np.concatenate([first.structure, first.style, second.structure, second.style]).T
    means = np.concatenate([columns.mean(0)[None], resampled(columns, draws, rng) / n])
    k, m = len(first.dials), len(second.dials)
    a, s, b, r = np.split(means, [k, 2 * k, 2 * k + m], axis=1)
    values = _gaps(a, s, b, r)
    mean, drawn = float(values[0]), values[1:]
    reached = drawn[~np.isnan(drawn)]
    if n < 2 or np.isnan(mean) or len(reached) < 0.975 * draws:
        return Gap(mean, float("nan"), float("nan"))
    low, high = np.quantile(reached, [0.025, 0.975])
    return Gap(mean, float(low), float(high))


def _gaps(a: Floats, s: Floats, b: Floats, r: Floats) -> Floats:
    """One gap a row from structures a, b and styles s, r of two curves, each (n, n_dials)."""
    s, r = np.round(s, 3), np.round(r, 3)
    low, high = np.maximum(s.min(1), r.min(1)), np.minimum(s.max(1), r.max(1))
    levels = np.linspace(np.minimum(low, high), high, LEVELS, axis=1)
    common: Floats = (kept_at(a, s, levels) - kept_at(b, r, levels)).mean(1)
    best = a.max(1) - b.max(1)
    apart = np.where((best > 0) == (s.min(1) > r.max(1)), best, np.nan)
    return np.where(low <= high, common, apart)


def kept_at(structure: Floats, style: Floats, levels: Floats) -> Floats:
    """The most structure on each curve (n, n_dials) at a style of at least each level (n, n_levels); -inf beyond."""
    at = levels[:, :, None]
    points: Floats = np.where(style[:, None] >= at, structure[:, None], -np.inf).max(-1)
    if style.shape[1] == 1:
        return points
    start, end = style[:, None, :-1], style[:, None, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (at - start) / (end - start)  # NaN where both ends have one style: then they count as points
    y, z = structure[:, None, :-1], structure[:, None, 1:]
    inside = (share >= 0) & (share <= 1)
    crossings: Floats = np.where(inside, y + (z - y) * np.where(inside, share, 0), -np.inf).max(-1)
    return np.asarray(np.maximum(points, crossings))


def verdicts(found: Mapping[str, Curve], ours: str, others: Sequence[str], *, draws: int = DRAWS) -> dict[str, Gap]:
    """Ours against each of the others."""
    return {other: gap(found[ours], found[other], draws=draws) for other in others if other in found}


def band(values: Floats, *, draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean over prompts with its 95 % interval; NaN bounds for one prompt."""
    if len(values) < 2:
        return float(values.mean()), float("nan"), float("nan")
    means = resampled(values[:, None], draws, 0)[:, 0] / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
