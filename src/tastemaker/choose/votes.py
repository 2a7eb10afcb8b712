"""Votes of every kind as choices: somebody saw some items and chose one (or called some of them equal).

    pair, K-wise pick    one choice among those shown
    drag and sort        the first among all, the second among the rest, ... (Plackett 1975, Luce 1959)
    like, dislike        a choice between the item and the bar, the point from which on a person likes things
    both bad             the bar chosen among two items and the bar

A tie is an outcome of its own, possible only where it could be said; so is the bar. That is why a vote records what was
offered, not only what was chosen: a pair won although "tie" and "both bad" were on offer says more than a forced one.

The bar is written None. It makes likes, dislikes and comparisons one scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tastemaker.errors import DataError, InvalidArgument

Item = int | str
BAR = None  # the point from which on a person likes things

_MOST_TIED = 9  # a choice with ties has as many outcomes as there are sets of items: 511


@dataclass(frozen=True)
class Choice:
    """One choice.

    Attributes:
        chosen: what was chosen; several where they were called equal.
        among: everything that could have been chosen, at least two, in the order shown; may hold BAR.
        ties: whether items could be called equal.

    Raises DataError where something chosen was not shown, or something was shown twice.
    """

    chosen: tuple[Item | None, ...]
    among: tuple[Item | None, ...]
    ties: bool = False

    def __post_init__(self) -> None:
        if len(self.among) < 2 or len(set(self.among)) < len(self.among):
            raise DataError(f"a choice among {list(self.among)}; expected at least two different items")
        if stray := [item for item in self.chosen if item not in self.among]:
            raise DataError(f"{stray[0]!r} was chosen, but only {list(self.among)} were shown")
        if not self.chosen or len(set(self.chosen)) < len(self.chosen):
            raise DataError(f"chosen is {list(self.chosen)}; expected each item once, and at least one")
        if len(self.chosen) > 1 and (not self.ties or BAR in self.chosen):
            raise DataError(f"{list(self.chosen)} were called equal; expected ties=True, and no tie with the bar")
        if self.ties and len(self.among) > _MOST_TIED:
            raise DataError(f"ties among {len(self.among)} items; at most {_MOST_TIED} can be handled: split the sort")


@dataclass(frozen=True)
class Vote:
    """What one person said at one time.

    Attributes:
        choices: in the order made, as `pair`, `tie`, `both_bad`, `pick`, `sort`, `like` and `dislike` write them.
        person: who; None is nobody known.
        tag: of the prompt, where boards of tags are wanted.
        weight: how much it counts, for example 1 / probability of being shown; 0 is a vote that is not trusted.
    """

    choices: tuple[Choice, ...]
    person: str | None = None
    tag: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.weight < math.inf):
            raise InvalidArgument(f"weight = {self.weight}; expected a number from 0 on")


def pair(winner: Item, loser: Item, *, ties: bool = False, bad: bool = False) -> tuple[Choice, ...]:
    """A battle won. `ties` and `bad`: whether "equal" and "both bad" were offered as well."""
    return (Choice((winner,), (winner, loser, *((BAR,) if bad else ())), ties),)


def tie(one: Item, other: Item, *, bad: bool = False) -> tuple[Choice, ...]:
    """Two called equal."""
    return (Choice((one, other), (one, other, *((BAR,) if bad else ())), True),)


def both_bad(one: Item, other: Item, *, ties: bool = True) -> tuple[Choice, ...]:
    """Neither is good enough."""
    return (Choice((BAR,), (one, other, BAR), ties),)


def pick(best: Item, among: Sequence[Item], *, bad: bool = False) -> tuple[Choice, ...]:
    """The best of several; nothing is said about the others."""
    return (Choice((best,), (*among, *((BAR,) if bad else ()))),)


def sort(order: Sequence[Item | Sequence[Item]], *, ties: bool | None = None) -> tuple[Choice, ...]:
    """Best first. Items called equal stand in a list of their own: ["a", ["b", "c"], "d"].

    Args:
        ties: whether items could be called equal; by default where some were.
    """
    groups = [(item,) if isinstance(item, int | str) else tuple(item) for item in order]
    allowed = any(len(group) > 1 for group in groups) if ties is None else ties
    left = [item for group in groups for item in group]
    if len(set(left)) < len(left) or len(left) < 2 or not all(groups):
        raise DataError(f"a sort of {left}; expected at least two items, each once")
    choices = []
    for group in groups:
        if len(left) > 1:
            choices.append(Choice(group, tuple(left), allowed))
        left = left[len(group) :]
    return tuple(choices)


def like(item: Item) -> tuple[Choice, ...]:
    return (Choice((item,), (item, BAR)),)


def dislike(item: Item) -> tuple[Choice, ...]:
    return (Choice((BAR,), (item, BAR)),)
