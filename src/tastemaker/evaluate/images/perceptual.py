"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): how different two pictures look to a classifier's inner layers.

    d = sum over layers of mean over places of sum over channels of w (a / |a| - b / |b|)^2

a and b are the layer's activations, scaled to length one over channels at each place, and w weights of channels that
were learned from people's judgements. `Squeeze` is PIE-Bench's backbone, from a local file; any other can be given.

Facts that are easy to get wrong:
- The backbone sees colours in -1..1, shifted and scaled by constants close to, but not the same as, ImageNet's.
- Without the learned weights (w = 1 / channels here) the figure is not LPIPS; `name` says so.
- Figures of two backbones cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, InvalidArgument, MissingExtra
from tastemaker.evaluate.images.folder import read_tensors
from tastemaker.evaluate.images.measured import Measured, require_pairs
from tastemaker.evaluate.images.picture import Picture, Pixels, rgb
from tastemaker.evaluate.images.pixels import Masks, blanked, region_of, same_size

Floats = NDArray[np.floating]


class Backbone(Protocol):
    """Inner layers of a network, with a weight a channel."""

    @property
    def name(self) -> str: ...

    def layers(self, pixels: Pixels) -> list[Floats]:
        """Activations of one picture, each (channels, height, width)."""
        ...

    def weights(self) -> list[Floats]:
        """Non-negative weights of each layer's channels, each (channels,)."""
        ...


def lpips(
    sources: Sequence[Picture], results: Sequence[Picture], backbone: Backbone, *, masks: Masks | None = None
) -> Measured:
    """Perceptual distance of each pair, 0 for equal pictures.

    Args:
        masks: the region to judge, (height, width) bool; the rest is black in both pictures, as in PIE-Bench. There is
            no other way: the layers see beyond any border. An empty region is NaN.
    """
    require_pairs(sources, results, ("sources", "results"))
    if masks is not None:
        require_pairs(masks, results, ("masks", "results"))
    weights = backbone.weights()
    values = []
    for place, (source, result) in enumerate(zip(sources, results, strict=True)):
        a, b = rgb(source), rgb(result)
        same_size(a, b, place)
        if masks is not None:
            region = region_of(masks[place], a, place)
            if not region.any():
                values.append(float("nan"))
                continue
            a, b = blanked(a, region), blanked(b, region)
        values.append(_distance(backbone.layers(a), backbone.layers(b), weights))
    return Measured(f"lpips by {backbone.name}", np.array(values))


def _distance(first: list[Floats], second: list[Floats], weights: list[Floats]) -> float:
    total = 0.0
    for a, b, weight in zip(first, second, weights, strict=True):
        if weight.shape != (len(a),):
            raise InvalidArgument(f"{weight.shape} weights for {len(a)} channels; expected one a channel")
        difference = (_unit(a) - _unit(b)) ** 2
        total += float(np.tensordot(weight.astype(np.float64), difference, 1).mean())
    return total


def _unit(x: Floats) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    return np.asarray(x / (np.sqrt((x * x).sum(0, keepdims=True)) + 1e-10))


_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: Fire modules of SqueezeNet 1.1: place -> channels in, squeezed, expanded twice.
_FIRES = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128), 9: (256, 48, 192)}
_FIRES |= {10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)}
_POOLS = (2, 5, 8)
_SHOWN = (1, 4, 7, 9, 10, 11, 12)  # places whose output LPIPS compares


@dataclass(frozen=True, eq=False)
class Squeeze:
    """SqueezeNet 1.1 (Iandola et al. 2016) up to its last fire module, 7 layers.

    Attributes:
        tensors: `features.N...` weights and biases under torchvision's names.
        channel: learned weights of each layer, or None for equal ones.
    """

    name: str
    tensors: dict[str, NDArray[np.float32]]
    channel: tuple[NDArray[np.float32], ...] | None

    @classmethod
    def load(cls, features: str | Path, weights: str | Path | None = None) -> Squeeze:
        """From safetensors files.

        Args:
            features: torchvision's squeezenet1_1 state, saved as safetensors (`features.0.weight`, ...).
            weights: LPIPS' own linear layers, `lin0.model.1.weight` to `lin6.model.1.weight`; without them every
                channel counts the same and the name says so.

        Raises DataError for another kind of file and for missing or wrongly shaped tensors.
        """
        tensors = _tensors(Path(features))
        for name, shape in _shapes().items():
            if name not in tensors or tensors[name].shape != shape:
                given = tensors[name].shape if name in tensors else "absent"
                raise DataError(f"'{name}' is {given}; expected {shape} of squeezenet1_1", file=features)
        if weights is None:
            return cls("SqueezeNet 1.1, channels unweighted (not LPIPS)", tensors, None)
        learned = _tensors(Path(weights))
        channel = []
        for place, size in enumerate(_sizes()):
            name = f"lin{place}.model.1.weight"
            if name not in learned or learned[name].size != size:
                raise DataError(f"'{name}' with {size} weights expected; found {sorted(learned)[:8]}", file=weights)
            channel.append(learned[name].reshape(size))
        return cls("SqueezeNet 1.1", tensors, tuple(channel))

    def weights(self) -> list[Floats]:
        return list(self.channel) if self.channel is not None else [np.full(n, 1 / n) for n in _sizes()]

    def layers(self, pixels: Pixels) -> list[Floats]:
        """Activations of one picture, at least 17 x 17 pixels."""
        try:
            import torch
            from torch.nn import functional as F
        except ImportError as error:
            raise MissingExtra("torch", "generate") from error
        if min(pixels.shape[:2]) < 17:
            raise InvalidArgument(f"a picture of {pixels.shape[1]} x {pixels.shape[0]}; SqueezeNet needs 17 x 17")
        tensor = {name: torch.from_numpy(value) for name, value in self.tensors.items()}

        def convolved(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
            weight, bias = tensor[f"features.{name}.weight"], tensor[f"features.{name}.bias"]
            return torch.relu(F.conv2d(x, weight, bias, stride, padding))

        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        shift, scale = (torch.tensor(part).view(1, 3, 1, 1) for part in (_SHIFT, _SCALE))
        shown: list[Floats] = []
        with torch.inference_mode():
            x = convolved((x - shift) / scale, "0", stride=2)
            for place in range(1, 13):
                if place in _POOLS:
                    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
                elif place in _FIRES:
                    x = convolved(x, f"{place}.squeeze")
                    wide = convolved(x, f"{place}.expand3x3", padding=1)
                    x = torch.cat([convolved(x, f"{place}.expand1x1"), wide], 1)
                if place in _SHOWN:
                    shown.append(x[0].numpy())
        return shown


def _sizes() -> list[int]:
    """Channels of the layers that are compared."""
    return [64 if place == 1 else 2 * _FIRES[place][2] for place in _SHOWN]


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"features.0.weight": (64, 3, 3, 3), "features.0.bias": (64,)}
    for place, (given, squeezed, wide) in _FIRES.items():
        for part, shape in {
            "squeeze": (squeezed, given, 1, 1),
            "expand1x1": (wide, squeezed, 1, 1),
            "expand3x3": (wide, squeezed, 3, 3),
        }.items():
            shapes[f"features.{place}.{part}.weight"] = shape
            shapes[f"features.{place}.{part}.bias"] = shape[:1]
    return shapes


def _tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    return {name: value.astype(np.float32) for name, value in read_tensors(path).items()}
