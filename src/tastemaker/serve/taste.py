"""One person's list from the items' side of a fitted `Factors`, by what they have said up to this moment.

The global model is the items' side: vectors q_i, biases b_i and the mean mu. The personal one is solved for at every
request, so that a like counts at once and the same words give the same list under the same model, always:

    minimise over x   sum over words       w (v - mu - b_i - <x, q_i>)^2
                    + sum over the rest    unseen (0 - mu - b_i - <x, q_i>)^2  +  reg |x|^2

which is what `Factors.fold_in` solves; the sums over all items are made once a model, so that a person costs a few
dozen rows (the bias of the person is one more factor whose other side is a constant). Whoever has said nothing has
x = 0 and the order of the items' biases.

A list is drawn place by place: with probability 1 - explore the best item left, else one of all items left, each alike.
The probability kept with an impression is that of this item at this place, given the places before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.factors import FactorsState
from tastemaker.serve.events import Shown

Floats = NDArray[np.float64]
Scores = NDArray[np.float32]
Reason = tuple[str, int, float]  # item spoken about, +1 or -1, share of the score
_BLOCK = 64  # scores


@dataclass(frozen=True, eq=False)
class Heard:
    """What a person said, as a model hears it.

    Attributes:
        inverse: of the curvature that these words leave, shape (d, d).
        pulls: what each word pulls beyond an unseen item, shape (n, d).
    """

    inverse: Floats
    pulls: Floats


@dataclass(frozen=True, eq=False)
class Taste:
    """The items' side of a model, ready for one person after the other.

    Attributes:
        item_ids: the items it knows, n of them.
        items: shape (n, d), with the constant of the person's bias as the last column where there is one.
        columns: the same, shape (d, n), as narrow as the model itself: a list reads them all.
        offset: mu + b_i, shape (n,).
        gram: unseen * items' items + reg, shape (d, d).
        pull: of all items as if unseen, shape (d,).
        weights: of a like, a dislike, an unseen item.
        dislike: what a dislike is worth.
    """

    item_ids: Vocabulary
    items: NDArray[np.float32]
    columns: NDArray[np.float32]
    offset: NDArray[np.float32]
    gram: Floats
    pull: Floats
    weights: tuple[float, float, float]
    dislike: float

    @classmethod
    def of(cls, state: FactorsState) -> Self:
        items = state.items.astype(np.float64)
        if state.bias_reg:
            items = np.column_stack([items, np.full(len(items), state.bias_reg**-0.5)])
        offset = state.item_bias.astype(np.float64) + state.mean
        gram = state.unseen_weight * items.T @ items + state.reg * np.eye(items.shape[1])
        pull = -state.unseen_weight * items.T @ offset
        weights = state.like_weight, state.dislike_weight, state.unseen_weight
        narrow = np.ascontiguousarray(items, np.float32)
        columns = np.ascontiguousarray(narrow.T)
        return cls(state.item_ids, narrow, columns, offset.astype(np.float32), gram, pull, weights, state.dislike_value)

    def heard(self, rows: NDArray[np.int32], values: NDArray[np.int32]) -> Heard:
        """Of a person who said `values` (+1, -1) about the items `rows`, each at most once.

        The inverse is taken once a list: the list and all its reasons come from it.
        """
        like, dislike, unseen = self.weights
        said, offset = self.items[rows].astype(np.float64), self.offset[rows].astype(np.float64)
        liked = values > 0
        weight, target = np.where(liked, like, dislike), np.where(liked, 1.0, self.dislike)
        gram = self.gram + said.T @ (said * (weight - unseen)[:, None])
        pulls = said * (weight * (target - offset) + unseen * offset)[:, None]
        return Heard(np.asarray(np.linalg.inv(gram), np.float64), pulls)

    def person(self, heard: Heard) -> Floats:
        """x of a person, shape (d,)."""
        if not len(heard.pulls):
            return np.zeros(len(self.pull))
        return np.asarray(heard.inverse @ (self.pull + heard.pulls.sum(0)))

    def scores(self, x: Floats) -> Scores:
        """Of every item for a person, shape (n,)."""
        # Not by a matrix product: each thread that asks would start as many of BLAS as there are cores.
        return np.asarray(np.einsum("ji,j->i", self.columns, x.astype(np.float32)) + self.offset)

    def why(self, heard: Heard, items: NDArray[np.int32]) -> Floats:
        """What each word adds to the person's score of each of these items, shape (words, len(items)).

        The score is linear in what the words pull, so these add up to it, but for what everybody gets.
        """
        return np.asarray(heard.pulls @ (heard.inverse @ self.items[items].T))


@dataclass(frozen=True)
class Picks:
    """Items in the order to show them, their scores (None: drawn, and the model does not know it), and how chosen.

    `reasons` of each, where they were asked for; `likes` and `dislikes` are how many words the person had said;
    `version` is the model's.
    """

    items: tuple[str, ...]
    scores: tuple[float | None, ...]
    policy: str
    probabilities: tuple[float, ...]
    reasons: tuple[tuple[Reason, ...], ...] = field(default=(), compare=False)
    likes: int = field(default=0, compare=False)
    dislikes: int = field(default=0, compare=False)
    version: int = field(default=0, compare=False)

    def shown(self, user: str, first: int = 0) -> Shown:
        """The event to store when the list is shown."""
        return Shown(user, self.items, self.policy, self.probabilities, first)


def draw(
    scores: Scores, allowed: NDArray[np.integer], k: int, explore: float, rng: np.random.Generator
) -> tuple[list[int], list[float]]:
    """Up to k of the allowed rows, and the probability of each at its place.

    Args:
        scores: of every row, shape (n,); NaN where the model does not know the item: only exploring finds it, and it
            comes last of all.
    """
    if k < 1 or not 0 <= explore <= 1:
        raise InvalidArgument(f"k={k}, explore={explore}; expected at least 1, and a probability")
    of = scores[allowed]
    near = np.flatnonzero(of >= _bar(of, 2 * k))  # of the best 2 k at least k are left whatever exploring takes
    best = iter(allowed[near[np.lexsort((allowed[near], -of[near]))]].tolist())
    taken: dict[int, float] = {}
    top = next(best, None)
    for left in range(len(allowed), max(0, len(allowed) - k), -1):
        while top in taken:
            top = next(best, None)
        share = explore if top is not None else 1.0
        if top is None or rng.random() < share:
            row = _other(allowed, taken, rng)
        else:
            row = top
        taken[row] = share / left + (1 - share) * (row == top)
    return list(taken), list(taken.values())


def _bar(scores: Scores, n: int) -> float:
    """A score that at least n reach, all of the best n among them, and not many more; -inf where there are fewer.

    The n-th best of the blocks' best: n blocks hold one such score each. Ten times as fast as finding the n-th best.
    """
    whole = len(scores) // _BLOCK * _BLOCK
    tops = np.fmax.reduce(scores[:whole].reshape(-1, _BLOCK), axis=1)  # NaN where the model knows none of a block
    tops = tops[~np.isnan(tops)]
    return float(np.partition(tops, -n)[-n]) if len(tops) >= n else -np.inf


def _other(allowed: NDArray[np.integer], taken: dict[int, float], rng: np.random.Generator) -> int:
    """One of the rows not taken, each alike."""
    if len(allowed) > 2 * len(taken):
        while (row := int(allowed[rng.integers(len(allowed))])) in taken:
            pass
        return row
    return int(rng.choice([row for row in allowed.tolist() if row not in taken]))
