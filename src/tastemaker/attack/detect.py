"""Who looks like a fake user? Detectors, and how to judge them without choosing a threshold.

A detector gives every user of a log a suspicion, higher = more suspicious; it reads likes only, never the column
`simulated`. Nobody without a like can promote anything: their suspicion is -inf.

- `PCA`: fake users correlate with each other and little with anybody else, so they have small loadings on the leading
  components of standardised profiles (Mehta and Nejdl 2009, "PCA VarSelect"; no labels).
- `Statistics`: distance from the ordinary user in robust z-scores of five features (`features`; no labels).
- `Reconstruction`: how well a linear autoencoder of other users' likes, which saw nothing of this user, foretells each
  like from the user's others (no labels). It looks at what goes together, not at how much or how popular.
- `Learned`: the same features weighed by a logistic regression that learned, on copies of this very log, to tell
  fake users made by *rule*. No labels of the log are needed; what it was not taught it may not know, so judge it on
  other attacks than it learned from.

`Reconstruction` and `Learned` stand in for what is published as learned detectors (GraphRfi: Zhang et al. 2020, a graph
network that predicts ratings and fraud at once, from labelled fraudsters; autoencoders whose reconstruction error is
the suspicion). They keep the two principles, a model of ordinary profiles and a supervised verdict, and leave the deep
networks: logs of a few hundred people teach no more.

Easy to get wrong: the log a detector works on is the poisoned one, so its medians, components and "real" training
users already contain the fakes. And one AUC speaks of one attack: an attacker who knows the detector evades it
(`attack.evade`). The interval of `judge` treats fake users as independent draws; they are not (one attack made them
all), so it is a lower bound of what is unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse, special, stats
from scipy.sparse.linalg import LinearOperator, svds

from tastemaker.attack import heuristic
from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.profiles import Budget, Fakes, poisoned
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Floats = NDArray[np.float64]
Rule = Callable[..., Fakes]  # (log, targets, budget, *, rng) -> Fakes

FEATURES = ("clicks", "popularity", "popularity spread", "likeness", "off taste")
SHARPNESS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of `Reconstruction`: 0 foretells by popularity alone
_ROWS = 1024  # users whose similarity to everybody is held at once


class Detector(Protocol):
    """Anything that can say how suspicious each user of a log is."""

    def score(self, log: FeedbackLog) -> Floats:
        """Suspicion of each user, shape (n_users,), higher = more suspicious, -inf for users without a like."""


@dataclass(frozen=True)
class PCA:
    """Small loadings on the leading components. components: how many; the published number is 3."""

    components: int = 3

    def score(self, log: FeedbackLog) -> Floats:
        active, clicks = _active(log)
        m, n = clicks.shape
        if not 1 <= self.components < min(m, n):
            raise InvalidArgument(
                f"{self.components} components of {m} users with likes and {n} items; expected at least 1 and fewer "
                f"than both"
            )
        mean = np.diff(clicks.indptr) / n
        inverse = 1 / np.sqrt(np.maximum(mean * (1 - mean), 1e-12))  # of the row's standard deviation
        wide = LinearOperator(
            (m, n),
            matvec=lambda v: inverse * (clicks @ v.ravel() - mean * v.sum()),
            rmatvec=lambda u: clicks.T @ (inverse * u.ravel()) - (inverse * mean) @ u.ravel(),
            dtype=np.float64,
        )
        loadings = _leading(wide, self.components)[0]
        return _everybody(-(loadings**2).sum(axis=1), active, log.n_users)


@dataclass(frozen=True)
class Statistics:
    """Distance from the ordinary user: root mean square of the robust z-scores of `features`."""

    neighbours: int = 20
    rank: int = 16

    def score(self, log: FeedbackLog) -> Floats:
        active, table = features(log, neighbours=self.neighbours, rank=self.rank)
        return _everybody(np.sqrt((_robust(table) ** 2).mean(axis=1)), active, log.n_users)


@dataclass(frozen=True)
class Reconstruction:
    """Distance from the ordinary user in how badly a linear autoencoder foretells the likes, each from the others.

    Users are dealt into `folds`; for each fold the leading `rank` directions V (n_items, rank) of the other users'
    profiles, items scaled to equal weight, reconstruct a profile as x V V^T (PureSVD: Cremonesi, Koren, Turrin 2010).
    The chance that a user's next like is item i, given the others and that it is none of them, is

        softmax over unliked items and i of  log popularity_i + sharpness * reconstruction_i without i

    and a user's loss is the mean of -log of it over the likes. A user foretold badly does not like what goes together;
    one foretold too well has accomplices, as fake users made alike have each other, since they are in the other folds.
    So suspicion is the loss's distance from the median, each side in units of its own median distance.

    Attributes:
        rank: of the autoencoder.
        folds: of users; nobody is judged by a model that saw them.
        too_well: whether users foretold too well are suspects as well; without, suspicion is the loss itself.
        seed: of the dealing.
    """

    rank: int = 16
    folds: int = 5
    too_well: bool = True
    seed: int = 0

    def score(self, log: FeedbackLog) -> Floats:
        active, clicks = _active(log)
        if self.rank < 1 or not 2 <= self.folds <= len(active):
            raise InvalidArgument(
                f"rank={self.rank}, folds={self.folds} of {len(active)} users with likes; expected a rank of at least "
                f"1, and 2 folds or more with a user in each"
            )
        loss = self.losses(clicks)
        if not self.too_well:
            return _everybody(loss, active, log.n_users)
        off = loss - np.median(loss)
        typical = np.where(off > 0, _median(off[off > 0]), _median(-off[off < 0]))
        return _everybody(np.abs(off) / np.maximum(typical, 1e-9), active, log.n_users)

    def losses(self, clicks: sparse.csr_matrix) -> Floats:
        """Mean -log chance of a user's likes, shape (m,), of clicks (m, n_items) with a like in every row; in nats.

        Sharpness is the one of `SHARPNESS` with which the median user is foretold best: fakes, few, do not choose it.
        """
        fold = np.random.default_rng(self.seed).permutation(clicks.shape[0]) % self.folds
        loss = np.empty((len(SHARPNESS), clicks.shape[0]))
        for number in range(self.folds):
            others = clicks[fold != number]
            popularity = np.asarray(others.sum(axis=0)).ravel() + 1
            scale = np.sqrt(popularity)
            rank = min(self.rank, others.shape[0] - 1, others.shape[1] - 1)
            v = np.zeros((0, len(scale)))
            if rank > 0:
                v = _leading(sparse.csr_matrix(others @ sparse.diags(1 / scale)), rank)[1]
            held = np.flatnonzero(fold == number)
            for first in range(0, len(held), _ROWS):
                some = held[first : first + _ROWS]
                rows = clicks[some]
                loss[:, some] = _foretold(rows, ((rows @ sparse.diags(1 / scale)) @ v.T) @ v * scale, v, popularity)
        return np.asarray(loss[np.median(loss, axis=1).argmin()])


def _foretold(rows: sparse.csr_matrix, guess: Floats, v: Floats, popularity: Floats) -> Floats:
    """`Reconstruction`'s loss for each sharpness, (n_sharpness, users): rows and guess (users, n_items), v (rank,
    n_items), popularity (n_items,)."""
    user, item = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices
    without = guess[user, item] - (v**2).sum(axis=0)[item]  # a like does not foretell itself
    share = np.log(popularity / popularity.sum())
    result = []
    for sharpness in SHARPNESS:
        logit = share + sharpness * guess
        logit[user, item] = -np.inf
        own = share[item] + sharpness * without
        loss = np.logaddexp(special.logsumexp(logit, axis=1)[user], own) - own
        result.append(np.bincount(user, loss) / np.diff(rows.indptr))
    return np.stack(result)


@dataclass(frozen=True)
class Learned:
    """Logistic regression on robust z-scores and their squares, taught on copies of the log with fakes made by rule.

    Attributes:
        attacks: the rules to learn from, functions such as those of `attack.heuristic`.
        copies: poisoned copies of the log for each rule, with new targets and budgets.
        share: fake users in a copy, as a share of its users.
        penalty: ridge on the coefficients, in units of one user's log-likelihood.
        seed: of the copies.
    """

    attacks: tuple[Rule, ...] = (heuristic.random, heuristic.bandwagon)
    copies: int = 3
    share: float = 0.03
    neighbours: int = 20
    rank: int = 16
    penalty: float = 1.0
    seed: int = 0

    def __repr__(self) -> str:  # functions print their address, which differs from run to run
        taught = " ".join(rule.__name__ for rule in self.attacks)
        others = (field.name for field in dataclasses.fields(self) if field.name != "attacks")
        return f"Learned({taught}; {', '.join(f'{name}={getattr(self, name)!r}' for name in others)})"

    def score(self, log: FeedbackLog) -> Floats:
        if not self.attacks or self.copies < 1:
            raise InvalidArgument(f"{len(self.attacks)} attacks, {self.copies} copies; expected at least one of each")
        rng = np.random.default_rng(self.seed)
        seen, fake = zip(*(self._lesson(log, rule, rng) for rule in self.attacks * self.copies), strict=True)
        weights = _logistic(np.concatenate(seen), np.concatenate(fake), self.penalty)
        active, table = features(log, neighbours=self.neighbours, rank=self.rank)
        return _everybody(_design(table) @ weights, active, log.n_users)

    def _lesson(self, log: FeedbackLog, rule: Rule, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """One copy: 1 to 5 targets that somebody clicked, profiles as long as some real user's."""
        clicks = real_clicks(log)
        length = np.diff(clicks.indptr)
        known = np.flatnonzero(np.bincount(clicks.indices, minlength=log.n_items))
        targets = rng.choice(known, min(len(known), int(rng.integers(1, 6))), replace=False)
        long = max(int(rng.choice(length[length > 0])), len(targets))
        users = max(1, round(self.share * int((length > 0).sum())))
        copy = poisoned(log, rule(log, targets, Budget(users, long), rng=rng))
        active, table = features(copy, neighbours=self.neighbours, rank=self.rank)
        return _design(table), active >= log.n_users


