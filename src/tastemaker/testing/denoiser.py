"""The suite of denoisers: each test states one promise of `tastemaker.generate.denoiser.Denoiser`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor
from torch.testing import assert_close

from tastemaker.errors import InvalidArgument
from tastemaker.generate.denoiser import END, Denoiser, join, pairs


class DenoiserContract(ABC):
    """The behaviour every denoiser owes samplers and inversions."""

    @abstractmethod
    def make(self) -> Denoiser:
        """A small model; called once a test, so keep it."""

    def latents(self, rows: int = 2, seed: int = 0) -> Tensor:
        model = self.make()
        width, height = model.size
        shape = (rows, model.channels, height // model.factor, width // model.factor)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)

    def test_is_a_denoiser(self) -> None:
        assert isinstance(self.make(), Denoiser)

    # -- the schedule ------------------------------------------------------------------------------------------------

    def test_times_descend_and_noise_grows_with_them(self) -> None:
        schedule = self.make().schedule
        for steps in (2, 7, 20):
            times = schedule.timesteps(steps)
            assert len(times) == steps
            assert times == sorted(set(times), reverse=True)
            levels = [schedule.alpha(t) for t in [*times, END]]
            assert all(0 <= low < high <= 1 for low, high in pairwise(levels))

    def test_a_step_to_the_same_time_changes_nothing(self) -> None:
        schedule = self.make().schedule
        for t in schedule.timesteps(5)[1:]:
            a, b = schedule.step(t, t)
            assert abs(a - 1) < 1e-9
            assert abs(b) < 1e-9

    def test_a_step_is_clean_latents_and_noise_at_another_level(self) -> None:
        schedule = self.make().schedule
        x, raw = self.latents(seed=1).double(), self.latents(seed=2).double()
        for t, s in pairs(schedule.timesteps(5)):
            clean, noise = schedule.split(x, raw, t)
            a, b = schedule.step(t, s)
            assert_close(a * x + b * raw, schedule.noised(clean, noise, s), atol=1e-6, rtol=1e-6)

    def test_impossible_steps(self) -> None:
        schedule = self.make().schedule
        for steps in (0, -3, len(schedule.alpha_bar) + 1):
            _raises_invalid(lambda steps=steps: schedule.timesteps(steps))

    # -- prompts -----------------------------------------------------------------------------------------------------

    def test_a_prompt_reads_the_same_in_company(self) -> None:
        model = self.make()
        alone, together = model.condition(["a dog"]), model.condition(["a red apple", "a dog"])
        assert_close(together.tokens[1:], alone.tokens, atol=1e-5, rtol=1e-4)

    def test_different_prompts_differ(self) -> None:
        both = self.make().condition(["a dog", "an apple"])
        assert (both.tokens[0] - both.tokens[1]).abs().max() > 1e-3

    def test_long_prompts_are_read_to_the_end(self) -> None:
        model = self.make()
        short = model.condition(["a dog"]).tokens.shape[1]
        longer = ("a red apple on the dog " * times for times in range(1, 100))
        start = next(text for text in longer if model.condition([text]).tokens.shape[1] > short)
        first, second = model.condition([start + "a dog"]), model.condition([start + "a cat"])
        assert (first.tokens - second.tokens).abs().max() > 1e-3

    def test_endless_prompts_are_refused(self) -> None:
        _raises_invalid(lambda: self.make().condition(["a dog " * 100_000]))

    def test_conditions_scale_and_join(self) -> None:
        both = self.make().condition(["a dog", "an apple"])
        mixed = both[:1].scaled(2.0, both[1:], 0.5)
        assert_close(mixed.tokens, 2 * both.tokens[:1] - 0.5 * both.tokens[1:])
        assert_close(join([both[:1], both[1:]]).tokens, both.tokens)
        assert len(both.repeat(3)) == 6

    # -- pictures ----------------------------------------------------------------------------------------------------

    def test_latents_are_as_large_as_they_say(self) -> None:
        model = self.make()
        width, height = model.size
        latents = model.encode(torch.zeros(2, 3, height, width))
        assert latents.shape == self.latents().shape
        assert latents.dtype == torch.float32
        pictures = model.decode(latents)
        assert pictures.shape == (2, 3, height, width)
        assert pictures.abs().max() <= 1

    def test_encoding_draws_nothing_at_random(self) -> None:
        model = self.make()
        picture = torch.linspace(-1, 1, 3 * model.size[0] * model.size[1]).reshape(1, 3, *model.size[::-1])
        assert torch.equal(model.encode(picture), model.encode(picture))

    # -- predictions -------------------------------------------------------------------------------------------------

    def test_rows_do_not_meet(self) -> None:
        model = self.make()
        x, both = self.latents(), model.condition(["a dog", "an apple"])
        t = model.schedule.timesteps(5)[2]
        together = model.predict(x, t, both)
        assert together.shape == x.shape
        assert together.dtype == torch.float32
        assert_close(model.predict(x[1:], t, both[1:]), together[1:], atol=1e-4, rtol=1e-3)

    def test_each_row_may_have_its_time(self) -> None:
        model = self.make()
        x, both = self.latents(), model.condition(["a dog", "an apple"])
        early, late = model.schedule.timesteps(5)[1], model.schedule.timesteps(5)[3]
        apart = model.predict(x, torch.tensor([early, late], device=x.device), both)
        assert_close(apart[:1], model.predict(x[:1], early, both[:1]), atol=1e-4, rtol=1e-3)
        assert_close(apart[1:], model.predict(x[1:], late, both[1:]), atol=1e-4, rtol=1e-3)

    def test_the_prompt_matters(self) -> None:
        model = self.make()
        both = model.condition(["a dog", "an apple"])
        x = self.latents(1).repeat(2, 1, 1, 1)
        raw = model.predict(x, model.schedule.timesteps(5)[0], both)
        assert (raw[0] - raw[1]).abs().max() > 1e-5

    def test_identity_is_stable(self) -> None:
        assert self.make().identity == self.make().identity


def _raises_invalid(call: object) -> None:
    assert callable(call)
    try:
        call()
    except InvalidArgument:
        return
    raise AssertionError("expected InvalidArgument")
