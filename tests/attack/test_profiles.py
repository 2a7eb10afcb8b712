"""Budgets, projections, targets, knowledge, poisoned logs and hit rates."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.attack.hits import hit_rate, mean_place, per_target
from tastemaker.attack.profiles import (
    Budget,
    Fakes,
    Knowledge,
    by_count,
    by_threshold,
    draw_targets,
    poisoned,
    popularity_class,
    target_rows,
)
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId, UnknownName


def log_of(pairs, n_users=4, n_items=5, **more):
    users, items = zip(*pairs, strict=True)
    known = {"user_ids": Vocabulary.range(n_users), "item_ids": Vocabulary.range(n_items)}
    return FeedbackLog.of(list(users), list(items), np.ones(len(pairs)), **(known | more))


LOG = log_of([(0, 0), (0, 1), (1, 0), (1, 2), (2, 3), (3, 0)])


def test_a_share_of_users_is_rounded_down():
    assert Budget(0.5, 2).of(LOG) == (2, 2)
    assert Budget(0.74).of(LOG) == (2, 2)  # 6 clicks of 4 users: 1.5, rounded to even
    assert Budget(3).of(LOG)[0] == 3
    assert int(np.floor(0.01 * 13149)) == 131


@pytest.mark.parametrize("users", [0, -1, 0.0, 1.5, -0.1, float("nan"), float("inf"), True, "1%", None])
def test_a_budget_that_is_no_budget(users):
    with pytest.raises(InvalidArgument, match="fake users; expected"):
        Budget(users)


@pytest.mark.parametrize("clicks", [0, -3, 2.5, 2.0, True, float("nan"), float("inf"), "3"])
def test_clicks_that_are_no_budget(clicks):
    with pytest.raises(InvalidArgument, match="expected a whole number from 1"):
        Budget(1, clicks)


@pytest.mark.parametrize("budget", [Budget(5), Budget(0.1), Budget(1, 6)])
def test_a_budget_beyond_the_log(budget):
    with pytest.raises(InvalidArgument, match=r"expected 1 to 4|knows 5 items"):
        budget.of(LOG)


def test_a_log_without_clicks_and_a_graded_one():
    nothing = LOG.select(np.zeros(len(LOG), bool))
    with pytest.raises(InvalidArgument, match="no click"):
        Budget(1).of(nothing)
    disliked = FeedbackLog.of([0, 1], [0, 1], [-1, -1])
    with pytest.raises(InvalidArgument, match="no click"):
        Budget(1).of(disliked)
    graded = FeedbackLog.of([0], [0], [3.0], scale=Scale(1, 5))
    with pytest.raises(InvalidArgument, match="needs likes and dislikes"):
        Budget(1).of(graded)
    with pytest.raises(InvalidArgument, match="needs likes and dislikes"):
        poisoned(graded, Fakes((np.array([0], np.int32),), 1, np.array([0], np.int32), "mine"))


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ([5], UnknownId, "do not exist"),
        ([-1], UnknownId, "do not exist"),
        ([], InvalidArgument, "expected item rows"),
        ([0.5], InvalidArgument, "expected item rows"),
        (["a"], InvalidArgument, "expected item rows"),
        ([[1]], InvalidArgument, "expected item rows"),
        ([1, 1], InvalidArgument, "twice"),
    ],
)
def test_targets_that_cannot_be(targets, error, words):
    with pytest.raises(error, match=words):
        target_rows(LOG, targets)


def test_projections_by_hand():
    before = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    step = np.array([[-0.96, 0.06, -0.94], [0.05, 0.0, 0.2]])
    # On where the step exceeds tau = 0.05, off where it is below tau - 1 = -0.95.
    assert by_threshold(before + step, 0.05).tolist() == [[0, 1, 1], [0, 1, 1]]
    assert by_count(before + step, 2).tolist() == [[0, 1, 1], [0, 1, 1]]
    assert by_count(np.zeros((1, 3)), 2).tolist() == [[1, 1, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_a_hard_budget_keeps_exactly_n_of_the_largest(seed, n):
    x = np.random.default_rng(seed).integers(-3, 4, (5, 8)).astype(float)
    kept = by_count(x, n)
    assert (kept.sum(axis=1) == n).all()
    for row, ones in zip(x, kept, strict=True):
        assert sorted(row[ones > 0]) == sorted(row)[-n:]


def test_classes_are_bounded_strictly():
    clicks = np.r_[0, 1, 1, 2, 3, 3, 4, 5, 9, 20]
    pairs = [(user, item) for item, n in enumerate(clicks) for user in range(n)]
    log = log_of(pairs, 20, 10)
    classes = {name: popularity_class(log, name).tolist() for name in ("head", "upper torso", "lower torso", "tail")}
    cut = np.percentile(clicks, [50, 75, 95])
    assert classes["head"] == np.flatnonzero(clicks > cut[2]).tolist()
    assert classes["upper torso"] == np.flatnonzero((clicks > cut[1]) & (clicks < cut[2])).tolist()
    assert classes["tail"] == np.flatnonzero(clicks < 3).tolist()
    assert not {4, 5} & {row for rows in classes.values() for row in rows}  # both lie on the median
    assert set(draw_targets(log, "tail", 3, np.random.default_rng(0))) <= set(classes["tail"])
    with pytest.raises(InvalidArgument, match="expected 1 to 4"):
        draw_targets(log, "tail", 5, np.random.default_rng(0))
    alike = FeedbackLog.of([0, 0, 1, 1], [0, 1, 0, 1], [1.0] * 4)
    with pytest.raises(InvalidArgument, match="no item of this log is of the tail"):
        draw_targets(alike, "tail", 1, np.random.default_rng(0))
    with pytest.raises(UnknownName, match="did you mean 'head'"):
        popularity_class(log, "heads")


def test_knowledge_shows_a_part_and_always_the_targets():
    train, _ = low_rank_clicks(np.random.default_rng(0), n_users=200, n_items=60)
    targets = np.array([7], np.int32)
    seen, items = Knowledge(users=0.25, items=0.5, clicks=0.5).view(train, targets, np.random.default_rng(1))
    assert 7 in items
    assert len(items) in (30, 31)
    assert 30 <= seen.shape[0] <= 50
    assert seen.shape[1] == len(items)
    assert (np.diff(seen.indptr) > 0).all()
    everything, items = Knowledge().view(train, targets, np.random.default_rng(1))
    assert everything.nnz == len(train)
    assert len(items) == 60
    for bad in (0.0, 1.1, float("nan")):
        with pytest.raises(InvalidArgument, match="expected a share"):
            Knowledge(users=bad)
    with pytest.raises(InvalidArgument, match="no click to see"):
        Knowledge(clicks=1e-9).view(LOG, targets, np.random.default_rng(0))


FAKES = Fakes((np.array([0, 4], np.int32), np.array([1], np.int32)), 5, np.array([4], np.int32), "mine")


def test_poisoned_rows_are_marked_and_ids_are_new():
    log = poisoned(LOG, FAKES)
    assert log.n_users == 6
    assert log.user_ids.ids([4, 5]).to_list() == [4, 5]
    new = log.events.filter(pl.col("simulated"))
    assert new.select("user", "item", "value").rows() == [(4, 0, 1.0), (4, 4, 1.0), (5, 1, 1.0)]
    assert log.events["simulated"].null_count() == 0
    assert log.events.head(len(LOG)).drop("simulated").equals(LOG.events)
    assert "2 fake users" in log.notes[-1]
    twice = poisoned(log, FAKES)
    assert twice.n_users == 8
    assert twice.events["simulated"].sum() == 6
    with pytest.raises(InvalidArgument, match="know 5 items, the log 6"):
        poisoned(log_of([(0, 5)], n_items=6), FAKES)


def test_poisoned_text_ids_never_collide_and_times_stay_complete(tmp_path):
    names = Vocabulary.of(["ann", "simulated-1", "simulated-3"])
    log = FeedbackLog.of(["ann", "simulated-3"], [0, 1], [1, 1], times=[5, 9], user_ids=names)
    log = FeedbackLog(log.events, log.user_ids, Vocabulary.range(5))
    bad = poisoned(log, FAKES)
    assert bad.user_ids.series.to_list() == ["ann", "simulated-1", "simulated-3", "simulated-2", "simulated-4"]
    bad.require_time("this")
    assert bad.events["time"].max() == 9
    bad.save(tmp_path / "log")
    assert FeedbackLog.load(tmp_path / "log").events["simulated"].sum() == 3


def test_integer_ids_at_the_end_of_their_range():
    log = FeedbackLog.of([2**63 - 2], [0], [1.0], item_ids=Vocabulary.range(5))
    with pytest.raises(InvalidArgument, match="leaves no room"):
        poisoned(log, FAKES)


def recs_of(*rows):
    return pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "rank": pl.Int32}, orient="row")


def test_hit_rate_is_any_target_within_k():
    recs = recs_of((0, 7, 0), (0, 1, 1), (1, 2, 1), (1, 1, 2), (2, 9, 0))
    assert hit_rate(recs, [1, 2], [0, 1, 2, 3], k=2) == 0.5
    assert hit_rate(recs, [1], [0, 1, 2, 3], k=2) == 0.25
    assert hit_rate(recs, [1], [0, 1], k=3) == 1
    with pytest.raises(InvalidArgument, match="no users"):
        hit_rate(recs, [1], [])


def test_who_clicked_a_target_stays_in_the_denominator_unless_asked_per_target():
    train = log_of([(0, 1), (1, 2), (2, 3), (3, 3)])
    recs = recs_of((1, 1, 0), (2, 1, 5))
    assert hit_rate(recs, [1], [0, 1, 2, 3], k=1) == 0.25
    assert per_target(recs, [1], [0, 1, 2, 3], train, k=1) == pytest.approx(1 / 3)
    assert np.isnan(per_target(recs, [1], [0], train))


def test_mean_place_counts_what_is_not_listed_as_last():
    recs = recs_of((0, 1, 4), (1, 1, 100))
    assert mean_place(recs, [1], [0, 1], n_items=500) == (4 + 500) / 2


def test_synthetic_clicks_are_as_published():
    train, test = low_rank_clicks(np.random.default_rng(0))
    assert len(train) / (900 * 300) == pytest.approx(0.12, abs=0.01)
    assert (np.bincount(test.user, minlength=900) == 1).all()
    both = set(zip(train.user.tolist(), train.item.tolist(), strict=True))
    assert not both & set(zip(test.user.tolist(), test.item.tolist(), strict=True))


def test_published_targets_are_of_the_class_they_are_said_to_be(shared_data):
    file = shared_data / "gowalla_attack" / "train.csv.gz"
    if not file.exists():
        pytest.skip("no train.csv.gz of the attack paper's Gowalla data here")
    rows = pl.read_csv(file)
    known = {"user_ids": Vocabulary.range(13_149), "item_ids": Vocabulary.range(14_007)}
    log = FeedbackLog.of(rows["uid"], rows["sid"], np.ones(len(rows)), **known)
    assert Budget(0.01).of(log)[0] == 131
    published = {
        "head": [259, 2272, 3010, 6737, 7690],
        "upper torso": [1181, 1200, 2725, 4228, 6688],
        "lower torso": [3227, 5810, 7402, 9272, 10551],
        "tail": [5611, 9213, 10359, 10395, 12308],
    }
    for name, targets in published.items():
        assert np.isin(targets, popularity_class(log, name)).all(), name
