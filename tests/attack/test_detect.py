"""Detectors: what they see and do not see, and the figures they are judged by against brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tastemaker import columns as c
from tastemaker.attack import Budget, heuristic, poisoned
from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.detect import FEATURES, PCA, Learned, Statistics, features, judge
from tastemaker.attack.evade import evade
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

TRAIN, _ = low_rank_clicks(np.random.default_rng(1), n_users=500, n_items=200)
FAKES = heuristic.average(TRAIN, [3, 50], Budget(8), rng=0)
BAD = poisoned(TRAIN, FAKES)
FAKE = np.arange(BAD.n_users) >= TRAIN.n_users
DETECTORS = [PCA(), Statistics(), Learned(copies=1)]


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_fakes_are_more_suspicious_than_chance_and_the_mark_is_not_read(detector):
    suspicion = detector.score(BAD)
    assert judge(suspicion, FAKE).auc > 0.75  # none of them has learned from this rule
    unmarked = dataclasses.replace(BAD, events=BAD.events.drop(c.SIMULATED))
    assert np.array_equal(detector.score(unmarked), suspicion)


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_dislikes_and_repeats_change_nothing_and_users_without_likes_are_not_suspected(detector):
    suspicion = detector.score(BAD)
    silent = int(BAD.users[0])
    more = BAD.events.head(50).with_columns(pl.lit(-1.0, pl.Float32).alias(c.VALUE), pl.lit(7, pl.Int32).alias(c.ITEM))
    twice = dataclasses.replace(BAD, events=pl.concat([BAD.events, BAD.events.head(20), more]))
    assert np.allclose(detector.score(twice), suspicion)
    quiet = detector.score(BAD.select(BAD.user != silent))
    assert np.array_equal(np.flatnonzero(quiet == -np.inf), np.setdiff1d(np.arange(BAD.n_users), BAD.users[1:]))


def test_pca_against_a_dense_decomposition():
    x = real_clicks(BAD).toarray()[BAD.users].astype(np.float64)
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    left = np.linalg.svd(z, full_matrices=False)[0][:, :3]
    assert np.allclose(PCA().score(BAD)[BAD.users], -(left**2).sum(1), atol=1e-8)


def test_features_against_plain_loops():
    active, table = features(BAD, neighbours=5, rank=4)
    x = real_clicks(BAD).toarray()[active].astype(np.float64)
    popularity = x.sum(0)
    scaled = x / np.sqrt(np.maximum(popularity, 1))
    taste = np.linalg.svd(scaled, full_matrices=False)[2][:4]
    cosine = (x @ x.T) / np.sqrt(np.outer(x.sum(1), x.sum(1)))
    np.fill_diagonal(cosine, -1)
    assert table.shape == (len(active), len(FEATURES))
    for row in (0, 100, len(active) - 1):
        logs = np.log(popularity[x[row] > 0])
        outside = scaled[row] - taste.T @ (taste @ scaled[row])
        wanted = [
            np.log(x[row].sum()), logs.mean(), logs.std(), np.sort(cosine[row])[-5:].mean(),
            outside @ outside / (scaled[row] @ scaled[row]),
        ]  # fmt: skip
        assert np.allclose(table[row], wanted, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25))
def test_figures_against_brute_force(cells):
    score, fake = np.array([x for x, _ in cells], float), np.array([y for _, y in cells])
    if fake.all() or not fake.any():
        with pytest.raises(InvalidArgument, match="some of both"):
            judge(score, fake)
        return
    found = judge(score, fake)
    pairs = [(a > b) + (a == b) / 2 for a in score[fake] for b in score[~fake]]
    assert found.auc == pytest.approx(np.mean(pairs))
    assert 0 <= found.low <= found.auc <= found.high <= 1
    assert found.low < found.high
    for row in found.curve.iter_rows(named=True):
        flagged = score >= row["threshold"]
        assert row["flagged"] == flagged.sum()
        assert row["recall"] == pytest.approx(fake[flagged].sum() / fake.sum())
        assert row["false_alarms"] == pytest.approx((~fake)[flagged].sum() / (~fake).sum())
        assert row["precision"] == (None if not flagged.any() else pytest.approx(fake[flagged].mean()))
    area = np.trapezoid(found.curve["recall"], found.curve["false_alarms"])
    assert found.auc == pytest.approx(area)


def test_the_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 0.7602499389  # normal(1) against normal(0): Phi(1 / sqrt 2)
    fake = np.arange(160) < 10
    covered = [
        found.low <= truth <= found.high for found in (judge(rng.standard_normal(160) + fake, fake) for _ in range(400))
    ]
    assert 0.91 <= np.mean(covered) <= 0.99


def test_users_without_likes_are_left_out():
    plain = judge(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    padded = judge(np.array([3.0, 2.0, 1.0, -np.inf]), np.array([True, False, False, False]))
    assert plain.auc == padded.auc == 1
    assert plain.n_real == padded.n_real == 2
    assert plain.low < 1


def test_evading_keeps_budget_and_targets_and_hides():
    detector = Learned(copies=1)
    caught = heuristic.random(TRAIN, [3, 50], Budget(8), rng=0)
    hidden = evade(TRAIN, caught, detector, quantile=0.8, rng=0)
    assert [len(profile) for profile in hidden.profiles] == [len(profile) for profile in caught.profiles]
    assert all({3, 50} <= set(profile.tolist()) and (np.diff(profile) > 0).all() for profile in hidden.profiles)

    def area(fakes):
        return judge(detector.score(poisoned(TRAIN, fakes)), FAKE).auc

    assert area(hidden) < area(caught) - 0.05
    assert hidden.settings["hidden"] > 0.2
    assert hidden.method == "random evading"
    again = evade(TRAIN, caught, detector, quantile=0.8, rng=0)
    assert all(np.array_equal(a, b) for a, b in zip(hidden.profiles, again.profiles, strict=True))


def test_bad_input():
    with pytest.raises(InvalidArgument, match="components"):
        PCA(components=0).score(BAD)
    with pytest.raises(InvalidArgument, match="at least one of each"):
        Learned(attacks=()).score(BAD)
    with pytest.raises(InvalidArgument, match="neighbours"):
        Statistics(neighbours=0).score(BAD)
    with pytest.raises(InvalidArgument, match="quantile"):
        evade(TRAIN, FAKES, PCA(), quantile=1.0)
    for score, fake in (([1.0, np.nan], [True, False]), ([1.0], [True, False]), ([1.0, 2.0], [1, 0])):
        with pytest.raises(InvalidArgument, match="one number and one bool"):
            judge(score, fake)
    with pytest.raises(InvalidArgument, match="level"):
        judge([1.0, 2.0], [True, False], level=1.0)
    nothing = TRAIN.select(np.zeros(len(TRAIN), bool))
    with pytest.raises(InvalidArgument, match="no click"):
        Statistics().score(nothing)


def test_a_log_of_three_people():
    tiny = FeedbackLog.of(["a", "a", "b", "c"], ["x", "y", "x", "y"], [1, 1, 1, 1])
    assert np.isfinite(Statistics().score(tiny)).all()
    assert np.isfinite(PCA(components=1).score(tiny)).all()
