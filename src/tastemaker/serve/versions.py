"""Versions of the model on disk, and which one is in force. Nothing here asks the store: what a database or a damaged
version cannot do is never in the way of going back to another one.

    3/factors/            as `recommend.store` writes it
    3/board.safetensors   beliefs of the crowd and of persons
    3/version.json        up to which event it learned, when, from how much
    current.json          the version in force, and whether it is pinned

The swap is one file replaced: every server looks at `current.json` before it answers. After `use` or `roll_back` the
version is pinned: later fits are saved, and wait for `follow`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from tastemaker.choose.belief import Prior
from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.generate import record
from tastemaker.recommend.factors import Factors
from tastemaker.serve.board import Board
from tastemaker.serve.taste import Taste
from tastemaker.serve.trust import Doubt

_POINTER = "current.json"


@dataclass(frozen=True)
class Version:
    """A fitted version.

    Attributes:
        version: its number; 0 is the state before any.
        seq: of the last event it learned from.
        time: when it was fitted, microseconds since 1970.
        words, votes: how many it learned from.
        models, persons: of its board, in the order of the arrays.
        doubts: people who counted less in it, and whose later votes do.
    """

    version: int
    seq: int = 0
    time: int = 0
    words: int = 0
    votes: int = 0
    models: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A version with its arrays; no taste where it learned from no words."""

    version: Version
    taste: Taste | None
    board: Board


@dataclass(frozen=True)
class InForce:
    """The number of the version in force, 0 before any, and whether it stays so when another is fitted."""

    version: int
    pinned: bool = False


@dataclass(frozen=True)
class Versions:
    """The versions in a folder. Any number of processes may read and change what is in force."""

    folder: Path
    prior: Prior = dataclasses.field(default_factory=Prior)

    def numbers(self) -> list[int]:
        """Of every version on disk, oldest first."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())

    def describe(self, number: int) -> Version:
        """What is known of a version without its arrays. Raises DataError."""
        path = self.folder / str(number) / "version.json"
        try:
            return record.read(Version, path.read_bytes(), "version")
        except OSError as error:
            raise DataError("cannot be read; roll back to another version, or fit anew", file=path) from error

    def read(self, number: int) -> Fitted:
        """A version from disk; 0 is the state before any. Raises DataError."""
        version = self.describe(number) if number else Version(0)
        taste, board = None, Board.empty(self.prior)
        if version.words:
            taste = Taste.of(Factors.load(self.folder / str(number) / "factors").fitted)
        if version.votes:
            path = self.folder / str(number) / "board.safetensors"
            try:
                board = Board.of(load_file(path), version.models, version.persons, self.prior, version.seq)
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise DataError(f"cannot be read ({error}); roll back to another version", file=path) from error
        return Fitted(version, taste, board)

    def in_force(self) -> InForce:
        """What `current.json` says. Raises DataError where it cannot be understood."""
        try:
            return record.read(InForce, (self.folder / _POINTER).read_bytes(), "pointer to the version in force")
        except FileNotFoundError:
            return InForce(0)

    def stamp(self) -> object:
        """Another value whenever a version was put in force, or fitted; None before any was."""
        try:
            state = os.stat(self.folder / _POINTER)
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_mtime_ns

    def put(self, now: InForce) -> None:
        """Put a version in force; who reads beside sees the one before or this one, and never half of it."""
        with tempfile.NamedTemporaryFile(
            "w", dir=self.folder, prefix="current-", delete=False, encoding="utf-8"
        ) as file:
            file.write(record.write(now) + "\n")
        os.replace(file.name, self.folder / _POINTER)

    def fitted(self, number: int) -> None:
        """A version is on disk: put it in force, unless another one is pinned. That one's servers hear of it too."""
        if self.in_force().pinned:
            os.utime(self.folder / _POINTER)
        else:
            self.put(InForce(number))

    def newest(self) -> Version:
        """The newest version that can be read, whichever is in force; number 0 before any."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(DataError):
                return self.describe(number)
        return Version(0)

    def use(self, number: int) -> Version:
        """Put a version in force and pin it. Raises UnknownName, DataError for a damaged one: it is never in force."""
        if number not in (known := self.numbers()):
            raise UnknownName("version", str(number), [str(one) for one in known])
        version = self.read(number).version
        self.put(InForce(number, pinned=True))
        return version

    def roll_back(self) -> Version:
        """Put the version before the one in force in force, and pin it. Raises InvalidArgument where there is none."""
        now = self.in_force().version
        older = [number for number in self.numbers() if number < now]
        if not older:
            raise InvalidArgument(f"there is no version before {now}")
        return self.use(older[-1])

    def follow(self) -> Version:
        """Put the newest version in force, and every later one as it comes.

        Raises InvalidArgument where there is none, DataError where it is damaged.
        """
        if not (numbers := self.numbers()):
            raise InvalidArgument("no version has been fitted yet; refit first")
        version = self.read(numbers[-1]).version
        self.put(InForce(numbers[-1]))
        return version
