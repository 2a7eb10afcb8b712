"""Is the target's style reached? By an encoder's eye, and by plain statistics of colour, line and texture.

- `style_similarity`: mean cosine of a result with pictures that the target model draws itself. Content counts too, so
  compare only methods on the same prompts, with target pictures of the same prompts.
- `StyleReader`: given pictures of each style, which style is this one? Linear discriminants (Fisher 1936, pooled
  covariance, shrunk) of `statistics`; needs no weights and no network. It reads styles that differ in colour, line or
  texture, such as ink, pixels and neon, and not those that differ in how things are drawn.

Facts that are easy to get wrong:
- The reader's probabilities are relative to the styles it was shown, and are too sure of themselves. Say which styles.
- Statistics are taken at the picture's own pixels: a style's grain is lost by resizing, so train the reader on pictures
  of the size that it judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.picture import Picture, luminance, rgb, rgbs

Floats = NDArray[np.float64]

_LAGS = (1, 2, 3, 4, 6, 8)
_SCALES = (0.5, 1.0, 2.0)


def style_similarity(results: Embeddings, targets: Embeddings) -> Measured:
    """Mean cosine of each result with the target model's own pictures."""
    if results.vectors.shape[1] != targets.vectors.shape[1] or not len(targets):
        raise InvalidArgument(
            f"results of shape {results.vectors.shape}, targets {targets.vectors.shape}; expected one encoder for both "
            f"and at least one target"
        )
    return Measured("style similarity", results.vectors.astype(np.float64) @ targets.vectors.astype(np.float64).mean(0))


def statistics(picture: Picture) -> Floats:
    """Colour, contrast, lines at three scales, their Gram matrix, and self-similarity at short distances.

    Returns:
        shape (n_statistics,), the same length for every picture of at least 17 x 17 pixels.
    """
    pixels = rgb(picture)
    if min(pixels.shape[:2]) <= 2 * max(_LAGS):
        raise InvalidArgument(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels; expected at least 17 x 17")
    colour, light = pixels / 255.0, luminance(pixels)
    saturation = colour.max(2) - colour.min(2)
    opponent = np.stack(
        [light, colour[..., 0] - colour[..., 1], colour[..., 2] - (colour[..., 0] + colour[..., 1]) / 2]
    )
    bins = np.bincount(((pixels // 64) @ np.array([16, 4, 1])).ravel(), minlength=64) / light.size
    filled = bins[bins > 0]
    lines = [ndimage.gaussian_gradient_magnitude(light, scale) for scale in _SCALES]
    spots = [np.abs(ndimage.gaussian_laplace(light, scale)) for scale in _SCALES]
    channels = np.stack([*opponent, *lines, *spots]).reshape(3 + 2 * len(_SCALES), -1)
    gram = np.cov(channels)
    deviation = np.sqrt(np.diag(gram))
    correlation = gram / (np.outer(deviation, deviation) + 1e-4)
    steps = [np.abs(light[lag:] - light[:-lag]).mean() for lag in _LAGS]
    steps += [np.abs(light[:, lag:] - light[:, :-lag]).mean() for lag in _LAGS]
    parts = (
        np.quantile(light, [0.05, 0.25, 0.5, 0.75, 0.95]),
        [saturation.mean(), saturation.std(), -(filled * np.log(filled)).sum(), bins.max()],
        channels.mean(1),
        np.log(deviation + 1e-3),
        correlation[np.triu_indices(len(correlation), 1)],
        np.log(np.array(steps) + 1e-3),
        [np.mean(lines[0] < 0.01), np.mean(lines[0] > 0.1)],
    )
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class StyleReader:
    """Tells the styles it was shown apart.

    Attributes:
        styles: names, in the order of the probabilities' columns.
        weight, bias: linear scores of statistics, shapes (n_statistics, n_styles) and (n_styles,).
    """

    styles: tuple[str, ...]
    weight: Floats
    bias: Floats

    @classmethod
    def fit(cls, samples: Mapping[str, Sequence[Picture]], *, shrink: float = 0.1) -> StyleReader:
        """Learn from a few dozen pictures of each style.

        Args:
            samples: pictures by style; at least two styles, two pictures each. Use the same prompts for every style, or
                the reader learns the subjects.
            shrink: how far the pooled covariance is drawn towards the identity (of standardised statistics), 0..1.
        """
        if len(samples) < 2 or min(len(pictures) for pictures in samples.values()) < 2:
            sizes = {style: len(pictures) for style, pictures in samples.items()}
            raise InvalidArgument(f"samples {sizes}; expected at least two styles with two pictures each")
        if not 0 < shrink <= 1:
            raise InvalidArgument(f"shrink={shrink:g}; expected a share above 0 and up to 1")
        x = [np.stack([statistics(picture) for picture in rgbs(pictures)]) for pictures in samples.values()]
        means = np.stack([rows.mean(0) for rows in x])
        within = np.concatenate([rows - mean for rows, mean in zip(x, means, strict=True)])
        scale = np.sqrt((within**2).sum(0) / (len(within) - len(x))) + 1e-6
        within /= scale
        covariance = (1 - shrink) * within.T @ within / (len(within) - len(x)) + shrink * np.eye(within.shape[1])
        direction = np.linalg.solve(covariance, (means / scale).T)
        bias = -0.5 * ((means / scale).T * direction).sum(0)
        return cls(tuple(samples), direction / scale[:, None], bias)

    def probability(self, pictures: Sequence[Picture]) -> Floats:
        """Probability of each style, all equally likely beforehand, shape (n_pictures, n_styles)."""
        x = np.stack([statistics(picture) for picture in rgbs(pictures)])
        return np.asarray(special.softmax(x @ self.weight + self.bias, axis=1))

    def reached(self, pictures: Sequence[Picture], wanted: str | Sequence[str]) -> Measured:
        """Probability of the wanted style, one name for all pictures or one for each."""
        names = [wanted] * len(pictures) if isinstance(wanted, str) else list(wanted)
        require_pairs(names, pictures, ("wanted styles", "pictures"))
        for name in names:
            if name not in self.styles:
                raise UnknownName("style", name, self.styles)
        column = [self.styles.index(name) for name in names]
        read = self.probability(pictures)[np.arange(len(names)), column]
        return Measured(f"style read among {', '.join(self.styles)}", read)
