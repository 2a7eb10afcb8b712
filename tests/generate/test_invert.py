"""Inversion: closed forms, round trips of every kind, the cache, and what the web-UI port gets wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.generate.denoiser import END, Schedule, StableDiffusion, pairs
from tastemaker.generate.invert import Cache, Inversion, Kind, Trajectory, climb, invert, retrace
from tests.generate import tiny

SD1 = Schedule.of(dict(tiny.scheduler().config))
SD2 = Schedule.of(dict(tiny.scheduler("v_prediction").config))
KINDS: tuple[Kind, ...] = ("ddim", "fixed-point", "bdia", "edict")


def constant(value: float) -> Callable[[Tensor, int], Tensor]:
    return lambda x, t: torch.full_like(x, value)


def there_and_back(predict: Callable[[Tensor, int], Tensor], schedule: Schedule, x: Tensor, steps: int, how: Inversion):
    times = schedule.timesteps(steps)
    found, second = climb(predict, schedule, x, times, how)
    trajectory = Trajectory(found, how, "", second)
    return trajectory, retrace(predict, schedule, trajectory, times)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [SD1, SD2], ids=["epsilon", "v"])
def test_a_prediction_that_ignores_x_is_undone(schedule: Schedule, kind: Kind) -> None:
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    _, back = there_and_back(constant(0.3), schedule, x, 20, Inversion(kind))
    assert_close(back, x, atol=2e-4 if kind == "edict" else 1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(2, 60), value=st.floats(-2, 2), seed=st.integers(0, 99))
def test_stored_latents_equal_the_closed_form(steps: int, value: float, seed: int) -> None:
    """With constant noise, x_t / mu_t - x_0 / mu_0 = noise * (sigma_t / mu_t - sigma_0 / mu_0)."""
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    times = SD1.timesteps(steps)
    found, _ = climb(constant(value), SD1, x, times)
    assert sorted(found) == [END, *sorted(times)]
    start = SD1.alpha(END)
    for t in times:
        alpha = SD1.alpha(t)
        ratio = ((1 - alpha) / alpha) ** 0.5 - ((1 - start) / start) ** 0.5
        assert_close(found[t], alpha**0.5 * (x / start**0.5 + value * ratio), atol=1e-9, rtol=1e-9)


def test_the_identity_is_not_an_inversion() -> None:
    """The web-UI port takes the same time on both sides of its update, so every stored latent is the clean one."""
    x = torch.ones(1, 4, 2, 2)
    times = SD1.timesteps(10)

    def same_time_twice(x: Tensor, t: int) -> Tensor:
        a, b = SD1.step(t, t)
        return a * x + b * constant(0.5)(x, t)

    assert_close(same_time_twice(x, times[0]), x)
    found, _ = climb(constant(0.5), SD1, x, times)
    assert (found[times[0]] - found[times[-1]]).abs().min() > 0.1
    assert (found[times[-1]] - x).abs().min() > 1e-3


@pytest.mark.parametrize("schedule", [SD1, SD2], ids=["epsilon", "v"])
@pytest.mark.parametrize("kind", ["bdia", "edict"])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_exact_kinds_undo_any_prediction(schedule: Schedule, kind: Kind, steps: int) -> None:
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, back = there_and_back(lambda x, t: torch.sin(2 * x) + t / 1000, schedule, x, steps, Inversion(kind))
    assert_close(back, x, atol=1e-6, rtol=0)


def test_the_fixed_point_comes_nearer_than_the_first_guess() -> None:
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [
        float((there_and_back(lambda x, t: torch.sin(x), SD1, x, 20, how)[1] - x).abs().max())
        for how in (Inversion("ddim"), Inversion("fixed-point", iterations=3), Inversion("fixed-point", iterations=20))
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request: pytest.FixtureRequest, models: Callable[[str], StableDiffusion]) -> StableDiffusion:
    return models(request.param)


@pytest.mark.parametrize("kind", ["bdia", "edict"])
def test_round_trip_of_a_real_network(model: StableDiffusion, kind: Kind) -> None:
    """Random weights are as rough as a prediction can be; the exact kinds do not mind."""
    both = model.condition(["a red apple", "blue"])
    latents = model.encode(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    found = invert(model, latents, both, steps=6, inversion=Inversion(kind), round_trip=True)
    assert found.times == model.schedule.timesteps(6)
    assert found.round_trip is not None
    assert found.round_trip < 1e-3
    assert all(torch.isfinite(latent).all() for latent in found.latents.values())


def test_the_fixed_point_brings_a_real_network_back(models: Callable[[str], StableDiffusion]) -> None:
    model = models("sd2")
    condition = model.condition(["a red apple"])
    latents = model.encode(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    first, better = (
        invert(model, latents, condition, steps=20, inversion=Inversion(kind), round_trip=True).round_trip
        for kind in ("ddim", "fixed-point")
    )
    assert first is not None
    assert better is not None
    assert better < first / 5


def test_pictures_are_inverted_alike_in_a_batch_and_alone(model: StableDiffusion) -> None:
    both = model.condition(["a red apple", "blue"])
    latents = model.encode(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    together = invert(model, latents, both, steps=5)
    alone = invert(model, latents[1:], both[1:], steps=5)
    for t in together.latents:
        assert_close(together.latents[t][1:], alone.latents[t], atol=1e-4, rtol=1e-4)


def test_the_condition_is_linear_in_alpha_and_beta(model: StableDiffusion) -> None:
    both = model.condition(["a red apple", "blue"])
    mixed = both[:1].scaled(2.5, both[1:], 0.5)
    assert_close(mixed.tokens, 2.5 * both.tokens[:1] - 0.5 * both.tokens[1:])
    assert_close(both[:1].scaled(1.0, both[1:], 0.0).tokens, both.tokens[:1])
    if mixed.pooled is not None:
        assert_close(mixed.pooled, both.pooled[:1])


def test_plain_inversion_equals_diffusers_inverse_scheduler(models: Callable[[str], StableDiffusion]) -> None:
    """diffusers' DDIMInverseScheduler writes the same update for epsilon."""
    model = models("sd1")
    condition = model.condition(["a dog"])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    found = invert(model, x, condition, steps=10)
    for t, s in reversed(pairs(model.schedule.timesteps(10))):
        noise = model.predict(x, t, condition)
        alpha, below = model.schedule.alpha(t), model.schedule.alpha(s)
        x = alpha**0.5 * (x - (1 - below) ** 0.5 * noise) / below**0.5 + (1 - alpha) ** 0.5 * noise
        assert_close(found.latents[t], x, atol=1e-5, rtol=1e-4)


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_the_cache_returns_what_was_made_of_the_same(models: Callable[[str], StableDiffusion], tmp_path: Path) -> None:
    model, cache = models("sd1"), Cache(tmp_path)
    latents, condition = torch.randn(1, 4, 8, 8), model.condition(["a dog"])
    first = invert(model, latents, condition, steps=4, cache=cache)
    assert invert(model, latents, condition, steps=4, cache=cache) is first
    others = [
        invert(model, latents + 1e-3, condition, steps=4),
        invert(model, latents, condition.scaled(1.1, condition, 0), steps=4),
        invert(model, latents, condition, steps=5),
        invert(model, latents, condition, steps=4, inversion=Inversion("fixed-point")),
        invert(models("sd1-style"), latents, condition, steps=4),
    ]
    assert len({first.key, *(other.key for other in others)}) == 6
    again = invert(model, latents, condition, steps=4, cache=Cache(tmp_path))
    assert again is not first
    for t, latent in first.latents.items():
        assert torch.equal(latent, again.latents[t])


