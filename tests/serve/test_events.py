"""What the store keeps, answers and refuses, in SQLite and in PostgreSQL."""

import math
import threading
import time
from unicodedata import category

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from tastemaker import columns as c
from tastemaker.choose.votes import both_bad, pair, sort, tie
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.errors import DataError, InvalidArgument, UnknownId
from tastemaker.serve import schema
from tastemaker.serve.events import Conflict, Joined, Made, Said, Shown, StoreDown, Undone, Voted, check_text
from tastemaker.serve.store import Store


def opened(store: Store, users: str = "ab", items: int = 6) -> Store:
    """With a few people who were shown everything."""
    for item in range(items):
        store.submit(Made(f"p{item}", model=f"m{item % 2}", recipe='{"seed": 1}'))
    names = tuple(f"p{item}" for item in range(items))
    for user in users:
        store.submit(Joined(user))
        store.add(Shown(user, names, "rule", tuple(1 / (2 + n) for n in range(items))))
    return store


def test_what_is_stored_comes_back(store: Store) -> None:
    opened(store)
    first = store.add(Said("a", "p1", 1, superlike=True, client_time=5))
    second = store.add(Said("a", "p2", -1))
    assert (second.seq, second.repeated) == (first.seq + 1, False)
    assert second.time >= first.time
    assert {item: word.value for item, word in store.words("a").items()} == {"p1": 1, "p2": -1}
    assert store.words("b") == {}
    assert store.seen("a") == {f"p{n}" for n in range(6)}
    assert store.item("p3").row == 3
    assert (store.item("p3").model, store.item("p3").recipe) == ("m1", '{"seed": 1}')
    assert [item.row for item in store.items()] == list(range(6))
    assert store.counts() == {
        "users": 2, "generations": 6, "impressions": 12, "feedback": 2, "votes": 0, "retractions": 0,
    }  # fmt: skip
    assert store.seq() == second.seq == 2 + 6 + 12 + 2  # no gaps


def test_a_key_stands_for_one_event(store: Store) -> None:
    opened(store)
    first = store.add(Said("a", "p1", 1, client_time=1), key="k")
    again = store.add(Said("a", "p1", 1, client_time=2), key="k")
    assert (again.seq, again.time, again.repeated) == (first.seq, first.time, True)
    with pytest.raises(Conflict, match="first used for something else"):
        store.add(Said("a", "p1", -1), key="k")
    with pytest.raises(Conflict):
        store.add(Said("b", "p1", 1), key="k")  # nobody else's either
    shown = store.add(Shown("a", ("p1", "p2"), "x", (1, 1)), key="list")
    assert store.add(Shown("a", ("p1", "p2"), "x", (1, 1)), key="list").seq == shown.seq
    assert store.counts()["feedback"] == 1


def test_many_at_once_under_one_key(store: Store) -> None:
    opened(store)
    futures = [store.submit(Said("a", "p1", 1), key="k") for _ in range(50)]
    receipts = [future.result() for future in futures]
    assert len({receipt.seq for receipt in receipts}) == 1
    assert sum(not receipt.repeated for receipt in receipts) == 1


def test_people_and_things_are_known_once(store: Store) -> None:
    opened(store)
    assert store.add(Joined("a")).repeated
    assert store.add(Made("p1", model="m1", recipe='{"seed": 1}', user="b")).repeated  # whoever orders it again
    with pytest.raises(Conflict, match="another model or recipe"):
        store.add(Made("p1", model="m0", recipe='{"seed": 1}'))
    with pytest.raises(Conflict, match="simulated"):
        store.add(Joined("a", simulated=True))
    # Twice in one batch: the first counts.
    futures = [store.submit(Made("new")), store.submit(Made("new")), store.submit(Made("new", model="m"))]
    assert [futures[0].result().repeated, futures[1].result().repeated] == [False, True]
    with pytest.raises(Conflict):
        futures[2].result()


