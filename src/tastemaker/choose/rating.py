"""Ratings from votes: one penalised choice model for pairs, picks, sorts, ties, likes and dislikes.

The utility of item i for person u and tag t is the crowd's, and two deviations that shrink towards 0:

    utility = crowd_i + person_ui + tag_ti,    each normal around 0 with the spread of `Prior`

and the chance of an outcome is a softmax over what was offered (`belief.outcomes`): Bradley & Terry (1952) for pairs,
Davidson (1970) for ties, Plackett (1975) and Luce (1959) for the rest. The log posterior is concave, so Newton's method
finds the one mode; intervals are Laplace's, from the curvature there. `bootstrap` checks them.

Only deviations of items that a person has seen are parameters; one not seen yet is the prior's, and widens the person's
intervals. Parameters therefore grow with the votes and not with persons x items, and the curvature is sparse
(`curvature`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.choose.belief import Belief, Floats, Leaderboard, Prior, layout
from tastemaker.choose.curvature import Curvature, factored
from tastemaker.choose.votes import BAR, Item, Vote
from tastemaker.data.vocabulary import Ids, Vocabulary
from tastemaker.errors import DataError, TastemakerError, UnknownName

Level = tuple[str, str]  # ("person" or "tag", who or which)
Rng = int | np.random.Generator


@dataclass(frozen=True, eq=False)
class Design:
    """Votes as arrays.

    Attributes:
        x: one row an outcome that could have been chosen, one column a parameter: items, bar, tie, then deviations.
        start: first outcome of each choice, shape (n_choices,).
        chosen: row of the outcome that was chosen, shape (n_choices,).
        vote: number of the vote of each choice, shape (n_choices,).
        centre, precision: of the prior of each parameter, shape (n_parameters,).
        deviations: the parameter of each item (bar: n) that a person or tag deviates on.
        shown: in how many votes each item was shown, shape (n_items,), in all and for each person and tag.
    """

    x: sparse.csr_array
    start: NDArray[np.int64]
    chosen: NDArray[np.int64]
    vote: NDArray[np.int64]
    centre: Floats
    precision: Floats
    deviations: dict[Level, dict[int, int]]
    shown: dict[Level | None, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Ratings:
    """The fitted model.

    Attributes:
        ids: the items.
        prior: as given.
        mode: of the parameters, as in `Design`.
        evidence: log probability of the votes under the prior (Laplace); higher is better, to compare priors.
    """

    ids: Vocabulary
    prior: Prior
    mode: Floats
    evidence: float
    _design: Design
    _curvature: Curvature

    @cached_property
    def _crowd(self) -> Floats:
        """Covariance of every parameter with the crowd's, shape (n_parameters, n_items + 2)."""
        n = len(self.ids) + 2
        return self._curvature.solve(np.eye(len(self.mode), n))

    def belief(self, *, person: str | None = None, tag: str | None = None) -> Belief:
        """What is believed of a person's taste, on a tag; for neither, of everybody's.

        A person who has not voted has the crowd's taste, with wider intervals, and `about` says so. Raises UnknownName
        for a tag nobody has voted on.
        """
        design, n = self._design, len(self.ids)
        if tag is not None and ("tag", tag) not in design.deviations:
            raise UnknownName("tag with votes", tag, [name for kind, name in design.deviations if kind == "tag"])
        rows: list[int] = []
        places: list[int] = []
        unseen = np.zeros(n + 2)
        for kind, name, spread in (("person", person, self.prior.person), ("tag", tag, self.prior.tag)):
            if name is not None:
                own = design.deviations.get((kind, name), {})
                rows += own.keys()
                places += own.values()
                unseen[[row for row in range(n + 1) if row not in own]] += spread**2
        shape = (n + 2, len(self.mode))
        deviating = sparse.csr_array((np.ones(len(rows)), (rows, places)), shape=shape)
        pick = deviating + sparse.eye_array(*shape)
        cov = pick @ self._crowd + np.diag(unseen)
        if rows:
            some = np.unique(rows)  # the rest is the crowd's, which is solved for once and not for every person
            cov[:, some] += pick @ self._curvature.solve(deviating[some].T.toarray())
        words = "everybody" if person is None else f"person '{person}'"
        if person is not None and ("person", person) not in design.deviations:
            words += ", who has not voted"
        if tag is not None:
            words += f", tag '{tag}'"
        level = ("person", person) if person is not None else ("tag", tag) if tag is not None else None
        shown = design.shown.get(level, np.zeros(n, np.int64))
        return Belief(self.ids, pick @ self.mode, (cov + cov.T) / 2, shown, words)

    def leaderboard(self, *, person: str | None = None, tag: str | None = None, level: float = 0.95) -> Leaderboard:
        """`belief(...).leaderboard(level=level)`."""
        return self.belief(person=person, tag=tag).leaderboard(level=level)


