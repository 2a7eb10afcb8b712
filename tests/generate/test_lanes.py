"""Networks side by side: the same results in the same order, and the cores as they were found."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from tastemaker.generate import lanes as module
from tastemaker.generate.cocktail import Settings, cocktail
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.invert import Cache
from tastemaker.generate.lanes import MOST, Count, abreast, lanes
from tastemaker.generate.variations import transfer_matrix
from tests.generate.tiny import photo

Models = Callable[[str], StableDiffusion]
FEW = Settings(steps=5)


@pytest.fixture(params=[1, 2, 5])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_cores_are_shared_out(models: Models, cores: int) -> None:
    both = [models("sd1"), models("sd1-style")]
    wide = min(2, cores)
    together = threading.Barrier(wide)

    def job(number: int) -> tuple[int, int]:
        together.wait(timeout=10)  # fails unless so many are at work at once
        return number, torch.get_num_threads()

    with lanes(both) as run:
        for _ in range(3):
            assert run([partial(job, number) for number in range(2)]) == [(0, cores // wide), (1, cores // wide)]
    assert torch.get_num_threads() == cores
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [cores]  # also for threads that begin afterwards


def test_one_network_twice_goes_one_after_the_other(models: Models, cores: int) -> None:
    """Its layers can be hooked once at a time."""
    alone = cocktail(photo(), content=models("sd1"), style=models("sd1-style"), prompt="a dog", settings=FEW)
    twice = cocktail(photo(), content=models("sd1"), style=[models("sd1-style")] * 2, prompt="a dog", settings=FEW)
    assert [row[0].tobytes() for row in twice.pictures] == [alone.picture.tobytes()] * 2


def test_how_many_are_worth_it(models: Models, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = models("sd1"), models("sd1-style")
    few = min(2, cores)
    assert abreast([model, other]) == few
    assert abreast([model, model]) == 1
    assert abreast([model, model], hooks=False) == few
    assert abreast([model] * 9, hooks=False) == min(MOST, cores)
    monkeypatch.setattr(module, "SMALL", other.unet.num_parameters() - 1)
    assert abreast([model, other]) == 1


def test_an_error_ends_the_run_and_leaves_no_hook(models: Models, cores: int) -> None:
    both = [models("sd1"), models("sd1-style")]
    processors = [dict(model.unet.attn_processors) for model in both]

    def stopped(what: str, done: int, of: int) -> None:
        if what == "drawing" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cocktail(photo(), content=both[0], style=both, prompt="a dog", settings=FEW, on_step=stopped)
    assert [dict(model.unet.attn_processors) for model in both] == processors
    assert torch.get_num_threads() == cores
    assert cocktail(photo(), content=both[0], style=both, prompt="a dog", settings=FEW).pictures


def test_steps_of_all_styles_are_counted_together(models: Models, cores: int) -> None:
    told: list[tuple[str, int, int]] = []
    both = [models("sd1"), models("sd1-style")]
    transfer_matrix(both, prompt="a dog", settings=FEW, on_step=lambda *step: told.append(step))
    assert told == [(what, done, 10) for what in ("inverting", "drawing") for done in range(1, 11)]


def test_count_without_a_listener() -> None:
    count = Count(None, 3)
    count("what", 1)
    assert count.done == 1


def test_a_cache_serves_many_threads() -> None:
    cache, found, interval = Cache(limit=5000), [], sys.getswitchinterval()

    def use(start: int) -> None:
        try:
            for number in range(100):
                cache.put(f"{start} {number}", number, 10)
                cache.get(str(number))
        except Exception as error:
            found.append(error)

    sys.setswitchinterval(1e-6)  # threads take turns in the middle of everything
    try:
        threads = [threading.Thread(target=use, args=(start,)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == []
    assert sum(cache.get(f"{start} {number}") is not None for start in range(8) for number in range(100)) == 500
