"""Policies: probabilities against Monte Carlo and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from tastemaker.choose.explore import best, chances
from tastemaker.errors import InvalidArgument, UnknownName


def test_two_models_have_a_closed_form():
    for gap, one, other in ((0.3, 1.0, 0.5), (2.0, 0.2, 1.5), (0.0, 1.0, 1.0)):
        said = best(np.array([gap, 0.0]), np.array([one, other]))
        assert said[0] == pytest.approx(norm.cdf(gap / np.hypot(one, other)), abs=1e-6)


def test_many_models_agree_with_draws():
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(size=12), rng.uniform(0.02, 1.5, 12)
    drawn = (mean + spread * rng.standard_normal((200_000, 12))).argmax(1)
    assert best(mean, spread) == pytest.approx(np.bincount(drawn, minlength=12) / 200_000, abs=0.005)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0.0, 1e-9, 0.01, 1.0, 30.0])), min_size=1, max_size=8))
def test_always_probabilities(models):
    mean, spread = np.array(models).T
    for policy in ("thompson", "ucb", "greedy"):
        p = chances(mean, spread, policy=policy)
        assert p.sum() == pytest.approx(1)
        assert (p >= 0).all()


def test_sure_beliefs_choose_the_best_and_share_ties():
    mean = np.array([1.0, 3.0, 3.0])
    for policy in ("thompson", "ucb", "greedy"):
        assert chances(mean, np.zeros(3), policy=policy).tolist() == [0, 0.5, 0.5]


def test_ucb_prefers_what_is_less_known():
    mean, spread = np.array([1.0, 0.9]), np.array([0.1, 0.5])
    assert chances(mean, spread, policy="ucb").tolist() == [0, 1]
    assert chances(mean, spread, policy="ucb", width=0.1).tolist() == [1, 0]


def test_bad_input():
    with pytest.raises(UnknownName, match="thompson"):
        chances(np.zeros(2), np.zeros(2), policy="thomson")
    for mean, spread in ((np.zeros(2), np.zeros(3)), (np.zeros(0), np.zeros(0)), (np.zeros(1), -np.ones(1))):
        with pytest.raises(InvalidArgument, match="expected"):
            chances(mean, spread, policy="greedy")
