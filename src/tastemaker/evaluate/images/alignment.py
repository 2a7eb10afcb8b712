"""Does the picture show what the prompt says? The CLIP score of Diffusion Cocktail (arXiv 2312.08873) and GEMRec.

    score = mean over pictures of cos(text_i, picture_i)

Facts that are easy to get wrong:
- Pairs are matched: picture i with prompt i. The first published script compared the *first* prompt with all pictures;
  permuting the prompts must change the figure.
- The paper divides CLIP's logit by 100. A trained CLIP's logit is 100 times the cosine, so this is the cosine itself;
  GEMRec reports the logit (see `gallery`), PIE-Bench 100 times the cosine, not below zero.
- The paper squashes pictures to a square before CLIP sees them (`paper=True`). CLIP's own way is to crop the middle.
- The trigger words of a LoRA do not belong into the prompt that is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.embedding import Encoder
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.picture import Picture, rgbs
from tastemaker.evaluate.images.pixels import Masks, blanked, region_of


def matched(texts: ArrayLike, pictures: ArrayLike) -> Measured:
    """Cosine of text i and picture i.

    Args:
        texts, pictures: vectors of any length, both of shape (n, dim); a picture's text stands in the same row.
    """
    a, b = np.asarray(texts, np.float64), np.asarray(pictures, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise InvalidArgument(f"texts of shape {a.shape}, pictures {b.shape}; expected (n, dim) for both, in pairs")
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not (length > 0).all():
        raise InvalidArgument(f"{int((~(length > 0)).sum())} of {len(a)} pairs hold a zero or NaN vector")
    return Measured("clip score", (a * b).sum(1) / length)


def clip_score(
    encoder: Encoder,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    *,
    masks: Masks | None = None,
    paper: bool = False,
) -> Measured:
    """Cosine of each picture with its own prompt.

    Args:
        masks: the region to judge, a (height, width) bool array a picture; the rest is black, as PIE-Bench scores the
            edited part. An empty region is NaN.
        paper: squash to a square as the paper does; otherwise the encoder's own crop.
    """
    require_pairs(prompts, pictures, ("prompts", "pictures"))
    pixels, some = rgbs(pictures), np.ones(len(pictures), np.bool_)
    if masks is not None:
        require_pairs(masks, pictures, ("masks", "pictures"))
        regions = [region_of(mask, shown, place) for place, (mask, shown) in enumerate(zip(masks, pixels, strict=True))]
        pixels = [blanked(shown, region) for shown, region in zip(pixels, regions, strict=True)]
        some = np.array([region.any() for region in regions])
    texts, seen = encoder.embed_texts(prompts), encoder.embed_pictures(pixels, fit="squash" if paper else "crop")
    values = np.where(some, matched(texts.vectors, seen.vectors).values, np.nan)
    fit = "squashed, as the paper" if paper else "cropped"
    return Measured(f"clip score by {encoder.name}, {fit}", values)