@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_everything(models: Callable[[str], StableDiffusion], tmp_path: Path, kind: Kind) -> None:
    model, how = models("sd1"), Inversion(kind, iterations=2, gamma=0.9)
    latents, condition = torch.randn(1, 4, 8, 8), model.condition(["a dog"])
    first = invert(model, latents, condition, steps=4, inversion=how, round_trip=True, cache=Cache(tmp_path))
    again = invert(model, latents, condition, steps=4, inversion=how, round_trip=True, cache=Cache(tmp_path))
    assert (again.inversion, again.round_trip, again.times) == (how, first.round_trip, first.times)
    assert again.second.keys() == first.second.keys()


def test_memory_is_bounded(models: Callable[[str], StableDiffusion]) -> None:
    model = models("sd1")
    condition = model.condition(["a dog"])
    cache = Cache(limit=3 * 5 * 4 * 64 * 4)
    for seed in range(6):
        invert(model, torch.full((1, 4, 8, 8), float(seed)), condition, steps=4, cache=cache)
    assert len(cache._held) == 3
    small = Cache(limit=10)
    invert(model, torch.zeros(1, 4, 8, 8), condition, steps=4, cache=small)
    assert not small._held


def test_a_damaged_file_is_named(models: Callable[[str], StableDiffusion], tmp_path: Path) -> None:
    model = models("sd1")
    latents, condition = torch.zeros(1, 4, 8, 8), model.condition(["a dog"])
    found = invert(model, latents, condition, steps=4, cache=Cache(tmp_path))
    file = tmp_path / f"{found.key}.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="delete the file"):
        invert(model, latents, condition, steps=4, cache=Cache(tmp_path))


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input(models: Callable[[str], StableDiffusion]) -> None:
    model = models("sd1")
    with pytest.raises(UnknownName, match="did you mean 'ddim'"):
        Inversion("ddmi")  # type: ignore[arg-type]
    for bad in ({"iterations": 0}, {"gamma": 0.0}, {"gamma": 1.1}, {"mix": 0.5}):
        with pytest.raises(InvalidArgument, match="expected iterations"):
            Inversion("ddim", **bad)
    with pytest.raises(InvalidArgument, match="3 pictures and 2 conditions"):
        invert(model, torch.zeros(3, 4, 8, 8), model.condition(["a", "b"]), steps=4)
    with pytest.raises(InvalidArgument, match="take 2 or more"):
        climb(constant(0), SD2, torch.zeros(1, 4, 2, 2), SD2.timesteps(1))
    for steps in (0, -1, 1001):
        with pytest.raises(InvalidArgument, match="steps"):
            invert(model, torch.zeros(1, 4, 8, 8), model.condition(["a"]), steps=steps)
