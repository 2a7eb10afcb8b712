"""What is asked next."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import entr, expit
from scipy.stats import norm

from tastemaker.choose.belief import Belief, Prior
from tastemaker.choose.pairing import ask, information
from tastemaker.choose.votes import pair
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId, UnknownName
from tests.choose.worlds import answer

FIVE = Vocabulary.range(5)


def test_information_equals_an_integral():
    belief = Belief.start(FIVE).add(pair(0, 1)).add(pair(0, 2)).add(pair(3, 2))
    mean = belief.mean[0] - belief.mean[2]
    spread = np.sqrt(belief.cov[0, 0] + belief.cov[2, 2] - 2 * belief.cov[0, 2])

    def expected(f):
        return quad(lambda d: f(expit(d)) * norm.pdf(d, mean, spread), mean - 10 * spread, mean + 10 * spread)[0]

    p = expected(lambda p: p)
    inside = expected(lambda p: entr(p) + entr(1 - p))
    gain = information(belief)
    assert gain[0, 2] == pytest.approx(entr(p) + entr(1 - p) - inside, rel=1e-3)
    np.testing.assert_allclose(gain, gain.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(gain), 0)


def test_a_known_answer_tells_nothing():
    belief = Belief.start(FIVE, Prior(items=3))
    for _ in range(100):
        belief = belief.add(pair(0, 1))
    gain = information(belief, ties=True)
    assert gain[0, 1] < 0.05 < gain[3, 4]


@pytest.mark.parametrize("policy", ["information", "thompson", "random"])
def test_logged_probabilities_are_frequencies(policy):
    """1 / probability counts each of the 20 ordered pairs once on average."""
    belief = Belief.start(FIVE).add(pair(0, 1)).add(pair(2, 3))
    rng = np.random.default_rng(0)
    counts, n = np.zeros((5, 5)), 3000
    asked = [ask(belief, policy=policy, explore=0.5, rng=rng) for _ in range(n)]
    for q in asked:
        counts[q.left, q.right] += 1 / q.probability / n
    assert {q.policy for q in asked} == {policy}
    np.testing.assert_allclose(counts[~np.eye(5, dtype=bool)], 1, atol=0.45)
    assert counts.sum() / 20 == pytest.approx(1, abs=0.08)
    assert 0.46 < np.mean([q.left < q.right for q in asked]) < 0.54


def test_a_seed_is_a_question():
    belief = Belief.start(FIVE)
    assert ask(belief, rng=3) == ask(belief, rng=3)


def test_among():
    belief = Belief.start(Vocabulary.of(["a", "b", "c"]))
    assert {ask(belief, among=["a", "c"], rng=seed).left for seed in range(20)} == {"a", "c"}
    assert ask(belief, among=["a", "c"], explore=0, rng=0).probability == pytest.approx(1 / 2)


@pytest.mark.parametrize("policy", ["information", "thompson"])
def test_asking_well_beats_asking_at_random(policy):
    """Planted tastes, 20 items, 50 answers: information finds all utilities better, Thompson a better best item."""

    def loss(chosen, seed):
        rng = np.random.default_rng(seed)
        truth = rng.normal(0, 2, 20)
        belief = Belief.start(Vocabulary.range(20), Prior(items=2))
        for _ in range(50):
            q = ask(belief, policy=chosen, rng=rng)
            belief = belief.add([answer(np.append(truth, 0), (q.left, q.right), rng)])
        off = belief.mean[:20] - truth
        return off.var() if policy == "information" else truth.max() - truth[belief.mean[:20].argmax()]

    ours, random = (np.mean([loss(name, seed) for seed in range(12)]) for name in (policy, "random"))
    assert ours < random


def test_a_sure_best_still_leaves_a_question():
    belief = Belief.start(FIVE, Prior(items=20))
    for other in (1, 2, 3, 4):
        for _ in range(30):
            belief = belief.add(pair(0, other))
    question = ask(belief, policy="thompson", explore=0, rng=0)
    assert 0 in (question.left, question.right)
    assert 0 < question.probability <= 0.5


def test_bad_input():
    belief = Belief.start(FIVE)
    with pytest.raises(UnknownName, match="did you mean 'thompson'"):
        ask(belief, policy="tompson", rng=0)
    with pytest.raises(InvalidArgument, match="explore"):
        ask(belief, explore=2, rng=0)
    with pytest.raises(InvalidArgument, match="at least two"):
        ask(belief, among=[1], rng=0)
    with pytest.raises(InvalidArgument, match="each once"):
        ask(belief, among=[1, 1], rng=0)
    with pytest.raises(UnknownId):
        ask(belief, among=[1, 9], rng=0)
