"""Bought votes and likes: found, weighed down, told; and the board they were meant to move."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")

from fastapi.testclient import TestClient

from tastemaker.attack import heuristic
from tastemaker.attack.profiles import Budget, poisoned
from tastemaker.choose.votes import Vote, pair
from tastemaker.data.feedback import FeedbackLog
from tastemaker.serve.app import create_app
from tastemaker.serve.events import Joined, Made, Said, Undone, Voted
from tastemaker.serve.kept import Kept
from tastemaker.serve.learn import Learner, Plan
from tastemaker.serve.pages import audit
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store
from tastemaker.serve.trust import Doubt, Watch, weighed, weights
from tests.serve.planted import plant

JSON = {"Accept": "application/json"}
N = 8  # models
NOBODY = FeedbackLog.of(["nobody"], ["nothing"], [1])


def honest(rng: np.random.Generator, people: int = 30, each: int = 25) -> list[Vote]:
    """m0 is best, m7 worst; tastes differ."""
    votes, utility = [], np.linspace(1.2, -1.2, N)
    for person in range(people):
        own = utility + rng.normal(0, 0.6, N)
        for _ in range(rng.poisson(each) + 3):
            a, b = rng.choice(N, 2, replace=False)
            first = rng.random() < 1 / (1 + np.exp(own[b] - own[a]))
            votes.append(Vote(pair(f"m{a if first else b}", f"m{b if first else a}"), f"honest{person}"))
    return votes


def bought(rng: np.random.Generator, people: int, each: int) -> list[Vote]:
    """m7 whenever it is asked about, else anything."""
    votes = []
    for person in range(people):
        for _ in range(each):
            a, b = sorted(rng.choice(N, 2, replace=False))
            votes.append(Vote(pair(f"m{b}", f"m{a}") if b == N - 1 else pair(f"m{a}", f"m{b}"), f"bought{person}"))
    return votes


def told(store: Store, votes: list[Vote]) -> None:
    waiting = [store.submit(Made(f"m{n}", model=f"m{n}")) for n in range(N)]
    waiting += [store.submit(Joined(str(person))) for person in dict.fromkeys(vote.person for vote in votes)]
    waiting += [store.submit(Voted(str(vote.person), vote.choices)) for vote in votes]
    [one.result() for one in waiting]


@pytest.mark.parametrize(("people", "each"), [(3, 150), (1, 600)])
def test_a_loud_few_move_the_board_less(tmp_path: Path, people: int, each: int) -> None:
    rng = np.random.default_rng(1)
    real = honest(rng)
    rigged = [*real, *bought(rng, people, each)]
    found: dict[str, float] = {}
    for name, votes, trust in (("real", real, None), ("none", rigged, None), ("watched", rigged, Watch())):
        with Store(tmp_path / f"{name}.db") as store:
            told(store, votes)
            learner = Learner(store, tmp_path / name, Plan(trust=trust))
            version = learner.refit()
            table = learner.leaderboard().table
            found[name] = dict(zip(table["id"], table["rating"], strict=True))["m7"]
            assert {doubt.person[:6] for doubt in version.doubts} == ({"bought"} if trust else set())
            assert len(version.doubts) == (people if trust else 0)
            again = Learner(store, tmp_path / name, Plan(trust=trust))
            assert again.version.doubts == version.doubts
            if trust:  # later votes of theirs count less too, at once
                before = found[name]
                for _ in range(20):
                    store.add(Voted("bought0", pair("m7", "m0")))
                with_doubt = learner.belief().mean[learner.belief().ids.rows(["m7"])[0]]
                plain = Learner(store, tmp_path / "plain", Plan())
                plain.refit()
                assert with_doubt < plain.belief().mean[plain.belief().ids.rows(["m7"])[0]]
                assert before == found[name]
    assert found["watched"] - found["real"] < 0.5 * (found["none"] - found["real"])


@pytest.mark.parametrize(("people", "each"), [(60, 20), (1, 600)])
def test_a_flood_between_two_fits_moves_the_board_little(tmp_path: Path, people: int, each: int) -> None:
    rng, moved = np.random.default_rng(1), {}
    real, flood = honest(rng), bought(rng, people, each)
    for trust in (None, Watch()):
        with Store(tmp_path / f"{trust is None}.db") as store:
            told(store, real)
            learner = Learner(store, tmp_path / f"{trust is None}", Plan(trust=trust))
            learner.refit()

            def rating(learner: Learner = learner) -> float:
                table = learner.leaderboard().table
                return dict(zip(table["id"], table["rating"], strict=True))["m7"]

            before = rating()
            told(store, flood)
            moved[trust is None] = rating() - before
            assert learner.crowded() == (trust is not None and people > 1)
            if trust is None:
                assert learner.waiting() == 0
                continue
            assert learner.waiting() == len(flood) - (100 if people > 1 else 20)
            assert len(learner.trusted(store.votes())) == len(real) + len(flood) - learner.waiting()
            own = learner.belief(person="bought0").votes.sum()
            assert own == 2 * each  # one's own board holds every vote of one's own
            learner.refit()
            rating()
            assert learner.waiting() == 0
            assert not learner.crowded()
    assert 0 < moved[False] < 0.35 * moved[True]


def test_votes_taken_back_make_room_and_a_version_rolled_back_to_forgets_no_doubt(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    with Store(tmp_path / "store.db") as store:
        told(store, honest(rng))
        learner = Learner(store, tmp_path / "versions", Plan(trust=Watch()))
        learner.refit()
        told(store, bought(rng, 1, 300))
        learner.belief()
        assert learner.waiting() == 280
        for seq, _ in store.votes(user="bought0")[:290]:
            store.add(Undone("bought0", seq))
        learner.belief()
        assert learner.waiting() == 0
        told(store, bought(rng, 1, 300))
        learner.refit()
        assert [doubt.person for doubt in learner.vetted.doubts] == ["bought0"]
        learner.roll_back()
        assert learner.version.version == 1
        assert learner.version.doubts == ()
        assert [doubt.person for doubt in learner.vetted.doubts] == ["bought0"]
        told(store, bought(rng, 1, 300))
        learner.belief()
        assert learner.waiting() == 280
        assert learner.refit().version == 3
        assert learner.version.version == 1  # pinned, but what was found counts
        learner.belief()
        assert learner.waiting() == 0


@pytest.mark.parametrize("seed", range(4))
def test_honest_people_are_left_alone_but_for_a_few_who_lose_little(seed: int) -> None:
    votes = honest(np.random.default_rng(seed))
    doubts = Watch().doubts(votes, NOBODY)
    assert len(doubts) <= 1
    assert all(doubt.weight > 0.7 for doubt in doubts)
    assert weighed(votes, ()) == votes


def likers(rng: np.random.Generator, people: int = 300, items: int = 300) -> FeedbackLog:
    """Popular items are liked more, and some people like ten times as much as others."""
    popular = np.exp(rng.normal(0, 0.8, items))
    chance, users, liked = popular / popular.sum(), [], []
    for person in range(people):
        n = min(items, max(1, int(rng.lognormal(np.log(15), 0.8))))
        users += [f"u{person}"] * n
        liked += [f"i{item}" for item in rng.choice(items, n, replace=False, p=chance)]
    return FeedbackLog.of(users, liked, [1] * len(users))


def test_likes_that_look_like_nobodys() -> None:
    log = likers(np.random.default_rng(1))
    assert len(Watch(likes=1000).doubts([], log)) < 0.08 * log.n_users
    attacked = poisoned(log, heuristic.random(log, np.array([5]), Budget(12, 70), rng=np.random.default_rng(0)))
    fakes = set(attacked.user_ids.ids(np.arange(log.n_users, attacked.n_users)).to_list())
    doubts = Watch(likes=1000).doubts([], attacked)
    assert fakes <= {doubt.person for doubt in doubts}
    weight, fake = weights(attacked, doubts), attacked.user >= log.n_users
    assert weight[fake].mean() < 0.8 < 0.95 < weight[~fake].mean()
    small = log.select(log.user < 90)
    assert Watch(likes=1000).doubts([], small) == ()  # too few to say what is ordinary


def test_many_likes_of_one_person_are_capped() -> None:
    users = np.repeat([f"u{n}" for n in range(10)], 10).tolist() + ["loud"] * 400
    log = FeedbackLog.of(users, [f"i{n % 400}" for n in range(len(users))], [1] * len(users))
    (doubt,) = Watch().doubts([], log)
    assert (doubt.person, doubt.kind, doubt.count, doubt.weight) == ("loud", "likes", 400, pytest.approx(50 / 400))
    assert weights(log, [doubt]).sum() == pytest.approx(100 + 50)


def test_nothing_was_said() -> None:
    assert Watch().doubts([], FeedbackLog.of([], [], [])) == ()


# -- the page ----------------------------------------------------------------------------------------------------------

Open = Callable[..., TestClient]


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Open]:
    folder, made = plant(tmp_path / "grid", seeds=1), []

    def open_(**options: object) -> TestClient:
        app = create_app(Settings(tmp_path / "home", (folder,), models=(), refit_after=0, **options))  # type: ignore[arg-type]
        made.append(TestClient(app, base_url="https://gallery.example").__enter__())
        return made[-1]

    yield open_
    for client in made:
        client.__exit__(None, None, None)


def rig(client: TestClient) -> None:
    """Ten people vote as they please, `Bought` five hundred times for neon."""
    store, rng = client.app.state.site.store, np.random.default_rng(0)  # type: ignore[attr-defined]
    pictures = client.app.state.site.gallery.by_prompt()["a red apple"]  # type: ignore[attr-defined]
    neon, *others = sorted(pictures, key=lambda one: one.model != "neon")
    waiting = [store.submit(Joined(f"p{n}")) for n in range(10)] + [store.submit(Joined("Bought"))]
    for n in range(10):
        for _ in range(12):
            one, other = rng.choice(len(others), 2, replace=False)
            waiting.append(store.submit(Voted(f"p{n}", pair(others[one].id, others[other].id))))
    waiting += [store.submit(Voted("Bought", pair(neon.id, others[n % 3].id))) for n in range(500)]
    waiting.append(store.submit(Said("p1", neon.id, 1, unshown="test")))
    [one.result() for one in waiting]
    client.app.state.site.learner.refit()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "shown"),
    [({"names": ("gallery.example",)}, True), ({"names": ("gallery.example",), "public": True}, False)],
)
def test_the_audit_says_who_counts_less_but_names_nobody_to_strangers(
    gallery: Open, options: dict[str, object], shown: bool
) -> None:
    client = gallery(**options)
    assert "Nobody yet" in client.get("/audit").text
    rig(client)
    told = client.get("/audit", headers=JSON).json()
    assert told["doubts"]["votes"]["people"] == 1
    assert told["doubts"]["votes"]["given"] == 500
    assert told["doubts"]["votes"]["left_out"] > 450
    page = client.get("/audit").text
    assert "counted as" in page
    assert (("Bought" in page), ("Bought" in json.dumps(told))) == (shown, shown)


def test_trust_can_be_turned_off(gallery: Open) -> None:
    client = gallery(names=("gallery.example",), trust=False)
    rig(client)
    assert client.get("/audit", headers=JSON).json()["doubts"]["votes"]["people"] == 0
    assert "Nobody: suspicious votes" in client.get("/audit").text


def test_a_flood_is_told_and_brings_the_next_fit_forward(gallery: Open) -> None:
    client = gallery(names=("gallery.example",))
    here = client.app.state.site  # type: ignore[attr-defined]
    rig(client)
    one, other = here.gallery.by_prompt()["a red apple"][:2]
    sent = [here.store.submit(Joined(f"new{n}")) for n in range(40)]
    sent += [here.store.submit(Voted(f"new{n % 40}", pair(one.id, other.id))) for n in range(160)]
    [future.result() for future in sent]
    told = client.get("/leaderboard", headers=JSON).json()
    assert told["waiting"] == 160 - 100
    assert "60 of them not counted here yet" in client.get("/leaderboard").text
    assert client.get("/leaderboard?mine=true", headers=JSON).json()["waiting"] == 0
    assert client.get("/leaderboard?tag=food", headers=JSON).json()["waiting"] == 0  # none of these has a tag
    seldom = dataclasses.replace(here, settings=dataclasses.replace(here.settings, refit_after=10**6))
    assert not seldom.due(here.store.seq())
    seldom.learned()
    fit = here.learner.refit_in_background()  # the one that runs
    assert fit.result(timeout=120).seq == here.store.seq()
    assert client.get("/leaderboard", headers=JSON).json()["waiting"] == 0
    assert not here.learner.crowded()


def test_nobody_waits_for_the_first_account_of_a_long_log(gallery: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    client = gallery(names=("gallery.example",))
    here, done = client.app.state.site, threading.Event()  # type: ignore[attr-defined]
    here.accounts._make = lambda: (done.wait(60), audit.account(here.store, audit.Origins.of(here.gallery)))[1]
    monkeypatch.setattr(audit, "_LONG", 0)
    page = client.get("/audit").text  # comes while the account cannot
    assert "this page fills in by itself" in page
    assert 'hx-get="/audit" hx-trigger="load' in page
    assert client.get("/audit", headers=JSON).json()["as_of"] is None
    done.set()
    until = time.monotonic() + 60
    while client.get("/audit", headers=JSON).json()["as_of"] is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "fills in by itself" not in client.get("/audit").text


def test_an_audit_is_kept_until_something_happens_and_never_stale_in_silence(gallery: Open) -> None:
    client = gallery(names=("gallery.example",))
    here = client.app.state.site  # type: ignore[attr-defined]
    first = client.get("/audit", headers=JSON).json()
    assert client.get("/audit", headers=JSON).json()["as_of"] == {**first["as_of"], "events_since": 0}
    client.get("/explore")
    until = time.monotonic() + 20
    while (second := client.get("/audit", headers=JSON).json())["as_of"]["events_since"]:
        assert second["as_of"]["seq"] == first["as_of"]["seq"]  # the last one, and it says so
        assert time.monotonic() < until
    assert second["as_of"]["seq"] > first["as_of"]["seq"]
    assert second["counts"]["impressions"] == 24
    slow = here.accounts._make
    here.accounts._make = lambda: (time.sleep(0.6), slow())[1]
    client.get("/explore?unseen=false&k=3")
    stale = client.get("/audit", headers=JSON).json()["as_of"]
    assert (stale["seq"], stale["events_since"] > 0) == (second["as_of"]["seq"], True)
    assert "events before now" in client.get("/audit").text
    time.sleep(0.8)
    assert client.get("/audit", headers=JSON).json()["as_of"]["events_since"] == 0


class TestKept:
    def test_is_made_once_for_a_key_and_told_late_rather_than_never(self) -> None:
        made: list[int] = []
        kept = Kept(lambda: made.append(1) or len(made))  # type: ignore[func-returns-value]
        assert [kept.get(key, patience=1.0) for key in "aab"] == [1, 1, 2]
        slow = Kept(lambda: time.sleep(0.3) or 7)  # type: ignore[func-returns-value]
        assert slow.get("a", patience=0.0) is None
        time.sleep(0.5)
        assert slow.get("a", patience=0.0) == 7

    def test_a_failure_is_told_and_tried_again(self) -> None:
        answers = iter([ValueError("no"), 5])

        def make() -> int:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        kept = Kept(make)
        with pytest.raises(ValueError, match="no"):
            kept.get("a", patience=1.0)
        assert kept.get("a", patience=1.0) == 5


# -- the drill ---------------------------------------------------------------------------------------------------------

ROW = {"victim": "factors", "attack": "learned", "defence": "cap", "hit_rate_before": 0.1, "hit_rate": 0.4,
       "accuracy": 0.3, "accuracy_change": None}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"name": "injection", "command": "python -m x", "figures": {"a.b": 0.5, "c": None}}, ["python -m x", "a.b"]),
        ({"targets": ["i<1>"], "k": 10, "log": "/secret/log.csv", "outcomes": [ROW]},
         ["tastemaker attack", "log.csv", "i&lt;1&gt;", "0.400"]),
        ({"targets": [1], "k": 10, "log": "l", "outcomes": [{**ROW, "hit_rate": float("nan")}]}, ["learned", "–"]),
        *[(bad, ["None yet"]) for bad in (
            [], 3, "x", {}, {"figures": []}, {"outcomes": [{}], "targets": [], "k": 1, "log": ""}, {"outcomes": 3},
            {"figures": {"a": "x"}}, {"targets": {}, "k": 1, "log": "l", "outcomes": [ROW]},
            {"targets": [], "k": 1, "log": "l", "outcomes": [{**ROW, "accuracy": []}]},
        )],
    ],
)  # fmt: skip
def test_the_last_drill_whatever_its_file_holds(gallery: Open, tmp_path: Path, told: object, words: list[str]) -> None:
    client = gallery(names=("gallery.example",))
    (tmp_path / "home" / "drill.json").write_text(json.dumps(told))
    page = client.get("/audit")
    assert page.status_code == 200
    assert client.get("/audit", headers=JSON).status_code == 200
    assert all(word in page.text for word in words)
    assert "/secret" not in page.text


def test_doubts_are_values() -> None:
    doubt = Doubt("a", "votes", 3, 0.5, "why")
    (vote, other) = weighed([Vote(pair("x", "y"), "a"), Vote(pair("x", "y"), "b")], [doubt])
    assert (vote.weight, other.weight) == (0.5, 1.0)
