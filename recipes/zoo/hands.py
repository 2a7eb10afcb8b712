"""Several one-thread processes share the parts of a batch, as many as each finds time for.

On few cores one thread a process is faster than one process with several threads, most of all where other work runs
beside it. Every part has a place of its own for its gradient and the places are summed in order, so what is learned
does not depend on who took which part.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch import multiprocessing as processes

PATIENCE = 300.0  # seconds that a part may take before its process is held to be lost


class Hands:
    """`take(step, part)` leaves the gradient of a part in the weights and gives its loss; `count` processes call it."""

    def __init__(self, weights: list[Tensor], parts: int, count: int, take: Callable[[int, int], Tensor]) -> None:
        self.weights, self.parts, self.take = weights, parts, take
        self.sizes = [weight.numel() for weight in weights]
        self.places = torch.zeros(parts, sum(self.sizes))
        self.losses = torch.zeros(parts)
        if count > 1:
            torch.set_num_threads(1)
            for shared in (self.places, self.losses, *weights):
                shared.share_memory_()
        fork = processes.get_context("fork")
        self.waiting, self.finished = fork.Semaphore(0), fork.Semaphore(0)
        self.next = fork.Value("q", 0)
        for _ in range(count - 1):
            fork.Process(target=self._help, args=(os.getpid(),), daemon=True).start()

    def gradient(self, step: int) -> Tensor:
        """Leave the mean gradient of a step's parts in the weights; give the mean loss."""
        self.next.value = step * self.parts
        for _ in range(self.parts):
            self.waiting.release()
        while self.waiting.acquire(block=False):
            self._one()
        for _ in range(self.parts):
            if not self.finished.acquire(timeout=PATIENCE):
                raise RuntimeError(f"a part of step {step} was not finished in {PATIENCE:.0f} seconds; start again")
        for weight, mean in zip(self.weights, self.places.mean(0).split(self.sizes), strict=True):
            weight.grad = mean.view_as(weight)
        return self.losses.mean()

    def _one(self) -> None:
        with self.next.get_lock():
            step, part = divmod(self.next.value, self.parts)
            self.next.value += 1
        self.losses[part] = self.take(step, part).detach()
        for weight, place in zip(self.weights, self.places[part].split(self.sizes), strict=True):
            assert weight.grad is not None
            place.copy_(weight.grad.flatten())
            weight.grad = None
        self.finished.release()

    def _help(self, parent: int) -> None:
        while os.getppid() == parent:  # a killed parent leaves nobody behind
            if self.waiting.acquire(timeout=5):
                self._one()
