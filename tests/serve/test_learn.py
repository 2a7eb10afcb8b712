"""Learning while serving, on tiny worlds: at once, atomically, and back again."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tastemaker.choose import rating
from tastemaker.choose.belief import Prior
from tastemaker.choose.votes import both_bad, pair
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument, UnknownId, UnknownName
from tastemaker.recommend.factors import Factors
from tastemaker.serve.board import on_models
from tastemaker.serve.events import Joined, Made, Said, Undone, Voted
from tastemaker.serve.learn import Learner, Plan
from tastemaker.serve.store import Store
from tastemaker.serve.taste import Taste, draw
from tastemaker.serve.trust import Doubt, Watch

PLAN = Plan(model=Factors(rank=4, reg=1.0, epochs=8), prior=Prior(), keep=3)
BEST = {"explore": 0.0, "rng": np.random.default_rng(0)}


def world(store: Store, people: int = 30, items: int = 24, seed: int = 0) -> None:
    """Two tastes: even people like even pictures and dislike odd ones, odd people the other way round."""
    rng = np.random.default_rng(seed)
    for item in range(items):
        store.submit(Made(f"p{item}", model=f"m{item % 4}"))
    for person in range(people):
        store.submit(Joined(f"u{person}"))
    waiting = [
        store.submit(Said(f"u{person}", f"p{item}", 1 if (person + item) % 2 == 0 else -1, unshown="test"))
        for person in range(people)
        for item in rng.choice(items, 8, replace=False)
    ]
    for future in waiting:
        future.result()


@pytest.fixture
def learner(file: Store, tmp_path: Path) -> Iterator[Learner]:
    world(file)
    learner = Learner(file, tmp_path / "models", PLAN)
    yield learner
    learner.close()


def like(store: Store, user: str, *items: str) -> None:
    for item in items:
        store.add(Said(user, item, 1, unshown="test"))


# -- one person's list -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [Factors(rank=5), Factors(rank=3, dislike=0.0), Factors(rank=3, per="group", like=0.5, dislike=0.3, unseen=0.2),
     Factors(rank=4, solver="sampled", like=0.5, dislike=0.5, unseen=0.0, steps=200)],
)  # fmt: skip
def test_a_person_is_what_fold_in_makes_of_them(model: Factors) -> None:
    rng = np.random.default_rng(1)
    log = FeedbackLog.of(rng.integers(0, 40, 500), rng.integers(0, 30, 500), rng.choice([1, 1, -1], 500))
    counted = log.events.with_columns(popularity=pl.len().over("item"))  # what the sampled solver asks for
    model.fit(dataclasses.replace(log, events=counted), rng=1)
    taste = Taste.of(model.fitted)
    items, values = np.array([2, 5, 9, 11], np.int32), np.array([1, -1, 1, 1], np.int32)
    user_ids = log.user_ids.extend([999])
    news = FeedbackLog.of([999] * 4, log.item_ids.ids(items), values, user_ids=user_ids, item_ids=log.item_ids)
    folded = model.fold_in(news)
    everything = np.arange(log.n_items, dtype=np.int32)
    expected = folded.score(np.full(log.n_items, len(user_ids) - 1), everything)
    heard = taste.heard(items, values)
    x = taste.person(heard)
    assert taste.scores(x) == pytest.approx(expected, abs=2e-4)
    # Why: what the words add, and what everybody who spoke of them gets, make up the score.
    shares = taste.why(heard, np.array([7, 8], np.int32))[:, 0]
    base = taste.items[7] @ heard.inverse @ taste.pull + taste.offset[7]
    assert base + shares.sum() == pytest.approx(taste.scores(x)[7], abs=1e-5)
    nobody = taste.scores(taste.person(taste.heard(items[:0], values[:0])))
    assert np.array_equal(nobody, taste.offset)


def test_places_are_drawn_with_the_probabilities_that_are_kept() -> None:
    scores, allowed = np.array([0.3, np.nan, 0.9, 0.1, 0.5]), np.array([0, 1, 2, 4], np.int32)
    rng, n, firsts, pairs = np.random.default_rng(0), 20_000, Counter(), Counter()
    told: dict[tuple[int, ...], float] = {}
    for _ in range(n):
        rows, probabilities = draw(scores, allowed, 2, 0.4, rng)
        firsts[rows[0]] += 1
        pairs[tuple(rows)] += 1
        assert told.setdefault(tuple(rows), probabilities[0] * probabilities[1]) == pytest.approx(
            probabilities[0] * probabilities[1]
        )
    assert 3 not in firsts
    assert firsts[2] / n == pytest.approx(0.6 + 0.1, abs=0.02)
    assert len(told) == 12
    assert sum(told.values()) == pytest.approx(1)
    for rows, probability in told.items():
        assert pairs[rows] / n == pytest.approx(probability, abs=0.015)


def test_lists_of_every_length() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=50)
    everything = np.arange(50, dtype=np.int32)
    for k in (1, 7, 49, 50, 80):
        rows, probabilities = draw(scores, everything, k, 0.0, rng)
        assert rows == np.argsort(-scores)[:k].tolist()
        assert probabilities == [1.0] * len(rows)
        rows, probabilities = draw(scores, everything, k, 1.0, rng)
        assert len(set(rows)) == min(k, 50)
        assert probabilities == pytest.approx([1 / (50 - n) for n in range(len(rows))])
    assert draw(scores, everything[:0], 5, 0.1, rng) == ([], [])
    for n, k in ((64, 3), (1000, 5), (1000, 40), (5000, 12)):  # found by blocks, ties and items not known among them
        scores = rng.integers(0, 300, n).astype(np.float32)
        scores[rng.random(n) < rng.random()] = np.nan
        some = np.flatnonzero(rng.random(n) < 0.7)
        known = some[~np.isnan(scores[some])]
        rows, _ = draw(scores, some, k, 0.0, rng)
        assert rows[: len(known)] == known[np.lexsort((known, -scores[known]))][:k].tolist()
    for k, explore in ((0, 0.1), (1, -0.1), (1, 1.1)):
        with pytest.raises(InvalidArgument):
            draw(scores, everything, k, explore, rng)


# -- serving -----------------------------------------------------------------------------------------------------------


def test_before_the_first_version_lists_are_drawn(learner: Learner) -> None:
    picks = learner.recommend("u0", 5, rng=np.random.default_rng(0))
    assert (picks.policy, len(picks.items), picks.scores) == ("random", 5, (None,) * 5)
    assert picks.probabilities[:2] == pytest.approx((1 / 16, 1 / 15))  # 8 of 24 were spoken about
    learner.store.add(picks.shown("u0"))
    assert learner.store.seen("u0") == set(picks.items)


def test_a_like_counts_in_the_next_list(learner: Learner) -> None:
    learner.refit()
    learner.store.add(Joined("new"))
    before = learner.recommend("new", 12, **BEST)
    start = time.monotonic()
    like(learner.store, "new", "p0", "p2", "p4")
    after = learner.recommend("new", 10, **BEST)
    assert time.monotonic() - start < 5  # a second on an idle machine, with three commits in it
    assert before.items != after.items
    assert sum(int(item[1:]) % 2 == 0 for item in after.items[:6]) == 6
    why = learner.why("new", after.items[0])
    assert {item for item, _, _ in why} == {"p0", "p2", "p4"}
    told = learner.recommend("new", 12, reasons=2, **BEST)
    for item, reasons in zip(told.items, told.reasons, strict=True):
        assert [(one, value) for one, value, _ in reasons] == [one[:2] for one in learner.why("new", item, 2)]
    assert all(share > 0 for _, _, share in why)
    # Taken back, it is as if it had never been said.
    for past in learner.store.history("new"):
        learner.store.add(Undone("new", past.seq))
    assert learner.recommend("new", 12, **BEST) == before
    assert learner.why("new", "p1") == []


def test_lists_hold_what_they_may(learner: Learner) -> None:
    learner.refit()
    spoken = set(learner.store.words("u0"))
    assert not spoken & set(learner.recommend("u0", 24, **BEST).items)
    assert len(learner.recommend("u0", 24, **BEST).items) == 16
    free = [f"p{n}" for n in range(24) if f"p{n}" not in spoken][:4]
    assert set(learner.recommend("u0", 10, among=free, **BEST).items) == set(free)
    mask = np.zeros(20, bool)
    mask[[row for item in free if (row := learner.store.item(item).row) < 20]] = True
    few = [item for item in free if learner.store.item(item).row < 20]
    stand = learner.store.stand("u0")
    by_mask = learner.recommend("u0", 10, among=mask, stand=stand, **BEST)
    assert by_mask == learner.recommend("u0", 10, among=few, **BEST)
    learner.store.add(learner.recommend("u0", 3, **BEST).shown("u0"))
    unseen = learner.recommend("u0", 24, unseen_only=True, **BEST)
    assert len(unseen.items) == 13
    with pytest.raises(UnknownId, match="nothing is called"):
        learner.recommend("u0", among=["no"], **BEST)
    with pytest.raises(UnknownId):
        learner.recommend("nobody", **BEST)
    # New pictures come last until a fit knows them, and exploring finds them.
    learner.store.add(Made("fresh", model="m9"))
    assert learner.recommend("u0", 24, **BEST).items[-1] == "fresh"
    explored = [learner.recommend("u0", 1, explore=1, rng=np.random.default_rng(n)).items[0] for n in range(100)]
    assert "fresh" in explored
    assert learner.why("u0", "fresh") == []


def test_rolling_back_gives_the_same_lists(learner: Learner) -> None:
    store = learner.store
    first = learner.refit()
    lists = [learner.recommend(f"u{n}", 10, **BEST) for n in range(30)]
    for n in range(30):
        if n != 3:
            store.add(Said(f"u{n}", f"p{n % 24}", -1 if n % 4 else 1, unshown="test"))
    second = learner.refit()
    assert (first.version, second.version, learner.version.version) == (1, 2, 2)
    assert learner.recommend("u3", 10, **BEST) != lists[3]
    assert learner.roll_back() == first
    assert learner.recommend("u3", 10, **BEST) == lists[3]  # has said nothing since
    assert not {f"p{n % 24}" for n in (5,)} & set(learner.recommend("u5", 20, **BEST).items)  # what was said stays said
    third = learner.refit()
    assert learner.version == first  # pinned
    assert learner.follow() == third
    assert learner.use(2) == second
    with pytest.raises(UnknownName, match="version"):
        learner.use(17)
    learner.use(1)
    with pytest.raises(InvalidArgument, match="no version before 1"):
        learner.roll_back()
    # Another server, or this one after a restart, is in the same state.
    other = Learner(store, learner.folder, PLAN)
    assert other.version == first
    assert other.recommend("u3", 10, **BEST) == lists[3]
    learner.follow()
    assert other.version == third


def test_old_versions_go(learner: Learner) -> None:
    learner.refit()
    learner.use(1)
    for _ in range(4):
        learner.refit()
    assert [version.version for version in learner.versions()] == [1, 3, 4, 5]  # 3 are kept, and the one in force


def test_swaps_are_atomic_under_readers(learner: Learner) -> None:
    learner.refit(rng=1)
    like(learner.store, "u1", "p0", "p2")
    learner.refit(rng=2)
    expected = {}
    for number in (1, 2):
        learner.use(number)
        expected[f"factors/{number} explore 0"] = learner.recommend("u0", 10, **BEST)
    stop, wrong, seen = threading.Event(), [], set()

    def read() -> None:
        while not stop.is_set():
            picks = learner.recommend("u0", 10, explore=0.0, rng=np.random.default_rng(0))
            seen.add(picks.policy)
            if picks != expected[picks.policy]:
                wrong.append(picks)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(40):
        learner.use(1 + n % 2)
        time.sleep(0.01)
    stop.set()
    for reader in readers:
        reader.join()
    assert (wrong, seen) == ([], set(expected))


def test_fitting_in_a_process_beside(learner: Learner) -> None:
    future = learner.refit_in_background(rng=3)
    assert learner.refit_in_background() is future or future.done()
    policies = set()
    while not future.done():
        policies.add(learner.recommend("u0", 3, **BEST).policy)
        time.sleep(0.05)
    assert policies <= {"random", "factors/1 explore 0"}
    assert learner.version == future.result()
    assert learner.behind() == 0
    like(learner.store, "u0", "p1")
    assert learner.behind() == 1
    picks = learner.recommend("u1", 5, **BEST)
    learner.refit(rng=3)
    learner.roll_back()
    assert learner.recommend("u1", 5, **BEST) == picks


def test_nothing_to_learn_from(file: Store, tmp_path: Path) -> None:
    learner = Learner(file, tmp_path / "models", PLAN)
    with pytest.raises(InvalidArgument, match="nothing to learn"):
        learner.refit()
    with pytest.raises(InvalidArgument, match="no model"):
        learner.leaderboard()
    file.add(Joined("a"))
    assert learner.recommend("a", 5, **BEST).items == ()
    assert list((tmp_path / "models").iterdir()) == []


def test_damaged_versions_are_named_and_never_in_force(learner: Learner) -> None:
    learner.refit()
    learner.refit()
    (learner.folder / "1" / "factors" / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match="damaged"):
        learner.use(1)
    assert learner.version.version == 2
    (learner.folder / "current.json").write_text("{}")
    with pytest.raises(DataError, match="pointer"):
        Learner(learner.store, learner.folder, PLAN)


def test_weights_of_events_and_votes_are_asked_for(file: Store, tmp_path: Path) -> None:
    world(file)
    file.add(Voted("u0", pair("p0", "p1")))
    asked = []

    def weigh(log: FeedbackLog) -> np.ndarray:
        asked.insert(0, log)
        return np.where(log.user_ids.ids(log.user).to_numpy() == "u1", 0.0, 1.0)

    class Doubtful(Watch):
        def doubts(self, votes, log):
            asked.append(votes)
            return (Doubt("u0", "votes", 1, 0.25, "test"),)

    plain = Learner(file, tmp_path / "plain", PLAN)
    plain.refit()
    learner = Learner(file, tmp_path / "models", Plan(model=PLAN.model, weigh=weigh, trust=Doubtful()))
    version = learner.refit()
    assert (len(asked[0]), version.words, version.votes, len(asked[1])) == (240, 240, 1, 1)
    assert version.doubts == learner.versions()[0].doubts == (Doubt("u0", "votes", 1, 0.25, "test"),)
    assert 0 < ratings(learner)["m0"] < ratings(plain)["m0"]
    assert learner.belief(person="u1").about == "person 'u1'"
    with pytest.raises(UnknownId):
        learner.belief(person="nobody")


# -- boards ------------------------------------------------------------------------------------------------------------


def vote(store: Store, user: str, winner: str, loser: str) -> int:
    return store.add(Voted(user, pair(winner, loser, ties=True, bad=True))).seq


def ratings(learner: Learner, **about: str) -> dict[str, float]:
    table: pl.DataFrame = learner.leaderboard(**about).table
    return dict(zip(table["id"], table["rating"], strict=True))


def test_votes_count_at_once_and_can_be_taken_back(learner: Learner) -> None:
    store = learner.store
    assert set(ratings(learner).values()) == {0.0}
    first = vote(store, "u0", "p1", "p0")
    assert ratings(learner)["m1"] > 0 > ratings(learner)["m0"]
    before = ratings(learner)
    second = vote(store, "u1", "p0", "p1")
    assert ratings(learner) != before
    store.add(Undone("u1", second))
    assert ratings(learner) == before
    store.add(Undone("u0", first))
    assert set(ratings(learner).values()) == {0.0}
    vote(store, "u0", "p0", "p4")  # two pictures of one model: nothing to say about models
    assert set(ratings(learner).values()) == {0.0}
    store.add(Made("x", model="m-new"))
    assert "m-new" in ratings(learner)


def test_boards_are_those_of_the_joint_fit_and_go_on_from_there(learner: Learner) -> None:
    store, rng = learner.store, np.random.default_rng(0)
    for n in range(60):
        a, b = rng.choice(24, 2, replace=False)
        if a % 4 != b % 4:
            better, worse = sorted((int(a), int(b)), key=lambda item: -(item % 4))
            vote(store, f"u{n % 5}", f"p{better}", f"p{worse}")
    store.add(Voted("u1", both_bad("p0", "p1")))
    version = learner.refit()
    assert version.votes == store.counts()["votes"]
    named = [rating.Vote(one.choices, one.person) for _, one in store.votes()]
    model_of = {f"p{n}": f"m{n % 4}" for n in range(24)}
    fitted = rating.fit([on_models(one, model_of) for one in named], Vocabulary.of([f"m{n}" for n in range(4)]))
    for person in (None, "u1"):
        expected = fitted.leaderboard(person=person).table
        found = learner.leaderboard(person=person).table
        assert found["id"].to_list() == expected["id"].to_list()
        assert found["rating"].to_numpy() == pytest.approx(expected["rating"].to_numpy(), abs=1e-6)
        assert found["low"].to_numpy() == pytest.approx(expected["low"].to_numpy(), abs=1e-6)
    assert learner.leaderboard().table["id"].to_list() == ["m3", "m2", "m1", "m0"]
    # Somebody else begins with the crowd's taste, wider, and moves by their own votes.
    crowd, mine = learner.leaderboard().table, learner.leaderboard(person="u20").table
    assert mine["id"].to_list() == crowd["id"].to_list()
    assert ((mine["high"] - mine["low"]) > (crowd["high"] - crowd["low"])).all()
    for _ in range(6):
        vote(store, "u20", "p0", "p3")
    assert ratings(learner, person="u20")["m0"] > ratings(learner)["m0"]
    again = Learner(store, learner.folder, PLAN)
    assert ratings(again, person="u20") == pytest.approx(ratings(learner, person="u20"))
    with pytest.raises(UnknownId):
        learner.leaderboard(person="nobody")
