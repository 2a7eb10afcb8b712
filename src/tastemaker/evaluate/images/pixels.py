"""Pixel by pixel: MSE, PSNR and SSIM of a result and its source, whole or on a region.

Colours lie in 0..1, so MSE x 10^4 and SSIM x 10^2 are the columns of PIE-Bench (Ju et al. 2024, arXiv 2310.01506).

Facts that are easy to get wrong:
- PIE-Bench judges the part that should *not* change, `mask = ~edited`.
- Its code paints everything else black in both pictures and then averages over the whole picture, so a small region is
  flattered: `paper=True`. Our default averages over the region alone. Both agree where the region is the picture.
- SSIM (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, only where it fits whole, each colour for itself.
- PSNR of equal pictures is infinite, and the mean of PSNRs is not the PSNR of the mean MSE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.picture import Picture, Pixels, rgb

Floats = NDArray[np.float64]
Masks = Sequence[NDArray[np.bool_]]

_RADIUS, _SIGMA = 5, 1.5  # of the SSIM window
SMALLEST = 2 * _RADIUS + 1  # side of a picture that SSIM can judge
_WINDOW = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
_WINDOW /= _WINDOW.sum()


def mse(
    sources: Sequence[Picture], results: Sequence[Picture], *, masks: Masks | None = None, paper: bool = False
) -> Measured:
    """Mean squared difference over colours and pixels, in 0..1.

    Args:
        masks: the region to judge, a (height, width) bool array a pair; an empty region is NaN.
        paper: on a region, paint the rest black and average over the whole picture, as PIE-Bench's code does.
    """
    error = [
        ((a - b) ** 2)[region].mean() if region.any() else np.nan
        for a, b, region in _pairs(sources, results, masks, paper)
    ]
    return Measured("mse", np.array(error))


def psnr(
    sources: Sequence[Picture], results: Sequence[Picture], *, masks: Masks | None = None, paper: bool = False
) -> Measured:
    """-10 log10 of each pair's `mse`, in decibels; infinite for equal pictures."""
    with np.errstate(divide="ignore"):
        return Measured("psnr", -10 * np.log10(mse(sources, results, masks=masks, paper=paper).values))


def ssim(
    sources: Sequence[Picture], results: Sequence[Picture], *, masks: Masks | None = None, paper: bool = False
) -> Measured:
    """Structural similarity, at most 1. With masks, the mean of the map over the region's pixels.

    Raises InvalidArgument for pictures below 11 x 11 pixels. A region that only touches the outer 5 pixels is NaN.
    """
    values = []
    for a, b, region in _pairs(sources, results, masks, paper):
        if min(a.shape[:2]) < SMALLEST:
            raise InvalidArgument(f"a picture of {a.shape[1]} x {a.shape[0]} pixels; SSIM needs at least 11 x 11")
        inside = region[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
        values.append(_ssim_map(a, b)[inside].mean() if inside.any() else np.nan)
    return Measured("ssim", np.array(values))


def same_size(source: Pixels, result: Pixels, place: int) -> None:
    """Raise unless both pictures of pair `place` have one size."""
    if source.shape != result.shape:
        raise InvalidArgument(
            f"pair {place}: the source has {source.shape[1]} x {source.shape[0]} pixels, the result "
            f"{result.shape[1]} x {result.shape[0]}; expected one size: resize the source to its result first"
        )


def region_of(mask: NDArray[np.bool_], pixels: Pixels, place: int) -> NDArray[np.bool_]:
    """The mask of pair `place`, checked."""
    region = np.asarray(mask)
    if region.dtype != np.bool_ or region.shape != pixels.shape[:2]:
        raise InvalidArgument(
            f"pair {place}: a mask of shape {region.shape}, {region.dtype}; expected bool of {pixels.shape[:2]}"
        )
    return region


def blanked(pixels: Pixels, region: NDArray[np.bool_]) -> Pixels:
    """The picture with everything outside the region black."""
    return np.where(region[..., None], pixels, np.uint8(0))


def _pairs(
    sources: Sequence[Picture], results: Sequence[Picture], masks: Masks | None, paper: bool
) -> list[tuple[Floats, Floats, NDArray[np.bool_]]]:
    """Both pictures in 0..1 and the pixels to average over. An empty region stays empty in either way."""
    require_pairs(sources, results, ("sources", "results"))
    if masks is not None:
        require_pairs(masks, results, ("masks", "results"))
    pairs = []
    for place, (source, result) in enumerate(zip(sources, results, strict=True)):
        a, b = rgb(source), rgb(result)
        same_size(a, b, place)
        region = np.ones(a.shape[:2], np.bool_)
        if masks is not None:
            region = region_of(masks[place], a, place)
            if paper and region.any():
                a, b, region = blanked(a, region), blanked(b, region), np.ones_like(region)
        pairs.append((a / 255, b / 255, region))
    return pairs


def _ssim_map(a: Floats, b: Floats) -> Floats:
    """Mean over colours at each place where the window fits, shape (height - 10, width - 10)."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    both = _windowed(a * b) - mean_a * mean_b
    value = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return np.asarray(value.mean(2))


def _windowed(x: Floats) -> Floats:
    out = ndimage.correlate1d(ndimage.correlate1d(x, _WINDOW, axis=0), _WINDOW, axis=1)
    return np.asarray(out[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS])
