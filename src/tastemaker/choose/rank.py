"""Generated pictures in the order of one person's taste, learned from a few votes and from other people.

A picture nobody has seen has no rating yet, but it has features: how well it shows the prompt, who drew it, its look
(an embedding). The utility of picture i for a person is

    u_i = w . x_i + e_i,    (w, bar, tie) ~ Normal(what people share, how they differ),    e_i ~ Normal(0, spread^2)

with w . x = w . phi(prompt, model) + z . d(picture) in one vector, and e what no feature says. Choices follow from the
utilities as in `choose.belief`: Bradley-Terry for pairs, Plackett-Luce for sorts, Davidson's ties, likes against the
bar. What people share and how they differ is learned from votes of others (`learned`: empirical Bayes by expectation
maximisation, each person's posterior by Laplace), so that a new person begins as the crowd and departs from it as fast
as people usually do.

A vote on K pictures changes the Gaussian over (w, bar, tie, e of pictures seen) by one Laplace step in the K utilities,
carried over by regression: K^3 + K n^2. It gives a `Belief` over any pictures, so that `pairing.ask` and
`Belief.leaderboard` work on pictures that were never shown.

Features should be comparable within a prompt and have a spread of about 1 in total; a constant feature says nothing in
a comparison and moves the bar only. There is no weight for the side on which a picture was shown: `votes.pair` does not
keep it, and `pairing.ask` draws it by lot, so that a liking for one side is noise and no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tastemaker.choose.belief import Belief, Floats, Leaderboard, designed, lowest
from tastemaker.choose.votes import BAR, Choice, Item, Vote
from tastemaker.data.catalog import ID
from tastemaker.data.vocabulary import Ids, Vocabulary
from tastemaker.errors import DataError, InvalidArgument

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)  # of a standard normal
_ENOUGH = 0.1  # logits: a smaller part in a utility is no reason


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures as features.

    Attributes:
        ids: of the pictures.
        features: shape (n, k).
        names: of the features, in words that complete "for its ...", shape (k,); those of one name are told together.
    """

    ids: Vocabulary
    features: Floats
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.features.shape != (len(self.ids), len(self.names)):
            raise InvalidArgument(
                f"features of shape {self.features.shape} for {len(self.ids)} pictures and {len(self.names)} names; "
                f"expected one row a picture, one column a name"
            )
        if not np.isfinite(self.features).all():
            row = int(np.argmax(~np.isfinite(self.features).all(1)))
            raise DataError(f"the features of picture {self.ids.ids([row])[0]!r} are not finite; leave it out")

    def only(self, ids: Ids) -> Pictures:
        """These, in this order. Raises UnknownId."""
        return self._rows(self.ids.rows(ids).astype(np.int64))

    def _rows(self, rows: NDArray[np.int64]) -> Pictures:
        return replace(self, ids=Vocabulary(self.ids.ids(rows)), features=self.features[rows])


