"""Names of models: embedded, paths, patterns, and what is said where there is none."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.generate import zoo

CARD = {
    "name": "ink", "title": "Ink lines", "kind": "model", "base": "base", "maker": "us", "licence": "Apache-2.0",
    "data": ["drawings (MIT)"], "trigger": ["in ink style"], "size": 96, "steps": 20, "guidance": 4,
    "examples": [{"prompt": "a red apple", "seed": 3, "file": "example-1.png"}],
}  # fmt: skip


def put(root: Path, name: str, **changes: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    card = CARD | {"name": name} | changes
    (folder / "card.json").write_text(json.dumps(card))
    weights = "pytorch_lora_weights.safetensors" if card["kind"] == "lora" else "model_index.json"
    (folder / weights).write_text("{}")
    Image.new("RGB", (8, 8)).save(folder / "example-1.png")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of three models and a LoRA, and a working folder with models of its own."""
    root = tmp_path / "embedded"
    put(root, "wash", kind="lora", trigger=["watercolour wash"])
    put(root, "pixel", trigger=[])
    put(root, "ink")
    put(root, "base", base=None, trigger=[])
    monkeypatch.setattr(zoo, "ROOT", root)
    work = tmp_path / "work"
    for name in ("models/anime", "models/photo", "models/not-a-model"):
        (work / name).mkdir(parents=True)
    for name in (
        "models/anime/model_index.json",
        "models/photo/model_index.json",
        "models/xl.safetensors",
        "models/README",
    ):
        (work / name).write_text("{}")
    monkeypatch.chdir(work)
    return root


def test_the_embedded_models_have_good_cards() -> None:
    names = {card.name for card in zoo.zoo()}
    for card in zoo.zoo():
        assert card.base is None or card.base in names
        assert card.examples
        assert zoo.resolve(card.source, card.kind) == card.folder


def test_cards_are_read_in_order(root: Path) -> None:
    assert [card.source for card in zoo.zoo()] == ["zoo/base", "zoo/ink", "zoo/pixel", "zoo/wash"]
    card = zoo.read_card(root / "ink")
    assert card.examples == (zoo.Example("a red apple", 3, "example-1.png"),)
    assert (card.guidance, card.trigger) == (4.0, ("in ink style",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "vae"}, "card's kind is 'vae'"),
        ({"steps": "20"}, "card's steps is '20'; expected int"),
        ({"trigger": "in ink style"}, "card's trigger is 'in ink style'"),
        ({"examples": [{"prompt": "x", "seed": 1}]}, "no 'file'"),
        ({"examples": [{"prompt": "x", "seed": 1, "file": "gone.png"}]}, "'gone.png' is not a file"),
        (
            {"examples": [{"prompt": "x", "seed": 1, "file": "../base/example-1.png"}]},
            "is not a file in the card's folder",
        ),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_a_wrong_card_names_file_and_field(root: Path, change: dict, said: str) -> None:
    (root / "ink" / "card.json").write_text(json.dumps(CARD | change))
    with pytest.raises(DataError, match=r"card\.json") as caught:
        zoo.read_card(root / "ink")
    assert said in str(caught.value)


def test_patterns_literal_or_expanded_by_the_shell(root: Path) -> None:
    embedded = ("zoo/base", "zoo/ink", "zoo/pixel")
    assert zoo.find(["zoo/*"]) == zoo.find(["zoo"]) == zoo.find(embedded) == zoo.find([*embedded, "zoo/*"]) == embedded
    assert zoo.find(["zoo/[ip]*"]) == embedded[1:]
    assert zoo.find(["zoo/*"], "lora") == ("zoo/wash",)
    mine = ("models/anime", "models/photo", "models/xl.safetensors")
    assert zoo.find(["models/*"]) == zoo.find(["models"]) == zoo.find(mine) == mine
    assert zoo.find(["models/*.safetensors", "zoo/ink"]) == ("models/xl.safetensors", "zoo/ink")


def test_the_zoo_is_ours_and_a_folder_called_so_is_yours(root: Path) -> None:
    put(Path("zoo"), "ink")
    put(Path("zoo"), "mine")
    assert zoo.resolve("zoo/ink") == root / "ink"
    assert zoo.resolve("./zoo/ink") == Path("zoo/ink")
    assert zoo.resolve("zoo/mine") == Path("zoo/mine")


@pytest.mark.parametrize(
    ("source", "kind", "error", "said"),
    [
        ("zoo/inc", "model", UnknownName, "did you mean 'zoo/ink'?"),
        ("zoo/wash", "model", InvalidArgument, "'zoo/wash' is a lora, not a model; models: zoo/base, zoo/ink"),
        ("zoo/ink", "lora", InvalidArgument, "loras: zoo/wash"),
        ("models/anmie", "model", DataError, "did you mean 'models/anime'?"),
        ("nowhere/at/all", "model", DataError, "embedded: zoo/base"),
        ("models/README", "model", DataError, "not a model; expected a folder with model_index.json"),
        ("models/not-a-model", "model", DataError, "not a model"),
        ("", "model", DataError, "not a model"),
    ],
)
def test_unknown_models(root: Path, source: str, kind: zoo.Kind, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        zoo.resolve(source, kind)
    assert said in str(caught.value)


def test_patterns_without_a_model(root: Path) -> None:
    for source in ("zoo/q*", "models/not-a-model", "nothing/*"):
        with pytest.raises(DataError, match="no model there"):
            zoo.find([source])


def test_a_renamed_copy_keeps_its_card(root: Path) -> None:
    shutil.copytree(root / "ink", "models/mine")
    card = zoo.card_of("models/mine")
    assert card is not None
    assert card.trigger == ("in ink style",)
    (root / "ink").rename(root / "inc")
    with pytest.raises(DataError, match="names 'ink'; expected its folder's name"):
        zoo.zoo()


def test_words_that_embedded_models_do_not_know() -> None:
    assert zoo.unknown_words("A castle in the Mountains, (red:1.3) apples", ["zoo/ink", "mine"]) == (
        "castle", "in", "the", "Mountains",
    )  # fmt: skip
    for card in zoo.zoo():
        for example in card.examples:
            assert zoo.unknown_words(example.prompt, ["zoo/base"]) == ()
    for sources in ((), ("models/anime", "./zoo/base")):
        assert zoo.unknown_words("a castle", sources) == ()


def test_trigger_words_are_added_once(root: Path) -> None:
    assert zoo.with_triggers("an apple", ["zoo/ink", "zoo/wash"]) == "an apple, in ink style, watercolour wash"
    assert zoo.with_triggers("an apple In Ink Style", ["zoo/ink"]) == "an apple In Ink Style"
    assert zoo.with_triggers("an apple", ["zoo/base", "models/anime", "elsewhere"]) == "an apple"


def test_the_fingerprint_is_of_what_draws(root: Path) -> None:
    folder = root / "ink"
    before = zoo.fingerprint(folder)
    (folder / "card.json").write_text("{}")
    (folder / "example-1.png").unlink()
    assert zoo.fingerprint(folder) == before
    moved = folder.rename(root / "moved")
    assert zoo.fingerprint(moved) == before
    (moved / "model_index.json").write_text("{ }")
    assert zoo.fingerprint(moved) != before
    assert len(zoo.fingerprint(moved / "model_index.json")) == 32
