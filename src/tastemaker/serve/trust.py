"""Whose votes and likes count less, and why: found anew at every fit, before anything is learned from them.

A vote counts on the boards at once, before any fit has looked at it: with the weight that its person is known to
deserve, but of each person no more than 20 votes, and of all together no more than a tenth of what a fit has looked at,
or 100, whichever is more. What goes beyond waits for the next fit, which then begins at once (`Vetted`). So a flood
between two fits cannot move a board far. Likes need no such rule: others' lists change at a fit only.

Nobody is silenced, and everybody's own list stays as it is; what shrinks is their say in what all others get:

    too many     together a person weighs no more than twice (likes: five times) the person in the middle, or 20 votes
                 (50 likes), whichever is more: a few loud accounts cannot outvote a crowd (`rigging.capped`)
    one-sided    votes that favour one model beyond what people do (`rigging.surprise`)
    unlike       likes that look like nobody's (`detect.Statistics`), asked only among a hundred people or more: with
                 fewer, "ordinary" means too little, and a third of honest people would be suspected

Suspicion beyond 4 robust deviations weighs (4 / suspicion) squared. That is soft on purpose: where some like ten times
as much as others, 2 to 4 of 100 honest people are beyond 4 by their likes. What this cannot see is many accounts that
each vote little, or like as much as anybody does: when they are the crowd, it is the others who surprise
(`choose.rigging`). Against those stands that only asked questions count, and what the attack drill tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack.detect import Detector, Statistics
from tastemaker.choose.belief import Prior
from tastemaker.choose.rigging import surprise
from tastemaker.choose.votes import BAR, Vote
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary

Kind = Literal["votes", "likes"]


@dataclass(frozen=True)
class Doubt:
    """A person who counts less.

    Attributes:
        kind: of what is doubted.
        count: how many of these they gave.
        weight: of each, below 1.
        why: in words.
    """

    person: str
    kind: Kind
    count: int
    weight: float
    why: str


@dataclass(frozen=True)
class Watch:
    """Finds doubts. Picklable, for fits run in a process of their own.

    Attributes:
        alarm: robust deviations from which on suspicion counts.
        votes, likes: that every person may give in full, however little others give.
        people: with likes, from which on a detector is asked.
        detector: of suspicious likes.
        fresh, share: of the votes that no fit has looked at, how many count, or which share of those looked at.
    """

    alarm: float = 4.0
    votes: int = 20
    likes: int = 50
    people: int = 100
    detector: Detector = field(default_factory=Statistics)
    fresh: int = 100
    share: float = 0.1

    def vetted(self, seq: int, votes: int, doubts: tuple[Doubt, ...]) -> Vetted:
        """What counts after a fit that looked at so many votes, up to the number `seq`, and found these doubts."""
        return Vetted(seq, doubts, self.votes, max(self.fresh, self.share * votes))

    def doubts(self, votes: Sequence[Vote], log: FeedbackLog) -> tuple[Doubt, ...]:
        """Everybody who counts less, by votes on models and by a log of likes and dislikes; the most doubted first."""
        found = [*self._voters(votes), *self._likers(log)]
        return tuple(sorted(found, key=lambda doubt: (doubt.weight, doubt.person)))

    def _voters(self, votes: Sequence[Vote]) -> list[Doubt]:
        told = [vote for vote in votes if vote.choices]
        count = Counter(vote.person for vote in told if vote.person is not None)
        if not count:
            return []
        items = {item for vote in told for choice in vote.choices for item in choice.among if item is not BAR}
        ids = Vocabulary.of(sorted(map(str, items)))
        return self._weighed("votes", count, surprise(told, ids, prior=Prior()), self.votes, 2, "favour one model")

    def _likers(self, log: FeedbackLog) -> list[Doubt]:
        rows = Counter(log.user.tolist())
        names = dict(zip(rows, log.user_ids.ids(list(rows)).to_list(), strict=True)) if rows else {}
        suspicion = self.detector.score(log) if len(rows) >= self.people else np.full(log.n_users, -np.inf)
        unlike = {names[row]: float(suspicion[row]) for row in rows}
        count = Counter({names[row]: n for row, n in rows.items()})
        return self._weighed("likes", count, unlike, self.likes, 5, "look like nobody else's")

    def _weighed(
        self, kind: Kind, count: Counter[str], suspicion: Mapping[str, float], full: int, times: float, what: str
    ) -> list[Doubt]:
        most = max(float(full), times * float(np.median(list(count.values())))) if count else 0.0
        found = []
        for person, n in count.items():
            weight, why = 1.0, []
            if n > most:
                weight, why = most / n, [f"{n:,} {kind}, counted as {most:,.0f}"]
            if (odd := suspicion.get(person, -np.inf)) > self.alarm:
                weight, why = weight * (self.alarm / odd) ** 2, [*why, f"{kind} that {what} ({odd:.1f} deviations)"]
            if weight < 1:
                found.append(Doubt(person, kind, n, weight, "; ".join(why)))
        return found


@dataclass(frozen=True)
class Since:
    """Of the votes that no fit has looked at: how many each person gave, the weight let through, how many wait."""

    given: Mapping[str, int] = field(default_factory=dict)
    weight: float = 0.0
    waiting: int = 0


_NOTHING = Since()


@dataclass(frozen=True, eq=False)
class Vetted:
    """What the last fit knows of voters, and how much counts until the next one.

    Attributes:
        seq: of the last event it looked at.
        doubts: that it found.
        each: votes of a person after it that count.
        room: their weight, of all persons together.
    """

    seq: int = 0
    doubts: tuple[Doubt, ...] = ()
    each: float = np.inf
    room: float = np.inf

    def counted(self, votes: Iterable[tuple[int, Vote]], since: Since = _NOTHING) -> tuple[list[Vote], Since]:
        """Those of these votes, each with its number, that count now, as they are weighed; and how it stands then."""
        weight, given = _weights(self.doubts, "votes"), dict(since.given)
        let, waiting, kept = since.weight, since.waiting, []
        for seq, vote in votes:
            person = vote.person or ""
            one = replace(vote, weight=vote.weight * weight.get(person, 1.0))
            if seq > self.seq and vote.choices:
                given[person] = given.get(person, 0) + 1
                if given[person] > self.each or let + one.weight > self.room:
                    waiting += 1
                    continue
                let += one.weight
            kept.append(one)
        return kept, Since(given, let, waiting)


def weighed(votes: Iterable[Vote], doubts: Iterable[Doubt]) -> list[Vote]:
    """The votes with the weights that these doubts leave them."""
    weight = _weights(doubts, "votes")
    return [replace(vote, weight=vote.weight * weight.get(vote.person or "", 1.0)) for vote in votes]


def weights(log: FeedbackLog, doubts: Iterable[Doubt]) -> NDArray[np.float64]:
    """Of each event of a log, shape (n_events,)."""
    weight = _weights(doubts, "likes")
    each = np.array([weight.get(str(id), 1.0) for id in log.user_ids.series], np.float64)
    return np.asarray(each[log.user])


def _weights(doubts: Iterable[Doubt], kind: Kind) -> dict[str, float]:
    return {doubt.person: doubt.weight for doubt in doubts if doubt.kind == kind}
