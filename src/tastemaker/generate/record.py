"""JSON objects as frozen dataclasses, strictly: every field known, none missing, each of its declared type."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from tastemaker.errors import DataError

T = TypeVar("T")


def read(kind: type[T], text: str | bytes, what: str) -> T:
    """The dataclass `kind` in a JSON text. Raises DataError that names the field and what it should be."""
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a {what} is a JSON object; found {text[:60]!r} ({error})") from error
    made: T = _object(kind, values, what)
    return made


def write(record: Any) -> str:
    """A dataclass as one line of JSON; infinities and NaN are refused."""
    return json.dumps(values(record), default=values, allow_nan=False)


def values(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, not copied."""
    if isinstance(record, Mapping):
        return dict(record)
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _object(kind: Any, given: object, what: str) -> Any:
    if not isinstance(given, dict):
        raise DataError(f"a {what} is a JSON object; found {given!r}")
    known = {field.name: field for field in dataclasses.fields(kind)}
    needed = [n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
    if wrong := [f"no '{name}'" for name in needed if name not in given]:
        raise DataError(f"the {what} has {wrong[0]}; it needs {', '.join(needed)}")
    if unknown := [name for name in given if name not in known]:
        raise DataError(f"the {what} has an unknown field '{unknown[0]}'; known: {', '.join(known)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{what}'s {name}") for name, value in given.items()})


def _value(kind: Any, given: Any, what: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        kind = next((a for a in arguments if type(given) is (list if get_origin(a) is tuple else a)), arguments[0])
        return _value(kind, given, what)
    if kind is type(given) and (kind is not float or math.isfinite(given)):  # 1e999 is an infinity
        return given
    if kind is float and type(given) is int:
        return float(given)
    if origin is Literal and given in arguments:
        return given
    if origin is tuple and isinstance(given, list):
        return tuple(_value(arguments[0], one, what) for one in given)
    if origin is Mapping and isinstance(given, dict):
        return {name: _value(arguments[1], one, f"{what} '{name}'") for name, one in given.items()}
    if dataclasses.is_dataclass(kind):
        return _object(kind, given, what)
    raise DataError(f"the {what} is {given!r}; expected {getattr(kind, '__name__', kind)}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
