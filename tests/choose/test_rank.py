"""Tastes: against Belief's own step, against a general optimiser, and in planted worlds."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tastemaker.choose.pairing import ask
from tastemaker.choose.rank import Pictures, Taste, learned, look
from tastemaker.choose.votes import Vote, both_bad, dislike, like, pair, pick, sort, tie
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument, UnknownId

NAMES = ("closeness to the prompt", "look", "look")
KINDS = {
    "pair": pair(0, 3),
    "tie": tie(1, 2, bad=True),
    "both bad": both_bad(4, 5),
    "pick": pick(2, [0, 1, 2, 6]),
    "like": like(7),
    "dislike": dislike(1),
}


def pictures(n=12, k=3, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, k)) / k**0.5
    return Pictures(Vocabulary.range(n), x, NAMES if k == 3 else ("look",) * k)


def start(**how):
    return Taste.start(NAMES, **how).of("ada")


def votes_of(*choices, person="ada", **how):
    return [Vote(choice, person, **how) for choice in choices]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vote_is_the_step_of_belief(kind):
    """On pictures of the vote and, by regression, on those never shown; after other votes too."""
    all_pictures = pictures()
    taste = start().update(votes_of(pair(0, 1), sort([3, 4, 5]), like(2)), all_pictures)
    found = taste.update(votes_of(KINDS[kind]), all_pictures).belief(all_pictures)
    expected = taste.belief(all_pictures).add(KINDS[kind])
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(found.cov, expected.cov, atol=1e-5)


def test_votes_taken_together_are_at_the_mode():
    seen = pictures(5)
    choices = [pair(0, 1), sort([2, [0, 3], 4]), like(1), both_bad(3, 4), tie(0, 2)]
    taste = start().update(votes_of(*choices), seen)
    prior = np.array([2.0, 2, 2, 1.5, 1.0, *[0.7] * 5])
    centre = np.array([0, 0, 0, 0, -0.7, *[0] * 5])
    order = [*taste.seen]

    def cost(b):
        values = dict(enumerate(seen.features @ b[:3])) | {None: b[3]}
        for place, item in enumerate(order):
            values[item] = values[item] + b[5 + place]
        lost = ((b - centre) ** 2 / prior**2).sum() / 2
        for choice in (one for vote in choices for one in vote):
            scores = [values[item] for item in choice.among]
            chosen = np.mean([values[item] for item in choice.chosen]) + (len(choice.chosen) - 1) * b[4]
            if choice.ties:
                real = [item for item in choice.among if item is not None]
                for mask in range(2 ** len(real)):
                    tied = [values[item] for at, item in enumerate(real) if mask >> at & 1]
                    if len(tied) > 1:
                        scores.append(np.mean(tied) + (len(tied) - 1) * b[4])
            lost += np.log(np.exp(scores).sum()) - chosen
        return lost

    found = minimize(cost, centre, tol=1e-12)
    np.testing.assert_allclose(taste.mean, found.x, atol=1e-4)


def test_order_of_votes_taken_together_does_not_matter():
    votes = votes_of(*KINDS.values())
    one = start().update(votes, pictures()).belief(pictures())
    other = start().update(votes[::-1], pictures()).belief(pictures())
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-6)
    np.testing.assert_allclose(one.cov, other.cov, atol=1e-6)


def test_weights():
    twice = start().update(votes_of(pair(0, 1), pair(0, 1)), pictures())
    heavy = start().update(votes_of(pair(0, 1), weight=2.0), pictures())
    np.testing.assert_allclose(twice.mean, heavy.mean, atol=1e-7)
    nothing = start().update(votes_of(pair(0, 1), weight=0.0), pictures())
    np.testing.assert_allclose(nothing.mean, np.append(start().mean, [0, 0]), atol=1e-12)


def test_an_update_is_a_new_taste():
    before = start()
    mean, cov = before.mean.copy(), before.cov.copy()
    after = before.update(votes_of(pair(0, 1)), pictures())
    assert before.seen == {}
    assert after.seen == {0: 1, 1: 1}
    np.testing.assert_array_equal(before.mean, mean)
    np.testing.assert_array_equal(before.cov, cov)
    assert before.update([], pictures()) is before


def test_what_votes_say():
    seen = pictures()
    taste = start().update(votes_of(like(3), like(3), dislike(5)), seen)
    board = taste.rank(seen).table
    liked = dict(zip(board["id"], board["liked"], strict=True))
    assert liked[3] > 0.6 > liked[5]
    assert min(liked, key=liked.get) != 3
    assert board["votes"].sum() == 3
    chances = taste.chances(seen)
    np.testing.assert_allclose(chances + chances.T, 1)
    assert chances[3, 5] > 0.5
    assert taste.chances(seen)[3, 5] < taste.belief(seen).beats()[3, 5]  # people waver
    ties = start().update(votes_of(*[tie(0, 1)] * 5), seen)
    assert ties.mean[4] > start().mean[4]


def world(people, rng, k=3, pairs=30):
    """Tastes around (2, -1, 0) with spreads (0.3, 1, 1.5), e of 0.5, and their votes on random pairs."""
    seen = pictures(40, k, seed=5)
    weights = rng.normal([2, -1, 0], [0.3, 1, 1.5], (people, 3))
    utility = weights @ seen.features.T + rng.normal(0, 0.5, (people, 40))
    votes = []
    for number, own in enumerate(utility):
        for _ in range(pairs):
            one, other = map(int, rng.choice(40, 2, replace=False))
            wins = rng.random() < expit(own[one] - own[other])
            votes.append(Vote(pair(one, other) if wins else pair(other, one), f"p{number}"))
    return seen, utility, votes


@pytest.fixture(scope="module")
def crowd():
    rng = np.random.default_rng(1)
    seen, _, votes = world(80, rng)
    return learned(votes, seen, Taste.start(NAMES), rounds=15)


def test_what_people_share_and_how_they_differ_is_learned(crowd):
    np.testing.assert_allclose(crowd.mean[:3], [2, -1, 0], atol=0.6)
    low, middle, high = np.sqrt(np.diag(crowd.cov))[:3]
    assert low < middle < high
    assert 0.2 < crowd.spread < 0.9
    assert crowd.voters == 80
    assert "the taste of 80 others" in crowd.about
    assert crowd.of("new").about == "person 'new', who has not voted: the taste of 80 others"


def test_a_new_person_is_served_sooner_and_calibrated(crowd):
    """Chances before and after a few votes hold for new people's answers."""
    rng = np.random.default_rng(2)
    seen, utility, votes = world(150, rng, pairs=8)
    told, right, error = [], [], {"learned": 0.0, "guessed": 0.0}
    for number, own in enumerate(utility):
        mine = [vote for vote in votes if vote.person == f"p{number}"]
        for name, begin in (("learned", crowd), ("guessed", Taste.start(NAMES))):
            taste = begin.of(f"p{number}").update(mine, seen)
            at = rng.choice(40, (20, 2))
            error[name] -= np.mean((own[at[:, 0]] > own[at[:, 1]]) == (
                taste.belief(seen).mean[at[:, 0]] > taste.belief(seen).mean[at[:, 1]]))  # fmt: skip
            if name == "learned":
                told += taste.chances(seen)[at[:, 0], at[:, 1]].tolist()
                right += (rng.random(20) < expit(own[at[:, 0]] - own[at[:, 1]])).tolist()
    assert error["learned"] < error["guessed"] - 2
    told, right = np.array(told), np.array(right)
    for low in np.arange(0, 1, 0.2):
        part = (told >= low) & (told < low + 0.2)
        noise = 3.5 * np.sqrt((told[part] * (1 - told[part])).sum()) / part.sum()
        assert abs(told[part].mean() - right[part].mean()) < 0.02 + noise


