"""Nothing acknowledged is ever lost: kill -9, a full disk, two writers, a restarted server."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tastemaker.serve import schema
from tastemaker.serve.events import Joined, Made, Said, Shown, StoreDown
from tastemaker.serve.store import Store

ROOT = Path(__file__).parents[2]


def prepared(where: str, users: str = "ab") -> None:
    with Store(where) as store:
        for n in range(6):
            store.submit(Made(f"p{n}"))
        for user in users:
            store.submit(Joined(user))
            store.add(Shown(user, tuple(f"p{n}" for n in range(6)), "x", (1,) * 6))


def load(where: str, user: str, acknowledged: Path) -> "subprocess.Popen[bytes]":
    """A process that sends likes from eight threads and writes down what was acknowledged."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.serve.load", where, user, "8"], stdout=acknowledged.open("w"), cwd=ROOT
    )


def acknowledgements(file: Path) -> dict[str, int]:
    """Number of each key acknowledged; a last line cut short does not count."""
    lines = file.read_text().split("\n")[:-1]
    return {key: int(seq) for seq, key in (line.split("\t") for line in lines)}


def wait_for(file: Path, lines: int, *, within: float = 60) -> None:
    until = time.monotonic() + within
    while file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < until, f"{file.read_text()[-300:]!r}"
        time.sleep(0.02)


def check_whole(where: str, acknowledged: dict[str, int]) -> None:
    """Everything acknowledged is there, under the number given, once; numbers have no gaps."""
    with Store(where) as store, store.reading() as db:
        keys = {row.key: row.seq for row in db.execute(sa.select(schema.keys))}
        stored = list(db.scalars(sa.select(schema.feedback.c.seq).order_by(schema.feedback.c.seq)))
        assert acknowledged.items() <= keys.items()
        assert len(set(stored)) == len(stored) >= len(acknowledged)
        assert stored == list(range(stored[0], stored[0] + len(stored)))
        assert store.seq() == stored[-1]


def test_killed_under_load(where: str, tmp_path: Path) -> None:
    prepared(where)
    acknowledged: dict[str, int] = {}
    for round in range(3):
        file = tmp_path / f"acknowledged {round}"
        process = load(where, "ab"[round % 2], file)
        wait_for(file, 50 + 30 * round)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # The same client goes on with keys used before: those are answered with their first numbers.
        for key, seq in acknowledgements(file).items():
            assert acknowledged.setdefault(key, seq) == seq
    check_whole(where, acknowledged)


def test_two_writers(where: str, tmp_path: Path) -> None:
    prepared(where)
    files = [tmp_path / user for user in "ab"]
    processes = [load(where, user, file) for user, file in zip("ab", files, strict=True)]
    try:
        for file in files:
            wait_for(file, 100)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    check_whole(where, {key: seq for file in files for key, seq in acknowledgements(file).items()})


def test_two_servers_agree_on_new_people(where: str) -> None:
    with Store(where) as one, Store(where) as other:
        futures = [store.submit(Joined(f"u{n}")) for n in range(40) for store in (one, other)]
        assert sum(not future.result().repeated for future in futures) == 40
        assert sorted(one.user(f"u{n}").row for n in range(40)) == list(range(40))


def test_full_disk(tmp_path: Path) -> None:
    where = str(tmp_path / "s.db")
    prepared(where, "a")
    with Store(where) as store:
        with store.reading() as db:
            pages = db.exec_driver_sql("PRAGMA page_count").scalar()

        @sa.event.listens_for(store._engine, "connect")
        def small(raw, record) -> None:
            raw.execute(f"PRAGMA max_page_count = {pages + 10}")

        store._engine.dispose()
        acknowledged, refused = 0, ""
        while not refused:
            try:
                store.add(Said("a", f"p{acknowledged % 6}", 1))
                acknowledged += 1
            except StoreDown as error:
                refused = str(error)
        assert "full" in refused
        assert acknowledged
        assert store.counts()["feedback"] == acknowledged  # reading goes on
        with pytest.raises(StoreDown, match="full"):
            store.add(Made("new", recipe='"' + "x" * 90_000 + '"'))
        sa.event.remove(store._engine, "connect", small)
        store._engine.dispose()
        store.add(Said("a", "p1", -1))  # room was made: everything goes on
    with Store(where) as store:
        assert store.counts()["feedback"] == acknowledged + 1
        assert store.words("a")["p1"].value == -1


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The operating system itself refuses to write, in the middle of the write-ahead log."""
    where, file = str(tmp_path / "s.db"), tmp_path / "acknowledged"
    prepared(where)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    with file.open("w") as out:
        command = [sys.executable, "-m", "tests.serve.load", where, "a", "8"]
        process = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, cwd=ROOT, preexec_fn=limited, timeout=120, text=True
        )
    assert "StoreDown" in process.stderr
    acknowledged = acknowledgements(file)
    assert len(acknowledged) > 20
    check_whole(where, acknowledged)


def test_postgres_restarts(postgres, tmp_path: Path) -> None:
    where, file = postgres.database("restarted"), tmp_path / "acknowledged"
    prepared(where)
    process = load(where, "a", file)
    try:
        for round in range(2):
            wait_for(file, 30 * (1 + 2 * round))
            postgres.stop()  # no goodbye: connections die, some of them while they commit
            time.sleep(0.3)
            postgres.start()
            wait_for(file, file.read_bytes().count(b"\n") + 30)  # the clients went on without noticing
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    check_whole(where, acknowledgements(file))


def test_postgres_away_for_longer(postgres) -> None:
    where = postgres.database("away")
    prepared(where)
    with Store(where, patience=0.5) as store:
        postgres.stop()
        try:
            with pytest.raises(StoreDown, match="nothing was acknowledged"):
                store.add(Said("a", "p1", 1), key="k")
            with pytest.raises(StoreDown):
                store.words("a")
            with pytest.raises(StoreDown):
                Store(where)
        finally:
            postgres.start()
        first = store.add(Said("a", "p1", 1), key="k")
        assert store.add(Said("a", "p1", 1), key="k").seq == first.seq
        assert store.counts()["feedback"] == 1
