"""Orders of cocktails: the recipe holds every setting, and mixing it is the cocktail itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, TastemakerError, UnknownName
from tastemaker.generate.cocktail import cocktail
from tastemaker.generate.grid import Loading
from tastemaker.generate.inject import Injection
from tastemaker.generate.invert import Inversion
from tastemaker.generate.orders import mix, order, style_name
from tastemaker.generate.picture import Recipe
from tastemaker.generate.redraw import difference, redraw
from tastemaker.generate.settings import Settings
from tests.generate import tiny

CPU = Loading(device="cpu")
SETTINGS = Settings(
    steps=4, sampling_steps=2, strength=0.5, alpha=1.5, beta=0.25, guidance=3.0, negative="the dog",
    prompt_by="content", injection=Injection(0.75, 1.0), inversion=Inversion("fixed-point", iterations=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orders")
    for name in ("sd1", "sd1-style", "eight-channels"):
        tiny.save(name, folder)
    noise = np.random.default_rng(4).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    return folder


def ordered(folder: Path, *styles: str, **options: object) -> tuple[Recipe, ...]:
    names = [str(folder / style) for style in styles]
    asked = {"content": str(folder / "sd1"), "prompt": "a red apple", "settings": SETTINGS} | options
    return order(folder / "photo.png", styles=names, **asked)


def test_mixing_a_recipe_is_the_cocktail_of_its_settings(folder: Path) -> None:
    recipes = ordered(folder, "sd1-style", "sd1", mask="top", inversion_prompt="a cat")
    settings = replace(SETTINGS, injection=replace(SETTINGS.injection, mask="top"))
    with Image.open(folder / "photo.png") as photo:
        direct = cocktail(
            photo, content=folder / "sd1", style=[folder / "sd1-style", folder / "sd1"], prompt="a red apple",
            inversion_prompt="a cat", settings=settings,
        )  # fmt: skip
    mixed = list(mix(recipes, CPU))
    for one, (picture,) in zip(mixed, direct.pictures, strict=True):
        assert difference(one.picture, picture) <= 1
        assert one.numbers["round trip"] == pytest.approx(direct.round_trip, rel=1e-4)
    assert [style_name(one.recipe) for one in mixed] == [str(folder / name) for name in ("sd1-style", "sd1")]
    read = Recipe.from_json(recipes[0].to_json())
    assert difference(redraw(read, CPU), mixed[0].picture) == 0


def test_each_style_draws_its_region_and_the_recipe_says_which(folder: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
    masks = [folder / name for name in ("rising.png", "falling.png")]
    for mask, values in zip(masks, (ramp, 255 - ramp), strict=True):
        Image.fromarray(values).save(mask)
    styles = ("sd1-style", "sd1")
    for regions in (["left", "right"], masks):
        (recipe,) = ordered(folder, *styles, regions=regions)
        read = Recipe.from_json(recipe.to_json())
        assert read == recipe
        with Image.open(folder / "photo.png") as photo:
            direct = cocktail(
                photo, content=folder / "sd1", style=[folder / name for name in styles], prompt="a red apple",
                settings=SETTINGS, regions=regions if regions != masks else [
                    torch.from_numpy(values.astype(np.float32) / 255) for values in (ramp, 255 - ramp)
                ],
            )  # fmt: skip
        (mixed,) = mix([read], CPU)
        assert difference(mixed.picture, direct.picture) == 0
        assert difference(redraw(read, CPU), mixed.picture) == 0
    plain = [one.cocktail for one in ordered(folder, *styles)]
    assert all("regions" not in held for held in plain)  # so that digests stay what they were
    Image.fromarray(ramp // 2).save(masks[0])
    with pytest.raises(DataError, match="has changed since"):
        next(mix([read], CPU))
    lost = {**recipe.cocktail, "region_hashes": (None,)}
    with pytest.raises(DataError, match="2 regions and 1 region_hashes"):
        next(mix([replace(recipe, cocktail=lost)], CPU))


def test_regions_that_cannot_be_are_refused(folder: Path) -> None:
    both = ("sd1-style", "sd1")
    (folder / "torn.png").write_bytes((folder / "photo.png").read_bytes()[:200])
    for options, error, said in (
        ({"regions": ["left"]}, InvalidArgument, "1 regions, 2 styles and 0 shares"),
        ({"regions": ["left", "right"], "shares": (0.5,)}, InvalidArgument, "and no shares"),
        ({"regions": ["left", "rihgt"]}, UnknownName, "did you mean 'right'"),
        ({"regions": ["left", folder / "torn.png"]}, DataError, "damaged or truncated"),
    ):
        with pytest.raises(error, match=said):
            ordered(folder, *both, **options)
    with pytest.raises(InvalidArgument, match="do not share latents"):
        next(mix(ordered(folder, "sd1", "eight-channels", regions=["left", "right"]), CPU))
    with pytest.raises(InvalidArgument, match="a part of the picture to no style"):
        next(mix(ordered(folder, *both, regions=["left", "top"]), CPU))


def test_what_a_recipe_cannot_hold_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidArgument, match="no style"):
        ordered(folder)
    with pytest.raises(InvalidArgument, match="mix two styles into one; 1 given"):
        ordered(folder, "sd1", shares=(0.5,))
    by_layer = replace(SETTINGS, injection=Injection(layers={"up_blocks.1.resnets.1": 1.0}))
    with pytest.raises(InvalidArgument, match="no shares by layer"):
        ordered(folder, "sd1", settings=by_layer)


def test_a_style_that_does_not_fit_stops_after_those_before_it(folder: Path) -> None:
    mixing = mix(ordered(folder, "sd1-style", "eight-channels"), CPU)
    assert next(mixing).picture.size == (32, 32)
    with pytest.raises(InvalidArgument, match="do not share latents"):
        next(mixing)


def test_recipes_of_other_versions_or_kinds(folder: Path) -> None:
    (recipe,) = ordered(folder, "sd1")
    short = {name: value for name, value in recipe.cocktail.items() if name != "beta"}
    with pytest.raises(DataError, match="recipe's cocktail has no 'beta'"):
        next(mix([replace(recipe, cocktail=short)], CPU))
    with pytest.raises(DataError, match="names no picture"):
        next(mix([replace(recipe, picture=None)], CPU))
    for change, said in (({"mask": "middle"}, "unknown half 'middle'"), ({"alpha": "much"}, "'alpha|alpha is 'much'")):
        with pytest.raises(TastemakerError, match=said):
            next(mix([replace(recipe, cocktail={**recipe.cocktail, **change})], CPU))
