"""The recipe of the cocktail: curves at equal style, methods, kept pictures, the whole command, PIE-Bench's folder."""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

pytest.importorskip("diffusers")

from recipes.cocktail import __main__ as command
from recipes.cocktail import pie_bench
from recipes.cocktail.judge import EncoderKeys
from recipes.cocktail.methods import ABLATIONS, METHODS, Batch, arms, drawn, img2img
from recipes.cocktail.prompts import prompts
from recipes.cocktail.study import Plan, Study
from recipes.cocktail.verdict import Curve, gap, kept_at
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate.draw import draw
from tastemaker.generate.embed import Encoder
from tastemaker.generate.load import load
from tests.evaluate.images.tiny import clip_folder, noise, vit_folder
from tests.generate import tiny

WORDS = ("a red cat", "a blue dog", "the apple")
RUN = ["--quick", "--count", "3", "--steps", "2", "--device", "cpu"]

# -- curves ------------------------------------------------------------------------------------------------------------

points = st.integers(1, 4).flatmap(
    lambda k: st.tuples(*(arrays(float, (1, k), elements=st.floats(0, 1).map(lambda x: round(x, 2))) for _ in range(2)))
)


@given(points, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_curve_keeps_the_most_at_a_style_of_at_least_so_much(
    curve: tuple[np.ndarray, np.ndarray], level: float
) -> None:
    structure, style = curve
    along = np.linspace(0, style.shape[1] - 1, 4001)
    at = np.arange(style.shape[1])
    x, y = np.interp(along, at, style[0]), np.interp(along, at, structure[0])
    found = kept_at(structure, style, np.array([[level]]))[0, 0]
    dense = y[x >= level].max(initial=-np.inf)
    assert found >= dense - 1e-9
    near = y[x >= level - 2e-3].max(initial=-np.inf)  # steps of the dense walk are finite
    assert found <= near + 2e-3 or np.isneginf(found)


def curve(structure: list[float], style: list[float], *, n: int = 12, seed: int = 0) -> Curve:
    """Settings with these means; prompts scatter around them, alike for every setting."""
    scatter = np.random.default_rng(seed).normal(0, 0.02, n)
    scatter -= scatter.mean()
    rows = [np.array(values)[:, None] + scatter for values in (structure, style)]
    return Curve(tuple(map(str, range(len(style)))), *rows)


def test_gaps_in_closed_form() -> None:
    line = curve([0.9, 0.5], [0.1, 0.9])
    lower = curve([0.7, 0.3], [0.1, 0.9])
    found = gap(line, lower)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2, abs=1e-3)
    assert found.word == "holds"
    assert gap(lower, line).word == "fails"
    assert gap(lower, line).mean == pytest.approx(-0.2)
    assert gap(line, line).word == "open"
    # a point is compared at its own style: the line keeps 0.7 at 0.5
    assert gap(line, curve([0.6], [0.5])).mean == pytest.approx(0.1, abs=1e-3)
    # settings worse in both count for nothing
    assert gap(curve([0.9, 0.2, 0.5], [0.1, 0.05, 0.9]), lower).word == "holds"


def test_without_a_common_style_only_dominance_decides() -> None:
    styled, plain = curve([0.6, 0.5], [0.8, 0.9]), curve([0.95, 0.9], [0.1, 0.2])
    for first, second in ((styled, plain), (plain, styled)):
        found = gap(first, second)
        assert np.isnan(found.mean)
        assert found.word == "open"
    better = curve([0.99, 0.97], [0.8, 0.9])
    assert gap(better, plain).word == "holds"
    assert gap(plain, better).word == "fails"
    assert gap(better, plain).mean == pytest.approx(0.04)


def test_few_prompts_decide_nothing() -> None:
    assert gap(curve([0.9], [0.5], n=1), curve([0.1], [0.5], n=1)).word == "open"
    with pytest.raises(InvalidArgument, match="same prompts"):
        gap(curve([0.9], [0.5], n=3), curve([0.9], [0.5], n=4))


# -- methods -----------------------------------------------------------------------------------------------------------


