"""FeedbackLog: who said what about which item, and what they were shown.

Liked, disliked and *unseen* are three states and never merge. Unseen is the absence of a row; "shown, no reaction" is
an impression without feedback. Values are signed (+1 liked, -1 disliked) or graded on a stated scale; `signed` is the
one place where graded values become signed, at stated cuts. What lies between the cuts was seen but neither liked nor
disliked: it becomes an impression, so that it is not mistaken for unseen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker import columns as c
from tastemaker.data.vocabulary import Ids, Vocabulary, distinct
from tastemaker.errors import DataError, InvalidArgument

FORMAT, VERSION = "tastemaker-log", 1


@dataclass(frozen=True)
class Scale:
    """The values a log may hold: every number in low..high, or exactly -1 and +1 when `signed`."""

    low: float
    high: float
    signed: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidArgument(f"scale {self.low}..{self.high} is empty; expected low < high")


SIGNED = Scale(-1.0, 1.0, signed=True)


@dataclass(frozen=True, eq=False)
class FeedbackLog:
    """Feedback events and impressions of one catalogue.

    Attributes:
        events: one row an event; columns and dtypes of `columns.EVENTS`, more columns are kept as they are. A pair may
            occur more than once.
        user_ids, item_ids: outside id of each row number. They may hold users and items without events.
        scale: what the values mean.
        impressions: one row a shown item (`columns.IMPRESSIONS`), or None where nothing was recorded.
        notes: what reading and conversion did to the data, in words with counts.
    """

    events: pl.DataFrame
    user_ids: Vocabulary
    item_ids: Vocabulary
    scale: Scale = SIGNED
    impressions: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", _conform(self.events, c.EVENTS, c.REQUIRED_EVENTS, "events"))
        _check_rows(self.events, len(self.user_ids), len(self.item_ids))
        _check_values(self.events[c.VALUE], self.scale)
        if self.impressions is not None:
            shown = _conform(self.impressions, c.IMPRESSIONS, c.REQUIRED_IMPRESSIONS, "impressions")
            _check_rows(shown, len(self.user_ids), len(self.item_ids))
            object.__setattr__(self, "impressions", shown)

    # -- building ----------------------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls,
        users: Ids,
        items: Ids,
        values: ArrayLike,
        *,
        times: ArrayLike | None = None,
        scale: Scale = SIGNED,
        user_ids: Vocabulary | None = None,
        item_ids: Vocabulary | None = None,
    ) -> FeedbackLog:
        """A log from equally long sequences of outside ids and values. Known vocabularies are extended."""
        user_ids, user = Vocabulary.encode(users, user_ids)
        item_ids, item = Vocabulary.encode(items, item_ids)
        table = {c.USER: user, c.ITEM: item, c.VALUE: np.asarray(values, np.float32)}
        if times is not None:
            table[c.TIME] = np.asarray(times, np.int64)
        if len({len(column) for column in table.values()}) > 1:
            sizes = ", ".join(f"{len(column)} {name}s" for name, column in table.items())
            raise InvalidArgument(f"columns of different length ({sizes}); expected one row an event")
        return cls(pl.DataFrame(table), user_ids, item_ids, scale)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        format: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        scale: Scale | None = None,
        like: float | None = None,
        dislike: float | None = None,
        on_duplicate: str = "error",
        on_backwards: str = "sort",
        id_type: str | None = None,
        user_ids: Vocabulary | None = None,
        item_ids: Vocabulary | None = None,
    ) -> FeedbackLog:
        """Read a log from a file or folder in any known format; see `tastemaker.data.read.read_log`."""
        from tastemaker.data.read import read_log

        return read_log(
            path,
            format=format,
            columns=columns,
            scale=scale,
            like=like,
            dislike=dislike,
            on_duplicate=on_duplicate,
            on_backwards=on_backwards,
            id_type=id_type,
            user_ids=user_ids,
            item_ids=item_ids,
        )

    # -- looking -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.events.height

    def __repr__(self) -> str:
        kind = "signed" if self.scale.signed else f"graded {self.scale.low:g}..{self.scale.high:g}"
        shown = "" if self.impressions is None else f", {self.impressions.height:,} impressions"
        return f"FeedbackLog({len(self):,} events, {self.n_users:,} users, {self.n_items:,} items, {kind}{shown})"

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def user(self) -> NDArray[np.int32]:
        """User row of each event, shape (n_events,)."""
        return self.events[c.USER].to_numpy()

    @property
    def item(self) -> NDArray[np.int32]:
        """Item row of each event, shape (n_events,)."""
        return self.events[c.ITEM].to_numpy()

    @property
    def value(self) -> NDArray[np.float32]:
        """Value of each event, shape (n_events,)."""
        return self.events[c.VALUE].to_numpy()

    @property
    def users(self) -> NDArray[np.int32]:
        """Rows of the users that have events, ascending."""
        return np.unique(self.user)

    @property
    def items(self) -> NDArray[np.int32]:
        """Rows of the items that have events, ascending."""
        return np.unique(self.item)

    def require_signed(self, who: str) -> None:
        """Raise unless values are likes and dislikes."""
        if not self.scale.signed:
            raise InvalidArgument(
                f"{who} needs likes and dislikes, but this log is graded {self.scale.low:g}..{self.scale.high:g}; "
                f"call log.signed(like=..., dislike=...) first"
            )

    def require_time(self, who: str) -> None:
        """Raise unless events have times."""
        if c.TIME not in self.events.columns:
            raise InvalidArgument(f"{who} needs a time for every event, but this log has no '{c.TIME}' column")
        if nulls := self.events[c.TIME].null_count():
            raise InvalidArgument(f"{who} needs a time for every event, but {nulls} of {len(self)} events have none")

    def matrix(self, weight: NDArray[np.floating] | None = None) -> sparse.csr_matrix:
        """Sparse (n_users, n_items) float32 sums of values (times `weight`) over a pair's events; absent = unseen."""
        data = self.value if weight is None else (self.value * weight).astype(np.float32)
        matrix = sparse.coo_matrix((data, (self.user, self.item)), shape=(self.n_users, self.n_items)).tocsr()
        matrix.sum_duplicates()
        return matrix

    # -- deriving ----------------------------------------------------------------------------------------------------

    def select(self, keep: pl.Expr | NDArray[np.bool_], *, note: str | None = None) -> FeedbackLog:
        """The log with only the chosen events. Vocabularies stay, so rows keep their meaning."""
        events = self.events.filter(keep if isinstance(keep, pl.Expr) else pl.Series(keep))
        return dataclasses.replace(self, events=events, notes=self.notes + ((note,) if note else ()))

    def compact(self) -> FeedbackLog:
        """Only the users and items that occur, in order of first appearance; row numbers change their meaning."""
        parts = [self.events] + ([] if self.impressions is None else [self.impressions])
        tables, vocabularies = list(parts), []
        for column, ids in ((c.USER, self.user_ids), (c.ITEM, self.item_ids)):
            old, new = distinct(pl.concat([part[column] for part in parts]))
            ends = np.cumsum([part.height for part in parts])[:-1]
            rows = np.split(new, ends)
            tables = [table.with_columns(pl.Series(column, row)) for table, row in zip(tables, rows, strict=True)]
            vocabularies.append(Vocabulary(ids.ids(old)))
        users, items = vocabularies
        shown = None if self.impressions is None else tables[1]
        return dataclasses.replace(self, events=tables[0], user_ids=users, item_ids=items, impressions=shown)

    def signed(self, like: float, dislike: float) -> FeedbackLog:
        """Graded values to +1 (value >= like) and -1 (value <= dislike); the rest become impressions, with a note."""
        if self.scale.signed:
            raise InvalidArgument("this log is already signed; cuts apply to graded values only")
        if not dislike < like:
            raise InvalidArgument(f"like={like:g} must be above dislike={dislike:g}")
        if not (self.scale.low <= dislike and like <= self.scale.high):
            raise InvalidArgument(
                f"cuts like={like:g}, dislike={dislike:g} must lie within the scale "
                f"{self.scale.low:g}..{self.scale.high:g}"
            )
        value = pl.col(c.VALUE)
        sign = pl.when(value >= like).then(1.0).when(value <= dislike).then(-1.0).cast(pl.Float32)
        marked = self.events.with_columns(sign.alias(c.VALUE))
        between = self.events.filter((value > dislike) & (value < like))
        seen = between.select([name for name in c.IMPRESSIONS if name in between.columns])
        parts = [part for part in (self.impressions, seen) if part is not None and part.height]
        note = (
            f"signed at like >= {like:g}, dislike <= {dislike:g}; "
            f"{between.height:,} of {len(self):,} values lie between and count as shown without reaction"
        )
        return dataclasses.replace(
            self,
            events=marked.drop_nulls(c.VALUE),
            scale=SIGNED,
            impressions=pl.concat(parts, how="diagonal") if parts else self.impressions,
            notes=(*self.notes, note),
        )

    def aligned(self, user_ids: Vocabulary, item_ids: Vocabulary) -> FeedbackLog:
        """The log in other row numbers, such as those of a fitted model.

        New users are appended to `user_ids`. Events and impressions on items that `item_ids` lacks are left out; a note
        counts them.
        """
        users = user_ids.extend(self.user_ids.series)
        user_rows, item_rows = users.rows(self.user_ids.series), item_ids.find(self.item_ids.series)

        def renumbered(table: pl.DataFrame) -> pl.DataFrame:
            new = {c.USER: user_rows[table[c.USER].to_numpy()], c.ITEM: item_rows[table[c.ITEM].to_numpy()]}
            return table.with_columns(pl.Series(name, rows) for name, rows in new.items()).filter(pl.col(c.ITEM) >= 0)

        events = renumbered(self.events)
        shown = None if self.impressions is None else renumbered(self.impressions)
        lost = len(self) - events.height
        note = (f"{lost:,} of {len(self):,} events are on unknown items and left out",) if lost else ()
        return FeedbackLog(events, users, item_ids, self.scale, shown, self.notes + note)

    # -- keeping -----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the native format: a folder of Parquet files and schema.json."""
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise DataError("is a file; a log is saved in a folder, name one", file=folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.events.write_parquet(folder / "events.parquet")
        pl.DataFrame({"id": self.user_ids.series}).write_parquet(folder / "users.parquet")
        pl.DataFrame({"id": self.item_ids.series}).write_parquet(folder / "items.parquet")
        shown = folder / "impressions.parquet"
        if self.impressions is not None:
            self.impressions.write_parquet(shown)
        else:
            shown.unlink(missing_ok=True)
        schema = {"format": FORMAT, "version": VERSION, "scale": dataclasses.asdict(self.scale), "notes": self.notes}
        (folder / "schema.json").write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> FeedbackLog:
        """Read the native format written by `save`."""
        folder = Path(folder)
        try:
            schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
            found = (schema["format"], schema["version"])
            scale, notes = Scale(**schema["scale"]), tuple(schema["notes"])
        except OSError as error:
            raise DataError("no schema.json; expected a folder written by FeedbackLog.save", file=folder) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"schema.json is not readable ({error})", file=folder / "schema.json") from error
        if found != (FORMAT, VERSION):
            raise DataError(f"holds {found}, expected {(FORMAT, VERSION)}", file=folder / "schema.json")

        def table(name: str) -> pl.DataFrame:
            try:
                return pl.read_parquet(folder / name)
            except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise DataError(f"cannot be read ({error})", file=folder / name) from error

        users, items = table("users.parquet"), table("items.parquet")
        for name, ids in (("users.parquet", users), ("items.parquet", items)):
            if ids.columns != ["id"]:
                raise DataError(f"has columns {ids.columns}, expected ['id']", file=folder / name)
        shown = table("impressions.parquet") if (folder / "impressions.parquet").exists() else None
        try:
            return cls(table("events.parquet"), Vocabulary(users["id"]), Vocabulary(items["id"]), scale, shown, notes)
        except DataError as error:
            raise error if error.file else DataError(error.problem, file=folder, column=error.column) from error


