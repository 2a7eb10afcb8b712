"""What an attacker may do, knows and aims at: budgets, projections, knowledge, targets, fake users and poisoned logs.

This is for drills on logs you own: every fake row is marked `simulated`, and no function here talks to a system.

Easy to get wrong: a share of users is rounded down (1% of 13,149 is 131, Tang, Wen, Wang 2020); classes of popularity
are bounded by *strict* percentiles of clicks an item, so items that lie on a boundary belong to none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker import columns as c
from tastemaker.attack.clicks import real_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId, UnknownName

Array = NDArray[Any]
CLASSES: Mapping[str, tuple[float, float]] = {
    "head": (95, 100),
    "upper torso": (75, 95),
    "lower torso": (50, 75),
    "tail": (0, 50),
}


def is_whole(value: object) -> bool:
    """Whether it is a whole number from 1, by type too: 2.0 is not, nor is True."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    """numpy's from a seed. Raises InvalidArgument for what is no seed."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"rng={rng!r}; expected a seed (a whole number from 0), a numpy Generator or None"
        ) from error


@dataclass(frozen=True)
class Budget:
    """users: number of fake users (int), or a share of the log's users (float, above 0 and up to 1), rounded down.

    clicks: items a fake user clicks, targets included; None for the mean of real users (a threshold ignores it).
    """

    users: int | float
    clicks: int | None = None

    def __post_init__(self) -> None:
        share = isinstance(self.users, float | np.floating) and 0 < self.users <= 1
        if not (share or is_whole(self.users)):
            raise InvalidArgument(
                f"a budget of {self.users!r} fake users; expected a whole number from 1, or a share above 0 and up to "
                f"1 such as 0.01"
            )
        if self.clicks is not None and not is_whole(self.clicks):
            raise InvalidArgument(f"a budget of {self.clicks!r} clicks a fake user; expected a whole number from 1")

    def of(self, log: FeedbackLog) -> tuple[int, int]:
        """Fake users, and clicks of each, on this log. Raises InvalidArgument where they exceed what there is."""
        real = real_clicks(log)
        population = int((np.diff(real.indptr) > 0).sum())
        whole = isinstance(self.users, int | np.integer)
        users = int(self.users) if whole else int(np.floor(self.users * population + 1e-9))
        clicks = self.clicks or max(1, round(real.nnz / population))
        if not 1 <= users <= population:
            raise InvalidArgument(
                f"a budget of {self.users:g} makes {users} fake users of a population of {population}; expected 1 to "
                f"{population}"
            )
        if clicks > log.n_items:
            raise InvalidArgument(f"a budget of {clicks} clicks a fake user, but the log knows {log.n_items} items")
        return users, clicks


@dataclass(frozen=True)
class Progress:
    """One round of a learned attack: target hit rate and L_adv of the fakes it *began* with; clicks a fake user."""

    round: int
    hit_rate: float
    loss: float
    clicks: float


@dataclass(frozen=True, eq=False)
class Fakes:
    """Fake users.

    profiles: the item rows each clicks, ascending; n_items: of the log; targets: item rows; method: who made them;
    settings: how; history: of a learned attack, round by round.
    """

    profiles: tuple[NDArray[np.int32], ...]
    n_items: int
    targets: NDArray[np.int32]
    method: str
    settings: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    history: tuple[Progress, ...] = ()

    def __len__(self) -> int:
        return len(self.profiles)

    def __repr__(self) -> str:
        clicks = np.mean([len(profile) for profile in self.profiles])
        return f"Fakes({self.method}: {len(self):,} users, {clicks:.1f} clicks each, targets {self.targets.tolist()})"

    @classmethod
    def of(cls, clicks: Array, targets: NDArray[np.int32], method: str, **record: Any) -> Fakes:
        """From a matrix of clicks, (n_fakes, n_items), zero where there is none."""
        profiles = tuple(np.flatnonzero(row).astype(np.int32) for row in clicks)
        return cls(profiles, clicks.shape[1], targets, method, **record)

    def matrix(self) -> sparse.csr_matrix:
        """Clicks as ones, (n_fakes, n_items) float32."""
        indptr = np.cumsum([0, *(len(profile) for profile in self.profiles)])
        items = np.concatenate([np.empty(0, np.int32), *self.profiles])
        return sparse.csr_matrix((np.ones(len(items), np.float32), items, indptr), (len(self), self.n_items))


def target_rows(log: FeedbackLog, targets: ArrayLike) -> NDArray[np.int32]:
    """Checked item rows, each once, in the order given.

    Raises UnknownId where the log knows no such item, InvalidArgument where there is none, or one is given twice.
    """
    rows = np.atleast_1d(np.asarray(targets))
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise InvalidArgument(f"targets {targets!r}; expected item rows; translate ids with log.item_ids.rows(ids)")
    if unknown := [int(row) for row in rows if not 0 <= row < log.n_items]:
        raise UnknownId(f"targets {unknown} do not exist; the log knows item rows 0..{log.n_items - 1}")
    if len(np.unique(rows)) < len(rows):
        raise InvalidArgument(f"targets {rows.tolist()} hold an item twice; expected each once")
    return rows.astype(np.int32)


def popularity_class(log: FeedbackLog, name: str) -> NDArray[np.int32]:
    """Item rows of 'head', 'upper torso', 'lower torso' or 'tail': strictly between two percentiles of clicks."""
    if name not in CLASSES:
        raise UnknownName("class of popularity", name, CLASSES)
    clicks = np.bincount(real_clicks(log).indices, minlength=log.n_items)
    low, high = CLASSES[name]
    inside = np.ones(log.n_items, bool)
    if low > 0:
        inside &= clicks > np.percentile(clicks, low)
    if high < 100:
        inside &= clicks < np.percentile(clicks, high)
    return np.flatnonzero(inside).astype(np.int32)