def test_unknown_ids_are_refused_and_the_batch_goes_on(store: Store) -> None:
    opened(store)
    events = [
        Said("nobody", "p1", 1), Said("a", "nothing", 1), Shown("a", ("p1", "nothing"), "x", (1, 1)),
        Voted("a", pair("p1", "nothing")), Made("new", user="nobody"), Undone("a", 10**9), Undone("nobody", 1),
    ]  # fmt: skip
    before = store.counts()
    futures = [store.submit(event) for event in events]
    good = store.submit(Said("a", "p1", 1))
    for future in futures:
        with pytest.raises(UnknownId):
            future.result()
    assert good.result().seq == store.seq()
    assert store.counts() == before | {"feedback": 1}
    for ask in (store.words, store.seen, store.history, store.user, store.item):
        with pytest.raises(UnknownId):
            ask("nobody")


def test_what_was_never_shown_needs_a_reason(store: Store) -> None:
    opened(store, "a")
    store.add(Made("late"))
    with pytest.raises(InvalidArgument, match="never shown"):
        store.add(Said("a", "late", 1))
    store.add(Said("a", "late", 1, unshown="a link"))
    shown = store.add(Shown("a", ("late", "p1"), "x", (0.5, 0.25)))
    with pytest.raises(InvalidArgument, match="did not show"):
        store.add(Said("a", "p1", 1, impression=shown.seq))
    store.add(Said("a", "p1", 1, impression=shown.seq + 1))
    store.add(Said("a", "p1", -1))  # the last time it was shown
    with store.reading() as db:
        rows = db.execute(sa.select(schema.feedback.c.impression, schema.feedback.c.unshown)).all()
    assert [tuple(row) for row in rows] == [(None, "a link"), (shown.seq + 1, None), (shown.seq + 1, None)]


def test_the_last_word_counts_and_can_be_taken_back(store: Store) -> None:
    opened(store)
    store.add(Said("a", "p1", 1))
    second = store.add(Said("a", "p1", -1))
    assert store.words("a")["p1"].value == -1
    undone = store.add(Undone("a", second.seq))
    assert store.words("a")["p1"].value == 1  # the word before is in force again
    again = store.add(Undone("a", second.seq))
    assert (again.seq, again.repeated) == (undone.seq, True)
    with pytest.raises(UnknownId, match="said nothing"):
        store.add(Undone("b", second.seq))  # not theirs
    past = store.history("a")
    assert [(one.value, one.undone) for one in past] == [(-1, True), (1, False)]
    assert store.undone() == [second.seq]


def test_undo_of_what_waits_in_the_same_batch(store: Store) -> None:
    opened(store)
    seq = store.seq()
    first, undo = store.submit(Said("a", "p1", 1)), store.submit(Undone("a", seq + 1))
    assert first.result().seq == seq + 1
    undo.result()
    assert store.words("a") == {}