@dataclass(frozen=True, eq=False)
class Taste:
    """What is believed of one person's taste, or of the taste of somebody unknown.

    Attributes:
        names: of the features, shape (k,).
        mean, cov: of weights, bar, log odds of a tie, then e of each picture seen, shapes (k + 2 + s,) and square.
        spread: standard deviation of e.
        crowd: mean of weights, bar and tie over people, shape (k + 2,).
        seen: pictures of the person's votes, and in how many votes each was.
        person: whose taste; None is somebody unknown.
        voters: number of other people it was learned from.
    """

    names: tuple[str, ...]
    mean: Floats
    cov: Floats
    spread: float
    crowd: Floats
    seen: dict[Item, int]
    person: str | None = None
    voters: int = 0

    @classmethod
    def start(
        cls,
        names: Sequence[str],
        *,
        weights: float = 2.0,
        spread: float = 0.7,
        bar: float = 1.5,
        tie: tuple[float, float] = (-0.7, 1.0),
    ) -> Taste:
        """Before anybody has voted.

        Args:
            names: of the features.
            weights, spread, bar, tie: standard deviations, in logits, of each weight, of what no feature says and of
                the bar; mean and standard deviation of the log odds of a tie.
        """
        if not len(names) or not min(weights, spread, bar, tie[1]) > 0:
            raise InvalidArgument(f"{len(names)} features, spreads {(weights, spread, bar, tie[1])}; expected positive")
        mean = np.array([0.0] * (len(names) + 1) + [tie[0]])
        sizes = np.array([*[weights] * len(names), bar, tie[1]])
        return cls(tuple(names), mean, np.diag(sizes**2), float(spread), mean, {})

    def of(self, person: str) -> Taste:
        """The same belief about this person, who has not voted. Raises InvalidArgument where it is somebody's."""
        if self.person is not None or self.seen:
            raise InvalidArgument(f"this is the taste of {self.person!r}; a new person begins as the crowd")
        return replace(self, person=person)

    @property
    def about(self) -> str:
        whose = "somebody unknown" if self.person is None else f"person '{self.person}'"
        if self.seen:
            return whose
        return f"{whose}, who has not voted: " + (f"the taste of {self.voters} others" if self.voters else "a guess")

    def update(self, votes: Sequence[Vote], pictures: Pictures) -> Taste:
        """The taste after these votes of the person, taken together.

        Raises UnknownId for a vote on a picture that is not among `pictures`, DataError for somebody else's vote.
        """
        for vote in votes:
            if vote.person != self.person:
                raise DataError(f"a vote of {vote.person!r} for the taste of {self.person!r}; expected the same person")
        said = _said(votes, pictures)
        if said is None:
            return self
        taste = self._beside(said.pictures.ids)
        to = taste._utilities(said.pictures)
        before = taste.belief(said.pictures)
        mode, cov = said.settle(before.mean, before.cov)
        gain = np.linalg.solve(before.cov, to @ taste.cov).T
        after = taste.cov - gain @ (before.cov - cov) @ gain.T
        seen = dict(taste.seen)
        for vote in votes:
            for item in {item for choice in vote.choices for item in choice.among if item is not BAR}:
                seen[item] += 1
        return replace(taste, mean=taste.mean + gain @ (mode - before.mean), cov=(after + after.T) / 2, seen=seen)

    def belief(self, pictures: Pictures) -> Belief:
        """What is believed of the utilities of these pictures, shown before or not."""
        to = self._utilities(pictures)
        items = pictures.ids.series.to_list()
        fresh = np.array([item not in self.seen for item in items] + [False, False])
        cov = to @ self.cov @ to.T + np.diag(fresh * self.spread**2)
        times = np.array([self.seen.get(item, 0) for item in items], np.int64)
        return Belief(pictures.ids, to @ self.mean, (cov + cov.T) / 2, times, self.about)

    def chances(self, pictures: Pictures) -> Floats:
        """Probability that the person chooses each picture over each other if asked, shape (n, n), 0.5 against itself.

        Unlike `Belief.beats`, which is about which one is better, this includes the person's own wavering.
        """
        mean, spread = self.belief(pictures).differences()
        return np.asarray(expit(mean[..., None] + spread[..., None] * _NODES) @ (_WEIGHTS / _WEIGHTS.sum()))

    def rank(self, pictures: Pictures, *, level: float = 0.95) -> Leaderboard:
        """The pictures, best first: `Belief.leaderboard`, with a `reason` for each place, in words."""
        board = self.belief(pictures).leaderboard(level=level)
        why = pl.DataFrame({ID: pictures.ids.series, "reason": self.reasons(pictures)})
        return replace(board, table=board.table.join(why, on=ID, how="left", maintain_order="left"))

    def reasons(self, pictures: Pictures) -> list[str]:
        """Why each picture stands where it stands: what moves it, in logits, away from the mean of these pictures."""
        k, kinds = len(self.names), list(dict.fromkeys(self.names))
        off = pictures.features - pictures.features.mean(0)
        groups = np.array([[name == kind for kind in kinds] for name in self.names], np.float64)
        parts = (off * self.mean[:k]) @ groups
        shared = (off * self.crowd[:k]) @ groups
        place = {item: k + 2 + at for at, item in enumerate(self.seen)}
        told = []
        for item, part, others in zip(pictures.ids.series.to_list(), parts, shared, strict=True):
            words = [
                f"{'for' if part[at] > 0 else 'in spite of'} its {kinds[at]} ({part[at]:+.1f}"
                + (", unlike most people)" if part[at] * others[at] < 0 and abs(others[at]) > _ENOUGH else ")")
                for at in np.argsort(-np.abs(part))[:2]
                if abs(part[at]) > _ENOUGH
            ]
            if item in place and abs(own := self.mean[place[item]]) > _ENOUGH:
                words.append(f"{'above' if self.mean[place[item]] > 0 else 'below'} that by votes on it ({own:.1f})")
            told.append("; ".join(words or ["nothing sets it apart"]) + ("" if self.seen else "; as others see it"))
        return told

    def _beside(self, ids: Vocabulary) -> Taste:
        """With these pictures among those seen."""
        fresh = [item for item in ids.series.to_list() if item not in self.seen]
        n, new = len(self.mean), len(fresh)
        cov = np.zeros((n + new, n + new))
        cov[:n, :n], cov[n:, n:] = self.cov, np.eye(new) * self.spread**2
        return replace(
            self, mean=np.append(self.mean, np.zeros(new)), cov=cov, seen=self.seen | dict.fromkeys(fresh, 0)
        )

    def _utilities(self, pictures: Pictures) -> Floats:
        """Utilities, bar and tie from the state, shape (n + 2, k + 2 + s)."""
        if pictures.names != self.names:
            raise InvalidArgument(f"features {pictures.names[:3]}..., but the taste is of {self.names[:3]}...")
        to = np.zeros((len(pictures.ids) + 2, len(self.mean)))
        to[:, : len(self.names) + 2] = _linear(pictures)
        place = {item: len(self.names) + 2 + at for at, item in enumerate(self.seen)}
        for row, item in enumerate(pictures.ids.series.to_list()):
            if item in place:
                to[row, place[item]] = 1
        return to


