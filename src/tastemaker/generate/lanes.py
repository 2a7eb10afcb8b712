"""Small networks at work side by side, each on its own share of the cores.

A small network is a thousand short operations, and a second core inside each of them takes little off; other work
beside it takes much more. A large one fills the cores by itself, and two would only need twice the memory. More than a
few at a time would wait for the interpreter. An accelerator takes work in turn whoever asks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tastemaker.generate.denoiser import Denoiser

MOST = 4
SMALL = 50_000_000  # weights; the embedded models have 4 million, SD 1.x has 860
Run = Callable[[Sequence[Callable[[], Any]]], list[Any]]


def abreast(models: Sequence[Denoiser], *, hooks: bool = True) -> int:
    """How many of these models, a job each, should be at work at a time.

    Args:
        hooks: the jobs read or replace layers, which only one can do to a network at a time; otherwise they may use one
            network together.
    """
    apart = not hooks or len({id(model.unet) for model in models}) == len(models)
    small = all(model.device.type == "cpu" and model.unet.num_parameters() <= SMALL for model in models)
    return min(len(models), torch.get_num_threads(), MOST) if apart and small else 1


@contextlib.contextmanager
def lanes(models: Sequence[Denoiser], *, hooks: bool = True) -> Iterator[Run]:
    """`run`, which does a job for each model, so many `abreast`, and gives back what they return, in order.

    A job that fails ends the run with its error; what has not begun is left out.
    """
    wide, cores = abreast(models, hooks=hooks), torch.get_num_threads()
    if wide == 1:
        yield lambda jobs: [job() for job in jobs]
        return
    try:
        with ThreadPoolExecutor(wide, initializer=torch.set_num_threads, initargs=(cores // wide,)) as pool:
            yield lambda jobs: list(pool.map(lambda job: job(), jobs))
    finally:
        torch.set_num_threads(cores)  # the number is also what later threads begin with


class Count:
    """Counts steps of jobs that may run side by side, and tells of each, one at a time, (done, of)."""

    def __init__(self, tell: Callable[[int, int], None] | None, of: int) -> None:
        self.tell, self.of, self.done, self._lock = tell, of, 0, threading.Lock()

    def __call__(self, *_: object) -> None:
        with self._lock:
            self.done += 1
            if self.tell is not None:
                self.tell(self.done, self.of)
