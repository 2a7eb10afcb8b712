"""Mix checkpoints: one model whose weights lie between those of several.

Diffusion Cocktail (arXiv 2312.08873) shows it for two: (1 - gamma) A + gamma B. Here k models of one architecture take
any shares that sum to 1; shares outside 0 to 1 move beyond a model. LoRAs come on top with `load.wear`, their scale
being their share. The VAE is the first model's and never averaged: the mean of two decoders decodes neither's latents.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import StableDiffusion


def mix_weights(models: Sequence[StableDiffusion], shares: Sequence[float], *, text: bool = True) -> StableDiffusion:
    """A new model; those given stay as they are.

    Args:
        shares: one a model, summing to 1: (1 - gamma, gamma) for two.
        text: mix text encoders too; else the first model's reads the prompt.

    Raises:
        InvalidArgument: shares that do not sum to 1, different architectures, schedules or latents, or a LoRA
            that is on.
    """
    if not models or len(models) != len(shares) or abs(sum(shares) - 1) > 1e-6:
        raise InvalidArgument(
            f"{len(models)} models and shares {list(shares)}; expected one share a model, summing to 1"
        )
    first = models[0]
    for model in models:
        if model.lora:
            raise InvalidArgument(f"{model.name} wears a LoRA; mix the bare models and put it on the mixture")
        if type(model) is not type(first) or model.schedule != first.schedule:
            raise InvalidArgument(f"{model.name} and {first.name} have different architectures or noise schedules")
        if _latents(model) != _latents(first):
            raise InvalidArgument(
                f"{model.name} has latents of {_latents(model)}, {first.name} of {_latents(first)}; expected the same: "
                "mix models tuned from one another"
            )
    unet = _mixed([model.unet for model in models], shares, [model.name for model in models])
    encoders = first.encoders
    if text:
        layers = [
            _mixed([model.encoders[at][1] for model in models], shares, [model.name for model in models])
            for at in range(len(encoders))
        ]
        encoders = tuple((tokenizer, layer) for (tokenizer, _), layer in zip(encoders, layers, strict=True))
    name = " + ".join(f"{share:g} {model.name}" for model, share in zip(models, shares, strict=True))
    return dataclasses.replace(first, name=name, unet=unet, encoders=encoders)


def _latents(model: StableDiffusion) -> str:
    return f"{model.channels} channels, 1/{model.factor} of the pixels a side, scale {model.scale:g}"


def _mixed(modules: Sequence[nn.Module], shares: Sequence[float], names: Sequence[str]) -> nn.Module:
    states = [module.state_dict() for module in modules]
    for name, state in zip(names, states, strict=True):
        if {key: value.shape for key, value in state.items()} != {key: v.shape for key, v in states[0].items()}:
            raise InvalidArgument(f"{name} and {names[0]} have different layers; only one architecture can be mixed")
    mixture = copy.deepcopy(modules[0])
    with torch.no_grad():
        for key, value in mixture.state_dict().items():
            if value.is_floating_point():  # position ids are not
                total = sum(share * state[key].float() for share, state in zip(shares, states, strict=True))
                value.copy_(total)
    return mixture
