"""What the attacker wants: targets at the top of real users' lists (Tang, Wen, Wang 2020, section 3).

    L_adv = sum over real users of  - mean over targets t of  log softmax(scores of the user over all items)_t

Clicked items stay in the softmax, fake users never enter. The scores of all three surrogates end as inner products,
users (n_real, d) and items (n_items, d), so one pass over blocks of users gives the loss, its derivatives and the hit
rate, and no users x items matrix is kept.

A real user is *hit* if at least one target is among the k best of the items they have not clicked. Who clicked a target
cannot be hit by it, but still counts in the denominator. An item that scores the same as a target stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import iadd
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack.bilevel_threads import Crew, cut, one_blas_thread
from tastemaker.attack.clicks import Clicks
from tastemaker.attack.profiles import is_whole
from tastemaker.errors import InvalidArgument, TastemakerError, UnknownName

Array = NDArray[Any]
Mode = Literal["exact", "truncated", "partial", "last_solve", "implicit"]
BLOCK_CELLS = 1 << 22  # scores held at once: 16 MB of float32


Solved = tuple["Judged", Array | None]  # how a surrogate is judged, and d L_adv / d fakes (n_fakes, n_items)


class Surrogate(Protocol):
    """The model the attacker trains in place of the victim; a frozen dataclass of settings."""

    modes: ClassVar[tuple[Mode, ...]]

    @property
    def weight(self) -> float: ...

    def solve(self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator) -> Solved:
        """Train on `clicks`; how the result is judged, and d L_adv / d fakes (n_fakes, n_items), None without a mode.

        Arithmetic is done in the dtype of `clicks.fakes`.
        """


@runtime_checkable
class Batched(Protocol):
    """A surrogate that solves several problems at once, with the same results as one after the other."""

    def solve_many(self, problems: Sequence[Problem], mode: Mode | None) -> list[Solved]: ...


class Diverged(TastemakerError, ArithmeticError):
    """A surrogate's training, or the gradient through it, is not finite."""


@dataclass(frozen=True)
class Judged:
    """loss: L_adv; hit (n_real,): who is hit; users (n_real, d) and items (n_items, d): its derivatives."""

    loss: float
    hit: NDArray[np.bool_]
    users: Array
    items: Array


@dataclass(frozen=True, eq=False)
class Adversary:
    """Targets (item rows) and the real users' clicks; k: length of a list that counts."""

    targets: NDArray[np.int32]
    clicks: Clicks
    k: int = 50

    def judge(self, users: Array, items: Array) -> Judged:
        """users (n_real, d), items (n_items, d): the surrogate's factors of real users and of items."""
        into_users, hit = np.empty_like(users), np.zeros(len(users), bool)
        step = max(1, BLOCK_CELLS // len(items))

        def share(piece: slice) -> tuple[Array, float]:
            into_items, loss = np.zeros_like(items), 0.0
            for first in range(piece.start, piece.stop, step):
                block = slice(first, min(first + step, piece.stop))
                p = users[block]
                scores = p @ items.T
                goal = scores[:, self.targets]
                hit[block] = self._hits(scores, goal, first)
                top = scores.max(axis=1, keepdims=True)
                np.exp(np.subtract(scores, top, out=scores), out=scores)
                total = scores.sum(axis=1, keepdims=True)
                loss += float((top + np.log(total) - goal.mean(axis=1, keepdims=True)).sum(dtype=np.float64))
                # d loss / d scores = softmax - 1 / |targets| at targets: two thin products, not one dense matrix.
                into_users[block] = scores @ items / total - items[self.targets].mean(axis=0)
                into_items += scores.T @ (p / total)
            return into_items, loss

        with one_blas_thread():
            parts, losses = zip(*Crew().each(share, cut(len(users))), strict=True)
        into_items = reduce(iadd, parts)
        into_items[self.targets] -= users.sum(axis=0) / len(self.targets)
        return Judged(sum(losses), hit, into_users, into_items)

    def _hits(self, scores: Array, goal: Array, first: int) -> NDArray[np.bool_]:
        ends = self.clicks.indptr[first : first + len(scores) + 1]
        user = np.repeat(np.arange(len(scores)), np.diff(ends))
        item = self.clicks.items[ends[0] : ends[-1]]
        unclicked = goal.copy()
        for place, target in enumerate(self.targets):
            unclicked[user[item == target], place] = -np.inf
        best = unclicked.max(axis=1)
        others = ~np.isin(item, self.targets)
        ahead = others & (scores[user, item] >= best[user])
        before = (scores >= best[:, None]).sum(axis=1) - (goal >= best[:, None]).sum(axis=1)
        before -= np.bincount(user[ahead], minlength=len(scores))
        hit: NDArray[np.bool_] = (before < self.k) & (best > -np.inf)
        return hit


@dataclass(frozen=True, eq=False)
class Problem:
    """Clicks to train on, who judges the result, and the randomness of its training."""

    clicks: Clicks
    adversary: Adversary
    rng: np.random.Generator


def solve(surrogate: Surrogate, problems: Sequence[Problem], mode: Mode | None) -> list[Solved]:
    """All problems: at once where the surrogate can, else one after the other."""
    if isinstance(surrogate, Batched):
        return surrogate.solve_many(problems, mode)
    return [surrogate.solve(one.clicks, one.adversary, mode, one.rng) for one in problems]


def known(surrogate: Surrogate, mode: Mode | None) -> None:
    """Raise UnknownName unless the surrogate has this gradient."""
    if mode is not None and mode not in surrogate.modes:
        raise UnknownName(f"gradient of {type(surrogate).__name__}", mode, surrogate.modes)


def whole(settings: object, *names: str) -> None:
    """Raise InvalidArgument where a setting is no whole number from 1; None is left to the default."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not is_whole(value):
            raise InvalidArgument(f"{type(settings).__name__}({name}={value!r}); expected a whole number from 1")


def positive(settings: object, *names: str, or_zero: bool = False) -> None:
    """Raise InvalidArgument where a setting is no finite number above 0."""
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 or (or_zero and value == 0)) or value == float("inf"):
            least = "from 0" if or_zero else "above 0"
            raise InvalidArgument(f"{type(settings).__name__}({name}={value!r}); expected a finite number {least}")
