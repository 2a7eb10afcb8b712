"""Is the layout kept? Self-similarity of a transformer's keys (Tumanyan et al. 2022), and edges without any network.

`structure_distance` is the "DINO" figure of Diffusion Cocktail (arXiv 2312.08873) and PIE-Bench: with K the keys of the
last block, heads side by side, S(K) = cosine of every token with every other; the distance is mean((S(a) - S(b))^2).
With DINO ViT-B/8 at 224 pixels that is 785 x 785 (28^2 patches and the class token), which tables print x 10^3.
Keys say where things are and barely how they are coloured, so a change of style costs little.

`edge_structure` needs no weights: the correlation of smoothed gradient magnitude. It sees outlines only, and a style
that adds texture lowers it although nothing moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.picture import Picture, Pixels, luminance, rgb
from tastemaker.evaluate.images.pixels import same_size

Floats = NDArray[np.float64]


class Keys(Protocol):
    """A vision transformer that shows its last keys; `vit.ViT` is one."""

    @property
    def name(self) -> str: ...

    def keys(self, picture: Picture) -> NDArray[np.floating]:
        """Keys of the last block, class token first, heads side by side, shape (n_tokens, dim)."""
        ...


def self_similarity(keys: ArrayLike) -> Floats:
    """Cosine of every token with every other, shape (n_tokens, n_tokens); a zero key is similar to nothing."""
    k = np.asarray(keys, np.float64)
    if k.ndim != 2:
        raise InvalidArgument(f"keys of shape {k.shape}; expected (n_tokens, dim), heads side by side")
    length = np.linalg.norm(k, axis=1)
    return np.asarray((k @ k.T) / np.maximum(np.outer(length, length), 1e-8))


def structure_distance(sources: Sequence[Picture], results: Sequence[Picture], vit: Keys) -> Measured:
    """Mean squared difference of the two self-similarities of each pair; 0 for equal pictures, lower keeps more.

    The two pictures of a pair may differ in size as long as the transformer makes as many tokens of both.
    """
    require_pairs(sources, results, ("sources", "results"))
    values = []
    for place, (source, result) in enumerate(zip(sources, results, strict=True)):
        a, b = self_similarity(vit.keys(source)), self_similarity(vit.keys(result))
        if a.shape != b.shape:
            raise InvalidArgument(
                f"pair {place}: {len(a)} tokens of the source, {len(b)} of the result; expected one aspect for both, "
                f"or a transformer that squashes to a square"
            )
        values.append(((a - b) ** 2).mean())
    return Measured(f"structure distance by {vit.name}", np.array(values))


def edge_structure(sources: Sequence[Picture], results: Sequence[Picture], *, smoothing: float = 1 / 32) -> Measured:
    """Correlation of the two maps of gradient magnitude, 1 where all edges coincide.

    Args:
        smoothing: standard deviation of the Gaussian, as a share of the short side, so that the figure hardly depends
            on the number of pixels. 1/32 is two pixels at 64: an outline then lies on the edge it outlines.

    NaN where a picture has no edges at all. The two pictures of a pair need one size.
    """
    if not 0 < smoothing < 0.5:
        raise InvalidArgument(f"smoothing={smoothing:g}; expected a share of the short side above 0, such as 1/32")
    require_pairs(sources, results, ("sources", "results"))
    values = []
    for place, (source, result) in enumerate(zip(sources, results, strict=True)):
        a, b = rgb(source), rgb(result)
        same_size(a, b, place)
        values.append(_correlation(edges(a, smoothing), edges(b, smoothing)))
    return Measured("edge structure", np.array(values))


def edges(pixels: Pixels, smoothing: float = 1 / 32) -> Floats:
    """Gradient magnitude of the smoothed luminance, shape (height, width)."""
    sigma = smoothing * min(pixels.shape[:2])
    return np.asarray(ndimage.gaussian_gradient_magnitude(luminance(pixels), sigma, mode="nearest"))


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    # Rounding alone leaves about 1e-17 a pixel on a flat picture.
    return float((a * b).sum() / scale) if scale > 1e-12 * a.size else float("nan")
