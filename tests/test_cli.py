"""The command line, run as a person would, in a process of its own where the exit code matters."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tastemaker.cli import main
from tastemaker.data import FeedbackLog, synthetic


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "native"
    synthetic.make(synthetic.tiny(), 5).log.save(path)
    return path


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    rows = [f"{user},{item},{(user * item) % 5 + 1},{1000 + user + item}" for user in range(30) for item in range(12)]
    path.write_text("user_id,item_id,rating,timestamp\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code in (0, None)


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> object:
    run(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_describe(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    facts = output(capsys, "data", "describe", log)
    assert facts["users"] == 40
    assert facts["kind"] == "signed"


def test_convert_and_split(capsys: pytest.CaptureFixture[str], ratings: Path, tmp_path: Path) -> None:
    run("data", "convert", ratings, tmp_path / "native", "--like", 4, "--dislike", 2)
    native = FeedbackLog.load(tmp_path / "native")
    assert native.scale.signed
    run("data", "split", tmp_path / "native", tmp_path / "parts", "--how", "time", "--test", 0.25)
    train, test = (FeedbackLog.load(tmp_path / "parts" / name) for name in ("train", "test"))
    capsys.readouterr()
    told = output(capsys, "data", "split", tmp_path / "native", tmp_path / "parts", "--test", 0.25)
    assert told == {"train": len(train), "test": len(test), "folder": str(tmp_path / "parts")}
    assert output(capsys, "data", "convert", ratings, tmp_path / "graded")["users"] == 30
    assert len(train) + len(test) == len(native)
    assert train.events["time"].max() < test.events["time"].min()


def test_public_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "movielens-100k" in {row["name"] for row in output(capsys, "data", "get")}


def test_train_recommend_evaluate(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    run("data", "split", log, tmp_path / "parts", "--how", "user")
    train, test = tmp_path / "parts" / "train", tmp_path / "parts" / "test"
    capsys.readouterr()
    facts = output(capsys, "train", "factors", train, "--to", tmp_path / "model", "--rank", 4, "--seed", 7)
    assert "rank=4" in facts["model"]
    ids = FeedbackLog.load(train).user_ids.series.head(2).to_list()
    recs = output(capsys, "recommend", tmp_path / "model", "--users", *ids, "-k", 3, "--exclude", train)
    assert [row["user"] for row in recs] == [ids[0]] * 3 + [ids[1]] * 3
    run("recommend", tmp_path / "model", "-k", 2, "--to", tmp_path / "recs.parquet")
    assert pl.read_parquet(tmp_path / "recs.parquet").height == 80
    capsys.readouterr()
    table = output(capsys, "evaluate", tmp_path / "model", test, "--train", train, "--metrics", "NDCG@5", "hitrate@3")
    assert {row["metric"].lower() for row in table} == {"ndcg@5", "hitrate@3"}
    run("recommend", tmp_path / "model", "-k", 5, "--exclude", train, "--to", tmp_path / "lists.csv")
    capsys.readouterr()
    same = output(capsys, "evaluate", tmp_path / "lists.csv", test, "--metrics", "NDCG@5", "hitrate@3")
    assert same == table


@pytest.mark.parametrize("kind", ["itemknn", "userknn", "popular", "gmf"])
def test_every_kind_of_model(log: Path, tmp_path: Path, kind: str) -> None:
    run("train", kind, log, "--to", tmp_path / kind)
    run("recommend", tmp_path / kind, "-k", 2)


def test_cuts_are_cuts_where_a_model_weighs_likes_and_dislikes(
    capsys: pytest.CaptureFixture[str], ratings: Path, tmp_path: Path
) -> None:
    """`--like 4 --dislike 2` once set the weights of the model, and left the grades as they were."""
    cuts = ("--like", 4, "--dislike", 2)
    facts = output(capsys, "train", "factors", ratings, *cuts, "--dislike-weight", 0.7, "--to", tmp_path / "m")
    assert facts["events"] == len(FeedbackLog.read(ratings, like=4, dislike=2)) < len(FeedbackLog.read(ratings))
    assert "like=1.0, dislike=0.7" in facts["model"]


def test_what_people_call_things_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    users, items = ["[/bold]ünal", "[red]bo[/red]"], [":cat:", "[link=x]", "[/]"]
    pl.DataFrame([(u, i) for u in users for i in items], schema=["user", "item"], orient="row").write_csv(
        tmp_path / "[likes].csv"
    )
    run("train", "popular", tmp_path / "[likes].csv", "--to", tmp_path / "model")
    run("recommend", tmp_path / "model", "--users", users[0], "-k", 3)
    assert {*items, users[0]} <= set(capsys.readouterr().out.split())


def test_counters_are_no_dates(capsys: pytest.CaptureFixture[str], ratings: Path) -> None:
    facts = output(capsys, "data", "describe", ratings)
    assert (facts["from"], facts["to"]) == ("1000", "1040")


def test_config_file(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text("[train.factors]\nrank = 3\nepochs = 2\n")
    facts = output(capsys, "--config", tmp_path / "options.toml", "train", "factors", log, "--to", tmp_path / "m")
    assert "rank=3" in facts["model"]
    assert "epochs=2" in facts["model"]


def test_report(capsys: pytest.CaptureFixture[str], ratings: Path, tmp_path: Path) -> None:
    figures = output(capsys, "report", ratings, "--out", tmp_path / "r.html", "--rank", 4, "--how", "time")
    assert 0 <= figures["makers.popular.consumers.precision"] <= 1
    assert {"consumers.factors.ndcg@10", "consumers.factors_likes_only.ndcg@10"} <= figures.keys()
    page = (tmp_path / "r.html").read_text()
    assert str(ratings) in page
    assert "lesser-known" in page
    assert "http" not in page.replace("http://www.w3.org", "")  # self-contained


def test_report_without_dislikes_has_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{user},{(user * 7 + step * step) % 40}" for user in range(40) for step in range(12)]
    (tmp_path / "likes.csv").write_text("user,item\n" + "\n".join(dict.fromkeys(rows)) + "\n")
    figures = output(capsys, "report", tmp_path / "likes.csv", "--out", tmp_path / "r.html", "--rank", 4)
    assert "consumers.factors.ndcg@10" in figures
    assert not any("likes_only" in name or name.startswith("rated.") for name in figures)
    page = (tmp_path / "r.html").read_text()
    assert "Do dislikes help" not in page
    assert "Telling likes from dislikes" not in page
    assert "test holds one of the two alone" in page


def test_one_and_the_same_grade_needs_a_scale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "fives.csv").write_text("user,item,rating\nada,x,5\nbob,y,5\n")
    with pytest.raises(SystemExit):
        main(["data", "describe", str(tmp_path / "fives.csv")])
    assert "--scale LOW HIGH" in " ".join(capsys.readouterr().err.split())
    facts = output(capsys, "data", "describe", tmp_path / "fives.csv", "--scale", 1, 5)
    assert facts["kind"] == "graded 1..5"
    cut = output(capsys, "data", "describe", tmp_path / "fives.csv", "--scale", 1, 5, "--like", 4, "--dislike", 2)
    assert cut["kind"] == "signed"


def test_ids_of_another_kind_are_told_apart(capsys: pytest.CaptureFixture[str], ratings: Path, tmp_path: Path) -> None:
    (tmp_path / "named.csv").write_text("user,item\nada,x\nbob,y\n")
    run("train", "popular", ratings, "--to", tmp_path / "model")
    for arguments in (("recommend", tmp_path / "model", "--exclude"), ("evaluate", tmp_path / "model")):
        with pytest.raises(SystemExit):
            main([str(a) for a in (*arguments, tmp_path / "named.csv")])
        assert "--id-type int" in " ".join(capsys.readouterr().err.split())
    for users, words in ((("999", "3"), "has not met 999"), (("ada",), "are integers")):
        with pytest.raises(SystemExit):
            main(["recommend", str(tmp_path / "model"), "--users", *users])
        assert words in " ".join(capsys.readouterr().err.split())


def test_folders_of_results_are_made(ratings: Path, tmp_path: Path) -> None:
    run("train", "popular", ratings, "--to", tmp_path / "model")
    run("recommend", tmp_path / "model", "--to", tmp_path / "new" / "lists.csv")
    run("report", ratings, "--out", tmp_path / "other" / "r.html", "--rank", 2)
    assert (tmp_path / "new" / "lists.csv").exists()
    assert (tmp_path / "other" / "r.html").exists()


def test_a_reader_that_stops_is_no_failure_to_tell() -> None:
    done = subprocess.run(
        f"{sys.executable} -m tastemaker data get --json | head -c 1", shell=True, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[", "")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert "numba" in {part["part"] for part in output(capsys, "doctor")["parts"]}


def refused(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "tastemaker", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "words", [("report", "LOG", "--rank", "3.5"), ("train", "factors", "LOG", "--to", "TO", "--epochs", "2.25")]
)
def test_a_fraction_is_no_whole_number(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    assert f"{words[-1]} is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("data", "split", "LOG", "TO"),
        ("train", "factors", "LOG", "--to", "TO"),
        ("report", "LOG"),
        ("debias", "LOG"),
        ("evaluate", "LISTS", "TEST"),
        ("attack", "LOG"),
        ("choose", "a cat"),
        ("demo",),
        ("gallery", "refit", "HOME"),
    ],
)
def test_a_seed_below_zero_is_refused_by_every_verb(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--seed", "-1"])
    assert end.value.code == 2
    assert 'Invalid value "-1" for --seed. Must be >= 0.' in " ".join(capsys.readouterr().err.split())


def test_a_whole_number_may_have_a_point(log: Path, tmp_path: Path) -> None:
    run("train", "factors", log, "--to", tmp_path / "model", "--rank", "2.0")


def test_exit_codes_and_suggestions(log: Path, tmp_path: Path) -> None:
    code, said = refused("data", "descirbe", log)
    assert (code, "describe" in said) == (2, True)
    code, said = refused("train", "factors", log, "--to", tmp_path, "--rnk", 3)
    assert (code, "--rank" in said) == (2, True)
    code, said = refused("data", "describe", tmp_path / "nothing.csv")
    assert (code, "nothing.csv" in said) == (1, True)
    code, said = refused("recommend", tmp_path / "nothing")
    assert (code, "model.json" in said) == (1, True)
    code, said = refused("recommend", log / "schema.json")
    assert (code, "model.json" in said) == (1, True)
    code, said = refused("data", "convert", log, log / "schema.json")
    assert (code, "schema.json: is a file; a log is saved in a folder" in said) == (1, True)
    code, said = refused("choose", "a cat", "--votes", tmp_path / "none.jsonl")
    assert (code, "tastemaker vote" in said) == (1, True)
    code, said = refused("data", "get", "movielens-100")
    assert (code, "did you mean 'movielens-100k'?" in said) == (1, True)
