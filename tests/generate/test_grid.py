"""Grids of tiny real models: everything once, whatever happens in between."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tastemaker.data import Catalog
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate import grid
from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.draw import draw
from tastemaker.generate.load import load
from tastemaker.generate.picture import Recipe, read_picture, read_recipe, write_picture
from tests.generate import tiny

PROMPTS = ("a red apple", "the dog, left of a cat")
CPU = grid.Loading(device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(tiny.save("sd1", folder)), str(tiny.save("sd2", folder))


def small(models: tuple[str, ...], **changes: object) -> grid.Plan:
    settings = {"prompts": PROMPTS, "seeds": (1, 2), "steps": 2, "guidance": 3.0} | changes
    return grid.plan(settings.pop("prompts"), models, settings.pop("seeds"), **settings)


def drawn(plan: grid.Plan, folder: Path, **options: object) -> grid.Outcome:
    return grid.draw_grid(plan, folder, loading=CPU, **options)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_picture(path)).astype(int)


def stamps(outcome: grid.Outcome) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in outcome.files.values()}


def test_every_combination_is_drawn_as_its_model_draws_it(models: tuple[str, str], tmp_path: Path) -> None:
    ticks: list[tuple[float, int, str]] = []
    outcome = drawn(small(models), tmp_path / "out", batch=3, say=lambda *tick: ticks.append(tick))
    assert (outcome.drawn, outcome.kept, outcome.failures) == (8, 0, ())
    assert list(outcome.files) == [(p, m, s) for p in PROMPTS for m in models for s in (1, 2)]
    for name in models:
        for prompt, seed in ((PROMPTS[0], 1), (PROMPTS[1], 2)):
            (alone,) = draw(load(name, device="cpu"), [prompt], seeds=[seed], steps=2, guidance=3.0)
            file = outcome.files[prompt, name, seed]
            assert abs(pixels(file) - np.asarray(alone)).max() <= 1
            recipe = read_recipe(file)
            assert (recipe.prompt, recipe.seed, recipe.models[0].name) == (prompt, seed, name)
    done = [tick[0] for tick in ticks]
    assert done == sorted(done)
    assert (done[-1], ticks[-1][1]) == (8, 8)
    assert {Path(text.split()[-1]).name for _, _, text in ticks} == {"sd1", "sd2"}


def test_what_is_drawn_beside_it_changes_no_picture(models: tuple[str, str], tmp_path: Path) -> None:
    long = "the dog, left of a cat on the red apple and the blue cat left of a red dog on an apple"  # several windows
    both = drawn(small(models[:1], prompts=("a cat", long, "a dog"), seeds=(1,)), tmp_path / "both", batch=3)
    for (prompt, _, seed), file in both.files.items():
        alone = drawn(small(models[:1], prompts=(prompt,), seeds=(seed,)), tmp_path / "alone")
        assert abs(pixels(file) - pixels(*alone.files.values())).max() <= 1


def test_the_catalogue_is_a_catalog_of_what_is_there(models: tuple[str, str], tmp_path: Path) -> None:
    odd = ("a cat, called “Tom”", '"quoted", 1984', "=1+1")
    outcome = drawn(small(models[:1], prompts=odd), tmp_path, batch=6)
    catalog = Catalog.read(tmp_path / "catalogue.csv")
    assert set(catalog.column("prompt")) == set(odd)
    assert {tmp_path / name for name in catalog.ids.series} == set(outcome.files.values())
    assert catalog.column("width").to_list() == [32] * 6
    assert catalog.column("seconds").min() > 0
    for name in catalog.column("thumbnail"):
        assert max(read_picture(tmp_path / name).size) <= 128


def test_the_same_grid_again_draws_nothing(models: tuple[str, str], tmp_path: Path) -> None:
    first = drawn(small(models), tmp_path)
    before = stamps(first)
    again = drawn(small(models), tmp_path)
    assert (again.drawn, again.kept, again.files) == (0, 8, first.files)
    assert stamps(again) == before
    more = drawn(small(models, seeds=(2, 3)), tmp_path)
    assert (more.drawn, more.kept) == (4, 4)
    other = drawn(small(models, steps=3), tmp_path)
    assert (other.drawn, set(other.files.values()) & set(first.files.values())) == (8, set())
    assert stamps(first) == before
    assert len(Catalog.read(tmp_path / "catalogue.csv")) == 20


def test_what_was_lost_or_damaged_is_made_good(models: tuple[str, str], tmp_path: Path) -> None:
    first = drawn(small(models[:1]), tmp_path)
    gone, damaged, foreign, _ = first.files.values()
    expected = {file: pixels(file) for file in first.files.values()}
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:40])
    write_picture(Image.new("RGB", (8, 8)), foreign)
    catalogue = tmp_path / "catalogue.csv"
    lines = catalogue.read_text().splitlines(keepends=True)
    catalogue.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed within the last row
    (gone.parent / ".x.png.1.part").write_bytes(b"half a picture")
    again = drawn(small(models[:1]), tmp_path)
    assert (again.drawn, again.kept) == (3, 1)
    for file in again.files.values():
        assert abs(pixels(file) - expected[file]).max() <= 1
    assert len(Catalog.read(catalogue)) == 4
    assert not list(tmp_path.rglob(".*.part"))


@pytest.mark.parametrize("part", [0.5, 0.999])
def test_a_picture_cut_short_behind_its_recipe_is_drawn_anew(
    models: tuple[str, str], tmp_path: Path, part: float
) -> None:
    plan = small(models[:1], prompts=PROMPTS[:1])
    torn, whole = drawn(plan, tmp_path).files.values()
    expected, content = pixels(torn), torn.read_bytes()
    at = round(part * len(content))
    for spoilt in (content[:at], content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]):
        torn.write_bytes(spoilt)
        guess = grid.estimate(plan, tmp_path, loading=CPU)
        assert (guess.finished, guess.damaged) == (1, (torn,))
        again = drawn(plan, tmp_path)
        assert (again.drawn, again.kept, again.damaged) == (1, 1, (torn,))
        assert list(again.files.values()) == [torn, whole]
        assert abs(pixels(torn) - expected).max() <= 1
    assert drawn(plan, tmp_path).damaged == ()


def test_a_retrained_model_is_not_mistaken_for_the_old_one(models: tuple[str, str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(models[0], mine)
    first = drawn(small((str(mine),)), tmp_path / "out")
    shutil.rmtree(mine)
    shutil.copytree(tiny.save("sd1-style", tmp_path), mine)
    second = drawn(small((str(mine),)), tmp_path / "out")
    assert second.drawn == 4
    assert not set(first.files.values()) & set(second.files.values())


def test_a_lora_changes_the_pictures_and_stands_in_their_recipe(models: tuple[str, str], tmp_path: Path) -> None:
    lora = str(tiny.lora(tmp_path / "lora"))
    plain, styled = (drawn(small(models[:1], loras=loras), tmp_path) for loras in ((), ((lora, 0.7),)))
    one, other = (outcome.files[PROMPTS[0], models[0], 1] for outcome in (plain, styled))
    assert abs(pixels(one) - pixels(other)).max() > 4
    assert [(part.name, part.scale) for part in read_recipe(other).loras] == [(lora, 0.7)]


def test_one_failing_model_is_reported_and_the_others_drawn(models: tuple[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models[0], broken)
    shutil.rmtree(broken / "unet")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04pickle")
    names = (str(broken), models[0], str(tmp_path / "none"), str(tmp_path / "old.ckpt"), models[1])
    plan = small(names)
    outcome = drawn(plan, tmp_path / "out")
    assert outcome.drawn == 8
    assert [(failure.model, failure.missing) for failure in outcome.failures] == [(names[i], 4) for i in (0, 2, 3)]
    said = [failure.problem for failure in outcome.failures]
    assert "unet" in said[0]
    assert "no such model" in said[1]
    assert "pickled" in said[2]
    (page,) = grid.promptbook(plan, outcome)
    assert page.width > 5 * 150


def test_a_model_that_cannot_draw_is_a_failure_too(models: tuple[str, str], tmp_path: Path) -> None:
    outcome = drawn(small(models, width=30, height=32), tmp_path)
    assert (outcome.drawn, [failure.missing for failure in outcome.failures]) == (0, [4, 4])
    assert "30 x 32" in outcome.failures[0].problem


@pytest.mark.parametrize("cores", [1, 2])
def test_what_was_drawn_beside_a_failure_stays(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """Two batches go side by side on two cores; whichever fails, the other's pictures are finished work."""
    real, before = grid.draw_recipes, torch.get_num_threads()

    def failing(model: StableDiffusion, recipes: Sequence[Recipe], tell: Callable[[float], None]) -> list[Image.Image]:
        if recipes[0].seed == 3:
            raise RuntimeError("no third seed")
        return real(model, recipes, tell)

    monkeypatch.setattr(grid, "draw_recipes", failing)
    torch.set_num_threads(cores)
    try:
        outcome = drawn(small(models[:1], prompts=PROMPTS[:1], seeds=(1, 2, 3, 4, 5)), tmp_path, batch=1)
    finally:
        torch.set_num_threads(before)
    finished = [1, 2] if cores == 1 else [1, 2, 4]
    assert [seed for _, _, seed in outcome.files] == finished
    assert [failure.missing for failure in outcome.failures] == [5 - len(finished)]
    assert "no third seed" in outcome.failures[0].problem


