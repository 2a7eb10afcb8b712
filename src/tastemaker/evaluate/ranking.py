"""Full ranking: how good are the first k of each person's list, judged by what the person said later?

One row a user first, averages second, so that any figure can be taken apart by user, group or draw. Nothing is sampled:
lists are judged as they are, against all items of the test log (sampled candidates change the order of models;
Krichene and Rendle, KDD 2020).

Let L be a user's likes in the test log (value > 0; on a graded log value >= `like`), D the dislikes, and h_r = 1 where
the item at rank r (from 0) is in L. Sums run over r < k; n = |L|.

| name             | definition                                                                                     |
|------------------|------------------------------------------------------------------------------------------------|
| Precision@k      | sum h_r / k: a list shorter than k has empty places, which are misses                            |
| Recall@k         | sum h_r / n: cannot reach 1 where n > k                                                          |
| CappedRecall@k   | sum h_r / min(k, n): reaches 1 for every user                                                     |
| HitRate@k        | 1 if any h_r = 1                                                                                 |
| MRR@k            | 1 / (r + 1) of the first hit, 0 without one                                                      |
| MAP@k            | sum of h_r * (hits up to r) / (r + 1), divided by min(k, n)                                      |
| NDCG@k           | sum h_r / log2(r + 2), divided by the best possible list's, min(k, n) likes first                |
| Dislikes@k       | items of D in the list / k: shown although the user dislikes them; low is good                   |

Facts that are easy to get wrong:
- Every user of the test log has a row. A user without a list counts 0: giving no recommendations is not a way to
  raise the mean. A user of `recs` whom the test log does not know is not judged and has no row.
- A user with events but without likes has null in every metric but Dislikes@k, and is left out of its mean; `summary`
  counts such users.
- A recommended item nobody judged is neither like nor dislike; in all metrics it is a miss, which is pessimistic.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.compare import Rng, ratio_bounds
from tastemaker.evaluate.matching import Hits, Judged, judged, match

Floats = NDArray[np.float64]
Gain = Literal["binary", "linear", "exponential"]

DEFAULT = ("NDCG@10", "Recall@10", "Precision@10", "MRR@10", "MAP@10", "HitRate@10", "Dislikes@10")


@dataclass(frozen=True, eq=False)
class _Places:
    """Items in lists, ascending by user, then rank: `user`, `rank`, `weight`, each of shape (n,)."""

    user: NDArray[np.int32]
    rank: NDArray[np.integer]
    weight: Floats
    n_users: int

    def total(self, k: int, weight: Floats | None = None) -> Floats:
        """Sum of weights over each user's first k places, shape (n_users,)."""
        weight = self.weight if weight is None else weight
        first = self.rank < k
        return np.asarray(np.bincount(self.user[first], weight[first], self.n_users), np.float64)

    def discounted(self, k: int) -> Floats:
        """Discounted cumulative gain of each user, the weights being the gains, shape (n_users,)."""
        return self.total(k, self.weight / np.log2(self.rank + 2.0))


@dataclass(frozen=True, eq=False)
class _Found:
    """What the formulas know: likes and dislikes in the lists, gains reached and possible, number of likes a user.

    `ideal` holds each user's best list; None with binary gains, where the number of likes says all about it.
    """

    liked: _Places
    disliked: _Places
    gained: _Places
    ideal: _Places | None
    likes: NDArray[np.int64]


def _precision(f: _Found, k: int) -> Floats:
    return f.liked.total(k) / k


def _recall(f: _Found, k: int) -> Floats:
    return f.liked.total(k) / np.maximum(f.likes, 1)


def _capped_recall(f: _Found, k: int) -> Floats:
    return f.liked.total(k) / np.clip(f.likes, 1, k)


def _hit_rate(f: _Found, k: int) -> Floats:
    return (f.liked.total(k) > 0).astype(np.float64)


def _reciprocal_rank(f: _Found, k: int) -> Floats:
    return f.liked.total(k, (_nth(f.liked.user) == 1) / (f.liked.rank + 1.0))


def _average_precision(f: _Found, k: int) -> Floats:
    return f.liked.total(k, _nth(f.liked.user) / (f.liked.rank + 1.0)) / np.clip(f.likes, 1, k)


def _ndcg(f: _Found, k: int) -> Floats:
    if f.ideal is None:
        best = np.append(0.0, np.cumsum(1 / np.log2(np.arange(k) + 2.0)))
        possible = best[np.minimum(f.likes, k)]
    else:
        possible = f.ideal.discounted(k)
    out: Floats = np.divide(f.gained.discounted(k), possible, out=np.full(len(possible), np.nan), where=possible > 0)
    return out


