"""`tastemaker choose` and `vote`, run as a person would, on the embedded models."""

import json
from pathlib import Path

import pytest

from tastemaker.cli import main
from tastemaker.generate import zoo

embedded = pytest.mark.skipif(not zoo.zoo(), reason="no embedded models in this version")


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert (end.value.code or 0) == code


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """Ada loves ink and dislikes the base, over and over."""
    path = tmp_path / "votes.jsonl"
    for worse in ("zoo/base", "zoo/clay", "zoo/neon") * 3:
        run("vote", path, "--user", "ada", "--better", "zoo/ink", "--worse", worse)
    return path


def test_votes_become_a_leaderboard(capsys: pytest.CaptureFixture[str], votes: Path) -> None:
    run("vote", votes, "--user", "bela", "--order", "zoo/clay", "zoo/base", "--like", "zoo/neon", "--equal", "a", "b")
    capsys.readouterr()
    run("vote", votes, "--user", "ada", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["votes"] == 9 + 3
    assert told["board"][0]["id"] == "zoo/ink"
    assert told["board"][0]["low"] < told["board"][0]["rating"] < told["board"][0]["high"]
    run("vote", votes)
    assert "Leaderboard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((), "no votes yet"),
        (("--better", "a"), "belong together"),
        (("--equal", "a"), "expected two items"),
        (("--order", "a", "a"), "each once"),
    ],
)
def test_bad_votes_are_refused_and_not_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: tuple[str, ...], says: str
) -> None:
    run("vote", tmp_path / "votes.jsonl", *asked, code=1)
    assert says in capsys.readouterr().err
    assert not (tmp_path / "votes.jsonl").exists()


@embedded
def test_models_come_with_reasons_and_probabilities(capsys: pytest.CaptureFixture[str], votes: Path) -> None:
    capsys.readouterr()
    run("choose", "a fox above a balloon", "-k", 3, "--json")
    anybody = json.loads(capsys.readouterr().out)
    assert len(anybody["models"]) == 3
    assert all(0 < card["probability"] <= 1 and card["reason"] for card in anybody["models"])
    assert any("nobody in particular" in said for said in anybody["about"])
    asked = ("choose", "a fox above a balloon", "--policy", "greedy", "--explore", 0, "--votes", votes)
    run(*asked, "--user", "ada", "--json")
    card = next(card for card in json.loads(capsys.readouterr().out)["models"] if card["id"] == "zoo/ink")
    assert card["personal"] > 0.3
    assert "to your taste" in card["reason"]
    run(*asked, "--user", "nobody")
    assert "has not voted" in capsys.readouterr().err


@embedded
def test_pictures_are_drawn_and_put_in_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("choose", "a cat", "-k", 2, "--generate", "-o", tmp_path / "chosen.png", "--device", "cpu", "--json")
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["best first"]) == sorted(card["id"] for card in told["models"])
    assert told["ordered by"] == "how well they show the prompt"
    assert (tmp_path / "chosen.png").exists()


@embedded
def test_votes_on_pictures_order_what_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Somebody who always takes the darker style, or always the lighter one, gets it first."""
    tops = []
    for user, better, worse in (("dark", "neon", "base"), ("light", "base", "neon")):
        votes = tmp_path / f"{user}.jsonl"
        for at in range(8):
            run("vote", votes, "--user", user, "--better", f"zoo/{better}/{at:02d}.png",
                "--worse", f"zoo/{worse}/{at:02d}.png")  # fmt: skip
        capsys.readouterr()
        run("choose", "a star", "-k", 6, "--generate", "--user", user, "--votes", votes, "-o", tmp_path / "chosen.png",
            "--device", "cpu", "--json")  # fmt: skip
        told = json.loads(capsys.readouterr().out)
        assert user in told["ordered by"]
        order = told["best first"]
        assert order.index(f"zoo/{better}") < order.index(f"zoo/{worse}")
        tops.append(order)
    assert tops[0] != tops[1]


@embedded
def test_votes_on_strangers_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("vote", tmp_path / "votes.jsonl", "--user", "ada", "--better", "ink", "--worse", "neon")
    run("choose", "a cat", "--user", "ada", "--votes", tmp_path / "votes.jsonl", code=1)
    assert "no vote is on these models" in capsys.readouterr().err


@embedded
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("choose", " "), "expected words"),
        (("choose", "x" * 5000), "at most 4000 characters"),
        (("choose", "a cat", "--user", "ada"), "needs --votes"),
        (("choose", "a cat", "--base", "sdxl"), "passes the filters"),
        (("choose", "a cat", "--encoder", "nowhere"), "no such folder"),
    ],
)
def test_bad_questions_are_refused(capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], says: str) -> None:
    run(*asked, code=1)
    assert says in capsys.readouterr().err
