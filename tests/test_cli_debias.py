"""`tastemaker debias`, run as a person would."""

import json
from pathlib import Path

import numpy as np
import pytest

from tastemaker.cli import main
from tastemaker.data import FeedbackLog, synthetic
from tastemaker.debias import report


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "native"
    synthetic.make(synthetic.tiny(), 5).log.save(path)
    return path


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Grades that rise with the item's number, without times and without random events."""
    path = tmp_path / "ratings.csv"
    rng = np.random.default_rng(0)
    rows = [f"{u},{i},{1 + i // 3}" for u in range(30) for i in range(15) if rng.random() < (i + 2) / 20]
    path.write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert (end.value.code or 0) == code


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    run("debias", *arguments, "--rank", 4, "--json")
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", sorted(set(report.MODELS) - {"sequence"}))
def test_every_propensity_model(capsys: pytest.CaptureFixture[str], log: Path, name: str) -> None:
    made = document(capsys, log, "--propensity", name)
    figures = made["figures"]
    for judged in ("chosen", "weighted", "random"):
        assert 0 < figures[f"{judged}.MSE.plain"] < 4
        assert 0 < figures[f"{judged}.MSE.corrected"] < 4
        assert 0 <= figures[f"{judged}.Recall@10.corrected"] <= 1
    assert len(made["verdicts"]) == 3
    assert any("no information" in warning for warning in made["warnings"]) == (name == "uniform")


def test_uniform_changes_nothing(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    figures = document(capsys, log, "--propensity", "uniform")["figures"]
    assert figures["random.MSE.change"] == pytest.approx(0, abs=1e-6)


def test_same_seed_same_result(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    first, second = (document(capsys, log, "--seed", 3) for _ in range(2))
    assert first == second


def test_without_random_events_it_says_so(capsys: pytest.CaptureFixture[str], ratings: Path) -> None:
    made = document(capsys, ratings, "--how", "user")
    assert report.NO_RANDOM in made["warnings"]
    assert not any(name.startswith("random.") for name in made["figures"])
    assert "weighted.MSE.change" in made["figures"]
    assert made["facts"]["liked from"] == "3.8"


def test_tables_are_printed(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    run("debias", log, "--rank", 4, "--how", "time", "--propensity", "item-age")
    said = capsys.readouterr()
    for words in (
        "reliability",
        "along the histories",
        "balance",
        "clipping",
        "biased: chosen",
        "unbiased: IPS",
        "unbiased: random",
    ):
        assert words in said.out


def test_random_events_can_be_kept(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    made = document(capsys, log, "--no-random-test")
    assert report.NO_RANDOM in made["warnings"]
    assert "random.MSE.plain" not in made["figures"]


def test_refusals(capsys: pytest.CaptureFixture[str], ratings: Path, log: Path) -> None:
    def said(*arguments: object) -> str:
        run("debias", *arguments, code=1)
        return " ".join(capsys.readouterr().err.split())

    assert "'random'" in said(ratings, "--random-test")
    assert "needs a time" in said(ratings, "--propensity", "item-age")
    assert "probability" in said(ratings, "--propensity", "logged")
    assert "sample" in said(ratings, "--propensity", "naive-bayes")
    assert "did you mean 'popularity'?" in said(log, "--propensity", "popularty")
    assert "clip" in said(log, "--clip", -1)


def test_likes_only_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "likes.csv"
    path.write_text("user_id,item_id\n" + "\n".join(f"{u},{i}" for u in range(9) for i in range(u, u + 5)) + "\n")
    run("debias", path, code=1)
    assert "holds likes only" in capsys.readouterr().err


def test_no_clip_from_python(log: Path) -> None:
    made = report.make(FeedbackLog.load(log), clip=None, rank=4)
    assert made.figures["weights.effective_share"] < 1
