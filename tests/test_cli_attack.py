"""`tastemaker attack`, run as a person would."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tastemaker import columns as c
from tastemaker.attack import Budget, Fakes, bilevel, heuristic, poisoned
from tastemaker.attack import drill as drilling
from tastemaker.attack import evade as evading
from tastemaker.attack.bilevel_als import ALS
from tastemaker.attack.bilevel_autoencoder import ItemAutoencoder
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.certify import Bagging
from tastemaker.attack.defend import Distrust
from tastemaker.attack.detect import Detector, Learned, Statistics
from tastemaker.cli import attack as cli
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
    assert "popular: what each got" in out
    assert {path.name for path in (tmp_path / "drill").iterdir()} == {
        "random", "drill.json", "detection.svg", "price.svg",
    }  # fmt: skip


BAD = [
    (("--targets", "nobody"), "whole numbers"),
    (("--targets", 10**9), "holds no item 1000000000; expected ids"),
    (("--targets", 3, "03"), "--targets names 3 more than once"),
    (("--budget", "many"), "such as 1%"),
    (("--budget", 0), "0"),
    (("--budget", "200%"), "2"),
    (("--victims", "oracle"), "unknown recommender"),
    (("--victims", "popular", "popular"), "--victims names popular more than once"),
    (("--attacks", "random", "random"), "--attacks names random more than once"),
    (("--defences", "cap", "cap"), "--defences names cap more than once"),
    (("--surrogate", "als", "als"), "--surrogate names als more than once"),
    (("--k", 61), "k=61; expected 1 to 60"),
    (("--k", 0), "k=0"),
    (("--rounds", 0), "--rounds 0; expected 1 or more"),
    (("--rank", 0), "rank=0"),
    (("--clicks", 61), "61 clicks"),
    (("--sees-users", 0), "Knowledge(users=0); expected a share above 0"),
    (("--sees-items", 2), "Knowledge(items=2); expected a share above 0"),
    (("--sees-clicks", "nan"), "Knowledge(clicks=nan); expected a share above 0"),
    (("--sees-items", 0.1, "--clicks", 20), "20 clicks a fake user, but the log knows"),
    (("--sees-users", 0.05), "4 fake users of a population of 2"),
]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails whatever begins to work."""

    def work(*given: object, **more: object) -> None:
        raise AssertionError("an attack was computed, or a model fitted")

    for module, name in ((bilevel, "attack"), (heuristic, "random"), (heuristic, "bandwagon"), (drilling, "drill")):
        monkeypatch.setattr(module, name, work)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(("asked", "says"), BAD, ids=[" ".join(map(str, asked)) for asked, _ in BAD])
def test_bad_input_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path, asked: tuple[object, ...], says: str
) -> None:
    usual: dict[str, tuple[object, ...]] = {"--budget": (4,), "--attacks": ("random", "learned")}
    options = [word for name, values in usual.items() if name not in asked for word in (name, *values)]
    run(log, *asked, *options, "-o", tmp_path / "drill", code=1)
    told = capsys.readouterr().err
    assert says in told
    assert "find()" not in told  # a library call is no advice here
    assert not (tmp_path / "drill").exists()


