"""Fake users by rule: budgets kept, targets clicked, fillers where they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from tastemaker.attack import heuristic
from tastemaker.attack.profiles import Budget
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId

RULES = [
    heuristic.random,
    heuristic.average,
    heuristic.bandwagon,
    heuristic.segment,
    heuristic.power_users,
    heuristic.power_items,
]
TRAIN, _ = low_rank_clicks(np.random.default_rng(0), n_users=120, n_items=80)
TARGETS = [3, 50]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clicks", [2, 3, 15, 80])
def test_every_fake_user_keeps_the_budget_and_clicks_the_targets(rule, clicks):
    fakes = rule(TRAIN, TARGETS, Budget(7, clicks), rng=1)
    assert len(fakes) == 7
    for profile in fakes.profiles:
        assert profile.dtype == np.int32
        assert len(profile) == clicks == len(np.unique(profile))
        assert (np.diff(profile) > 0).all()
        assert set(TARGETS) <= set(profile.tolist())
    again = rule(TRAIN, TARGETS, Budget(7, clicks), rng=1)
    assert all(np.array_equal(a, b) for a, b in zip(fakes.profiles, again.profiles, strict=True))
    assert fakes.method == rule.__name__
    assert fakes.settings["clicks"] == clicks


@pytest.mark.parametrize("rule", RULES)
def test_bad_input(rule):
    with pytest.raises(UnknownId, match="do not exist"):
        rule(TRAIN, [80], Budget(1, 5))
    with pytest.raises(InvalidArgument, match="targets to click"):
        rule(TRAIN, TARGETS, Budget(1, 1))
    with pytest.raises(InvalidArgument, match="no click"):
        rule(TRAIN.select(np.zeros(len(TRAIN), bool)), TARGETS, Budget(1, 5))


def test_bandwagon_takes_half_its_fillers_from_the_popular():
    popularity = np.bincount(TRAIN.item, minlength=80)
    popular = np.setdiff1d(np.argsort(-popularity, kind="stable")[:8], TARGETS)
    for profile in heuristic.bandwagon(TRAIN, TARGETS, Budget(20, 12), share=0.5, rng=0).profiles:
        assert np.isin(profile, popular).sum() >= 5


def test_average_follows_popularity_and_random_does_not():
    popularity = np.bincount(TRAIN.item, minlength=80)
    mean = {
        rule.__name__: popularity[np.concatenate(rule(TRAIN, TARGETS, Budget(100, 12), rng=0).profiles)].mean()
        for rule in (heuristic.random, heuristic.average)
    }
    assert mean["average"] > 1.05 * mean["random"]


def block_log():
    """Items 0..4 are clicked by users 0..9, items 5..9 by users 10..19; nobody crosses."""
    pairs = [(user, item + 5 * (user >= 10)) for user in range(20) for item in range(5) if (user + item) % 4]
    users, items = zip(*pairs, strict=True)
    known = {"user_ids": Vocabulary.range(20), "item_ids": Vocabulary.range(30)}
    return FeedbackLog.of(list(users), list(items), np.ones(len(pairs)), **known)


def test_a_segment_is_what_the_targets_audience_clicks():
    for profile in heuristic.segment(block_log(), [0], Budget(5, 5), size=4, share=1.0, rng=0).profiles:
        assert profile.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidArgument, match="no segment"):
        heuristic.segment(block_log(), [20], Budget(5, 5))


def test_power_users_are_copied():
    busiest = np.argmax(np.bincount(TRAIN.user))
    own = TRAIN.item[TRAIN.user == busiest]
    profile = heuristic.power_users(TRAIN, TARGETS, Budget(1, 10), rng=0).profiles[0]
    assert np.isin(np.setdiff1d(profile, TARGETS), own).all()


def test_power_items_are_neighbours_of_many():
    for profile in heuristic.power_items(block_log(), [20], Budget(3, 6), pool=10, rng=0).profiles:
        assert (np.setdiff1d(profile, [20]) < 10).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: heuristic.bandwagon(TRAIN, TARGETS, Budget(1, 5), pool=0),
        lambda: heuristic.bandwagon(TRAIN, TARGETS, Budget(1, 5), share=1.5),
        lambda: heuristic.segment(TRAIN, TARGETS, Budget(1, 5), size=0),
        lambda: heuristic.power_items(TRAIN, TARGETS, Budget(1, 5), pool=0),
    ],
)
def test_settings_that_cannot_be(call):
    with pytest.raises(InvalidArgument, match="expected"):
        call()
