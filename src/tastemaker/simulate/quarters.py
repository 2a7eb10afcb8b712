"""The loop on pictures, four times: corrected or not, raided or not; round by round, over several crowds of people.

Every arm meets the same pictures, the same people and the same raid; only what the platform does differs, and whether
the raid happens. A policy pushes what the model expects a person to like, and the person takes from it what attracts
them (`policy.Wanted`): that is the choice a correction has to undo. The raid pushes every picture of one maker, the one
with the fewest downloads; some rounds later the platform begins to doubt the most suspicious people.

Columns of `table`, one row an arm, crowd and round. Of what was shown in the round:

- `value`: mean true value, -1 (surely disliked) to 1 (surely liked);
- `lesser`: share of places that went to lesser-known makers;
- `gini`: Gini coefficient of the makers' exposure in a list of equal size per picture of theirs, 0 all alike;
- `target`: share of places that went to the raided maker's pictures, its damage;

and of everybody's k best pictures by the model fitted after it, seen ones included:

- `lists`: mean true value;
- `diversity`: mean distance, 1 - cosine of their vectors, of two pictures of one list;
- `target_lists`: share of the raided maker's pictures;

and `caught` and `false_alarms`: shares of fake and of real people whom the defence doubted; null without one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from tastemaker import columns as c
from tastemaker.attack.profiles import Budget
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.promptbook import PICTURE, Promptbook
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.exposure import gini
from tastemaker.evaluate.groups import Groups, by_value
from tastemaker.evaluate.stakeholders import stakeholders
from tastemaker.recommend.factors import Factors
from tastemaker.simulate import loop
from tastemaker.simulate.correct import tempered
from tastemaker.simulate.pictures import Taste, Viewers, makers, viewers
from tastemaker.simulate.policy import Wanted
from tastemaker.simulate.raid import Raid

Say = Callable[[float, int, str], None]  # loops done, loops in all, what goes on

TASTE = Taste()
ARM, CROWD = "arm", "crowd"
METRICS = (
    "value", "lesser", "gini", "target", "lists", "diversity", "target_lists", "caught", "false_alarms",
)  # fmt: skip
ARMS: Mapping[str, tuple[bool, bool]] = {  # corrected, raided
    "plain": (False, False),
    "corrected": (True, False),
    "plain, raided": (False, True),
    "corrected, raided": (True, True),
}


@dataclass(frozen=True)
class Setting:
    """What four loops are like.

    Attributes:
        people: in each crowd.
        crowds: how many times everything is done, with new people and new draws; at least 2 for intervals.
        rounds, shown, start: of the loop: rounds, pictures a round, random pictures before the first.
        raid, defence: rounds after which the fakes count, and after which the defence works.
        fakes: how many, as a share of the people.
        doubted: the share of all accounts that the defence doubts.
        power: of the levelled weights in the corrected arms, 0..1 (`correct.tempered`).
        hurry, push, explore: of the policy (`policy.Wanted`; push is its temperature).
        rank, reg: of `Factors`.
        k: length of the lists that are judged.
        taste: of the people.
    """

    people: int = 300
    crowds: int = 4
    rounds: int = 10
    shown: int = 3
    start: int = 5
    raid: int = 2
    defence: int = 6
    fakes: float = 0.15
    doubted: float = 0.15
    power: float = 0.5
    hurry: float = 2.0
    push: float = 0.1
    explore: float = 0.1
    rank: int = 8
    reg: float = 4.0
    k: int = 10
    taste: Taste = TASTE

    def check(self, n_pictures: int) -> None:
        """Raises InvalidArgument for numbers that do not fit each other, or the pictures there are."""
        if self.people < 1 or self.crowds < 2:
            raise InvalidArgument(
                f"people={self.people}, crowds={self.crowds}; expected at least 1, and at least 2 for an interval"
            )
        if not 1 <= self.raid < self.defence < self.rounds:
            raise InvalidArgument(
                f"raid={self.raid}, defence={self.defence}, rounds={self.rounds}; expected each after the one before, "
                f"the raid after round 1 at the earliest"
            )
        if self.start + self.rounds * self.shown > n_pictures or self.k > n_pictures:
            raise InvalidArgument(
                f"start={self.start}, rounds={self.rounds}, shown={self.shown}, k={self.k} need "
                f"{max(self.k, self.start + self.rounds * self.shown)} pictures; there are {n_pictures}"
            )


@dataclass(frozen=True, eq=False)
class Quarters:
    """What four loops did.

    Attributes:
        setting, seed: what made it.
        table: one row an arm, crowd and round: arm, crowd, round, METRICS.
        stakeholders: `evaluate.stakeholders` of what the first crowd was shown after round 0, a row an arm and
            stakeholder.
        logs: of the first crowd, by arm: events and impressions as in `simulate.loop`; users are called
            'simulated SEED-1', items as the book calls its pictures.
        viewers: the first crowd.
        known: group of each picture: 0 well-known, 1 lesser-known makers.
        targets: item rows of the raided maker's pictures.
        target: what that maker is called.
    """

    setting: Setting
    seed: int
    table: pl.DataFrame
    stakeholders: pl.DataFrame
    logs: Mapping[str, FeedbackLog]
    viewers: Viewers
    known: Groups
    targets: NDArray[np.int32]
    target: str

    def means(self) -> pl.DataFrame:
        """Mean over crowds with 95 % t intervals: arm, round, and for each metric NAME, NAME_low, NAME_high."""
        half = stats.t.ppf(0.975, self.setting.crowds - 1) / np.sqrt(self.setting.crowds)
        spread = [half * pl.col(name).std() for name in METRICS]
        columns = [
            part
            for name, off in zip(METRICS, spread, strict=True)
            for part in (
                pl.col(name).mean(),
                (pl.col(name).mean() - off).alias(f"{name}_low"),
                (pl.col(name).mean() + off).alias(f"{name}_high"),
            )
        ]
        return self.table.group_by(ARM, loop.ROUND, maintain_order=True).agg(columns)


def run(
    book: Promptbook, setting: Setting | None = None, *, seed: int = 0, say: Say = lambda done, total, text: None
) -> Quarters:
    """Turn the wheel of every arm for every crowd.

    Args:
        book: with vectors; models with the columns `maker` and `downloads`.

    Raises InvalidArgument for a setting that does not fit the book, and what `viewers` raises.
    """
    setting = setting or Setting()
    setting.check(book.cells.height)
    group, downloads = makers(book)
    name = book.models.groups("maker")[1]
    target = int(group[downloads.argmin()])
    targets = np.flatnonzero(group == target).astype(np.int32)
    known = by_value(downloads, [float(np.median(downloads))])
    if len(set(known.group.tolist())) < 2:
        raise InvalidArgument("all makers are equally well known; expected downloads that differ")
    raid = Raid(
        tuple(targets.tolist()), setting.raid, setting.defence,
        Budget(setting.fakes, min(len(group), round(1.25 * len(targets)))), share=setting.doubted, seed=seed,
    )  # fmt: skip
    rows: list[pl.DataFrame] = []
    logs: dict[str, FeedbackLog] = {}
    first: Viewers | None = None
    for number, (crowd, (arm, (corrected, raided))) in enumerate(
        itertools.product(range(setting.crowds), ARMS.items())
    ):
        say(number, setting.crowds * len(ARMS), f"crowd {crowd + 1} of {setting.crowds}: {arm}")
        those = viewers(book, setting.people, taste=setting.taste, rng=np.random.default_rng([seed, crowd]))
        first = first or those
        done = loop.run(
            those.people,
            Factors(rank=setting.rank, reg=setting.reg),
            Wanted(those.people.truth, setting.hurry, setting.push, setting.explore),
            rounds=setting.rounds, shown_per_round=setting.shown, start=setting.start,
            correct=tempered(setting.power) if corrected else None,
            raid=raid if raided else None,
            k=setting.k, rng=np.random.default_rng([seed, crowd, 1]),
        )  # fmt: skip
        told = _judged(done, book, group, known, targets, setting.people)
        rows.append(told.select(pl.lit(arm).alias(ARM), pl.lit(crowd, pl.Int32).alias(CROWD), pl.all()))
        if crowd == 0:
            logs[arm] = _named(done.log, book, seed)
    assert first is not None
    sides = [_stakeholders(log, known, arm) for arm, log in logs.items()]
    return Quarters(setting, seed, pl.concat(rows), pl.concat(sides), logs, first, known, targets, name[target])


# -- judging -----------------------------------------------------------------------------------------------------------


def _judged(
    done: loop.LoopResult,
    book: Promptbook,
    group: NDArray[np.int32],
    known: Groups,
    targets: NDArray[np.int32],
    n_people: int,
) -> pl.DataFrame:
    """A row a round: round, METRICS."""
    assert book.pictures is not None
    n_items, pictures = len(group), np.bincount(group)
    pushed = np.zeros(n_items, bool)
    pushed[targets] = True
    rounds = done.log.events[loop.ROUND].to_numpy()
    rows = []
    for turn, (value, good) in enumerate(done.table.select("value", "list_value").iter_rows()):
        shown, lists = done.log.item[rounds == turn], done.lists[turn]
        each = np.bincount(group[shown], minlength=len(pictures)) / np.maximum(pictures, 1)
        near = np.einsum("ukd,uld->ukl", book.pictures[lists], book.pictures[lists])
        k = lists.shape[1]
        doubts = done.doubted.get(turn)
        rows.append(
            {
                loop.ROUND: turn,
                "value": value,
                "lesser": float((known.group[shown] == 1).mean()),
                "gini": gini(each),
                "target": float(pushed[shown].mean()),
                "lists": good,
                "diversity": float((1 - near).sum() / (len(lists) * max(1, k * (k - 1)))),
                "target_lists": float(pushed[lists].mean()),
                "caught": None if doubts is None else float(doubts[n_people:].mean()),
                "false_alarms": None if doubts is None else float(doubts[:n_people].mean()),
            }
        )
    return pl.DataFrame(rows, schema_overrides={"caught": pl.Float64, "false_alarms": pl.Float64})


def _stakeholders(log: FeedbackLog, known: Groups, arm: str) -> pl.DataFrame:
    """What consumers and makers got of what was shown after round 0; precision is the share of likes."""
    later = log.select(pl.col(loop.ROUND) > 0)
    place = pl.int_range(pl.len(), dtype=pl.Int32).over(c.USER).alias(c.RANK)
    shown = later.events.sort(c.USER, maintain_order=True).select(c.USER, c.ITEM, place)
    return stakeholders(shown, later, known, draws=500).select(pl.lit(arm).alias(ARM), pl.all())


def _named(log: FeedbackLog, book: Promptbook, seed: int) -> FeedbackLog:
    """The log with ids for the outside."""
    people = pl.Series([f"simulated {seed}-{row + 1}" for row in range(log.n_users)])
    return FeedbackLog(
        log.events.with_columns(pl.lit(True).alias(c.SIMULATED)),
        Vocabulary(people), Vocabulary(book.cells[PICTURE]), log.scale, log.impressions, log.notes,
    )  # fmt: skip
