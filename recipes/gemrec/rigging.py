"""A maker who buys votes: how many it takes to bring the last model of a leaderboard to the top.

Honest people with planted tastes (those of `people`) each compare pairs of twelve models' pictures, drawn at random.
Fake accounts push the last model to the first place. For each way to push and to defend: the fewest bought votes with
which it works, found by injecting them and fitting anew (by doubling and halving, as if more were never worse); beside
the bound of `choose.rigging`, below which no strategy works.

    votes an account      all votes from one account, 200 from each or 20: always "the target over a rival"
    asked pairs only      accounts answer random pairs that the board asks, as honest people do: always for the target
                          where it is shown, like the crowd where it is not. A board can enforce that.
    capped                no account weighs more than an honest person
    suspects dropped      capped, and accounts of a `surprise` above `SUSPECT` weigh nothing (looked for thrice)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import expit

from recipes.gemrec.people import WORLDS, Floats, people, read
from tastemaker.choose.belief import Prior
from tastemaker.choose.rating import fit
from tastemaker.choose.rigging import capped, rank_of, rigged_votes_needed, surprise
from tastemaker.choose.votes import Vote, pair
from tastemaker.data.vocabulary import Vocabulary

MODELS, EACH, SUSPECT = 12, 20, 3.0
PRIOR = Prior(items=1.5, person=1.5)
Push = Callable[[int], list[Vote]]
Defence = Callable[[Sequence[Vote]], Sequence[Vote]]


def honest(utility: Floats, rng: np.random.Generator) -> list[Vote]:
    """Random pairs by each person, utility of shape (n_people, MODELS)."""
    votes = []
    for person, own in enumerate(utility):
        for _ in range(EACH):
            one, other = map(int, rng.choice(MODELS, 2, replace=False))
            first = rng.random() < expit(own[one] - own[other])
            votes.append(Vote(pair(one, other) if first else pair(other, one), f"person {person}"))
    return votes


def measure(data: Path, seed: int, quick: bool) -> dict[str, float]:
    """Bought votes needed, by way to push and defence; left out where four times the honest votes are not enough."""
    rng = np.random.default_rng(seed)
    tastes = people(read(data), WORLDS["alike"], 30 if quick else 60, rng)[:, 0]
    votes = honest(tastes[:, rng.choice(tastes.shape[1], MODELS, replace=False)], rng)
    ids = Vocabulary(pl.Series(range(MODELS)))
    mode = fit(votes, ids, prior=PRIOR).mode[:MODELS]
    target = int(np.argmin(mode))
    found = rigged_votes_needed(votes, ids, target, 1, prior=PRIOR)
    rivals = [int(item) for item in found.against]

    def push(each: int) -> Push:
        return lambda n: [Vote(pair(target, rivals[k % len(rivals)]), f"fake {k // each}") for k in range(n)]

    def asked(n: int) -> list[Vote]:
        drawn, bought = np.random.default_rng(seed), []
        for k in range(n):
            one, other = map(int, drawn.choice(MODELS, 2, replace=False))
            first = one == target or (other != target and drawn.random() < expit(mode[one] - mode[other]))
            bought.append(Vote(pair(one, other) if first else pair(other, one), f"fake {k // EACH}"))
        return bought

    defences: dict[str, Defence] = {
        "none": lambda given: given,
        "capped": lambda given: capped(given, EACH),
        "dropped": lambda given: without_suspects(given, ids),
    }
    pushes: dict[str, Push] = {"one": push(1_000_000), "bulk": push(200), "many": push(EACH), "asked": asked}
    figures = {
        "honest.votes": float(len(votes)),
        "honest.accounts": float(len(tastes)),
        "bound.votes": float(found.at_least),
        "bound.accounts": float(np.ceil(found.at_least / EACH)),
        "honest.suspects": float(np.mean([off > SUSPECT for off in surprise(votes, ids, prior=PRIOR).values()])),
    }
    for way, bought in pushes.items():
        for name, defence in defences.items():
            if (count := needed(votes, bought, defence, ids, target)) is not None:
                figures[f"{way}.{name}.votes"] = float(count)
    return figures


def without_suspects(votes: Sequence[Vote], ids: Vocabulary) -> list[Vote]:
    kept = capped(votes, EACH)
    for _ in range(3):
        odd = {person for person, off in surprise(kept, ids, prior=PRIOR).items() if off > SUSPECT}
        kept = [replace(vote, weight=0.0) if vote.person in odd else vote for vote in kept]
    return kept


def needed(votes: list[Vote], bought: Push, defence: Defence, ids: Vocabulary, target: int) -> int | None:
    """Fewest bought votes that work, to a twentieth."""

    def works(n: int) -> bool:
        return rank_of(fit(defence([*votes, *bought(n)]), ids, prior=PRIOR).mode[:MODELS], target) == 1

    low, high = 0, EACH
    while not works(high):
        low, high = high, high * 2
        if high > 4 * len(votes):
            return None
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def table(figures: dict[str, float]) -> str:
    names = {
        "one": "one account",
        "bulk": "200 votes an account",
        "many": f"{EACH} votes an account",
        "asked": "asked pairs only",
    }
    lines = [
        f"{figures['honest.votes']:.0f} honest votes of {figures['honest.accounts']:.0f} people. The bound: at least "
        f"{figures['bound.votes']:.0f} votes, so with the cap at least {figures['bound.accounts']:.0f} accounts. "
        f"{figures['honest.suspects']:.1%} of the honest people are suspects before any attack.",
        "",
        "| bought votes needed | no defence | capped | suspects dropped |",
        "|---|---|---|---|",
    ]
    for way, words in names.items():
        cells = [figures.get(f"{way}.{name}.votes") for name in ("none", "capped", "dropped")]
        told = [f"more than {4 * figures['honest.votes']:.0f}" if n is None else f"{n:.0f}" for n in cells]
        lines.append(f"| {words} | " + " | ".join(told) + " |")
    return "\n".join(lines)
