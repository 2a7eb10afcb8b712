"""Models chosen for a prompt and a person, and pictures put in their order, by the embedded models' own pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("transformers", reason="transformers is not installed: pip install 'tastemaker[generate]'")

from fastapi.testclient import TestClient

from tastemaker.choose.belief import Belief
from tastemaker.choose.retrieve import retrieve
from tastemaker.choose.votes import like, pair
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument
from tastemaker.generate import zoo
from tastemaker.serve.app import create_app
from tastemaker.serve.chooser import Stocked, by_lot, liked
from tastemaker.serve.events import Joined, Said, Voted
from tastemaker.serve.lessons import drawn_before
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Word
from tastemaker.serve.visit import Site
from tests.generate import tiny
from tests.serve.planted import plant_zoo

JSON = {"Accept": "application/json"}
PROMPT = "a fox above a balloon"
embedded = pytest.mark.skipif(not zoo.zoo(), reason="no embedded models in this version")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("chosen")
    app = create_app(Settings(folder / "home", (plant_zoo(folder / "grid"),), seed=3, refit_after=0))
    with TestClient(app, base_url="http://localhost") as made:
        made.headers["X-CSRF-Token"] = made.get("/session", headers=JSON).json()["token"]
        assert isinstance(site(made).chooser.stocked(wait=300), Stocked)
        yield made


def site(client: TestClient) -> Site:
    found: Site = client.app.state.site  # type: ignore[attr-defined]
    return found


def order(client: TestClient, **form: Any) -> dict[str, Any]:
    sent = client.post("/generate", data={"prompt": PROMPT, **form}, headers=JSON)
    assert sent.status_code == 200, sent.text
    work: dict[str, Any] = client.get(sent.json()["page"], headers=JSON).json()["job"]["work"]
    return work


@embedded
class TestChoosing:
    def test_what_is_logged_is_what_retrieve_says(self, client: TestClient) -> None:
        here = site(client)
        here.store.add(Joined("nobody"))
        chosen = here.chooser.choose(PROMPT, "nobody", 4, np.random.default_rng(5))
        stocked = here.chooser.stocked()
        assert isinstance(stocked, Stocked)
        picks = retrieve(PROMPT, shelf=stocked.shelf, k=4, explore=0.1, rng=np.random.default_rng(5)).table
        assert chosen.models == tuple(picks["id"])
        assert chosen.probabilities == tuple(picks["probability"])
        assert chosen.reasons == tuple(picks["reason"])
        assert chosen.policy == picks["policy"][0] == "thompson, 10% at random"

    def test_an_order_says_who_draws_and_why(self, client: TestClient) -> None:
        assert client.get("/generate", headers=JSON).json()["choosing"] == "retrieve"
        work = order(client, count=3)
        assert work["policy"] == "thompson, 10% at random"
        assert set(work["chances"]) == set(work["reasons"]) == set(work["models"])
        assert len(set(work["models"])) == 3
        assert all(0 < chance <= 1 for chance in work["chances"].values())
        assert all(work["reasons"].values())
        page = client.get("/job/1").text
        assert "Why these models" in page
        assert "chosen for you" in page
        assert "asked" not in work

    def test_sending_again_is_the_same_order(self, client: TestClient) -> None:
        headers = {**JSON, "Idempotency-Key": "once"}
        sent = [client.post("/generate", data={"prompt": PROMPT}, headers=headers).json()["job"] for _ in range(3)]
        assert len(set(sent)) == 1
        other = client.post("/generate", data={"prompt": "a cat"}, headers=headers)
        assert other.status_code == 409

    def test_filters_hold(self, client: TestClient) -> None:
        known = client.get("/generate", headers=JSON).json()["models"]
        base = next(one["base"] for one in known if one["base"])
        work = order(client, count=12, base=base)
        assert set(work["models"]) == {one["name"] for one in known if one["base"] == base}
        refused = client.post("/generate", data={"prompt": PROMPT, "licence": "none such"}, headers=JSON)
        assert (refused.status_code, "none such" in refused.text) == (422, True)

    def test_what_a_person_says_moves_their_models(self, client: TestClient) -> None:
        here = site(client)
        stocked = here.chooser.stocked()
        assert isinstance(stocked, Stocked)
        models = stocked.shelf.models.ids.series.to_list()
        for name, good in (("Lia", models[0]), ("Dan", models[-1])):
            here.store.add(Joined(name))
            for one in here.gallery.everything():
                if one.model in (models[0], models[-1]):
                    here.store.add(Said(name, one.id, 1 if one.model == good else -1, unshown="test"))
        of = {name: here.chooser._liking(name, stocked.shelf) for name in ("Lia", "Dan")}
        assert of["Lia"] is not None
        assert of["Dan"] is not None
        assert of["Lia"].mean[0] > 0.3 > -0.3 > of["Lia"].mean[-1]
        assert of["Dan"].mean[0] < -0.3 < 0.3 < of["Dan"].mean[-1]
        assert "24 likes and dislikes" in of["Lia"].about

    def test_pictures_stand_in_the_order_of_taste(self, client: TestClient) -> None:
        here = site(client)
        pictures = [one for one in here.gallery.everything() if one.prompt == "a cat"]
        here.store.add(Joined("new"))
        fresh = here.chooser.rank("new", pictures)
        assert fresh is not None
        assert fresh.about == "how well they show the prompt"
        assert sorted(one.id for one in fresh.pictures) == sorted(one.id for one in pictures)
        here.store.add(Joined("Eva"))
        last = fresh.pictures[-1].model  # Eva prefers, everywhere, who shows it worst
        for prompt, drawn in here.gallery.by_prompt().items():
            if prompt != "a cat":
                (best,) = (one for one in drawn if one.model == last)
                for other in drawn:
                    if other is not best:
                        here.store.add(Voted("Eva", pair(best.id, other.id)))
        hers = here.chooser.rank("Eva", pictures)
        assert hers is not None
        assert hers.about == "your taste"
        place = [one.model for one in hers.pictures].index(last)
        assert place < len(pictures) // 2
        assert all(hers.reasons)

    def test_the_models_page_tells_what_its_pictures_have_in_common(self, client: TestClient) -> None:
        told = client.get("/model/zoo/ink", headers=JSON).json()
        assert told["sign"]["pictures"] == 12
        assert 0 < told["sign"]["strength"] < 2
        assert -1 <= told["sign"]["consistency"] <= 1
        assert len(told["card"]) == 12
        assert client.get(told["card"][11]["image"]).headers["content-type"] == "image/png"
        assert client.get("/card/12.png?model=zoo/ink", headers=JSON).status_code == 404
        assert client.get("/card/0.png?model=../ink", headers=JSON).status_code == 404
        page = client.get("/model/zoo/ink").text
        assert "On its card" in page
        assert "Strength" in page
        assert "Apache-2.0" in page


def test_by_lot_when_nothing_can_judge_the_models(tmp_path: Path) -> None:
    model = str(tiny.save("sd1", tmp_path / "models"))
    with TestClient(create_app(Settings(tmp_path / "home", models=(model,))), base_url="http://localhost") as client:
        client.headers["X-CSRF-Token"] = client.get("/session", headers=JSON).json()["token"]
        asked = client.get("/generate", headers=JSON).json()
        assert (asked["choosing"], "--encoder" in asked["because"]) == ("uniform", True)
        assert "by lot" in client.get("/generate").text
        work = order(client, count=4)
        assert (work["policy"], work["chances"], work["reasons"]) == (
            "uniform", {model: 1.0}, {model: "drawn by lot"},
        )  # fmt: skip
        assert "--encoder" in work["about"][0]
        assert "drawn by lot" in client.get("/job/1").text


def test_a_broken_encoder_is_told_without_its_place(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    model = str(tiny.save("sd1", tmp_path / "models"))
    app = create_app(Settings(tmp_path / "home", models=(model,), encoder=tmp_path / "clip"))
    with TestClient(app, base_url="http://localhost"):
        why = app.state.site.chooser.stocked(wait=60)
    assert isinstance(why, str)
    assert "no such file" in why
    assert str(tmp_path) not in why


def test_lots_have_the_chances_that_are_logged() -> None:
    drawn = [by_lot(["a", "b", "c"], 2, np.random.default_rng(seed), "no reason") for seed in range(3000)]
    assert {one.probabilities for one in drawn} == {(1 / 3, 1 / 2)}
    pairs = [one.models for one in drawn]
    assert all(abs(pairs.count(one) / 3000 - 1 / 6) < 0.03 for one in set(pairs))
    assert len(set(pairs)) == 6


def test_likes_of_pictures_are_choices_of_their_models() -> None:
    start = Belief.start(Vocabulary.of(["a", "b"]))
    words = {f"p{n}": Word(1 if n < 3 else -1, False, n, n) for n in range(4)}
    words["gone"] = Word(1, False, 9, 9)
    model_of = {"p0": "a", "p1": "a", "p2": "b", "p3": "b"}
    found = liked(start, words, model_of)
    assert found.mean[0] > found.mean[1]
    assert liked(start, {}, {}).mean.tolist() == start.mean.tolist()
    once = liked(start, {"p0": words["p0"]}, model_of)
    assert once.mean == pytest.approx(start.add(like("a")).mean)


@embedded
def test_a_prompt_that_one_model_drew_teaches_nothing(client: TestClient) -> None:
    gallery = site(client).gallery
    cells, files = drawn_before(gallery, {"zoo/ink"})
    assert (cells.height, files) == (0, {})
    both, _ = drawn_before(gallery, {"zoo/ink", "zoo/base"})
    assert both["prompt"].n_unique() == 12
    assert set(both["model"]) == {"zoo/ink", "zoo/base"}


def test_nobody_draws(tmp_path: Path) -> None:
    with (
        TestClient(create_app(Settings(tmp_path, models=())), base_url="http://localhost") as client,
        pytest.raises(InvalidArgument, match="--models"),
    ):
        site(client).chooser.choose("a cat", "x", 1, np.random.default_rng(0))