def fit(votes: Sequence[Vote], ids: Vocabulary, *, prior: Prior | None = None) -> Ratings:
    """Ratings of `ids` from votes.

    Raises UnknownId for a vote on an item that is not among `ids`, DataError where there is no vote.
    """
    prior = prior or Prior()
    design = design_of(votes, ids, prior)
    weight = np.array([vote.weight for vote in votes])[design.vote]
    mode, value, curvature = solve(design, weight, design.centre)
    evidence = -value - curvature.logdet / 2 + np.log(design.precision).sum() / 2
    return Ratings(ids, prior, mode, float(evidence), design, curvature)


def learned(votes: Sequence[Vote], ids: Vocabulary, *, prior: Prior | None = None) -> Prior:
    """The spreads under which the votes are most probable (empirical Bayes), each searched by factors of 1.5.

    Spreads stay between 0.05 and 10; one that the votes say nothing about stays as it was. Costs some twenty fits.

    Args:
        prior: where the search begins.
    """
    best = prior or Prior()
    most = fit(votes, ids, prior=best).evidence
    for _ in range(10):
        before = most
        for name, factor in itertools.product(("items", "person", "tag", "bar"), (1.5, 1 / 1.5)):
            while 0.05 <= (spread := getattr(best, name) * factor) <= 10:
                trial = replace(best, **{name: spread})
                evidence = fit(votes, ids, prior=trial).evidence
                if evidence < most + 1e-3:
                    break
                best, most = trial, evidence
        if most == before:
            break
    return best


def bootstrap(
    votes: Sequence[Vote], ids: Vocabulary, *, prior: Prior | None = None, draws: int = 200, rng: Rng = 0
) -> Floats:
    """Centred crowd ratings of resampled votes, shape (draws, n_items): quantiles are intervals to check against.

    Persons are drawn with all their votes; votes of nobody known are drawn one by one.
    """
    generator = np.random.default_rng(rng)
    design = design_of(votes, ids, prior or Prior())
    weight = np.array([vote.weight for vote in votes])
    units = [f"person {v.person}" if v.person is not None else row for row, v in enumerate(votes)]
    place = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    unit = np.array([place[u] for u in units])
    best = solve(design, weight[design.vote], design.centre)[0]
    out = np.empty((draws, len(ids)))
    for draw in out:
        times = generator.multinomial(len(place), np.full(len(place), 1 / len(place)))
        draw[:] = solve(design, (weight * times[unit])[design.vote], best)[0][: len(ids)]
    return np.asarray(out - out.mean(1, keepdims=True))


