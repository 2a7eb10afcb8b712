"""New stores, older ones, newer ones."""

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tastemaker.errors import DataError
from tastemaker.serve import schema
from tastemaker.serve.events import Joined, StoreDown
from tastemaker.serve.jobs import Jobs
from tastemaker.serve.store import Store


def shape(engine: sa.Engine) -> dict[str, object]:
    """Tables, columns, indexes, as the database tells them."""
    looked = sa.inspect(engine)
    return {
        table: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in looked.get_columns(table)],
            sorted((str(index["name"]), index["column_names"]) for index in looked.get_indexes(table)),
            looked.get_pk_constraint(table)["constrained_columns"],
        )
        for table in sorted(looked.get_table_names())
    }


def first_version(where: str) -> None:
    """A store as version 1 made it: without jobs, its words found by person alone."""
    with Store(where) as store, store.writing() as db:
        schema.jobs.drop(db)
        (words,) = schema.feedback.indexes
        words.drop(db)
        db.execute(sa.text('CREATE INDEX feedback_of_user ON feedback ("user")'))
        db.execute(sa.update(schema.schema_version).values(version=1))


def test_an_older_store_becomes_a_newer_one(where: str) -> None:
    with Store(where) as store:
        store.add(Joined("a"))
        new = shape(store._engine)
    first_version(where)
    with Store(where) as store:
        assert shape(store._engine) == new
        assert store.user("a").row == 0
        assert Jobs(store).enqueue({"x": 1}) == 1
        with store.reading() as db:
            assert list(db.scalars(sa.select(schema.schema_version.c.version))) == [1, schema.VERSION]


def test_a_newer_store_is_refused(where: str) -> None:
    with Store(where) as store, store.writing() as db:
        db.execute(sa.insert(schema.schema_version).values(version=schema.VERSION + 1, time=0))
    with pytest.raises(DataError, match="install a newer one"):
        Store(where)


def test_many_open_a_new_store_at_once(where: str) -> None:
    errors: list[BaseException] = []

    def open_it(n: int) -> None:
        try:
            with Store(where, patience=30) as store:
                store.add(Joined(f"u{n}"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with Store(where) as store:
        assert store.counts()["users"] == 8


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_new_file_another_is_writing_is_waited_for(tmp_path: Path, begin: str) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute(begin)
    threading.Timer(0.5, other.execute, ["ROLLBACK"]).start()
    with Store(tmp_path / "store.db", patience=30) as store:
        store.add(Joined("a"))


def test_a_new_file_another_never_lets_go_of_is_given_up(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreDown, match="locked"):
        Store(tmp_path / "store.db", patience=0.3)


def test_sqlite_writes_through(file: Store) -> None:
    with file.reading() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_postgres_writes_through(postgres) -> None:
    with Store(postgres.database("careful")) as store, store.reading() as db:
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
