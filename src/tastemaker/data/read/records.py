"""Small tables with named columns, CSV or Parquet, that know the line of every cell: for catalogues, not for logs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tastemaker.data.read.text import read_bytes
from tastemaker.errors import DataError


@dataclass(frozen=True, eq=False)
class Records:
    """A table of text cells.

    Attributes:
        path: the file.
        table: every column as text; null only in Parquet.
        lines: line on which each row ends, shape (n,); the row's number, from 1, in Parquet.
    """

    path: Path
    table: pl.DataFrame
    lines: tuple[int, ...]

    @classmethod
    def read(cls, path: str | Path, needed: Sequence[str]) -> Records:
        """Read a file that must have the columns `needed`; others are kept.

        Raises DataError for an unreadable file, a missing or doubled column, no rows, or a row of another width.
        """
        path = Path(path)
        parquet = path.suffix == ".parquet"
        table, lines = _parquet(path) if parquet else _csv(path)
        if absent := [name for name in needed if name not in table.columns]:
            where = None if parquet else 1
            raise DataError(f"column missing; found {table.columns}", file=path, line=where, column=absent[0])
        if table.is_empty():
            raise DataError("holds a header and no rows", file=path)
        return cls(path, table, lines)

    def text(self, name: str, *, blank: bool = False) -> pl.Series:
        """A column as text; an empty cell is refused unless `blank`."""
        values = self.table[name].fill_null("")
        if not blank and (bad := values.str.strip_chars() == "").any():
            raise self.fault(name, int(bad.arg_max() or 0), "is empty")
        return values

    def whole(self, name: str, *, low: int = 0, blank: bool = False) -> pl.Series:
        """A column of whole numbers from `low` on, as Int64; null where it is empty, if `blank` allows that."""
        values, empty = self._cast(name, pl.Int64, blank)
        return self._require(
            name, values, (values < low) | (values.is_null() & ~empty), f"a whole number from {low} on"
        )

    def number(self, name: str, *, blank: bool = False) -> pl.Series:
        """A column of finite numbers, as Float64; null where it is empty, if `blank` allows that."""
        values, empty = self._cast(name, pl.Float64, blank)
        return self._require(name, values, ~values.is_finite() | (values.is_null() & ~empty), "a finite number")

    def key(self, *names: str) -> None:
        """Raise DataError where two rows agree in all these columns."""
        first: dict[tuple[object, ...], int] = {}
        for row, value in enumerate(self.table.select(names).iter_rows()):
            if (seen := first.setdefault(value, row)) != row:
                told = ", ".join(str(v) for v in value)
                raise self.fault(names[-1], row, f"{told} was there before, on line {self.lines[seen]}; expected once")

    def fault(self, name: str, row: int, problem: str) -> DataError:
        return DataError(problem, file=self.path, line=self.lines[row], column=name)

    def _cast(self, name: str, kind: type[pl.DataType], blank: bool) -> tuple[pl.Series, pl.Series]:
        text = self.text(name, blank=blank).str.strip_chars()
        return text.cast(kind, strict=False), text == ""

    def _require(self, name: str, values: pl.Series, bad: pl.Series, expected: str) -> pl.Series:
        if (wrong := bad.fill_null(False)).any():
            row = int(wrong.arg_max() or 0)
            raise self.fault(name, row, f"'{self.table[name][row][:40]}' is not {expected}")
        return values


def _csv(path: Path) -> tuple[pl.DataFrame, tuple[int, ...]]:
    reader = csv.reader(io.StringIO(read_bytes(path).decode("utf-8"), newline=""), strict=True)
    rows, lines = [], []
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if len(row) != len(header):
                problem = f"{len(row)} cells, but the header names {len(header)} columns"
                raise DataError(problem, file=path, line=reader.line_num)
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"is no CSV ({error})", file=path, line=reader.line_num) from error
    if twice := [name for name in header if header.count(name) > 1]:
        raise DataError("the header names it twice", file=path, line=1, column=twice[0])
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row"), tuple(lines)


def _parquet(path: Path) -> tuple[pl.DataFrame, tuple[int, ...]]:
    try:
        table = pl.read_parquet(path)
        table = table.select(pl.exclude(pl.Binary, pl.Struct)).cast(pl.String)  # pictures inside the file are not read
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"cannot be read as Parquet ({error})", file=path) from error
    return table, tuple(range(1, table.height + 1))
