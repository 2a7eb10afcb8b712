"""One figure a picture, and the interval of their mean.

Pictures made from one source rise and fall together. Where several results share a source, name it in `groups`: then
sources are drawn again, not pictures (the cluster bootstrap of `evaluate.compare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import Interval, Rng, resampled

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Values of one metric, in the order of the pictures.

    Attributes:
        name: of the metric, with what it was measured by.
        values: shape (n_pictures,); NaN where the metric is not defined for a picture.
    """

    name: str
    values: Floats

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float64)
        if values.ndim != 1:
            raise InvalidArgument(f"{self.name}: values of shape {values.shape}; expected one a picture")
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    def interval(
        self, *, groups: ArrayLike | None = None, level: float = 0.95, draws: int = 1000, rng: Rng = 0
    ) -> Interval:
        """Mean over pictures where the metric is defined, with a percentile bootstrap interval.

        Args:
            groups: one label a picture; pictures of one label are drawn together.

        Returns:
            low, high and p are NaN with fewer than two groups, or where a value is infinite (PSNR of equal pictures).
        """
        if not 0 < level < 1:
            raise InvalidArgument(f"level={level:g}; expected a share between 0 and 1, such as 0.95")
        labels = np.arange(len(self)) if groups is None else np.asarray(groups)
        if labels.shape != self.values.shape:
            raise InvalidArgument(f"groups of shape {labels.shape} for {len(self)} pictures; expected a label each")
        defined = ~np.isnan(self.values)
        n = int(defined.sum())
        mean = float(self.values[defined].mean()) if n else float("nan")
        group = np.unique(labels[defined], return_inverse=True)[1]
        if n == 0 or group.max() == 0 or not np.isfinite(mean):
            return Interval(mean, float("nan"), float("nan"), float("nan"), n)
        sums = np.column_stack([np.bincount(group, self.values[defined]), np.bincount(group)])
        drawn = resampled(sums, draws, rng)
        means = drawn[:, 0] / drawn[:, 1]
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        side = min(int((means <= 0).sum()), int((means >= 0).sum()))
        return Interval(mean, float(low), float(high), min(1.0, 2 * (1 + side) / (1 + draws)), n)


def require_pairs(first: Sequence[object], second: Sequence[object], names: tuple[str, str]) -> None:
    """Raise unless both have the same number of members, at least one."""
    if len(first) != len(second) or not len(first):
        raise InvalidArgument(f"{len(first)} {names[0]} and {len(second)} {names[1]}; expected one of each, in pairs")
