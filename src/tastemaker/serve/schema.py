"""Tables of the store, one schema for SQLite and PostgreSQL, and how an older store becomes a newer one.

Columns are named as in `tastemaker.columns`. Two tables are the store's vocabularies: `users` and `generations` give
every outside id a row number from 0 on, and all others hold these rows. `impressions`, `feedback`, `votes`,
`retractions` and the vocabularies are only ever added to; `seq` numbers their rows in one sequence without gaps, in the
order in which they were committed. `clock` (one row) holds the last number and the last time given out, and is the lock
that makes writers, also of several processes, take turns. `jobs` alone is changed in place.

A store that is new gets the tables as they are here and the newest version; an older one gets the steps it lacks. A
step, once released, never changes.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from tastemaker import columns as c
from tastemaker.errors import DataError, InvalidArgument, MissingExtra

TABLES = sa.MetaData()
_FETCHED = 10_000  # rows from the driver at once
_PAUSE = 0.02  # seconds before a locked file is asked again
BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # in SQLite INTEGER alone makes a key the row number

schema_version = sa.Table(
    "schema_version", TABLES, sa.Column("version", sa.Integer, primary_key=True), sa.Column(c.TIME, BIG, nullable=False)
)

clock = sa.Table(
    "clock",
    TABLES,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True),
    sa.Column("seq", BIG, nullable=False),
    sa.Column(c.TIME, BIG, nullable=False),
)

keys = sa.Table(  # what an idempotency key was first used for
    "keys",
    TABLES,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("seq", BIG, nullable=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
)

users = sa.Table(
    "users",
    TABLES,
    sa.Column(c.USER, sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("seq", BIG, nullable=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column(c.SIMULATED, sa.Boolean, nullable=False),
)

generations = sa.Table(
    "generations",
    TABLES,
    sa.Column(c.ITEM, sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("seq", BIG, nullable=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column("model", sa.String),
    sa.Column(c.USER, sa.ForeignKey("users.user")),  # who ordered it
    sa.Column("recipe", sa.String),
    sa.Column("job", BIG, index=True),
)

impressions = sa.Table(
    "impressions",
    TABLES,
    sa.Column("seq", BIG, primary_key=True, autoincrement=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column(c.USER, sa.ForeignKey("users.user"), nullable=False),
    sa.Column(c.ITEM, sa.ForeignKey("generations.item"), nullable=False),
    sa.Column(c.POSITION, sa.Integer),
    sa.Column(c.POLICY, sa.String),
    sa.Column(c.PROBABILITY, sa.Double),
    sa.Index("impressions_of_user", c.USER, c.ITEM),
)

feedback = sa.Table(
    "feedback",
    TABLES,
    sa.Column("seq", BIG, primary_key=True, autoincrement=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column(c.USER, sa.ForeignKey("users.user"), nullable=False),
    sa.Column(c.ITEM, sa.ForeignKey("generations.item"), nullable=False),
    sa.Column(c.VALUE, sa.Integer, sa.CheckConstraint("value IN (-1, 1)"), nullable=False),
    sa.Column(c.SUPERLIKE, sa.Boolean, nullable=False),
    sa.Column("impression", BIG),  # what it answers; NULL where `unshown` says why there is none
    sa.Column("unshown", sa.String),
    sa.Column("client_time", BIG),
    sa.Index("words_of_user", c.USER, c.ITEM, c.VALUE, c.SUPERLIKE, c.TIME),  # all that a list asks for: no row is read
)

votes = sa.Table(
    "votes",
    TABLES,
    sa.Column("seq", BIG, primary_key=True, autoincrement=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column(c.USER, sa.ForeignKey("users.user"), nullable=False, index=True),
    sa.Column("tag", sa.String),
    sa.Column("choices", sa.String, nullable=False),  # JSON
    sa.Column(c.POLICY, sa.String),
    sa.Column(c.PROBABILITY, sa.Double),
)

retractions = sa.Table(
    "retractions",
    TABLES,
    sa.Column("seq", BIG, primary_key=True, autoincrement=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column(c.USER, sa.ForeignKey("users.user"), nullable=False),
    sa.Column("event", BIG, nullable=False, unique=True),  # seq of the feedback or vote
)

jobs = sa.Table(
    "jobs",
    TABLES,
    sa.Column("job", BIG, primary_key=True, autoincrement=False),
    sa.Column(c.TIME, BIG, nullable=False),
    sa.Column("changed", BIG, nullable=False),
    sa.Column("key", sa.String, unique=True),
    sa.Column(c.USER, sa.ForeignKey("users.user")),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("work", sa.String, nullable=False),  # JSON
    sa.Column("needs", sa.String, nullable=False),  # JSON
    sa.Column("state", sa.String, nullable=False),
    sa.Column("worker", sa.String),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("beats", BIG, nullable=False),
    sa.Column("stop", sa.Boolean, nullable=False),  # somebody asked to cancel it
    sa.Column("progress", sa.Double, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("result", sa.String),  # JSON
    sa.Index("jobs_by_state", "state", "job"),
)

#: What brings a store of the version before to this one.
STEPS: Mapping[int, Sequence[ExecutableDDLElement]] = {
    2: (CreateTable(jobs), *(CreateIndex(index) for index in sorted(jobs.indexes, key=lambda i: str(i.name)))),
    3: (
        sa.DDL("DROP INDEX feedback_of_user"),  # type: ignore[no-untyped-call]
        *(CreateIndex(index) for index in feedback.indexes),
    ),
}
VERSION = max(STEPS)


def migrate(db: sa.Connection) -> int:
    """Make the schema, or bring an older one up to `VERSION`, within the connection's transaction; the version before.

    Raises DataError for a store of a newer version, or a database that holds other things.
    """
    if db.dialect.name == "postgresql":  # SQLite's writers take turns anyway
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(7461)))
    found = set(sa.inspect(db).get_table_names())
    if schema_version.name not in found:
        if found:
            raise DataError(f"this database holds {sorted(found)[:5]}; expected an empty one or a tastemaker store")
        TABLES.create_all(db)
        before = 0
        db.execute(sa.insert(clock).values(one=1, seq=0, time=0))
    else:
        before = db.scalar(sa.select(sa.func.max(schema_version.c.version))) or 0
        if before > VERSION:
            raise DataError(f"this store has version {before}, this tastemaker knows {VERSION}; install a newer one")
        for version in range(before + 1, VERSION + 1):
            for step in STEPS[version]:
                db.execute(step)
    if before < VERSION:
        db.execute(sa.insert(schema_version).values(version=VERSION, time=now()))
    return before


_TURN = sa.select(clock.c.seq, clock.c.time).with_for_update()
_SPEND = sa.update(clock).values(seq=sa.bindparam("last"), time=sa.bindparam("at"))


def turn(db: sa.Connection) -> tuple[int, int]:
    """Wait for the writers' turn, which lasts until the transaction ends: the last number given out, and the time.

    Time is the server's and never runs backwards: where the wall clock does, the last time given out is given again.
    """
    seq, last = db.execute(_TURN).one()
    return seq, max(last, now())


def spend(db: sa.Connection, seq: int, at: int) -> None:
    """Keep the last number and time given out in this turn."""
    db.execute(_SPEND, {"last": seq, "at": at})


def insert_rows(db: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows of these columns, handed to the driver as they are.

    SQLAlchemy's own way through dictionaries takes longer than the database does.
    """
    text, order = _insertion(table, tuple(columns), db.dialect)
    if order is None:
        db.exec_driver_sql(text, [dict(zip(columns, row, strict=True)) for row in rows])
    elif order == tuple(columns):
        db.exec_driver_sql(text, [tuple(row) for row in rows])
    else:
        pick = operator.itemgetter(*(columns.index(name) for name in order))
        db.exec_driver_sql(text, [pick(row) for row in rows])