def design_of(votes: Sequence[Vote], ids: Vocabulary, prior: Prior) -> Design:
    """Votes as arrays; see `Design`."""
    if not any(vote.choices for vote in votes):
        raise DataError("no votes; expected at least one (Belief.start is what is believed before any)")
    n = len(ids)
    items = list(dict.fromkeys(i for v in votes for c in v.choices for i in c.among if i is not BAR))
    column: dict[Item | None, int] = {BAR: n, **dict(zip(items, ids.rows(cast(Ids, items)).tolist(), strict=True))}
    deviations: dict[Level, dict[int, int]] = {}
    spread = [*[prior.items] * n, prior.bar, prior.tie[1]]
    shown: dict[Level | None, NDArray[np.int64]] = {}
    rows: list[int] = []
    places: list[int] = []
    values: list[float] = []
    start, chosen, of_vote, outcome = [], [], [], 0
    for number, vote in enumerate(votes):
        levels: list[tuple[Level, float]] = [
            ((kind, name), size)
            for kind, name, size in (("person", vote.person, prior.person), ("tag", vote.tag, prior.tag))
            if name is not None
        ]
        seen = [column[item] for item in {i for choice in vote.choices for i in choice.among} if item is not BAR]
        for level_or_all in (None, *(level for level, _ in levels)):
            shown.setdefault(level_or_all, np.zeros(n, np.int64))[seen] += 1
        for choice in vote.choices:
            parameters = {item: [column[item]] for item in choice.among}
            for level, size in levels:
                own = deviations.setdefault(level, {})
                for item in choice.among:
                    if column[item] not in own:
                        own[column[item]] = len(spread)
                        spread.append(size)
                    parameters[item].append(own[column[item]])
            sets, which = layout(choice)
            start.append(outcome)
            chosen.append(outcome + which)
            of_vote.append(number)
            for members in sets:
                own_places = [place for item in members for place in parameters[item]]
                places += own_places
                values += [1 / len(members)] * len(own_places)
                if len(members) > 1:
                    own_places = [*own_places, n + 1]
                    places.append(n + 1)
                    values.append(len(members) - 1)
                rows += [outcome] * len(own_places)
                outcome += 1
    x = sparse.csr_array((values, (rows, places)), shape=(outcome, len(spread)))
    centre = np.zeros(len(spread))
    centre[n + 1] = prior.tie[0]
    precision = np.array(spread, np.float64) ** -2
    return Design(x, np.array(start), np.array(chosen), np.array(of_vote), centre, precision, deviations, shown)


def loss(design: Design, weight: Floats, b: Floats) -> tuple[float, Floats, Floats]:
    """Negative log posterior (without constants), its gradient, and the probability of each outcome.

    Args:
        weight: of each choice, shape (n_choices,).
        b: parameters.
    """
    x, start, off = design.x, design.start, b - design.centre
    size = np.diff(np.append(start, x.shape[0]))
    s = x @ b
    s = s - np.repeat(np.maximum.reduceat(s, start), size)
    total = np.add.reduceat(np.exp(s), start)
    p = np.exp(s) / np.repeat(total, size)
    won = np.zeros(len(s))
    won[design.chosen] = weight
    value = weight @ np.log(total) - won @ s + design.precision @ off**2 / 2
    return float(value), x.T @ (np.repeat(weight, size) * p - won) + design.precision * off, p


def solve(design: Design, weight: Floats, b: Floats) -> tuple[Floats, float, Curvature]:
    """Mode by Newton's method from the start `b`, the loss there, and the factored curvature."""
    persons = [np.fromiter(own.values(), np.int64) for (kind, _), own in design.deviations.items() if kind == "person"]
    x, end = design.x, np.append(design.start, design.x.shape[0])
    value, gradient, p = loss(design, weight, b)
    for _ in range(100):
        average = sparse.csr_array((p, np.arange(len(p)), end)) @ x
        spread = x.T @ (x * (np.repeat(weight, np.diff(end)) * p)[:, None]) - average.T @ (average * weight[:, None])
        curvature = (spread + sparse.diags_array(design.precision)).tocsc()
        factor = factored(curvature, persons)
        step = factor.solve(gradient)
        if gradient @ step < 1e-13 * (1 + abs(value)):
            return b, value, factor
        length = 1.0
        while (new := loss(design, weight, b - length * step))[0] > value and length > 1e-10:
            length /= 2
        b, (value, gradient, p) = b - length * step, new
    raise TastemakerError("Newton's method found no mode in 100 steps; are some weights beyond 1e12?")
