"""Weights of a score that explain somebody's picks: the three fits of the GEMRec gallery, with their signs right.

The gallery's score of a picture is a weighted sum of parts (arXiv 2308.02205: match with the prompt, distinctness,
popularity), and its first versions offered to fit the weights to what a person had picked:

    grid      all weights from -1.0 to 0.9 in steps of 0.1, least sum of the ranks of the picks
    svm       normal of the linear support vector machine, C = 1, that parts picks from the rest
    greedy    share of the picks for which a part is the largest of all parts

The published machine had two faults, which `paper=True` keeps. It labelled picks -1, so that its weights point away
from them. And it had no intercept although no part is ever negative and few pictures are picked, so that the cheapest
normal is one that has all pictures on the side of the many: all weights have one sign, whatever was picked. Here parts
are taken from their mean, and picks weigh as much as the rest.

What no sign can mend: greedy is never negative and knows nothing of what was passed over, and no fit tells how sure it
is. `choose.rank` plays the same role with both.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from tastemaker.errors import InvalidArgument

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

STEPS = np.arange(-10, 10) / 10


def grid(parts: ArrayLike, picked: ArrayLike) -> Floats:
    """Weights, shape (n_parts,). Of equally good ones the mean, which is a fit no matter how they are numbered.

    Args:
        parts: one row a picture, shape (n, n_parts); 20^n_parts weights are tried, so at most four parts.
        picked: shape (n,) bool, some but not all.
    """
    x, y = _checked(parts, picked)
    if x.shape[1] > 4:
        raise InvalidArgument(f"{x.shape[1]} parts make {20 ** x.shape[1]:,} weights; expected at most 4 parts")
    tried = np.array(list(product(STEPS, repeat=x.shape[1])))
    totals, cost = tried @ x.T, np.zeros(len(tried))
    for own in totals[:, y].T[..., None]:
        cost += (totals > own).sum(1) + (totals == own).sum(1) / 2  # equal totals share their ranks
    return np.asarray(tried[cost == cost.min()].mean(0))


def svm(parts: ArrayLike, picked: ArrayLike, *, cost: float = 1.0, paper: bool = False) -> Floats:
    """Weights, shape (n_parts,), by the dual of the hinge loss, without intercept.

    Args:
        parts, picked: as in `grid`.
        cost: of a picture on the wrong side, on average.
        paper: as published.
    """
    x, y = _checked(parts, picked)
    side, costs = np.where(y, -1.0, 1.0), np.full(len(x), cost)
    if not paper:
        x, side = x - x.mean(0), -side
        costs = cost * len(x) / 2 / np.where(y, y.sum(), (~y).sum())
    signed = x * side[:, None]

    def dual(a: Floats) -> tuple[float, Floats]:
        w = a @ signed
        return float(w @ w / 2 - a.sum()), signed @ w - 1

    found = minimize(dual, np.zeros(len(x)), jac=True, bounds=[(0, one) for one in costs], method="L-BFGS-B")
    return np.asarray(found.x @ signed)


def greedy(parts: ArrayLike, picked: ArrayLike) -> Floats:
    """Weights, shape (n_parts,), which sum to 1; parts that are largest together share the pick."""
    x, y = _checked(parts, picked)
    largest = x[y] == x[y].max(1, keepdims=True)
    return np.asarray((largest / largest.sum(1, keepdims=True)).mean(0))


def _checked(parts: ArrayLike, picked: ArrayLike) -> tuple[Floats, Flags]:
    x, y = np.asarray(parts, np.float64), np.asarray(picked)
    if x.ndim != 2 or y.shape != (len(x),) or y.dtype != np.bool_ or not np.isfinite(x).all():
        raise InvalidArgument(
            f"parts of shape {x.shape}, picked {y.dtype} of shape {y.shape}; expected finite (n, n_parts) and n bools"
        )
    if y.all() or not y.any():
        raise InvalidArgument(f"{int(y.sum())} of {len(y)} pictures were picked; expected some, and not all")
    return x, y
