"""FID's own features: Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) to its last pooling, 2048 numbers a picture.

Facts that are easy to get wrong:
- FID's weights are the ported TensorFlow network of 2015 ("pt_inception-2015-12-05"), not torchvision's ImageNet ones:
  the layers have the same names, the figures differ by a few units.
- In that network averages over 3 x 3 places leave the border out of their count, and the pooling branch of the last
  block takes the largest value instead of the mean.
- Pictures become 299 x 299 by bilinear interpolation without a filter against aliasing, colours -1..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, MissingExtra
from tastemaker.evaluate.images.folder import read_tensors
from tastemaker.evaluate.images.picture import Picture, rgbs

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ImportError as error:
    raise MissingExtra("torch", "generate") from error

SIDE, BATCH = 299, 16
#: A convolution, batch normalisation and ReLU: name, channels, kernel; stride, and whether the border is filled up.
Unit = Callable[..., Tensor]
_PARTS = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


@dataclass(frozen=True, eq=False)
class Inception:
    """A `Features` extractor for `distribution.fid`.

    Attributes:
        tensors: by the names of the ported network: `Conv2d_1a_3x3.conv.weight`, `Mixed_5b.branch1x1.bn.bias`, ...
        device: of the computation.
    """

    tensors: dict[str, Tensor]
    device: str = "cpu"
    name: str = "Inception-v3, last pooling"

    @classmethod
    def load(cls, file: str | Path, *, device: str = "cpu") -> Inception:
        """From a safetensors file of the ported network; layers after the last pooling may be there, and are left.

        Raises DataError for another kind of file, and for missing or wrongly shaped tensors.
        """
        tensors = {
            name: torch.from_numpy(value.astype(np.float32)).to(device) for name, value in read_tensors(file).items()
        }

        def checked(
            x: Tensor, name: str, channels: int, kernel: tuple[int, int], stride: int = 1, same: bool = True
        ) -> Tensor:
            shapes = {"conv.weight": (channels, x.shape[1], *kernel), **dict.fromkeys(_PARTS, (channels,))}
            for part, shape in shapes.items():
                one = tensors.get(f"{name}.{part}")
                if one is None or tuple(one.shape) != shape:
                    given = "absent" if one is None else tuple(one.shape)
                    raise DataError(f"'{name}.{part}' is {given}; expected {shape} of FID's Inception-v3", file=file)
            weight = x.new_empty(shapes["conv.weight"])  # on 'meta': only shapes are worked out
            return functional.conv2d(x, weight, stride=stride, padding=_padding(kernel, same))

        _run(torch.empty((1, 3, SIDE, SIDE), device="meta"), checked)
        return cls(tensors, device)

    def features(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Means over places of the last block, shape (n, 2048)."""

        def unit(
            x: Tensor, name: str, channels: int, kernel: tuple[int, int], stride: int = 1, same: bool = True
        ) -> Tensor:
            weight = self.tensors[f"{name}.conv.weight"]
            scale, shift, mean, variance = (self.tensors[f"{name}.{part}"] for part in _PARTS)
            x = functional.conv2d(x, weight, stride=stride, padding=_padding(kernel, same))
            return torch.relu(functional.batch_norm(x, mean, variance, scale, shift, eps=1e-3))

        def resized(pixels: NDArray[np.uint8]) -> Tensor:
            x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            return functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)

        pixels, found = rgbs(pictures), list[Any]()
        with torch.inference_mode():
            for first in range(0, len(pixels), BATCH):
                x = torch.cat([resized(one) for one in pixels[first : first + BATCH]]).to(self.device)
                found.append(_run(2 * x - 1, unit).mean((2, 3)).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 2048), np.float32)


def _run(x: Tensor, unit: Unit) -> Tensor:
    """The layers one after the other; (n, 3, height, width) to (n, 2048, smaller, smaller)."""

    def chain(x: Tensor, *units: tuple[Any, ...]) -> Tensor:
        for one in units:
            x = unit(x, *one)
        return x

    def halved(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 2)

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def highest(x: Tensor) -> Tensor:
        return functional.max_pool2d(x, 3, 1, 1)

    def joined(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts), 1)

    one, three, five, tall, wide, low, flat = (1, 1), (3, 3), (5, 5), (7, 1), (1, 7), (3, 1), (1, 3)
    x = chain(
        x, ("Conv2d_1a_3x3", 32, three, 2, False), ("Conv2d_2a_3x3", 32, three, 1, False), ("Conv2d_2b_3x3", 64, three)
    )
    x = halved(x)
    x = halved(chain(x, ("Conv2d_3b_1x1", 80, one), ("Conv2d_4a_3x3", 192, three, 1, False)))

    for at, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        double = f"{at}.branch3x3dbl"
        x = joined((
            chain(x, (f"{at}.branch1x1", 64, one)),
            chain(x, (f"{at}.branch5x5_1", 48, one), (f"{at}.branch5x5_2", 64, five)),
            chain(x, (f"{double}_1", 64, one), (f"{double}_2", 96, three), (f"{double}_3", 96, three)),
            chain(mean(x), (f"{at}.branch_pool", pooled, one)),
        ))  # fmt: skip

    at, double = "Mixed_6a", "Mixed_6a.branch3x3dbl"
    x = joined((
        chain(x, (f"{at}.branch3x3", 384, three, 2, False)),
        chain(x, (f"{double}_1", 64, one), (f"{double}_2", 96, three), (f"{double}_3", 96, three, 2, False)),
        halved(x),
    ))  # fmt: skip

    for at, n in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        once, twice = f"{at}.branch7x7", f"{at}.branch7x7dbl"
        four = ((f"{twice}_1", n, one), (f"{twice}_2", n, tall), (f"{twice}_3", n, wide), (f"{twice}_4", n, tall))
        x = joined((
            chain(x, (f"{at}.branch1x1", 192, one)),
            chain(x, (f"{once}_1", n, one), (f"{once}_2", n, wide), (f"{once}_3", 192, tall)),
            chain(x, *four, (f"{twice}_5", 192, wide)),
            chain(mean(x), (f"{at}.branch_pool", 192, one)),
        ))  # fmt: skip

    at, long = "Mixed_7a", "Mixed_7a.branch7x7x3"
    cross = ((f"{long}_1", 192, one), (f"{long}_2", 192, wide), (f"{long}_3", 192, tall))
    x = joined((
        chain(x, (f"{at}.branch3x3_1", 192, one), (f"{at}.branch3x3_2", 320, three, 2, False)),
        chain(x, *cross, (f"{long}_4", 192, three, 2, False)),
        halved(x),
    ))  # fmt: skip

    for at, pool in (("Mixed_7b", mean), ("Mixed_7c", highest)):
        split = chain(x, (f"{at}.branch3x3_1", 384, one))
        deeper = chain(x, (f"{at}.branch3x3dbl_1", 448, one), (f"{at}.branch3x3dbl_2", 384, three))
        x = joined((
            chain(x, (f"{at}.branch1x1", 320, one)),
            chain(split, (f"{at}.branch3x3_2a", 384, flat)),
            chain(split, (f"{at}.branch3x3_2b", 384, low)),
            chain(deeper, (f"{at}.branch3x3dbl_3a", 384, flat)),
            chain(deeper, (f"{at}.branch3x3dbl_3b", 384, low)),
            chain(pool(x), (f"{at}.branch_pool", 192, one)),
        ))  # fmt: skip
    return x


def _padding(kernel: tuple[int, int], same: bool) -> tuple[int, int]:
    return (kernel[0] // 2, kernel[1] // 2) if same else (0, 0)
