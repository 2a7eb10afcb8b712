"""The store: what was shown, said, voted and made, in a file or in PostgreSQL. Nothing acknowledged is ever lost.

One thread writes. It takes everything that waits, stores it in one transaction and acknowledges after the commit, which
is on the disk by then (group commit): one sync serves all who wait, so that the rate grows with their number. Reads are
ordinary queries beside it.

A lost connection or a locked file is tried again for `patience` seconds. Every event has a key, the caller's or one
made here, so that trying again after a commit whose answer was lost stores nothing twice. A full disk is not tried
again: all who wait get StoreDown, and what is sent after room was made is stored as ever. Any number of processes may
open one store; the row `clock` makes their writers take turns.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.exc import DBAPIError

from tastemaker import columns as c
from tastemaker.choose.votes import Choice, Vote
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import UnknownId
from tastemaker.serve import schema as s
from tastemaker.serve.events import Event, Known, Receipt, Sent, StoreDown, check_text, choices_of, commit
from tastemaker.serve.intake import load

_BATCH = 1024  # events a transaction
_APART = 0.01  # seconds between the beginnings of two transactions
_PAUSE = 0.1  # seconds before a write is tried again


@dataclass(frozen=True)
class Word:
    """The last word of a person on an item: +1 or -1."""

    value: int
    superlike: bool
    seq: int
    time: int


@dataclass(frozen=True, eq=False)
class Stand:
    """Where a person stands, by rows: what a list for them is made from.

    Attributes:
        items: spoken about, each once, shape (n,).
        values: the last word on each, +1 or -1, shape (n,).
        shown: items ever shown to them, some more than once.
        n_items: things in the store.
    """

    items: NDArray[np.int32]
    values: NDArray[np.int32]
    shown: NDArray[np.int32]
    n_items: int


@dataclass(frozen=True)
class Past:
    """Something a person said or voted. `value` and `superlike` of a word, `choices` of a vote."""

    seq: int
    time: int
    items: tuple[str, ...]
    value: int | None = None
    superlike: bool = False
    choices: tuple[Choice, ...] = ()
    undone: bool = False


@dataclass(frozen=True)
class Item:
    """A picture, or whatever else can be shown; `row` is its number in logs of this store."""

    id: str
    row: int
    seq: int
    time: int
    model: str | None
    user: str | None
    recipe: str | None
    job: int | None


@dataclass(frozen=True)
class Person:
    """A person; `row` is their number in logs of this store."""

    id: str
    row: int
    seq: int
    time: int
    simulated: bool


class Store:
    """Open with a path or URL; close it, or use it in `with`, so that nothing that waits is left unwritten."""

    def __init__(self, where: str | Path, *, patience: float = 10.0, waiting: int = 10_000) -> None:
        """Open or make a store.

        Args:
            where: a file, sqlite:///FILE or postgresql://USER@HOST/NAME.
            patience: seconds to try again while the database is away or locked.
            waiting: events that may wait; more are refused with StoreDown.

        Raises:
            DataError: a store of a newer version, or a database of something else.
            StoreDown: it cannot be reached or made.
        """
        self.where, self._name, self._patience = str(where), s.called(where), patience
        with _reachable(self._name):
            self._engine = s.connect(where, patience)
        self._known, self._stand = Known(), s.Ready(self._engine, _stand())
        self._counted = 0, {table.name: 0 for table in (s.impressions, s.feedback, s.votes, s.retractions)}
        self._names: list[str] = []  # id of each row of `generations`; rows never change
        self._waiting: queue.Queue[tuple[Sent, Future[Receipt]] | None] = queue.Queue(waiting)
        self._open, self._gate = True, threading.Lock()
        self._writer = threading.Thread(target=self._write, name="store", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, then end."""
        with self._gate:
            was_open, self._open = self._open, False
        if was_open:
            self._waiting.put(None)
        self._writer.join()
        self._engine.dispose()

    # -- writing -----------------------------------------------------------------------------------------------------

    def add(self, event: Event, *, key: str | None = None) -> Receipt:
        """Store an event; when this returns, it is on the disk.

        Raises:
            UnknownId: a person or item not stored before; an undo of what the person did not say.
            Conflict: the key or id stands for something else.
            InvalidArgument: a word about something never shown, without a reason.
            StoreDown: nothing was acknowledged; send again with the same key.
        """
        return self.submit(event, key=key).result()

    def submit(self, event: Event, *, key: str | None = None) -> Future[Receipt]:
        """Like `add`, without waiting: the future's result comes, and its errors, when `add` would return."""
        own = key is None
        sent = Sent(event, uuid.uuid4().hex if key is None else check_text(key, "key"), own)
        future = Future[Receipt]()
        with self._gate:  # nothing may enter the queue behind close()
            if not self._open:
                raise StoreDown(f"the store {self._name} was closed")
            try:
                self._waiting.put_nowait((sent, future))
            except queue.Full:
                raise StoreDown(f"{self._waiting.maxsize:,} events wait to be written; send it again later") from None
        return future

    def _write(self) -> None:
        """What the thread does: take all that waits, store it, acknowledge.

        A transaction costs as much as twenty events, so that many small ones would leave no time for anything else: the
        next begins a moment after the last one began. Whoever comes after a pause does not wait.
        """
        ends, began = False, 0.0
        while not ends:
            taken = [self._waiting.get()]
            time.sleep(max(0.0, began + _APART - time.monotonic()))
            began = time.monotonic()
            with contextlib.suppress(queue.Empty):
                while len(taken) < _BATCH:
                    taken.append(self._waiting.get_nowait())
            ends = None in taken
            batch = [one for one in taken if one is not None and one[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                outcomes = self._commit([sent for sent, _ in batch])
            except Exception as error:  # whatever it is, those who wait must hear of it
                outcomes = [error] * len(batch)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Receipt):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    def _commit(self, sent: list[Sent]) -> list[Any]:
        until, again = time.monotonic() + self._patience, False
        while True:
            try:
                with s.writing(self._engine) as db:
                    outcomes, found = commit(db, sent, self._known, again=again)
            except DBAPIError as error:
                if not _passing(error) or time.monotonic() > until:
                    raise StoreDown(f"{self._name}: {_said(error)}; nothing was acknowledged") from error
                time.sleep(_PAUSE)
                again = True  # the last commit may have come through
            else:
                self._known.users.update(found.users)
                self._known.items.update(found.items)
                return list(outcomes)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction of the caller's own, for tables that are no events. Raises StoreDown."""
        with _reachable(self._name), s.writing(self._engine) as db:
            yield db

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads. Raises StoreDown."""
        with _reachable(self._name), self._engine.connect() as db, db.begin():
            yield db

    # -- reading -----------------------------------------------------------------------------------------------------

    def seq(self) -> int:
        """The last number given out."""
        with self.reading() as db:
            return int(db.scalar(select(s.clock.c.seq)) or 0)

    def counts(self) -> dict[str, int]:
        """Rows of each table of events. Counts what came since the last time: nothing is ever deleted."""
        upto, counted = self._counted
        with self.reading() as db:
            now = int(db.scalar(select(s.clock.c.seq)) or 0)
            found = {name: n + int(db.scalar(_since(name), {"a": upto, "b": now}) or 0) for name, n in counted.items()}
            rows = {one.table.name: db.scalar(select(func.max(one))) for one in (s.users.c.user, s.generations.c.item)}
        self._counted = now, found
        return {name: 0 if row is None else int(row) + 1 for name, row in rows.items()} | found

    def user(self, id: str) -> Person:
        """A person. Raises UnknownId."""
        with self.reading() as db:
            row = db.execute(_person(), {"id": id}).one_or_none()
        if row is None:
            raise UnknownId(f"nobody is called '{id}'")
        self._known.users[id] = row.user
        return Person(row.id, row.user, row.seq, row.time, row.simulated)

    def meet(self, limit: int = 100_000) -> None:
        """Remember the rows of the newest people, so that nobody's first page has to ask for them."""
        u = s.users.c
        with self.reading() as db:
            newest = db.execute(select(u.id, u.user).order_by(u.user.desc()).limit(limit)).all()
        self._known.users.update((id, row) for id, row in newest)

    def knows(self, user: str) -> bool:
        """Whether a person was met before: by `meet`, `user`, or an event of theirs. Asks nothing of the database."""
        return user in self._known.users

    def _row(self, user: str) -> int:
        if (row := self._known.users.get(user)) is None:
            row = self.user(user).row
        return row

    def item(self, id: str) -> Item:
        """A picture or another thing. Raises UnknownId."""
        with self.reading() as db:
            row = db.execute(_things("id"), {"id": id}).one_or_none()
        if row is None:
            raise UnknownId(f"nothing is called '{id}'")
        return Item(*row)

    def items(self, *, start: int = 0, job: int | None = None) -> list[Item]:
        """Things from the row `start` on, of one job or of all, oldest first: the i-th of all has the row i."""
        query = _things("start") if job is None else _things("start", "job")
        with self.reading() as db:
            return [Item(*row) for row in db.execute(query, {"start": start, "job": job})]

    def words(self, user: str) -> dict[str, Word]:
        """The last word of a person on each item, what was taken back left out. Raises UnknownId."""
        with self.reading() as db:
            said = _numbers(db.scalar(_words(), {"row": self._row(user)}), 4)
        names = self._named(int(said[:, 2].max(initial=-1)))
        in_order = said[np.lexsort((said[:, 1], said[:, 0]))].tolist()
        return {names[item]: Word(1 if value > 0 else -1, value == 2, seq, time) for time, seq, item, value in in_order}

    def seen(self, user: str) -> set[str]:
        """Every item ever shown to a person. Raises UnknownId."""
        with self.reading() as db:
            rows = set(_numbers(db.scalar(_seen(), {"row": self._row(user)}), 1)[:, 0].tolist())
        names = self._named(max(rows, default=-1))
        return {names[row] for row in rows}

    def stand(self, user: str) -> Stand:
        """What `words` and `seen` tell, by rows and in one query. Raises UnknownId."""
        try:
            said, seen, last = self._stand(row=self._row(user))
        except self._stand.error as error:
            raise StoreDown(f"{self._name}: {str(error).partition(chr(10))[0]}") from error
        words = _numbers(said, 4)
        words = words[np.lexsort((words[:, 1], words[:, 0]))][::-1]  # by time and seq, the last ones first
        items, at = np.unique(words[:, 2], return_index=True)
        values, shown = np.sign(words[at, 3]), _numbers(seen, 1)[:, 0]
        n_items = 0 if last is None else last + 1
        return Stand(items.astype(np.int32), values.astype(np.int32), shown.astype(np.int32), n_items)

    def _named(self, row: int) -> list[str]:
        """The id of each row, up to this one at least."""
        names = self._names
        if row >= len(names):
            with self.reading() as db:
                self._names = names = names + list(db.scalars(_things("start"), {"start": len(names)}))
        return names

    def history(self, user: str, limit: int = 50) -> list[Past]:
        """What a person said and voted, newest first, what was taken back marked. Raises UnknownId."""
        row, f, v = self._row(user), s.feedback.c, s.votes.c
        said = select(f.seq, f.time, f.value, f.superlike, s.generations.c.id.label("item"), null().label("choices"))
        voted = select(v.seq, v.time, null().label("value"), literal(False), null().label("item"), v.choices)
        past = union_all(
            said.join(s.generations, s.generations.c.item == f.item).where(f.user == row), voted.where(v.user == row)
        ).subquery()
        undone = exists().where(s.retractions.c.event == past.c.seq)
        query = select(past, undone.label("undone")).order_by(past.c.time.desc(), past.c.seq.desc()).limit(limit)
        with self.reading() as db:
            rows = db.execute(query).all()
        return [
            Past(row.seq, row.time, (row.item,), row.value, row.superlike, undone=row.undone)
            if row.choices is None
            else _voted(row)
            for row in rows
        ]

    def votes(self, *, after: int = 0, upto: int | None = None, user: str | None = None) -> list[tuple[int, Vote]]:
        """Votes in force with their numbers, of one person or of all, those after `after` and up to `upto`."""
        v = s.votes.c
        whose = [] if user is None else [v.user == self.user(user).row]
        query = (
            select(v.seq, v.choices, v.tag, s.users.c.id)
            .join(s.users, s.users.c.user == v.user)
            .where(v.seq > after, _in_force(s.votes, upto), *whose)
            .order_by(v.time, v.seq)
        )
        with self.reading() as db:
            return [(row.seq, Vote(choices_of(row.choices), row.id, row.tag)) for row in db.execute(query)]

    def undone(self, *, after: int = 0) -> list[int]:
        """Numbers of what was taken back after the number `after`."""
        with self.reading() as db:
            return list(db.scalars(select(s.retractions.c.event).where(s.retractions.c.seq > after)))

    # -- logs --------------------------------------------------------------------------------------------------------

    def log(self, *, last: bool = False, upto: int | None = None) -> FeedbackLog:
        """What was said and shown, what was taken back left out, as a log whose rows are those of this store.

        Args:
            last: one event a pair, the last word, as learning wants it; else every one.
            upto: only what was stored up to this number.
        """
        f, i, g, u = s.feedback.c, s.impressions.c, s.generations.c, s.users.c
        upto = self.seq() if upto is None else upto  # one moment for all four queries
        said = (
            select(f.user, f.item, f.value, f.time, f.superlike, u.simulated)
            .join(s.users, u.user == f.user)
            .where(_in_force(s.feedback, upto))
            .order_by(f.time, f.seq)
        )
        shown = select(*(s.impressions.c[name] for name in c.IMPRESSIONS)).where(i.seq <= upto).order_by(i.time, i.seq)
        with self.reading() as db:
            events = s.frame(db, said, c.EVENTS)
            impressions = s.frame(db, shown, c.IMPRESSIONS)
            users = s.frame(db, select(u.id).where(u.seq <= upto).order_by(u.user), {"id": pl.String})
            items = s.frame(db, select(g.id).where(g.seq <= upto).order_by(g.item), {"id": pl.String})
        if last:
            events = events.unique([c.USER, c.ITEM], keep="last", maintain_order=True)
        shown_or_none = impressions if impressions.height else None
        return FeedbackLog(events, Vocabulary(users["id"]), Vocabulary(items["id"]), impressions=shown_or_none)

    def export(self, folder: str | Path) -> FeedbackLog:
        """Write `log()` in the native format. What was taken back, votes and recipes are not in it."""
        log = self.log()
        log.save(folder)
        return log

    def load(self, log: FeedbackLog) -> tuple[str, ...]:
        """Store a signed log as it is, in one transaction, for which others wait: notes on what cannot be held.

        Times are kept, so that what was said before the store's own events counts as said before. Integer ids become
        text. Loading the same log again stores nothing.

        Raises:
            InvalidArgument: a graded log.
            DataError: a time after now, a user partly simulated.
        """
        return load(self, log)


# Building a query takes longer than asking it, and every list asks these.
@cache
def _person() -> Select[Any]:
    return select(s.users).where(s.users.c.id == bindparam("id"))


@cache
def _things(*by: str) -> Select[Any]:
    g = s.generations.c
    which = {
        "id": g.id == bindparam("id"), "start": g.item >= bindparam("start"), "job": g.job == bindparam("job"),
    }  # fmt: skip
    return (
        select(g.id, g.item, g.seq, g.time, g.model, s.users.c.id, g.recipe, g.job)
        .outerjoin(s.users, s.users.c.user == g.user)
        .where(*(which[name] for name in by))
        .order_by(g.item)
    )


@cache
def _words() -> Select[Any]:
    f = s.feedback.c
    value = case((f.superlike, literal_column("2")), else_=f.value)
    return _text(f.time, f.seq, f.item, value).where(f.user == bindparam("row"), _in_force(s.feedback))


@cache
def _seen() -> Select[Any]:
    return _text(s.impressions.c.item).where(s.impressions.c.user == bindparam("row"))


def _stand() -> Select[Any]:
    last = select(func.max(s.generations.c.item))
    return select(_words().scalar_subquery(), _seen().scalar_subquery(), last.scalar_subquery())


@cache
def _since(table: str) -> Select[Any]:
    seq = s.TABLES.tables[table].c.seq
    return select(func.count()).where(seq > bindparam("a"), seq <= bindparam("b"))


def _text(*numbers: ColumnElement[Any]) -> Select[Any]:
    """All rows of these numbers as one text, in any order, for `_numbers` to read.

    Fetched row by row they would hand the interpreter from thread to thread a hundred times a request. The space is
    written out, since a value to bind would make SQLAlchemy write the query anew each time.
    """
    first, *others = numbers
    space: Any = literal_column("' '")
    text: ColumnElement[str] = cast(first, String)
    for other in others:
        text = text.concat(space).concat(cast(other, String))
    return select(func.aggregate_strings(text, space))


def _numbers(text: str | None, width: int) -> NDArray[np.int64]:
    return np.fromstring(text or "", np.int64, sep=" ").reshape(-1, width)


def _in_force(table: Any, upto: int | None = None) -> Any:
    """Rows of feedback or votes not taken back, as things stood at the number `upto`."""
    r = s.retractions.c
    if upto is None:
        return ~exists().where(r.event == table.c.seq)
    return and_(table.c.seq <= upto, ~exists().where(r.event == table.c.seq, r.seq <= upto))


def _voted(row: Any) -> Past:
    choices = choices_of(row.choices)
    items = dict.fromkeys(item for one in choices for item in one.among if item is not None)
    return Past(row.seq, row.time, tuple(map(str, items)), choices=choices, undone=row.undone)


# -- errors of the database --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reachable(name: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise StoreDown(f"{name}: {_said(error)}") from error


def _passing(error: DBAPIError) -> bool:
    """Whether trying again may help: the connection was lost, the server is starting, or another writer was at it."""
    said = str(error.orig)
    if "disk" in said or "No space" in said:
        return False
    return error.connection_invalidated or type(error).__name__ == "OperationalError"


def _said(error: DBAPIError) -> str:
    return str(error.orig).splitlines()[0] if str(error.orig) else type(error).__name__