def test_votes_come_back_as_they_were(store: Store) -> None:
    opened(store)
    said = [
        pair("p1", "p2", ties=True, bad=True),
        tie("p1", "p3", bad=False),
        both_bad("p1", "p2"),
        sort(["p3", ["p1", "p2"]]),
    ]
    receipts = [store.add(Voted("a", choices, tag="art", policy="x", probability=0.5)) for choices in said]
    assert [vote.choices for _, vote in store.votes()] == said
    assert {(vote.person, vote.tag) for _, vote in store.votes()} == {("a", "art")}
    store.add(Undone("a", receipts[1].seq))
    assert [seq for seq, _ in store.votes()] == [receipts[n].seq for n in (0, 2, 3)]
    assert [seq for seq, _ in store.votes(after=receipts[0].seq, upto=store.seq())] == [r.seq for r in receipts[2:]]
    assert len(store.votes(upto=receipts[3].seq)) == 4  # as things stood then
    assert store.votes(user="b") == []
    assert store.history("a", limit=2)[0].choices == said[3]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Joined(""), lambda: Joined("a" * 201), lambda: Joined("a\0b"), lambda: Joined("\ud800"),
        lambda: Joined(7), lambda: Joined(None), lambda: Made(None), lambda: Made("p", recipe="{"),
        lambda: Made("p", recipe="[" * 5000), lambda: Made("p", recipe='"ä"'), lambda: Made("p", model=""),
        lambda: Shown("a", (), "x", ()), lambda: Shown("a", ("p", "p"), "x", (1, 1)),
        lambda: Shown("a", ("p",), "x", ()),
        lambda: Shown("a", ("p",), "x", (0.0,)), lambda: Shown("a", ("p",), "x", (1.1,)),
        lambda: Shown("a", ("p",), "x", (math.nan,)), lambda: Shown("a", ("p",), "x", ("1",)),
        lambda: Shown("a", ("p",), "x", (1,), first=-1), lambda: Shown("a", ("p",), None, (1,)),
        lambda: Shown("a", tuple(map(str, range(501))), "x", (1,) * 501),
        lambda: Said("a", "p", 0), lambda: Said("a", "p", 5), lambda: Said("a", "p", True),
        lambda: Said("a", "p", None),
        lambda: Said("a", "p", math.nan), lambda: Said("a", "p", "1"), lambda: Said("a", "p", -1, superlike=True),
        lambda: Said("a", "p", 1, impression=0), lambda: Said("a", "p", 1, impression=2**63),
        lambda: Said("a", "p", 1, impression=1, unshown="why"), lambda: Said("a", "p", 1, unshown=""),
        lambda: Said("a", "p", 1, client_time=2**80), lambda: Said("a", "p", 1, client_time=1.5),
        lambda: Voted("a", ()), lambda: Voted("a", pair(1, 2)), lambda: Voted("a", pair("p", "q"), probability=2),
        lambda: Voted("a", pair("p", "q"), tag=""), lambda: Undone("a", 0), lambda: Undone("a", None),
    ],
)  # fmt: skip
def test_events_that_make_no_sense(bad) -> None:
    with pytest.raises(InvalidArgument):
        bad()


def test_keys_that_make_no_sense(file: Store) -> None:
    for key in ("", "a" * 201, "\0", 7):
        with pytest.raises(InvalidArgument, match="key"):
            file.add(Joined("a"), key=key)


def test_hostile_text_is_only_text(store: Store) -> None:
    nasty = "'; DROP TABLE users; --"
    store.add(Joined(nasty))
    store.add(Made('" OR 1=1'))
    assert store.user(nasty).row == 0
    assert store.counts()["users"] == 1


def test_a_clock_that_runs_backwards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(store)
    first = store.add(Said("a", "p1", 1))
    monkeypatch.setattr(schema, "now", lambda: first.time - 3_600_000_000)
    second = store.add(Said("a", "p1", -1))
    assert (second.time, second.seq) == (first.time, first.seq + 1)
    assert store.words("a")["p1"].value == -1
    monkeypatch.undo()
    assert store.add(Said("a", "p2", 1)).time > first.time


def test_logs_go_out_and_come_in(store: Store, where: str, tmp_path) -> None:
    opened(store)
    store.add(Joined("fake", simulated=True))
    store.add(Said("a", "p1", 1))
    store.add(Said("a", "p1", -1))
    store.add(Undone("a", store.add(Said("a", "p2", 1)).seq))
    store.add(Said("b", "p3", 1, superlike=True))
    store.add(Said("fake", "p3", 1, unshown="drill"))
    log = store.export(tmp_path / "log")
    assert (len(log), log.impressions.height) == (4, 12)
    assert log.events[c.VALUE].to_list() == [1, -1, 1, 1]
    assert log.events[c.SIMULATED].to_list() == [False, False, False, True]
    assert log.events[c.SUPERLIKE].to_list() == [False, False, True, False]
    assert len(store.log(last=True)) == 3
    with Store(tmp_path / "other.db") as other:
        assert other.load(FeedbackLog.load(tmp_path / "log")) == ()
        back = other.log()
        assert back.events.equals(log.events)
        assert back.impressions.equals(log.impressions)
        assert (back.user_ids, back.item_ids) == (log.user_ids, log.item_ids)
        assert other.load(log) == ("this log is in the store already",)
        assert len(other.log()) == 4
        with other.reading() as db:  # words are tied to the impressions they answer
            answered = db.scalars(sa.select(schema.feedback.c.impression).order_by(schema.feedback.c.seq)).all()
        assert [seq is not None for seq in answered] == [True, True, True, False]
        assert other.add(Said("a", "p1", 1)).seq == other.seq()


