import numpy as np
import pytest
from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.images.picture import content_hash, fitted, luminance, rgb, rgbs
from tests.evaluate.images.tiny import noise


def test_arrays_and_pictures_give_the_same_pixels():
    (pixels,) = noise(1)
    assert (rgb(Image.fromarray(pixels)) == pixels).all()
    assert (rgb(Image.fromarray(pixels[..., 0])) == pixels[..., :1]).all()  # grey is three equal colours
    opaque = Image.fromarray(pixels).convert("RGBA")
    assert (rgb(opaque) == pixels).all()


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        Image.new("F", (8, 8)),
        Image.new("I;16", (8, 8)),
        Image.new("RGBA", (8, 8), (1, 2, 3, 0)),
        "apple.png",
        None,
    ],
)
def test_what_is_no_picture_is_refused(given):
    with pytest.raises(DataError, match=r"expected|transparent"):
        rgb(given)


def test_one_picture_is_not_a_list():
    with pytest.raises(InvalidArgument, match="list"):
        rgbs(noise(1)[0])


def test_squash_keeps_everything_and_crop_keeps_the_aspect():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 40:] = 255
    assert fitted(wide, 10, "squash").shape == (10, 10, 3)
    assert fitted(wide, 10, "squash")[:, -2:].min() > 200
    assert fitted(wide, 20, "crop").max() == 0  # columns 20..39 of 60
    with pytest.raises(UnknownName, match="squash"):
        fitted(wide, 10, "squish")


def test_a_hash_sees_content_and_shape_alone():
    (pixels,) = noise(1)
    assert content_hash(pixels) == content_hash(np.asfortranarray(pixels))
    assert content_hash(pixels) != content_hash(pixels.reshape(24, 96, 3))
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    assert content_hash(pixels) != content_hash(changed)


def test_white_is_one():
    assert luminance(np.full((2, 2, 3), 255, np.uint8)) == pytest.approx(1.0)
