"""People who answer: populations that can be asked about any item, and whose truth is known.

A feedback loop can only be judged where the answers that were *not* asked for are known as well. Three kinds of
population have them:

- `FullyObserved`: a complete matrix of ratings. Real people where there is such a block (`jester_block`: 1,473 people
  who rated all 100 jokes; `tastemaker.data.read` reads the file), or the drawn ratings of `simulate.topics`.
- `Likers`: everybody likes each item with a known probability and answers +1 or -1 (`planted`: the worlds of
  `data.synthetic`).

Easy to get wrong: `truth` is the *expected* answer, in the unit of the answers. For `Likers` that is 2 p - 1 and no
answer ever equals it, so even a perfect prediction of the answers errs; errors are therefore measured against the
truth. In a real matrix the answer is the truth: what a person would say another day is not known, and an error there
includes the person's mood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.data.synthetic import Planted
from tastemaker.errors import DataError, InvalidArgument

Floats = NDArray[np.float64]
GRADED = Scale(-1.0, 1.0)


class People(Protocol):
    """Whoever can be asked about every item."""

    @property
    def scale(self) -> Scale:
        """What the answers mean."""

    @property
    def truth(self) -> Floats:
        """Expected answer of every person to every item, shape (n_users, n_items)."""

    def respond(
        self, users: NDArray[np.int32], items: NDArray[np.int32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """The answers to these (user, item) pairs, all of shape (n,)."""


@dataclass(frozen=True, eq=False)
class FullyObserved:
    """People of whom every rating is on file; asked twice, they say the same.

    Attributes:
        truth: the ratings, shape (n_users, n_items), finite and within `scale`.
        scale: the lowest and the highest rating there can be.
    """

    truth: Floats
    scale: Scale

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth", _complete(self.truth, self.scale.low, self.scale.high))

    def respond(
        self, users: NDArray[np.int32], items: NDArray[np.int32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        return self.truth[users, items].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Likers:
    """People who like an item, +1, with a known probability and else dislike it, -1; each answer is drawn anew.

    Attributes:
        probability: of a like, shape (n_users, n_items).
        scale: of the log; graded -1..1, so that a model learns expected answers and gives unseen pairs no value, or
            `data.feedback.SIGNED` for models, attacks and detectors that read likes and dislikes.
    """

    probability: Floats
    scale: Scale = GRADED

    def __post_init__(self) -> None:
        object.__setattr__(self, "probability", _complete(self.probability, 0.0, 1.0))
        if (self.scale.low, self.scale.high) != (-1.0, 1.0):
            raise InvalidArgument(f"a scale of {self.scale.low:g}..{self.scale.high:g}; expected -1..1, the answers")

    @property
    def truth(self) -> Floats:
        return 2.0 * self.probability - 1.0

    def respond(
        self, users: NDArray[np.int32], items: NDArray[np.int32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        liked = rng.random(len(users)) < self.probability[users, items]
        return np.where(liked, np.float32(1), np.float32(-1))


def planted(world: Planted) -> Likers:
    """Everybody in a planted world."""
    return Likers(world.like_matrix(np.arange(world.log.n_users)))


def jester_block(log: FeedbackLog) -> FullyObserved:
    """The people of a graded log who rated every item, with those ratings; in Jester 5k 1,473 people and 100 jokes."""
    rated = np.zeros((log.n_users, log.n_items), bool)
    rated[log.user, log.item] = True
    if rated.sum() != len(log):
        raise DataError(f"{len(log) - int(rated.sum())} events repeat a pair; expected one rating a person and item")
    whole = rated.all(axis=1)
    if log.scale.signed or not whole.any():
        raise DataError(
            f"{int(whole.sum())} of {log.n_users} people rated all {log.n_items} items"
            f"{' of a signed log' if log.scale.signed else ''}; expected a graded log with a fully observed block"
        )
    return FullyObserved(log.matrix()[whole].toarray().astype(np.float64), log.scale)


def _complete(values: ArrayLike, low: float, high: float) -> Floats:
    """A finite matrix within low..high, or an error that says what is missing."""
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise InvalidArgument(f"a matrix of shape {matrix.shape}; expected (n_users, n_items), both at least 1")
    if missing := int((~np.isfinite(matrix)).sum()):
        raise InvalidArgument(
            f"{missing} of {matrix.size} cells are missing or infinite; expected a complete matrix, "
            f"because a loop may ask anybody about anything"
        )
    if matrix.min() < low or matrix.max() > high:
        raise InvalidArgument(f"values in {matrix.min():g}..{matrix.max():g}; expected {low:g}..{high:g}")
    return matrix