def _conform(
    table: pl.DataFrame, dtypes: Mapping[str, type[pl.DataType]], required: Sequence[str], name: str
) -> pl.DataFrame:
    """Cast the known columns to their dtypes; refuse missing columns and missing cells in the required ones."""
    if missing := [column for column in required if column not in table.columns]:
        raise DataError(f"{name} lack the columns {missing}; found {table.columns}")
    for column in required:
        if nulls := table[column].null_count():
            raise DataError(f"{nulls} {name} have no {column}", column=column)
    for column in table.columns:
        if column in dtypes and table[column].dtype != dtypes[column]:
            table = table.with_columns(_cast(table[column], dtypes[column], name))
    return table


def _cast(values: pl.Series, dtype: type[pl.DataType], name: str) -> pl.Series:
    if values.dtype.is_float() and dtype in (pl.Int32, pl.Int64) and not (values == values.floor()).all():
        raise DataError(f"{name} hold fractions; expected whole numbers", column=values.name)
    try:
        return values.cast(dtype)
    except pl.exceptions.PolarsError as error:
        problem = f"{name} of type {values.dtype} cannot be read as {dtype.__name__} ({str(error).splitlines()[0]})"
        raise DataError(problem, column=values.name) from error


def _check_rows(table: pl.DataFrame, n_users: int, n_items: int) -> None:
    for column, n in ((c.USER, n_users), (c.ITEM, n_items)):
        rows = table[column].to_numpy()
        if not len(rows):
            continue
        low, high = rows.min(), rows.max()
        if low < 0 or high >= n:
            raise DataError(f"{column} rows {low}..{high}, but the vocabulary holds rows 0..{n - 1}", column=column)


def _check_values(values: pl.Series, scale: Scale) -> None:
    data = values.to_numpy()
    if scale.signed:
        if bad := int((np.abs(data) != 1).sum()):
            example = data[np.abs(data) != 1][0]
            raise DataError(f"{bad} values are not -1 or +1, for example {example:g}", column=c.VALUE)
    else:
        outside = ~((data >= scale.low) & (data <= scale.high))  # NaN is outside every scale
        if bad := int(outside.sum()):
            raise DataError(
                f"{bad} values outside the scale {scale.low:g}..{scale.high:g}, for example {data[outside][0]:g}",
                column=c.VALUE,
            )
