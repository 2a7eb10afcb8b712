"""Tables with one event a row: CSV, TSV and Parquet with any column names; MovieLens; RecBole atomic files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.data.read.build import build
from tastemaker.data.read.rows import DEFAULT, Options, Rows, guessed
from tastemaker.data.read.text import Text, first_lines
from tastemaker.errors import DataError, UnknownName

#: The usual names of each role, in lower case. `user` and `item` must be found, the others may be absent.
NAMES: Mapping[str, tuple[str, ...]] = {
    c.USER: ("user", "user_id", "userid", "uid", "user_idx", "users", "person", "person_id", "customer", "customer_id",
             "reviewerid", "reviewer_id", "visitorid", "visitor_id", "viewer"),
    c.ITEM: ("item", "item_id", "itemid", "iid", "item_idx", "items", "movie", "movie_id", "movieid", "song", "song_id",
             "songid", "sid", "track", "track_id", "trackid", "artist_id", "artistid", "joke", "joke_id", "jokeid",
             "video_id", "videoid", "product_id", "productid", "asin", "parent_asin", "book_id", "bookid", "isbn",
             "business_id", "poi", "poi_id", "location_id", "place", "picture", "picture_id", "image", "image_id"),
    c.VALUE: ("value", "rating", "ratings", "liked", "like", "is_like", "score", "label", "preference", "stars", "vote",
              "overall", "feedback"),
    c.TIME: ("time", "timestamp", "ts", "date", "datetime", "unixreviewtime", "unix_time", "time_stamp", "created_at"),
}  # fmt: skip
FLAGS = (c.RANDOM, c.SUPERLIKE)  # read only where `columns` names them
ROLES = (*NAMES, *FLAGS, c.POPULARITY)
TRUE, FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")

Columns = Mapping[str, str | None]


def read_table(path: str | Path, options: Options = DEFAULT) -> FeedbackLog:
    """A CSV or TSV file (also gzip) with a header line, or a Parquet file; one event a row.

    Roles that `options.columns` does not name are guessed from the usual names, and the guess is printed; a role named
    None is left out. Without a column of values every row counts as a like.
    """
    path = Path(path)
    with _opened(path) as file:
        parquet = file.read(4) == b"PAR1"
    if parquet:
        return build(_parquet(path, options), options)
    text = Text.of(path)
    roles, note = choose_columns(path, text.names, options.columns or {})
    return build(rows_of(text, roles, notes=(note,) if note else ()), options)


def read_movielens(path: str | Path, options: Options = DEFAULT) -> FeedbackLog:
    """MovieLens `u.data` (tabs), `ratings.dat` ('::') or `ratings.csv`, or the folder that holds one of them.

    The scale is 1..5 for u.data and 0.5..5 for ratings.csv; ratings.dat is 1..5 unless it holds half stars (10M).
    """
    path = _one_of(Path(path), ("u.data", "ratings.dat", "ratings.csv"))
    line = first_lines(path)[0]
    names = ("userId", "movieId", "rating", "timestamp")
    if "::" in line:
        text, scale = Text.of(path, separator="::", names=names), None
    elif line.count("\t") == 3:
        text, scale = Text.of(path, separator="\t", names=names), Scale(1, 5)
    else:
        text, scale = Text.of(path, separator=","), Scale(0.5, 5)
        if text.names != names:
            raise DataError(f"the header is '{line[:80]}', expected '{','.join(names)}'", file=path, line=1)
    rows = rows_of(text, dict(zip(NAMES, range(4), strict=True)), scale=scale, known=True)
    if scale is None:
        ratings = rows.columns[c.VALUE]
        half = ratings.is_finite().all() and bool((ratings * 2 == (ratings * 2).round()).all())
        stars = half and bool(((ratings != ratings.round()) | (ratings < 1)).any())
        rows = dataclasses.replace(rows, scale=Scale(0.5, 5) if stars else Scale(1, 5))
    return build(rows, options)


def read_recbole(path: str | Path, options: Options = DEFAULT) -> FeedbackLog:
    """A RecBole atomic file `NAME.inter`: tabs and a typed header, `user_id:token  item_id:token  rating:float`."""
    path = _one_of(Path(path), ("*.inter",))
    text = Text.of(path, separator="\t")
    typed = [name.rsplit(":", 1) for name in text.names]
    for number, parts in enumerate(typed):
        if len(parts) != 2:
            problem = "has no type; expected a typed header such as 'user_id:token'"
            raise DataError(problem, file=path, line=1, column=text.names[number])
    names, types = [name for name, _ in typed], [kind for _, kind in typed]
    named = {role: name and name.rsplit(":", 1)[0] for role, name in (options.columns or {}).items()}
    roles, note = choose_columns(path, names, named)
    for role, number in roles.items():
        wanted = ("token",) if role in (c.USER, c.ITEM) else ("float", "token")
        if types[number] not in wanted:
            problem = f"the {role} has type '{types[number]}', expected {' or '.join(wanted)}"
            raise DataError(problem, file=path, line=1, column=text.names[number])
    return build(rows_of(text, roles, notes=(note,) if note else ()), options)


def choose_columns(path: Path, names: Sequence[str], given: Columns) -> tuple[dict[str, int], str]:
    """Column number of each role, and the guess in words (empty where `given` names everything)."""
    roles: dict[str, int] = {}
    for role, name in given.items():
        if role not in ROLES:
            raise UnknownName("column role", role, ROLES)
        if name is not None:
            if name not in names:
                raise DataError(f"no column '{name}' for the {role}; the header names {list(names)}", file=path, line=1)
            roles[role] = names.index(name)
    guesses = {}
    for role, usual in NAMES.items():
        if role in given:
            continue
        free = [i for i, name in enumerate(names) if i not in roles.values()]
        found = [i for i in free if names[i].strip().lower().replace(" ", "_").replace("-", "_") in usual]
        if len(found) > 1:
            both = " and ".join(f"'{names[i]}'" for i in found)
            remedy = f"say which one, for example columns={{'{role}': '{names[found[0]]}'}}"
            raise DataError(f"{both} could both be the {role}; {remedy}", file=path, line=1)
        if found:
            roles[role] = found[0]
            guesses[role] = names[found[0]]
        elif role in (c.USER, c.ITEM):
            remedy = f"say columns={{'{role}': ...}}, on the command line --{role} NAME"
            raise DataError(
                f"no column looks like the {role}; the first line is {list(names)[:20]}; {remedy}", file=path, line=1
            )
    if not guesses:
        return roles, ""
    return roles, guessed(path, "columns guessed: " + ", ".join(f"{role} = '{name}'" for role, name in guesses.items()))


def rows_of(
    text: Text,
    roles: Mapping[str, int],
    *,
    scale: Scale | None = None,
    known: bool = False,
    optional: Mapping[str, type[pl.DataType]] | None = None,
    notes: tuple[str, ...] = (),
) -> Rows:
    """The columns of a text file by role. `optional` roles have the given dtype and may miss cells."""
    optional = optional or {}
    first = text.first_row()
    kinds: dict[int, type[pl.DataType]] = {}
    for role, i in roles.items():
        if role in optional:
            kinds[i] = optional[role]
        elif role in (c.USER, c.ITEM, *FLAGS):
            kinds[i] = pl.String
        elif role == c.TIME:
            kinds[i] = pl.Int64 if re.fullmatch(r"[+-]?\d+|", first[i]) else _float_or_text(first[i])
        else:
            kinds[i] = pl.String if role == c.VALUE and first[i].lower() in ("true", "false") else pl.Float32
    columns = text.frame(kinds, may_be_missing=frozenset(roles[role] for role in optional if role in roles))
    rows = Rows(
        text.path,
        {role: columns[i].alias(role) for role, i in roles.items()},
        {role: text.names[i] for role, i in roles.items()},
        text.line,
        scale,
        as_text=True,
        known=known,
        notes=notes,
    )
    for role in (*FLAGS, c.VALUE):
        if role in roles and role not in optional and rows.columns[role].dtype == pl.String:
            rows.columns[role] = _boolean(rows, role)
    return rows


def _float_or_text(cell: str) -> type[pl.DataType]:
    try:
        float(cell)
    except ValueError:
        return pl.String
    return pl.Float64


def _boolean(rows: Rows, role: str) -> pl.Series:
    words = rows.columns[role].str.to_lowercase()
    flags = words.is_in(TRUE)
    if (bad := ~(flags | words.is_in(FALSE))).any():
        row = int(bad.arg_max() or 0)
        raise rows.fault(role, row, f"'{rows.columns[role][row]}' is not a flag; expected true or false")
    return flags


def _parquet(path: Path, options: Options) -> Rows:
    try:
        schema = pl.read_parquet_schema(path)
        roles, note = choose_columns(path, list(schema), options.columns or {})
        names = {role: list(schema)[i] for role, i in roles.items()}
        table = pl.read_parquet(path, columns=list(dict.fromkeys(names.values())))
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"cannot be read as Parquet ({str(error).splitlines()[0]})", file=path) from error
    rows = Rows(
        path, {role: table[name].alias(role) for role, name in names.items()}, names, notes=(note,) if note else ()
    )
    for role, column in rows.columns.items():
        if column.null_count():
            raise rows.fault(role, int(column.is_null().arg_max() or 0), f"{column.null_count()} cells are missing")
        flag = role in FLAGS
        if role in (c.VALUE, c.POPULARITY, *FLAGS) and not (
            column.dtype == pl.Boolean or (column.dtype.is_numeric() and not flag)
        ):
            wanted = "booleans" if flag else "numbers"
            raise DataError(f"type {column.dtype}, expected {wanted}", file=path, column=names[role])
        if role == c.VALUE and column.dtype.is_numeric():
            rows.columns[role] = column.cast(pl.Float32)
    return rows


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})", file=path) from error


def _one_of(path: Path, patterns: tuple[str, ...]) -> Path:
    """The file itself, or the one file in a folder that matches any of the patterns."""
    if not path.is_dir():
        return path
    found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if len(found) != 1:
        names = [file.name for file in found] or "none"
        raise DataError(f"expected one file named {' or '.join(patterns)} in this folder, found {names}", file=path)
    return found[0]
