"""From columns of outside ids to a FeedbackLog: values, ids, repeated pairs, cuts, each by one stated rule.

Ids are decided on the distinct ones: all plain integers -> integers, none -> text, most integers and some text -> an
error, because that is what a broken row looks like. '07' and '7' are never merged.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.data.feedback import SIGNED, FeedbackLog, Scale
from tastemaker.data.read.rows import DEFAULT, Options, Rows
from tastemaker.data.read.times import microseconds
from tastemaker.data.vocabulary import Vocabulary, distinct
from tastemaker.errors import DataError, TastemakerError


def build(rows: Rows, options: Options = DEFAULT) -> FeedbackLog:
    """The log of what a reader found. Raises DataError naming file, line and column of the first offence."""
    columns, notes = rows.columns, [*rows.notes]
    if not len(columns[c.USER]):
        raise DataError("holds no rows; expected at least one event", file=rows.path)
    if c.VALUE in columns:
        values, scale, said = _values(rows, columns.pop(c.VALUE), options.scale or rows.scale)
        notes += said
    else:
        scale = SIGNED
        values = np.ones(len(columns[c.USER]), np.float32)
        notes.append(rows.guess("no column of values: every row counts as a like"))
    if c.TIME in columns:
        columns[c.TIME], said = microseconds(rows, columns.pop(c.TIME))
        notes += said
    user_ids, user = encode(rows, c.USER, columns.pop(c.USER), options.id_type, options.user_ids)
    item_ids, item = encode(rows, c.ITEM, columns.pop(c.ITEM), options.id_type, options.item_ids)
    keep, said = _repeated(rows, user, item, user_ids, item_ids, options.on_duplicate)
    notes += said
    table = pl.DataFrame({c.USER: user, c.ITEM: item, c.VALUE: values, **columns})
    columns.clear()
    if keep is not None:
        table = table.filter(pl.Series(keep))
    try:
        log = FeedbackLog(table, user_ids, item_ids, scale, notes=tuple(notes))
    except DataError as error:
        raise DataError(error.problem, file=rows.path, column=error.column) from error
    return log if options.like is None or options.dislike is None else log.signed(options.like, options.dislike)


def _values(rows: Rows, given: pl.Series, scale: Scale | None) -> tuple[NDArray[np.float32], Scale, list[str]]:
    if given.dtype == pl.Boolean:
        note = f"'{rows.names[c.VALUE]}' read as true = like, false = dislike"
        return np.where(given.to_numpy(), np.float32(1), np.float32(-1)), SIGNED, [rows.guess(note)]
    values = given.to_numpy().astype(np.float32, copy=False)
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise rows.fault(
            c.VALUE, int(bad[0]), f"{values[bad[0]]} is not a finite number; {len(bad)} such values in all"
        )
    if scale is None:
        values, scale, note = _scale_of(rows, values)
        return values, scale, [rows.guess(note)]
    outside = np.abs(values) != 1 if scale.signed else (values < scale.low) | (values > scale.high)
    if len(bad := np.flatnonzero(outside)):
        wanted = "-1 or +1" if scale.signed else f"{scale.low:g}..{scale.high:g}"
        raise rows.fault(
            c.VALUE, int(bad[0]), f"{values[bad[0]]:g} is not on the scale {wanted}; {len(bad)} such values in all"
        )
    return values, scale, []


def _scale_of(rows: Rows, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], Scale, str]:
    """The scale of values that come without one, and the guess in words."""
    name = rows.names.get(c.VALUE, c.VALUE)
    low, high = float(values.min()), float(values.max())
    if bool((np.abs(values) == 1).all()):
        return values, SIGNED, f"'{name}' holds only -1 and +1: read as dislikes and likes"
    two = bool(((values == 0) | (values == 1)).all())
    if two and name.lower() in ("liked", "like", "is_like"):
        return np.where(values == 1, np.float32(1), np.float32(-1)), SIGNED, f"'{name}' read as 1 = like, 0 = dislike"
    if low == high:
        raise DataError(
            f"every value is {low:g}, so the scale is unknown; say scale=Scale(low, high), on the command line "
            "--scale LOW HIGH",
            file=rows.path,
            column=name,
        )
    return (
        values,
        Scale(low, high),
        f"no scale given: taken as {low:g}..{high:g}, the smallest and largest '{name}' found",
    )


def encode(
    rows: Rows, role: str, ids: pl.Series, id_type: str | None, known: Vocabulary | None
) -> tuple[Vocabulary, NDArray[np.int32]]:
    """Vocabulary of one role's ids, and the row of each (n,)."""
    if ids.null_count():
        raise rows.fault(role, int(ids.is_null().arg_max() or 0), f"the id is missing; {ids.null_count()} such in all")
    if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise rows.fault(role, 0, f"ids of type {ids.dtype}; expected integers or text")
    if ids.dtype == pl.UInt64 and (big := ids > 2**63 - 1).any():
        raise rows.fault(role, int(big.arg_max() or 0), f"id {ids[int(big.arg_max() or 0)]} does not fit 64 bits")
    ids = ids.cast(pl.Int64) if ids.dtype.is_integer() else ids.cast(pl.String)
    each, place = distinct(ids)
    if each.dtype == pl.Int64 and id_type == "string":
        each = each.cast(pl.String)
    elif each.dtype == pl.String:
        each = _typed(rows, role, each, place, id_type, known)
    if known is None:
        return Vocabulary(each), place
    try:
        words = known.extend(each)
    except TastemakerError as error:
        raise DataError(
            f"the ids do not go with the given vocabulary ({error})", file=rows.path, column=role
        ) from error
    return words, words.rows(each)[place]