def learned(votes: Sequence[Vote], pictures: Pictures, start: Taste, *, rounds: int = 10, people: float = 5.0) -> Taste:
    """The taste of somebody unknown, from the votes of many: what people share, and how they differ.

    Args:
        votes: of others; each vote of nobody known counts as a person's own.
        start: what was believed before.
        rounds: of expectation maximisation.
        people: how many people `start` counts for in how people differ; in what they share it counts for one.

    Raises DataError where there is no vote, UnknownId as `Taste.update`.
    """
    if start.seen or start.person is not None:
        raise InvalidArgument(f"start is the taste of {start.person!r}; expected one before any vote")
    if rounds < 1 or not people > 0:
        raise InvalidArgument(f"rounds = {rounds}, people = {people}; expected at least 1, and more than 0")
    by_person: dict[object, list[Vote]] = {}
    for number, vote in enumerate(votes):
        by_person.setdefault(number if vote.person is None else vote.person, []).append(vote)
    everyone = [said for own in by_person.values() if (said := _said(own, pictures)) is not None]
    if not everyone:
        raise DataError("no votes; expected at least one (Taste.start is what is believed before any)")
    maps = [_linear(said.pictures) for said in everyone]
    mean, cov, spread = start.mean, start.cov, start.spread
    guesses: list[Floats | None] = [None] * len(everyone)
    for _ in range(rounds):
        means, second, rest, seen = [start.mean], people * start.cov, people * start.spread**2, people
        for at, (said, to) in enumerate(zip(everyone, maps, strict=True)):
            own = np.full(len(to), spread**2)
            own[-2:] = 0
            prior = to @ cov @ to.T + np.diag(own)
            mode, after = said.settle(to @ mean, prior, guesses[at])
            guesses[at] = mode
            back = np.linalg.inv(prior)
            gain, lost = cov @ to.T @ back, prior - after
            means.append(mean + gain @ (mode - to @ mean))
            second = second + cov - gain @ lost @ gain.T
            residual = own * (back @ (mode - to @ mean))
            rest += float((residual**2 + own - own**2 * np.diag(back @ lost @ back)).sum())
            seen += len(to) - 2
        mean = np.mean(means, 0)
        second = second + (means - mean).T @ (means - mean)
        cov = (second + second.T) / (2 * (people + len(everyone)))
        spread = float(np.sqrt(rest / seen))
    return replace(start, mean=mean, cov=cov * (1 + 1 / len(means)), spread=spread, crowd=mean, voters=len(everyone))


