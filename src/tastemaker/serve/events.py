"""What the store is told, and how a batch of it becomes rows.

Everything that happens is an event, and events are only ever added: taking one back is an event too. What a person says
about a picture answers an impression, so that the probability with which it was shown is known; a word about something
never shown is taken only with a reason, and has no such probability. Ids of people and things must be known beforehand.

Order: `seq`, one sequence without gaps over all events in the order of their commits, and the server's time, which
never runs backwards. A time that a client gives is kept, and decides nothing. Where time and seq are compared, as for
events imported from an older log, time comes first.

A key makes sending again safe: the same event under the same key is stored once, and answered with the first's numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Row, Select, Table, bindparam, func, select

from tastemaker.choose.votes import BAR, Choice
from tastemaker.errors import InvalidArgument, TastemakerError, UnknownId
from tastemaker.serve import schema as s

_LONGEST = 200  # characters of an id, key, tag or policy
_MOST_SHOWN = 500
_MOST_TEXT = 100_000  # characters of a recipe or of the choices of a vote
_PARENTS_FIRST = s.TABLES.sorted_tables
_ASKED = 10_000  # values in one IN: SQLite takes 32,766


class Conflict(TastemakerError, ValueError):
    """Something else is already stored under this key or id."""


class StoreDown(TastemakerError, OSError):
    """Nothing was acknowledged: the database cannot be reached or written to. Send again with the same key."""


@dataclass(frozen=True)
class Joined:
    """A person. `simulated`: nobody real, as in an attack drill."""

    user: str
    simulated: bool = False

    def __post_init__(self) -> None:
        _check(self, "user")


@dataclass(frozen=True)
class Made:
    """A picture, or anything else that can be shown, liked or voted on.

    Attributes:
        model: that made it; its side of every leaderboard of models.
        user: who ordered it.
        recipe: JSON.
        job: that made it.
    """

    item: str
    model: str | None = None
    user: str | None = None
    recipe: str | None = None
    job: int | None = None

    def __post_init__(self) -> None:
        _check(self, "item")
        _check(self, "model", "user", optional=True)
        if self.recipe is not None:
            _json(self.recipe, "recipe")


@dataclass(frozen=True)
class Shown:
    """A list as a person saw it: one impression an item, at the places `first`, `first` + 1, ...

    Attributes:
        policy: the rule that chose.
        probabilities: with which it chose each item.
    """

    user: str
    items: tuple[str, ...]
    policy: str
    probabilities: tuple[float, ...]
    first: int = 0

    def __post_init__(self) -> None:
        _check(self, "user", "policy")
        object.__setattr__(self, "items", tuple(check_text(item, "item") for item in self.items))
        object.__setattr__(self, "probabilities", tuple(_probability(p) for p in self.probabilities))
        if not 1 <= len(self.items) <= _MOST_SHOWN or len(set(self.items)) < len(self.items):
            raise InvalidArgument(f"{len(self.items)} items shown; expected 1 to {_MOST_SHOWN}, each once")
        if len(self.items) != len(self.probabilities):
            raise InvalidArgument(
                f"{len(self.items)} items, {len(self.probabilities)} probabilities; give each its own"
            )
        _whole(self.first, "first", 0, 10**9)


@dataclass(frozen=True)
class Said:
    """A like or dislike.

    Attributes:
        value: +1 or -1.
        superlike: the stronger kind of like.
        impression: seq of the impression it answers; None is the last time this person was shown the item.
        unshown: why there is none, in words; without it a word about something never shown is refused.
        client_time: microseconds since 1970 by the client's clock. Not part of what a key stands for.
    """

    user: str
    item: str
    value: int
    superlike: bool = False
    impression: int | None = None
    unshown: str | None = None
    client_time: int | None = None

    def __post_init__(self) -> None:
        _check(self, "user", "item")
        _check(self, "unshown", optional=True)
        if isinstance(self.value, bool) or self.value not in (1, -1):
            raise InvalidArgument(f"value {self.value!r}; expected +1 (liked) or -1 (disliked); unseen is no event")
        object.__setattr__(self, "value", int(self.value))
        if self.superlike and self.value < 0:
            raise InvalidArgument("a dislike is no superlike")
        if self.impression is not None and self.unshown is not None:
            raise InvalidArgument("both an impression and a reason why there is none; expected one of them")
        if self.impression is not None:
            _whole(self.impression, "impression", 1)
        if self.client_time is not None:
            _whole(self.client_time, "client_time", 0)


@dataclass(frozen=True)
class Voted:
    """Choices among items.

    Attributes:
        choices: as `choose.votes` writes them; items are ids.
        tag: of the prompt.
        policy, probability: the rule that asked, and with which probability it asked this.
    """

    user: str
    choices: tuple[Choice, ...]
    tag: str | None = None
    policy: str | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        _check(self, "user")
        _check(self, "tag", "policy", optional=True)
        if not self.choices:
            raise InvalidArgument("a vote without choices; expected at least one")
        for item in self.items:
            check_text(item, "item")
        if self.probability is not None:
            object.__setattr__(self, "probability", _probability(self.probability))
        if len(self.to_json()) > _MOST_TEXT:
            raise InvalidArgument(f"a vote of more than {_MOST_TEXT:,} characters; split it")

    @property
    def items(self) -> list[str]:
        """Every item that could have been chosen, each once."""
        return list(dict.fromkeys(item for one in self.choices for item in one.among if item is not BAR))  # type: ignore[misc]

    def to_json(self) -> str:
        """The choices as JSON."""
        return json.dumps([[one.chosen, one.among, one.ties] for one in self.choices])


def choices_of(text: str) -> tuple[Choice, ...]:
    """The choices that `Voted.to_json` wrote."""
    return tuple(Choice(tuple(chosen), tuple(among), ties) for chosen, among, ties in json.loads(text))


@dataclass(frozen=True)
class Undone:
    """This person takes back what they said or voted under the number `seq`."""

    user: str
    seq: int

    def __post_init__(self) -> None:
        _check(self, "user")
        _whole(self.seq, "seq", 1)


Event = Joined | Made | Shown | Said | Voted | Undone


@dataclass(frozen=True)
class Receipt:
    """The event is on the disk.

    Attributes:
        seq: its number; of a list shown the first item's, the i-th has seq + i.
        time: the store's, microseconds since 1970.
        repeated: whether it was there already.
    """

    seq: int
    time: int
    repeated: bool = False


@dataclass(frozen=True)
class Sent:
    """An event on its way, under a key: the caller's, or the store's `own`, which stands for this event alone."""

    event: Event
    key: str
    own: bool = False

    @property
    def digest(self) -> str:
        """Equal for equal content, whenever the client says it was; empty under an own key."""
        if self.own:
            return ""
        content = {name: value for name, value in vars(self.event).items() if name != "client_time"}
        text = json.dumps([type(self.event).__name__, content], default=vars)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class Known:
    """Row of every id met so far. Rows never change, so they may be remembered."""

    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)


Outcome = Receipt | TastemakerError


def commit(db: Connection, sent: Sequence[Sent], known: Known, *, again: bool = False) -> tuple[list[Outcome], Known]:
    """Store a batch in one transaction of `db`: the outcome of each event, and the ids that were looked up.

    One event's error leaves the others alone. An event may build on those before it in the batch. `again`: some of them
    may be there already, also under own keys.
    """
    batch = _Batch(db, sent, known, again)
    outcomes: list[Outcome] = []
    for one in sent:
        try:
            outcomes.append(batch.take(one))
        except TastemakerError as error:
            outcomes.append(error)
    batch.write()
    return outcomes, Known(batch.users, batch.items)


class _Batch:
    """What a batch needs to know of the store, asked in as many queries as there are kinds of questions."""

    def __init__(self, db: Connection, sent: Sequence[Sent], known: Known, again: bool) -> None:
        self.db = db
        self.last, self.time = s.turn(db)
        self.rows: dict[Table, list[dict[str, Any]]] = defaultdict(list)
        events = [one.event for one in sent]
        said = [event for event in events if isinstance(event, Said)]
        undone = [event.seq for event in events if isinstance(event, Undone)]

        keys = self._ask(s.keys, s.keys.c.key, [one.key for one in sent if again or not one.own])
        self.keys = {row.key: (row.digest, Receipt(row.seq, row.time, repeated=True)) for row in keys}
        self.users = self._ids(s.users, s.users.c.user, known.users, {event.user for event in events})
        self.items = self._ids(s.generations, s.generations.c.item, known.items, set().union(*map(_items, events)))
        asked = [event for event in said if event.impression is None and event.unshown is None]
        self.shown = self._shown({(self.users.get(e.user, -1), self.items.get(e.item, -1)) for e in asked})
        given = self._ask(s.impressions, s.impressions.c.seq, [e.impression for e in said if e.impression is not None])
        self.impressions = {row.seq: (row.user, row.item) for row in given}
        self.owners = {
            row.seq: row.user for table in (s.feedback, s.votes) for row in self._ask(table, table.c.seq, undone)
        }
        self.retracted = {
            row.event: Receipt(row.seq, row.time, repeated=True)
            for row in self._ask(s.retractions, s.retractions.c.event, undone)
        }

    def take(self, sent: Sent) -> Receipt:
        digest = sent.digest
        if sent.key in self.keys:
            used_for, first = self.keys[sent.key]
            if used_for != digest:
                raise Conflict(f"key '{sent.key}' was first used for something else; use a new key for a new event")
            return first
        receipt = self._add(sent.event)
        self.keys[sent.key] = digest, dataclasses.replace(receipt, repeated=True)
        self.rows[s.keys].append({"key": sent.key, "seq": receipt.seq, "time": receipt.time, "digest": digest})
        return receipt

    def write(self) -> None:
        for table in _PARENTS_FIRST:
            if rows := self.rows[table]:
                s.insert_rows(self.db, table, list(rows[0]), [tuple(row.values()) for row in rows])
        if any(self.rows.values()):
            s.spend(self.db, self.last, self.time)

    # -- one kind of event each --------------------------------------------------------------------------------------

    def _add(self, event: Event) -> Receipt:
        match event:
            case Joined():
                return self._joined(event)
            case Made():
                return self._made(event)
            case Shown():
                return self._showed(event)
            case Said():
                return self._said(event)
            case Voted():
                return self._voted(event)
            case Undone():
                return self._undid(event)

    def _joined(self, event: Joined) -> Receipt:
        if event.user in self.users:
            first = self._first(s.users, event.user)
            if first["simulated"] != event.simulated:
                raise Conflict(f"user '{event.user}' is known as simulated={first['simulated']}; take another id")
            return Receipt(first["seq"], first["time"], repeated=True)
        self.users[event.user] = row = self._next(s.users, s.users.c.user)
        return self._insert(s.users, user=row, id=event.user, simulated=event.simulated)

    def _made(self, event: Made) -> Receipt:
        if event.item in self.items:
            first = self._first(s.generations, event.item)
            if (first["model"], first["recipe"]) != (event.model, event.recipe):
                raise Conflict(f"item '{event.item}' is known with another model or recipe; take another id")
            return Receipt(first["seq"], first["time"], repeated=True)
        user = None if event.user is None else self._user(event.user)
        self.items[event.item] = row = self._next(s.generations, s.generations.c.item)
        made = {"model": event.model, "user": user, "recipe": event.recipe, "job": event.job}
        return self._insert(s.generations, item=row, id=event.item, **made)

    def _showed(self, event: Shown) -> Receipt:
        user, items = self._user(event.user), [self._item(item) for item in event.items]
        receipts = []
        for place, (item, probability) in enumerate(zip(items, event.probabilities, strict=True), event.first):
            how = {"position": place, "policy": event.policy, "probability": probability}
            receipts.append(receipt := self._insert(s.impressions, user=user, item=item, **how))
            self.shown[user, item] = receipt.seq
            self.impressions[receipt.seq] = (user, item)
        return receipts[0]

    def _said(self, event: Said) -> Receipt:
        user, item, impression = self._user(event.user), self._item(event.item), event.impression
        if impression is not None and self.impressions.get(impression) != (user, item):
            raise InvalidArgument(f"impression {impression} did not show '{event.item}' to '{event.user}'")
        if impression is None and event.unshown is None:
            impression = self.shown.get((user, item))
            if impression is None:
                raise InvalidArgument(
                    f"'{event.item}' was never shown to '{event.user}'; store the impression first, or say with "
                    f"unshown='...' why there is none"
                )
        receipt = self._insert(
            s.feedback, user=user, item=item, value=event.value, superlike=event.superlike, impression=impression,
            unshown=event.unshown, client_time=event.client_time,
        )  # fmt: skip
        self.owners[receipt.seq] = user
        return receipt

    def _voted(self, event: Voted) -> Receipt:
        user, _ = self._user(event.user), [self._item(item) for item in event.items]
        how = {"policy": event.policy, "probability": event.probability}
        receipt = self._insert(s.votes, user=user, tag=event.tag, choices=event.to_json(), **how)
        self.owners[receipt.seq] = user
        return receipt

    def _undid(self, event: Undone) -> Receipt:
        user = self._user(event.user)
        if self.owners.get(event.seq) != user:
            raise UnknownId(f"'{event.user}' said nothing under the number {event.seq}; their history has the numbers")
        if event.seq in self.retracted:
            return self.retracted[event.seq]
        receipt = self._insert(s.retractions, user=user, event=event.seq)
        self.retracted[event.seq] = dataclasses.replace(receipt, repeated=True)
        return receipt

    # -- rows --------------------------------------------------------------------------------------------------------

    def _insert(self, table: Table, **values: Any) -> Receipt:
        self.last += 1
        self.rows[table].append({"seq": self.last, "time": self.time, **values})
        return Receipt(self.last, self.time)

    def _next(self, table: Table, number: Column[Any]) -> int:
        if self.rows[table]:
            return int(self.rows[table][-1][number.name]) + 1
        highest = self.db.scalar(select(func.max(number)))
        return 0 if highest is None else int(highest) + 1

    def _first(self, table: Table, id: str) -> dict[str, Any]:
        waiting = [row for row in self.rows[table] if row["id"] == id]
        return waiting[0] if waiting else dict(self.db.execute(select(table).where(table.c.id == id)).mappings().one())

    def _user(self, id: str) -> int:
        if id not in self.users:
            raise UnknownId(f"nobody is called '{id}'; store Joined('{id}') first")
        return self.users[id]

    def _item(self, id: str) -> int:
        if id not in self.items:
            raise UnknownId(f"nothing is called '{id}'; store Made('{id}') first")
        return self.items[id]

    def _ask(self, table: Table, column: Column[Any], values: Sequence[Any]) -> Iterator[Row[Any]]:
        for start in range(0, len(values), _ASKED):
            yield from self.db.execute(_which(table, column), {"values": values[start : start + _ASKED]})

    def _ids(self, table: Table, number: Column[Any], known: dict[str, int], wanted: Collection[Any]) -> dict[str, int]:
        found = {id: known[id] for id in wanted if id in known}
        unknown = [id for id in wanted if id is not None and id not in known]
        return found | {row.id: getattr(row, number.name) for row in self._ask(table, table.c.id, unknown)}

    def _shown(self, pairs: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
        # Pair by pair: for (user, item) IN (...) SQLite would read the whole index.
        last = {pair: self.db.scalar(_LAST_SHOWN, dict(zip(("user", "item"), pair, strict=True))) for pair in pairs}
        return {pair: seq for pair, seq in last.items() if seq is not None}


_LAST_SHOWN = select(func.max(s.impressions.c.seq)).where(
    s.impressions.c.user == bindparam("user"), s.impressions.c.item == bindparam("item")
)


@cache
def _which(table: Table, column: Column[Any]) -> Select[Any]:
    return select(table).where(column.in_(bindparam("values", expanding=True)))


# -- checks ------------------------------------------------------------------------------------------------------------


def _items(event: Event) -> set[str]:
    match event:
        case Made() | Said():
            return {event.item}
        case Shown() | Voted():
            return set(event.items)
        case _:
            return set()


def _check(event: object, *names: str, optional: bool = False) -> None:
    for name in names:
        if not (optional and getattr(event, name) is None):
            check_text(getattr(event, name), name)


#: What databases and terminals stumble on: NUL and other controls, line ends, halves of surrogate pairs.
_STUMBLED_ON = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")


def check_text(value: object, what: str) -> str:
    """The text, if it can be an id, key, tag or policy; else InvalidArgument."""
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST:
        raise InvalidArgument(f"{what} {str(value)[:40]!r}; expected text of 1 to {_LONGEST} characters")
    if _STUMBLED_ON.search(value):
        raise InvalidArgument(f"{what} {value[:40]!r}; expected text without control characters and line ends")
    return value


def _whole(value: object, what: str, low: int, high: int = 2**62) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(f"{what} {value!r}; expected a whole number from {low} on")


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1 or math.isnan(value):
        raise InvalidArgument(f"probability {value!r}; expected more than 0 and at most 1")
    return float(value)


def _json(text: object, what: str) -> None:
    try:
        if not isinstance(text, str) or not text.isascii() or "\0" in text or len(text) > _MOST_TEXT:
            raise ValueError(f"expected ASCII, as json.dumps writes it, of at most {_MOST_TEXT:,} characters")
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} {str(text)[:40]!r} is not JSON: {error}") from error
