"""Bagging over users, with a proof: under any `e` fake users these items stay in the list, those do not get in.

Each of many bags trains a recommender on `size` users drawn without replacement, folds in everybody's own history, and
votes for its `each` best items of every user; the items with most votes are recommended. (In the spirit of PORE, Jia
et al., USENIX Security 2023. There only bags that hold a user serve that user; here fold-in serves everybody from every
bag, which gives simpler and larger probabilities. The bound below is our own derivation.)

Let p_i be the probability, over the draw of a bag of n users, that item i gets its vote for one fixed user. With e fake
users added, a bag of s from n + e holds no fake with probability rho = C(n, s) / C(n + e, s), and is then a bag of the
old log. The other bags, 1 - rho of all, may vote for anything, but each for at most `each` items, and once per item:

    rho p_i <= p'_i <= rho p_i + (1 - rho)

*Stays.* Item i leaves the first k only if k others reach it. The cheapest k are those of largest p_j; lifting j costs
max(0, rho (p_i - p_j)), at most 1 - rho each, and at most (1 - rho) min(each, k) together. If that is not enough, i
stays. *Stays out.* Item i reaches at most rho p_i + (1 - rho), so k others with rho p_j above that keep it out.
Ties go to the attacker. p is estimated from finitely many bags, so p_i is replaced by a lower and p_j by an upper
Clopper-Pearson bound, all of them right at once with confidence 1 - alpha (Bonferroni over users and items).

Easy to get wrong: the proof needs that a bag's model depends on nothing but its users, and a list on nothing but that
model and the user's own history. So bags are trained on logs whose vocabulary holds only their users, and fold-in may
not look at other users (true of the recommenders here that fold in without refitting). It is about the votes of *all*
bags there could be; the lists shown come from those drawn. It says nothing about fake events in real users' histories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tastemaker import columns as c
from tastemaker.attack.defend import Victim, folds_in, fresh
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import Rng, user_rows
from tastemaker.recommend.metric import CML
from tastemaker.recommend.neural import NCF
from tastemaker.recommend.topk import top_k_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bagging:
    """A certified defence.

    Attributes:
        bags: models trained. A hundred make good lists; a proof that says something needs thousands, since the
            bounds of p from T bags lie up to about 3 / sqrt(T) off to either side (the published T is 100,000).
        size: users in a bag. Fewer give stronger proofs and poorer models.
        each: items that a bag votes for.
    """

    bags: int = 100
    size: int = 100
    each: int = 10

    def suits(self, victim: Victim) -> bool:
        """Whether the victim folds in each user by that user's history alone; NCF and CML sample for all at once."""
        return folds_in(victim) and not isinstance(victim, NCF | CML)

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Votes:
        """Train the bags. Items a user has events on in `log` get no votes of that user."""
        fresh(victim)
        if not self.suits(victim):
            raise InvalidArgument(
                f"{type(victim).__name__} does not fold in each user alone, which the proof needs; expected for "
                f"example Factors, ItemKNN or MultVAE"
            )
        real = log.users
        if not (1 <= self.size <= len(real) and self.bags >= 1 and self.each >= 1):
            raise InvalidArgument(
                f"{self.bags} bags of {self.size} users with {self.each} votes; expected at least 1 of each and at "
                f"most {len(real)} users, those of the log"
            )
        draw = np.random.default_rng(rng)
        count = np.zeros((log.n_users, log.n_items), np.int32)
        for _ in range(self.bags):
            bag = np.sort(draw.choice(real, self.size, replace=False))
            user, item = bag_votes(victim, log, bag, self.each, int(draw.integers(2**31)))
            count[user, item] += 1  # no pair occurs twice in one bag
        return Votes(count, self.bags, self.size, min(self.each, log.n_items), len(real))


