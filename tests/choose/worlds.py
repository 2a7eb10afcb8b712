"""People with a known taste, who vote as the model says."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from tastemaker.choose.belief import outcomes
from tastemaker.choose.votes import BAR, Choice, Vote
from tastemaker.data.vocabulary import Vocabulary


def answer(utilities, among, rng, *, ties=False, bad=False, tie_odds=-0.7):
    """The choice of somebody with these utilities (items, then the bar) among item numbers."""
    shown = (*among, *((BAR,) if bad else ()))
    ids = Vocabulary.range(len(utilities) - 1)
    design, _ = outcomes(Choice((shown[0],), shown, ties), ids)
    at = rng.choice(len(design), p=softmax(design @ np.append(utilities, tie_odds)))
    columns = np.flatnonzero(design[at, :-1])
    return Choice(tuple(BAR if c == len(ids) else int(c) for c in columns), shown, ties)


def pairs(utilities, n, rng, *, person=None, tag=None, ties=False, bad=False):
    """`n` votes on random pairs."""
    full = np.append(utilities, 0.0) if len(utilities) else utilities
    return [
        Vote((answer(full, tuple(map(int, rng.choice(len(utilities), 2, replace=False))), rng, ties=ties, bad=bad),),
             person, tag)
        for _ in range(n)
    ]  # fmt: skip
