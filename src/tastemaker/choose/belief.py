"""What is believed about the items after some votes: a Gaussian over their utilities, and the board that follows.

Utilities are on the logit scale: an item 1 above another wins 73 % of forced battles. A vote changes the belief by one
Laplace step: the mode and curvature of (Gaussian x likelihood of the vote). Only the items of the vote need Newton's
method; all others follow by regression on them, so that a vote among K of n items costs K^3 + K n^2, well under a
millisecond for hundreds of items. Voting one by one is close to, but not the same as, the joint fit of `rating.fit`,
for each step freezes the curvature where it was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, ndtr
from scipy.stats import norm

from tastemaker.choose.votes import BAR, Choice, Item
from tastemaker.data.catalog import ID
from tastemaker.data.vocabulary import Ids, Vocabulary
from tastemaker.errors import InvalidArgument

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """What is believed before any vote. All spreads are standard deviations on the logit scale.

    Attributes:
        items: of the crowd's utilities around 0.
        person: of a person's deviation from the crowd, for each item.
        tag: of a tag's deviation from the overall utility, for each item.
        bar: of the bar around 0.
        tie: mean and spread of the log odds that two equal items are called equal rather than that one of them wins.
    """

    items: float = 1.5
    person: float = 0.7
    tag: float = 0.5
    bar: float = 1.5
    tie: tuple[float, float] = (-0.7, 1.0)

    def __post_init__(self) -> None:
        for name in ("items", "person", "tag", "bar"):
            if not 0 < getattr(self, name) < np.inf:
                raise InvalidArgument(f"prior {name} = {getattr(self, name)}; expected a positive spread")
        if not (np.isfinite(self.tie[0]) and 0 < self.tie[1] < np.inf):
            raise InvalidArgument(f"prior tie = {self.tie}; expected (mean, positive spread)")


@dataclass(frozen=True, eq=False)
class Belief:
    """A Gaussian over the utilities of the items, then the bar, then the log odds of a tie.

    Attributes:
        ids: the items.
        mean: shape (n + 2,).
        cov: shape (n + 2, n + 2).
        votes: in how many votes each item was shown, shape (n,); only for display.
        about: whose taste this is, in words.
    """

    ids: Vocabulary
    mean: Floats
    cov: Floats
    votes: NDArray[np.int64]
    about: str = "everybody"

    @classmethod
    def start(cls, ids: Vocabulary, prior: Prior | None = None) -> Belief:
        """Before any vote."""
        if not len(ids):
            raise InvalidArgument("no items; expected at least one")
        p, n = prior or Prior(), len(ids)
        spread = np.array([*[p.items] * n, p.bar, p.tie[1]])
        return cls(ids, np.array([0.0] * (n + 1) + [p.tie[0]]), np.diag(spread**2), np.zeros(n, np.int64))

    def add(self, choices: Iterable[Choice], *, weight: float = 1.0) -> Belief:
        """The belief after one more vote. Raises UnknownId for an item that is not among `ids`."""
        belief, seen = self, np.zeros(len(self.ids), np.int64)
        for choice in choices:
            belief = belief._after(choice, weight)
            seen[[column for column in columns(choice, self.ids).values() if column < len(seen)]] = 1
        return replace(belief, votes=self.votes + seen)

    def _after(self, choice: Choice, weight: float) -> Belief:
        design, chosen = outcomes(choice, self.ids)
        at = np.flatnonzero(design.any(0))
        x, m, c = design[:, at], self.mean[at], self.cov[np.ix_(at, at)]
        precision = np.linalg.inv(c)

        def downhill(b: Floats) -> tuple[float, Floats, Floats]:
            """Negative log posterior of the vote's items, its gradient and curvature."""
            s = x @ b
            p = np.exp(s - logsumexp(s))
            off, average = b - m, p @ x
            value = weight * (logsumexp(s) - s[chosen]) + off @ precision @ off / 2
            curvature = weight * ((x * p[:, None]).T @ x - np.outer(average, average)) + precision
            return float(value), weight * (average - x[chosen]) + precision @ off, curvature

        b, curvature = lowest(downhill, m)
        gain = self.cov[:, at] @ precision
        cov = self.cov - gain @ (c - np.linalg.inv(curvature)) @ gain.T
        return replace(self, mean=self.mean + gain @ (b - m), cov=(cov + cov.T) / 2)

    def probability(self, choice: Choice) -> float:
        """Of this choice at the mean utilities; for a forced pair the share of battles won."""
        design, chosen = outcomes(choice, self.ids)
        s = design @ self.mean
        return float(np.exp(s[chosen] - logsumexp(s)))

    def beats(self) -> Floats:
        """Probability, given what is not known yet, that each item is better than each other, shape (n, n)."""
        mean, spread = self.differences()
        return np.asarray(ndtr(np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)))

    def leaderboard(self, *, level: float = 0.95) -> Leaderboard:
        """The items, best first, with intervals; see `Leaderboard`."""
        if not 0 < level < 1:
            raise InvalidArgument(f"level = {level}; expected a number between 0 and 1")
        n = len(self.ids)
        centred = np.eye(n) - 1 / n
        rating = centred @ self.mean[:n]
        spread = np.sqrt(np.einsum("ij,jk,ik->i", centred, self.cov[:n, :n], centred).clip(0))
        half = float(norm.isf((1 - level) / 2)) * spread
        better = self.beats()
        certain = better > (1 + level) / 2
        above = self.mean[:n] - self.mean[n]
        var = np.diag(self.cov)[:n] + self.cov[n, n] - 2 * self.cov[:n, n]
        table = pl.DataFrame(
            {
                ID: self.ids.series,
                "rating": rating,
                "low": rating - half,
                "high": rating + half,
                "rank_low": certain.sum(0, dtype=np.int64) + 1,
                "rank_high": n - certain.sum(1, dtype=np.int64),
                "liked": expit(above / np.sqrt(1 + np.pi * var.clip(0) / 8)),
                "votes": self.votes,
            }
        ).sort("rating", ID, descending=[True, False])
        table = table.insert_column(1, pl.Series("rank", np.arange(1, n + 1)))
        return Leaderboard(table, self.about, level)

    def differences(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the difference of each two items, (n, n) each."""
        n = len(self.ids)
        mean, var = self.mean[:n], np.diag(self.cov)[:n]
        spread = np.sqrt((var[:, None] + var - 2 * self.cov[:n, :n]).clip(0))
        np.fill_diagonal(spread, 0)
        return mean[:, None] - mean, spread


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Items, best first.

    Attributes:
        table: id; rank from 1, equal ratings by id; rating (logits above the mean of the items) with low and high;
            rank_low and rank_high: better than this and worse than that only if an item is, at the level, surely
            better or worse (pair by pair, not jointly); liked: probability that it is above the bar (0.5 where nobody
            has voted); votes: in which it was shown.
        about: whose taste.
        level: of the intervals.
    """

    table: pl.DataFrame
    about: str
    level: float


def outcomes(choice: Choice, ids: Vocabulary) -> tuple[Floats, int]:
    """What could have been chosen, as rows over (items, bar, tie), and the number of the row that was.

    The chance of an outcome is proportional to exp(row @ utilities). An item has the utility u_i; items called equal
    have the mean of theirs plus the log odds of a tie, once for each item beyond the first (Davidson 1970; Firth,
    Kosmidis & Turner 2019 for more than two). Rao & Kupper's ties are the alternative; Davidson's were chosen because
    the log likelihood is then concave in everything, odds of ties included, a tie is worth exactly half a win each,
    and it has an outcome for several tied in a sort.
    """
    return designed(choice, columns(choice, ids), len(ids) + 2)


def designed(choice: Choice, column: Mapping[Item | None, int], width: int) -> tuple[Floats, int]:
    """`outcomes` where the columns of the items and of the bar are known; the tie's is the last of `width`."""
    sets, chosen = layout(choice)
    design = np.zeros((len(sets), width))
    for row, members in enumerate(sets):
        design[row, [column[item] for item in members]] = 1 / len(members)
        design[row, -1] = len(members) - 1
    return design, chosen


def layout(choice: Choice) -> tuple[list[tuple[Item | None, ...]], int]:
    """The sets of items that could have been chosen, and the number of the one that was."""
    real = [item for item in choice.among if item is not BAR]
    sets: list[tuple[Item | None, ...]] = [(item,) for item in choice.among]
    if choice.ties:
        sets += [tied for size in range(2, len(real) + 1) for tied in combinations(real, size)]
    return sets, sets.index(tuple(sorted(choice.chosen, key=choice.among.index)))


def columns(choice: Choice, ids: Vocabulary) -> dict[Item | None, int]:
    """Column of each item shown, the bar's included. Raises UnknownId for an item that is not among `ids`."""
    items = [item for item in choice.among if item is not BAR]
    return {BAR: len(ids), **dict(zip(items, ids.rows(cast(Ids, items)).tolist(), strict=True))}


def lowest(
    downhill: Callable[[Floats], tuple[float, Floats, Floats]], start: Floats, enough: float = 1e-14
) -> tuple[Floats, Floats]:
    """Where a convex function is lowest, and its curvature there: Newton steps, halved until they descend.

    Args:
        downhill: value, gradient and curvature at a point.
        enough: a step that promises less than this is the last.
    """
    b, (value, gradient, curvature) = start, downhill(start)
    for _ in range(50):
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < enough:
            break
        size = 1.0
        while (new := downhill(b - size * step))[0] > value and size > 1e-8:
            size /= 2
        b, (value, gradient, curvature) = b - size * step, new
    return b, curvature
