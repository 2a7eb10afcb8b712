"""The drill: its figures are those of the parts, and every bad input is named before anything is trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from tastemaker import columns as c
from tastemaker.attack import Budget, heuristic, poisoned
from tastemaker.attack.certify import Bagging, certificate
from tastemaker.attack.defend import Adversarial, Cap, Distrust
from tastemaker.attack.detect import PCA, Learned, Statistics, judge
from tastemaker.attack.drill import NONE, check, drill
from tastemaker.attack.hits import hit_rate, per_target
from tastemaker.attack.report import plot_detection, plot_price
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data import split, synthetic
from tastemaker.errors import InvalidArgument, UnknownId, UnknownName
from tastemaker.evaluate.groups import by_popularity
from tastemaker.evaluate.ranking import per_user
from tastemaker.evaluate.stakeholders import stakeholders
from tastemaker.recommend import Factors, ItemKNN, Popular

TRAIN, TEST = low_rank_clicks(np.random.default_rng(1), n_users=100, n_items=60)
FAKES = {
    "random": heuristic.random(TRAIN, [3, 8], Budget(9), rng=0),
    "bandwagon": dataclasses.replace(heuristic.bandwagon(TRAIN, [5], Budget(5), rng=0), settings={"surrogate": "S()"}),
}
VICTIMS = [ItemKNN(), Factors(rank=4, epochs=3), Popular(by="likes")]
WAYS = [Cap(), Distrust(Statistics(), share=0.1), Adversarial(), Bagging(bags=3, size=20)]


@pytest.fixture(scope="module")
def done():
    return drill(VICTIMS, TRAIN, FAKES, WAYS, test=TEST, k=5, detectors=[PCA(), Statistics()], draws=50, seed=4)


def row(table, **where):
    found = table.filter(*(pl.col(key) == value for key, value in where.items()))
    assert found.height == 1
    return found.row(0, named=True)


def test_every_cell_is_there_once_and_marked(done):
    cells = done.outcomes.select("victim", "attack", "defence")
    assert cells.height == cells.n_unique() == 3 * 3 * 5
    for table in (done.outcomes, done.stakeholders):
        assert (table[c.SIMULATED] == (table["attack"] != NONE)).all()
    for table in (done.detection, done.curves, done.transfer, done.attacks):
        assert table[c.SIMULATED].all()
    assert (done.k, done.metric, done.seed) == (5, "NDCG@5", 4)


@pytest.mark.parametrize("name", ["random", "bandwagon"])
def test_outcomes_are_those_of_the_parts(done, name):
    bad, goals = poisoned(TRAIN, FAKES[name]), FAKES[name].targets
    users = np.intersect1d(TEST.users, TRAIN.users)
    judged = TEST.select(np.isin(TEST.user, users))
    before = ItemKNN().fit(TRAIN, rng=4).recommend(users, 5, exclude=TRAIN)
    after = ItemKNN().fit(bad, rng=4).recommend(users, 5, exclude=bad)
    found = row(done.outcomes, victim="itemknn", attack=name, defence=NONE)
    assert found["hit_rate_before"] == hit_rate(before, goals, users, 5)
    assert found["hit_rate"] == hit_rate(after, goals, users, 5)
    assert found["per_target"] == per_target(after, goals, users, TRAIN, 5)
    means = [per_user(recs, judged, ["NDCG@5"])["NDCG@5"].mean() for recs in (before, after)]
    assert found["accuracy"] == pytest.approx(means[1])
    assert found["accuracy_change"] == pytest.approx(means[1] - means[0])
    assert found["change_low"] <= found["accuracy_change"] <= found["change_high"]

    tables = [stakeholders(recs, judged, by_popularity(TRAIN)) for recs in (before, after)]
    shares = done.stakeholders.filter(
        pl.col("victim") == "itemknn", pl.col("attack") == name, pl.col("defence") == NONE
    )
    assert shares["stakeholder"].to_list() == ["consumers", "well-known", "lesser-known"]
    assert shares["exposure"].to_list() == pytest.approx(tables[1]["exposure"].to_list())
    changes = (tables[1]["exposure"] - tables[0]["exposure"]).to_list()
    assert shares["exposure_change"].to_list() == pytest.approx(changes)
    gain = found["hit_rate"] - found["hit_rate_before"]
    assert row(done.transfer, attack=name)["itemknn"] == pytest.approx(gain)


def test_detection_and_its_place_in_outcomes(done):
    bad = poisoned(TRAIN, FAKES["random"])
    fake = np.arange(bad.n_users) >= TRAIN.n_users
    wanted = judge(Statistics().score(bad), fake)
    found = row(done.detection, detector="statistics", attack="random")
    assert (found["auc"], found["low"], found["n_fake"]) == (wanted.auc, wanted.low, 9)
    defended = done.outcomes.filter(pl.col("defence") == "distrust", pl.col("attack") == "random")
    assert defended["detection_auc"].to_list() == [wanted.auc] * 3
    assert done.outcomes.filter(pl.col("defence") == "cap")["detection_auc"].null_count() == 9
    curve = done.curves.filter(pl.col("detector") == "statistics", pl.col("attack") == "random")
    assert curve.drop("detector", "attack", c.SIMULATED).equals(wanted.curve)


def test_a_defence_that_a_victim_cannot_have_is_null_and_not_left_out(done):
    rows = done.outcomes.filter(pl.col("defence") == "adversarial")
    assert rows.height == 9
    assert rows["accuracy"].null_count() == rows["hit_rate"].null_count() == 9
    assert done.outcomes.filter(pl.col("attack") == NONE)["hit_rate"].null_count() == 15
    others = done.outcomes.filter(pl.col("defence") != "adversarial", pl.col("attack") != NONE)
    assert others["hit_rate"].null_count() == 0


def test_attacks_and_flat_figures(done):
    assert row(done.attacks, attack="bandwagon")["surrogate"] == "S()"
    assert row(done.attacks, attack="random")["targets"] == [3, 8]
    assert row(done.attacks, attack="random")["users"] == 9
    figures = done.figures()
    found = row(done.outcomes, victim="factors", attack="random", defence="cap")
    assert figures["outcomes.factors.random.cap.hit_rate"] == found["hit_rate"]
    assert all(isinstance(value, int | float) for value in figures.values())


def test_same_seed_same_tables_and_names_are_numbered():
    args = ([ItemKNN(), ItemKNN(shrink=0.0)], TRAIN, [FAKES["random"], FAKES["random"]])
    first, again = (drill(*args, test=TEST, k=5, detectors=[PCA()], draws=20) for _ in range(2))
    assert first.outcomes.equals(again.outcomes)
    assert first.stakeholders.equals(again.stakeholders)
    assert first.outcomes["victim"].unique(maintain_order=True).to_list() == ["itemknn", "itemknn 2"]
    assert first.attacks["attack"].to_list() == ["random", "random 2"]
    with pytest.raises(Exception, match="fitted"):
        args[0][0].recommend([0])


def test_dislikes_and_text_ids_go_through():
    world = synthetic.make(synthetic.World(n_users=60, n_items=40, events=15), 0).log
    train, test = split.per_user(world, 0.3, rng=0)
    fakes = heuristic.average(train, [0], Budget(3), rng=0)
    found = drill(Factors(rank=2, epochs=2), train, fakes, Cap(), test=test, k=5, detectors=[], draws=20)
    assert found.outcomes.height == 4
    assert found.detection.height == found.curves.height == 0
    assert found.stakeholders["n_judged"].sum() > found.stakeholders["n_liked"].sum()


class Stubborn:
    """Recommends, but cannot be fitted again."""

    def recommend(self, users, k=10, *, exclude=None):
        raise AssertionError("never asked")


class Forgetful(ItemKNN):
    """Fits, and does not say so."""

    def fit(self, log, *, weight=None, rng=None):
        super().fit(log, weight=weight, rng=rng)


class Unweighted(ItemKNN):
    def fit(self, log):
        raise AssertionError("never asked")


def test_bad_input():
    fakes = FAKES["random"]
    for victim, message in ((Stubborn(), "cannot be refitted"), (ItemKNN, "a class"), (Unweighted(), "no weight")):
        with pytest.raises(InvalidArgument, match=message):
            drill([victim], TRAIN, fakes, test=TEST)
    with pytest.raises(InvalidArgument, match="0 victims"):
        drill([], TRAIN, fakes, test=TEST)
    with pytest.raises(InvalidArgument, match="0 attacks"):
        drill(ItemKNN(), TRAIN, [], test=TEST)
    with pytest.raises(InvalidArgument, match="stands for none"):
        drill({"none": ItemKNN()}, TRAIN, {"none": fakes}, {"none": Cap()}, test=TEST)
    with pytest.raises(InvalidArgument, match=r"forgetful.fit returned None.*'return self'"):
        drill({"forgetful": Forgetful()}, TRAIN, fakes, test=TEST, detectors=[])
    with pytest.raises(InvalidArgument, match="seed=-1"):
        drill(ItemKNN(), TRAIN, fakes, test=TEST, seed=-1)
    with pytest.raises(InvalidArgument, match="k=61"):
        drill(ItemKNN(), TRAIN, fakes, test=TEST, k=61)
    with pytest.raises(UnknownName, match="NDCG@10"):
        drill(ItemKNN(), TRAIN, fakes, test=TEST, metric="NGCD@10")
    with pytest.raises(InvalidArgument, match="nothing to judge"):
        drill(ItemKNN(), TRAIN, fakes, test=TEST.select(np.zeros(len(TEST), bool)))
    other, _ = low_rank_clicks(np.random.default_rng(1), n_users=20, n_items=10)
    with pytest.raises(InvalidArgument, match="split one log"):
        drill(ItemKNN(), TRAIN, fakes, test=other)
    with pytest.raises(UnknownId, match="do not exist"):
        drill(ItemKNN(), TRAIN, dataclasses.replace(fakes, targets=np.array([99], np.int32)), test=TEST)
    with pytest.raises(InvalidArgument, match="10 items"):
        drill(ItemKNN(), TRAIN, heuristic.random(other, [1], Budget(2, 3)), test=TEST)


def test_a_poisoned_log_is_refused_until_its_fakes_are_dropped():
    fakes = heuristic.random(TRAIN, [3], Budget(4, 10), rng=0)
    bad = poisoned(TRAIN, fakes)
    test = dataclasses.replace(TEST, user_ids=bad.user_ids)
    with pytest.raises(InvalidArgument, match=r"training log holds 40 events marked 'simulated'.*drop them with"):
        drill(ItemKNN(), bad, fakes, test=test)
    good = bad.select(~pl.col("simulated").fill_null(False)).compact()  # as the message says
    train, held = split.per_user(good, 0.2, rng=0)
    assert good.n_users == len(TRAIN.users)
    check(ItemKNN(), train, test=held, k=5)
    with pytest.raises(InvalidArgument, match="test log holds 40 events"):
        drill(ItemKNN(), dataclasses.replace(TRAIN, user_ids=bad.user_ids), fakes, test=bad)


def test_a_detector_that_was_taught_the_very_rule_is_marked():
    attacks = {
        "mine": FAKES["random"], "rewritten": dataclasses.replace(FAKES["random"], method="random evading"),
        "other": FAKES["bandwagon"],
    }  # fmt: skip
    finders = {"statistics": Statistics(), "learned": Learned((heuristic.random,), copies=1)}
    found = drill(Popular(), TRAIN, attacks, test=TEST, k=5, detectors=finders, draws=5).detection
    assert found.filter("taught").select("detector", "attack").rows() == [("learned", "mine"), ("learned", "rewritten")]


def test_pictures(done):
    detection, price = plot_detection(done), plot_price(done)
    assert len(detection.axes) == 4
    assert [axis.get_title() for axis in detection.axes[:2]] == ["random", "bandwagon"]
    assert [axis.get_title() for axis in price.axes] == ["itemknn", "factors", "popular"]
    with pytest.raises(InvalidArgument, match="no detectors"):
        plot_detection(dataclasses.replace(done, detection=done.detection.clear()))


def test_what_is_proven_is_told_for_every_victim(done):
    assert done.certificates["victim"].unique(maintain_order=True).to_list() == ["itemknn", "factors", "popular"]
    found = done.certificates.filter(pl.col("victim") == "itemknn", pl.col("defence") == "bagging")
    users = np.intersect1d(TEST.users, TRAIN.users)
    votes = WAYS[3].fit(ItemKNN(), TRAIN, rng=4)
    wanted = certificate(votes, users, k=5, fakes=[0, 1, 2, 5, 9, 10], targets=[3, 5, 8])
    assert found.drop("victim", "defence").equals(wanted)


def test_without_a_certified_defence_nothing_is_proven():
    bare = drill(ItemKNN(), TRAIN, FAKES["random"], test=TEST, k=5, detectors=[], draws=5)
    assert bare.certificates.is_empty()
