"""Pictures on the command line, with tiny real models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli import main
from tastemaker.generate import zoo
from tastemaker.generate.picture import read_picture, read_recipe, write_picture
from tests.generate import tiny

QUICK = ("--steps", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for name in ("sd1", "sd1-style", "sd2"):
        tiny.save(name, folder / "models")
    tiny.lora(folder / "lora")
    noise = np.random.default_rng(1).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((64, 32)).save(folder / "photo.png")
    return folder


@pytest.fixture
def here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with models/, lora/ and photo.png."""
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    assert code(*arguments, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    return code(*arguments), " ".join(capsys.readouterr().err.split())


def test_generate_writes_pictures_and_a_sheet(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("generate", "a red apple", "the dog", "--models", "models/*", "--seeds", 2, "--seed", 5, *QUICK)
    made = output(capsys, *asked)
    assert (made["drawn"], made["there already"], len(made["pictures"])) == (12, 0, 12)
    assert {row["seed"] for row in made["pictures"]} == {5, 6}
    assert {row["model"] for row in made["pictures"]} == {"models/sd1", "models/sd1-style", "models/sd2"}
    for row in made["pictures"]:
        recipe = read_recipe(row["file"])
        assert (recipe.prompt, recipe.steps, recipe.guidance) == (row["prompt"], 2, 5)
    (sheet,) = made["sheet"]
    assert read_picture(sheet).width > 3 * 190
    expanded = ("generate", "a red apple", "the dog", "--models", *sorted(map(str, Path().glob("models/*"))))
    again = output(capsys, *expanded, "--seeds", 2, "--seed", 5, *QUICK)
    assert (again["drawn"], again["pictures"]) == (0, made["pictures"])
    assert code(*asked) == 0
    assert "sheet.png" in capsys.readouterr().out


def test_loras_take_a_scale(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    for given, scale in (("lora:0.5", 0.5), ("lora/pytorch_lora_weights.safetensors", 1.0)):
        made = output(capsys, "generate", "a cat", "--models", "models/sd1", "--lora", given, *QUICK)
        (part,) = read_recipe(made["pictures"][0]["file"]).loras
        assert (part.name, part.scale) == (given.split(":")[0], scale)
    Path("lora").rename("wash:2")
    made = output(capsys, "generate", "a cat", "--models", "models/sd1", "--lora", "wash:2", *QUICK)
    (part,) = read_recipe(made["pictures"][0]["file"]).loras
    assert (part.name, part.scale) == ("wash:2", 1.0)
    failed, said = refused(capsys, "generate", "a cat", "--models", "models/sd1", "--lora", "lora:much")
    assert (failed, "expected FILE or FILE:SCALE" in said) == (1, True)


def test_one_failing_model_is_an_exit_code_and_a_line(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    shutil.rmtree(here / "models" / "sd1-style" / "vae")
    capsys.readouterr()
    assert code("generate", "a cat", "--models", "models", *QUICK, "--json") == 1
    told = capsys.readouterr()
    made = json.loads(told.out)
    assert made["drawn"] == 2
    assert [failure["model"] for failure in made["failures"]] == ["models/sd1-style"]
    assert "models/sd1-style: " in told.err
    assert "1 of 3 models failed, 1 pictures are missing" in told.err


def test_grid_says_what_it_will_take_and_goes_on(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    Path("prompts.txt").write_text("# two\na red apple\nthe dog\n")
    asked = ("grid", "prompts.txt", "--models", "models/sd1", "models/sd2", "--out", "book", *QUICK)
    guess = output(capsys, *asked, "--dry-run")
    assert (guess["pictures"], guess["finished"]) == (4, 0)
    assert guess["seconds left"] > 0
    assert not Path("book").exists()
    assert output(capsys, *asked)["drawn"] == 4
    next(Path("book/sd1").glob("*.png")).unlink()
    guess = output(capsys, *asked, "--dry-run")
    assert (guess["finished"], guess["measured by"]) == (3, "median of 3 finished pictures")
    again = output(capsys, *asked)
    assert (again["drawn"], again["there already"]) == (1, 3)
    assert len(list(Path("book/thumbnails").rglob("*.png"))) == 4
    assert code(*asked, "--dry-run") == 0
    assert "0 min 00 s" in capsys.readouterr().out


def test_words_that_the_embedded_models_do_not_know_are_said(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    for models, said in (("zoo/base", True), ("models/sd1", False)):
        capsys.readouterr()
        assert code("generate", "a castle on a red background", "--models", models, *QUICK) == 0
        assert ("do not know 'castle' and draw" in capsys.readouterr().err) is said
    assert code("generate", "three purple hearts", "--models", "zoo/base", *QUICK) == 0
    assert "do not know" not in capsys.readouterr().err
    mixed = ("mix", "photo.png", "--content", "zoo/base", "--style", "zoo/ink", "--prompt", "a castle")
    for asked in (
        (*mixed, "--inversion-prompt", "a bridge"),
        ("matrix", "a castle", "--models", "zoo/base", "zoo/ink"),
    ):
        assert code(*asked, "--steps", 2, "--device", "cpu") == 0
        assert "do not know 'castle'" in (told := capsys.readouterr().err)
        assert ("'bridge'" in told) is ("a bridge" in asked)


def test_names_of_models_are_shown_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tastemaker.cli.pictures.out.width", 60)
    assert code("zoo") == 0
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines() if line.startswith("zoo/")} == {
        card.source for card in zoo.zoo()
    }
    assert "40 subjects: apple" in shown


def test_a_damaged_picture_is_said_and_drawn_anew(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    Path("prompts.txt").write_text("a red apple\n")
    for asked in (("generate", "a red apple"), ("grid", "prompts.txt")):
        asked = (*asked, "--models", "models/sd1", "--out", asked[0], *QUICK)
        file = Path(output(capsys, *asked)["pictures"][0]["file"])
        file.write_bytes(file.read_bytes()[:-20])
        if asked[0] == "grid":
            capsys.readouterr()
            assert code(*asked, "--dry-run", "--json") == 0
            told = capsys.readouterr()
            assert json.loads(told.out)["finished"] == 0
            assert f"{file}: damaged, or not the picture that belongs there; is left to draw" in told.err
        capsys.readouterr()
        assert code(*asked) == 0
        assert f"{file}: damaged, or not the picture that belongs there; was drawn anew" in capsys.readouterr().err
        read_picture(file)


def test_mix_writes_cocktails_sheet_and_numbers(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("mix", "photo.png", "--content", "models/sd1", "--prompt", "a red apple", "--steps", 3, "--device", "cpu")
    made = output(capsys, *asked, "--style", "models/sd1-style", "--style", "models/sd1", "--alpha", 2, "--resnet", 1)
    assert [row["style"] for row in made["mixes"]] == ["models/sd1-style", "models/sd1"]
    for row in made["mixes"]:
        assert -1 <= row["structure kept"] <= 1
        assert row["round trip"] > 0
        recipe = read_recipe(row["file"])
        assert recipe.kind == "cocktail"
        assert (recipe.cocktail["alpha"], recipe.cocktail["convolution"], recipe.steps) == (2, 1, 3)
        assert read_picture(row["file"]).size == (64, 32)
    assert read_picture(made["sheet"]).width > 3 * 256
    half = Image.new("L", (10, 8), 0)
    half.paste(255, (0, 0, 5, 8))
    write_picture(half, "mask.png")
    asked = (*asked, "--style", "models/sd1-style", "--preset", "batch", "--lora", "lora")
    mask, half_plane = (output(capsys, *asked, "--mask", given) for given in ("mask.png", "left"))
    assert read_recipe(mask["mixes"][0]["file"]).loras[0].scale == 0.7  # as published
    one, other = (np.asarray(read_picture(row["mixes"][0]["file"]), int) for row in (mask, half_plane))
    assert abs(one - other).max() <= 1


def test_a_picture_whose_sides_are_no_multiple_of_the_latents(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """Published surfaces do not round sides, so what comes out is smaller than what went in."""
    read_picture("photo.png").resize((51, 32)).save("odd.png")
    asked = ("mix", "odd.png", "--content", "models/sd1", "--style", "models/sd1-style", "--prompt", "a cat", *QUICK)
    asked = (*asked, "--preset", "batch")
    rows = [output(capsys, *asked, "--alpha", alpha)["mixes"][0] for alpha in (0, 8)]
    assert read_picture(rows[0]["file"]).size == (48, 32)
    low, high = (row["structure kept"] for row in rows)
    if low < high:  # the search compares in the same way
        assert low < output(capsys, *asked, "--structure", (low + high) / 2)["mixes"][0]["structure kept"] < high


def test_styles_share_one_picture_by_region(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("mix", "photo.png", "--content", "models/sd1", "--prompt", "a cat", *QUICK)
    asked = (*asked, "--style", "models/sd1-style", "models/sd1", "--region", "left", "right")
    (row,) = output(capsys, *asked)["mixes"]
    recipe = read_recipe(row["file"])
    assert recipe.cocktail["regions"] == ("left", "right")
    assert output(capsys, "recipe", row["file"], "--again", "--device", "cpu")["difference"] == 0
    assert "--structure 5.0; expected what is kept" in refused(capsys, *asked, "--structure", 5)[1]
    assert "and no shares" in refused(capsys, *asked, "--gamma", 0.5)[1]
    assert "3 regions, 2 styles" in refused(capsys, *asked, "--region", "top")[1]


def test_several_pictures_are_mixed_as_a_collage(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    how = ("--content", "models/sd1", "--style", "models/sd1-style", "--prompt", "two cats", *QUICK)
    made = output(capsys, "mix", "photo.png", "photo.png", "--collage", "column", *how)["mixes"]
    recipe = read_recipe(made[0]["file"])
    assert recipe.picture is not None
    assert read_picture(recipe.picture.name).size == (64, 64)
    assert output(capsys, "recipe", made[0]["file"], "--again", "--device", "cpu")["difference"] == 0
    for given, said in ((["photo.png"] * 2, "2 pictures; expected one"), (["--collage", "row"], "0 pictures")):
        assert said in refused(capsys, "mix", *given, *how)[1]
    assert "No such file" in refused(capsys, "mix", "photo.png", "none.png", "--collage", "row", *how)[1]


def test_a_mix_that_keeps_little_says_so_and_sheets_stay(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    Image.new("RGB", (32, 32), "teal").save("flat.png")
    asked = ("--content", "models/sd1", "--style", "models/sd1-style", "--prompt", "a cat", *QUICK, "--json")
    assert code("mix", "flat.png", *asked) == 0
    said = capsys.readouterr()
    made = json.loads(said.out, parse_constant=lambda name: pytest.fail(name))
    assert made["mixes"][0]["structure kept"] is None
    assert "note" not in said.err
    assert code("mix", "photo.png", *asked, "--alpha", 0) == 0
    said = capsys.readouterr()
    first = json.loads(said.out)
    assert ("note: little" in said.err) == (first["mixes"][0]["structure kept"] < 0.2)
    assert output(capsys, "mix", "photo.png", *asked[:-1], "--alpha", 5)["sheet"] != first["sheet"]
    assert output(capsys, "mix", "photo.png", *asked[:-1], "--alpha", 0)["sheet"] == first["sheet"]


def test_alpha_is_searched_for_a_structure(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1-style", "--prompt", "a cat", *QUICK)
    kept = [output(capsys, *asked, "--alpha", alpha)["mixes"][0]["structure kept"] for alpha in (0, 8)]
    failed, said = refused(capsys, *asked, "--structure", 1)
    assert (failed, "--structure 1.0; expected" in said, "what alpha 0 and 8 keep" in said) == (1, True, True)
    if kept[0] < kept[1]:  # random weights need not obey; trained ones do
        row = output(capsys, *asked, "--structure", sum(kept) / 2)["mixes"][0]
        assert abs(row["structure kept"] - sum(kept) / 2) < (kept[1] - kept[0]) / 4
        assert 0 < read_recipe(row["file"]).cocktail["alpha"] < 8


def test_matrix_shows_every_content_in_every_style(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("matrix", "a cat", "--models", "models/sd1", "models/sd1-style", "--steps", 2, "--device", "cpu", "--json")
    assert code(*asked) == 0
    said = capsys.readouterr()
    assert "inverting (1 of 8 done)" in said.err
    assert "drawing (5 of 8 done)" in said.err
    made = json.loads(said.out)
    assert made["models"] == ["models/sd1", "models/sd1-style"]
    assert read_picture(made["sheet"]).width > 3 * 192
    assert "no such model" in refused(capsys, "matrix", "a cat", "--models", "models/none")[1]


def test_gamma_runs_from_one_style_to_the_other(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("mix", "photo.png", "--content", "models/sd1", "--prompt", "a cat", "--steps", 2, "--device", "cpu")
    styles = ("--style", "models/sd1", "models/sd1-style")
    ends = output(capsys, *asked, *styles)["mixes"]
    mixed = output(capsys, *asked, *styles, "--gamma", 0, 0.25, 1)["mixes"]
    assert [row["file"] for row in (mixed[0], mixed[2])] == [row["file"] for row in ends]  # the very same recipes
    assert [part.scale for part in read_recipe(mixed[1]["file"]).models] == [0.75, 0.25]
    failed, said = refused(capsys, *asked, "--style", "models/sd1", "--gamma", 0.5)
    assert (failed, "mix two styles into one; 1 given" in said) == (1, True)


@pytest.mark.parametrize(
    "made_by",
    [
        ("generate", "a red apple", "--models", "models/sd1", "--lora", "lora:0.7"),
        ("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "models/sd1-style", "--gamma", 0.5,
         "--prompt", "a red apple", "--mask", "left", "--inversion", "fixed-point", "--preset", "batch"),
    ],
)  # fmt: skip
def test_a_recipe_is_enough_to_draw_again(
    capsys: pytest.CaptureFixture[str], here: Path, made_by: tuple[object, ...]
) -> None:
    made = output(capsys, *made_by, *QUICK)
    file = (made.get("pictures") or made["mixes"])[0]["file"]
    assert output(capsys, "recipe", file)["recipe"] == json.loads(read_recipe(file).to_json())
    again = output(capsys, "recipe", file, "--again", "--device", "cpu", "--out", "again.png")
    assert (again["again"], again["difference"]) == ("again.png", 0)
    assert read_recipe("again.png") == read_recipe(file)
    assert code("recipe", file) == 0
    assert "a red apple" in capsys.readouterr().out
    shutil.rmtree("models/sd1")
    shutil.copytree("models/sd2", "models/sd1")
    failed, said = refused(capsys, "recipe", file, "--again")
    assert (failed, "has changed since" in said) == (1, True)


def test_a_changed_source_is_not_mixed_again(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    asked = ("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "a cat", *QUICK)
    file = output(capsys, *asked)["mixes"][0]["file"]
    Image.new("RGB", (40, 32)).save("photo.png")
    failed, said = refused(capsys, "recipe", file, "--again")
    assert (failed, "photo.png: has changed since" in said) == (1, True)


def test_the_zoo_is_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cards = output(capsys, "zoo")
    assert [card["model"] for card in cards] == [card.source for card in zoo.zoo()]
    if cards:
        assert output(capsys, "zoo", "--sheet", tmp_path / "zoo.png") == cards
        assert read_picture(tmp_path / "zoo.png").width > 200


@pytest.fixture
def tiny_zoo(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models and a LoRA as the package embeds them, with example pictures of two colours."""
    root = here / "embedded"
    shutil.copytree(here / "models" / "sd1", root / "base")
    shutil.copytree(here / "models" / "sd1-style", root / "ink")
    shutil.copytree(here / "lora", root / "wash")
    rng = np.random.default_rng(2)
    for name, kind, trigger in (("base", "model", []), ("ink", "model", ["in ink"]), ("wash", "lora", ["washed"])):
        examples = [{"prompt": f"a cat {n}", "seed": n, "file": f"{n}.png"} for n in range(5)]
        for example in examples:
            low, high = (0, 120) if name == "ink" else (120, 255)
            Image.fromarray(rng.integers(low, high, (32, 32, 3)).astype(np.uint8)).save(root / name / example["file"])
        card = {
            "name": name, "title": f"{name} pictures", "kind": kind, "base": None if name == "base" else "base",
            "maker": "us", "licence": "Apache-2.0", "data": ["noise"], "trigger": trigger, "size": 32, "steps": 3,
            "guidance": 4.0, "examples": examples,
        }  # fmt: skip
        (root / name / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(zoo, "ROOT", root)
    return root


def test_embedded_models_draw_as_their_cards_suggest(capsys: pytest.CaptureFixture[str], tiny_zoo: Path) -> None:
    assert [card["model"] for card in output(capsys, "zoo", "--sheet", "zoo.png")] == [
        "zoo/base",
        "zoo/ink",
        "zoo/wash",
    ]
    assert read_picture("zoo.png").width > 3 * 190
    assert code("zoo") == 0
    assert "in ink" in capsys.readouterr().out
    made = output(capsys, "generate", "a cat", "--device", "cpu", "--lora", "zoo/wash:0.5")
    recipes = [read_recipe(row["file"]) for row in made["pictures"]]
    assert [recipe.models[0].name for recipe in recipes] == ["zoo/base", "zoo/ink"]
    assert [recipe.prompt for recipe in recipes] == ["a cat, washed", "a cat, in ink, washed"]
    assert {(recipe.steps, recipe.guidance) for recipe in recipes} == {(3, 4.0)}
    plain = output(capsys, "generate", "a cat", "--models", "zoo/ink", "--no-trigger", *QUICK)
    assert read_recipe(plain["pictures"][0]["file"]).prompt == "a cat"
    failed, said = refused(capsys, "generate", "a cat", "--models", "zoo/inc")
    assert (failed, "did you mean 'zoo/ink'?" in said) == (1, True)


def test_mixes_of_embedded_models_tell_the_style_reached(capsys: pytest.CaptureFixture[str], tiny_zoo: Path) -> None:
    asked = ("--content", "zoo/base", "--style", "zoo/*", "--style", "models/sd1", "--prompt", "a cat", *QUICK)
    made = output(capsys, "mix", "photo.png", "--side", 32, *asked)["mixes"]
    assert [row["style"] for row in made] == ["zoo/base", "zoo/ink", "models/sd1"]
    square = tiny_zoo / "base" / "0.png"
    made = output(capsys, "mix", square, *asked)["mixes"]
    assert all(0 <= row["style reached"] <= 1 for row in made[:2])
    assert "style reached" not in made[2]
    recipe = read_recipe(made[1]["file"])
    assert (recipe.prompt, recipe.cocktail["inversion_prompt"]) == ("a cat, in ink", "a cat")
    worn = ("--lora", "zoo/wash", "--preset", "huggingface")
    recipe = read_recipe(output(capsys, "mix", square, *asked, *worn)["mixes"][1]["file"])
    assert recipe.prompt == recipe.cocktail["inversion_prompt"] == "in ink, washed, a cat"
    assert recipe.loras[0].scale == 0.7


@pytest.mark.parametrize(
    ("arguments", "expected", "said"),
    [
        (("generate",), 1, "no prompt; say what to draw before --models"),
        (("generate", "", "--models", "models"), 1, "expected one line of 1 to 2,000"),
        (("generate", "a cat", "--models", "modles/sd1"), 1, "did you mean 'models/sd1'?"),
        (("generate", "a cat", "--models", "photo.png"), 1, "not a model"),
        (("generate", "a cat", "--models", "models", "--seeds", "0"), 1, "--seeds 0"),
        (("generate", "a cat", "--models", "models", "--seeds", "many"), 2, "many"),
        (("generate", "a cat", "--model", "models"), 2, "--models"),
        (("grid", "none.txt", "--models", "models", "--out", "x"), 1, "none.txt"),
        (("mix", "none.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x"), 1, "No such file"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", " "), 1, "blank"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--attention", "2"),
         1, "--attention 2.0; expected a share"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--resnet", "nan"),
         1, "--resnet nan; expected a share"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--guidance", "inf"),
         1, "--guidance inf; expected a finite number"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--side", "0"),
         1, "--side 0; expected a number of pixels"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--side", "5"),
         1, "--side 5; "),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "models/sd1-style", "--prompt", "x",
          "--gamma", "nan"), 1, "share (gamma) = nan; expected a finite number"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--lora",
          "lora:nan"), 1, "scale of lora = nan; expected a finite number"),
        (("matrix", "a cat", "--models", "models/sd1", "--guidance", "inf"), 1, "--guidance inf; expected"),
        (("mix", "photo.png", "--content", "models/sd1", "--style", "models/sd1", "--prompt", "x", "--mask", "lft"),
         1, "did you mean 'left'?"),
        (("recipe", "photo.png"), 1, "carries no recipe"),
    ],
)  # fmt: skip
def test_refusals(
    capsys: pytest.CaptureFixture[str], here: Path, arguments: tuple[str, ...], expected: int, said: str
) -> None:
    failed, told = refused(capsys, *arguments)
    assert failed == expected, told
    assert said in told


def test_the_command_line_starts_without_torch() -> None:
    check = "import sys, tastemaker.cli; print([m for m in ('torch', 'diffusers', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