LONG = tuple(f"a red apple {n}" for n in range(20))
SCRIPT = """
import sys
from tastemaker.generate import grid
plan = grid.plan([f"a red apple {n}" for n in range(20)], sys.argv[2:], [1, 2], steps=2, guidance=3.0)
grid.draw_grid(plan, sys.argv[1], batch=2, loading=grid.Loading("cpu"))
"""


def test_a_killed_grid_goes_on_where_it_was(models: tuple[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), *models])
    while len(list(tmp_path.glob("sd*/*.png"))) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survivors = {file: file.stat().st_mtime_ns for file in tmp_path.glob("sd*/*.png")}
    outcome = drawn(small(models, prompts=LONG), tmp_path)
    assert (outcome.drawn, outcome.kept) == (80 - len(survivors), len(survivors))
    assert 5 <= outcome.kept < 80
    assert {file: stamp for file, stamp in stamps(outcome).items() if file in survivors} == survivors
    catalog = Catalog.read(tmp_path / "catalogue.csv")
    assert {tmp_path / name for name in catalog.ids.series} == set(outcome.files.values())
    assert all(read_picture(file).size == (32, 32) for file in outcome.files.values())


def test_a_full_disk_stops_the_grid_and_keeps_what_is_finished(models: tuple[str, str], tmp_path: Path) -> None:
    """A limit on file size stands for the disk: the catalogue reaches it in mid-grid, within a row."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))\n" + SCRIPT
    command = [sys.executable, "-c", limited, str(tmp_path), models[0]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "catalogue.csv: cannot be written" in done.stderr
    assert "of 40 pictures are finished and stay" in done.stderr
    there = len(list(tmp_path.glob("sd1/*.png")))
    again = drawn(small(models[:1], prompts=LONG), tmp_path)
    assert (again.drawn, again.kept) == (40 - there, there)
    assert 5 < there < 40
    assert len(Catalog.read(tmp_path / "catalogue.csv")) == 40
    assert not list(tmp_path.rglob("*.part"))


def test_two_grids_do_not_share_a_folder(models: tuple[str, str], tmp_path: Path) -> None:
    def second(done: float, total: int, text: str) -> None:
        with pytest.raises(DataError, match="another process is drawing"):
            drawn(small(models), tmp_path)

    assert drawn(small(models[:1]), tmp_path, say=second).drawn == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "catalogue.csv").write_text("song,singer\nx,y\n")
    with pytest.raises(DataError, match="no catalogue of a grid"):
        drawn(small(models), tmp_path / "mine")
    with pytest.raises(DataError, match="cannot be written"):
        drawn(small(models), tmp_path / "catalogue.csv")


def test_an_estimate_writes_nothing(models: tuple[str, str], tmp_path: Path) -> None:
    names = (*models, "models/none")
    guess = grid.estimate(small(names, steps=20), tmp_path / "out", loading=CPU)
    assert not (tmp_path / "out").exists()
    assert (guess.pictures, guess.finished, guess.failures[0].model) == (12, 0, "models/none")
    assert "probe" in guess.source
    assert guess.seconds == pytest.approx(8 * guess.seconds_each)
    assert 0 < guess.seconds_each < 60
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04pickle")
    guess = grid.estimate(small((str(tmp_path / "old.ckpt"), *models)), tmp_path / "out", loading=CPU)
    assert ([failure.missing for failure in guess.failures], guess.source) == ([4], f"a probe of {models[0]}")
    drawn(small(models), tmp_path / "out")
    known = grid.estimate(small(models, seeds=(1, 2, 3)), tmp_path / "out", loading=CPU)
    assert (known.pictures, known.finished, known.source) == (12, 8, "median of 8 finished pictures")
    nothing = grid.estimate(small(models), tmp_path / "out", loading=CPU)
    assert (nothing.finished, nothing.seconds) == (8, 0)


def test_the_promptbook_shows_every_place(models: tuple[str, str], tmp_path: Path) -> None:
    plan = small(models[:1], seeds=range(7), prompts=("a red apple",), steps=1)
    outcome = drawn(plan, tmp_path)
    assert len(grid.promptbook(plan, outcome)) == 1
    assert len(grid.promptbook(plan, outcome, rows=3)) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": ()}, "at least one prompt"),
        ({"seeds": ()}, "at least one seed"),
        ({"prompts": ("a", "b", "a")}, "the prompt 'a' is given twice"),
        ({"prompts": ("",)}, "expected one line of 1 to 2,000"),
        ({"prompts": ("a\nb",)}, "printable"),
        ({"prompts": ("x" * 2001,)}, "(2,001 characters)"),
        ({"seeds": (-1,)}, "seed -1"),
        ({"steps": 0}, "steps = 0"),
        ({"guidance": float("nan")}, "guidance = nan"),
    ],
)
def test_plans_are_checked(changes: dict, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        small(("zoo/x",), **changes)
    assert said in str(caught.value)
    with pytest.raises(InvalidArgument, match="batch = 0"):
        drawn(small(("zoo/x",)), Path("nowhere"), batch=0)


def test_prompts_are_read_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# fruit\n a red apple \n\nein grüner Apfel\n", encoding="utf-8-sig")
    assert grid.read_prompts(file) == ("a red apple", "ein grüner Apfel")
    for content, said in ((b"\n# no\n", "holds no prompt"), (b"a\nb\na", "'a' stands there twice"), (b"\xff", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            grid.read_prompts(file)
    with pytest.raises(DataError, match="cannot be read"):
        grid.read_prompts(tmp_path)
