import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.distribution import features, fid, kid
from tests.evaluate.images.tiny import noise


@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 40), st.integers(0, 99))
def test_fid_is_symmetric_and_zero_on_identical_sets(n_a, n_b, dim, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n_a, dim)), rng.normal(1, 2, size=(n_b, dim))
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)
    assert fid(a, a) == pytest.approx(0, abs=1e-9 * dim)
    assert fid(a, a[::-1]) == pytest.approx(0, abs=1e-9 * dim)
    assert fid(a, b) >= 0


def test_fid_is_the_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(150, 5)) + 0.3
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)


def test_fid_at_low_rank_is_the_formula_on_the_spanned_space():
    """Ten pictures in 2048 dimensions: rotated into 30 dimensions, where the matrix root is harmless."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 30)), rng.normal(size=(12, 30))
    turn = np.linalg.qr(rng.normal(size=(2048, 30)))[0].T
    # tr((C_a C_b)^(1/2)) by the symmetric root, which exists at any rank
    values, axes = np.linalg.eigh(np.cov(a.T))
    half = axes * np.sqrt(np.clip(values, 0, None)) @ axes.T
    root = np.sqrt(np.clip(np.linalg.eigvalsh(half @ np.cov(b.T) @ half), 0, None)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * root
    assert fid(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-5)


def test_fid_of_normal_distributions_is_their_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, size=(40_000, 3)), rng.normal(0.5, 2, size=(40_000, 3))
    assert fid(a, b) == pytest.approx(3 * (0.25 + (2 - 1) ** 2), rel=0.03)


def test_fid_is_biased_and_kid_is_not():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(20, 16)), rng.normal(size=(20, 16))) for _ in range(200)]
    assert np.mean([fid(a, b) for a, b in draws]) > 5
    values = [kid(a, b, blocks=2).value for a, b in draws]
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / 200**0.5)


def test_kid_by_loops():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(1, 1, size=(5, 3))

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = sum(np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (a, b))
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kid(a, b, blocks=2).value == pytest.approx(within - 2 * between)


def test_kid_interval_covers_and_excludes():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(400, 8)), rng.normal(size=(400, 8)), rng.normal(1, 1, size=(400, 8))
    same, other = kid(a, b), kid(a, c)
    assert same.blocks.low < 0 < same.blocks.high
    assert other.blocks.low > 0
    assert other.blocks.low < other.value < other.blocks.high
    assert (same.block, same.blocks.n) == (40, 10)
    assert kid(a, c, rng=3) == kid(a, c, rng=3)


def test_the_published_double_resampling(encoder):
    pictures = noise(3, height=400, width=300)
    plain, twice = features(pictures, encoder), features(pictures, encoder, paper=True)
    assert plain.shape == twice.shape == (3, 12)
    assert np.abs(plain - twice).max() > 1e-3
    assert (plain**2).sum(1) == pytest.approx(12)  # so that the kernel of KID sees the cosine


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones((1, 3)), np.ones((4, 3))),
        (np.ones((4, 3)), np.ones((4, 2))),
        (np.ones(4), np.ones(4)),
        (np.full((4, 3), np.nan), np.ones((4, 3))),
    ],
)
def test_bad_input(a, b):
    for distance in (fid, kid):
        with pytest.raises(InvalidArgument):
            distance(a, b)


def test_too_many_blocks():
    with pytest.raises(InvalidArgument, match="fewer blocks"):
        kid(np.eye(5), np.eye(5), blocks=3)
    with pytest.raises(InvalidArgument, match="blocks"):
        kid(np.eye(5), np.eye(5), blocks=1)