def _dislikes(f: _Found, k: int) -> Floats:
    return f.disliked.total(k) / k


#: Formula of each metric; all but Dislikes and NDCG need a like to be defined (NDCG sees to it itself).
METRICS: Mapping[str, Callable[[_Found, int], Floats]] = {
    "NDCG": _ndcg,
    "Recall": _recall,
    "CappedRecall": _capped_recall,
    "Precision": _precision,
    "MRR": _reciprocal_rank,
    "MAP": _average_precision,
    "HitRate": _hit_rate,
    "Dislikes": _dislikes,
}
_ALIASES = {"hr": "HitRate", "hit_rate": "HitRate", "capped_recall": "CappedRecall"}
_NAMES = {name.lower(): name for name in METRICS} | _ALIASES


def per_user(
    recs: pl.DataFrame,
    test: FeedbackLog,
    metrics: Sequence[str] = DEFAULT,
    *,
    like: float | None = None,
    gain: Gain = "binary",
) -> pl.DataFrame:
    """Judge each person's list.

    Args:
        recs: recommendations, columns user, item, rank (`columns.RECOMMENDATIONS`), rows as in the test log.
        test: what people said. A pair with several events counts once, with its last one.
        metrics: names with their k, such as "NDCG@10"; case does not matter.
        like: on a graded log the smallest value that counts as a like; everything below it is a dislike only where the
            log was made signed, so Dislikes@k needs a signed log.
        gain: NDCG only. "binary": 1 for a like. On a graded log also "linear" (value - low end of the scale) and
            "exponential" (2 ** linear - 1); then every judged item takes part, also those below `like`.

    Returns:
        `user` (ascending) and one Float64 column a metric, named as asked for; one row a user of the test log. Null
        where the metric is undefined for the user.
    """
    wanted = [_parse(name) for name in metrics]
    if len(set(wanted)) < len(wanted) or not wanted:
        raise InvalidArgument(f"metrics={list(metrics)}; expected at least one name, and each only once")
    liked_from = _cut(test, like, gain, [name for name, _ in wanted])
    pairs = judged(test)
    _, hits = match(recs, pairs, test.n_users, test.n_items)
    found = _found(pairs, hits, test, liked_from, gain)
    users = np.flatnonzero(np.bincount(pairs.user, minlength=test.n_users))
    table: dict[str, NDArray[np.generic]] = {c.USER: users.astype(np.int32)}
    for given, (name, k) in zip(metrics, wanted, strict=True):
        value = METRICS[name](found, k)
        if name not in ("Dislikes", "NDCG"):
            value = np.where(found.likes > 0, value, np.nan)
        table[given] = value[users]
    return pl.DataFrame(table, nan_to_null=bool((found.likes[users] == 0).any()))


def read_lists(path: str | Path, test: FeedbackLog) -> tuple[pl.DataFrame, FeedbackLog]:
    """Lists that any program wrote: a .parquet or .csv table of user, item (outside ids) and rank (from 0).

    Returns them in row numbers, and the test log in vocabularies that also know their users and items.
    """
    path = Path(path)
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot be read as a table ({error})", file=path) from error
    if missing := [name for name in (c.USER, c.ITEM, c.RANK) if name not in table.columns]:
        raise DataError(f"lacks the columns {missing}; found {table.columns}", file=path)
    user_ids, item_ids = test.user_ids.extend(table[c.USER]), test.item_ids.extend(table[c.ITEM])
    rows = table.with_columns(
        pl.Series(c.USER, user_ids.rows(table[c.USER])), pl.Series(c.ITEM, item_ids.rows(table[c.ITEM]))
    )
    return rows, dataclasses.replace(test, user_ids=user_ids, item_ids=item_ids)


def depth(metrics: Sequence[str]) -> int:
    """The largest k among names such as "NDCG@10": how many items a person the lists must hold."""
    if not metrics:
        raise InvalidArgument('no metric; expected names such as "NDCG@10"')
    return max(_parse(name)[1] for name in metrics)


