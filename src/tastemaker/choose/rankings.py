"""Rankings of pictures by people, as published with ImageReward (Xu et al. 2023, arXiv 2304.05977).

A JSON list of prompts, each with the file names of its pictures and the place that people gave each, 1 the best. Equal
places are ties, and places may be skipped. Nothing says who ranked, and no picture is ranked for two prompts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tastemaker.choose.votes import Vote, sort
from tastemaker.errors import DataError

_FIELDS = ("id", "prompt", "generations", "ranking")


@dataclass(frozen=True)
class Ranked:
    """One ranking: `places` of `pictures`, 1 the best."""

    id: str
    prompt: str
    pictures: tuple[str, ...]
    places: tuple[int, ...]

    def vote(self) -> Vote:
        """As a sort in which ties could be said. Raises DataError for more pictures than `Choice` takes with ties."""
        groups: dict[int, list[str]] = {}
        for picture, place in zip(self.pictures, self.places, strict=True):
            groups.setdefault(place, []).append(picture)
        return Vote(sort([groups[place] for place in sorted(groups)], ties=True))


def read_rankings(path: str | Path) -> tuple[Ranked, ...]:
    """All rankings of the file, in its order. Raises DataError, which names the number of the entry, from 1."""
    try:
        entries = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise DataError(f"is no JSON: {error}", file=path) from None
    if not isinstance(entries, list):
        raise DataError("holds no list; expected a list of prompts with rankings", file=path)
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_ranked(entry))
        except DataError as error:
            raise DataError(f"entry {number}: {error.problem}", file=path) from None
    _each_once("id", [one.id for one in found], path)
    _each_once("picture", [picture for one in found for picture in one.pictures], path)
    return tuple(found)


def _ranked(entry: object) -> Ranked:
    if not isinstance(entry, dict) or (absent := [name for name in _FIELDS if name not in entry]):
        raise DataError(f"lacks {absent if isinstance(entry, dict) else 'fields'}; expected {', '.join(_FIELDS)}")
    name, prompt, pictures, places = (entry[field] for field in _FIELDS)
    if not isinstance(name, str) or not isinstance(prompt, str):
        raise DataError(f"id {name!r} and prompt {prompt!r:.30}; expected text")
    if not isinstance(pictures, list) or not all(isinstance(one, str) and one for one in pictures):
        raise DataError("generations are no list of file names")
    if not isinstance(places, list) or not all(type(one) is int and one > 0 for one in places):
        raise DataError("ranking is no list of places from 1")
    if len(pictures) != len(places) or len(pictures) < 2:
        raise DataError(f"{len(pictures)} pictures and {len(places)} places; expected one each, and two or more")
    return Ranked(name, prompt, tuple(pictures), tuple(places))


def _each_once(what: str, values: Sequence[str], path: str | Path) -> None:
    known: set[str] = set()
    for value in values:
        if value in known:
            raise DataError(f"{what} '{value}' is there twice", file=path)
        known.add(value)
