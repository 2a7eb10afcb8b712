"""The point rules of the GEMRec gallery, replayed (Guo et al. 2023, arXiv 2308.02205), and what was wrong with them.

    sort      pictures in batches of four, best first: 5, 3, 1, 0 points by place
    battle    the winner stays and meets the next; a win gives 1 + the points the loser has by then

`replay(paper=True)` keeps two defects of the published demo: of the batches of a round only the last survived, and
only rounds whose number equals the highest over all prompts counted, so that prompts ranked fewer times vanished. The
default counts all batches of the latest round of each prompt.

What no replay can mend: points of one batch are added to another's as if both were equally strong, and in a battle the
first item must win every round while the last needs one win. `votes_of` turns the same events into choices for
`rating.fit`, which has neither fault.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from tastemaker.choose.votes import Item, Vote, pair, sort
from tastemaker.data.catalog import ID
from tastemaker.errors import DataError, InvalidArgument

SORT_POINTS = (5, 3, 1, 0)
BATCH = len(SORT_POINTS)
EXPLICIT = 0.8  # pictures with a higher norm_nsfw are not shown

#: Prompts of the 90 that the gallery does not show.
HIDDEN = frozenset({1, 3, 39, 48, 49, 50, 51, 54, 56, 60, 62, 83, 84, 85})


@dataclass(frozen=True)
class Sorted:
    """One batch of a drag-and-sort session: up to four items, best first; `epoch` is the round, from 1."""

    prompt: Hashable
    epoch: int
    order: tuple[Item, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.order) <= BATCH or len(set(self.order)) < len(self.order):
            raise DataError(f"a batch of {list(self.order)}; expected 1 to {BATCH} items, each once")


@dataclass(frozen=True)
class Battle:
    """One battle; `epoch` is the round, from 1."""

    prompt: Hashable
    epoch: int
    winner: Item
    loser: Item

    def __post_init__(self) -> None:
        if self.winner == self.loser:
            raise DataError(f"{self.winner!r} battles itself; expected two items")


def replay(events: Sequence[Sorted | Battle], *, paper: bool = False) -> pl.DataFrame:
    """Points of each item, best first: columns id, points, rank (from 1; equal points in order of appearance).

    Args:
        events: of one person and tag, in the order of time.
        paper: with the demo's loss of batches and prompts.
    """
    points: dict[Item, int] = {}
    for event in _counted(events, paper):
        if isinstance(event, Sorted):
            for item, gain in zip(event.order, SORT_POINTS, strict=False):
                points[item] = points.get(item, 0) + gain
        else:
            loser = points.setdefault(event.loser, 0)
            points[event.winner] = points.get(event.winner, 0) + 1 + loser
    ordered = sorted(points, key=lambda item: -points[item])
    return pl.DataFrame(
        {
            ID: pl.Series(ordered, dtype=None if ordered else pl.String),
            "points": pl.Series([points[item] for item in ordered], dtype=pl.Int64),
            "rank": pl.Series(range(1, len(ordered) + 1), dtype=pl.Int64),
        }
    )


def votes_of(
    events: Iterable[Sorted | Battle], *, person: str | None = None, tag: str | None = None
) -> tuple[Vote, ...]:
    """The same events for `rating.fit`, every round of them; a batch of one item says nothing and is left out."""
    return tuple(
        Vote(sort(event.order) if isinstance(event, Sorted) else pair(event.winner, event.loser), person, tag)
        for event in events
        if isinstance(event, Battle) or len(event.order) > 1
    )


def battle(
    items: Sequence[Item], better: Callable[[Item, Item], Item], *, prompt: Hashable, epoch: int = 1
) -> Iterator[Battle]:
    """The demo's battle: items 0 and 1 meet, the loser's place goes to the next, the winner keeps its side.

    Args:
        better: given left and right, the one preferred.

    Yields:
        n - 1 battles.
    """
    if len(items) < 2 or len(set(items)) < len(items):
        raise InvalidArgument(f"a battle of {list(items)}; expected at least two items, each once")
    left, right = items[0], items[1]
    for challenger in [*items[2:], None]:
        winner = better(left, right)
        if winner not in (left, right):
            raise InvalidArgument(f"better({left!r}, {right!r}) returned {winner!r}; expected one of the two")
        yield Battle(prompt, epoch, winner, right if winner == left else left)
        if challenger is not None:
            left, right = (left, challenger) if winner == left else (challenger, right)


def lineup(totals: pl.DataFrame, picks: Sequence[Item], *, multiple: int = BATCH) -> list[Item]:
    """What is ranked for a prompt: the picks, filled up to a multiple of four with the best models not picked.

    Args:
        totals: columns model and total_score, one row a model that may be shown for the prompt.

    Returns:
        worst total first, as in the demo; equal totals in the order of `totals`. Fewer where there are no more models.
    """
    models = totals["model"].to_list()
    if len(set(models)) < len(models):
        raise DataError("a model is there twice; expected the models of one prompt", column="model")
    if stray := [item for item in picks if item not in models]:
        raise DataError(f"{stray[0]!r} was picked, but is not among the {len(models)} models shown")
    if len(set(picks)) < len(picks) or not picks:
        raise InvalidArgument(f"picks are {list(picks)[:5]}; expected at least one, each once")
    unpicked = totals.filter(~pl.col("model").is_in(list(picks))).sort(
        "total_score", descending=True, maintain_order=True
    )
    filled = [*picks, *unpicked["model"].head(-len(picks) % multiple)]
    shown = totals.filter(pl.col("model").is_in(filled))
    return shown.sort("total_score", maintain_order=True)["model"].to_list()


def visible(cells: pl.DataFrame) -> pl.DataFrame:
    """Cells (prompt, norm_nsfw) that the gallery shows: not of a hidden prompt, and not explicit."""
    return cells.filter(~pl.col("prompt").is_in(sorted(HIDDEN)) & (pl.col("norm_nsfw") <= EXPLICIT))


def _counted(events: Sequence[Sorted | Battle], paper: bool) -> Sequence[Sorted | Battle]:
    if bad := [event for event in events if event.epoch < 1]:
        raise DataError(f"a round has the number {bad[0].epoch}; expected 1 or more")
    if not paper:
        latest: dict[Hashable, int] = {}
        for event in events:
            latest[event.prompt] = max(event.epoch, latest.get(event.prompt, 0))
        return [event for event in events if event.epoch == latest[event.prompt]]
    last = max((event.epoch for event in events), default=0)
    batch = {(event.prompt, event.epoch): place for place, event in enumerate(events) if isinstance(event, Sorted)}
    return [
        event
        for place, event in enumerate(events)
        if event.epoch == last and (isinstance(event, Battle) or batch[event.prompt, event.epoch] == place)
    ]
