"""Threads for work that comes in pieces, and one thread for BLAS.

Rows are shared out in a fixed number of pieces, whatever the number of cores, and what the pieces return is added up in
their order, so results do not depend on the machine. BLAS has threads of its own, but between two products they spin
for some 25 ms, longer than a whole step of training takes, and keep the cores from everybody else: two threads were no
faster than one. So while a crew works, BLAS uses the thread that calls it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise
from operator import iadd
from typing import Any, TypeVar

import threadpoolctl  # type: ignore[import-untyped]

PIECES = 4
P = TypeVar("P")


class Crew:
    """As many threads as the process has cores, at most one a piece."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(min(cores, PIECES)) if cores > 1 else None

    def each(self, work: Callable[[P], Any], pieces: Sequence[P]) -> list[Any]:
        """[work(piece), ...], side by side; what they call must release the interpreter's lock, as numpy does."""
        return [work(piece) for piece in pieces] if self.pool is None else list(self.pool.map(work, pieces))

    def total(self, work: Callable[[P], Any], pieces: Sequence[P]) -> Any:
        """The sum of the arrays work(piece); the first is overwritten by it."""
        return reduce(iadd, self.each(work, pieces))


def cut(n: int) -> list[slice]:
    """Rows 0..n-1 in equal pieces."""
    ends = [n * k // PIECES for k in range(PIECES + 1)]
    return [slice(a, b) for a, b in pairwise(ends) if b > a]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """For the process, until the end of the block."""
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield
