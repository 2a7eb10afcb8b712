"""Reading strictly, writing whole or not at all, and recipes that survive the way through a file."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tastemaker.errors import DataError
from tastemaker.generate.picture import Part, Recipe, read_picture, read_recipe, write_picture

RNG = np.random.default_rng(3)
PHOTO = Image.fromarray(RNG.integers(0, 255, (24, 36, 3)).astype(np.uint8))
RECIPE = Recipe(
    kind="cocktail", prompt="a red “apple”\nleft", models=(Part("zoo/ink", "aa", 0.25), Part("zoo/neon", "bb", 0.75)),
    seed=7, steps=20, guidance=4.5, loras=(Part("x.safetensors", "cc", 0.7),), picture=Part("p.png", "dd"),
    content=Part("zoo/base", "ee"), cocktail={"alpha": 3.0, "mask": None, "exact": True, "inversion": "ddim", "n": 2},
)  # fmt: skip


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_lossless_formats_come_back_as_they_were(tmp_path: Path) -> None:
    for name, options in (("p.png", {}), ("p.webp", {"lossless": True})):
        read = read_picture(saved(PHOTO, tmp_path / name, **options))
        assert read.mode == "RGB"
        assert np.array_equal(pixels(read), pixels(PHOTO))
    assert read_picture(saved(PHOTO, tmp_path / "p.jpg")).size == PHOTO.size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = PHOTO.convert(mode)
    read = read_picture(saved(image, tmp_path / "p.png"))
    assert np.array_equal(pixels(read), pixels(image.convert("RGB")))


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((1, 1), (255, 0, 0, 255))
    clear.putpixel((2, 2), (255, 0, 0, 128))
    read = pixels(read_picture(saved(clear, tmp_path / "p.png")))
    assert read[0, 0].tolist() == [255, 255, 255]
    assert read[1, 1].tolist() == [255, 0, 0]
    assert abs(read[2, 2] - [255, 127, 127]).max() <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 255, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    read = pixels(read_picture(saved(palette, tmp_path / "q.png", transparency=0)))
    assert read[0].tolist() == [[255, 255, 255], [0, 255, 0]]


def test_exif_rotation_is_applied_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    read = read_picture(saved(PHOTO, tmp_path / "p.png", exif=exif))
    assert np.array_equal(pixels(read), np.rot90(pixels(PHOTO), -1))
    again = read_picture(write_picture(read, tmp_path / "q.png"))
    assert np.array_equal(pixels(again), pixels(read))


def test_sixteen_bits_lose_the_low_byte(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    read = read_picture(saved(Image.fromarray(deep), tmp_path / "p.png"))
    assert pixels(read)[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF]


def test_a_colour_profile_is_applied(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = read_picture(saved(PHOTO, tmp_path / "p.png", icc_profile=srgb))
    assert abs(pixels(read) - pixels(PHOTO)).max() <= 1
    with pytest.raises(DataError, match=r"p\.png: damaged"):
        read_picture(saved(PHOTO, tmp_path / "p.png", icc_profile=b"no profile" * 20))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(path)
    assert caught.value.file == path
    return caught.value.problem


def test_what_has_no_single_answer_is_refused(tmp_path: Path) -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", PHOTO.size)]}
    assert "animation" in refused(saved(PHOTO, tmp_path / "moving.png", **frames))
    assert "animation" in refused(saved(PHOTO, tmp_path / "moving.webp", **frames))
    assert "CMYK" in refused(saved(PHOTO.convert("CMYK"), tmp_path / "ink.jpg"))
    assert "not a PNG" in refused(saved(PHOTO, tmp_path / "p.bmp"))
    assert "directory" in refused(tmp_path).lower()
    assert "No such file" in refused(tmp_path / "nothing.png")
    for name, content in (("empty.png", b""), ("text.png", b"hello"), ("page.jpg", b"<html>" * 50)):
        (tmp_path / name).write_bytes(content)
        assert "not a PNG, JPEG or WebP" in refused(tmp_path / name)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    bomb = saved(Image.new("1", (30_000, 30_000)), tmp_path / "bomb.png")
    assert bomb.stat().st_size < 200_000
    assert "smaller" in refused(bomb)
    assert "30000 x 2 pixels" in refused(saved(Image.new("1", (30_000, 2)), tmp_path / "line.png"))
    with pytest.raises(DataError, match="36 x 24 pixels; at most 863 pixels"):
        read_picture(saved(PHOTO, tmp_path / "p.png"), limit=863)
    assert read_picture(tmp_path / "p.png", limit=864).size == (36, 24)


ENCODED = {}
for kind, settings in (("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {}), ("WEBP lossless", {"lossless": True})):
    buffer = io.BytesIO()
    PHOTO.save(buffer, kind.split()[0], **settings)
    ENCODED[kind] = buffer.getvalue()


@pytest.mark.parametrize("kind", ENCODED)
def test_no_truncated_picture_is_taken_for_another(tmp_path: Path, kind: str) -> None:
    whole, path = ENCODED[kind], tmp_path / "cut"
    path.write_bytes(whole)
    expected = pixels(read_picture(path))
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            assert np.array_equal(pixels(read_picture(path)), expected), end  # only its padding is missing
        except DataError:
            continue


@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damage_is_an_error_or_a_picture_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    content = bytearray(ENCODED[kind])
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "p"
    path.write_bytes(content)
    try:
        read = read_picture(path)
    except DataError:
        return
    assert read.mode == "RGB"
    if kind == "PNG":  # its checksums see everything
        assert np.array_equal(pixels(read), pixels(PHOTO))


def test_a_picture_carries_its_recipe(tmp_path: Path) -> None:
    path = write_picture(PHOTO, tmp_path / "new" / "p.png", RECIPE)
    assert read_recipe(path) == RECIPE
    assert np.array_equal(pixels(read_picture(path)), pixels(PHOTO))
    assert [file.name for file in path.parent.iterdir()] == ["p.png"]


def test_pictures_without_recipe_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="carries no recipe"):
        read_recipe(write_picture(PHOTO, tmp_path / "p.png"))
    with pytest.raises(DataError, match="PNG files only"):
        read_recipe(saved(PHOTO, tmp_path / "p.jpg"))
    with pytest.raises(DataError, match="no such picture"):
        read_recipe(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=r"ends in \.png"):
        write_picture(PHOTO, tmp_path / "p.jpg", RECIPE)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file size, in a process of its own, stands for the full disk: the write itself fails."""
    write_picture(PHOTO, tmp_path / "old.png", RECIPE)
    before = (tmp_path / "old.png").read_bytes()
    code = """
import resource, sys
from PIL import Image
from tastemaker.errors import DataError
from tastemaker.generate.picture import write_picture
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for name in ("new.png", "old.png"):
    try:
        write_picture(Image.effect_noise((64, 64), 90), f"{sys.argv[1]}/{name}")
    except DataError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.count("cannot be written (File too large); free some space") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == before


SETTINGS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    | st.lists(st.none() | st.text(), max_size=3).map(tuple)
)  # fmt: skip


@given(st.text(), st.integers(0, 2**63), st.floats(0, 1e9), st.dictionaries(st.text(), SETTINGS, max_size=4))
def test_recipes_round_trip(prompt: str, seed: int, guidance: float, cocktail: dict) -> None:
    recipe = replace(RECIPE, prompt=prompt, seed=seed, guidance=guidance, cocktail=cocktail)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "unknown field 'colour'"),
        ({"prompt": None}, "recipe's prompt is None; expected str"),
        ({"seed": 1.5}, "recipe's seed is 1.5; expected int"),
        ({"seed": True}, "recipe's seed is True"),
        ({"kind": "photo"}, "recipe's kind is 'photo'"),
        ({"models": {"name": "x"}}, "recipe's models is"),
        ({"models": [{"name": "x"}]}, "no 'hash'"),
        ({"models": [7]}, "JSON object; found 7"),
        ({"cocktail": {"alpha": [1]}}, "recipe's cocktail 'alpha'"),
        ({"picture": "p.png"}, "recipe's picture"),
        ({"guidance": "4"}, "recipe's guidance is '4'; expected float"),
        ({"seed": ...}, "no 'seed'"),
    ],
)
def test_a_wrong_recipe_names_what_is_wrong(change: dict, said: str) -> None:
    values = json.loads(RECIPE.to_json()) | change
    values = {name: value for name, value in values.items() if value is not ...}
    with pytest.raises(DataError) as caught:
        Recipe.from_json(json.dumps(values))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"guidance": NaN}', "[" * 100_000])
def test_no_json_object_is_no_recipe(text: str) -> None:
    with pytest.raises(DataError):
        Recipe.from_json(text)


def test_infinities_are_refused_both_ways() -> None:
    with pytest.raises(ValueError):
        replace(RECIPE, guidance=float("inf")).to_json()
    with pytest.raises(DataError, match="recipe's guidance"):
        Recipe.from_json(RECIPE.to_json().replace('"guidance": 4.5', '"guidance": 1e999'))


def test_the_digest_is_of_content_not_of_names() -> None:
    renamed = replace(RECIPE, models=(Part("other", "aa", 0.25), Part("names", "bb", 0.75)), version="9.9")
    assert renamed.digest == RECIPE.digest
    others = [
        replace(RECIPE, seed=8),
        replace(RECIPE, steps=21),
        replace(RECIPE, cocktail={}),
        replace(RECIPE, loras=()),
    ]
    assert len({recipe.digest for recipe in [RECIPE, *others]}) == 5
