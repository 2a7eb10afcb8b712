"""Both ways to factor a curvature against each other and against the dense answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tastemaker.choose import curvature, rating
from tastemaker.choose.belief import Prior
from tastemaker.choose.curvature import Eliminated, Whole, factored
from tastemaker.choose.votes import Vote
from tastemaker.data.vocabulary import Vocabulary
from tests.choose.worlds import pairs


def planted(shared, sizes, rng):
    """A curvature whose persons' parameters lie scattered among the shared ones, and the persons' places."""
    n = shared + sum(sizes)
    places = rng.permutation(n)
    blocks = [np.sort(part) for part in np.split(places[shared:], np.cumsum(sizes)[:-1])] if sizes else []
    x = [np.zeros((0, n))]
    for block in blocks or [places[:0]]:
        rows = np.zeros((5, n))
        rows[:, np.r_[places[:shared], block]] = rng.standard_normal((5, shared + len(block)))
        x.append(rows)
    x = np.concatenate(x)
    return x.T @ x + np.diag(rng.uniform(0.1, 2, n)), blocks


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.lists(st.integers(1, 5), max_size=6), st.integers(0, 2**32 - 1))
def test_every_way_gives_the_dense_answer(shared, sizes, seed):
    rng = np.random.default_rng(seed)
    dense, blocks = planted(shared, sizes, rng)
    right = rng.standard_normal((len(dense), 3))
    for most, kind in ((6_000, Eliminated), (0, Whole)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(curvature, "_SHARED", most)
            found = factored(sparse.csc_array(dense), blocks)
        assert isinstance(found, kind)
        np.testing.assert_allclose(found.solve(right), np.linalg.solve(dense, right), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.solve(right[:, 0]), found.solve(right)[:, 0], rtol=1e-12, atol=1e-14)
        assert found.logdet == pytest.approx(np.linalg.slogdet(dense).logabsdet)


@pytest.mark.parametrize("limit", ["_SHARED", "_OWN"])
def test_ratings_are_the_same_either_way(limit, monkeypatch):
    rng = np.random.default_rng(0)
    votes = [
        Vote(one.choices, f"p{rng.integers(6)}", ("cat", "dog", None)[rng.integers(3)])
        for one in pairs(np.linspace(-1, 1, 5), 80, rng)
    ]
    ids = Vocabulary.of(list(dict.fromkeys(item for one in votes for item in one.choices[0].among)))
    one = rating.fit(votes, ids, prior=Prior())
    monkeypatch.setattr(curvature, limit, 0)
    other = rating.fit(votes, ids, prior=Prior())
    assert other.evidence == pytest.approx(one.evidence, abs=1e-8)
    for person in (None, "p0"):
        a, b = one.belief(person=person), other.belief(person=person)
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-8)
        np.testing.assert_allclose(a.cov, b.cov, atol=1e-8)


def test_votes_that_outweigh_the_prior_beyond_the_complement_are_still_solved():
    rng = np.random.default_rng(0)
    votes = [
        Vote(one.choices, f"p{at % 6}", weight=1e10) for at, one in enumerate(pairs(np.linspace(-1, 1, 5), 80, rng))
    ]
    assert np.isfinite(rating.fit(votes, Vocabulary.range(5)).mode).all()