def test_only_what_is_new_of_a_log_comes_in(store: Store, tmp_path) -> None:
    opened(store, "a")
    store.add(Said("a", "p1", 1))
    taken_back = store.add(Said("a", "p2", 1)).seq
    log = store.export(tmp_path / "log")
    store.add(Undone("a", taken_back))
    before = store.counts()
    again = log.events.with_columns(pl.lit(store.log().impressions[c.TIME].max() + 1).alias(c.TIME))[:1]
    twice = FeedbackLog(pl.concat([log.events, again, again]), log.user_ids, log.item_ids, impressions=log.impressions)
    held = len(log) + log.impressions.height
    assert store.load(twice) == (f"{held} of its {held + 2} events and impressions were in the store already",)
    now = store.counts()
    assert {name: now[name] - n for name, n in before.items() if now[name] != n} == {"feedback": 2}
    assert set(store.words("a")) == {"p1"}  # what was taken back since stays so
    with store.reading() as db:  # new words answer impressions that were there
        last = db.execute(sa.select(schema.feedback).order_by(schema.feedback.c.seq)).all()[-2:]
        shown = db.execute(sa.select(schema.impressions)).all()
        assert db.scalar(sa.select(schema.clock.c.seq)) == last[-1].seq + 1
    assert all((one.impression, one.item) in {(row.seq, row.item) for row in shown} for one in last)
    assert store.load(twice) == ("this log is in the store already",)


def test_a_first_log_and_a_second_leave_the_same_indexes(store: Store) -> None:
    def indexes() -> set[object]:
        looked = sa.inspect(store._engine)
        return {one["name"] for table in ("impressions", "feedback") for one in looked.get_indexes(table)}

    before = indexes()
    for user in ("x", "y"):  # into an empty table indexes come after the rows, later with them
        store.load(FeedbackLog.of([user] * 3, ["p1", "p2", "p1"], [1, -1, -1], times=[1, 2, 3]))
        assert indexes() == before
    assert {item: word.value for item, word in store.words("y").items()} == {"p1": -1, "p2": -1}


def test_counts_go_on_from_the_last_ones(store: Store) -> None:
    opened(store)
    before = store.counts()
    store.add(Shown("a", ("p1", "p2"), "r", (0.5, 0.5)))
    seq = store.add(Said("a", "p1", 1)).seq
    store.add(Undone("a", seq))
    now = store.counts()
    assert {name: now[name] - n for name, n in before.items()} == {
        "users": 0, "generations": 0, "impressions": 2, "feedback": 1, "votes": 0, "retractions": 1,
    }  # fmt: skip
    with Store(store.where) as other:
        assert other.counts() == now


def test_text_that_databases_stumble_on_is_refused() -> None:
    for code in range(0x3000):
        stumbled_on = category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")
        try:
            check_text(f"a{chr(code)}b", "id")
        except InvalidArgument:
            assert stumbled_on, hex(code)
        else:
            assert not stumbled_on, hex(code)
    with pytest.raises(InvalidArgument):
        check_text("\ud800", "id")


