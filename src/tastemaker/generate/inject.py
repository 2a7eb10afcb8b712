"""Read features of a UNet while it draws, and put them into another run of it.

What Plug-and-Play (Tumanyan et al., CVPR 2023) and Diffusion Cocktail (arXiv 2312.08873) inject in the decoder:
- self-attention *queries and keys*, never values, of the injected transformer blocks;
- the residual branch of one convolution block: what conv2 puts out, before the skip is added.

For SD 1.x these are the eight layers up_blocks[1].attentions[1, 2], up_blocks[2] and up_blocks[3] (all three), and
up_blocks[1].resnets[1]. The same map by structure serves other networks: with u the first decoder block that has
attention, the convolution is up_blocks[u].resnets[1], the attention is that of up_blocks[u].attentions[1:] and of all
later decoder blocks. For SDXL u is 0; shallower networks have fewer of these layers.

Three context managers, all on diffusers' attention processors and torch's forward hooks, all gone on exit:
`copying` overwrites streams of one batch by its first (the plain way), `capturing` collects features, `injecting` uses
collected ones and without a mask computes no queries and keys of its own. One softmax could serve all streams that
share them, but no fused kernel takes values wider than keys: at 4096 tokens it took twice the time on a CPU.

Easy to get wrong:
- A layer is on during the first int(ratio * steps) steps: 12 of 25 at 0.5.
- A mask is resized to the true grid of each layer, taken from the feature map around it, never from the token count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.nn import functional as F

from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.generate.denoiser import Condition, Denoiser

Half = Literal["left", "right", "top", "bottom"]
Mask = Tensor | Half | None  # (h, w) in [0, 1] of any size, half of the picture, or everywhere
Feature = tuple[Tensor, ...]  # (queries, keys) of shape (R, tokens, channels), or (residual,) of (R, C, h, w)
Features = Mapping[str, Feature]
Reader = Callable[[str, Feature, tuple[int, int]], Feature]
HALVES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Injection:
    """What is injected, where, until when.

    Attributes:
        attention, convolution: share of the steps, from the start, in which queries and keys, and residuals, are on.
        layers: shares by layer name instead, for control layer by layer; names as in `layer_map`.
        mask: where reference features go, 1 = all reference; in between the two are mixed.
    """

    attention: float = 0.5
    convolution: float = 0.8
    layers: Mapping[str, float] | None = None
    mask: Mask = field(default=None, compare=False)

    def __post_init__(self) -> None:
        shares = {"attention": self.attention, "convolution": self.convolution, **(self.layers or {})}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InvalidArgument(f"{name} = {share}; expected a share of the steps, from 0 to 1")
        if isinstance(self.mask, str) and self.mask not in HALVES:
            raise UnknownName("half", self.mask, HALVES)
        if isinstance(self.mask, Tensor) and (
            self.mask.ndim != 2 or not bool(((self.mask >= 0) & (self.mask <= 1)).all())
        ):
            raise InvalidArgument(f"a mask of shape {tuple(self.mask.shape)}; expected (height, width), values 0 to 1")

    def until(self, unet: UNet2DConditionModel, steps: int) -> dict[str, int]:
        """The number of steps each layer is on, in the order in which the network runs through them."""
        attention, convolution = layer_map(unet)
        shares = self.layers
        if shares is None:
            shares = dict.fromkeys(attention, self.attention) | dict.fromkeys(convolution, self.convolution)
        for name in self.layers or ():
            if not _is_layer(unet, name):
                raise UnknownName("layer", name, [*attention, *convolution])
        return {name: int(shares[name] * steps) for name in sorted(shares, key=_place)}


def layer_map(unet: UNet2DConditionModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the self-attention and the residual blocks that are injected by default.

    Raises InvalidArgument for a network without attention in its decoder.
    """
    attention: list[str] = []
    convolution: tuple[str, ...] = ()
    for at, block in enumerate(unet.up_blocks):
        transformers = getattr(block, "attentions", None)
        if transformers is None:
            continue
        first = 0 if attention else 1
        if not attention:
            convolution = (f"up_blocks.{at}.resnets.1",)
        for number, transformer in enumerate(transformers):
            inner = range(len(transformer.transformer_blocks)) if number >= first else ()
            attention += [f"up_blocks.{at}.attentions.{number}.transformer_blocks.{k}.attn1" for k in inner]
    if not attention:
        raise InvalidArgument("this UNet has no attention in its decoder, so there is nothing to inject")
    return tuple(attention), convolution


