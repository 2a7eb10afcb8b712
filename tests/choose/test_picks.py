"""Fits of a score's weights to picks, on picks made from known weights."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr

from tastemaker.choose.picks import greedy, grid, svm
from tastemaker.errors import InvalidArgument

TRUTH = np.array([1.0, 0.8, 0.2])


def picks(seed=0, n=200, truth=TRUTH):
    x = np.random.default_rng(seed).random((n, 3))
    total = x @ truth
    return x, total >= np.sort(total)[-20]


@pytest.mark.parametrize("fit", [grid, svm])
@pytest.mark.parametrize("seed", range(3))
def test_known_positive_weights_are_recovered(fit, seed):
    x, picked = picks(seed)
    found = fit(x, picked)
    assert (found > 0).all()
    assert spearmanr(x @ found, x @ TRUTH).statistic > 0.9
    assert spearmanr(found, TRUTH).statistic > 0.9


def test_a_disliked_part_gets_a_negative_weight():
    x, picked = picks(truth=np.array([1.0, -0.8, 0.2]))
    assert svm(x, picked)[1] < 0 < svm(x, picked)[0]
    assert grid(x, picked)[1] < 0 < grid(x, picked)[0]


def test_the_published_machine_points_one_way_whatever_was_picked():
    """Few picks: all weights positive, though they were picked for being small."""
    x, picked = picks(truth=-TRUTH)
    assert (svm(x, picked, paper=True) > 0).all()
    assert (svm(x, picked) < 0).all()


def test_the_published_sign_ranks_picks_last():
    """Where neither fault hides the other: as many picks as others, parts around 0."""
    x = np.random.default_rng(0).standard_normal((100, 3))
    picked = x @ TRUTH > np.median(x @ TRUTH)
    np.testing.assert_allclose(svm(x, picked), -svm(x, picked, paper=True), rtol=0.3)
    assert (x @ svm(x, picked, paper=True))[picked].mean() < 0 < (x @ svm(x, picked))[picked].mean()


def test_svm_equals_a_search_of_the_hinge_loss():
    x, picked = picks(n=60)
    off = x - x.mean(0)
    costs, side = np.where(picked, 60 / 40, 60 / 80), np.where(picked, 1, -1)

    def loss(w):
        return w @ w / 2 + costs @ np.maximum(0, 1 - side * (off @ w))

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 5000})
    assert loss(svm(x, picked)) <= best.fun + 1e-3


def test_greedy_counts():
    x = np.array([[0.9, 0.1, 0.2], [0.1, 0.5, 0.5], [0, 0, 1.0], [1, 0, 0]])
    np.testing.assert_allclose(greedy(x, np.array([True, True, False, False])), [0.5, 0.25, 0.25])
    x, picked = picks()
    found = greedy(x, picked)
    assert found.sum() == pytest.approx(1)
    assert found[0] > found[2]


def test_grid_by_brute_force():
    rng = np.random.default_rng(4)
    x, picked = rng.random((9, 1)), np.arange(9) < 3
    ranks = [sum((x @ [w] > total).sum() for total in (x @ [w])[picked]) for w in np.arange(-10, 10) / 10]
    sign = 1 if ranks[-1] < ranks[0] else -1
    assert np.sign(grid(x, picked)[0]) == sign


@pytest.mark.parametrize("fit", [grid, svm, greedy])
def test_bad_input(fit):
    x, picked = picks()
    for parts, chosen in [(x, picked[:-1]), (x[:, 0], picked), (x, picked.astype(int)), (x * np.nan, picked)]:
        with pytest.raises(InvalidArgument, match="n bools"):
            fit(parts, chosen)
    with pytest.raises(InvalidArgument, match="0 of 200"):
        fit(x, picked & False)
    with pytest.raises(InvalidArgument, match="200 of 200"):
        fit(x, picked | True)
    with pytest.raises(InvalidArgument, match="at most 4"):
        grid(np.ones((3, 5)), np.array([True, False, False]))
