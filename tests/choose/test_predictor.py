"""Predictors: closed forms, planted worlds, what they must not see, bad input."""

from dataclasses import replace

import numpy as np
import pytest

from tastemaker.choose.predictor import (
    Bilinear,
    Chosen,
    Examples,
    Mean,
    Nearest,
    Popular,
    Ridge,
    Styled,
    Together,
    correlation,
    folds,
    standardised,
)
from tastemaker.choose.two_tower import TwoTower
from tastemaker.errors import DataError, InvalidArgument
from tests.choose.gallery import DIM, book, examples

EVERY = [Mean(), Nearest(), Ridge(), Bilinear(), Styled(), TwoTower(epochs=20), Together((Mean(), Ridge()))]


@pytest.fixture(scope="module")
def planted():
    return book(40, 24)


@pytest.fixture(scope="module")
def known(planted):
    return examples(planted)


@pytest.mark.parametrize("predictor", EVERY, ids=lambda p: type(p).__name__)
def test_contract(predictor, known):
    fitted = predictor.fit(known)
    said = fitted.predict(known.texts[:3])
    assert said.shape == (3, 24)
    assert np.isfinite(said).all()
    assert np.allclose(said, fitted.query(known.texts[:3]) @ fitted.rows.T)
    assert fitted.general == pytest.approx(standardised(known.quality).mean(0))
    assert (fitted.spread > 0).all()
    assert not fitted.guessed.any()
    again = predictor.fit(known).predict(known.texts[:3])
    assert (said == again).all()
    for bad in (known.texts[0], known.texts[:, :-1], np.full((1, DIM), np.nan)):
        with pytest.raises(InvalidArgument, match="expected"):
            fitted.predict(bad)


@pytest.mark.parametrize("predictor", EVERY, ids=lambda p: type(p).__name__)
def test_order_of_models_and_scale_of_prompts_do_not_matter(predictor, known):
    if isinstance(predictor, TwoTower):
        pytest.skip("starts from random numbers, one a model")
    order = np.random.default_rng(0).permutation(24)
    scaled = replace(known, quality=known.quality * np.arange(1, 41)[:, None] + 5)
    said = predictor.fit(scaled.part(models=order)).predict(known.texts[:2])
    assert np.allclose(said, predictor.fit(known).predict(known.texts[:2])[:, order], atol=1e-6)


def test_ridge_is_ridge(known):
    fitted = Ridge(1.5).fit(known)
    x = known.texts - known.texts.mean(0)
    y = standardised(known.quality)
    size = (x**2).sum() / len(x)
    w = np.linalg.solve(x.T @ x + 1.5 * size * np.eye(DIM), x.T @ (y - y.mean(0)))
    t = known.texts[:4] + 0.1
    assert np.allclose(fitted.predict(t), y.mean(0) + (t - known.texts.mean(0)) @ w)


def test_low_rank_has_it_and_full_rank_is_the_ridge(known):
    ridge, full, low = (p.fit(known).predict(known.texts) for p in (Ridge(), Bilinear(24), Bilinear(2)))
    assert np.allclose(full, ridge)
    b = Mean().fit(known).predict(known.texts)
    assert np.linalg.matrix_rank(low - b, 1e-9) == 2
    u, s, v = np.linalg.svd(ridge - b, full_matrices=False)
    assert np.allclose(low - b, (u[:, :2] * s[:2]) @ v[:2])


def test_styled_is_the_gaussian_process_it_says(known):
    """Against the textbook: Gaussian conditioning with the kernel of the residuals, centred over the examples."""
    fitted = Styled(3.0, lean=0.0, curved=0.7).fit(known)
    deviation = known.pictures - known.pictures.mean(1, keepdims=True)
    d = deviation.mean(0) - deviation.mean((0, 1))
    x = (known.texts - known.texts.mean(0)) @ d.T
    gap = ((x[:, None] - x) ** 2).sum(2)
    kernel = x @ x.T / ((x**2).sum() / len(x)) + 0.7 * np.exp(-gap / np.median(gap))
    middle = np.eye(40) - 1 / 40
    y = standardised(known.quality)
    kernel = middle @ kernel @ middle
    said = y.mean(0) + kernel @ np.linalg.solve(kernel + 3 * np.eye(40), y - y.mean(0))
    assert np.allclose(fitted.predict(known.texts), said)


def test_planted_interaction_is_found_from_few_prompts(known):
    def held_out(predictor):
        return np.mean([correlation(predictor.fit(known.part(~f)), known.part(f)) for f in folds(known.groups, 4, 0)])

    mean, ridge, styled = held_out(Mean()), held_out(Ridge()), held_out(Styled())
    assert styled > ridge > mean
    assert styled > 0.8


