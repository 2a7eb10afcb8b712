"""Several networks at work side by side, each on its own share of the cores.

A small network is a thousand short operations, and a second core inside each of them takes little off; a second network
beside it takes much more. A large one fills the cores either way. More than a few at a time would only wait for the
interpreter. An accelerator takes work in turn whoever asks, so there the networks go one after the other.
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
Run = Callable[[Sequence[Callable[[], Any]]], list[Any]]


@contextlib.contextmanager
def lanes(models: Sequence[Denoiser]) -> Iterator[Run]:
    """`run`, which does a job for each model and gives back what they return, in order.

    One after the other if two of the models are one network, whose layers only one can hook at a time. A job that fails
    ends the run with its error; what has not begun is left out.
    """
    cores = torch.get_num_threads()
    apart = len({id(model.unet) for model in models}) == len(models)
    wide = min(len(models), cores, MOST) if apart and all(model.device.type == "cpu" for model in models) else 1
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