@pytest.mark.usefixtures("idle")
def test_what_no_drill_wrote_is_not_written_over(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    file = tmp_path / "drill"
    file.touch()
    run(log, "--budget", 4, "-o", file, code=1)
    assert "is a file" in capsys.readouterr().err
    (tmp_path / "random").mkdir()
    run(log, "--budget", 4, "--attacks", "random", "-o", tmp_path, code=1)
    assert "no poisoned log" in capsys.readouterr().err


def test_a_poisoned_log_is_refused(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    bad = FeedbackLog.read(log)
    poisoned(bad, heuristic.random(bad, [3], Budget(4), rng=0)).save(tmp_path / "bad")
    run(tmp_path / "bad", "--budget", 4, "-o", tmp_path / "drill", code=1)
    assert "drop them with log.select(" in capsys.readouterr().err


def profiles(folder: Path) -> list[list[int]]:
    """Likes of each fake user."""
    fake = FeedbackLog.read(folder).events.filter(c.SIMULATED)
    return [sorted(one[c.ITEM]) for one in fake.partition_by(c.USER, maintain_order=True)]


def test_an_attack_does_not_depend_on_the_others(log: Path, tmp_path: Path) -> None:
    quick = ("--budget", 4, "--rounds", 1, "--rank", 4, "--victims", "popular", "--defences", "cap", "--attacks")
    run(log, *quick, "random", "hidden", "average", "-o", tmp_path / "a")
    run(log, *quick, "hidden", "learned", "average", "random", "--surrogate", "als", "wmf", "-o", tmp_path / "b")
    for one, other in (("random", "random"), ("average", "average"), ("hidden", "hidden-wmf")):
        assert profiles(tmp_path / "a" / one) == profiles(tmp_path / "b" / other)
    told = json.loads((tmp_path / "b" / "drill.json").read_text())
    assert {row["attack"]: str(row["surrogate"]).split("(")[0] for row in told["transfer"]} == {
        "hidden-als": "ALS", "hidden-wmf": "WMF", "learned-als": "ALS", "learned-wmf": "WMF",
        "average": "None", "random": "None",
    }  # fmt: skip


def test_an_attacker_who_sees_little_clicks_only_what_it_knows(log: Path, tmp_path: Path) -> None:
    quick = ("--budget", 4, "--rounds", 1, "--rank", 4, "--victims", "popular", "--defences", "cap", "--clicks", 9)
    every = ("--attacks", "random", "power-users", "learned", "hidden", "--sees-users", 0.5, "--sees-items", 0.3)
    run(log, *quick, *every, "--sees-clicks", 0.9, "-o", tmp_path)
    told = json.loads((tmp_path / "drill.json").read_text())
    assert told["sees"] == {"users": 0.5, "items": 0.3, "clicks": 0.9}
    clicked = {item for name in every[1:5] for one in profiles(tmp_path / name) for item in one}
    assert len(clicked) <= 18 + 5  # 30% of 60 items, and the targets


def test_hidden_rewrites_the_fakes_of_learned_made_once(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rewritten, asked = [], [], []
    learn, hide = bilevel.attack, evading.evade

    def attack(*given: Any, **more: Any) -> Fakes:
        asked.append(more)
        made.append(learn(*given, **more))
        return made[-1]

    def evade(log: FeedbackLog, fakes: Fakes, detector: Detector, **more: Any) -> Fakes:
        rewritten.append((fakes, detector))
        return hide(log, fakes, detector, **more)

    monkeypatch.setattr(bilevel, "attack", attack)
    monkeypatch.setattr(evading, "evade", evade)
    quick = ("--budget", 4, "--rounds", 1, "--rank", 4, "--victims", "popular", "-k", 7, "-o", tmp_path)
    run(log, *quick, "--attacks", "hidden", "learned", "--detector", "statistics", "--defences", "distrust")
    assert len(made) == 1
    assert rewritten == [(made[0], Statistics())]
    assert asked[0]["k"] == 7  # what the drill judges at, the attack chooses its best round by
    assert asked[0]["surrogate"] == WMF(4, batch=7)  # of 39 people and 4 fakes: 7 steps an epoch
    assert json.loads((tmp_path / "drill.json").read_text())["detector"] == "statistics"


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (701, 101), (13_280, 1_898), (10**6, 2_048)])
def test_an_epoch_has_about_seven_steps(rows: int, batch: int) -> None:
    assert cli._batch(rows) == batch


def test_surrogates_fit_the_log() -> None:
    assert cli._surrogate("als", 32, 700, 9) == ALS(9)
    assert cli._surrogate("itemae", 8, 700, 70) == ItemAutoencoder((16, 8), batch=10)


@pytest.mark.parametrize("n_fakes", [1, 6, 7, 39])
def test_distrust_leaves_out_as_many_accounts_as_there_are_fakes(log: Path, n_fakes: int) -> None:
    clean = FeedbackLog.read(log)
    people = len(np.unique(clean.user[clean.value > 0]))
    way = cli._defence("distrust", clean, Statistics(), n_fakes, people)
    assert isinstance(way, Distrust)
    assert int(way.share * (people + n_fakes)) == n_fakes
    assert int(way.share * people) >= 1


def test_learned_is_judged_on_rules_it_was_not_taught(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path
) -> None:
    def rules(*attacks: str) -> list[str]:
        learned = cli._detectors(attacks)["learned"]
        assert isinstance(learned, Learned)
        return [rule.__name__ for rule in learned.attacks]

    assert rules("learned") == ["random", "bandwagon"]
    assert rules("bandwagon", "learned") == ["random", "power_items"]
    everything = ("random", "average", "bandwagon", "segment", "power-users", "power-items")
    assert rules(*everything[1:]) == ["random"]
    assert rules(*everything) == ["random", "bandwagon"]
    quick = ("--budget", 4, "--victims", "popular", "--defences", "cap", "--targets", 3, "-o", tmp_path / "drill")
    run(log, *quick, "--attacks", "bandwagon")
    assert "learned from this very rule" not in capsys.readouterr().out
    run(log, *quick, "--attacks", *everything)
    assert "learned from this very rule" in capsys.readouterr().out
    told = json.loads((tmp_path / "drill" / "drill.json").read_text())
    taught = [(row["detector"], row["attack"]) for row in told["detection"] if row["taught"]]
    assert taught == [("learned", "random"), ("learned", "bandwagon")]


def test_a_certificate_of_nothing_is_told_in_words(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ("--budget", 4, "--victims", "popular", "--attacks", "random", "-o", tmp_path, "--defences", "bagging")
    run(log, *quick)
    out = " ".join(capsys.readouterr().out.split())
    assert "100 bags prove nothing here; thousands are needed" in out
    assert "untouched" not in out
    proof = pl.DataFrame(
        {"victim": ["a", "b"], "defence": ["x", "x"], "fakes": [1, 1], "untouched": [0.9, 0.9], "kept": [0.5, 0.0],
         "users_keeping": [0.5, 0.0], "targets_out": [None, 0.0]},
        schema_overrides={"targets_out": pl.Float64},
    )  # fmt: skip
    cli._print_proofs(proof, {"x": Bagging(bags=7)})
    out = " ".join(capsys.readouterr().out.split())
    assert "Proven of a with x, whatever" in out
    assert "Proven of b with x: 7 bags prove nothing here" in out


def test_another_drill_in_a_folder_replaces_the_first_and_nothing_else(log: Path, tmp_path: Path) -> None:
    quick = ("--budget", 4, "--victims", "popular", "--defences", "cap", "-o", tmp_path, "--attacks")
    run(log, *quick, "random", "average")
    FeedbackLog.read(log).save(tmp_path / "segment")  # a log, and not of a drill
    (tmp_path / "average" / "mine.txt").touch()
    run(log, *quick, "bandwagon")
    assert {path.name for path in tmp_path.iterdir()} == {
        "drill.json", "bandwagon", "detection.svg", "price.svg", "segment", "average",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "average").iterdir()] == ["mine.txt"]
    told = json.loads((tmp_path / "drill.json").read_text())
    assert [row["attack"] for row in told["attacks"]] == ["bandwagon"]


def test_without_matplotlib_there_are_no_plots_and_a_note_says_so(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run(log, "--budget", 4, "--victims", "popular", "--defences", "cap", "-o", tmp_path, "--attacks", "random")
    assert "no plots; this needs 'matplotlib'" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"drill.json", "random"}


def test_grades_need_cuts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, rng = tmp_path / "ratings.csv", np.random.default_rng(0)
    rows = [f"{u},{i},{rng.integers(1, 6)}" for u in range(9) for i in range(9)]
    path.write_text("user_id,item_id,rating\n" + "\n".join(rows) + "\n")
    run(path, "-o", tmp_path / "drill", code=1)
    assert "graded" in capsys.readouterr().err
