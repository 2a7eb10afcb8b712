import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.pixels import mse, psnr, ssim
from tests.evaluate.images.tiny import noise


def ssim_by_loops(a, b, region=None):
    """Wang et al. 2004, one window and one colour after the other."""
    a, b = a / 255, b / 255
    grid = np.arange(-5, 6)
    window = np.exp(-(grid[:, None] ** 2 + grid[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            if region is not None and not region[y, x]:
                continue
            for colour in range(3):
                p, q = (z[y - 5 : y + 6, x - 5 : x + 6, colour] for z in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                both = (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


def test_ssim_by_loops():
    a = noise(1, height=16, width=14)[0]
    b = (a // 2 + noise(1, height=16, width=14, seed=1)[0] // 2).astype(np.uint8)
    region = np.zeros((16, 14), bool)
    region[3:9, 4:12] = True
    assert ssim([a], [b]).values[0] == pytest.approx(ssim_by_loops(a, b))
    assert ssim([a], [b], masks=[region]).values[0] == pytest.approx(ssim_by_loops(a, b, region))


@given(st.integers(0, 200))
def test_mse_and_psnr_by_loops(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    region = rng.random((5, 6)) < 0.5
    every = [((int(x) - int(y)) / 255) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)]
    assert mse([a], [b]).values[0] == pytest.approx(np.mean(every))
    assert psnr([a], [b]).values[0] == pytest.approx(10 * np.log10(1 / np.mean(every)))
    inside = [
        ((int(a[y, x, k]) - int(b[y, x, k])) / 255) ** 2
        for y in range(5)
        for x in range(6)
        for k in range(3)
        if region[y, x]
    ]
    if inside:
        assert mse([a], [b], masks=[region]).values[0] == pytest.approx(np.mean(inside))
        paper = mse([a], [b], masks=[region], paper=True).values[0]
        assert paper == pytest.approx(np.sum(inside) / a.size)  # PIE-Bench: the rest counts as right


def test_equal_pictures():
    pictures = noise(2)
    assert mse(pictures, pictures).values.tolist() == [0, 0]
    assert psnr(pictures, pictures).values.tolist() == [np.inf, np.inf]
    assert ssim(pictures, pictures).values == pytest.approx(1)


def test_a_whole_region_is_the_picture_and_an_empty_one_nothing():
    a, b = noise(1), noise(1, seed=1)
    whole, empty = [np.ones((48, 48), bool)], [np.zeros((48, 48), bool)]
    for metric in (mse, psnr, ssim):
        for paper in (False, True):
            assert metric(a, b, masks=whole, paper=paper).values == pytest.approx(metric(a, b).values)
            assert np.isnan(metric(a, b, masks=empty, paper=paper).values[0])


def test_what_was_edited_does_not_count():
    a = noise(1)[0]
    b = a.copy()
    b[:, 24:] = 0
    kept = np.zeros((48, 48), bool)
    kept[:, :24] = True
    assert mse([a], [b], masks=[kept]).values[0] == 0
    assert mse([a], [b], masks=[~kept]).values[0] > 0.1


def test_bad_input():
    a, wide = noise(1), noise(1, width=60)
    for metric in (mse, psnr, ssim):
        with pytest.raises(InvalidArgument, match="one size"):
            metric(a, wide)
        with pytest.raises(InvalidArgument, match="in pairs"):
            metric(a, noise(2))
        with pytest.raises(InvalidArgument, match="bool"):
            metric(a, a, masks=[np.ones((48, 48))])
        with pytest.raises(InvalidArgument, match="masks"):
            metric(a, a, masks=[])
    with pytest.raises(InvalidArgument, match="11 x 11"):
        ssim(noise(1, height=10), noise(1, height=10))