def test_signatures_leave_out_the_prompt_being_learned(known):
    """A picture far from all others must not teach that its own text matches its model."""
    odd = known.pictures.copy()
    odd[0, 0] = known.texts[0]
    loud = Styled(lean=5.0).fit(replace(known, pictures=odd))
    quiet = Styled(lean=5.0).fit(known)
    # With the own picture in the signature, the excuse would be subtracted from the quality and move every prediction.
    assert np.corrcoef(loud.predict(known.texts[2:]).ravel(), quiet.predict(known.texts[2:]).ravel())[0, 1] > 0.99


def test_nearest_with_endless_sharpness_is_the_nearest_prompt(known):
    said = Nearest(1e6).fit(known).predict(known.texts[5:6])
    assert np.allclose(said, standardised(known.quality)[5])


def test_popular_follows_downloads(planted, known):
    downloads = planted.models.column("downloads").to_numpy()
    assert (Popular(planted.models).fit(known).predict(known.texts[:1])[0].argsort() == downloads.argsort()).all()


def test_choice_sees_only_what_it_is_given(known):
    chooser = Chosen((Mean(), Ridge(), Styled()), folds=4)
    assert chooser.best(known) == Styled()
    assert np.allclose(chooser.fit(known).predict(known.texts), Styled().fit(known).predict(known.texts))
    shuffled = replace(known, quality=np.random.default_rng(99).normal(size=known.quality.shape) + np.arange(24) / 8)
    assert Chosen((Ridge(1e-3), Mean()), folds=4).best(shuffled) == Mean()


def test_together_is_the_mean(known):
    one, other = (p.fit(known).predict(known.texts) for p in (Ridge(), Styled()))
    assert np.allclose(Together((Ridge(), Styled())).fit(known).predict(known.texts), (one + other) / 2)


def test_missing_cells_shift_nothing(known):
    quality, pictures = known.quality.copy(), known.pictures.copy()
    quality[3, 5], pictures[3, 5] = np.nan, np.nan
    holed = replace(known, quality=quality, pictures=pictures)
    for predictor in (Mean(), Ridge(), Styled(), Nearest(), TwoTower(epochs=2)):
        said, whole = (predictor.fit(e).predict(known.texts[10:]) for e in (holed, known))
        assert np.isfinite(said).all()
        assert np.abs(said - whole).max() < 0.3
    nothing = quality.copy()
    nothing[:, 7] = np.nan
    fitted = Ridge().fit(replace(known, quality=nothing))
    assert np.allclose(fitted.predict(known.texts)[:, 7], 0)
    assert fitted.spread[7] > 2 * fitted.spread[6]


def test_cold_models(planted, known):
    part = Styled().fit(known.part(models=np.arange(4, 24)))
    fitted = part.cold(planted.models, penalty=0.1)
    assert fitted.guessed.tolist() == [True] * 4 + [False] * 20
    assert np.allclose(fitted.predict(known.texts)[:, 4:], part.predict(known.texts))
    said, real = fitted.predict(known.texts)[:, :4], standardised(known.quality)[:, :4]
    said, real = (x - x.mean(1, keepdims=True) for x in (said, real))
    assert (said * real).sum() > 0
    assert fitted.spread[:4].min() > fitted.spread[4:].max()


def test_folds_keep_groups_together():
    groups = np.repeat(np.arange(10), 3)
    parts = folds(groups, 4, 0)
    assert (np.sum(parts, axis=0) == 1).all()
    assert all(part[groups == g].all() or not part[groups == g].any() for part in parts for g in range(10))


def test_bad_input(known):
    with pytest.raises(InvalidArgument, match="expected"):
        Examples(known.models, known.texts, known.quality[:, 1:], known.groups)
    with pytest.raises(InvalidArgument, match="pictures of shape"):
        replace(known, pictures=known.pictures[:-1])
    with pytest.raises(DataError, match="fewer than two"):
        replace(known, quality=np.full_like(known.quality, np.nan))
    with pytest.raises(DataError, match="no pictures"):
        Styled().fit(replace(known, pictures=None))
    with pytest.raises(InvalidArgument, match="folds"):
        folds(known.groups, 100, 0)
    for empty in (Chosen(()), Together(())):
        with pytest.raises(InvalidArgument, match="no predictors"):
            empty.fit(known)
    with pytest.raises(InvalidArgument, match="expected 1 or more"):
        TwoTower(rank=0).fit(known)
