"""Detectors: what they see and do not see, and the figures they are judged by against brute force."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tastemaker import columns as c
from tastemaker.attack import Budget, heuristic, poisoned
from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.detect import FEATURES, PCA, SHARPNESS, Learned, Reconstruction, Statistics, features, judge
from tastemaker.attack.evade import evade
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

TRAIN, _ = low_rank_clicks(np.random.default_rng(1), n_users=500, n_items=200)
FAKES = heuristic.average(TRAIN, [3, 50], Budget(8), rng=0)
BAD = poisoned(TRAIN, FAKES)
FAKE = np.arange(BAD.n_users) >= TRAIN.n_users
DETECTORS = [PCA(), Statistics(), Reconstruction(), Learned(copies=1)]


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


def test_reconstruction_against_plain_loops():
    """Each like taken out in truth, and foretold from the others by directions that other users gave."""
    clicks = sparse.csr_matrix(real_clicks(BAD)[BAD.users].astype(np.float64))
    x, detector = clicks.toarray(), Reconstruction(rank=4, folds=3, seed=5)
    fold = np.random.default_rng(5).permutation(len(x)) % 3
    wanted = np.empty((len(SHARPNESS), len(x)))
    for user, row in enumerate(x):
        others = x[fold != fold[user]]
        popularity = others.sum(0) + 1
        v = np.linalg.svd(others / np.sqrt(popularity), full_matrices=False)[2][:4]
        w = v.T @ v / np.sqrt(popularity)[:, None] * np.sqrt(popularity)
        for at, sharpness in enumerate(SHARPNESS):
            losses = []
            for item in np.flatnonzero(row):
                rest = row.copy()
                rest[item] = 0
                logit = np.log(popularity) + sharpness * (rest @ w)[item]
                full = np.log(popularity) + sharpness * (row @ w)
                open_ = np.append(full[row == 0], logit[item])
                losses.append(np.logaddexp.reduce(open_) - logit[item])
            wanted[at, user] = np.mean(losses)
    assert np.allclose(detector.losses(clicks), wanted[np.median(wanted, axis=1).argmin()], atol=1e-6)


def test_reconstruction_suspects_who_fits_nobody_and_who_has_accomplices():
    """Two tastes of 20 items, 60 people of each; one likes half of both, ten the very same of rare items."""
    rng = np.random.default_rng(0)
    x = np.zeros((131, 60))
    for user in range(120):
        x[user, 20 * (user % 2) + rng.choice(20, 8, replace=False)] = 1
        x[user, rng.choice(np.arange(40, 60))] = 1
    x[120, [0, 1, 2, 3, 20, 21, 22, 23]] = 1
    x[121:, 40:48] = 1
    user, item = np.nonzero(x)
    log = FeedbackLog.of(user, item, np.ones(len(user)))
    both, badly = (Reconstruction(rank=4, too_well=one).score(log) for one in (True, False))
    assert (badly[120] > badly[:120]).mean() > 0.9
    assert (badly[121:, None] < badly[:120]).mean() > 0.9
    assert (both[120] > both[:120]).mean() > 0.9
    assert (both[121:, None] > both[:120]).mean() > 0.9
    assert np.array_equal(Reconstruction(rank=4).score(log), both)


def test_every_setting_of_the_learned_detector_shows():
    """Kept work is known by it."""
    plain = Learned()
    others = [Learned(share=0.1), Learned(penalty=2.0), Learned(rank=3), Learned(neighbours=3), Learned(seed=1),
              Learned(copies=2), Learned(attacks=(heuristic.average,))]  # fmt: skip
    assert len({repr(one) for one in (plain, *others)}) == 8
    assert "0x" not in repr(plain)


@pytest.mark.parametrize("detector", DETECTORS, ids=repr)
def test_evading_with_the_detector_in_the_loop(detector):
    """The lower the wanted quantile, the lower the curve, and never above it by much."""
    caught = heuristic.random(TRAIN, [3, 50], Budget(8, 20), rng=0)

    def area(fakes):
        return judge(detector.score(poisoned(TRAIN, fakes)), FAKE).auc

    found = {q: evade(TRAIN, caught, detector, quantile=q, longest=60, rng=0) for q in (0.8, 0.5)}
    assert area(caught) > 0.8
    assert area(found[0.5]) < area(found[0.8]) < area(caught)
    for quantile, hidden in found.items():
        assert hidden.settings["hidden"] >= 0.75
        assert area(hidden) < quantile + 0.1
        assert hidden.settings["detector"] == repr(detector)
        assert hidden.settings["clicks"] == np.mean([len(one) for one in hidden.profiles])
        assert hidden.method == "random evading"
        for profile in hidden.profiles:
            assert {3, 50} & set(profile.tolist())
            assert len(profile) <= 60
            assert (np.diff(profile) > 0).all()
    again = evade(TRAIN, caught, detector, quantile=0.5, longest=60, rng=0)
    assert all(np.array_equal(a, b) for a, b in zip(found[0.5].profiles, again.profiles, strict=True))


class Counting:
    """Suspects whoever clicks one of these items; nothing but their absence hides."""

    def __init__(self, items, over=0):
        self.items, self.over = list(items), over

    def score(self, log):
        clicks = real_clicks(log)
        score = np.asarray((clicks[:, self.items].sum(axis=1) > self.over), np.float64).ravel()
        score[np.diff(clicks.indptr) == 0] = -np.inf
        return score


def test_no_disguise_is_worn_in_vain_and_none_that_is_not_needed():
    rare = np.flatnonzero(np.bincount(real_clicks(TRAIN).indices, minlength=TRAIN.n_items) < 100)[:4]
    fakes = heuristic.random(TRAIN, rare, Budget(8), rng=0)
    both = [evade(TRAIN, fakes, Counting(rare), rng=0), evade(TRAIN, fakes, Counting([0], over=1), rng=0)]
    for left, hidden in zip(both, (0.0, 1.0), strict=True):  # nothing helps; nobody is seen
        assert left.settings["hidden"] == hidden
        assert left.settings["targets_clicked"] == 4
        assert all(np.array_equal(a, b) for a, b in zip(left.profiles, fakes.profiles, strict=True))
    half = evade(TRAIN, fakes, Counting(rare, over=2), rng=0)  # two targets are not seen, so each clicks two
    assert half.settings["hidden"] == 1.0
    assert half.settings["targets_clicked"] == 2
    assert np.bincount(np.concatenate(half.profiles), minlength=TRAIN.n_items)[rare].tolist() == [4] * 4
    assert max(map(len, half.profiles)) <= max(map(len, fakes.profiles))


def test_bad_input():
    with pytest.raises(InvalidArgument, match="components"):
        PCA(components=0).score(BAD)
    with pytest.raises(InvalidArgument, match="at least one of each"):
        Learned(attacks=()).score(BAD)
    with pytest.raises(InvalidArgument, match="neighbours"):
        Statistics(neighbours=0).score(BAD)
    with pytest.raises(InvalidArgument, match="rank=0"):
        Reconstruction(rank=0).score(BAD)
    with pytest.raises(InvalidArgument, match="folds=1"):
        Reconstruction(folds=1).score(BAD)
    with pytest.raises(InvalidArgument, match="quantile"):
        evade(TRAIN, FAKES, PCA(), quantile=1.0)
    with pytest.raises(InvalidArgument, match="more clicks than the 2 targets"):
        evade(TRAIN, FAKES, PCA(), longest=2)
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
    assert np.isfinite(Reconstruction(folds=3).score(tiny)).all()
    with pytest.raises(InvalidArgument, match="of 3 users with likes"):
        Reconstruction().score(tiny)