@contextlib.contextmanager
def copying(unet: UNet2DConditionModel, layers: Sequence[str], streams: int, mask: Mask = None) -> Iterator[None]:
    """Within one batch of `streams` equal parts, the first part's features overwrite those of the others.

    Attention is written out with its whole matrix, for every stream: this is the plain way, to compare with.
    """

    def spread(name: str, own: Feature, grid: tuple[int, int]) -> Feature:
        mixed = []
        for tensor in own:
            first, others = tensor[: len(tensor) // streams], tensor[len(tensor) // streams :]
            mixed.append(
                torch.cat([first, _mix(first.repeat(streams - 1, *[1] * (tensor.ndim - 1)), others, mask, grid)])
            )
        return tuple(mixed)

    with _hooked(unet, layers, spread, _written_out):
        yield


@contextlib.contextmanager
def capturing(unet: UNet2DConditionModel, layers: Sequence[str], *, stop: bool = False) -> Iterator[dict[str, Feature]]:
    """Features of `layers` of the next run, in a dictionary that fills as the network runs.

    Args:
        stop: leave the network (and the block) as soon as the last layer is read; what it would predict is lost.
    """
    found: dict[str, Feature] = {}

    def keep(name: str, own: Feature, grid: tuple[int, int]) -> Feature:
        found[name] = own
        if stop and len(found) == len(layers):
            raise _Enough
        return own

    with contextlib.suppress(_Enough), _hooked(unet, layers, keep, _fused):
        yield found


class _Enough(Exception):
    """All that is wanted of this run has been seen."""


@contextlib.contextmanager
def injecting(unet: UNet2DConditionModel, features: Features, mask: Mask = None) -> Iterator[None]:
    """Features of R rows replace those of a batch of any multiple of R rows: row j takes those of row j modulo R."""

    def replace(name: str, own: Feature, grid: tuple[int, int]) -> Feature:
        return tuple(
            _mix(given.repeat(len(tensor) // len(given), *[1] * (tensor.ndim - 1)), tensor, mask, grid)
            for given, tensor in zip(features[name], own, strict=True)
        )

    with _hooked(unet, list(features), replace, _fused, shared=features if mask is None else None):
        yield


def read(model: Denoiser, latents: Tensor, t: int | Tensor, condition: Condition, layers: Sequence[str]) -> Features:
    """Features of `layers`, without running the network further than the last of them."""
    with capturing(model.unet, layers, stop=True) as found:
        model.predict(latents, t, condition)
    return found


def mask_on(mask: Tensor | Half, height: int, width: int) -> Tensor:
    """The mask on a grid, (height, width): halves split at floor(side / 2), others averaged over each cell."""
    if isinstance(mask, Tensor):
        pooled: Tensor = F.adaptive_avg_pool2d(mask[None].float(), (height, width))[0]
        return pooled
    grid = torch.zeros(height, width)
    match mask:
        case "left":
            grid[:, : width // 2] = 1
        case "right":
            grid[:, width // 2 :] = 1
        case "top":
            grid[: height // 2] = 1
        case "bottom":
            grid[height // 2 :] = 1
    return grid


def _mix(reference: Tensor, own: Tensor, mask: Mask, grid: tuple[int, int]) -> Tensor:
    if mask is None:
        return reference
    weight = mask_on(mask, *grid).to(own.device, own.dtype)
    weight = weight if own.ndim == 4 else weight.reshape(1, -1, 1)
    return weight * reference + (1 - weight) * own


def _is_layer(unet: UNet2DConditionModel, name: str) -> bool:
    """Whether this is a decoder's self-attention or residual block."""
    try:
        module = unet.get_submodule(name)
    except AttributeError:
        return False
    return name.startswith("up_blocks.") and (name.endswith(".attn1") or isinstance(module, ResnetBlock2D))


def _place(name: str) -> tuple[int, ...]:
    """Where a decoder layer comes in a run: block, number, residual before attention, inner number."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if part.isdigit()]
    return numbers[0], numbers[1], int("attn1" in parts), *numbers[2:]


def _written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ value


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = F.scaled_dot_product_attention(query, key, value)
    return out


class _Attend:
    """An attention processor: diffusers calls it instead of its own."""

    def __init__(self, name: str, change: Reader, attend: Callable[..., Tensor], shared: Feature | None) -> None:
        self.name, self.change, self.attend, self.shared = name, change, attend, shared
        self.grid = (0, 0)

    def see(self, _module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        around = arguments[0] if arguments else named["hidden_states"]
        self.grid = (int(around.shape[-2]), int(around.shape[-1]))

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        value = attn.to_v(hidden_states)
        if self.shared is None:
            query, key = self.change(self.name, (attn.to_q(hidden_states), attn.to_k(hidden_states)), self.grid)
        else:
            query, key = (part.repeat(len(value) // len(part), 1, 1) for part in self.shared)
        out = self.attend(*(_heads(tensor, attn.heads) for tensor in (query, key, value)))
        joined = out.transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[1](attn.to_out[0](joined)) / attn.rescale_output_factor
        return projected


def _heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, tokens, channels) to (B, heads, tokens, channels / heads)."""
    rows, tokens, channels = tensor.shape
    return tensor.reshape(rows, tokens, heads, channels // heads).transpose(1, 2)


@contextlib.contextmanager
def _hooked(
    unet: UNet2DConditionModel,
    layers: Sequence[str],
    change: Reader,
    attend: Callable[..., Tensor],
    shared: Features | None = None,
) -> Iterator[None]:
    processors: list[tuple[Attention, Any]] = []
    handles: list[Any] = []
    try:
        for name in layers:
            module = unet.get_submodule(name)
            if isinstance(module, Attention):
                processor = _Attend(name, change, attend, None if shared is None else shared[name])
                around = unet.get_submodule(name.partition(".transformer_blocks.")[0])
                handles.append(around.register_forward_pre_hook(processor.see, with_kwargs=True))
                processors.append((module, module.processor))
                module.set_processor(processor)
            else:
                handles.append(module.conv2.register_forward_hook(partial(_residual, name, change)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, processor in processors:
            module.set_processor(processor)


def _residual(name: str, change: Reader, _module: Any, _inputs: Any, output: Tensor) -> Tensor:
    return change(name, (output,), (int(output.shape[-2]), int(output.shape[-1])))[0]
