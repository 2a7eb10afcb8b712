"""Orders and their worker: tiny models of the real classes draw, mix and fill a transfer grid."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'tastemaker[generate]'")

from fastapi.testclient import TestClient
from PIL import Image

from tastemaker.errors import InvalidArgument
from tastemaker.generate.picture import read_recipe
from tastemaker.serve.app import create_app
from tastemaker.serve.jobs import Cancelled, Jobs, work_on
from tastemaker.serve.settings import Settings
from tastemaker.serve.visit import Site
from tastemaker.serve.worker import Draftsman, Kept
from tests.generate import tiny
from tests.serve.planted import plant

JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(str(tiny.save(name, folder)) for name in ("sd1", "sd1-style"))


@pytest.fixture
def client(tmp_path: Path, models: tuple[str, ...]) -> Iterator[TestClient]:
    folder = plant(tmp_path / "grid", seeds=1)
    app = create_app(Settings(tmp_path / "home", (folder,), models=models, seed=3))
    with TestClient(app, base_url="http://localhost") as made:
        made.headers["X-CSRF-Token"] = made.get("/session", headers=JSON).json()["token"]
        yield made


def site(client: TestClient) -> Site:
    found: Site = client.app.state.site  # type: ignore[attr-defined]
    return found


def order(client: TestClient, page: str, **form: Any) -> int:
    answer = client.post(page, data=form, headers=JSON)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["job"])


def work(client: TestClient) -> None:
    here = site(client)
    draws = Draftsman(here.store, here.settings.pictures)
    work_on(here.jobs, draws, worker="test", device="cpu", once=True)


def told(client: TestClient, job: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/job/{job}", headers=JSON).json()
    return found


def test_from_prompt_to_cocktail_to_grid(client: TestClient, models: tuple[str, ...], tmp_path: Path) -> None:
    job = order(client, "/generate", prompt="a red apple", each=2, steps=2, count=1)
    assert told(client, job)["job"]["state"] == "waiting"
    assert client.get(f"/job/{job}").text.count("coming") == 2
    work(client)
    done = told(client, job)
    assert (done["job"]["state"], len(done["cards"]), done["ended"]) == ("done", 2, True)
    assert {card["policy"] for card in done["cards"]} == {"generate uniform"}
    assert {card["probability"] for card in done["cards"]} == {0.5}  # one of two models
    assert str(tmp_path) not in client.get(f"/job/{job}").text.replace(models[0], "").replace(models[1], "")
    drawn = done["cards"][0]
    log = site(client).store.log().impressions
    assert log is not None
    told(client, job)
    assert site(client).store.log().impressions.height == log.height  # type: ignore[union-attr]  # shown once

    mixed = order(client, "/mix", picture=drawn["id"], styles=list(models), steps=2, mask="left")
    grid = order(client, "/matrix", prompt="a cat", models=list(models), steps=2)
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(content, "JPEG")
    upload = client.post(
        "/mix", data={"prompt": "a dog", "styles": list(models), "share": "0.5", "steps": "2"},
        files={"upload": ("holiday.jpg", content.getvalue())}, headers=JSON,
    ).json()["job"]  # fmt: skip
    work(client)
    cocktail = told(client, mixed)
    assert cocktail["job"]["state"] == "done", cocktail
    assert len(cocktail["cards"]) == 2
    assert all("structure kept" in numbers for numbers in cocktail["numbers"].values())
    recipe = read_recipe(site(client).settings.pictures / f"{cocktail['cards'][0]['id']}.png")
    assert (recipe.kind, recipe.cocktail["mask"]) == ("cocktail", "left")
    assert recipe.picture is not None
    assert recipe.picture.name == f"{drawn['id']}.png"
    page = client.get(f"/job/{mixed}").text
    assert "data-slider" in page
    assert f'src="{drawn["image"]}"' in page
    matrix = told(client, grid)
    assert [len(row) for row in matrix["rows"]] == [2, 2]
    assert len({id for row in matrix["rows"] for id in row}) == 4
    assert told(client, upload)["job"]["state"] == "done"
    before = client.get(told(client, upload)["job"]["work"]["source"])
    assert Image.open(io.BytesIO(before.content)).size == (40, 30)
    assert "in the style of" in client.get(f"/job/{grid}").text
    again = order(client, "/generate", prompt="a red apple", models=drawn["model"], seed=drawn["seed"], steps=2)
    work(client)
    assert told(client, again)["cards"][0]["id"] == drawn["id"]  # the same recipe is the same picture


def test_a_mix_tells_nobody_where_an_upload_lies(client: TestClient, models: tuple[str, ...]) -> None:
    picture, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(picture, "PNG")
    Image.new("RGB", (32, 32), "white").save(mask, "PNG")
    job = client.post(
        "/mix", data={"prompt": "a dog", "styles": models[0], "steps": "2"}, headers=JSON,
        files={"upload": ("a.png", picture.getvalue()), "mask_upload": ("m.png", mask.getvalue())},
    ).json()["job"]  # fmt: skip
    work(client)
    (made,) = told(client, job)["cards"]
    uploads = [file.stem for file in site(client).settings.uploads.iterdir()]
    assert len(uploads) == 2
    shown = client.get(f"/picture/{made['id']}", headers=JSON).text + client.get(f"/picture/{made['id']}").text
    assert not any(id in shown or id.encode() in client.get(made["image"]).content for id in uploads)
    assert '"name": "upload"' in shown
    lacking = " ".join(client.get(made["again"], headers=JSON).json()["lacking"])
    assert "(upload) is not here" in lacking
    assert "Its mask was a picture" in lacking


def test_cancelling_ends_a_job_and_keeps_what_is_finished(client: TestClient) -> None:
    job = order(client, "/generate", prompt="a dog", steps=2)
    assert client.post(f"/job/{job}/cancel", headers=JSON).json()["job"]["state"] == "cancelled"
    here = site(client)
    running = here.jobs.enqueue({**here.jobs.job(job).work, "seeds": [1, 2, 3]})
    claimed = Jobs(here.store).claim("test", "cpu")
    assert claimed is not None
    assert claimed.job == running

    def tell(progress: float, message: str) -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        Draftsman(here.store, here.settings.pictures)(claimed, tell)


def test_a_model_folder_that_vanishes_fails_the_job_with_words(tmp_path: Path, models: tuple[str, ...]) -> None:
    import shutil

    copy = shutil.copytree(models[0], tmp_path / "copy")
    with TestClient(
        create_app(Settings(tmp_path / "home", models=(str(copy),))), base_url="http://localhost"
    ) as client:
        client.headers["X-CSRF-Token"] = client.get("/session", headers=JSON).json()["token"]
        job = order(client, "/generate", prompt="a dog")
        shutil.rmtree(copy)
        work(client)
        found = told(client, job)["job"]
        assert (found["state"], "copy" in found["message"]) == ("failed", True)


def test_a_model_folder_that_vanishes_in_the_middle_leaves_what_was_drawn(
    tmp_path: Path, models: tuple[str, ...]
) -> None:
    import shutil

    first, second = (str(shutil.copytree(name, tmp_path / Path(name).name)) for name in models)

    class Vanishing(Kept):
        def load(self, path: Path, loras: Any) -> Any:
            found = super().load(path, loras)
            shutil.rmtree(second, ignore_errors=True)
            return found

    with TestClient(
        create_app(Settings(tmp_path / "home", models=(first, second))), base_url="http://localhost"
    ) as client:
        client.headers["X-CSRF-Token"] = client.get("/session", headers=JSON).json()["token"]
        job = order(client, "/generate", prompt="a dog", models=[first, second], steps=1)
        here = site(client)
        draws = Draftsman(here.store, here.settings.pictures, Vanishing())
        work_on(here.jobs, draws, worker="test", device="cpu", once=True)
        found = told(client, job)
        assert (found["job"]["state"], Path(second).name in found["job"]["message"]) == ("failed", True)
        assert [card["model"] for card in found["cards"]] == [first]
        assert client.get(found["cards"][0]["image"]).status_code == 200
        assert client.get(f"/job/{job}").status_code == 200


def test_work_nobody_knows_is_refused(client: TestClient) -> None:
    here = site(client)
    here.jobs.enqueue({"kind": "dance"})
    job = here.jobs.claim("test", "cpu")
    assert job is not None
    with pytest.raises(InvalidArgument, match="dance"):
        Draftsman(here.store, here.settings.pictures)(job, lambda *_: None)


@pytest.mark.parametrize(
    ("page", "form", "status"),
    [
        ("/generate", {"prompt": ""}, 422), ("/generate", {"prompt": "   "}, 422),
        ("/generate", {"prompt": "x" * 3000}, 422), ("/generate", {"prompt": "a\0b"}, 422),
        ("/generate", {"prompt": "a", "models": "/etc"}, 404), ("/generate", {"prompt": "a", "steps": 1000}, 422),
        ("/generate", {"prompt": "a", "models": "../../models"}, 404),
        ("/generate", {"prompt": "a", "guidance": "nan"}, 422), ("/generate", {"prompt": "a", "seed": -1}, 422),
        ("/mix", {"prompt": "a", "styles": "x"}, 422), ("/mix", {"picture": "no", "styles": "x"}, 404),
        ("/mix", {"picture": "no", "alpha": "inf"}, 422), ("/matrix", {"prompt": "a", "models": "x"}, 422),
        ("/job/99/cancel", {}, 404),
    ],
)  # fmt: skip
def test_orders_that_make_no_sense(client: TestClient, page: str, form: dict[str, Any], status: int) -> None:
    answer = client.post(page, data=form, headers=JSON)
    assert (answer.status_code, bool(answer.json()["message"])) == (status, True), answer.text


def test_a_public_gallery_keeps_orders_apart(tmp_path: Path, models: tuple[str, ...]) -> None:
    app = create_app(Settings(tmp_path, models=models, public=True, names=("gallery.example",), orders=2))
    with TestClient(app, base_url="https://gallery.example") as client:
        client.headers["X-CSRF-Token"] = client.get("/session", headers=JSON).json()["token"]
        job = order(client, "/generate", prompt="a dog")
        order(client, "/generate", prompt="a dog")
        assert client.post("/generate", data={"prompt": "a dog"}, headers=JSON).status_code == 429
        client.cookies.clear()
        assert client.get(f"/job/{job}", headers=JSON).status_code == 404
