"""A log from elsewhere into the store, as one transaction: all of it or nothing.

What the store holds already, as after an export, is left where it is: the same person, thing and moment, and for a word
the same word. One that was taken back since stays taken back. Without a time nothing can be known again, but for the
very same log.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import Connection, Table, exists, func, insert, select

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError
from tastemaker.serve import schema as s
from tastemaker.serve.events import check_text

if TYPE_CHECKING:
    from tastemaker.serve.store import Store

_ROWS = 20_000  # inserted at once


def load(store: Store, log: FeedbackLog) -> tuple[str, ...]:
    """See `Store.load`."""
    log.require_signed("a store")
    notes = []
    if not all(ids.series.dtype == pl.String for ids in (log.user_ids, log.item_ids) if len(ids)):
        notes.append("integer ids became text")
    kept = {*c.EVENTS} - {c.RANDOM, c.POPULARITY}
    if lost := [name for name in log.events.columns if name not in kept]:
        notes.append(f"the columns {', '.join(lost)} are not kept")
    with store.writing() as db:
        last, now = s.turn(db)
        key = f"log {_digest(log)}"
        if db.scalar(select(s.keys.c.seq).where(s.keys.c.key == key)) is not None:
            return ("this log is in the store already",)
        fake = _fake(log)
        users, last = _rows(db, s.users, c.USER, log.user_ids, {"time": now}, {"simulated": fake}, last)
        items, last = _rows(db, s.generations, c.ITEM, log.item_ids, {"time": now}, {}, last)
        if fake.any() and (other := _otherwise(db, log.user_ids, fake)):
            raise DataError(f"user '{other}' is real in one of log and store, and simulated in the other")

        def stored(table: pl.DataFrame, names: list[str]) -> pl.DataFrame:
            """The columns to keep, people and things by the store's rows."""
            time = pl.col(c.TIME).fill_null(now) if c.TIME in table.columns else pl.lit(now, pl.Int64).alias(c.TIME)
            table = table.select(name for name in names if name in table.columns).with_columns(time)
            if table.height and table[c.TIME].max() > now:  # type: ignore[operator]
                raise DataError(f"a time after now ({now}); expected microseconds since 1970", column=c.TIME)
            user, item = users[table[c.USER].to_numpy()], items[table[c.ITEM].to_numpy()]
            return table.with_columns(user.alias(c.USER), item.alias(c.ITEM)).sort(c.TIME, maintain_order=True)

        empty = pl.DataFrame(schema=dict(c.IMPRESSIONS))
        shown = stored(empty if log.impressions is None else log.impressions, list(c.IMPRESSIONS))
        shown, last = _numbered(db, s.impressions, shown, [c.USER, c.ITEM, c.TIME], last)
        said = stored(log.events, [c.USER, c.ITEM, c.VALUE, c.TIME, c.SUPERLIKE])
        if c.SUPERLIKE not in said.columns:
            said = said.with_columns(pl.lit(False).alias(c.SUPERLIKE))
        said = said.with_columns(pl.col(c.SUPERLIKE).fill_null(False), pl.col(c.VALUE).cast(pl.Int64))
        said, last = _numbered(db, s.feedback, said, [c.USER, c.ITEM, c.TIME, c.VALUE, c.SUPERLIKE], last)
        if held := shown.filter(~pl.col("new")).height + said.filter(~pl.col("new")).height:
            total = shown.height + said.height
            notes.append(f"{held:,} of its {total:,} events and impressions were in the store already")
        seen = shown.select(c.USER, c.ITEM, c.TIME, pl.col("seq").alias("impression"))
        said = said.join_asof(seen, on=c.TIME, by=[c.USER, c.ITEM], check_sortedness=False)
        unshown = pl.when(pl.col("impression").is_null()).then(pl.lit("loaded")).alias("unshown")
        said = said.with_columns(unshown)
        with _indexed_after(db, s.impressions), _indexed_after(db, s.feedback):
            _insert(db, s.impressions, shown.filter("new").drop("new"))
            _insert(db, s.feedback, said.filter("new").drop("new"))
        last += 1
        db.execute(insert(s.keys).values(key=key, seq=last, time=now, digest=""))
        s.spend(db, last, now)
    return tuple(notes)


