"""How many rigged votes move an item up the board: a bound that no strategy beats, and an attack that works.

Let F be the log posterior of the honest votes, b its mode, and T the points where the target has the wanted rank.
Rigged votes that move the mode to a point b' of T must balance the honest ones there, so that, F being concave,

    sum over rigged votes of gradient . (b' - b)  =  grad F(b') . (b - b')  >=  F(b) - F(b')  >=  D = F(b) - max_T F

A vote for w over l has the gradient (1 - p)(w - l); with R the largest lead that any item has over another at b, its
term on the left is at most the maximum over z of (1 - sigmoid(z)) (z + R), which is W(exp(R - 1)) with Lambert's W.
So at least D / W(exp(R - 1)) rigged pairs of weight 1 are needed, whatever they say and whoever casts them (deviations
of fake persons only dilute them, and R allows for those of real ones). D is what the honest votes lose in likelihood:
the surer they tell two items apart, the dearer it is to turn them round.

To get from rank a to rank b the target must pass at least a - b of the a - 1 items above it, so that D is at least the
(a - b)-th smallest of the D for passing a single one (passing several at once costs more still).

The bound is safe, not sharp: it uses the concavity of F once, which costs a factor of about two, and lets every vote be
as strong as the strongest could be. The number of votes really needed lies between it and the attack.

Votes cost little and accounts cost more. `capped` lets no account weigh more than `most`, so that the bound becomes one
of accounts: at least `at_least` / `most` of them. `surprise` tells who favours one item beyond what people do. It is an
alarm and no defence: many accounts that push are the crowd before long, and it is then honest people who surprise. A
board that drops whoever surprises is turned with fewer votes than one that does not (`recipes.gemrec.rigging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy import sparse
from scipy.special import lambertw

from tastemaker.choose.belief import Floats, Prior
from tastemaker.choose.rating import Design, design_of, loss, solve
from tastemaker.choose.votes import Item, Vote, pair
from tastemaker.data.vocabulary import Ids, Vocabulary
from tastemaker.errors import InvalidArgument

_MOST = 1e7  # rigged votes tried at most


@dataclass(frozen=True)
class Rigging:
    """What it takes.

    Attributes:
        target: the item.
        rank, wanted: its rank on the board of everybody, and the one it is to have; from 1.
        honest: weight of the honest votes.
        at_least: rigged votes of weight 1 needed by any strategy of forced pairs.
        enough: votes with which the attack tried here succeeds; infinite where ten million were not enough.
        against: whom the target beats in these votes, in equal shares.
    """

    target: Item
    rank: int
    wanted: int
    honest: float
    at_least: int
    enough: float
    against: tuple[Item, ...]

    def __str__(self) -> str:
        return (
            f"from rank {self.rank} to {self.wanted}: at least {self.at_least:,} rigged pairs, and {self.enough:,.0f} "
            f"are enough, beside honest votes of weight {self.honest:,.0f}"
        )


def rigged_votes_needed(
    votes: Sequence[Vote], ids: Vocabulary, target: Item, rank: int, *, prior: Prior | None = None
) -> Rigging:
    """How many forced pairs, rigged, bring `target` to `rank` on everybody's board.

    Raises UnknownId for a target that is not among `ids`, InvalidArgument for a rank that it has already.
    """
    prior = prior or Prior()
    row, n = int(ids.rows(cast(Ids, [target]))[0]), len(ids)
    design = design_of(votes, ids, prior)
    weight = np.array([vote.weight for vote in votes])[design.vote]
    mode, value, _ = solve(design, weight, design.centre)
    now = rank_of(mode[:n], row)
    if not 1 <= rank < now:
        raise InvalidArgument(
            f"rank = {rank}, but '{target}' has rank {now} of {n}; expected a rank from 1 to {now - 1}"
        )
    above = np.flatnonzero(mode[:n] > mode[row])
    above = above[np.argsort(mode[above])]  # nearest first
    lost = np.sort([_lost(design, weight, mode, row, int(other)) for other in above])[now - rank - 1] - value
    at_least = max(int(np.ceil(lost / reach(_lead(design, mode, n)) - 1e-9)), 1)
    tried = [tuple(above[: now - rank]), (above[now - rank - 1],), tuple(np.delete(np.arange(n), row))]
    costs = [_enough(votes, ids, prior, row, rank, against, at_least) for against in tried]
    best = int(np.argmin(costs))
    against = tuple(ids.ids(list(tried[best])).to_list())
    honest = float(sum(vote.weight for vote in votes))
    return Rigging(target, now, rank, honest, at_least, costs[best], against)


def capped(votes: Sequence[Vote], most: float) -> list[Vote]:
    """The same votes with smaller weights: those of a person sum to `most` at most. Nobody known counts as one person.

    Raises InvalidArgument unless `most` is positive.
    """
    if not 0 < most < np.inf:
        raise InvalidArgument(f"most = {most}; expected a positive weight")
    total: dict[str | None, float] = {}
    for vote in votes:
        total[vote.person] = total.get(vote.person, 0.0) + vote.weight
    return [
        replace(vote, weight=vote.weight * most / total[vote.person]) if total[vote.person] > most else vote
        for vote in votes
    ]


def surprise(votes: Sequence[Vote], ids: Vocabulary, *, prior: Prior | None = None) -> dict[str, float]:
    """How much more than people usually do each person favours, or runs down, one item.

    For each item what it gained in the person's choices, less what everybody's ratings expect there, in standard
    deviations; of these the largest; then from the median of the persons, in their (robust) standard deviations, for
    tastes do differ. Above 3 is rarely chance. Nobody known is left out.
    """
    design = design_of([replace(vote, person=None, tag=None) for vote in votes], ids, prior or Prior())
    weight = np.array([vote.weight for vote in votes])[design.vote]
    p = loss(design, weight, solve(design, weight, design.centre)[0])[2]
    end = np.append(design.start, len(p))
    x = design.x[:, : len(ids)].tocsr()
    softened = sparse.csr_array((p, np.arange(len(p)), end))
    expected = (softened @ x).toarray()
    variance = (softened @ x.power(2)).toarray() - expected**2
    gain = x[design.chosen].toarray() - expected
    known = dict.fromkeys(vote.person for vote in votes if vote.person is not None and vote.choices)
    place = {person: row for row, person in enumerate(known)}
    who = np.array([len(place) if vote.person is None else place.get(vote.person, -1) for vote in votes])[design.vote]
    shape = (len(place) + 1, len(who))
    per_person = sparse.csr_array((np.ones(len(who)), (who, np.arange(len(who)))), shape=shape)[: len(place)]
    most = np.max(np.abs(per_person @ gain) / np.sqrt(per_person @ variance + 0.1), axis=1, initial=0.0)
    middle = np.median(most) if len(most) else 0.0
    spread = max(1.4826 * float(np.median(np.abs(most - middle))), 0.5) if len(most) else 1.0
    return {person: float((most[row] - middle) / spread) for person, row in place.items()}


def reach(lead: float) -> float:
    """The most that one vote can do: max over z of (1 - sigmoid(z)) (z + lead)."""
    return float(lambertw(np.exp(lead - 1)).real)


def rank_of(utilities: Floats, row: int) -> int:
    """Rank from 1; equal utilities are in the target's favour."""
    return int((utilities > utilities[row] + 1e-9).sum()) + 1