def features(log: FeedbackLog, *, neighbours: int = 20, rank: int = 16) -> tuple[NDArray[np.int64], Floats]:
    """What a user's likes look like.

    Returns:
        Rows of the users with a like, (m,), and the columns `FEATURES`, (m, 5): log of the number of clicks; mean and
        standard deviation of the log popularity of the clicked items; mean cosine to the `neighbours` most similar
        other users (DegSim: Chirita, Nejdl and Zamfir 2005); the share of the profile, items scaled to equal weight,
        that lies outside the leading `rank` directions of everybody's.
    """
    active, clicks = _active(log)
    m, n = clicks.shape
    length = np.diff(clicks.indptr)
    popularity = np.bincount(clicks.indices, minlength=n)
    log_popularity = np.log(np.maximum(popularity, 1))
    mean = clicks @ log_popularity / length
    spread = np.sqrt(np.maximum(clicks @ log_popularity**2 / length - mean**2, 0))
    scaled = sparse.csr_matrix(clicks @ sparse.diags(1 / np.sqrt(np.maximum(popularity, 1))))
    size = np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel()
    taste = _leading(scaled, min(rank, m - 1, n - 1))[1] if min(rank, m - 1, n - 1) > 0 else np.zeros((0, n))
    off = 1 - ((scaled @ taste.T) ** 2).sum(axis=1) / size
    return active, np.column_stack([np.log(length), mean, spread, _likeness(clicks, neighbours), off])


