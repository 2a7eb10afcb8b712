"""Weights mixed, and which models have weights that can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.load import load
from tastemaker.generate.mix_weights import mix_weights
from tests.generate import tiny

Models = Callable[[str], StableDiffusion]


def test_models_with_other_latents_are_refused(folder: Path, tmp_path: Path) -> None:
    first = load(tiny.save("sd1", folder), device="cpu")
    other = Path(shutil.copytree(tiny.save("sd1", folder), tmp_path / "other"))
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    with pytest.raises(InvalidArgument, match=r"other has latents of 4 channels, .*scale 0\.5, .*sd1 of 4 channels"):
        mix_weights([first, load(other, device="cpu")], [0.5, 0.5])


def test_weights_mixed(models: Models) -> None:
    first, second = models("sd1"), models("sd1-style")
    for gamma, same in ((0.0, first), (1.0, second)):
        ends = mix_weights([first, second], [1 - gamma, gamma])
        states = zip(ends.unet.state_dict().values(), same.unet.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
    half = mix_weights([first, second], [0.5, 0.5])
    key = "conv_in.weight"
    mean = (first.unet.state_dict()[key] + second.unet.state_dict()[key]) / 2
    assert torch.allclose(half.unet.state_dict()[key], mean)
    assert half.vae is first.vae
    assert half.identity not in (first.identity, second.identity)
    kept = mix_weights([first, second], [0.5, 0.5], text=False)
    assert kept.encoders == first.encoders
    for models_, shares in (([first], [0.5]), ([], []), ([first, second], [1.0])):
        with pytest.raises(InvalidArgument, match="summing to 1"):
            mix_weights(models_, shares)
    for other in ("sd2", "sdxl", "shallow"):
        with pytest.raises(InvalidArgument, match="different"):
            mix_weights([first, models(other)], [0.5, 0.5])
