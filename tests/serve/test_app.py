"""The gallery through its addresses: pages, their JSON twins, what they log, and what they refuse."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")

from fastapi.testclient import TestClient
from PIL import Image

from tastemaker.choose.votes import pair
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.serve.app import create_app
from tastemaker.serve.events import Joined, Voted
from tastemaker.serve.gallery import Gallery, Wish, import_folder
from tastemaker.serve.pages import vote as vote_page
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store
from tastemaker.serve.visit import Site
from tests.serve.planted import MODELS, SUBJECTS, plant

JSON = {"Accept": "application/json"}
PAGES = ("/explore", "/for-you", "/compare", "/leaderboard", "/generate", "/mix", "/audit", "/history", "/session")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "grid")


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(tmp_path / "home", (folder,), models=(), seed=7, refit_after=0)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), base_url="http://localhost:8765") as made:
        made.headers["X-CSRF-Token"] = made.get("/session", headers=JSON).json()["token"]
        yield made


def site(client: TestClient) -> Site:
    found: Site = client.app.state.site  # type: ignore[attr-defined]
    return found


def person(client: TestClient) -> str:
    return str(client.get("/session", headers=JSON).json()["person"])


def first_card(client: TestClient) -> dict[str, object]:
    card: dict[str, object] = client.get("/explore?k=1", headers=JSON).json()["cards"][0]
    return card


class TestEveryPage:
    @pytest.mark.parametrize("page", PAGES)
    def test_is_html_for_people_and_json_for_programs(self, client: TestClient, page: str) -> None:
        html, twin, asked = client.get(page), client.get(page, headers=JSON), client.get(f"{page}?format=json")
        assert (html.status_code, twin.status_code, asked.status_code) == (200, 200, 200)
        assert html.text.startswith("<!doctype html>")
        assert isinstance(twin.json(), dict)
        assert twin.json().keys() == asked.json().keys()

    @pytest.mark.parametrize("page", PAGES)
    def test_of_an_empty_gallery_stands_too(self, tmp_path: Path, page: str) -> None:
        with TestClient(create_app(Settings(tmp_path, models=())), base_url="http://localhost") as empty:
            assert empty.get(page).status_code == 200
            assert empty.get(page, headers=JSON).status_code == 200

    def test_is_named_in_the_schema_with_its_errors(self, client: TestClient) -> None:
        schema = client.get("/openapi.json").json()
        assert set(PAGES) <= schema["paths"].keys()
        assert all(
            one["summary"] and "422" in one["responses"] for path in schema["paths"].values() for one in path.values()
        )

    def test_loads_nothing_from_elsewhere(self, client: TestClient) -> None:
        for page in (*PAGES, first_card(client)["page"]):
            answer = client.get(str(page))
            assert "://" not in answer.text.replace("http://www.w3.org", "")
            assert "default-src 'none'" in answer.headers["content-security-policy"]


class TestExplore:
    def test_pages_show_each_picture_once(self, client: TestClient) -> None:
        found, after = [], ""
        while True:
            page = client.get("/explore", params={"k": 7, "after": after}, headers=JSON).json()
            found += [card["id"] for card in page["cards"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert len(found) == len(set(found)) == 2 * len(SUBJECTS) * len(MODELS)

    def test_chance_of_a_place_is_one_of_those_left(self, client: TestClient) -> None:
        page = client.get("/explore?k=3", headers=JSON).json()
        n = page["left"]
        assert [card["probability"] for card in page["cards"]] == [1 / n, 1 / (n - 1), 1 / (n - 2)]
        log = site(client).store.log()
        assert log.impressions is not None
        assert log.impressions["policy"].to_list() == ["uniform"] * 3
        assert log.impressions["position"].to_list() == [0, 1, 2]

    def test_order_differs_between_sessions_and_not_within_one(self, client: TestClient) -> None:
        one = [card["id"] for card in client.get("/explore", headers=JSON).json()["cards"]]
        assert [card["id"] for card in client.get("/explore", headers=JSON).json()["cards"]] == one
        client.cookies.clear()
        assert [card["id"] for card in client.get("/explore", headers=JSON).json()["cards"]] != one

    @pytest.mark.parametrize(
        ("wish", "n"),
        [
            ("tag=sky", 16),
            ("maker=Bela", 24),
            ("base=dark", 12),
            ("q=red+neon", 2),
            ("model=ink&tag=food", 4),
            ("tag=no", 0),
        ],
    )
    def test_facets_and_words_leave_what_fits(self, client: TestClient, wish: str, n: int) -> None:
        page = client.get(f"/explore?k=100&{wish}", headers=JSON).json()
        assert page["left"] == len(page["cards"]) == n

    def test_counts_of_a_facet_say_what_choosing_it_leaves(self, client: TestClient) -> None:
        facets = client.get("/explore?tag=sky", headers=JSON).json()["facets"]
        for maker, n in facets["maker"]:
            assert client.get(f"/explore?tag=sky&maker={maker}", headers=JSON).json()["left"] == n
        assert dict(facets["tag"]) == {"food": 16, "sky": 16, "town": 16}

    def test_unseen_leaves_out_what_was_shown(self, client: TestClient) -> None:
        shown = {card["id"] for card in client.get("/explore?k=20", headers=JSON).json()["cards"]}
        rest = client.get("/explore?k=100&unseen=true", headers=JSON).json()["cards"]
        assert len(rest) == 48 - 20
        assert not shown & {card["id"] for card in rest}

    @pytest.mark.parametrize(
        "query", ["after=x", "after=1.99999999999999999999", "k=0", "k=101", "sort=best", "q=" + "x" * 300]
    )
    def test_refuses_what_makes_no_sense(self, client: TestClient, query: str) -> None:
        answer = client.get(f"/explore?{query}", headers=JSON)
        assert answer.status_code == 422
        assert answer.json()["message"]


class TestTaste:
    def test_like_answers_its_impression_and_undo_takes_it_back(self, client: TestClient) -> None:
        card = client.get("/for-you", headers=JSON).json()["cards"][0]
        assert card["policy"] == "random"
        assert 0 < card["probability"] <= 1
        assert card["why"]
        said = client.post(
            "/say", data={"item": card["id"], "value": "like", "impression": card["impression"]}, headers=JSON
        )
        assert said.status_code == 200, said.text
        me = person(client)
        assert site(client).store.words(me)[card["id"]].value == 1
        assert client.get("/history", headers=JSON).json()["entries"][0]["what"] == "liked"
        assert client.post("/undo", headers=JSON).status_code == 200
        assert site(client).store.words(me) == {}
        assert client.post("/undo", headers=JSON).status_code == 404

    @pytest.mark.parametrize(
        ("value", "number", "superlike"), [("like", 1, False), ("superlike", 1, True), ("dislike", -1, False)]
    )
    def test_values(self, client: TestClient, value: str, number: int, superlike: bool) -> None:
        card = first_card(client)
        client.post("/say", data={"item": card["id"], "value": value})
        word = site(client).store.words(person(client))[str(card["id"])]
        assert (word.value, word.superlike) == (number, superlike)

    def test_same_key_counts_once(self, client: TestClient) -> None:
        card = first_card(client)
        sent = [
            client.post("/say", data={"item": card["id"], "value": "like"}, headers={**JSON, "Idempotency-Key": "k1"})
            for _ in range(3)
        ]
        assert {one.json()["seq"] for one in sent} == {sent[0].json()["seq"]}
        other = client.post(
            "/say", data={"item": card["id"], "value": "dislike"}, headers={**JSON, "Idempotency-Key": "k1"}
        )
        assert other.status_code == 409

    def test_a_fit_is_due_by_how_much_is_new(self, client: TestClient) -> None:
        here = site(client)
        assert not here.due(10**6)  # never, by the settings
        often = replace(here, settings=replace(here.settings, refit_after=20))
        assert not often.due(19)
        assert often.due(20)
        for card in client.get("/for-you?k=30", headers=JSON).json()["cards"]:
            client.post("/say", data={"item": card["id"], "value": "like"}, headers=JSON)
        fitted = here.learner.refit()
        assert fitted.words == 30
        assert [often.due(fitted.seq + n) for n in (19, 20)] == [False, True]
        client.get("/for-you?k=10")
        again = here.learner.refit()
        assert here.learner.roll_back() == fitted
        assert [often.due(again.seq + n) for n in (19, 20)] == [False, True]  # not at once, and again and again

    def test_what_is_no_json_is_told_where(self, client: TestClient) -> None:
        sent = {**JSON, "Content-Type": "application/json"}
        answer = client.post("/say/many", content='[{"item": }]', headers=sent)
        assert answer.status_code == 422
        assert answer.json()["message"].startswith("the body is not JSON: ")
        assert "at character 10" in answer.json()["message"]

    def test_many_words_at_once_each_have_their_own_end(self, client: TestClient) -> None:
        cards = client.get("/for-you?k=3", headers=JSON).json()["cards"]
        words: list[dict[str, object]] = [
            {"item": card["id"], "value": "like", "impression": card["impression"], "key": str(at)}
            for at, card in enumerate(cards)
        ]
        words[1]["impression"] = cards[0]["impression"]  # of another picture
        words.append({"item": "nothing", "value": "like"})
        first = client.post("/say/many", json=words, headers=JSON).json()["words"]
        assert [one.get("status") for one in first] == [None, 422, None, 404]
        assert first[3]["message"]
        again = client.post("/say/many", json=words, headers=JSON).json()["words"]
        assert again == first  # the same keys: the same numbers
        me = person(client)
        assert {id: word.seq for id, word in site(client).store.words(me).items()} == {
            one["item"]: one["seq"] for one in first if "seq" in one
        }

    @pytest.mark.parametrize("words", [[], [{"item": "a"}], [{"item": "a", "value": "best"}], "like", [{}] * 101])
    def test_many_words_refuses(self, client: TestClient, words: object) -> None:
        client.get("/for-you", headers=JSON)
        answer = client.post("/say/many", json=words, headers=JSON)
        assert answer.status_code == 422, answer.text

    def test_what_was_judged_is_not_recommended_again(self, client: TestClient) -> None:
        for _ in range(48):
            card = client.get("/for-you", headers=JSON).json()["cards"][0]
            client.post("/say", data={"item": card["id"], "value": "like", "impression": card["impression"]})
        assert len(site(client).store.words(person(client))) == 48
        assert client.get("/for-you", headers=JSON).json()["cards"] == []
        assert "You have been shown them all" in client.get("/for-you").text

    def test_after_a_fit_the_reason_names_what_was_liked(self, client: TestClient) -> None:
        cards = client.get("/explore?k=100&model=neon", headers=JSON).json()["cards"]
        for card in cards[:6]:
            client.post("/say", data={"item": card["id"], "value": "like"})
        site(client).learner.refit(rng=0)
        why = [card["why"] for card in client.get("/for-you?k=20&again=true", headers=JSON).json()["cards"]]
        assert any("you liked" in one or "Liked by others" in one for one in why)

    @pytest.mark.parametrize(
        ("form", "status"),
        [
            ({"item": "nothing", "value": "like"}, 404), ({"value": "like"}, 422),
            ({"item": "x", "value": "love"}, 422), ({"item": "x" * 300, "value": "like"}, 422),
            ({"item": "\0", "value": "like"}, 404), ({"item": "../../etc/passwd", "value": "like"}, 404),
        ],
    )  # fmt: skip
    def test_refuses(self, client: TestClient, form: dict[str, str], status: int) -> None:
        answer = client.post("/say", data=form, headers=JSON)
        assert (answer.status_code, answer.json()["status"]) == (status, status)

    def test_nobody_undoes_what_another_said(self, client: TestClient) -> None:
        card = first_card(client)
        seq = client.post("/say", data={"item": card["id"], "value": "like"}, headers=JSON).json()["seq"]
        other = client.post("/session", data={"name": "Zoe"}, headers=JSON).json()
        answer = client.post("/undo", data={"seq": seq}, headers={**JSON, "X-CSRF-Token": other["token"]})
        assert answer.status_code == 404


class TestVotes:
    def test_a_battle_is_blind_logged_and_counted(self, client: TestClient) -> None:
        asked = client.get("/compare", headers=JSON).json()
        assert len(asked["cards"]) == 2
        assert not any(model in json.dumps(asked["cards"]) for model in MODELS)
        n_prompts, pairs, pictures = len(SUBJECTS), 4 * 3, 2 * 2
        assert asked["probability"] == pytest.approx(1 / (n_prompts * pairs * pictures))
        after = client.post("/compare", data={"question": asked["question"], "answer": "1"}, headers=JSON).json()
        assert after["last"]["best"] == after["last"]["models"][:1]
        board = client.get("/leaderboard", headers=JSON).json()["rows"]
        assert board[0]["title"] == after["last"]["best"][0]
        assert board[0]["low"] < board[0]["rating"] < board[0]["high"]

    @pytest.mark.parametrize(("k", "answer"), [(2, "tie"), (2, "none"), (2, "2"), (4, "4"), (4, "none")])
    def test_answers(self, client: TestClient, k: int, answer: str) -> None:
        asked = client.get(f"/compare?k={k}", headers=JSON).json()
        assert (
            client.post("/compare", data={"question": asked["question"], "answer": answer}, headers=JSON).status_code
            == 200
        )
        ((_, vote),) = site(client).store.votes()
        assert vote.choices[0].among[-1] is None
        assert vote.tag in SUBJECTS.values()

    @pytest.mark.parametrize(("answer", "chosen"), [("3,1,4", [2, 0, 3]), ("3,1,4,2", [2, 0, 3]), ("2,4", [1, 3])])
    def test_an_order_is_a_choice_after_the_other(self, client: TestClient, answer: str, chosen: list[int]) -> None:
        asked = client.get("/compare?k=4", headers=JSON).json()
        items = [card["id"] for card in asked["cards"]]
        after = client.post("/compare", data={"question": asked["question"], "answer": answer}, headers=JSON).json()
        assert len(after["last"]["order"]) == len(chosen) - 1
        ((_, vote),) = site(client).store.votes()
        assert [one.chosen[0] for one in vote.choices] == [items[at] for at in chosen]
        assert vote.choices[0].among == (*items, None)  # "none is good" was on offer
        assert [len(one.among) for one in vote.choices[1:]] == list(range(3, 4 - len(chosen), -1))

    def test_an_order_click_by_click_is_stored_when_it_is_whole(self, client: TestClient) -> None:
        asked = client.get("/compare?k=4&order=true", headers=JSON).json()
        form = {"question": asked["question"], "order": "true"}
        for answer, placed in (("3", [3]), ("3,1", [3, 1])):
            told = client.post("/compare", data={**form, "answer": answer}, headers=JSON).json()
            assert (told["placed"], told["question"], told["cards"]) == (placed, asked["question"], asked["cards"])
            assert site(client).store.votes() == []
        told = client.post("/compare", data={**form, "answer": "3,1,2"}, headers=JSON).json()
        assert (told["placed"], len(told["last"]["order"]), told["question"] != asked["question"]) == ([], 2, True)
        assert len(site(client).store.votes()) == 1

    @pytest.mark.parametrize("answer", ["1,1", "1,", "5", "0", "1,2,3,4,1", "tie", "²", "1,none", ",", "-1"])
    def test_orders_that_make_no_sense(self, client: TestClient, answer: str) -> None:
        asked = client.get("/compare?k=4", headers=JSON).json()
        sent = client.post("/compare", data={"question": asked["question"], "answer": answer}, headers=JSON)
        assert (sent.status_code, bool(sent.json()["message"])) == (422, True)

    @pytest.mark.parametrize("ask", ["information", "thompson", "random"])
    def test_pairs_are_asked_as_often_as_is_logged(self, tmp_path: Path, folder: Path, ask: str) -> None:
        made = create_app(Settings(tmp_path, (folder,), models=(), seed=1, refit_after=0, ask=ask))  # type: ignore[arg-type]
        with TestClient(made, base_url="http://localhost") as client:
            here, prompts = made.state.site, len(SUBJECTS)
            here.store.add(Joined("Eva"))
            drawn = {one.model: one.id for one in here.gallery.by_prompt()["a red apple"]}
            for _ in range(8):
                here.store.add(Voted("Eva", pair(drawn["flat"], drawn["ink"])))
            pairs: Counter[tuple[str, ...]] = Counter()
            told: dict[tuple[str, ...], float] = {}
            n = 600
            for _ in range(n):
                found = vote_page._question(here, 2, "")
                assert found is not None
                pictures, policy, probability = found
                names = tuple(one.model for one in pictures)
                pairs[names] += 1
                told[names] = probability * prompts * 4  # of the pair: two pictures of each
            assert policy == f"{ask} battle"
            assert client.get("/compare", headers=JSON).json()["policy"] == policy
            if ask == "thompson":  # its chances are estimated anew for every question
                return
            assert sum(told.values()) == pytest.approx(1)
            assert all(pairs[names] / n == pytest.approx(p, abs=0.08) for names, p in told.items())
            asked_again = told["flat", "ink"] + told["ink", "flat"]
            assert (asked_again < 0.05) == (ask == "information")  # what is known need not be asked

    def test_a_question_counts_once_and_cannot_be_changed(self, client: TestClient) -> None:
        asked = client.get("/compare", headers=JSON).json()["question"]
        body, _, tag = asked.partition(".")
        for forged in (f"{body[:-4]}AAAA.{tag}", f"{body}.{'0' * 40}", "x", "é.ü"):
            assert client.post("/compare", data={"question": forged, "answer": "1"}, headers=JSON).status_code == 422
        for answer, status in (("1", 200), ("1", 200), ("2", 409), ("tie", 409), ("9", 422), ("x", 422)):
            sent = client.post("/compare", data={"question": asked, "answer": answer}, headers=JSON)
            assert sent.status_code == status, (answer, sent.text)
        assert len(site(client).store.votes()) == 1

    def test_boards_by_tag_and_mine(self, client: TestClient) -> None:
        for _ in range(12):
            asked = client.get("/compare?tag=sky", headers=JSON).json()
            client.post("/compare", data={"question": asked["question"], "answer": "1"})
        tagged = client.get("/leaderboard?tag=sky", headers=JSON).json()
        assert sum(row["votes"] for row in tagged["rows"]) == 24
        assert client.get("/leaderboard?tag=food", headers=JSON).json()["rows"] == []
        assert client.get("/leaderboard?mine=true", headers=JSON).json()["rows"]
        assert client.get("/leaderboard?tag=no", headers=JSON).status_code == 404
        assert client.get("/model/ink", headers=JSON).json()["pictures"] == 12
        assert client.get("/model/no/such", headers=JSON).status_code == 404


class TestTwoServers:
    def test_of_one_store_agree(self, tmp_path: Path, folder: Path) -> None:
        settings = Settings(tmp_path / "home", (folder,), models=(), seed=7, refit_after=0)
        with (
            TestClient(create_app(settings), base_url="http://localhost") as one,
            TestClient(create_app(settings), base_url="http://localhost") as other,
        ):
            token = one.get("/session", headers=JSON).json()["token"]
            for client in (one, other):
                client.headers["X-CSRF-Token"] = token
            other.cookies.update(one.cookies)  # a browser that a proxy sends to either
            card = first_card(one)
            again = {**JSON, "Idempotency-Key": "k"}
            sent = [c.post("/say", data={"item": card["id"], "value": "like"}, headers=again) for c in (one, other)]
            assert sent[0].json()["seq"] == sent[1].json()["seq"]
            assert len(other.get("/history", headers=JSON).json()["entries"]) == 1
            asked = one.get("/compare", headers=JSON).json()["question"]
            answers = [c.post("/compare", data={"question": asked, "answer": "1"}, headers=JSON) for c in (other, one)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert len(site(one).store.votes()) == 1
            boards = [c.get("/leaderboard", headers=JSON).json()["rows"] for c in (one, other)]
            assert boards[0] == boards[1]
            site(one).learner.refit()
            assert other.get("/for-you", headers=JSON).json()["version"] == 1
            seq = other.post("/undo", headers=JSON).json()["undone"]
            assert one.post("/undo", data={"seq": seq}, headers=JSON).status_code == 200  # taken back is taken back
            audits = [c.get("/audit", headers=JSON).json() for c in (one, other)]
            assert audits[0]["counts"] == audits[1]["counts"]


class TestPictures:
    def test_page_carries_the_recipe_and_its_reuse(self, client: TestClient) -> None:
        card = first_card(client)
        page = client.get(str(card["page"]))
        assert f'alt="{card["prompt"]}, drawn by {card["title"]}"' in page.text
        assert "/generate?prompt=" in page.text
        twin = client.get(str(card["page"]), headers=JSON).json()
        assert twin["recipe"]["seed"] == card["seed"]
        assert twin["others"]

    def test_files_may_be_kept_for_ever(self, client: TestClient) -> None:
        card = first_card(client)
        for address in ("image", "thumbnail"):
            answer = client.get(str(card[address]))
            assert "immutable" in answer.headers["cache-control"]
            assert Image.open(io.BytesIO(answer.content)).size == (64, 64)

    def test_large_pictures_get_thumbnails(self, tmp_path: Path) -> None:
        large = plant(tmp_path / "large", seeds=1, side=512)
        app = create_app(Settings(tmp_path / "home", (large,), models=()))
        with TestClient(app, base_url="http://localhost") as client:
            answer = client.get(str(first_card(client)["thumbnail"]))
            image = Image.open(io.BytesIO(answer.content))
            assert (image.format, image.size) == ("WEBP", (320, 320))

    @pytest.mark.parametrize(
        "address",
        [
            "/images/no.png",
            "/images/..%2f..%2fsecret.png",
            "/picture/%2e%2e",
            "/uploads/..%2f..%2fstore.db.png",
            "/uploads/00.png",
            "/static/../app.py",
            "/static/..%2fapp.py",
        ],
    )
    def test_nothing_leads_out_of_the_folders(self, client: TestClient, address: str) -> None:
        assert client.get(address, headers=JSON).status_code == 404

    def test_a_vanished_file_is_not_found(self, tmp_path: Path) -> None:
        folder = plant(tmp_path / "grid", seeds=1)
        app = create_app(Settings(tmp_path / "home", (folder,), models=()))
        with TestClient(app, base_url="http://localhost") as client:
            card = first_card(client)
            (folder / str(card["model"]) / f"{card['id']}.png").unlink()
            assert client.get(str(card["image"]), headers=JSON).status_code == 404
            assert client.get("/explore").status_code == 200


class TestGallery:
    def test_importing_twice_stores_once(self, tmp_path: Path, folder: Path) -> None:
        with Store(tmp_path / "store.db") as store:
            assert import_folder(store, folder) == 48
            assert import_folder(store, folder) == 0

    @pytest.mark.parametrize("row", ["../secret.png", "/etc/passwd", "flat/x.txt"])
    def test_a_catalogue_cannot_name_files_outside(self, tmp_path: Path, row: str) -> None:
        folder = plant(tmp_path / "grid", seeds=1)
        with (folder / "catalogue.csv").open("a") as file:
            file.write(f"{row},a,,m,h,,1,20,4,64,64,DDIM,,\n")
        with Store(tmp_path / "store.db") as store, pytest.raises(DataError, match="inside the folder"):
            import_folder(store, folder)

    def test_explicit_prompts_are_hidden(self, tmp_path: Path, folder: Path) -> None:
        settings = Settings(tmp_path, (folder,), models=(), refuse=lambda prompt: "moon" in prompt)
        with Store(tmp_path / "store.db") as store:
            import_folder(store, folder)
            gallery = Gallery(store, settings)
            assert len(gallery) == 40
            assert not len(gallery.find(Wish(words="moon"))[1])

    def test_settings_are_checked(self, tmp_path: Path) -> None:
        for wrong in ({"explore": 0.0}, {"public": True}, {"reads": 0}):
            with pytest.raises(InvalidArgument):
                Settings(tmp_path, **wrong)  # type: ignore[arg-type]
