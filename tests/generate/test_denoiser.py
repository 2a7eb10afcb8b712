"""The adapters against their contract and against diffusers' own pipelines; drawing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from torch.testing import assert_close

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import END, Schedule, StableDiffusion, pairs
from tastemaker.generate.draw import draw, noise, to_images
from tastemaker.testing.denoiser import DenoiserContract
from tests.generate import tiny

Models = Callable[[str], StableDiffusion]


class Tiny(DenoiserContract):
    model: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _load(self, models: Models) -> None:
        self.loaded = models(self.model)

    def make(self) -> StableDiffusion:
        return self.loaded


class TestSD1(Tiny):
    model = "sd1"


class TestSD2(Tiny):
    model = "sd2"


class TestSDXL(Tiny):
    model = "sdxl"


def pipeline(name: str, folder: Path) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    built = kind.from_pretrained(tiny.save(name, folder), local_files_only=True)
    built.set_progress_bar_config(disable=True)
    return built


def apart(ours: list[Image.Image], theirs: list[Image.Image]) -> int:
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (5.0, "blue"), (7.5, "")])
def test_draws_what_diffusers_draws(models: Models, folder: Path, name: str, guidance: float, negative: str) -> None:
    prompts, seeds = ["a red apple", "the dog on a cat"], [3, 4]
    ours = draw(models(name), prompts, negative=negative, seeds=seeds, steps=4, guidance=guidance)
    theirs = pipeline(name, folder)(
        prompts,
        negative_prompt=[negative] * 2 if negative else None,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=4,
        guidance_scale=guidance,
    ).images
    assert apart(ours, theirs) <= 1


def test_a_picture_does_not_depend_on_its_batch(models: Models) -> None:
    model = models("sd1")
    together = draw(model, ["a dog", "a red apple", "the cat"], seeds=[1, 2, 3], steps=3)
    assert apart([together[1]], draw(model, ["a red apple"], seeds=[2], steps=3)) <= 1
    assert apart(draw(model, ["a dog"], seeds=[1], steps=3), draw(model, ["a dog"], seeds=[1], steps=3)) == 0


def test_a_default_dtype_set_beside_changes_nothing(models: Models) -> None:
    """The libraries below set it for the whole process while another thread loads a model in half precision."""
    model, prompts = models("sd2"), ["a (red:1.3) apple"]
    expected = draw(model, prompts, seeds=[3], steps=3)[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = draw(model, prompts, seeds=[3], steps=3)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_long_prompts_do_not_change_their_neighbours(models: Models) -> None:
    model = models("sd1")
    together = draw(model, ["a dog", "a red apple on the dog " * 5], seeds=[1, 2], steps=3)
    assert apart([together[0]], draw(model, ["a dog"], seeds=[1], steps=3)) <= 1


def test_sizes_and_progress(models: Models) -> None:
    told: list[tuple[int, int]] = []
    drawn = draw(models("sd1"), ["a dog"], seeds=[0], steps=3, width=48, height=20, on_step=lambda *at: told.append(at))
    assert drawn[0].size == (48, 20)
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.7])
def test_weighted_words(models: Models, weight: float) -> None:
    """Tokens move away from the empty prompt's in proportion; the others stay."""
    model = models("sd1")
    plain, empty, weighted = model.condition(["a red apple", "", f"a (red:{weight}) apple"]).tokens
    assert_close(weighted[2], empty[2] + weight * (plain[2] - empty[2]), atol=1e-5, rtol=1e-4)
    assert_close(weighted[[0, 1, 3, 4]], plain[[0, 1, 3, 4]], atol=1e-5, rtol=1e-4)


def test_no_number_is_assumed(models: Models) -> None:
    model = models("sd1")
    assert (model.factor, model.scale, model.channels, model.size, model.multiple) == (4, 0.7, 4, (32, 32), 32)
    assert model.condition(["a"]).tokens.shape == (1, tiny.CONTEXT, 16)


def test_times_and_levels_are_diffusers() -> None:
    for prediction, steps in [("epsilon", 50), ("epsilon", 30), ("v_prediction", 25)]:
        theirs = tiny.scheduler(prediction)
        theirs.set_timesteps(steps)
        ours = Schedule.of(dict(theirs.config))
        assert ours.timesteps(steps) == theirs.timesteps.tolist()
        x, raw = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
        for t, s in pairs(ours.timesteps(steps)):
            a, b = ours.step(t, s)
            assert_close(a * x + b * raw, theirs.step(raw, t, x).prev_sample, atol=2e-4, rtol=1e-3)
    assert Schedule.of(dict(tiny.scheduler().config)).timesteps(50)[:2] == [981, 961]
    assert Schedule.of(dict(tiny.scheduler().config)).alpha(END) < 1
    last = Schedule.of(dict(tiny.scheduler("v_prediction").config))
    assert last.alpha(last.timesteps(25)[0]) == 0


def test_schedules_that_cannot_work() -> None:
    sample = DDIMScheduler(prediction_type="sample")
    with pytest.raises(InvalidArgument, match="predicts 'sample'"):
        Schedule.of(dict(sample.config))
    with pytest.raises(InvalidArgument, match="pure noise"):
        Schedule.of(dict(DDIMScheduler(rescale_betas_zero_snr=True).config))


def test_bad_input(models: Models) -> None:
    model = models("sd1")
    for prompts in ([], "a dog", [""], ["  \n"]):
        with pytest.raises(InvalidArgument, match="prompt"):
            draw(model, prompts, seeds=[0] * len(prompts))
    with pytest.raises(InvalidArgument, match="1 prompts and 2 seeds"):
        draw(model, ["a dog"], seeds=[1, 2])
    for width in (0, 30, -4, 30_000):
        with pytest.raises(InvalidArgument, match="multiples of 4 up to 4096"):
            draw(model, ["a dog"], seeds=[1], width=width)
    for guidance in (-1.0, float("nan")):
        with pytest.raises(InvalidArgument, match="guidance"):
            draw(model, ["a dog"], seeds=[1], guidance=guidance)
    with pytest.raises(InvalidArgument, match="seed -1"):
        noise(model, -1, (32, 32))


def test_pictures_are_rounded_to_8_bits() -> None:
    grey = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert np.asarray(to_images(grey)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]
