"""Certificates against brute force: every bag of a toy world, and every fake user it could get."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tastemaker.attack.certify import Bagging, Votes, bag_votes, certificate, stays, stays_out, untouched
from tastemaker.attack.profiles import Fakes, poisoned
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.recommend import NCF, Factors, ItemKNN, LightGCN, Popular

USERS = ["a"] * 3 + ["b"] * 2 + ["c"] * 3 + ["d"] * 2 + ["e"] * 2 + ["f"] * 2
ITEMS = ["x", "y", "z", "x", "y", "x", "y", "v", "y", "x", "x", "v", "w", "x"]
TOY = FeedbackLog.of(USERS, ITEMS, np.ones(len(ITEMS)))


def exact(victim, log, size, each):
    """The probability of each vote: all bags, counted."""
    votes = np.zeros((log.n_users, log.n_items))
    bags = list(combinations(log.users, size))
    for bag in bags:
        user, item = bag_votes(victim, log, np.array(bag), each, 0)
        votes[user, item] += 1
    return votes / len(bags)


def certain(p, item, k):
    """In the first k however ties are broken; and surely outside of it."""
    return (p >= p[item]).sum() <= k, (p > p[item]).sum() >= k


@pytest.mark.parametrize("victim", [Popular(by="likes"), ItemKNN(shrink=1.0)], ids=["popular", "itemknn"])
@pytest.mark.parametrize(("k", "each"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_no_fake_user_can_break_a_certificate(victim, k, each):
    size, n = 1, TOY.n_users
    p, rho = exact(victim, TOY, size, each), untouched(n, size, 1)
    kept, out = stays(p, p, k, rho, each), stays_out(p, p, k, rho)
    assert kept.any() or out.any()  # not vacuous
    for cells in product([0.0, 1.0], repeat=TOY.n_items):
        if not any(cells):
            continue
        fakes = Fakes.of(np.array([cells]), np.zeros(1, np.int32), "any")
        after = exact(victim, poisoned(TOY, fakes), size, each)[:n]
        for user, item in np.ndindex(p.shape):
            inside, outside = certain(after[user], item, k)
            assert not kept[user, item] or inside
            assert not out[user, item] or outside


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=3, max_size=5), st.integers(1, 3), st.integers(1, 3), st.floats(0.5, 1.0))
def test_certificates_say_exactly_what_the_worst_voter_can_do(votes, k, each, rho):
    """The worst voter: bags with a fake vote for anything, each item in at most a share `spare` of all bags."""
    p, spare = np.array([votes]) / 12, 1 - rho
    k, each = min(k, len(votes) - 1), min(each, len(votes))
    kept, out = stays(p, p, k, rho, each)[0], stays_out(p, p, k, rho)[0]
    for item in range(len(votes)):
        others = [j for j in range(len(votes)) if j != item]
        reachable = False
        for rivals in combinations(others, k):  # the voter needs k others at least at rho p_i
            lift = np.maximum(0, rho * (p[0, item] - p[0, list(rivals)]))
            reachable |= bool((lift <= spare).all() and lift.sum() <= spare * min(each, k))
        assert kept[item] == (not reachable)
        highest = rho * p[0, item] + spare
        margins = rho * p[0, others] - highest
        if np.abs(margins).min() > 1e-9:
            assert out[item] == ((margins > 0).sum() >= k)


@given(st.integers(1, 60), st.data())
def test_untouched_bags(n, data):
    size, fakes = data.draw(st.integers(1, n)), data.draw(st.integers(0, 20))
    assert untouched(n, size, fakes) == pytest.approx(comb(n, size) / comb(n + fakes, size))


def test_bounds_are_clopper_pearson_for_all_cells_at_once():
    count = np.array([[0, 3, 20], [20, 1, 7]], np.int32)
    low, high = Votes(count, bags=20, size=2, each=1, n_users=9).bounds([0, 1], alpha=0.06)
    for cell in np.ndindex(count.shape):
        found = stats.binomtest(int(count[cell]), 20).proportion_ci(1 - 0.06 / 6, "exact")
        assert (low[cell], high[cell]) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("victim", [Factors(rank=4, epochs=3), ItemKNN(), Popular(by="likes")], ids=lambda v: v.kind)
def test_votes_of_a_bag_depend_on_its_users_and_the_users_own_history(victim):
    train, _ = low_rank_clicks(np.random.default_rng(2), n_users=40, n_items=30)
    bag = train.users[::3]
    user, item = bag_votes(victim, train, bag, 3, 5)
    changed = train.select(np.isin(train.user, bag) | (train.user == 1))  # everybody else is gone
    other_user, other_item = bag_votes(victim, changed, bag, 3, 5)
    for one in (*bag, 1):
        assert set(item[user == one]) == set(other_item[other_user == one])
    assert not set(zip(user, item, strict=True)) & set(zip(train.user, train.item, strict=True))


def test_lists_and_certificate():
    train, _ = low_rank_clicks(np.random.default_rng(2), n_users=60, n_items=30)
    way = Bagging(bags=30, size=3, each=5)
    votes = way.fit(Popular(by="likes"), train, rng=1)
    assert np.array_equal(votes.count, way.fit(Popular(by="likes"), train, rng=1).count)
    recs = votes.recommend([4, 2], 5)
    assert recs["user"].unique(maintain_order=True).to_list() == [4, 2]
    best = votes.count[4].max()
    assert recs.row(0, named=True)["score"] == best
    table = certificate(votes, train.users, k=5, fakes=[0, 1, 1000], targets=[0, 7])
    assert table["untouched"][0] == 1
    assert table["kept"].is_sorted(descending=True)
    assert table["targets_out"].is_sorted(descending=True)
    assert table["users_keeping"][2] == 0
    assert certificate(votes, train.users, k=5)["targets_out"].null_count() == 5


def test_bad_input():
    for way in (Bagging(size=7), Bagging(size=0), Bagging(bags=0, size=2), Bagging(size=2, each=0)):
        with pytest.raises(InvalidArgument, match="bags of"):
            way.fit(Popular(), TOY)
    for victim in (NCF(), LightGCN(layers=0)):
        assert not Bagging().suits(victim)
        with pytest.raises(InvalidArgument, match="alone"):
            Bagging(size=2).fit(victim, TOY)
    votes = Bagging(bags=2, size=2).fit(Popular(), TOY, rng=0)
    with pytest.raises(InvalidArgument, match="alpha"):
        votes.bounds([0], alpha=0)
    with pytest.raises(InvalidArgument, match="k=0"):
        votes.recommend([0], 0)
    with pytest.raises(InvalidArgument, match="k=9"):
        certificate(votes, [0], k=9)
    with pytest.raises(InvalidArgument, match="no users"):
        certificate(votes, [], k=1)
    with pytest.raises(InvalidArgument, match="fake users"):
        untouched(5, 2, -1)


def test_what_many_small_bags_prove_a_hundred_large_ones_do_not():
    """900 people who get the same first item in 19 of 20 bags, and each of 49 others now and then."""
    share = np.r_[0.95, np.full(49, 0.05)]

    def kept(bags, size):
        count = np.tile(np.rint(share * bags).astype(np.int32), (900, 1))
        votes = Votes(count, bags, size, 1, 900)
        return certificate(votes, np.arange(900), k=1, fakes=(1, 10, 50), targets=[7])

    small, large = kept(2000, 5), kept(100, 100)
    assert small["kept"].to_list() == [1, 1, 1]
    assert small["targets_out"].to_list() == [1, 1, 1]
    assert large["kept"].to_list()[1:] == [0, 0]
    assert large["targets_out"].to_list()[1:] == [0, 0]
    assert kept(2000, 5)["untouched"][1] == pytest.approx(untouched(900, 5, 10))
