"""Which card comes next, with the probability that it did: policies over models whose worth is not known for sure.

    greedy     the largest mean
    ucb        the largest mean + width * spread (Auer et al. 2002)
    thompson   each with its probability of being the best (Thompson 1933; Russo et al. 2018)

With a share `explore` any of the models still possible is shown, all alike; so with explore > 0 nothing has probability
0, and feedback on what was shown can be weighed by 1 / probability.

The probability is that of *this card next, given the cards before it* (the 'step' meaning of `debias.contract`), and it
is exact, not an estimate: beliefs are independent Gaussians here, so the probability of being best is one integral,

    P(m is best) = integral of density_m(x) * product over j != m of P(worth_j < x) dx

taken on a grid of x. Nothing is drawn to find it; the same state has the same probabilities.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from tastemaker.errors import InvalidArgument, UnknownName

Policy = Literal["thompson", "ucb", "greedy"]
Floats = NDArray[np.float64]

POLICIES = ("thompson", "ucb", "greedy")
_NODES = 400


def chances(mean: Floats, spread: Floats, *, policy: Policy, width: float = 1.0) -> Floats:
    """Probability of each model to come next, shape (n,), sum 1; without `explore`.

    Args:
        mean, spread: what is believed about each model's worth, shape (n,) each; spread may be 0.
        width: of "ucb".
    """
    if policy not in POLICIES:
        raise UnknownName("policy", str(policy), POLICIES)
    if mean.shape != spread.shape or mean.ndim != 1 or not len(mean) or not (spread >= 0).all():
        raise InvalidArgument(f"mean {mean.shape}, spread {spread.shape}; expected (n,) each, no spread below 0")
    if policy == "thompson":
        return best(mean, spread)
    worth = mean + width * spread if policy == "ucb" else mean
    top = worth >= worth.max() - 1e-12
    return np.asarray(top / top.sum())


def best(mean: Floats, spread: Floats) -> Floats:
    """Probability of being the largest of independent Gaussians, shape (n,).

    Models whose best case (five spreads up) is below some other's worst case have 0. A spread far below the largest one
    is widened to two steps of the grid, without which the integral would miss it.
    """
    hopeful = mean + 5 * spread >= (mean - 5 * spread).max()
    m, s = mean[hopeful], spread[hopeful]
    p, reach = np.zeros(len(mean)), 8 * s.max()
    if reach <= 1e-12:
        p[hopeful] = m >= m.max() - 1e-12
        return np.asarray(p / p.sum())
    s = np.maximum(s, 2 * (2 * reach / _NODES))
    x = np.linspace(m.max() - reach, m.max() + reach, _NODES)
    z = (x[:, None] - m) / s
    below = log_ndtr(z)
    p[hopeful] = np.exp(below.sum(1, keepdims=True) - below - 0.5 * z**2 - np.log(s)).sum(0)
    return np.asarray(p / p.sum())
