"""Judging a feedback loop against the truth, round by round.

Of what was shown in a round:

- `value`: mean true value. It falls in late rounds even if nothing is wrong, for good things run out.
- `regret`: mean true value of the best that could have been shown from round 1 on, minus that of what was shown.
- `gini`: Gini coefficient of the round's exposure over all items (`evaluate.exposure`): 0 all alike.
- `popularity`: mean percentile of the shown items by their exposure before the round, in 0..1, 0.5 for random ones.
- `tail`: share of places that went to the half of the items shown least before the round.

Of the model fitted after it, from its scores of every cell:

- `list_value`: mean true value of each person's best `k` of *all* items by score, seen ones included: what the model
  knows by now, whoever used up what.
- `mse`, `bias`: mean squared error, and mean of score - truth, over every cell.
- `correlation`: Spearman correlation between a person's scores and truths over all items, mean over people.
- `diversity`: mean distance of two items of such a list; the distance is 1 - correlation of the items' true values over
  people, each person's mean taken out.

And `effective`, the effective sample size of the weights as a share of the events; 1 without weights.

Round 0 has no `regret`, `popularity` and `tail`: nothing was shown before it, and it is the same for every policy.

Easy to get wrong: `mse` over every cell is not `mse` over unseen cells. What is unseen depends on the policy (a greedy
one leaves the bad items), so errors over unseen cells of two policies are errors over different items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tastemaker.evaluate import exposure

Floats = NDArray[np.float64]
METRICS = (
    "value", "regret", "gini", "popularity", "tail", "list_value", "mse", "bias", "correlation", "diversity",
    "effective",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judge:
    """Knows the truth, and keeps count of what was shown.

    truth (n_users, n_items); ranks: within each person, ascending, standardised, same shape; distance (n_items,
    n_items); k: length of lists; best (n_users, n_items): running sum of the true values of what round 0 left, best
    first; total: rounds so far, true value shown since round 1, places a person since round 1.
    """

    truth: Floats
    ranks: Floats
    distance: Floats
    k: int
    best: Floats
    total: Floats

    @classmethod
    def of(cls, truth: Floats, k: int) -> Judge:
        return cls(truth, _standard_ranks(truth), item_distance(truth), k, np.zeros(truth.shape), np.zeros(3))

    def shown(self, items: NDArray[np.int32], before: NDArray[np.int64]) -> dict[str, float | None]:
        """Metrics of the next round: items (n_users, places), and each item's exposure before it, (n_items,)."""
        n_users, n_items = self.truth.shape
        rows = np.arange(n_users)[:, None]
        value = self.truth[rows, items]
        share = np.bincount(items.ravel(), minlength=n_items) / items.size
        result: dict[str, float | None] = {"value": float(value.mean()), "gini": exposure.gini(share)}
        self.total[0] += 1
        if self.total[0] == 1:
            left = self.truth.copy()
            left[rows, items] = -np.inf
            self.best[:] = np.cumsum(-np.sort(-left, axis=1), axis=1)
            return result | dict.fromkeys(("regret", "popularity", "tail"))
        self.total[1:] += value.sum(), items.shape[1]
        best, places = self.best[:, int(self.total[2]) - 1].sum(), n_users * self.total[2]
        middle = np.median(before)
        below, level = before < middle, before == middle  # equally popular items share the border of the tail
        in_tail = below + level * (n_items / 2 - below.sum()) / max(1, level.sum())
        return result | {
            "regret": float((best - self.total[1]) / places),
            "popularity": float(share @ (stats.rankdata(before) - 0.5)) / n_items,
            "tail": float(share @ in_tail),
        }

    def scores(self, scores: Floats) -> dict[str, float]:
        """Metrics of a model by its scores, shape (n_users, n_items)."""
        error = scores - self.truth
        lists = best(scores, self.k)
        apart = self.distance[lists[:, :, None], lists[:, None, :]].sum()
        return {
            "list_value": float(np.take_along_axis(self.truth, lists, axis=1).mean()),
            "mse": float(np.square(error).mean()),
            "bias": float(error.mean()),
            "correlation": float((_standard_ranks(scores) * self.ranks).mean()),
            "diversity": float(apart / (len(lists) * max(1, self.k * (self.k - 1)))),
        }


def best(scores: Floats, k: int) -> NDArray[np.int32]:
    """The k items of highest score of each person, in no order, shape (n_users, k)."""
    return np.argpartition(-scores, k - 1, axis=1)[:, :k].astype(np.int32)


def item_distance(truth: Floats) -> Floats:
    """1 - correlation between items over people, each person's mean taken out, shape (n_items, n_items)."""
    centred = truth - truth.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(length > 0, length, 1.0)
    distance = 1.0 - unit.T @ unit
    np.fill_diagonal(distance, 0.0)
    return np.asarray(distance)


def _standard_ranks(values: Floats) -> Floats:
    """Ranks within each row, ties averaged, with mean 0 and variance 1; 0 throughout where all are equal."""
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = ranks.std(axis=1, keepdims=True)
    return np.asarray(ranks / np.where(spread > 0, spread, 1.0))