def _typed(
    rows: Rows, role: str, each: pl.Series, place: NDArray[np.int32], id_type: str | None, known: Vocabulary | None
) -> pl.Series:
    """Distinct text ids as integers where they all are; refuse what no id looks like."""

    def fault(bad: pl.Series, problem: str) -> DataError:
        number = int(bad.arg_max() or 0)
        return rows.fault(role, int(np.flatnonzero(place == number)[0]), problem.format(repr(each[number])))

    if (odd := each.str.contains(r"[\x00-\x1f\x7f]") | (each == "")).any():
        raise fault(
            odd, "{} is no id: it is empty or holds a line break, tab or control character; is a quote not closed?"
        )
    if rows.as_text and id_type != "string" and (odd := each.str.strip_chars() != each).any():
        raise fault(odd, "id {} begins or ends with a space; remove it, or say id_type='string' to keep it")
    whole = each.cast(pl.Int64, strict=False)
    plain = (whole.cast(pl.String) == each).fill_null(False)
    n_plain = int(plain.sum())
    if id_type == "int" and n_plain < len(each):
        raise fault(~plain, "id {} is not a plain integer, but id_type='int'")
    if id_type == "string" or (known is not None and len(known) and known.series.dtype == pl.String):
        return each
    if id_type == "int" or (rows.as_text and n_plain == len(each)):
        return whole
    if rows.as_text and n_plain > len(each) - n_plain:
        remedy = "expected one kind; mend the line, or say id_type='string'"
        raise fault(~plain, f"id {{}} is not a plain integer, but {n_plain} of {len(each)} distinct ids are; {remedy}")
    return each


def _repeated(
    rows: Rows,
    user: NDArray[np.int32],
    item: NDArray[np.int32],
    user_ids: Vocabulary,
    item_ids: Vocabulary,
    policy: str,
) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """Which rows stay (n,), or None for all, and a note where a pair occurs more than once."""
    pair = pl.Series(user.astype(np.int64) * len(item_ids) + item)
    extra = len(pair) - pair.n_unique()
    if not extra:
        return None, []
    if policy == "error":
        again = int((~pair.is_first_distinct()).arg_max() or 0)
        first = int((pair == pair[again]).arg_max() or 0)
        where = f"line {rows.line(first)}" if rows.line else f"row {first + 1}"
        who = f"user {user_ids.series[int(user[again])]!r} and item {item_ids.series[int(item[again])]!r}"
        raise rows.fault(
            c.ITEM,
            again,
            f"{who} occur again (first in {where}); {extra} such rows in all; "
            f"say on_duplicate='first', 'last' or 'keep' if that is meant",
        )
    if policy == "keep":
        return None, [f"{extra:,} rows repeat a pair; all kept"]
    times = rows.columns.get(c.TIME)
    order = np.arange(len(pair)) if times is None else np.argsort(times.to_numpy(), kind="stable")
    sorted_pairs = pair.gather(order)
    chosen = sorted_pairs.is_first_distinct() if policy == "first" else sorted_pairs.is_last_distinct()
    keep = np.zeros(len(pair), bool)
    keep[order[chosen.to_numpy()]] = True
    return keep, [f"{extra:,} rows repeat a pair; the {policy} {'in the file' if times is None else 'by time'} kept"]
