"""Which two items to ask about next, with the probability of asking logged.

    information   the pair whose answer says most about the utilities: the mutual information between answer and
                  utilities (Lindley 1956; Houlsby et al. 2011), ties included
    thompson      the two candidates for the best: one drawn with its probability of being best, another drawn the same
                  way from the rest (double Thompson sampling, Wu & Liu 2016)
    random        every pair alike

`information` learns the whole order, `thompson` the top. A share `explore` of the questions is random, so that each
pair has a positive probability and feedback can be reweighted. Sides are a coin flip, for people prefer a side.

Thompson's chances are estimated from drawn utilities; the probability logged is the one given these draws, which is the
one that 1 / probability needs, for the draws do not depend on the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import entr, softmax

from tastemaker.choose.belief import Belief, Floats
from tastemaker.choose.votes import Item
from tastemaker.data.vocabulary import Ids
from tastemaker.errors import InvalidArgument, UnknownName

Policy = Literal["information", "thompson", "random"]
Rng = int | np.random.Generator

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # of a standard normal
_DRAWS = 1000


@dataclass(frozen=True)
class Question:
    """Two items to show, on which sides, and with which probability this pair on these sides was asked."""

    left: Item
    right: Item
    policy: str
    probability: float


def ask(
    belief: Belief,
    *,
    policy: Policy = "information",
    among: Ids | None = None,
    ties: bool = False,
    explore: float = 0.1,
    rng: Rng,
) -> Question:
    """The next pair.

    Args:
        among: items to choose from; by default all.
        ties: whether "equal" can be answered.
        explore: share of random questions.
    """
    if policy not in ("information", "thompson", "random"):
        raise UnknownName("policy", str(policy), ["information", "thompson", "random"])
    if not 0 <= explore <= 1:
        raise InvalidArgument(f"explore = {explore}; expected a share from 0 to 1")
    rows = np.arange(len(belief.ids)) if among is None else belief.ids.rows(among).astype(np.int64)
    if len(set(rows.tolist())) < max(2, len(rows)):
        raise InvalidArgument(f"{len(rows)} items to compare; expected at least two, each once")
    generator = np.random.default_rng(rng)
    one, other = np.triu_indices(len(rows), 1)
    chance = np.full(len(one), 1 / len(one))
    if policy == "information":
        gain = information(belief, ties=ties)[rows[one], rows[other]]
        best = gain >= gain.max() - 1e-12
        chance = explore * chance + (1 - explore) * best / best.sum()
    elif policy == "thompson":
        p = _best(belief, rows, generator)
        if p.max() == 1:  # the best is sure: compare it with any of the others
            both = (p[one] + p[other]) / (len(rows) - 1)
        else:
            both = p[one] * p[other] * (1 / (1 - p[one]) + 1 / (1 - p[other]))
        chance = explore * chance + (1 - explore) * both
    at = int(generator.choice(len(one), p=chance / chance.sum()))
    left, right = rows[[one[at], other[at]] if generator.random() < 0.5 else [other[at], one[at]]]
    names = belief.ids.ids([left, right]).to_list()
    return Question(names[0], names[1], policy, float(chance[at]) / 2)


def information(belief: Belief, *, ties: bool = False) -> Floats:
    """Nats that the answer to each pair is expected to tell, shape (n, n); 0 on the diagonal.

    Args:
        ties: whether "equal" can be answered, at the believed odds.
    """
    mean, spread = belief.differences()
    d = mean[..., None] + spread[..., None] * _NODES  # (n, n, nodes)
    scores = [d / 2, -d / 2, *([np.full_like(d, belief.mean[-1])] if ties else [])]
    p = softmax(np.stack(scores), axis=0)  # (outcomes, n, n, nodes)
    w = _WEIGHTS / _WEIGHTS.sum()
    gain = entr(p @ w).sum(0) - entr(p).sum(0) @ w
    np.fill_diagonal(gain, 0)
    return np.asarray(gain.clip(0))


def _best(belief: Belief, rows: np.ndarray[tuple[int], np.dtype[np.int64]], rng: np.random.Generator) -> Floats:
    """Probability of each of these items to be the best of them, shape (len(rows),)."""
    values, vectors = np.linalg.eigh(belief.cov[np.ix_(rows, rows)])
    root = vectors * np.sqrt(values.clip(0))
    drawn = belief.mean[rows] + rng.standard_normal((_DRAWS, len(rows))) @ root.T
    return np.bincount(drawn.argmax(1), minlength=len(rows)) / _DRAWS