def _numbered(db: Connection, table: Table, rows: pl.DataFrame, same: list[str], last: int) -> tuple[pl.DataFrame, int]:
    """The rows with the `seq` of each, that of the store where it holds them (`new` is False), and the last number.

    Equal rows are told apart by their count: of three, a store that holds one lacks two.
    """
    span = table.c[c.TIME].between(*rows.select(low=pl.col(c.TIME).min(), high=pl.col(c.TIME).max()).row(0))
    query = select(*(table.c[name] for name in same), table.c.seq).where(span)
    held = s.frame(db, query, {name: rows.schema[name].base_type() for name in same} | {"seq": pl.Int64})
    times = pl.int_range(pl.len()).over(same).alias("times")
    found = rows.with_columns(times).join(
        held.sort("seq").with_columns(times), on=[*same, "times"], how="left", maintain_order="left"
    )
    new = pl.col("seq").is_null()
    found = found.with_columns(new.alias("new"), pl.col("seq").fill_null(last + new.cum_sum())).drop("times")
    return found, last + int(found["new"].sum())


def _rows(
    db: Connection,
    table: Table,
    number: str,
    ids: Vocabulary,
    fixed: dict[str, Any],
    more: dict[str, pl.Series],
    last: int,
) -> tuple[pl.Series, int]:
    """The store's row of each id of a vocabulary, unknown ones added; and the last number given out."""
    wanted = pl.DataFrame({"id": ids.series.cast(pl.String), **more})
    for id in wanted["id"]:
        check_text(id, f"{number} id")
    known = s.frame(db, select(table.c.id, table.c[number]), {"id": pl.String, number: pl.Int64})
    new = wanted.join(known, on="id", how="anti", maintain_order="left").with_row_index("at")
    first = db.scalar(select(func.max(table.c[number])))
    new = new.with_columns(
        (pl.col("at").cast(pl.Int64) + (0 if first is None else first + 1)).alias(number),
        (pl.col("at").cast(pl.Int64) + last + 1).alias("seq"),
    ).drop("at")
    _insert(db, table, new.with_columns(pl.lit(value).alias(name) for name, value in fixed.items()))
    rows = pl.concat([known, new.select("id", number)])
    return wanted.join(rows, on="id", how="left", maintain_order="left")[number], last + new.height


def _fake(log: FeedbackLog) -> pl.Series:
    """Whether each user of the log is simulated."""
    if c.SIMULATED not in log.events.columns:
        return pl.Series([False] * log.n_users, dtype=pl.Boolean)
    of = log.events.group_by(c.USER).agg(
        some=pl.col(c.SIMULATED).fill_null(False).any(), every=pl.col(c.SIMULATED).fill_null(False).all()
    )
    if (mixed := of.filter(pl.col("some") & ~pl.col("every"))).height:
        raise DataError(f"{mixed.height} users are simulated in some events only; expected all or none")
    users = pl.DataFrame({c.USER: pl.Series(range(log.n_users), dtype=pl.Int32)})
    return users.join(of, on=c.USER, how="left", maintain_order="left")["some"].fill_null(False)


def _otherwise(db: Connection, ids: Vocabulary, fake: pl.Series) -> str | None:
    stored = {row.id: row.simulated for row in db.execute(select(s.users.c.id, s.users.c.simulated))}
    pairs = zip(ids.series.cast(pl.String), fake, strict=True)
    return next((id for id, simulated in pairs if stored[id] != simulated), None)


@contextlib.contextmanager
def _indexed_after(db: Connection, table: Table) -> Iterator[None]:
    """Fill a table, if it is empty, without its indexes, and make them at the end: a third of the time.

    Not where there are rows already: on PostgreSQL all who read them would wait.
    """
    indexes = [] if db.scalar(select(exists(select(table)))) else sorted(table.indexes, key=lambda one: str(one.name))
    for index in indexes:
        index.drop(db)
    yield
    for index in indexes:
        index.create(db)


def _insert(db: Connection, table: Table, rows: pl.DataFrame) -> None:
    for start in range(0, rows.height, _ROWS):
        s.insert_rows(db, table, rows.columns, rows.slice(start, _ROWS).rows())


def _digest(log: FeedbackLog) -> str:
    whole = hashlib.sha256()
    for frame in (log.events, log.impressions, log.user_ids.series.to_frame(), log.item_ids.series.to_frame()):
        if frame is not None:
            whole.update(frame.write_csv().encode())
    return whole.hexdigest()[:32]
