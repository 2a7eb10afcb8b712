"""Do the results look, as a set, like the target model's own pictures? FID and KID between two sets of features.

    FID = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))                           Heusel et al. 2017
    KID = MMD^2 with the kernel (<x, y> / dim + 1)^3, without the pairs (x, x)         Binkowski et al. 2018

Facts that are easy to get wrong:
- FID is biased upwards, the more the fewer pictures: with 90 pictures in 2048 dimensions the bias is most of it. Only
  FIDs of equal set sizes and one extractor may be compared, never with published ones. KID has no bias and a real
  interval; it may be negative.
- With centred features A = QR, C = A'A / (n - 1), and tr((C_a C_b)^(1/2)) is the sum of the singular values of
  R_a R_b' over ((n_a - 1)(n_b - 1))^(1/2). This is exact at any rank, symmetric, and needs no matrix square root, whose
  iterations fail on covariances of rank 89.
- The published script squashes pictures to 224 pixels before the extractor resizes them again (`features(paper=True)`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import Interval, Rng, over_seeds
from tastemaker.evaluate.images.embedding import Features
from tastemaker.evaluate.images.picture import Picture, fitted, rgbs

Floats = NDArray[np.float64]

_FIRST_RESIZE = 224  # of the published script


@dataclass(frozen=True)
class KernelDistance:
    """KID.

    Attributes:
        value: from all pairs of pictures, unbiased.
        blocks: mean over disjoint blocks with Student's t interval; its p is for distance 0.
        block: pictures of each set in a block.
    """

    value: float
    blocks: Interval
    block: int


def features(pictures: Sequence[Picture], extractor: Features, *, paper: bool = False) -> Floats:
    """Features of pictures, shape (n, dim).

    Args:
        paper: squash to 224 x 224 first, as the published script does before the extractor's own resize.
    """
    pixels = rgbs(pictures)
    if paper:
        pixels = [fitted(picture, _FIRST_RESIZE, "squash") for picture in pixels]
    return np.asarray(extractor.features(pixels), np.float64)


def fid(a: ArrayLike, b: ArrayLike) -> float:
    """Frechet distance of the two normal distributions; symmetric, 0 for equal sets.

    Args:
        a, b: features, shapes (n_a, dim) and (n_b, dim), at least two rows each.
    """
    x, y = _pair(a, b)
    mean_x, mean_y = x.mean(0), y.mean(0)
    r_x, r_y = (np.linalg.qr(z - z.mean(0), mode="r") / np.sqrt(len(z) - 1) for z in (x, y))
    shared = np.linalg.svd(r_x @ r_y.T, compute_uv=False).sum()
    spread = (r_x * r_x).sum() + (r_y * r_y).sum()
    return max(0.0, float(((mean_x - mean_y) ** 2).sum() + spread - 2 * shared))


def kid(a: ArrayLike, b: ArrayLike, *, blocks: int = 10, level: float = 0.95, rng: Rng = 0) -> KernelDistance:
    """Unbiased kernel distance of two sets, with an interval from `blocks` disjoint random blocks.

    Args:
        a, b: features, shapes (n_a, dim) and (n_b, dim). Each block needs two pictures of either set.
    """
    x, y = _pair(a, b)
    block = min(len(x), len(y)) // blocks if blocks > 1 else 0
    if block < 2:
        raise InvalidArgument(
            f"{blocks} blocks of {len(x)} and {len(y)} pictures; expected at least 2 blocks with 2 pictures of "
            f"either set in each: take fewer blocks or more pictures"
        )
    generator = np.random.default_rng(rng)
    rows_x = generator.permutation(len(x))[: blocks * block].reshape(blocks, block)
    rows_y = generator.permutation(len(y))[: blocks * block].reshape(blocks, block)
    parts = [_mmd(x[i], y[j]) for i, j in zip(rows_x, rows_y, strict=True)]
    return KernelDistance(_mmd(x, y), over_seeds(parts, level=level), block)


def _mmd(x: Floats, y: Floats) -> float:
    """Unbiased squared maximum mean discrepancy."""
    kxx, kyy, kxy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kxx, kyy))
    return float(within - 2 * kxy.mean())


def _kernel(x: Floats, y: Floats) -> Floats:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InvalidArgument(f"features of shapes {x.shape} and {y.shape}; expected two sets (n, dim), n at least 2")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InvalidArgument("features hold NaN or infinite values; leave out the pictures they come from")
    return x, y
