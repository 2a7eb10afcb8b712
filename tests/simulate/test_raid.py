"""Fake people in the loop: they push what they should, the defence pushes back, honest people stay who they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tastemaker.attack.defend import Distrust
from tastemaker.attack.profiles import Budget, poisoned
from tastemaker.data.feedback import Scale
from tastemaker.errors import InvalidArgument
from tastemaker.recommend import Factors, ItemKNN
from tastemaker.simulate import loop, quarters, report
from tastemaker.simulate.people import Likers
from tastemaker.simulate.pictures import viewers
from tastemaker.simulate.policy import Greedy, Softmax
from tastemaker.simulate.raid import Raid
from tests.simulate.pictures import book

MODEL, RULE = Factors(rank=3, reg=3.0, epochs=5), Softmax(temperature=0.2, explore=0.1)
QUICK = quarters.Setting(people=60, crowds=2, rounds=5, shown=2, start=4, raid=1, defence=3, rank=3, k=5)

TARGETS = tuple(range(5, 48, 6))  # the pictures of one model


def raid(**given: object) -> Raid:
    settings = {"targets": TARGETS, "begins": 1, "budget": Budget(20, 10), "share": 0.2} | given
    return Raid(**settings)  # type: ignore[arg-type]


def crowd(n: int = 100) -> Likers:
    return viewers(book(), n, rng=0).people


def run(people: Likers, how: Raid | None, seed: int = 0) -> loop.LoopResult:
    return loop.run(people, MODEL, RULE, rounds=4, shown_per_round=2, start=5, raid=how, k=5, rng=seed)


def pushed(done: loop.LoopResult) -> np.ndarray:
    return np.isin(done.lists, TARGETS).mean(axis=(1, 2))


def test_a_raid_pushes_its_targets_and_the_defence_takes_that_back() -> None:
    people = crowd()
    alone, open_, closed = (
        np.mean([pushed(run(people, how, seed)) for seed in range(3)], axis=0)
        for how in (None, raid(), raid(defended=3))
    )
    assert (open_[:1] == alone[:1]).all()  # nothing has happened yet
    assert open_[1:].mean() > alone[1:].mean() + 0.08
    assert closed[3:].mean() < open_[3:].mean() - 0.04


def test_honest_people_are_all_the_log_holds() -> None:
    people = crowd()
    done = run(people, raid(defended=2))
    assert done.log.n_users == 100
    assert len(done.log) == 100 * (5 + 4 * 2)
    assert done.fakes is not None
    assert len(done.fakes) == 20
    assert sorted(done.doubted) == [2, 3, 4]
    assert all(doubts.shape == (120,) for doubts in done.doubted.values())
    assert done.lists.shape == (5, 100, 5)
    assert len(done.model.fitted.user_ids) == 120


def test_before_it_begins_a_raid_changes_nothing() -> None:
    people = crowd(40)
    quiet, late = run(people, None), run(people, raid(begins=4))
    assert quiet.table[:4].equals(late.table[:4])
    assert quiet.log.events.equals(late.log.events)  # what the last fit learned is shown to nobody
    assert not (quiet.lists[4] == late.lists[4]).all()


def test_the_defence_is_the_one_of_the_drill() -> None:
    """Doubted people have no say and are folded in: the scores are those of `defend.Distrust`."""
    people, how = crowd(60), raid(begins=1, defended=1)
    done = loop.run(people, MODEL, RULE, rounds=1, shown_per_round=3, start=6, raid=how, k=5, rng=3)
    assert done.fakes is not None
    told = poisoned(done.log, done.fakes)
    model, doubted = how.fit(MODEL, done.log, done.fakes, weight=None, turn=1, rng=np.random.default_rng(5))
    want = Distrust(how.detector, how.share).fit(MODEL, told, rng=np.random.default_rng(5))
    assert np.allclose(loop.all_scores(model), loop.all_scores(want), atol=1e-5)
    assert doubted is not None
    assert (doubted == Distrust(how.detector, how.share).doubted(told)).all()


def test_best_lists_hold_the_highest_scores() -> None:
    done = run(crowd(30), None)
    scores = loop.all_scores(done.model)
    taken = np.take_along_axis(scores, done.lists[-1], axis=1)
    assert np.allclose(np.sort(taken, axis=1)[:, ::-1], np.sort(scores, axis=1)[:, ::-1][:, :5])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"begins": -1}, r"begins after round -1; expected 0\.\.4"),
        ({"begins": 5}, r"expected 0\.\.4"),
        ({"begins": 2, "defended": 1}, r"expected 2\.\.4"),
        ({"defended": 9}, r"expected 1\.\.4"),
        ({"targets": ()}, "targets"),
        ({"budget": Budget(0.2, 2)}, "8 targets"),
        ({"budget": Budget(5_000)}, "population"),
    ],
)
def test_a_raid_that_cannot_be_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        run(crowd(30), raid(**wrong))


def test_a_raid_needs_likes_and_a_model_that_folds_in() -> None:
    graded = replace(crowd(30), scale=Scale(-1.0, 1.0))
    with pytest.raises(InvalidArgument, match="graded"):
        run(graded, raid())
    with pytest.raises(InvalidArgument, match=r"expected -1\.\.1"):
        Likers(np.full((2, 2), 0.5), Scale(0.0, 1.0))
    done = loop.run(crowd(30), ItemKNN(), Greedy(), rounds=2, start=5, raid=raid(defended=1), k=5, rng=0)
    assert sorted(done.doubted) == [1, 2]  # neighbours fold in


# -- the four arms -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four() -> quarters.Quarters:
    return quarters.run(book(), QUICK, seed=1)


def test_every_arm_crowd_and_round_has_a_row(four: quarters.Quarters) -> None:
    assert four.table.height == 4 * 2 * 6
    assert four.table.columns == ["arm", "crowd", "round", *quarters.METRICS]
    assert four.table["arm"].unique(maintain_order=True).to_list() == list(quarters.ARMS)
    assert four.table.drop("caught", "false_alarms").null_count().sum_horizontal().item() == 0
    doubted = four.table.drop_nulls("caught")
    assert set(doubted["round"]) == {3, 4, 5}
    assert set(doubted["arm"]) == {"plain, raided", "corrected, raided"}
    for name in ("lesser", "gini", "target", "target_lists", "caught", "false_alarms"):
        assert four.table[name].drop_nulls().is_between(0, 1).all()
    for name in ("value", "lists"):
        assert four.table[name].is_between(-1, 1).all()


def test_arms_share_people_and_first_rounds(four: quarters.Quarters) -> None:
    """Round 0 is the same everywhere, and a raid changes nothing until it is learned from."""
    shown = ("value", "lesser", "gini", "target")
    for crowd_ in (0, 1):
        rows = {arm: four.table.filter(arm=arm, crowd=crowd_).select("round", *shown) for arm in quarters.ARMS}
        assert rows["plain"][:2].equals(rows["plain, raided"][:2])
        assert rows["corrected"][:2].equals(rows["corrected, raided"][:2])
        assert rows["plain"][:1].equals(rows["corrected"][:1])


def test_figures_of_a_round_by_hand(four: quarters.Quarters) -> None:
    some, log = book(), four.logs["plain"]
    shown = log.item[log.events["round"].to_numpy() == 2]
    row = four.table.filter(arm="plain", crowd=0, round=2).row(0, named=True)
    assert row["target"] == pytest.approx(np.isin(shown, four.targets).mean())
    downloads = dict(some.models.table.select("id", "downloads").iter_rows())
    of = np.array([downloads[name] for name in some.cells["model"]])
    assert row["lesser"] == pytest.approx((of[shown] < 10_000).mean())
    least = min(downloads.values())
    assert (of[four.targets] == least).all()
    assert (of == least).sum() == len(four.targets)
    user = log.user[log.events["round"].to_numpy() == 2]
    assert row["value"] == pytest.approx(four.viewers.people.truth[user, shown].mean())


def test_the_same_seed_gives_the_same_loops(four: quarters.Quarters) -> None:
    assert quarters.run(book(), QUICK, seed=1).table.equals(four.table)
    assert not quarters.run(book(), QUICK, seed=2).table.equals(four.table)


def test_logs_are_ready_for_the_outside(four: quarters.Quarters) -> None:
    log = four.logs["corrected, raided"]
    assert log.user_ids.ids([0]).to_list() == ["simulated 1-1"]
    assert log.item_ids.ids([0]).to_list() == ["model 0/prompt 0.png"]
    assert log.events["simulated"].all()
    assert log.impressions is not None
    assert log.impressions["probability"].is_between(0, 1, closed="right").all()


def test_the_raid_shows_and_recovers() -> None:
    """On drawn vectors, with more people: damage while nobody looks, less of it with the defence."""
    setting = replace(QUICK, people=150, crowds=3, rounds=6, defence=4, fakes=0.25, doubted=0.25)
    done = quarters.run(book(), setting, seed=0)
    changes = {(change.cause, change.what): change for change in report.changes(done)}
    during = changes["The raid, before the defence", "its share of the best ten"]
    after = changes["The raid, with the defence, in the end", "its share of the best ten"]
    assert during.after - during.before > 0.05
    assert after.after - after.before < 0.6 * (during.after - during.before)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"crowds": 1}, "at least 2"),
        ({"raid": 0}, "after round 1"),
        ({"raid": 3}, "each after the one before"),
        ({"defence": 5}, "each after the one before"),
        ({"rounds": 60}, "there are 48"),
        ({"power": 2.0}, "power"),
        ({"k": 0}, "k=0"),
        ({"k": 49}, "need 49 pictures"),
        ({"people": 0}, "people=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        quarters.run(book(), replace(QUICK, **wrong))  # type: ignore[arg-type]


def test_makers_must_differ() -> None:
    some = book()
    table = some.models.table.with_columns(pl.lit(500).alias("downloads"))
    with pytest.raises(InvalidArgument, match="equally well known"):
        quarters.run(replace(some, models=type(some.models)(table)), QUICK)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_holds_everything_and_fetches_nothing(four: quarters.Quarters, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one.png")
    asked: list[str] = []

    def where(name: str) -> Path:
        asked.append(name)
        return tmp_path / "one.png"

    page = tmp_path / "loop.html"
    report.write(four, book(), page, where, command="tastemaker demo", facts={"steps": "<b>2</b>"})
    text = page.read_text()
    assert text.count("data:image/svg+xml;base64,") == len(report.CHARTS)
    assert text.count("data:image/webp;base64,") >= 6 + 14
    assert len(asked) == len(set(asked))  # each picture is read once
    assert "&lt;b&gt;2" in text
    assert 'src="http' not in text
    assert "<script" not in text
    assert "tastemaker demo" in text


def test_figures_are_flat_numbers(four: quarters.Quarters) -> None:
    figures = report.figures(four)
    assert json.dumps(figures)
    assert all(isinstance(value, float) for value in figures.values())
    assert all(name.replace(".", "").replace("_", "").isalnum() for name in figures)
    assert {"plain.value", "corrected_raided.during", "plain.best_ten_low"} <= set(figures)
    for change in report.changes(four):
        assert change.low <= change.after - change.before <= change.high
        assert change.clear == (change.low > 0 or change.high < 0)
    means = four.means()
    assert means.height == 4 * 6
    row = means.filter(arm="plain", round=3).row(0, named=True)
    both = four.table.filter(arm="plain", round=3)["value"]
    assert row["value"] == pytest.approx(both.mean())
    assert row["value_high"] - row["value"] == pytest.approx(12.706 * both.std() / 2**0.5, rel=1e-3)
