"""`tastemaker gallery`, run as a person would, on real small stores."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install 'tastemaker[serve]'")

from tastemaker.cli import main
from tastemaker.data import FeedbackLog, synthetic
from tastemaker.serve.events import Joined, Made, Said, Shown, Undone
from tastemaker.serve.gallery import import_folder
from tastemaker.serve.jobs import Jobs
from tastemaker.serve.learn import Learner
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store
from tests.serve.conftest import Postgres, postgres  # noqa: F401  a fixture
from tests.serve.planted import plant

BEST = {"explore": 1e-9, "rng": np.random.default_rng(0)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A gallery whose store holds a planted world."""
    (folder := tmp_path / "gallery").mkdir()
    with Store(folder / "store.db") as store:
        store.load(synthetic.make(synthetic.tiny(), rng=7).log)
    return folder


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(["gallery", *map(str, arguments)])
    assert (end.value.code or 0) == code


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    run(*arguments, code=1)
    said = capsys.readouterr()
    assert said.out == ""
    return " ".join(said.err.split())


# -- versions ----------------------------------------------------------------------------------------------------------


def test_a_server_uses_what_was_rolled_back_to(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    first = told(capsys, "refit", home, "--seed", 1)
    assert (first["version"], first["in force"], first["pinned"]) == (1, 1, False)
    assert told(capsys, "refit", home, "--seed", 2)["in force"] == 2
    with Store(home / "store.db") as store:
        server = Learner(store, home / "versions")  # stays open, as in a running server
        user = store.log().user_ids.series[0]
        newest = server.recommend(user, 8, **BEST)
        assert told(capsys, "roll-back", home) == first | {"pinned": True}
        assert server.version.version == 1
        rolled = server.recommend(user, 8, **BEST)
        assert (rolled.policy, rolled.scores != newest.scores) == ("factors/1 explore 1e-09", True)
        third = told(capsys, "refit", home)
        assert (third["version"], third["in force"], third["pinned"]) == (3, 1, True)
        assert server.version.version == 1
        assert told(capsys, "roll-back", home, "--to", 2)["in force"] == 2
        assert server.recommend(user, 8, **BEST).scores == newest.scores
        assert told(capsys, "follow", home)["in force"] == server.version.version == 3
    found = told(capsys, "versions", home)
    assert (found["in force"], found["pinned"]) == (3, False)
    assert [row["version"] for row in found["versions"]] == [1, 2, 3]
    assert all(row["words"] > 0 and row["damaged"] is None for row in found["versions"])
    run("versions", home)
    assert capsys.readouterr().out.count("in force") == 1


def test_back_from_a_damaged_version(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """What is needed most must not depend on what is broken: the version in force, the pointer, the database."""
    for _ in range(2):
        run("refit", home)
    (home / "store.db").rename(home / "away")
    (home / "versions" / "2" / "factors" / "state.safetensors").write_bytes(b"broken")
    rows = told(capsys, "versions", home)["versions"]
    assert (rows[0]["damaged"], "damaged" in rows[1]["damaged"]) == (None, True)
    assert "damaged" in refused(capsys, "follow", home)
    assert "damaged" in refused(capsys, "roll-back", home, "--to", 2)
    assert told(capsys, "roll-back", home)["in force"] == 1
    (home / "versions" / "current.json").write_text("{}")
    assert "pointer" in refused(capsys, "roll-back", home)
    assert told(capsys, "roll-back", home, "--to", 1)["in force"] == 1


def test_no_such_version(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert "versions: no such folder" in refused(capsys, "versions", home)
    run("refit", home, "--no-trust")
    assert "no version before 1" in refused(capsys, "roll-back", home)
    assert "unknown version '17'" in refused(capsys, "roll-back", home, "--to", 17)
    assert "unknown version '-1'" in refused(capsys, "roll-back", home, "--to=-1")
    run("roll-back", home, "--to", "first", code=2)
    (home / "versions" / "empty").mkdir()  # not a number: none of ours


def test_nothing_to_learn_from(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Store(tmp_path / "store.db").close()
    assert "nobody has said anything" in refused(capsys, "refit", tmp_path)
    run("versions", tmp_path)
    assert "no version has been fitted yet" in capsys.readouterr().out
    assert told(capsys, "versions", tmp_path) == {"in force": 0, "pinned": False, "versions": []}
    assert "no version before 0" in refused(capsys, "roll-back", tmp_path)
    assert "no version has been fitted" in refused(capsys, "follow", tmp_path)


# -- the log -----------------------------------------------------------------------------------------------------------


def same(a: FeedbackLog, b: FeedbackLog) -> bool:
    assert a.impressions is not None
    assert b.impressions is not None
    return (
        a.events.equals(b.events)
        and a.impressions.equals(b.impressions)
        and a.user_ids.series.equals(b.user_ids.series)
        and a.item_ids.series.equals(b.item_ids.series)
    )


def test_what_is_exported_is_what_is_stored(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    with Store(home / "store.db") as store:
        for picture in ("fox", "owl"):
            store.add(Made(picture, model="zoo/ink"))
        store.add(Joined("ada"))
        store.add(Shown("ada", ("fox", "owl"), policy="uniform", probabilities=(0.25, 0.5)))
        regret = store.add(Said("ada", "owl", -1))
        store.add(Said("ada", "fox", 1, superlike=True))
        store.add(Said("ada", "fox", -1))  # a pair twice
        store.add(Undone("ada", regret.seq))
        stored = store.log()
    facts = told(capsys, "export", home, tmp_path / "log")
    read = FeedbackLog.read(tmp_path / "log")
    assert same(read, stored)
    assert read.impressions is not None
    assert read.impressions["probability"].tail(2).to_list() == [0.25, 0.5]
    assert facts == {
        "events": len(stored), "users": stored.n_users, "items": stored.n_items,
        "impressions": read.impressions.height, "folder": str(tmp_path / "log"),
    }  # fmt: skip
    run("export", home, tmp_path / "again")
    assert "impressions) ->" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["debias", str(tmp_path / "log"), "--rank", "4", "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["facts"]


def test_importing_twice_adds_nothing(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    run("export", home, tmp_path / "log")
    (other := tmp_path / "other").mkdir()
    first = told(capsys, "import", other, tmp_path / "log")
    assert first["new events"] == first["events"] > 0
    assert first["new impressions"] == first["impressions"] > 0
    assert (first["new users"], first["new items"]) == (first["users"], first["items"])
    with Store(home / "store.db") as one, Store(other / "store.db") as two:
        assert same(one.log(), two.log())
    n = first["events"] + first["impressions"]
    known = f"{n:,} of its {n:,} events and impressions were in the store already"
    for place, note in ((other, "this log is in the store already"), (home, known)):  # home never loaded it
        again = told(capsys, "import", place, tmp_path / "log")
        assert {again[f"new {name}"] for name in ("events", "users", "items", "impressions")} == {0}
        assert again["notes"] == [note]


def test_a_log_without_times_is_known_again(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    (tmp_path / "likes.csv").write_text("user,item,value\n" + "".join(f"{n},{n % 3},{1 + n % 5}\n" for n in range(20)))
    cuts = ("--like", 4, "--dislike", 2)
    assert "signed" in refused(capsys, "import", home, tmp_path / "likes.csv")
    first = told(capsys, "import", home, tmp_path / "likes.csv", *cuts)
    assert first["new events"] == first["events"] == 16
    assert "integer ids became text" in first["notes"]
    assert told(capsys, "import", home, tmp_path / "likes.csv", *cuts)["new events"] == 0


def test_only_what_is_new_comes_in(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    run("export", home, tmp_path / "log")
    log = FeedbackLog.read(tmp_path / "log")
    later = log.events.head(1).with_columns(pl.col("time") + 1)
    longer = FeedbackLog(pl.concat([log.events, later]), log.user_ids, log.item_ids, impressions=log.impressions)
    longer.save(tmp_path / "longer")
    now = told(capsys, "import", home, tmp_path / "longer")
    assert (now["new events"], now["new impressions"]) == (1, 0)
    held = len(log) + log.impressions.height
    assert now["notes"] == [f"{held:,} of its {held + 1:,} events and impressions were in the store already"]
    with Store(home / "store.db") as store:
        assert len(store.log()) == len(longer)


def test_what_is_there_is_not_written_over(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is there already" in refused(capsys, "export", home, tmp_path / "file")
    assert "is there already" in refused(capsys, "export", home, tmp_path)
    assert "cannot be written" in refused(capsys, "export", home, tmp_path / "file" / "log")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "verb",
    [["versions"], ["roll-back"], ["follow"], ["refit"], ["export", "log"], ["import", "log"], ["work"], ["check"]],
    ids=lambda verb: verb[0],
)
def test_no_such_home(capsys: pytest.CaptureFixture[str], tmp_path: Path, home: Path, verb: list[str]) -> None:
    run("export", home, tmp_path / "log")
    name, *more = verb
    words = [str(tmp_path / "log" if name == "import" else tmp_path / word) for word in more]
    words = [str(tmp_path / "new") if name == "export" else word for word in words]
    assert "no such folder" in refused(capsys, name, tmp_path / "galery", *words)
    assert not (tmp_path / "galery").exists()
    (tmp_path / "empty").mkdir()
    if name != "import":
        assert "no such" in refused(capsys, name, tmp_path / "empty", *words)
        assert not any((tmp_path / "empty").iterdir())


def test_no_store(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be taken for the header of one")
    assert "not a database" in refused(capsys, "refit", home, "--store", tmp_path / "text")
    assert "no such store" in refused(capsys, "refit", home, "--store", tmp_path / "missing.db")
    assert "is no store" in refused(capsys, "export", home, tmp_path / "log", "--url", "mysql://localhost/x")
    assert not (tmp_path / "log").exists()


def test_a_log_moves_to_postgresql(
    capsys: pytest.CaptureFixture[str],
    home: Path,
    tmp_path: Path,
    postgres: Postgres,  # noqa: F811
) -> None:
    where = postgres.database("moved")
    run("export", home, tmp_path / "log")
    (there := tmp_path / "there").mkdir()
    assert told(capsys, "import", there, tmp_path / "log", "--store", where)["new events"] > 0
    assert told(capsys, "import", there, tmp_path / "log", "--url", where)["new events"] == 0
    assert told(capsys, "refit", there, "--store", where)["in force"] == 1
    run("export", there, tmp_path / "back", "--store", where)
    assert same(FeedbackLog.read(tmp_path / "back"), FeedbackLog.read(tmp_path / "log"))
    assert not (there / "store.db").exists()


# -- what is there -----------------------------------------------------------------------------------------------------


def test_what_is_missing_or_damaged_is_named(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path) -> None:
    grid = plant(tmp_path / "grid", seeds=1)
    with Store(home / "store.db") as store:
        import_folder(store, grid)
    for _ in range(2):
        run("refit", home)
    run("check", home, grid)
    assert "there and whole" in capsys.readouterr().out
    gone, cut, other, whole, *_ = sorted(grid.rglob("*.png"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-40])
    other.write_bytes(whole.read_bytes())
    (home / "versions" / "1" / "version.json").unlink()
    run("check", home, grid, "--json", code=1)
    faults = {fault["name"]: fault["problem"] for fault in json.loads(capsys.readouterr().out)}
    expected = {gone.stem: "no file", cut.stem: cut.name, other.stem: "another picture", "1": "version.json"}
    assert faults.keys() == expected.keys()
    for name, words in expected.items():
        assert words in faults[name]
    run("check", home, code=1)  # the grid is not named
    assert "25 faults" in capsys.readouterr().out
    (home / "versions" / "current.json").write_text('{"version": 5, "pinned": false}')
    run("check", home, grid, "--json", code=1)
    assert "in force and not there" in capsys.readouterr().out


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_a_worker_of_its_own_draws(home: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'tastemaker[generate]'")
    from tastemaker.generate.picture import read_recipe

    order = {
        "kind": "generate", "prompt": "a cat", "models": ["zoo/ink"], "seeds": [3], "negative": "", "steps": 2,
        "guidance": None,
    }  # fmt: skip
    with Store(Settings(home).where) as store:
        job = Jobs(store).enqueue(order)
        command = [sys.executable, "-m", "tastemaker", "gallery", "work", str(home), "--device", "cpu", "--once"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "drawing on cpu" in done.stderr
        found = Jobs(store).job(job)
        assert (found.state, found.message) == ("done", "")
        assert found.result is not None
        (picture,) = found.result["pictures"]
        assert store.item(picture).model == "zoo/ink"
    assert read_recipe(Settings(home).pictures / f"{picture}.png").prompt == "a cat"


def test_a_worker_ends_when_it_is_told_to(home: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'tastemaker[generate]'")
    command = [sys.executable, "-m", "tastemaker", "gallery", "work", str(home), "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as worker, Store(Settings(home).where) as store:
        job = Jobs(store).enqueue({"kind": "sculpture"})
        assert worker.stderr is not None
        assert "drawing on cpu" in worker.stderr.readline()
        while Jobs(store).job(job).state != "failed":
            assert worker.poll() is None
            time.sleep(0.05)
        worker.terminate()
        assert worker.wait(20) == 0


def test_a_device_that_is_not_here_takes_no_job(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'tastemaker[generate]'")
    with Store(Settings(home).where) as store:
        job = Jobs(store).enqueue({"kind": "generate"})
        assert "cannot be used here" in refused(capsys, "work", home, "--device", "gpu7")
        assert Jobs(store).job(job).state == "waiting"
