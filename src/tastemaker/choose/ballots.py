"""Votes in a file: JSON lines, only ever appended to.

    {"format": "tastemaker votes", "version": 1}
    {"person": "ada", "choices": [{"chosen": ["p7"], "among": ["p7", "p9", null], "ties": true}], "time": 1700000000}

The first line says what the file is; every other line is one `Ballot`. null among the items is the bar. `among` is in
the order shown, left first, and `policy` and `probability` are those of the question (`pairing.Question`), without
which votes cannot be reweighted later. Fields that are at their default are left out.

Reading is strict: a line with an unknown, doubled or missing field, or one cut short by a crash, is refused with its
number, and a file cut short is not appended to. Lines are written in one piece, so that two writers do not mix theirs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.choose.votes import Choice, Vote
from tastemaker.errors import DataError, InvalidArgument

HEADER = {"format": "tastemaker votes", "version": 1}
_HEAD = (json.dumps(HEADER) + "\n").encode()


@dataclass(frozen=True)
class Ballot:
    """A vote, and how it came about.

    Attributes:
        vote: what was said.
        time: when, in seconds since 1970; None is not known.
        policy, probability: of showing what was shown; None where nobody chose it.
    """

    vote: Vote
    time: int | None = None
    policy: str | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        if self.probability is not None and not 0 < self.probability <= 1:
            raise InvalidArgument(f"probability = {self.probability}; expected above 0, and 1 at most")
        if not self.vote.choices:
            raise InvalidArgument("a vote without choices; expected at least one")


def append(path: str | Path, ballots: Iterable[Ballot]) -> None:
    """Add these to the file, which is begun where there is none. Raises DataError for a file that is no such file."""
    lines = b"".join(_line(ballot) for ballot in ballots)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        if size:
            if os.pread(file, len(_HEAD), 0) != _HEAD:
                raise DataError(f"does not begin with {_HEAD.decode().strip()}; is it a file of votes?", file=path)
            if os.pread(file, 1, size - 1) != b"\n":
                raise DataError("the last line is cut short; delete it before adding others", file=path)
        os.write(file, lines if size else _HEAD + lines)
        os.fsync(file)
    finally:
        os.close(file)


def read(path: str | Path) -> tuple[Ballot, ...]:
    """All ballots, in the order written. Raises DataError with file and line."""
    whole = Path(path).read_bytes()
    if not whole:
        return ()
    lines = whole.split(b"\n")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            fields = json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
            if number > 1:
                found.append(_ballot(fields))
            elif fields != HEADER:
                raise DataError(f"expected {json.dumps(HEADER)}; a newer version needs a newer tastemaker")
        except (ValueError, RecursionError) as error:  # of which DataError and InvalidArgument are kinds
            raise DataError(f"{error}", file=path, line=number) from None
    if lines[-1]:
        raise DataError("is cut short (it does not end with a line break); delete it", file=path, line=len(lines))
    return tuple(found)


def _line(ballot: Ballot) -> bytes:
    vote = ballot.vote
    choices = [{"chosen": c.chosen, "among": c.among} | ({"ties": True} if c.ties else {}) for c in vote.choices]
    fields: dict[str, object] = {"person": vote.person, "choices": choices, "tag": vote.tag}
    fields |= {"time": ballot.time, "policy": ballot.policy, "probability": ballot.probability}
    kept = {name: value for name, value in fields.items() if value is not None}
    if vote.weight != 1:
        kept["weight"] = vote.weight
    return (json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _ballot(fields: Any) -> Ballot:
    kinds: dict[str, tuple[type, ...]] = {
        "choices": (list,), "person": (str,), "tag": (str,), "weight": (int, float), "time": (int,), "policy": (str,),
        "probability": (int, float),
    }  # fmt: skip
    given = _checked(fields, kinds, needed=["choices"], what="a vote")
    choices = []
    for part in given["choices"]:
        choice = _checked(
            part, {"chosen": (list,), "among": (list,), "ties": (bool,)}, needed=["chosen", "among"], what="a choice"
        )
        for item in [*choice["chosen"], *choice["among"]]:
            if isinstance(item, bool) or not isinstance(item, int | str | None):
                raise DataError(f"item {item!r}; expected text, a whole number, or null for the bar")
        choices.append(Choice(tuple(choice["chosen"]), tuple(choice["among"]), choice.get("ties", False)))
    weight = given.get("weight", 1.0)
    if not math.isfinite(weight):
        raise DataError(f"weight {weight}; expected a finite number")
    vote = Vote(tuple(choices), given.get("person"), given.get("tag"), float(weight))
    return Ballot(vote, given.get("time"), given.get("policy"), given.get("probability"))


def _checked(fields: Any, kinds: dict[str, tuple[type, ...]], *, needed: list[str], what: str) -> dict[str, Any]:
    """The fields, if they are those of `kinds`."""
    if not isinstance(fields, dict):
        raise DataError(f"{what} is {fields!r:.50}; expected an object with {', '.join(kinds)}")
    if stray := [name for name in fields if name not in kinds]:
        raise DataError(f"{what} has the field '{stray[0]}'; known: {', '.join(kinds)}")
    if absent := [name for name in needed if name not in fields]:
        raise DataError(f"{what} has no field '{absent[0]}'")
    for name, value in fields.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
            raise DataError(f"{name} is {value!r:.50}; expected {' or '.join(kind.__name__ for kind in kinds[name])}")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise DataError(f"a field is there twice among {[name for name, _ in pairs]}")
    return fields


def _no_constant(text: str) -> float:
    raise DataError(f"{text} is no number of JSON")