@dataclass(frozen=True, eq=False)
class Detection:
    """How well suspicion tells fake users from real ones.

    auc, low, high: chance that a fake user is more suspicious than a real one, ties half, with its interval.
    average_precision: area under precision by recall. precision: where as many are flagged as there are fakes (then
    recall is the same number). curve: one row a threshold, from none flagged to all: threshold, flagged, recall,
    false_alarms (share of real users flagged), precision (null where nobody is flagged).
    """

    auc: float
    low: float
    high: float
    average_precision: float
    precision: float
    n_fake: int
    n_real: int
    curve: pl.DataFrame


def judge(suspicion: ArrayLike, fake: ArrayLike, *, level: float = 0.95) -> Detection:
    """Judge suspicion of users, (n,), against the truth, (n,) bool; -inf (users without a like) are left out.

    The interval inverts the score test of Newcombe (2006, part 2, method 5), so it has width also at an AUC of 1.
    Raises InvalidArgument for other shapes, NaN, or where fake or real users are missing.
    """
    score, truth = np.asarray(suspicion, np.float64), np.asarray(fake)
    if score.ndim != 1 or truth.shape != score.shape or truth.dtype != np.bool_ or np.isnan(score).any():
        raise InvalidArgument(
            f"suspicion of shape {score.shape} with {int(np.isnan(score).sum())} NaN, truth of shape {truth.shape} "
            f"and type {truth.dtype}; expected one number and one bool a user"
        )
    if not 0 < level < 1:
        raise InvalidArgument(f"level={level:g}; expected a share between 0 and 1, such as 0.95")
    score, truth = score[score > -np.inf], truth[score > -np.inf]
    m, n = int(truth.sum()), int((~truth).sum())
    if not (m and n):
        raise InvalidArgument(f"{m} fake and {n} real users with likes to tell apart; expected some of both")
    auc = (stats.rankdata(score)[truth].sum() - m * (m + 1) / 2) / (m * n)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), m + n - 1)  # equal suspicion is flagged together
    hits, flagged = np.cumsum(truth[order])[last], last + 1
    recall, precision = hits / m, hits / flagged
    at_rate = np.interp(m, np.append(0, flagged), np.append(0, hits)) / m
    curve = pl.DataFrame(
        {
            "threshold": np.append(np.inf, score[order][last]),
            "flagged": np.append(0, flagged),
            "recall": np.append(0.0, recall),
            "false_alarms": np.append(0.0, (flagged - hits) / n),
            "precision": pl.Series([None, *precision.tolist()], dtype=pl.Float64),
        }
    )
    low, high = _score_interval(float(auc), m, n, level)
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    return Detection(float(auc), low, high, average, float(at_rate), m, n, curve)


