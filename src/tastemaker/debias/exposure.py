"""Simple propensity models: even exposure, popularity, naive Bayes with a random sample, logged probabilities.

They are the yardsticks of a learned model, and the best there is where no times (naive Bayes, popularity) or exact
probabilities (logged) were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.debias.contract import Floats, Meaning, Propensity
from tastemaker.errors import DataError, InvalidArgument

_MOST_VALUES = 100  # distinct values naive Bayes counts; more than this is no grade but a measurement


@dataclass
class Uniform(Propensity):
    """Every item is as likely as any other: weights of 1, the naive estimate."""

    meaning: ClassVar[Meaning] = "step"
    filtering: ClassVar[bool] = True

    def _learn(self, log: FeedbackLog, rng: np.random.Generator) -> None:
        pass

    def _propensity(self, log: FeedbackLog) -> Floats:
        return np.full(len(log), 1 / log.n_items)

    def _distribution(self, log: FeedbackLog, events: NDArray[np.int64]) -> Floats:
        return np.full((len(events), log.n_items), 1 / log.n_items)


@dataclass
class Popularity(Propensity):
    """An item's share of all events, the same at every step and for everybody: (count + s) / (n_events + s * n_items).

    Attributes:
        smoothing: s, events every item gets for nothing. 0 is the published baseline (spec B4), which has no
            probability for an item that the fitted log never saw.
    """

    meaning: ClassVar[Meaning] = "step"
    filtering: ClassVar[bool] = True

    smoothing: float = 1.0

    def _learn(self, log: FeedbackLog, rng: np.random.Generator) -> None:
        if not self.smoothing >= 0:
            raise InvalidArgument(f"smoothing={self.smoothing:g}; expected at least 0")
        counts = np.bincount(log.item, minlength=log.n_items) + self.smoothing
        self._share: Floats = counts / counts.sum()

    def _propensity(self, log: FeedbackLog) -> Floats:
        p = self._share[log.item]
        if unseen := int((p == 0).sum()):
            raise InvalidArgument(
                f"{unseen} events are on items without events in the fitted log; give smoothing above 0"
            )
        return p

    def _distribution(self, log: FeedbackLog, events: NDArray[np.int64]) -> Floats:
        return np.tile(self._share, (len(events), 1))


@dataclass
class NaiveBayes(Propensity):
    """P(observed | value) = P(value | observed) P(observed) / P(value) (Schnabel et al., ICML 2016).

    P(value) comes from a small uniformly random sample, in which nobody chose what to rate; the rest from the fitted
    log. It depends on the value of the event alone, so it corrects that people rate what they like, and nothing else.
    Where the fitted log holds the random events too, they count among the observed.

    Attributes:
        sample: events on random items; None takes the events of the fitted log that are flagged `random`.
        smoothing: events every value gets for nothing in both counts.
    """

    meaning: ClassVar[Meaning] = "pair"
    filtering: ClassVar[bool] = False  # it looks at the value of the very event

    sample: FeedbackLog | None = None
    smoothing: float = 1.0

    def _learn(self, log: FeedbackLog, rng: np.random.Generator) -> None:
        if not self.smoothing > 0:
            raise InvalidArgument(f"smoothing={self.smoothing:g}; expected above 0")
        random = self._random_values(log)
        self._values = np.union1d(log.value, random)
        if len(self._values) > _MOST_VALUES:
            raise InvalidArgument(
                f"{len(self._values)} distinct values; naive Bayes counts grades or likes: call log.signed(...) first"
            )
        observed, anywhere = (
            np.bincount(np.searchsorted(self._values, values), minlength=len(self._values)) + self.smoothing
            for values in (log.value, random)
        )
        of_observed, of_all = observed / observed.sum(), anywhere / anywhere.sum()
        density = min(1.0, len(log) / (log.n_users * log.n_items))
        self.by_value: Floats = np.minimum(of_observed * density / of_all, 1.0)

    def _random_values(self, log: FeedbackLog) -> NDArray[np.float32]:
        if self.sample is not None:
            if len(self.sample) == 0 or self.sample.scale != log.scale:
                raise InvalidArgument(
                    f"the random sample has {len(self.sample)} events on {self.sample.scale}; expected some, on the "
                    f"log's {log.scale}"
                )
            return self.sample.value
        flags = log.events[c.RANDOM] if c.RANDOM in log.events.columns else pl.Series([False])
        if not flags.any():
            raise InvalidArgument(
                f"no event is flagged '{c.RANDOM}', so nothing says how values are spread when nobody chooses; give "
                f"NaiveBayes(sample=a log of ratings of random items)"
            )
        flagged: NDArray[np.bool_] = flags.fill_null(False).to_numpy()
        return log.value[flagged]

    def _propensity(self, log: FeedbackLog) -> Floats:
        place = np.minimum(np.searchsorted(self._values, log.value), len(self._values) - 1)
        if (strange := self._values[place] != log.value).any():
            raise InvalidArgument(
                f"{int(strange.sum())} values, for example {log.value[strange][0]:g}, were not in the fitted log"
            )
        return self.by_value[place]

    def table(self) -> pl.DataFrame:
        """Propensity by value: columns value, propensity."""
        return pl.DataFrame({c.VALUE: self._values, "propensity": self.by_value})


@dataclass
class Logged(Propensity):
    """The probability the system wrote down when it chose to show the item; nothing is learned.

    It is read from a column of the events or, where they have none, from the impressions: of the last time that the
    item was shown to the user, up to the time of the event; without times on both sides, of the only way it was shown.
    An event that was not shown with a stated probability is refused, not guessed.

    Attributes:
        column: name of the column of probabilities, of events or impressions.
    """

    meaning: ClassVar[Meaning] = "step"
    filtering: ClassVar[bool] = True

    column: str = c.PROBABILITY

    def _learn(self, log: FeedbackLog, rng: np.random.Generator) -> None:
        self._propensity(log)  # a log that does not say is refused now

    def _propensity(self, log: FeedbackLog) -> Floats:
        logged = log.events[self.column] if self.column in log.events.columns else self._of_impressions(log)
        if not logged.dtype.is_numeric():
            raise DataError(f"holds {logged.dtype}; expected probabilities", column=self.column)
        if missing := logged.null_count():
            raise DataError(
                f"{missing:,} of {len(log):,} events have no logged probability; leave them out, or log them",
                column=self.column,
            )
        p = logged.cast(pl.Float64).to_numpy()
        if (bad := ~((p > 0) & (p <= 1))).any():
            raise DataError(
                f"{int(bad.sum()):,} of {len(log):,} logged probabilities are not in (0, 1], for example "
                f"{p[bad][0]:g}; an event that happened cannot have had probability 0",
                column=self.column,
            )
        return p

    def _of_impressions(self, log: FeedbackLog) -> pl.Series:
        shown = log.impressions
        if shown is None or self.column not in shown.columns:
            held = "no impressions" if shown is None else f"impressions with {shown.columns}"
            raise DataError(
                f"is neither in the events ({log.events.columns}) nor in the log's {held}", column=self.column
            )
        keys = [name for name in (c.USER, c.ITEM, c.TIME) if name in shown.columns and name in log.events.columns]
        # group_by does not skip nulls as max does: a pair shown twice, once without probability, is ambiguous as well.
        stated = shown.group_by(keys).agg(pl.col(self.column).first(), pl.col(self.column).n_unique().alias("ways"))
        asked = log.events.select(keys).with_row_index("row")
        if c.TIME in keys:  # people answer after they were shown, and some are shown an item again
            pair = [c.USER, c.ITEM]
            asked, stated = asked.sort(c.TIME), stated.sort(c.TIME)
            found = asked.join_asof(stated, on=c.TIME, by=pair, check_sortedness=False).sort("row")
        else:
            found = asked.join(stated, on=keys, how="left", maintain_order="left")
        if ambiguous := int((found["ways"] > 1).sum()):
            raise DataError(
                f"{ambiguous:,} events match impressions of different probability; give both a '{c.TIME}' that tells "
                f"them apart, or put the probability into the events",
                column=self.column,
            )
        return found[self.column]