def look(vectors: ArrayLike, k: int) -> Floats:
    """Directions in which pictures differ most, shape (k, dim): `(vectors - mean of the prompt) @ look.T` are features.

    Principal axes, all divided by one number so that these vectors have a spread of 1 in total: directions in which
    pictures differ little stay small, and weigh little.

    Args:
        vectors: of pictures less the mean of their prompt, shape (n, dim).
    """
    v = np.asarray(vectors, np.float64)
    if v.ndim != 2 or not 1 <= k <= min(v.shape) or not v.any():
        raise InvalidArgument(f"{k} directions of vectors of shape {v.shape}; expected at most {min(v.shape)}")
    axes = np.linalg.eigh(v.T @ v)[1][:, ::-1][:, :k].T
    return np.asarray(axes / np.sqrt((v**2).sum(1).mean()))


@dataclass(frozen=True, eq=False)
class _Said:
    """Votes as arrays: outcomes over (pictures, bar, tie), the first outcome and the chosen one of each choice."""

    pictures: Pictures
    design: Floats
    start: NDArray[np.int64]
    chosen: NDArray[np.int64]
    weight: Floats

    def settle(self, mean: Floats, cov: Floats, guess: Floats | None = None) -> tuple[Floats, Floats]:
        """Laplace: mode, and inverse curvature there, of these votes under a Gaussian over (pictures, bar, tie)."""
        precision = np.linalg.inv(cov)
        size = np.diff(np.append(self.start, len(self.design)))
        each = np.repeat(self.weight, size)

        def downhill(b: Floats) -> tuple[float, Floats, Floats]:
            s = self.design @ b
            s -= np.repeat(np.maximum.reduceat(s, self.start), size)
            total = np.add.reduceat(np.exp(s), self.start)
            p, off = np.exp(s) / np.repeat(total, size), b - mean
            value = self.weight @ (np.log(total) - s[self.chosen]) + off @ precision @ off / 2
            average = np.add.reduceat(self.design * p[:, None], self.start)
            gradient = self.weight @ (average - self.design[self.chosen]) + precision @ off
            spread = (self.design * (each * p)[:, None]).T @ self.design - (average * self.weight[:, None]).T @ average
            return float(value), gradient, spread + precision

        b, curvature = lowest(downhill, mean if guess is None else guess, 1e-10)
        return b, np.asarray(np.linalg.inv(curvature))


def _said(votes: Sequence[Vote], pictures: Pictures) -> _Said | None:
    """None where nothing was said."""
    choices: list[tuple[Choice, float]] = [(choice, vote.weight) for vote in votes for choice in vote.choices]
    items = list(dict.fromkeys(item for choice, _ in choices for item in choice.among if item is not BAR))
    if not items:
        return None
    place = {item: row for row, item in enumerate(pictures.ids.series.to_list())}  # for a few, sooner than a join
    if any(item not in place for item in items):
        pictures.only(cast(Ids, items))  # says which
    part = pictures._rows(np.array([place[item] for item in items]))
    column = {item: at for at, item in enumerate([*items, BAR])}
    # With columns that are known: looking ids up, vote by vote, would be most of the work.
    told = [designed(choice, column, len(column) + 1) for choice, _ in choices]
    start = np.cumsum([0, *(len(design) for design, _ in told[:-1])])
    chosen = start + [which for _, which in told]
    weight = np.array([weight for _, weight in choices], np.float64)
    return _Said(part, np.vstack([design for design, _ in told]), start, chosen, weight)


def _linear(pictures: Pictures) -> Floats:
    """Utilities without e, bar and tie from (weights, bar, tie), shape (n + 2, k + 2)."""
    n, k = pictures.features.shape
    to = np.zeros((n + 2, k + 2))
    to[:n, :k] = pictures.features
    to[n, k] = to[n + 1, k + 1] = 1
    return to
