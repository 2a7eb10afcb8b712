"""The map: two dimensions, the same for the same seed, alike pictures together."""

import numpy as np
import pytest

from tastemaker.choose.map import _neighbours, tsne
from tastemaker.errors import InvalidArgument

GROUPS = np.repeat(np.arange(3), 40)


def vectors():
    rng = np.random.default_rng(0)
    v = rng.standard_normal((3, 16))[GROUPS] + 0.25 * rng.standard_normal((120, 16))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def placed():
    return tsne(vectors(), rounds=400)


def test_same_seed_same_map(placed):
    assert placed.shape == (120, 2)
    np.testing.assert_array_equal(placed, tsne(vectors(), rounds=400))
    assert not np.allclose(placed, tsne(vectors(), rounds=400, rng=1))
    np.testing.assert_allclose(placed.mean(0), 0, atol=1e-9)


def test_alike_pictures_lie_together(placed):
    far = ((placed[:, None] - placed) ** 2).sum(-1) + np.where(np.eye(120), np.inf, 0)
    assert (GROUPS[far.argmin(1)] == GROUPS).all()


def test_perplexity_is_the_number_of_neighbours():
    p = _neighbours(vectors(), 30)
    np.testing.assert_allclose(np.exp(-(p * np.log(np.where(p > 0, p, 1))).sum(1)), 30, rtol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (np.diag(p) == 0).all()


def test_pictures_that_are_all_alike():
    assert np.isfinite(tsne(np.ones((40, 4)), perplexity=5, rounds=10)).all()


def test_bad_input():
    with pytest.raises(InvalidArgument, match="below n - 1"):
        tsne(vectors()[:20])
    with pytest.raises(InvalidArgument, match="finite"):
        tsne(vectors()[0])
    with pytest.raises(InvalidArgument, match="finite"):
        tsne(vectors() * np.nan)
