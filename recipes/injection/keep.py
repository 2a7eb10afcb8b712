"""Results that outlive the run: every unit of work is a file, so a run can be stopped anywhere and taken up again.

A unit is known by its settings *and* by the code it ran on: the syntax trees of the modules named, without docstrings,
so that a changed comment costs nothing and a changed line of code makes the unit new. Nothing kept is ever overwritten
by another unit, and nothing is pickled. Processes that share a folder share the work: one makes a unit, the others find
it.

`Remembered` does the same inside a learned attack: the answer of every round's surrogate is a file until the attack is
done. The loop around it is deterministic, so taking it up again runs through the rounds on file in no time.
"""

from __future__ import annotations

import ast
import dataclasses
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from tastemaker.attack.bilevel_loss import Adversary, Judged, Mode, Surrogate
from tastemaker.attack.clicks import Clicks
from tastemaker.attack.profiles import Fakes, Progress
from tastemaker.data import FeedbackLog
from tastemaker.errors import DataError

Numbers = dict[str, float]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Keep:
    """folder: where units are kept; only_kept: never compute, what is missing stays missing.

    seconds: what the units of each kind took, in this run and in those before; for the time left.
    """

    folder: Path
    only_kept: bool = False
    say: Say = print
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def numbers(self, unit: Unit, make: Callable[[], Numbers]) -> Numbers | None:
        """The figures of a unit: from its file, else made and put on file; None where they may not be made."""
        path = self._path(unit, ".json")
        if not path.exists():
            if self.only_kept:
                return None
            with self._alone(path) as first:
                if first:
                    began = time.perf_counter()
                    figures = make()
                    self._done(unit, path, began, {"figures": figures})
                    return figures
        found = self._read(path)
        self.seconds.setdefault(unit.kind, []).append(found["seconds"])
        return dict(found["figures"])

    def fakes(self, unit: Unit, make: Callable[[Path], Fakes]) -> Fakes | None:
        """Fake users, likewise; `make` is given a folder for its rounds, which is deleted when it is done."""
        path = self._path(unit, ".npz")
        if not path.exists():
            if self.only_kept:
                return None
            with self._alone(path) as first:
                if first:
                    rounds = path.with_suffix(".rounds")
                    began, before = time.perf_counter(), _spent(rounds)
                    found = make(rounds)
                    self._done(unit, path.with_suffix(".json"), began - before, {})
                    save_fakes(path, found)
                    shutil.rmtree(rounds, ignore_errors=True)
                    return found
        self.seconds.setdefault(unit.kind, []).append(self._read(path.with_suffix(".json"))["seconds"])
        return load_fakes(path)

    def has(self, unit: Unit, suffix: str = ".json") -> bool:
        return self._path(unit, suffix).exists()

    def busy(self, unit: Unit) -> bool:
        """Whether another process is making this unit now."""
        lock = self._path(unit, ".lock")
        if not lock.exists():
            return False
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with its process, however that ends
            except BlockingIOError:
                return True
        return False

    @contextmanager
    def _alone(self, path: Path) -> Iterator[bool]:
        """Waits until no other process makes this unit, and tells whether it is still to be made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock")
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield not path.exists()
            lock.unlink(missing_ok=True)

    def _path(self, unit: Unit, suffix: str) -> Path:
        return self.folder / unit.part / f"{unit.name}-{unit.key}{suffix}"

    def _done(self, unit: Unit, path: Path, began: float, found: dict[str, Any]) -> None:
        seconds = time.perf_counter() - began
        self.seconds.setdefault(unit.kind, []).append(seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found | {"seconds": round(seconds, 1), "settings": dict(unit.settings)}, indent=1)
        written = path.with_suffix(".part")
        written.write_text(text + "\n", encoding="utf-8")
        written.replace(path)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found["seconds"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError("is not a unit that --keep wrote; delete it", file=path) from error
        return found


@dataclass(frozen=True)
class Unit:
    """One piece of work. kind: what takes equally long; settings: all it depends on; code: the modules it runs."""

    part: str
    name: str
    kind: str
    settings: Mapping[str, str]
    code: tuple[ModuleType, ...]

    @property
    def key(self) -> str:
        about = json.dumps(dict(self.settings), sort_keys=True) + "".join(sorted(code_hash(m) for m in self.code))
        return hashlib.sha256(about.encode()).hexdigest()[:12]


_HASHES: dict[str, str] = {}  # a module's source does not change while it runs


def code_hash(module: ModuleType) -> str:
    """Of a module's syntax tree without its docstrings."""
    path = str(module.__file__)
    if path not in _HASHES:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        _HASHES[path] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return _HASHES[path]