def draw_targets(log: FeedbackLog, name: str, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """n items of a class of popularity, ascending. Raises InvalidArgument where the class has fewer."""
    rows = popularity_class(log, name)
    if not len(rows):
        low, high = CLASSES[name]
        raise InvalidArgument(
            f"no item of this log is of the {name}, strictly between percentiles {low:g} and {high:g} of clicks: too "
            "many are clicked alike; take another class, or name the targets"
        )
    if not 1 <= n <= len(rows):
        raise InvalidArgument(f"{n} targets from the {name}; expected 1 to {len(rows)}, the items of that class")
    return np.sort(rng.choice(rows, n, replace=False))


def by_threshold(x: Array, tau: float) -> Array:
    """The paper's projection: 1 where x > tau, else 0. A click is taken off by a step below tau - 1."""
    return (x > tau).astype(x.dtype)


def by_count(x: Array, clicks: int) -> Array:
    """Exactly `clicks` ones in every row of x (n_fakes, n_items): its largest; of equal ones, the first."""
    kept = np.argsort(-x, axis=1, kind="stable")[:, :clicks]
    result = np.zeros_like(x)
    np.put_along_axis(result, kept, 1, axis=1)
    return result


@dataclass(frozen=True)
class Knowledge:
    """The share of users, of items and of the clicks between them that the attacker sees; targets are always seen."""

    users: float = 1.0
    items: float = 1.0
    clicks: float = 1.0

    def __post_init__(self) -> None:
        for name, share in dataclasses.asdict(self).items():
            if not 0 < share <= 1:
                raise InvalidArgument(f"Knowledge({name}={share:g}); expected a share above 0 and up to 1")

    def view(
        self, log: FeedbackLog, targets: NDArray[np.int32], rng: np.random.Generator
    ) -> tuple[sparse.csr_matrix, NDArray[np.int32]]:
        """What is seen: clicks (n_seen_users, n_seen_items), no row empty, and the log's rows of the columns."""
        real = real_clicks(log)
        users = np.flatnonzero(np.diff(real.indptr))
        if self.users < 1:
            users = np.sort(rng.choice(users, max(1, round(self.users * len(users))), replace=False))
        items = np.arange(log.n_items, dtype=np.int32)
        if self.items < 1:
            some = rng.choice(log.n_items, max(1, round(self.items * log.n_items)), replace=False)
            items = np.union1d(some, targets).astype(np.int32)
        real = real[users][:, items]
        if self.clicks < 1:
            real.data[rng.random(real.nnz) >= self.clicks] = 0
            real.eliminate_zeros()
        if not real.nnz:
            raise InvalidArgument(f"{self} leaves no click to see in this log; let the attacker see more")
        return real[np.flatnonzero(np.diff(real.indptr))], items


def poisoned(log: FeedbackLog, fakes: Fakes) -> FeedbackLog:
    """The log with the fakes' clicks appended as likes of new users, marked in the column `simulated`.

    Where the log has times, fake rows carry its last one; other columns are empty. Raises InvalidArgument where the
    fakes were made for another number of items, or the log is graded.
    """
    log.require_signed("a poisoned log")
    if fakes.n_items != log.n_items:
        raise InvalidArgument(f"the fakes know {fakes.n_items} items, the log {log.n_items}; make them for this log")
    matrix = fakes.matrix()
    users = np.repeat(np.arange(len(fakes), dtype=np.int32), np.diff(matrix.indptr)) + np.int32(log.n_users)
    table: dict[str, Any] = {c.USER: users, c.ITEM: matrix.indices, c.VALUE: np.ones(len(users), np.float32)}
    rows = pl.DataFrame(table).with_columns(pl.lit(True).alias(c.SIMULATED))
    if c.TIME in log.events.columns:
        rows = rows.with_columns(pl.lit(log.events[c.TIME].max(), pl.Int64).alias(c.TIME))
    real = log.events
    if c.SIMULATED not in real.columns:
        real = real.with_columns(pl.lit(False).alias(c.SIMULATED))
    note = f"{len(users):,} events of {len(fakes):,} fake users appended ({fakes.method}), marked '{c.SIMULATED}'"
    return dataclasses.replace(
        log,
        events=pl.concat([real, rows.cast({c.ITEM: pl.Int32})], how="diagonal"),
        user_ids=_with_fakes(log.user_ids, len(fakes)),
        notes=(*log.notes, note),
    )


def _with_fakes(known: Vocabulary, n: int) -> Vocabulary:
    """The vocabulary with n ids that it does not hold yet, at its end."""
    if known.series.dtype == pl.String:
        name: Callable[[int], str] = "simulated-{}".format
        taken = set(known.series.filter(known.series.str.starts_with("simulated-")).to_list())
        free = (number for number in range(1, n + len(taken) + 1) if name(number) not in taken)
        return known.extend(pl.Series([name(next(free)) for _ in range(n)]))
    top = known.series.max() if len(known) else -1
    assert isinstance(top, int)
    if top > np.iinfo(np.int64).max - n:
        raise InvalidArgument(f"user ids go up to {top}, which leaves no room for {n} more; give users text ids")
    return known.extend(pl.Series(np.arange(top + 1, top + 1 + n, dtype=np.int64)))
