"""Fake users by rule: no model is trained, so these are what a learned attack has to beat at the same budget.

On clicks there are no ratings to choose, so each rule is its choice of *fillers*: what a fake user clicks beside the
targets. All click every target. Sources: `random` and `average` Lam and Riedl 2004; `bandwagon` and `segment` Burke,
Mobasher, Bhaumik and Williams 2005; `power_users` Wilson and Seminario 2013; `power_items` Seminario and Wilson 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.profiles import Budget, Fakes, target_rows
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Rng = int | np.random.Generator | None
Array = NDArray[Any]
Fill = Callable[[NDArray[np.int32], int, np.random.Generator], Array]  # candidates, how many, rng


def random(log: FeedbackLog, targets: ArrayLike, budget: Budget, *, rng: Rng = None) -> Fakes:
    """Fillers uniformly at random."""
    return _fakes("random", log, targets, budget, rng, lambda rest, n, draw: draw.choice(rest, n, replace=False))


def average(log: FeedbackLog, targets: ArrayLike, budget: Budget, *, rng: Rng = None) -> Fakes:
    """Fillers as the average user would have them: in proportion to clicks (on ratings: the item's mean rating)."""
    popularity = _popularity(real_clicks(log))
    return _fakes("average", log, targets, budget, rng, lambda rest, n, draw: _weighted(rest, popularity, n, draw))


def bandwagon(
    log: FeedbackLog, targets: ArrayLike, budget: Budget, *, pool: float = 0.1, share: float = 0.5, rng: Rng = None
) -> Fakes:
    """A `share` of the fillers from the `pool` most popular items (a share of all), the others uniformly."""
    _share(pool=pool, share=share)
    order = np.argsort(-_popularity(real_clicks(log)), kind="stable")
    popular = order[: max(1, round(pool * len(order)))]

    def fill(rest: NDArray[np.int32], n: int, draw: np.random.Generator) -> Array:
        return _mixed(popular, round(share * n), rest, n, np.zeros(log.n_items), draw)

    return _fakes("bandwagon", log, targets, budget, rng, fill, pool=pool, share=share)


def segment(
    log: FeedbackLog, targets: ArrayLike, budget: Budget, *, size: int = 10, share: float = 0.5, rng: Rng = None
) -> Fakes:
    """A `share` of the fillers from the segment: the `size` items nearest to the targets by cosine of their clicks.

    Raises InvalidArgument where nobody has clicked a target: then there is no segment to know.
    """
    _share(share=share)
    if size < 1:
        raise InvalidArgument(f"a segment of {size} items; expected at least 1")
    rows, real = target_rows(log, targets), real_clicks(log)
    together = np.asarray((real[:, rows].T @ real).sum(axis=0)).ravel() / np.sqrt(np.maximum(_popularity(real), 1))
    together[rows] = 0
    if not together.any():
        raise InvalidArgument(
            f"nobody who clicked targets {rows.tolist()} clicked anything else, so they have no segment; use bandwagon"
        )
    near = np.argsort(-together, kind="stable")[:size]
    near = near[together[near] > 0]

    def fill(rest: NDArray[np.int32], n: int, draw: np.random.Generator) -> Array:
        return _mixed(near, round(share * n), rest, n, np.zeros(log.n_items), draw)

    return _fakes("segment", log, targets, budget, rng, fill, size=size, share=share)


def power_users(log: FeedbackLog, targets: ArrayLike, budget: Budget, *, rng: Rng = None) -> Fakes:
    """Copies of the most influential users' clicks, one each: those with most clicks (the 'NumRatings' choice).

    A copied profile is cut at random to the clicks allowed, or filled up in proportion to popularity.
    """
    real = real_clicks(log)
    popularity = _popularity(real)
    order = iter(np.argsort(-np.diff(real.indptr), kind="stable"))

    def fill(rest: NDArray[np.int32], n: int, draw: np.random.Generator) -> Array:
        user = next(order)
        own = real.indices[real.indptr[user] : real.indptr[user + 1]]
        return _mixed(own, n, rest, n, popularity, draw)

    return _fakes("power_users", log, targets, budget, rng, fill)


def power_items(log: FeedbackLog, targets: ArrayLike, budget: Budget, *, pool: int = 50, rng: Rng = None) -> Fakes:
    """Fillers from the `pool` items of highest in-degree: nearest neighbour of most other items, by cosine of clicks.

    Where more fillers are allowed than the pool holds, the others are drawn in proportion to popularity.
    """
    if pool < 1:
        raise InvalidArgument(f"a pool of {pool} items; expected at least 1")
    real = real_clicks(log)
    popularity = _popularity(real)
    unit = (real @ sparse.diags(1 / np.sqrt(np.maximum(popularity, 1)))).tocsc()
    degree = np.zeros(log.n_items)
    for first in range(0, log.n_items, 512):
        near = (unit[:, first : first + 512].T @ unit).toarray()
        own = np.arange(len(near))
        near[own, first + own] = 0
        best = near.argmax(axis=1)
        np.add.at(degree, best, near[own, best] > 0)
    power = np.lexsort((-popularity, -degree))[:pool]

    def fill(rest: NDArray[np.int32], n: int, draw: np.random.Generator) -> Array:
        return _mixed(power, n, rest, n, popularity, draw)

    return _fakes("power_items", log, targets, budget, rng, fill, pool=pool)


def _fakes(
    method: str, log: FeedbackLog, targets: ArrayLike, budget: Budget, rng: Rng, fill: Fill, **settings: float
) -> Fakes:
    rows, draw = target_rows(log, targets), np.random.default_rng(rng)
    users, clicks = budget.of(log)
    if clicks < len(rows):
        raise InvalidArgument(
            f"{clicks} clicks a fake user, but {len(rows)} targets to click; allow more clicks or name fewer targets"
        )
    rest = np.setdiff1d(np.arange(log.n_items, dtype=np.int32), rows)
    profiles = (np.sort(np.r_[rows, fill(rest, clicks - len(rows), draw)]) for _ in range(users))
    record: dict[str, str | int | float | bool | None] = {"users": users, "clicks": clicks, **settings}
    return Fakes(tuple(profile.astype(np.int32) for profile in profiles), log.n_items, rows, method, record)


def _popularity(real: sparse.csr_matrix) -> Array:
    return np.bincount(real.indices, minlength=real.shape[1])


def _mixed(
    preferred: Array, m: int, rest: NDArray[np.int32], n: int, popularity: Array, draw: np.random.Generator
) -> Array:
    """n of `rest`: m from `preferred` (fewer where it has fewer), the others in proportion to popularity + 1."""
    known = np.intersect1d(preferred, rest)
    first = draw.choice(known, min(m, len(known)), replace=False)
    return np.concatenate([first, _weighted(np.setdiff1d(rest, first), popularity, n - len(first), draw)])


def _weighted(items: Array, popularity: Array, n: int, draw: np.random.Generator) -> Array:
    """n of `items` without replacement, in proportion to popularity + 1, by exponential clocks."""
    clocks = draw.standard_exponential(len(items)) / (popularity[items] + 1.0)
    chosen: Array = items[np.argsort(clocks)[:n]]
    return chosen


def _share(**given: float) -> None:
    for name, value in given.items():
        if not 0 < value <= 1:
            raise InvalidArgument(f"{name}={value:g}; expected a share above 0 and up to 1")