def frame(db: sa.Connection, query: sa.Select[Any], dtypes: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """All rows of a query, its columns of these dtypes, taken from the driver some thousands at a time.

    SQLAlchemy's own rows, and all rows at once, take as long again as the database does.
    """
    columns = query.selected_columns
    plain = (sa.cast(one, sa.Integer) if isinstance(one.type, sa.Boolean) else one for one in columns)  # SQLite's are
    held = {name: pl.Int64 if dtypes[name] == pl.Boolean else dtypes[name] for name in columns.keys()}  # noqa: SIM118
    cursor = db.execute(query.with_only_columns(*plain, maintain_column_froms=True)).cursor
    parts = [pl.DataFrame(schema=held)]
    while rows := cursor.fetchmany(_FETCHED):
        parts.append(pl.DataFrame(list(zip(*rows, strict=True)), schema=held, orient="col"))
    return pl.concat(parts).with_columns(pl.col(name).cast(dtypes[name]) for name in held)


@functools.lru_cache(64)
def _insertion(table: sa.Table, columns: tuple[str, ...], dialect: sa.Dialect) -> tuple[str, tuple[str, ...] | None]:
    """An INSERT as the driver wants it, and the order of its values; None where they go by name."""
    written = sa.insert(table).compile(dialect=dialect, column_keys=list(columns))
    order = getattr(written, "positiontup", None)
    return str(written), None if order is None else tuple(order)


class Ready:
    """A query of one row written out for the driver once, for what every list asks.

    SQLAlchemy's own way to it and back takes longer than the database does. `error` is what the driver raises.
    """

    def __init__(self, engine: sa.Engine, query: sa.Select[Any]) -> None:
        written = query.compile(engine)
        self._engine, self._text = engine, str(written)
        self._order: list[str] | None = getattr(written, "positiontup", None)
        self.error: type[Exception] = engine.dialect.dbapi.Error  # type: ignore[union-attr]

    def __call__(self, **values: int) -> Any:
        given = values if self._order is None else [values[name] for name in self._order]
        raw = self._engine.raw_connection()
        try:
            return raw.cursor().execute(self._text, given).fetchone()
        finally:
            raw.close()


def now() -> int:
    """The wall clock, microseconds since 1970."""
    return time.time_ns() // 1000


def connect(where: str | Path, patience: float) -> sa.Engine:
    """An engine for a file (SQLite) or a URL (sqlite:///FILE, postgresql://...), with the schema made or migrated.

    Whatever either database acknowledges is on the disk: SQLite writes its log through (WAL, synchronous=FULL) and
    PostgreSQL has synchronous_commit=on, whatever its configuration says. Raises InvalidArgument for another kind of
    database, MissingExtra without its driver, DataError as `migrate` does.
    """
    url = _url(where)
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql") or (kind == "sqlite" and url.database in (None, "", ":memory:")):
        raise InvalidArgument(
            f"'{called(where)}' is no store; expected a file, sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
    if kind == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": patience}, pool_size=40)
    else:
        url = url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, pool_size=20, connect_args={"connect_timeout": 5})
        except ModuleNotFoundError as error:
            raise MissingExtra("psycopg", "postgres") from error

    @sa.event.listens_for(engine, "connect")
    def careful(raw: Any, record: object) -> None:
        if kind == "postgresql":
            raw.execute("SET synchronous_commit = on")
            raw.commit()
            return
        raw.isolation_level = None  # the driver must not begin transactions of its own: `begin` does
        _write_ahead(raw, patience)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            raw.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(db: sa.Connection) -> None:
        if kind == "sqlite":
            db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writes") else "BEGIN")

    with writing(engine) as db:
        migrate(db)
    return engine


def _write_ahead(raw: sqlite3.Connection, patience: float) -> None:
    """Keep the file's log written ahead (WAL), which stays so once set.

    Where others open a new file at the same time, SQLite refuses the change at once, whatever its timeout: who waits
    would hold the lock the other waits for. So it is asked again.
    """
    until = time.monotonic() + patience
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def called(where: str | Path) -> str:
    """The store's name for messages: its file, or its URL without the password."""
    return _url(where).render_as_string() if "://" in str(where) else str(where)


def _url(where: str | Path) -> sa.URL:
    """Raises InvalidArgument for what begins like a URL and is none."""
    if not isinstance(where, str) or "://" not in where:
        return sa.URL.create("sqlite", database=str(where))
    try:
        return sa.make_url(where)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise InvalidArgument("the store's URL cannot be read; expected postgresql://USER@HOST:PORT/NAME") from error


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes; committed at the end, rolled back on an error."""
    with engine.connect().execution_options(writes=True) as db, db.begin():
        yield db