def _score_interval(auc: float, m: int, n: int, level: float) -> tuple[float, float]:
    z, size = stats.norm.ppf((1 + level) / 2), (m + n) / 2 - 1

    def beyond(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + size * (1 - theta) / (2 - theta) + size * theta / (1 + theta)) / (m * n)
        return float((auc - theta) ** 2 - z**2 * variance)

    inner = min(max(auc, 1e-9), 1 - 1e-9)  # at the ends theta = auc is a root itself, and the other one is wanted
    low = 0.0 if auc == 0 else optimize.brentq(beyond, 0.0, inner)
    high = 1.0 if auc == 1 else optimize.brentq(beyond, inner, 1.0)
    return float(low), float(high)


def _active(log: FeedbackLog) -> tuple[NDArray[np.int64], sparse.csr_matrix]:
    """Rows of users with a like, and their clicks, float64."""
    clicks = real_clicks(log).astype(np.float64)
    active = np.flatnonzero(np.diff(clicks.indptr))
    return active, sparse.csr_matrix(clicks[active])


def _median(x: Floats) -> float:
    return float(np.median(x)) if len(x) else 0.0


def _everybody(suspicion: Floats, active: NDArray[np.int64], n_users: int) -> Floats:
    result = np.full(n_users, -np.inf)
    result[active] = suspicion
    return result


def _leading(matrix: Any, k: int) -> tuple[Floats, Floats]:
    """Left singular vectors (m, k) and right ones (k, n) of the largest k; the start vector does not matter."""
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    left, _, right = svds(matrix, k, v0=start)
    return left, right


def _likeness(clicks: sparse.csr_matrix, neighbours: int) -> Floats:
    if neighbours < 1:
        raise InvalidArgument(f"neighbours={neighbours}; expected at least 1")
    m = clicks.shape[0]
    near = min(neighbours, m - 1)
    if near == 0:
        return np.zeros(m)
    unit = sparse.csr_matrix(sparse.diags(1 / np.sqrt(np.diff(clicks.indptr))) @ clicks)
    result = np.empty(m)
    for first in range(0, m, _ROWS):
        block = (unit[first : first + _ROWS] @ unit.T).toarray()
        rows = np.arange(len(block))
        block[rows, first + rows] = -1  # not oneself
        result[first : first + _ROWS] = np.partition(block, m - near, axis=1)[:, m - near :].mean(axis=1)
    return result


def _robust(table: Floats) -> Floats:
    """(x - median) / (1.4826 median absolute deviation) of each column, within 10; 0 in a column without spread."""
    off = table - np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(off), axis=0)
    spread = np.where(spread > 1e-9, spread, table.std(axis=0))
    return np.clip(np.divide(off, spread, out=np.zeros_like(off), where=spread > 1e-9), -10, 10)


def _design(table: Floats) -> Floats:
    z = _robust(table)
    return np.column_stack([np.ones(len(z)), z, z**2 / 10])


def _logistic(x: Floats, y: NDArray[np.bool_], penalty: float) -> Floats:
    """Coefficients (n_columns,) that maximise the likelihood, both classes of equal mass, less a ridge but on the
    first column."""
    sign = np.where(y, 1.0, -1.0)
    mass = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()) * len(y)
    ridge = np.r_[0.0, np.full(x.shape[1] - 1, penalty)]

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = sign * (x @ w)
        pull = -sign * mass * special.expit(-margin)
        return float(mass @ np.logaddexp(0, -margin) + ridge @ w**2 / 2), x.T @ pull + ridge * w

    found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, np.float64)
