"""A map of pictures where alike ones lie together, as in the GEMRec gallery: t-SNE (van der Maaten & Hinton 2008).

The exact algorithm, for some thousand pictures: neighbours as a Gaussian of fixed perplexity in the vectors' space,
Student's t on the map, Kullback-Leibler divergence by gradient descent with momentum, gains and early exaggeration.
Distances between far groups on such a map mean nothing, and nor does the direction of an axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import InvalidArgument

Floats = NDArray[np.float64]

_EXAGGERATED, _EXAGGERATION = 250, 12.0


def tsne(vectors: ArrayLike, *, perplexity: float = 30.0, rounds: int = 1000, rng: int = 0) -> Floats:
    """Positions, shape (n, 2), around (0, 0). The same seed gives the same map on one platform.

    Args:
        vectors: shape (n, dim).
        perplexity: number of neighbours that matter, below n - 1.
        rounds: of gradient descent.
    """
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InvalidArgument(f"vectors of shape {x.shape}; expected finite (n, dim)")
    if not 1 < perplexity < len(x) - 1 or rounds < 1:
        raise InvalidArgument(f"perplexity = {perplexity} for {len(x)} pictures; expected above 1 and below n - 1")
    p = _neighbours(x, perplexity)
    p = (p + p.T) / (2 * len(x))
    y = np.random.default_rng(rng).normal(scale=1e-4, size=(len(x), 2))
    step, gain = np.zeros_like(y), np.ones_like(y)
    rate = max(len(x) / _EXAGGERATION / 4, 50.0)
    for number in range(rounds):
        early = number < _EXAGGERATED
        near = 1 / (1 + _distances(y))
        np.fill_diagonal(near, 0)
        pull = ((_EXAGGERATION if early else 1.0) * p - near / near.sum()) * near
        gradient = 4 * (pull.sum(1)[:, None] * y - pull @ y)
        gain = np.where(np.sign(gradient) != np.sign(step), gain + 0.2, gain * 0.8).clip(0.01)
        step = (0.5 if early else 0.8) * step - rate * gain * gradient
        y = y + step
        y -= y.mean(0)
    return np.asarray(y)


def _distances(x: Floats) -> Floats:
    """Squared, shape (n, n)."""
    length = (x * x).sum(1)
    return np.asarray((length[:, None] + length - 2 * x @ x.T).clip(0))


def _neighbours(x: Floats, perplexity: float) -> Floats:
    """Chance that each picture calls each other its neighbour; rows have the entropy log(perplexity), shape (n, n)."""
    far = _distances(x)
    np.fill_diagonal(far, np.inf)
    far -= far.min(1, keepdims=True)
    low, high = np.full(len(x), -30.0), np.full(len(x), 30.0)  # of the log precision
    scale = np.median(far[np.isfinite(far)]) or 1.0
    for _ in range(60):
        beta = np.exp((low + high) / 2)[:, None] / scale
        with np.errstate(invalid="ignore"):
            p = np.exp(-far * beta)
            p /= p.sum(1, keepdims=True)
            entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, (low + high) / 2, low), np.where(wide, high, (low + high) / 2)
    return np.asarray(p)