def bag_votes(
    victim: Victim, log: FeedbackLog, bag: NDArray[np.integer], each: int, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the model of one bag (user rows, ascending) votes for: users and items, both (n_votes,)."""
    everybody = log.users
    order = np.concatenate([bag, np.setdiff1d(everybody, bag)])
    place = np.empty(log.n_users, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    ids = Vocabulary(log.user_ids.ids(order))
    events = log.events.with_columns(pl.Series(c.USER, place[log.user]))
    whole = dataclasses.replace(log, events=events, user_ids=ids, impressions=None)
    own = dataclasses.replace(
        whole, events=events.filter(pl.col(c.USER) < len(bag)), user_ids=Vocabulary(ids.ids(np.arange(len(bag))))
    )
    model = fresh(victim).fit(own, rng=seed).fold_in(whole)
    lists = model.recommend(np.arange(len(order)), each, exclude=whole)
    return order[lists[c.USER].to_numpy()].astype(np.int32), lists[c.ITEM].to_numpy()


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes of all bags. count: (n_users, n_items); n_users: users with events, from whom bags of `size` were drawn."""

    count: NDArray[np.int32]
    bags: int
    size: int
    each: int
    n_users: int

    def recommend(self, users: ArrayLike, k: int = 10, *, exclude: FeedbackLog | None = None) -> pl.DataFrame:
        """The k items of most votes; equal ones by row, items without votes not at all. Table as of every recommender.

        `exclude`, where given, must be the log of `fit`, whose items got no votes anyway.
        """
        rows = user_rows(users, len(self.count))
        if k < 1:
            raise InvalidArgument(f"k={k}; expected at least 1")
        k = min(k, self.count.shape[1])
        found, score = top_k_of(self.count[rows].astype(np.float32), k)
        table = pl.DataFrame(
            {
                c.USER: np.repeat(rows, k),
                c.ITEM: found.ravel(),
                c.SCORE: score.ravel(),
                c.RANK: np.tile(np.arange(k, dtype=np.int32), len(rows)),
            }
        )
        return table.filter(pl.col(c.SCORE) > 0)

    def bounds(self, users: ArrayLike, alpha: float = 0.001) -> tuple[Floats, Floats]:
        """Lower and upper bound of each item's probability of a vote, both (m, n_items), all right at once with
        confidence 1 - alpha."""
        if not 0 < alpha < 1:
            raise InvalidArgument(f"alpha={alpha:g}; expected between 0 and 1, such as 0.001")
        x = self.count[user_rows(users, len(self.count))]
        error = alpha / (2 * max(1, x.size))
        number = np.arange(self.bags + 1)
        low = np.r_[0.0, stats.beta.ppf(error, number[1:], self.bags - number[1:] + 1)]
        high = np.r_[stats.beta.ppf(1 - error, number[:-1] + 1, self.bags - number[:-1]), 1.0]
        return low[x], high[x]

    def untouched(self, fakes: int) -> float:
        """rho: the share of bags without a fake user."""
        return untouched(self.n_users, self.size, fakes)


def untouched(n_users: int, size: int, fakes: int) -> float:
    """C(n, s) / C(n + e, s): chance that a bag of s from n real and e fake users holds no fake one."""
    if fakes < 0:
        raise InvalidArgument(f"{fakes} fake users; expected at least 0")
    added = np.arange(1, fakes + 1)
    return float(np.prod((n_users - size + added) / (n_users + added)))


def stays(low: Floats, high: Floats, k: int, rho: float, each: int) -> NDArray[np.bool_]:
    """Items that stay in the first k, whatever the fakes do; all (m, n_items). low, high: bounds of p without fakes."""
    m, n = low.shape
    if not 1 <= k <= n:
        raise InvalidArgument(f"k={k}; expected 1 to {n}, the number of items")
    if k == n:
        return np.ones((m, n), bool)
    first = np.argsort(-high, axis=1, kind="stable")[:, : k + 1]  # one more: an item is not its own rival
    result = np.zeros((m, n), bool)
    for row in range(m):
        for item in np.flatnonzero(low[row] > high[row, first[row, -1]]):  # others have k rivals without any lift
            rivals = first[row][first[row] != item][:k]
            lift = rho * np.maximum(0, low[row, item] - high[row, rivals])
            result[row, item] = lift.max() > 1 - rho or lift.sum() > (1 - rho) * min(each, k)
    return result


def stays_out(low: Floats, high: Floats, k: int, rho: float) -> NDArray[np.bool_]:
    """Items that do not get into the first k, whatever the fakes do; all (m, n_items)."""
    m, n = low.shape
    if not 1 <= k <= n:
        raise InvalidArgument(f"k={k}; expected 1 to {n}, the number of items")
    result = np.zeros((m, n), bool)
    for row in range(m):
        wanted = high[row] + (1 - rho) / rho
        ahead = n - np.searchsorted(np.sort(low[row]), wanted, side="right")  # an item is never ahead of itself
        result[row] = ahead >= k
    return result


def certificate(
    votes: Votes,
    users: ArrayLike,
    *,
    k: int = 10,
    fakes: Sequence[int] = (0, 1, 2, 5, 10),
    targets: ArrayLike = (),
    alpha: float = 0.001,
) -> pl.DataFrame:
    """What is proven for these users, a row a number of fake users.

    Returns:
        fakes; untouched (share of bags); kept: mean share of the k places whose item is certified to stay;
        users_keeping: share of users with at least one such item; targets_out: share of (user, target) pairs certified
        to stay out of the first k, null without targets.
    """
    rows = user_rows(users, len(votes.count))
    if not len(rows):
        raise InvalidArgument("no users to certify; expected at least one row")
    low, high = votes.bounds(rows, alpha)
    goals = np.asarray(targets, np.int64).ravel()
    table: list[dict[str, Any]] = []
    for number in fakes:
        rho = votes.untouched(number)
        kept = stays(low, high, k, rho, votes.each).sum(axis=1)
        out = stays_out(low, high, k, rho)[:, goals].mean() if len(goals) else None
        table.append(
            {
                "fakes": number,
                "untouched": rho,
                "kept": float(kept.mean() / k),
                "users_keeping": float((kept > 0).mean()),
                "targets_out": None if out is None else float(out),
            }
        )
    return pl.DataFrame(table, schema_overrides={"targets_out": pl.Float64})
