"""The last value of something slow to make, made anew in the background once what it is made of has changed.

Whoever asks before the first is made waits for it, `patience` seconds at most. Later ones wait a moment for the newest
and then get the last there is; the value itself says as of when it speaks, so that nothing is stale in silence. One
maker runs at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
_MOMENT = 0.05  # seconds


class Kept(Generic[T]):
    """Any thread may ask."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._gate = threading.Lock()
        self._making: Future[T] | None = None
        self._key: Hashable = None  # that the last making began under
        self._value: T | None = None

    def get(self, key: Hashable, *, patience: float) -> T | None:
        """The value for this key if it comes in time, else the last one; None before the first. Raises what `make`
        raises."""
        with self._gate:
            if self._making is None or (self._making.done() and self._key != key):
                self._key, self._making = key, Future[T]()
                threading.Thread(target=self._run, args=(self._making,), daemon=True).start()
            making = self._making
        try:
            return making.result(timeout=patience if self._value is None else _MOMENT)
        except TimeoutError:
            return self._value

    def _run(self, making: Future[T]) -> None:
        try:
            self._value = self._make()
        except Exception as error:
            self._key = None  # try again next time
            making.set_exception(error)
        else:
            making.set_result(self._value)