def _lead(design: Design, mode: Floats, n: int) -> float:
    """The largest lead of one item over another, on any tag and for any person, at most."""
    lead = float(np.ptp(mode[:n]))
    for kind in ("person", "tag"):
        spans = [0.0]
        for (level, _), own in design.deviations.items():
            if level == kind:
                spans.append(float(np.ptp([0.0, *(mode[place] for item, place in own.items() if item < n)])))
        lead += max(spans)
    return lead


def _lost(design: Design, weight: Floats, mode: Floats, row: int, other: int) -> float:
    """The least loss with the target not below this item: both have one utility then."""
    place = np.arange(len(mode))
    place[other] = row
    keep = np.delete(place, other)
    place -= place > other
    merge = sparse.csr_array((np.ones(len(mode)), (np.arange(len(mode)), place)))  # all parameters from those kept
    smaller = replace(
        design, x=(design.x @ merge).tocsr(), centre=design.centre[keep], precision=merge.T @ design.precision,
        deviations={level: {item: int(place[at]) for item, at in own.items()}
                    for level, own in design.deviations.items()},
    )  # fmt: skip
    return solve(smaller, weight, mode[keep])[1]


def _enough(
    votes: Sequence[Vote], ids: Vocabulary, prior: Prior, row: int, rank: int, against: Sequence[int], low: float
) -> float:
    """Fewest votes of this attack, by doubling and halving, to a whole number."""
    target = ids.ids([row])[0]
    rivals = ids.ids(list(against)).to_list()
    rigged = [*votes, *(Vote(pair(target, rival)) for rival in rivals)]
    design = design_of(rigged, ids, prior)
    honest = np.array([vote.weight for vote in votes])
    start = design.centre

    def wins(count: float) -> bool:
        weight = np.append(honest, np.full(len(rivals), count / len(rivals)))[design.vote]
        return rank_of(solve(design, weight, start)[0][: len(ids)], row) <= rank

    high = float(low)
    while not wins(high):
        low, high = high, high * 2
        if high > _MOST:
            return float("inf")
    low, high = np.floor(low), np.ceil(high)
    while high - low > 1:
        middle = np.floor((low + high) / 2)
        low, high = (low, middle) if wins(middle) else (middle, high)
    return float(low if low >= 1 and wins(low) else high)
