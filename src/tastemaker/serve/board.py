"""Boards of models while votes come in: what was fitted from the votes up to a point, and every vote since, one by one.

Votes are about pictures; a board is of the models that made them (a thing that no model made stands for itself). A
choice between pictures of one model says nothing about models and is left out.

A fitted board holds the crowd's belief and those of the persons who voted most. Anybody else's starts from the crowd's,
widened by how much persons differ, and takes in all their votes; these are in the crowd's as well, but few among many.

A vote since the fit that is taken back is gone at once. One from before it is in the belief, and stays until the next
fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose import rating
from tastemaker.choose.belief import Belief, Prior
from tastemaker.choose.votes import BAR, Choice, Vote
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.serve.store import Store
from tastemaker.serve.trust import Since, Vetted


@dataclass(frozen=True, eq=False)
class Board:
    """What was fitted from the votes up to the number `seq`."""

    crowd: Belief
    persons: Mapping[str, Belief]
    prior: Prior
    seq: int = 0

    @classmethod
    def empty(cls, prior: Prior) -> Board:
        """Before any vote, and any model."""
        mean, cov = np.array([0.0, prior.tie[0]]), np.diag([prior.bar**2, prior.tie[1] ** 2])
        return cls(Belief(_ids([]), mean, cov, np.zeros(0, np.int64)), {}, prior)

    @classmethod
    def fit(cls, votes: Sequence[Vote], models: Sequence[str], prior: Prior, *, persons: int, seq: int) -> Board | None:
        """From votes on models; None where there are none. `persons`: how many get a belief of their own."""
        if not votes:
            return None
        fitted = rating.fit(votes, _ids(models), prior=prior)
        most = Counter(vote.person for vote in votes if vote.person is not None).most_common(persons)
        return cls(fitted.belief(), {person: fitted.belief(person=person) for person, _ in most}, prior, seq)

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What to keep of it beside ids and names."""
        beliefs = [self.crowd, *self.persons.values()]
        return {
            "mean": np.stack([belief.mean for belief in beliefs]),
            "cov": np.stack([belief.cov for belief in beliefs]),
            "votes": np.stack([belief.votes.astype(np.float64) for belief in beliefs]),
        }

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, NDArray[np.float64]],
        models: Sequence[str],
        persons: Sequence[str],
        prior: Prior,
        seq: int,
    ) -> Board:
        """From what was kept."""
        ids = _ids(models)
        crowd, *others = (
            Belief(ids, mean, cov, votes.astype(np.int64), about)
            for mean, cov, votes, about in zip(
                arrays["mean"], arrays["cov"], arrays["votes"],
                ["everybody", *(f"person '{person}'" for person in persons)], strict=True,
            )
        )  # fmt: skip
        return cls(crowd, dict(zip(persons, others, strict=True)), prior, seq)

    def start(self, person: str | None) -> tuple[Belief, int]:
        """Where a tally begins: a belief, and the number of the last vote in it."""
        if person is None:
            return self.crowd, self.seq
        if person in self.persons:
            return self.persons[person], self.seq
        spread = np.full(len(self.crowd.mean), self.prior.person**2)
        spread[-1] = 0.0  # odds of ties are everybody's
        wider = self.crowd.cov + np.diag(spread)
        return replace(self.crowd, cov=wider, votes=np.zeros_like(self.crowd.votes), about=f"person '{person}'"), 0


@dataclass(frozen=True, eq=False)
class Tally:
    """A board's belief with every vote since.

    Attributes:
        board: that it began with.
        person: whose; None is everybody's.
        vetted: which votes count, and how much.
        belief: now.
        votes: numbers of those added to the board's, or waiting.
        seq: of the last event taken account of.
        since: what came of the votes that no fit has looked at.
    """

    board: Board
    person: str | None
    vetted: Vetted
    belief: Belief
    votes: frozenset[int]
    seq: int
    since: Since

    @classmethod
    def begin(cls, board: Board, person: str | None, vetted: Vetted) -> Tally:
        belief, seq = board.start(person)
        return cls(board, person, vetted, belief, frozenset(), seq, Since())

    def caught_up(self, store: Store, seq: int, model_of: Mapping[str, str], models: Sequence[str]) -> Tally:
        """The tally with everything that happened up to the number `seq`; itself where nothing did.

        `models` are those of `model_of`, each once; none of a board's ever goes.
        """
        if seq <= self.seq:
            return self
        if self.votes.intersection(store.undone(after=self.seq)):
            return Tally.begin(self.board, self.person, self.vetted).caught_up(store, seq, model_of, models)
        belief = self.belief
        if len(models) > len(belief.ids):
            belief = _with_models(belief, models, self.board.prior)
        new = store.votes(after=self.seq, upto=seq, user=self.person)
        votes, since = self.vetted.counted(((number, on_models(vote, model_of)) for number, vote in new), self.since)
        for vote in votes:
            belief = belief.add(vote.choices, weight=vote.weight)
        added = self.votes.union(number for number, _ in new)
        return Tally(self.board, self.person, self.vetted, belief, added, seq, since)


def on_models(vote: Vote, model_of: Mapping[str, str]) -> Vote:
    """The vote with the models in the pictures' places; without the choices in which one model would stand twice."""
    choices = []
    for choice in vote.choices:
        among = tuple(item if item is BAR else model_of[str(item)] for item in choice.among)
        if len(set(among)) == len(among):
            chosen = tuple(item if item is BAR else model_of[str(item)] for item in choice.chosen)
            choices.append(Choice(chosen, among, choice.ties))
    return replace(vote, choices=tuple(choices))


def _with_models(belief: Belief, models: Sequence[str], prior: Prior) -> Belief:
    """The belief with the models it lacks, believed of as before any vote."""
    ids = belief.ids.extend(_ids(models).series)
    old, new = len(belief.ids), len(ids) - len(belief.ids)
    if not new:
        return belief
    at = np.r_[np.arange(old), len(ids), len(ids) + 1]
    mean, cov = np.zeros(len(ids) + 2), np.eye(len(ids) + 2) * prior.items**2
    mean[at], cov[np.ix_(at, at)] = belief.mean, belief.cov
    return Belief(ids, mean, cov, np.pad(belief.votes, (0, new)), belief.about)


def _ids(models: Sequence[str]) -> Vocabulary:
    return Vocabulary.of(pl.Series(models, dtype=pl.String))
