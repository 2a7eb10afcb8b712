"""One vote at a time."""

import numpy as np
import pytest

from tastemaker.choose.belief import Belief, Prior
from tastemaker.choose.rating import fit
from tastemaker.choose.votes import Vote, dislike, like, pair, sort
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, UnknownId
from tests.choose.test_rating import ABCD, MIXED
from tests.choose.worlds import pairs


@pytest.mark.parametrize("vote", MIXED)
def test_the_first_vote_is_exact(vote):
    """After one choice a step from the prior is the joint fit; a sort is several choices, so its first is compared."""
    first = Vote(vote.choices[:1], weight=vote.weight)
    step, joint = Belief.start(ABCD).add(first.choices, weight=vote.weight), fit([first], ABCD).belief()
    np.testing.assert_allclose(step.mean, joint.mean, atol=1e-7)
    np.testing.assert_allclose(step.cov, joint.cov, atol=1e-7)
    np.testing.assert_array_equal(step.votes, joint.votes)


def test_many_votes_come_close_to_the_joint_fit():
    rng = np.random.default_rng(0)
    votes = pairs(rng.normal(size=8), 150, rng, ties=True, bad=True)
    ids = Vocabulary.range(8)
    belief = Belief.start(ids)
    for vote in votes:
        belief = belief.add(vote.choices)
    joint = fit(votes, ids).belief()
    np.testing.assert_allclose(belief.mean, joint.mean, atol=0.15)
    np.testing.assert_allclose(np.sqrt(np.diag(belief.cov)), np.sqrt(np.diag(joint.cov)), rtol=0.1)


def test_a_persons_votes_move_the_fitted_belief():
    rng = np.random.default_rng(1)
    votes = [v for i in range(5) for v in pairs(np.array([2.0, 0, -2.0]), 40, rng, person=f"p{i}")]
    before = fit(votes, Vocabulary.range(3)).belief(person="new")
    after = before
    for _ in range(12):
        after = after.add(pair(2, 0))
    assert before.leaderboard().table["id"].to_list() == [0, 1, 2]
    assert after.leaderboard().table["id"].to_list() == [2, 1, 0]
    assert before.mean[0] > before.mean[2]  # the first belief is as it was


def test_board():
    belief = Belief.start(ABCD)
    board = belief.leaderboard().table
    assert board["id"].to_list() == ["a", "b", "c", "d"]  # equal ratings by id
    assert board["rank_low"].to_list() == [1] * 4
    assert board["rank_high"].to_list() == [4] * 4
    np.testing.assert_allclose(board["liked"], 0.5)
    np.testing.assert_allclose(belief.beats(), 0.5)
    for _ in range(60):
        belief = belief.add(sort(["d", "c", "b", "a"])).add(like("d")).add(dislike("a"))
    board = belief.leaderboard().table
    assert board["id"].to_list() == ["d", "c", "b", "a"]
    assert board["rank_low"].to_list() == board["rank_high"].to_list() == [1, 2, 3, 4]
    assert board["liked"][0] > 0.9 > 0.1 > board["liked"][3]
    assert dict(zip(board["id"], board["votes"], strict=True)) == {"a": 120, "b": 60, "c": 60, "d": 120}
    assert board["rating"].sum() == pytest.approx(0, abs=1e-9)


def test_probability():
    belief = Belief.start(ABCD, Prior(tie=(0.0, 1.0)))
    assert belief.probability(pair("a", "b")[0]) == pytest.approx(1 / 2)
    assert belief.probability(pair("a", "b", ties=True)[0]) == pytest.approx(1 / 3)


def test_no_weight_says_nothing():
    belief = Belief.start(ABCD)
    np.testing.assert_allclose(belief.add(pair("a", "b"), weight=0).mean, belief.mean, atol=1e-12)


def test_bad_input():
    with pytest.raises(UnknownId, match="unknown"):
        Belief.start(ABCD).add(pair("a", "z"))
    with pytest.raises(DataError, match="ids of type"):
        Belief.start(ABCD).add(pair(1, 2))
