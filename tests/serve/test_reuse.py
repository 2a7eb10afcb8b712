"""Mixes made elsewhere: shown with their regions and shares, and ordered again as far as the page Mix can."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'tastemaker[generate]'")

from fastapi.testclient import TestClient

from tastemaker.errors import DataError
from tastemaker.generate.picture import Part, Recipe, write_picture
from tastemaker.generate.settings import DEFAULT
from tastemaker.serve.app import create_app
from tastemaker.serve.gallery import Gallery, import_folder
from tastemaker.serve.reuse import _FIXED, START
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store
from tests.serve.planted import picture, plant

JSON = {"Accept": "application/json"}
HELD: dict[str, Any] = {
    **_FIXED, "strength": 0.6, "alpha": 2.0, "beta": 0.5, "attention": 0.33, "convolution": 0.7, "mask": None,
    "mask_hash": None, "inversion": "bdia", "inversion_prompt": "a red apple",
}  # fmt: skip


def mixed(folder: Path, source: Path, name: str, *models: Part, picture_hash: str | None = None, **held: Any) -> str:
    """Write a mix as `tastemaker mix` does; the id it gets."""
    digest = picture_hash or hashlib.sha256(source.read_bytes()).hexdigest()[:32]
    recipe = Recipe(
        "cocktail", "a red apple", models, 0, 10, 3.3, negative="grey", picture=Part(str(source), digest),
        content=Part("zoo/base", "h"), cocktail={**HELD, **held},
    )  # fmt: skip
    write_picture(picture("a red apple", "ink", 0), folder / f"{name}.png", recipe)
    return f"a-red-apple-mix-{recipe.digest[:10]}"


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return plant(tmp_path / "grid", seeds=1)


@pytest.fixture
def ids(tmp_path: Path, grid: Path) -> dict[str, str]:
    folder, source = tmp_path / "mixes", next((grid / "flat").glob("a-red-apple-*.png"))
    ink, neon, clay = (Part(f"zoo/{name}", name) for name in ("ink", "neon", "clay"))
    gone = tmp_path / "two-row.png"
    write_picture(picture("a red apple", "flat", 0), gone)
    regions = {"regions": ("left", "shape.png"), "region_hashes": (None, "h")}
    made = {
        "regions": mixed(folder, source, "regions-zoo-ink", ink, neon, **regions),
        "shares": mixed(folder, source, "shares", Part("zoo/ink", "ink", 0.7), Part("zoo/clay", "clay", 0.3)),
        "collage": mixed(folder, gone, "collage", clay, mask="top", sampling_steps=12),
        "changed": mixed(folder, source, "changed", Part("lost/model", "x"), picture_hash="0", mask="m.png"),
    }
    write_picture(picture("a red apple", "ink", 0), folder / "sheet.png")  # carries no recipe
    return made


@pytest.fixture
def client(tmp_path: Path, grid: Path, ids: dict[str, str]) -> Iterator[TestClient]:
    app = create_app(Settings(tmp_path / "home", (grid, tmp_path / "mixes"), seed=3))
    with TestClient(app, base_url="http://localhost") as made:
        yield made


def page(client: TestClient, path: str, **query: str) -> Any:
    answer = client.get(path, params=query, headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_cards_tell_regions_and_shares(client: TestClient, ids: dict[str, str]) -> None:
    base, ink, neon, clay = (
        client.app.state.site.gallery.title(f"zoo/{name}")  # type: ignore[attr-defined]
        for name in ("base", "ink", "neon", "clay")
    )
    regions = page(client, f"/picture/{ids['regions']}")
    assert regions["card"]["title"] == f"{base} → {ink} (left) + {neon} (mask)"
    assert regions["source"]["model"] == "flat"
    assert page(client, f"/picture/{ids['shares']}")["card"]["title"] == f"{base} → {ink} × 0.7 + {clay} × 0.3"
    told = client.get(f"/picture/{ids['regions']}").text
    assert "zoo/ink (left) + zoo/neon (mask)" in told
    assert f"/mix?like={ids['regions']}" in told
    collage = client.get(f"/picture/{ids['collage']}").text
    assert "two-row.png" in collage
    assert page(client, f"/picture/{ids['collage']}")["source"] is None


def test_every_card_tells_its_recipe_and_brings_it_back(client: TestClient, ids: dict[str, str]) -> None:
    cards = {card["id"]: card for card in page(client, "/explore", k="100")["cards"]}
    assert cards[ids["shares"]]["recipe"] == "alpha 2, 10 steps, guidance 3.3"
    drawn = next(card for card in cards.values() if card["kind"] == "generate")
    assert drawn["recipe"] == "seed 0, 20 steps, guidance 4"
    filled = client.get(drawn["again"], headers=JSON).json()
    assert (filled["prompt"], filled["seed"], filled["steps"]) == (drawn["prompt"], 0, 20)
    assert client.get(cards[ids["shares"]]["again"], headers=JSON).json()["like"] == ids["shares"]
    text = client.get("/explore?k=100").text
    assert text.count('title="Use this recipe"') == len(cards)
    assert "Reuse: seed 0, 20 steps, guidance 4" in text
    assert "Reuse: " in client.get("/for-you?again=true").text


def test_a_mix_comes_back_as_far_as_the_page_can(client: TestClient, ids: dict[str, str]) -> None:
    found = page(client, "/mix", like=ids["shares"])
    assert found["source"]["model"] == "flat"
    assert found["content"] == "zoo/base"
    assert found["lacking"] == []
    assert found["settings"] == {
        "strength": 0.6, "alpha": 2.0, "beta": 0.5, "guidance": 3.3, "attention": 0.33, "convolution": 0.7, "steps": 10,
        "inversion": "bdia", "negative": "grey", "prompt": "a red apple", "styles": ["zoo/ink", "zoo/clay"],
        "share": 0.7, "mask": "",
    }  # fmt: skip
    names = [one["name"] for one in found["models"]]
    assert names.index("zoo/clay") < names.index("zoo/ink")  # so ink is the second of the form, with 0.7
    text = client.get("/mix", params={"like": ids["shares"]}).text
    assert 'step="any" value="0.33"' in text  # a slider would round what is off its steps
    assert text.count(" checked") == 2
    assert page(client, "/mix", like=ids["shares"], pick="true")["source"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("regions", ["drew a region", "mix --region"]), ("collage", ["two-row.png", "choose or upload", "steps 12"]),
        ("changed", ["lost/model does not draw here", "is not here", "mask was a picture"]),
    ],
)  # fmt: skip
def test_what_does_not_come_back_is_told(client: TestClient, ids: dict[str, str], name: str, words: list[str]) -> None:
    lacking = " ".join(page(client, "/mix", like=ids[name])["lacking"])
    assert all(word in lacking for word in words), lacking
    assert page(client, f"/picture/{ids[name]}")["lacking"] == page(client, "/mix", like=ids[name])["lacking"]
    assert page(client, "/mix", like=ids["collage"])["settings"]["mask"] == "top"


def test_a_drawn_picture_is_no_mix_and_brings_its_negative_prompt(client: TestClient, ids: dict[str, str]) -> None:
    drawn = next(one for one in page(client, "/explore", k="100")["cards"] if one["kind"] == "generate")
    refused = client.get("/mix", params={"like": drawn["id"]}, headers=JSON)
    assert (refused.status_code, "was not mixed" in refused.json()["message"]) == (422, True)
    assert page(client, "/generate", negative="grey")["negative"] == "grey"
    lacking = client.get(drawn["again"], headers=JSON).json()["lacking"]  # planted models draw nowhere
    assert lacking == [f"{drawn['title']} does not draw here."]
    assert lacking[0] in client.get(drawn["again"]).text
    assert client.get("/generate?like=no", headers=JSON).status_code == 404
    assert 'value="grey"' in client.get("/generate?negative=grey").text


def test_a_folder_without_a_catalogue_needs_recipes(tmp_path: Path, grid: Path, ids: dict[str, str]) -> None:
    settings = Settings(tmp_path / "home", (grid, tmp_path / "mixes"))
    with Store(tmp_path / "store.db") as store:
        assert import_folder(store, tmp_path / "mixes") == 4
        assert import_folder(store, tmp_path / "mixes") == 0
        assert {one.id for one in Gallery(store, settings).everything()} == set(ids.values())
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="no PNG file with a recipe"):
            import_folder(store, tmp_path / "empty")


def test_the_page_begins_with_the_librarys_defaults() -> None:
    injection, inversion = DEFAULT.injection, DEFAULT.inversion
    known = {**vars(DEFAULT), **vars(injection), **vars(inversion), "inversion": inversion.kind}
    for name, value in {**START, **_FIXED}.items():
        if name != "strength" or name in known:
            assert known[name] == value, name
