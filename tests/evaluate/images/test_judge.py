import numpy as np
import polars as pl
import pytest

from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.evaluate.images.alignment import clip_score
from tastemaker.evaluate.images.judge import judge
from tastemaker.evaluate.images.pixels import psnr
from tastemaker.evaluate.images.structure import edge_structure, structure_distance
from tastemaker.evaluate.images.style import StyleReader
from tests.evaluate.images.tiny import noise, scene

PROMPTS = ["a red apple", "the blue cat", "a dog on the left", "a cat of a dog"] * 2


@pytest.fixture(scope="module")
def pictures():
    """Sources, and a method that redraws them in ink, one that only moves them, one that does nothing."""
    sources = [scene(seed) for seed in range(8)]
    return sources, {
        "ink": [scene(seed, "ink") for seed in range(8)],
        "moved": [np.roll(picture, 24, axis=1) for picture in sources],
        "source": sources,
    }


def test_without_anything_it_says_what_is_missing(pictures):
    found = judge(*pictures)
    assert found.table.columns[:3] == ["method", "n", "edges"]
    assert set(found.left_out) == {"structure", "clip", "style", "style_read", "lpips", "fid", "kid"}
    assert "prompts" in found.left_out["clip"]
    assert "without fid: needs features" in str(found)
    row = found.table.row(by_predicate=pl.col("method") == "source", named=True)
    assert row["edges"] == pytest.approx(1)
    assert row["mse"] == 0
    assert row["psnr"] == np.inf
    assert row["psnr_low"] is None


def test_every_column_is_what_its_function_says(pictures, encoder, vit):
    sources, results = pictures
    styles = {style: [scene(seed, style) for seed in range(50, 65)] for style in ("flat", "ink")}
    found = judge(
        sources,
        results,
        PROMPTS,
        encoder=encoder,
        vit=vit,
        features=encoder,
        targets=styles["ink"],
        reader=StyleReader.fit(styles),
        style="ink",
        paper=True,
        rng=3,
    )
    assert set(found.left_out) == {"lpips"}
    rows = {row["method"]: row for row in found.table.iter_rows(named=True)}
    edges = edge_structure(sources, results["ink"]).interval(rng=3)
    assert [rows["ink"][name] for name in ("edges", "edges_low", "edges_high")] == [edges.mean, edges.low, edges.high]
    clip = clip_score(encoder, results["moved"], PROMPTS, paper=True)
    assert rows["moved"]["clip"] == clip.values.mean()
    assert found.measured_by["clip"] == clip.name
    moved = structure_distance(sources, results["moved"], vit)
    assert rows["moved"]["structure"] == pytest.approx(moved.values.mean())
    assert rows["source"]["structure"] == pytest.approx(0, abs=1e-12)
    assert rows["ink"]["style_read"] > 0.9 > 0.1 > rows["source"]["style_read"]
    assert rows["ink"]["fid"] < rows["source"]["fid"]
    assert rows["ink"]["kid_low"] < rows["ink"]["kid_high"]
    assert rows["ink"]["edges"] > rows["moved"]["edges"]
    assert found.per_picture.height == 24


def test_methods_are_compared_on_the_same_pictures(pictures):
    found = judge(*pictures).paired("ink", "moved")
    edges = found.row(by_predicate=pl.col("metric") == "edges", named=True)
    assert edges["n_users"] == 8
    assert edges["difference"] == pytest.approx(edges["mean_a"] - edges["mean_b"])
    with pytest.raises(UnknownName, match="'moved'"):
        judge(*pictures).paired("ink", "move")


def test_pictures_of_one_source_are_drawn_together(pictures):
    sources, results = pictures
    four, results = (
        [s for s in sources[:4] for _ in range(2)],
        {"ink": [r for r in results["ink"][:4] for _ in range(2)]},
    )
    alone, grouped = judge(four, results).table, judge(four, results, groups=[0, 0, 1, 1, 2, 2, 3, 3]).table
    assert (grouped["edges_high"] - grouped["edges_low"])[0] > 1.2 * (alone["edges_high"] - alone["edges_low"])[0]
    assert judge(four, results | {"same": four}, groups=list("aabbccdd")).paired("ink", "same")["n_users"][0] == 4


def test_sizes_that_differ_are_said_and_the_rest_goes_on(pictures, encoder):
    sources, results = pictures
    found = judge(sources, {**results, "wide": noise(8, width=64)}, PROMPTS, encoder=encoder)
    assert "wide differ in size" in found.left_out["edges"]
    assert "edges" not in found.table.columns
    assert found.table["clip"].null_count() == 0


def test_masks_and_small_sets(pictures, encoder):
    sources, results = pictures
    masks = [np.arange(64)[:, None] < np.full(64, 32) for _ in sources]
    found = judge(sources, {"ink": results["ink"]}, masks=masks)
    assert found.table["psnr"][0] == pytest.approx(psnr(sources, results["ink"], masks=masks).values.mean())
    three = judge(sources[:3], {"ink": results["ink"][:3]}, features=encoder, targets=sources)
    assert "fid" in three.table.columns
    assert "2 blocks of 2" in three.left_out["kid"]
    one = judge(sources[:1], {"ink": results["ink"][:1]}, features=encoder, targets=sources)
    assert "no distribution" in one.left_out["fid"]
    assert one.table["edges_low"][0] is None
    tiny = judge([noise(1, height=8, width=8)[0]], {"x": noise(1, height=8, width=8)})
    assert "smaller than 11" in tiny.left_out["ssim"]


def test_bad_input(pictures, encoder):
    sources, results = pictures
    with pytest.raises(InvalidArgument, match="no methods"):
        judge(sources, {})
    with pytest.raises(InvalidArgument, match="results of 'ink'"):
        judge(sources, {"ink": results["ink"][:3]})
    with pytest.raises(InvalidArgument, match="prompts"):
        judge(sources, results, PROMPTS[:2], encoder=encoder)
    with pytest.raises(InvalidArgument, match="label each"):
        judge(sources, results, groups=[1, 2])