def test_arms_have_names_of_their_own() -> None:
    for quick in (True, False):
        found = arms(25, 4.0, quick=quick)
        assert len({arm.name for arm in found}) == len(found)
        assert set(METHODS) <= {arm.method for arm in found}
        assert not any("." in arm.name.partition(".")[2] for arm in found)
    assert set(ABLATIONS) <= {arm.method for arm in found}
    published = next(arm.settings for arm in found if arm.method == "published")
    assert published is not None
    assert (published.alpha, published.beta, published.guidance, published.steps) == (3.0, 1.0, 7.5, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, an encoder, a transformer, and prompts."""
    home = tmp_path_factory.mktemp("cocktail")
    for name in ("sd2", "sd2-style"):
        tiny.save(name, home)
    clip_folder(home / "clip")
    vit_folder(home / "vit", size=64)
    (home / "prompts.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    plan = Plan((str(folder / "sd2"), str(folder / "sd2-style")), WORDS, 1, 1, 2, 3.0)
    return Study(plan, {Path(name).stem: load(name, device="cpu") for name in plan.models}, batch=2)


def test_every_method_draws_and_depends_on_its_dial(study: Study) -> None:
    source, target = study.models.values()
    pictures = [Image.fromarray(picture) for picture in study.own("sd2")]
    batch = Batch(pictures, WORDS, WORDS, [1, 2, 3], [11, 12, 13])
    seen, jobs = {}, dict[str, list[str]]()
    for arm in arms(2, 3.0, quick=False):
        if not arm.asks_source or arm.method == "published":
            continue
        made, trip = drawn(arm, source, target, batch, steps=2, cache=None)
        assert [one.size for one in made] == [(32, 32)] * 3
        assert (trip is not None) == (arm.method == "kind")
        seen[arm.name] = np.stack([np.asarray(one) for one in made])
        jobs.setdefault(arm.job, []).append(arm.name)
    assert (seen["pnp.0_5-0_8"] != seen["cocktail.0_5-0_8"]).any()
    assert (seen["img2img.0_5"] != seen["img2img.0_8"]).any()
    np.testing.assert_array_equal(seen["alpha.3"], seen["kind.ddim"])
    assert any({"alpha.3", "layers.0_5-0_8", "cocktail.0_5-0_8"} <= set(same) for same in jobs.values())
    for same in jobs.values():
        for name in same[1:]:
            np.testing.assert_array_equal(seen[name], seen[same[0]])


def test_img2img_from_pure_noise_is_drawing(study: Study) -> None:
    """These models end in pure noise, so at full strength nothing of the source is left."""
    _, target = study.models.values()
    pictures = [Image.fromarray(picture) for picture in study.own("sd2")]
    made = img2img(target, Batch(pictures, WORDS, WORDS, [], [11, 12, 13]), 1.0, steps=2, guidance=3.0)
    alone = draw(target, WORDS, seeds=[11, 12, 13], steps=2, guidance=3.0)
    for a, b in zip(made, alone, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


def test_batches_hold_every_cell_once_and_prompts_of_one_length(folder: Path, study: Study) -> None:
    plan = Plan(study.plan.models, (*WORDS, "a strawberry on a purple background"), 2, 1, 2, 3.0)
    chunks = Study(plan, study.models, batch=3).chunks()
    assert sorted(row for chunk in chunks for row in chunk) == list(range(8))
    assert max(len(chunk) for chunk in chunks) == 3
    long = [{plan.cells[row][0] == 3 for row in chunk} for chunk in chunks]
    assert all(len(one) == 1 for one in long)
    assert len({seed for _, seed in plan.cells}) == 8


def test_prompts_are_forty_of_the_vocabulary(folder: Path) -> None:
    assert len(set(prompts())) == 40
    assert prompts(2) == ("an apple", "a banana on a white background")
    assert len(set(prompts(120))) == 120
    assert prompts(3, skip=2) == prompts(5)[2:]
    assert prompts(2, folder / "prompts.txt", skip=1) == WORDS[1:]
    assert prompts(2, folder / "prompts.txt") == WORDS[:2]


def test_the_encoders_keys_are_those_of_its_last_layer(folder: Path) -> None:
    encoder = Encoder.load(folder / "clip")
    keys = EncoderKeys(encoder)
    a, b = noise(2, height=32, width=32)
    assert keys.keys(a).shape == (17, 16)
    assert (keys.keys(a) != keys.keys(b)).any()
    np.testing.assert_array_equal(keys.keys(a), keys.keys(a))


# -- the command -------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes.cocktail", *map(str, arguments)])
    command.main()


def test_the_command_writes_everything_and_goes_on_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = ["--models", folder / "sd2", folder / "sd2-style", "--prompts", folder / "prompts.txt", *RUN]
    keep = tmp_path / "keep"
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    run(
        monkeypatch, *models, "--keep", keep, "--json", first, "--encoder", folder / "clip",
        "--markdown", tmp_path / "page/cocktail.md", "--sheets", tmp_path / "page/img",
    )  # fmt: skip
    figures = json.loads(first.read_text())["figures"]
    for name in ("cocktail.0_5-0_8.edges", "img2img.0_5.reader", "pnp.1-1.keys", "alone.5.likeness", "weights.1.edges"):
        assert np.isfinite(figures[name])
    assert figures["goal.edges_reader.cocktail.holds"] in (0, 1)
    for baseline in METHODS:
        if baseline not in ("cocktail", "published", "alone"):
            assert sum(figures[f"pairs.{baseline}.{word}"] for word in ("holds", "open", "fails")) == 2
    page = (tmp_path / "page/cocktail.md").read_text()
    assert "## The goal" in page
    assert f"{figures['cocktail.1-1.edges']:.3f}" in page
    for picture in ("pareto.svg", "sd2-sd2-style.png", "matrix.png"):
        assert f"(img/{picture})" in page
        assert (tmp_path / "page/img" / picture).is_file()

    jobs = {path: path.stat().st_mtime_ns for path in keep.rglob("*.npz")}
    lost = next(path for path in jobs if path.name.startswith("pnp-"))
    lost.unlink()
    run(monkeypatch, *models, "--keep", keep, "--json", again, "--encoder", folder / "clip")
    assert json.loads(again.read_text())["figures"] == figures
    assert {path: path.stat().st_mtime_ns for path in jobs if path != lost} == {
        path: at for path, at in jobs.items() if path != lost
    }
    assert lost.exists()

    whole = lost.read_bytes()
    with np.load(lost) as file:
        alone = file["pictures"].astype(int)
    lost.unlink()
    run(monkeypatch, *models, "--keep", keep, "--encoder", folder / "clip", "--hands", 2)
    with np.load(lost) as file:  # another process may round a pixel the other way
        assert np.abs(file["pictures"] - alone).max() <= 1
    lost.unlink()
    run(monkeypatch, *models, "--keep", keep, "--json", again, "--encoder", folder / "clip", "--finished")
    judged = json.loads(again.read_text())["figures"]
    assert sum(judged[f"pairs.img2img.{word}"] for word in ("holds", "open", "fails")) == 1
    assert not lost.exists()
    with pytest.raises(InvalidArgument, match="no pair of models"):
        run(monkeypatch, *models, "--keep", tmp_path / "nothing", "--finished")
    lost.write_bytes(whole[:100])
    with pytest.raises(DataError, match="delete it"):
        run(monkeypatch, *models, "--keep", keep)
    with pytest.raises(InvalidArgument, match="without --keep"):
        run(monkeypatch, *models, "--hands", 2)
    with pytest.raises(DataError, match="other seed, guidance"):
        run(monkeypatch, *models, "--keep", keep, "--seed", 5, "--guidance", 2)

    lost.write_bytes(whole)
    more = tmp_path / "more.txt"
    more.write_text("\n".join([*WORDS, "a bird"]), encoding="utf-8")
    longer = [*models, "--prompts", more, "--count", 4, "--keep", keep]
    run(monkeypatch, *longer, "--json", again, "--encoder", folder / "clip")
    with np.load(lost) as file:
        assert len(file["pictures"]) == 1 + len(alone)
        assert np.array_equal(file["pictures"][:-1], alone)  # only the new prompt was drawn
    with pytest.raises(DataError, match="other prompts"):
        run(monkeypatch, *models, "--keep", keep)
    (keep / "plan.json").write_text("[]")
    with pytest.raises(DataError, match="another folder"):
        run(monkeypatch, *models, "--keep", keep)


def test_models_that_cannot_be_compared_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save("eight-channels", folder)
    for names, problem in (
        ([folder / "sd2"], "two or more"),
        ([folder / "sd2", folder / "eight-channels"], "latents"),
    ):
        with pytest.raises(InvalidArgument, match=problem):
            run(monkeypatch, "--models", *names, *RUN)
    with pytest.raises(InvalidArgument, match="expected at least 1"):
        run(monkeypatch, "--models", folder / "sd2", folder / "sd2-style", "--count", 0)


# -- PIE-Bench ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Two edits in the layout of the data set."""
    home = tmp_path / "pie"
    mapping = {}
    for number, picture in enumerate(noise(2, height=64, width=64)):
        name = f"0_random_140/{number:012}.jpg"
        (home / "annotation_images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(home / "annotation_images" / name)
        mapping[f"{number:012}"] = {
            "image_path": name, "original_prompt": "a [red] cat", "editing_prompt": "a [blue] cat",
            "editing_instruction": "", "editing_type_id": "0", "blended_word": "", "mask": [512 * 100, 512 * 50],
        }  # fmt: skip
    (home / "mapping_file.json").write_text(json.dumps(mapping))
    return home


def test_masks_are_runs_with_a_border() -> None:
    found = pie_bench.mask([4 * 8 + 2, 3, 5 * 8, 100], side=8)
    assert found[4].tolist() == [True, False, True, True, True, False, False, True]
    assert found[5:].all()
    assert found[[0, -1]].all()
    assert found[:, [0, -1]].all()
    assert not found[1:4, 1:-1].any()


def test_pie_bench_runs_on_a_folder(bench: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = pie_bench.read(bench)
    assert [(edit.shows, edit.wanted) for edit in edits] == [("a red cat", "a blue cat")] * 2
    json_file = tmp_path / "pie.json"
    run(
        monkeypatch, "--pie-bench", bench, "--model", folder / "sd2", "--device", "cpu", "--keep", tmp_path / "kept",
        "--steps", 2, "--encoder", folder / "clip", "--vit", folder / "vit", "--json", json_file,
    )  # fmt: skip
    figures = json.loads(json_file.read_text())["figures"]
    for name in ("structure", "psnr", "mse", "ssim", "clip_whole", "clip_edited"):
        assert np.isfinite(figures[f"pie_bench.{name}"])
    assert figures["pie_bench.structure.published"] == 24.29
    assert "pie_bench.lpips" not in figures
    assert sorted(path.name for path in (tmp_path / "kept").rglob("*.png")) == [f"{n:012}.png" for n in range(2)]


def test_a_folder_that_is_not_pie_bench_is_refused(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="--model"):
        pie_bench.run(argparse.Namespace(model=None), lambda _: None)
    with pytest.raises(DataError, match="mapping_file"):
        pie_bench.read(tmp_path)
    mapping = json.loads((bench / "mapping_file.json").read_text())
    first = next(iter(mapping))
    for change in ({"mask": [1]}, {"mask": "x"}, {"original_prompt": 3}, {"image_path": None}):
        (bench / "mapping_file.json").write_text(json.dumps(mapping | {first: mapping[first] | change}))
        with pytest.raises(DataError, match="not PIE-Bench"):
            pie_bench.read(bench)
    for text in ("[]", "{", "{}"):
        (bench / "mapping_file.json").write_text(text)
        with pytest.raises(DataError):
            pie_bench.read(bench)
    (bench / "mapping_file.json").write_text(json.dumps(mapping))
    shutil.rmtree(bench / "annotation_images")
    with pytest.raises(DataError, match="2 of 2 pictures are missing"):
        pie_bench.read(bench)