def test_logs_of_other_kinds_come_in(file: Store) -> None:
    log = FeedbackLog.of([7, 8, 7], [1, 2, 2], [1, -1, 1])
    log = FeedbackLog(log.events.with_columns(random=True), log.user_ids, log.item_ids)
    assert file.load(log) == ("integer ids became text", "the columns random are not kept")
    assert {item: word.value for item, word in file.words("7").items()} == {"1": 1, "2": 1}
    with pytest.raises(InvalidArgument, match="likes and dislikes"):
        file.load(FeedbackLog.of([1], [1], [3.0], scale=Scale(1, 5)))
    with pytest.raises(DataError, match="after now"):
        file.load(FeedbackLog.of(["x"], ["y"], [1], times=[2**61]))
    mixed = FeedbackLog.of(["x", "x"], ["y", "z"], [1, 1])
    mixed = FeedbackLog(mixed.events.with_columns(simulated=pl.Series([True, False])), mixed.user_ids, mixed.item_ids)
    with pytest.raises(DataError, match="some events only"):
        file.load(mixed)
    with pytest.raises(UnknownId):  # nothing of a refused log is left
        file.user("x")


def test_an_old_log_does_not_overrule_what_was_said_since(store: Store) -> None:
    opened(store, "a")
    store.add(Said("a", "p1", -1))
    store.load(FeedbackLog.of(["a", "a"], ["p1", "p2"], [1, 1], times=[1_000, 2_000]))
    assert {item: word.value for item, word in store.words("a").items()} == {"p1": -1, "p2": 1}
    last = store.log(last=True)
    assert dict(zip(last.item_ids.ids(last.item), last.value, strict=True)) == {"p1": -1, "p2": 1}


def test_a_moment_of_the_past(store: Store) -> None:
    opened(store)
    first = store.add(Said("a", "p1", 1))
    store.add(Undone("a", first.seq))
    assert len(store.log()) == 0
    assert len(store.log(upto=first.seq)) == 1


def test_readers_beside_a_writer_and_closing(where: str) -> None:
    with Store(where) as store:
        opened(store)
        stop, seen = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                seen.append(len(store.words("a")))

        reader = threading.Thread(target=read)
        reader.start()
        futures = [store.submit(Said("a", f"p{n % 6}", 1)) for n in range(300)]
        store.close()
        assert all(future.done() for future in futures)  # what waited was written
        stop.set()
        reader.join()
        assert seen == sorted(seen)
        with pytest.raises(StoreDown, match="closed"):
            store.add(Joined("c"))
    with Store(where) as again:
        assert again.counts()["feedback"] == 300


def test_too_many_waiting(tmp_path) -> None:
    with Store(tmp_path / "s.db", waiting=5) as store:
        store.add(Joined("a"))
        with store.writing():  # the writer has to wait for us
            futures = [store.submit(Made("p"))]
            time.sleep(0.2)  # it took that one
            futures += [store.submit(Made("p")) for _ in range(5)]
            with pytest.raises(StoreDown, match="wait to be written"):
                store.submit(Made("p"))
        assert [future.result().seq for future in futures] == [2] * 6


def test_places_that_are_no_store(tmp_path) -> None:
    for where in ("sqlite://", "mysql://x:SECRET@h/y", "postgresql://x:SECRET@h:port/y", "://SECRET"):
        with pytest.raises(InvalidArgument) as refused:
            Store(where)
        assert "SECRET" not in str(refused.value)
    with pytest.raises(StoreDown, match="unable to open"):
        Store(tmp_path / "no" / "folder" / "s.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(StoreDown, match="not a database"):
        Store(tmp_path / "text.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE songs (x INTEGER)")
    with pytest.raises(DataError, match="songs"):
        Store(tmp_path / "other.db")


def test_no_message_tells_the_password() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'tastemaker[postgres]'")
    with pytest.raises(StoreDown) as refused:
        Store("postgresql://ada:SECRET@127.0.0.1:1/none")
    assert "postgresql://ada:***@127.0.0.1:1/none" in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_numbers_and_names_are_those_of_the_log(store: Store) -> None:
    opened(store)
    store.add(Said("a", "p1", 1))
    log = store.log()
    assert set(log.events.columns) <= set(c.EVENTS)
    assert log.impressions.columns == list(c.IMPRESSIONS)
    assert log.impressions[c.PROBABILITY].to_list()[:3] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert np.array_equal(log.impressions[c.POSITION].to_numpy()[:6], np.arange(6))