def summary(per_user_table: pl.DataFrame, *, level: float = 0.95, draws: int = 1000, rng: Rng = 0) -> pl.DataFrame:
    """Means over users with percentile bootstrap intervals; users are drawn, see `compare`.

    Args:
        per_user_table: `user` and one column a metric, from `per_user` or `rating.within_user`.
        draws: bootstrap samples; 0 skips the intervals (low and high are null), which is quicker.

    Returns:
        one row a metric: metric, mean, low, high, n_users (in the mean), n_undefined (null, not in the mean).
    """
    names = [name for name in per_user_table.columns if name != c.USER]
    if not names or per_user_table.height == 0:
        raise InvalidArgument(f"a table of {per_user_table.height} users and metrics {names}; expected some of both")
    columns = [per_user_table[name].cast(pl.Float64).fill_nan(None) for name in names]
    if draws:
        values = np.column_stack([column.to_numpy() for column in columns])
        defined = ~np.isnan(values)
        mean, low, high = ratio_bounds(np.where(defined, values, 0.0), defined, level=level, draws=draws, rng=rng)
    else:
        mean = np.array([column.mean() for column in columns], np.float64)  # None becomes NaN
        low = high = np.full(len(names), np.nan)
    undefined = np.array([column.null_count() for column in columns])
    return pl.DataFrame(
        {
            "metric": names,
            "mean": mean,
            "low": low,
            "high": high,
            "n_users": per_user_table.height - undefined,
            "n_undefined": undefined,
        },
        nan_to_null=True,
    )


def _parse(given: str) -> tuple[str, int]:
    """'ndcg@10' to ('NDCG', 10)."""
    match = re.fullmatch(r"(\w+)@(\d+)", given.strip())
    name, k = (match[1], int(match[2])) if match else (given.partition("@")[0].strip(), 0)
    if name.lower() not in _NAMES:
        place = f"@{k}" if k else "@10"
        known = [(n if given != given.lower() else n.lower()) + place for n in METRICS]
        raise UnknownName("metric", given, known)
    if k < 1:
        raise InvalidArgument(f"metric '{given}' does not say how many places; expected for example '{name}@10'")
    return _NAMES[name.lower()], k


def _cut(test: FeedbackLog, like: float | None, gain: Gain, names: Sequence[str]) -> float:
    """The smallest value that is a like."""
    if gain not in ("binary", "linear", "exponential"):
        raise UnknownName("gain", gain, ["binary", "linear", "exponential"])
    if test.scale.signed:
        if like is not None or gain != "binary":
            raise InvalidArgument(f"like={like}, gain='{gain}' apply to graded logs; this one holds likes and dislikes")
        return 1.0
    if like is None:
        raise InvalidArgument(
            f"the test log is graded {test.scale.low:g}..{test.scale.high:g}; say which values are likes: like=..., "
            f"or call test.signed(like=..., dislike=...) first"
        )
    if not test.scale.low < like <= test.scale.high:
        raise InvalidArgument(f"like={like:g} is outside the scale {test.scale.low:g}..{test.scale.high:g}")
    if "Dislikes" in names:
        test.require_signed("Dislikes@k")
    return like


def _found(pairs: Judged, hit: Hits, test: FeedbackLog, liked_from: float, gain: Gain) -> _Found:
    n, low = test.n_users, test.scale.low

    def places(keep: NDArray[np.bool_], weight: Floats) -> _Places:
        return _Places(hit.user[keep], hit.rank[keep], weight[keep], n)

    liked, ones = hit.value >= liked_from, np.ones(len(hit.user))
    gained, gains, ideal = liked, ones, None
    if gain != "binary":
        gains, worth = _gains(hit.value - low, gain), _gains(pairs.value - low, gain)
        order = np.lexsort((-worth, pairs.user))
        gained, user = gains > 0, pairs.user[order]
        ideal = _Places(user, _nth(user) - 1, worth[order], n)
    return _Found(
        liked=places(liked, ones),
        disliked=places(hit.value < 0 if test.scale.signed else np.zeros_like(liked), ones),
        gained=places(gained, gains),
        ideal=ideal,
        likes=np.bincount(pairs.user[pairs.value >= liked_from], minlength=n),
    )


def _gains(above_low: NDArray[np.float32], gain: Gain) -> Floats:
    linear = above_low.astype(np.float64)
    return linear if gain == "linear" else np.exp2(linear) - 1


def _nth(grouped: NDArray[np.int32]) -> NDArray[np.int64]:
    """1, 2, 3, ... within each run of equal values, shape (n,)."""
    if not len(grouped):
        return np.empty(0, np.int64)
    start = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1]))
    return np.arange(1, len(grouped) + 1) - np.repeat(start, np.diff(start, append=len(grouped)))
