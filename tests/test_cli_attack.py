"""`tastemaker attack`, run as a person would."""

import json
from pathlib import Path

import numpy as np
import pytest

from tastemaker import columns as c
from tastemaker.cli import main
from tastemaker.data import FeedbackLog, synthetic


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "native"
    synthetic.make(synthetic.tiny(), 5).log.save(path)
    return path


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(["attack", *(str(a) for a in arguments)])
    assert (end.value.code or 0) == code


def test_a_drill_writes_marked_logs_and_tables(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    quick = ("--budget", 4, "--rounds", 2, "--rank", 4, "-o", tmp_path / "drill", "--defences", "cap", "trimmed")
    run(log, *quick, "--attacks", "random", "learned", "--victims", "itemknn", "popular", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "drill" / "drill.json").read_text())
    assert {row["attack"] for row in told["outcomes"]} == {"none", "random", "learned"}
    assert {row["defence"] for row in told["outcomes"]} == {"none", "cap", "trimmed"}
    assert len(told["targets"]) == 5
    for name in ("random", "learned"):
        marked = FeedbackLog.read(tmp_path / "drill" / name).events
        fake = marked.filter(c.SIMULATED)
        assert fake[c.USER].n_unique() == 4
        assert marked.height > fake.height > 0
    run(log, *quick, "--attacks", "random", "--victims", "popular")
    out = capsys.readouterr().out
    assert "Transfer" in out
    assert "What each got" in out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--targets", "nobody"), "whole numbers"),
        (("--targets", 10**9), "10000"),
        (("--budget", "many"), "such as 1%"),
        (("--budget", 0), "0"),
        (("--budget", "200%"), "2"),
        (("--victims", "oracle"), "unknown recommender"),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path, asked: tuple[object, ...], says: str
) -> None:
    run(log, *asked, "--attacks", "random", "-o", tmp_path, code=1)
    assert says in capsys.readouterr().err


def test_grades_need_cuts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, rng = tmp_path / "ratings.csv", np.random.default_rng(0)
    rows = [f"{u},{i},{rng.integers(1, 6)}" for u in range(9) for i in range(9)]
    path.write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    run(path, "-o", tmp_path / "drill", code=1)
    assert "graded" in capsys.readouterr().err