def fingerprint(*logs: FeedbackLog) -> str:
    """Of the events of logs: the same rows, the same fingerprint."""
    digest = hashlib.sha256()
    for log in logs:
        for column in (log.user, log.item, log.value):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:12]


def save_fakes(path: Path, fakes: Fakes) -> None:
    """As arrays, no objects: profiles end to end, where each ends, targets, and the rest as JSON text."""
    about = {"n_items": fakes.n_items, "method": fakes.method, "settings": dict(fakes.settings)}
    about["history"] = [dataclasses.asdict(one) for one in fakes.history]
    ends = np.cumsum([len(profile) for profile in fakes.profiles])
    written = path.with_suffix(".part.npz")
    items = np.concatenate(fakes.profiles)
    np.savez_compressed(written, items=items, ends=ends, targets=fakes.targets, about=np.array(json.dumps(about)))
    written.replace(path)


def load_fakes(path: Path) -> Fakes:
    with np.load(path, allow_pickle=False) as found:
        about = json.loads(str(found["about"]))
        profiles = tuple(np.split(found["items"].astype(np.int32), found["ends"][:-1]))
        history = tuple(Progress(**one) for one in about["history"])
        return Fakes(
            profiles, about["n_items"], found["targets"].astype(np.int32), about["method"], about["settings"], history
        )


def _spent(rounds: Path) -> float:
    """Seconds that the rounds on file took."""
    total = 0.0
    for path in rounds.glob("[0-9a-f]*[0-9a-f].npz"):
        with np.load(path, allow_pickle=False) as found:
            total += float(found["seconds"])
    return total


@dataclass(frozen=True, repr=False)
class Remembered:
    """A surrogate whose answers are kept in `folder`: the same clicks and seed are solved once. `solved(seconds)` is
    told about each."""

    surrogate: Surrogate
    folder: Path
    solved: Callable[[float], None]

    modes: ClassVar[tuple[Mode, ...]] = ("exact", "truncated", "partial", "last_solve", "implicit")

    def __repr__(self) -> str:
        return repr(self.surrogate)

    @property
    def weight(self) -> float:
        return self.surrogate.weight

    def solve(
        self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator
    ) -> tuple[Judged, np.ndarray[Any, Any] | None]:
        """As the surrogate; derivatives by its factors, which no loop reads, are not kept."""
        digest = hashlib.sha256(clicks.fakes.tobytes() + f"{mode} {rng.bit_generator.state}".encode())
        path = self.folder / f"{digest.hexdigest()[:16]}.npz"
        none = np.empty((0, 0), np.float32)
        if path.exists():
            with np.load(path, allow_pickle=False) as found:
                self.solved(float(found["seconds"]))
                return Judged(float(found["loss"]), found["hit"], none, none), found["cells"] if mode else None
        began = time.perf_counter()
        judged, cells = self.surrogate.solve(clicks, adversary, mode, rng)
        seconds = time.perf_counter() - began
        self.folder.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".part.npz")
        kept: Sequence[Any] = none if cells is None else cells
        np.savez(written, loss=judged.loss, hit=judged.hit, cells=kept, seconds=seconds)
        written.rename(path)
        self.solved(seconds)
        return judged, cells