def test_questions_help(crowd):
    """A third of the votes, well asked: better than where the crowd stands."""
    rng = np.random.default_rng(3)
    seen, utility, _ = world(12, rng, pairs=1)
    before = after = 0.0
    part = seen.only(list(range(12)))
    for number, own in enumerate(utility):
        taste = crowd.of(f"p{number}")
        before += np.corrcoef(taste.belief(part).mean[:-2], own[:12])[0, 1]
        for _ in range(6):
            asked = ask(taste.belief(part), rng=rng)
            wins = rng.random() < expit(own[asked.left] - own[asked.right])
            chosen = pair(asked.left, asked.right) if wins else pair(asked.right, asked.left)
            taste = taste.update([Vote(chosen, f"p{number}")], part)
        after += np.corrcoef(taste.belief(part).mean[:-2], own[:12])[0, 1]
    assert after > before + 0.3


def test_reasons(crowd):
    x = np.zeros((3, 3))
    x[0, 0], x[1, 0] = 1, -1
    seen = Pictures(Vocabulary.of(["good", "bad", "plain"]), x, NAMES)
    words = dict(zip(["good", "bad", "plain"], crowd.of("ada").reasons(seen), strict=True))
    assert words["good"].startswith("for its closeness to the prompt (+")
    assert words["bad"].startswith("in spite of its closeness to the prompt (-")
    assert words["plain"] == "nothing sets it apart; as others see it"
    taste = crowd.of("ada").update(votes_of(*[pair("bad", "good")] * 9), seen)
    assert "unlike most people" in taste.reasons(seen)[0] or "below that by votes on it" in taste.reasons(seen)[0]
    assert "as others" not in taste.reasons(seen)[0]
    assert set(taste.rank(seen).table.columns) >= {"id", "rank", "rating", "reason"}


def test_look():
    rng = np.random.default_rng(0)
    v = rng.standard_normal((200, 6)) * [5, 3, 1, 1, 1, 1]
    axes = look(v, 2)
    features = v @ axes.T
    assert features.var(0)[0] > features.var(0)[1]
    assert np.abs(axes[0] / np.linalg.norm(axes[0]))[0] > 0.99
    assert ((v @ look(v, 6).T) ** 2).sum(1).mean() == pytest.approx(1)
    with pytest.raises(InvalidArgument, match="at most 6"):
        look(v, 7)


def test_bad_input():
    seen = pictures()
    with pytest.raises(DataError, match="'bob' for the taste of 'ada'"):
        start().update([Vote(pair(0, 1), "bob")], seen)
    with pytest.raises(UnknownId):
        start().update(votes_of(pair(0, 99)), seen)
    with pytest.raises(InvalidArgument, match="begins as the crowd"):
        start().of("bob")
    with pytest.raises(InvalidArgument, match="the taste is of"):
        start().belief(pictures(k=2))
    with pytest.raises(InvalidArgument, match="one row a picture"):
        Pictures(Vocabulary.range(3), np.zeros((2, 3)), NAMES)
    with pytest.raises(DataError, match="picture 1 are not finite"):
        Pictures(Vocabulary.range(2), np.array([[0.0] * 3, [np.nan] * 3]), NAMES)
    with pytest.raises(DataError, match="no votes"):
        learned([], seen, Taste.start(NAMES))
    with pytest.raises(InvalidArgument, match="before any vote"):
        learned(votes_of(pair(0, 1)), seen, start())
    with pytest.raises(InvalidArgument, match="rounds = 0"):
        learned(votes_of(pair(0, 1)), seen, Taste.start(NAMES), rounds=0)
    with pytest.raises(InvalidArgument, match="expected positive"):
        Taste.start(NAMES, spread=0.0)
