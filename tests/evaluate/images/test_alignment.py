import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.alignment import clip_score, matched
from tests.evaluate.images.tiny import noise

PROMPTS = ["a red apple", "the blue cat", "a dog on the left", "a cat of a dog"]


def test_pairs_are_matched(encoder):
    pictures = noise(4)
    score = clip_score(encoder, pictures, PROMPTS)
    permuted = clip_score(encoder, pictures, PROMPTS[1:] + PROMPTS[:1])
    assert np.abs(score.values - permuted.values).min() > 1e-4
    together = clip_score(encoder, pictures[::-1], PROMPTS[::-1])
    assert together.values == pytest.approx(score.values[::-1], abs=1e-6)


def test_it_is_the_diagonal_of_the_logits_over_the_scale(encoder):
    pictures = noise(4)
    texts, seen = encoder.embed_texts(PROMPTS), encoder.embed_pictures(pictures, fit="squash")
    logits = encoder.scale * texts.vectors @ seen.vectors.T
    score = clip_score(encoder, pictures, PROMPTS, paper=True)
    assert score.values == pytest.approx(np.diag(logits) / encoder.scale, abs=1e-6)


def test_the_papers_squash_and_clips_crop_differ_on_wide_pictures_only(encoder):
    square, wide = noise(4), noise(4, width=96)
    assert clip_score(encoder, square, PROMPTS).values == pytest.approx(
        clip_score(encoder, square, PROMPTS, paper=True).values, abs=1e-6
    )
    difference = clip_score(encoder, wide, PROMPTS).values - clip_score(encoder, wide, PROMPTS, paper=True).values
    assert np.abs(difference).max() > 1e-3
    assert "squashed" in clip_score(encoder, wide, PROMPTS, paper=True).name


def test_a_region_is_scored_on_black(encoder):
    pictures = noise(2)
    left, nothing = np.zeros((2, 48, 48), bool)
    left[:, :24] = True
    black = pictures[0].copy()
    black[:, 24:] = 0
    found = clip_score(encoder, pictures, PROMPTS[:2], masks=[left, nothing])
    assert found.values[0] == pytest.approx(clip_score(encoder, [black], PROMPTS[:1]).values[0], abs=1e-6)
    assert np.isnan(found.values[1])


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
def test_matched_is_a_cosine(n, dim, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, n, dim))
    expected = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)]
    assert matched(a, 3 * b).values == pytest.approx(expected)


def test_bad_input(encoder):
    with pytest.raises(InvalidArgument, match="3 prompts and 4 pictures"):
        clip_score(encoder, noise(4), PROMPTS[:3])
    with pytest.raises(InvalidArgument, match="0 prompts"):
        clip_score(encoder, [], [])
    with pytest.raises(InvalidArgument, match="zero"):
        matched(np.zeros((1, 2)), np.ones((1, 2)))
    with pytest.raises(InvalidArgument, match="shape"):
        matched(np.ones((1, 2)), np.ones((2, 2)))
