"""The recipe of injection attacks: every part at a tiny size, kept units, runs that are stopped and taken up again."""

import dataclasses
import fcntl
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tastemaker.attack import heuristic
from tastemaker.attack.bilevel import PAPER, Loop
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.certify import Bagging
from tastemaker.attack.profiles import Budget, Knowledge
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.recommend import LightGCN

pytest.importorskip("torch")

from recipes.injection import __main__ as command
from recipes.injection import curves, defences, directions, elsewhere, gowalla, keep, synthetic, victims
from recipes.injection.keep import Keep, Remembered, Unit
from recipes.injection.short import short
from recipes.injection.study import Learned, Rule, Study
from recipes.injection.victims import AsSurrogate, ItemCF, Victim

SMALL = WMF(rank=4, epochs=4, unroll=2, batch=32, learning_rate=0.05)


def quiet(_: str) -> None: ...


def small(folder: Path, **changed: object) -> Study:
    train, test = low_rank_clicks(np.random.default_rng(1), n_users=80, n_items=40, rank=4, above=2.0)
    attacks = {"learned": Learned("learned", SMALL, Loop()), "random": Rule("random", heuristic.random)}
    seen = {"wmf": Victim("WRMF-SGD", lambda: AsSurrogate(SMALL), seeds=2), "itemcf": Victim("ItemCF", ItemCF)}
    targets = {"item": np.zeros(1, np.int32)}
    here = Study("small", train, test, targets, Budget(8, 6), attacks, seen, Keep(folder, say=quiet), k=5, rounds=2)
    return dataclasses.replace(here, **changed)  # type: ignore[arg-type]


# -- victims -----------------------------------------------------------------------------------------------------------


def test_item_cf_sums_the_jaccard_similarities_of_each_items_nearest() -> None:
    train, _ = low_rank_clicks(np.random.default_rng(0), n_users=30, n_items=12, rank=3, above=1.0)
    clicked = np.zeros((30, 12), bool)
    clicked[train.user, train.item] = True
    expected = np.zeros((30, 12))
    for i in range(12):
        jaccard = [
            0.0 if j == i else (clicked[:, i] & clicked[:, j]).sum() / max(1, (clicked[:, i] | clicked[:, j]).sum())
            for j in range(12)
        ]
        for j in sorted(range(12), key=lambda j: (-jaccard[j], j))[:3]:
            expected[clicked[:, j], i] += jaccard[j]
    user, item = (side.ravel() for side in np.mgrid[:30, :12])
    found = ItemCF(neighbours=3).fit(train).score(user, item)
    assert found.reshape(30, 12) == pytest.approx(expected, abs=1e-6)


def test_a_surrogate_as_victim_learns_and_draws_from_its_seed() -> None:
    here, _ = low_rank_clicks(np.random.default_rng(1), n_users=80, n_items=40, rank=4, above=2.0)
    model = AsSurrogate(WMF(rank=8, epochs=60, batch=40, learning_rate=0.05))
    first, same, other = (model.fit(here, rng=seed).fitted.users.copy() for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    scores = model.score(here.user, here.item).mean()
    assert scores > model.score(here.user, (here.item + 7) % 40).mean() + 0.2
    with pytest.raises(InvalidArgument, match="weights"):
        model.fit(here, weight=np.full(len(here), 2.0))
    with pytest.raises(InvalidArgument, match="refit"):
        model.fold_in(here)


# -- kept units --------------------------------------------------------------------------------------------------------


def test_a_unit_is_made_once_and_known_by_settings_and_code(tmp_path: Path) -> None:
    kept, made = Keep(tmp_path, say=quiet), list[int]()

    def make() -> dict[str, float]:
        made.append(1)
        return {"figure": 0.5}

    unit = Unit("part", "name", "kind", {"seed": "1"}, (victims,))
    assert kept.numbers(unit, make) == kept.numbers(unit, make) == {"figure": 0.5}
    assert kept.numbers(dataclasses.replace(unit, settings={"seed": "2"}), make)
    assert kept.numbers(dataclasses.replace(unit, code=(victims, heuristic)), make)
    assert len(made) == 3
    missing = dataclasses.replace(unit, settings={"seed": "3"})
    assert Keep(tmp_path, only_kept=True).numbers(missing, make) is None
    for path in tmp_path.glob("part/*.json"):
        path.write_text("[]")
    with pytest.raises(DataError, match="delete it"):
        kept.numbers(unit, make)


def test_comments_do_not_count_as_code_but_statements_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(text: str) -> str:
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        module = type(sys)("m")
        module.__file__ = str(path)
        return keep.code_hash(module)

    plain = hashed("def f(x):\n    return x + 1\n")
    assert plain == hashed('"""Words."""\n\ndef f(x):\n    """Words."""\n    return x + 1  # why\n')
    assert plain != hashed("def f(x):\n    return x + 2\n")


def test_a_stopped_attack_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = small(tmp_path / "one").fakes("item", "learned")
    assert straight is not None
    solved = list[float]()
    right = WMF.solve

    def stops(self: WMF, *args: object) -> object:
        if len(solved) == 2:
            raise KeyboardInterrupt
        solved.append(1)
        return right(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(WMF, "solve", stops)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "two").fakes("item", "learned")
    monkeypatch.setattr(WMF, "solve", lambda self, *args: solved.append(1) or right(self, *args))
    found = small(tmp_path / "two").fakes("item", "learned")
    assert len(solved) == 3  # two rounds and the last look, each once
    assert found is not None
    assert found.history == straight.history
    assert all(np.array_equal(a, b) for a, b in zip(found.profiles, straight.profiles, strict=True))
    assert not list((tmp_path / "two").rglob("*.rounds"))


def test_fakes_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    here = small(tmp_path)
    made, read = here.fakes("item", "learned"), small(tmp_path).fakes("item", "learned")
    assert made is not None
    assert read is not None
    assert (made.method, made.n_items, made.history) == (read.method, read.n_items, read.history)
    assert made.settings == read.settings
    assert "WMF(rank=4" in str(read.settings["surrogate"])
    assert repr(Remembered(SMALL, tmp_path, quiet)) == repr(SMALL)  # type: ignore[arg-type]


# -- a study -----------------------------------------------------------------------------------------------------------


def test_a_study_runs_its_plan_and_tells_what_is_missing(tmp_path: Path) -> None:
    plan = [("item", attack, victim) for attack in ("clean", "random", "learned") for victim in ("wmf", "itemcf")]
    said = list[str]()
    here = small(tmp_path, keep=Keep(tmp_path, say=said.append))
    here.run(plan[:4])
    assert "small 1 of 4: no attack, WRMF-SGD" in said[0]
    blind = small(tmp_path, keep=Keep(tmp_path, only_kept=True, say=quiet))
    figures = blind.figures(plan)
    assert figures["item.random.wmf.hit.low"] <= figures["item.random.wmf.hit"] <= figures["item.random.wmf.hit.high"]
    assert figures["item.random.white_box.clicks"] == 6
    assert not any(name.startswith("item.learned") for name in figures)
    table = blind.table(plan, figures, "item")
    assert figures["item.random.white_box.targets"] == 1
    assert figures["people"] == len(here.test.users)
    assert f"| random | 6.0 | 100% | {figures['item.random.wmf.hit']:.3f} |" in table
    assert "learned" not in table
    said.clear()
    here.run(plan[:4])
    assert not said


def test_what_another_process_is_at_comes_later_and_is_made_once(tmp_path: Path) -> None:
    plan = [("item", attack, "itemcf") for attack in ("random", "clean")]
    here = small(tmp_path)
    first, second = (here.judged_unit(*step, 0) for step in plan)
    lock = tmp_path / first.part / f"{first.name}-{first.key}.lock"
    lock.parent.mkdir()
    with lock.open("a") as other:  # a lock belongs to an open file, so this one is as good as another process's
        fcntl.flock(other, fcntl.LOCK_EX)
        assert here.keep.busy(first)
        run = threading.Thread(target=here.run, args=(plan,), daemon=True)
        run.start()
        until = time.monotonic() + 60
        while not here.keep.has(second) and time.monotonic() < until:
            time.sleep(0.01)
        assert here.keep.has(second)
        assert not here.keep.has(first)
    run.join(60)
    assert here.keep.has(first)
    assert not here.keep.busy(first)
    assert not list(tmp_path.rglob("*.lock"))


def test_knowledge_and_budget_make_another_unit(tmp_path: Path) -> None:
    here = small(tmp_path)
    keys = {here.fakes_unit("item", "learned").key}
    keys.add(small(tmp_path, budget=Budget(8, 7)).fakes_unit("item", "learned").key)
    for attack in (Learned("l", SMALL, Loop(), knowledge=Knowledge(users=0.5)), Learned("l", SMALL, PAPER)):
        keys.add(small(tmp_path, attacks={"learned": attack}).fakes_unit("item", "learned").key)
    assert len(keys) == 4


def test_the_plan_of_gowalla_names_only_what_there_is_and_nothing_twice() -> None:
    plan = gowalla.plan()
    assert len(set(plan)) == len(plan)
    assert plan[4:8] == [("head", "paper", victim) for victim in gowalla.QUICK]
    for targets, attack, victim in plan:
        assert targets in gowalla.TARGETS
        assert attack == "clean" or attack in gowalla.ATTACKS
        assert victim in gowalla.VICTIMS
    assert {attack for _, attack, _ in plan} == {"clean", *gowalla.ATTACKS}
    assert all(("head", "paper", victim) in plan for victim in gowalla.VICTIMS)


# -- the parts, tiny ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic world and the gallery with few people, models of few factors."""
    world = low_rank_clicks
    monkeypatch.setattr(
        synthetic, "low_rank_clicks", lambda rng: world(rng, n_users=120, n_items=40, rank=4, above=2.0)
    )
    monkeypatch.setattr(synthetic, "BUDGET", Budget(10, 6))
    short = WMF(rank=4, init=1.0, learning_rate=0.3, decay=0.0, batch=None, epochs=12, unroll=4)
    monkeypatch.setattr(synthetic, "SHORT", short)
    monkeypatch.setattr(synthetic, "SURROGATE", short)
    gallery = dataclasses.replace(elsewhere.GALLERY, n_users=120, n_items=120, n_makers=40, events=15)
    monkeypatch.setattr(elsewhere, "GALLERY", gallery)
    monkeypatch.setattr(elsewhere, "PICTURES", 3)
    learned = Learned("ours", SMALL, Loop())
    monkeypatch.setattr(elsewhere, "ATTACKS", {"ours": learned, "bandwagon": elsewhere.ATTACKS["bandwagon"]})
    few = {name: elsewhere.VICTIMS[name] for name in ("factors", "itemknn")}
    monkeypatch.setattr(elsewhere, "VICTIMS", few)


@pytest.mark.usefixtures("tiny")
def test_curves_go_through_one_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "SHARES", (0.5,))
    middle = list(curves.points(Budget(6, 5), users=(3,), clicks=(8,)))
    monkeypatch.setattr(curves, "points", lambda *_, **__: middle)
    figures, text = curves.run(data=None, quick=False, seed=1, keep=Keep(tmp_path, say=quiet))
    for point in middle:
        assert f"synthetic_world.{point.curve}.learned.wmf.hit" in figures
        assert f"| {point.label} |" in text
    assert figures["synthetic_world.users_3.learned.white_box.clicks"] == 5
    assert figures["synthetic_world.clicks_8.random.white_box.clicks"] == 8
    assert "synthetic_world.knows_items_0.5.random.wmf.hit" not in figures


def test_the_busiest_part_of_a_log_keeps_rows_that_belong_together() -> None:
    train, test = low_rank_clicks(np.random.default_rng(3), n_users=40, n_items=30, rank=3, above=1.0)
    some, held = curves.busiest(train, test, 0.5)
    assert (some.n_users, some.n_items) == (20, 15)
    assert some.user_ids == held.user_ids
    pairs = set(zip(train.user.tolist(), train.item.tolist(), strict=True))
    users, items = some.user_ids.ids(some.user).to_list(), some.item_ids.ids(some.item).to_list()
    assert set(zip(users, items, strict=True)) <= pairs
    counts = np.bincount(train.user, minlength=40)
    assert min(counts[sorted(set(users))]) >= np.sort(counts)[::-1][19]


@pytest.mark.usefixtures("tiny")
def test_elsewhere_attacks_the_gallery(tmp_path: Path) -> None:
    figures, text = elsewhere.run(data=None, quick=False, seed=1, keep=Keep(tmp_path, say=quiet))
    place = elsewhere.gallery(1)
    assert len(place.targets["maker"]) == 3
    slots = figures["gallery.maker.ours.factors.slots"]
    assert slots == pytest.approx(figures["gallery.maker.ours.factors.per_target"] * 3 / 10)
    assert "| ours |" in text
    assert "MovieLens" not in text


@pytest.mark.usefixtures("tiny")
def test_defences_tell_success_and_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defences, "LightGCN", lambda **_: LightGCN(epochs=2, layers=0, rank=4))
    monkeypatch.setattr(
        defences, "Bagging", lambda bags=3, size=10: Bagging(bags=100 if bags == 100 else 3, size=min(10, size))
    )
    every, few = defences.stages, {"Synthetic": ("factors", "mf"), "Gallery": ("factors",)}

    def stages(*given: object) -> list[defences.Stage]:
        found = every(*given)  # type: ignore[arg-type]
        wanted = [next(names for word, names in few.items() if one.about.startswith(word)) for one in found]
        return [
            dataclasses.replace(one, victims={name: one.victims[name] for name in names})
            for one, names in zip(found, wanted, strict=True)
        ]

    monkeypatch.setattr(defences, "stages", stages)
    kept = Keep(tmp_path, say=quiet)
    figures, text = defences.run(data=None, quick=False, seed=1, keep=kept)
    assert figures["synthetic.outcomes.factors.none.none.accuracy_change"] == 0
    assert 0 <= figures["gallery.detection.pca.evading_learned_0.5.auc"] <= 1
    assert 0 <= figures["synthetic.evading.evading_statistics_0.7.hidden"] <= 1
    assert 0 <= figures["synthetic.hidden.factors.reconstruction.0.5.defended"] <= 1
    assert "synthetic.hidden.mf.reconstruction.0.5" in figures
    assert "synthetic.hidden.mf.reconstruction.0.5.defended" not in figures  # it does not fold in
    assert figures["synthetic.proof.itemknn_100_bags_of_100.0.kept"] >= 0
    assert "synthetic.outcomes.mf.ours.vat.hit_rate" in figures
    assert "synthetic.outcomes.mf.ours.apr.hit_rate" in figures
    assert "synthetic.outcomes.factors.ours.apr.hit_rate" not in figures
    assert "| APR |" in text
    assert "| VAT |" in text
    assert "| learned, evading statistics |" in text
    assert "| pca, at 0.5 |" in text
    assert "*" in text.split("| random |")[1].split("\n")[0]  # taught
    assert "no difference" in text
    again, same = defences.run(data=None, quick=False, seed=1, keep=Keep(tmp_path, only_kept=True))
    assert (again, same) == (figures, text)


# -- the command -------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["injection", *map(str, words)])
    command.main()


@pytest.mark.usefixtures("tiny")
def test_the_quick_run_writes_page_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loops = {"notebook_10": synthetic.NOTEBOOK, "ours": Loop()}
    learned = {name: Learned(name, synthetic.SHORT, loop) for name, loop in loops.items()}
    monkeypatch.setattr(synthetic, "ATTACKS", synthetic.ATTACKS | learned)
    monkeypatch.setattr(synthetic, "VICTIMS", synthetic.VICTIMS | {"wmf": Victim("same", lambda: AsSurrogate(SMALL))})
    page, figures = tmp_path / "page.md", tmp_path / "f.json"
    run(monkeypatch, "--quick", "--write", page, "--json", figures, "--keep", tmp_path / "kept")
    text = page.read_text()
    assert "Command: `python -m recipes.injection --parts synthetic --seed 1 --quick --keep FOLDER`" in text
    assert str(tmp_path) not in text
    found = json.loads(figures.read_text())["figures"]
    assert 0 <= found["synthetic.data1.ours.wmf.hit"] <= 1
    assert "synthetic.data1.notebook_10.white_box.best" in found
    first = text
    run(monkeypatch, "--quick", "--write", page, "--keep", tmp_path / "kept", "--only-kept")
    assert page.read_text().count("\n|") == first.count("\n|")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--only-kept")


def test_a_gowalla_folder_without_its_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / gowalla.FOLDER).mkdir()
    with pytest.raises(DataError, match=r"train\.csv\.gz"):
        gowalla.run(data=tmp_path, quick=False, seed=1, keep=Keep(tmp_path / "kept", say=quiet))
    assert gowalla.run(data=None, quick=False, seed=1, keep=Keep(tmp_path, say=quiet))[0] == {}


def test_the_page_in_short_says_what_the_figures_say_and_nothing_without_them() -> None:
    assert short({}) == []
    head = {"clean.wmf": 0.10, "paper_41.wmf": 0.13, "truncated_41.wmf": 0.12, "random.wmf": 0.11, "ours.wmf": 0.12}
    figures = {f"gowalla.head.{name}.hit": value for name, value in head.items()} | {"gowalla.people": 10_000.0}
    reach, exact, rules = short(figures)
    assert "| WRMF-SGD | 0.100 | 0.130 | paper |" in reach
    assert "| paper / last epoch only | 0.130 / 0.120 | more in 1 |" in exact
    assert "| Gowalla | 1 | more in 1 |" in rules
    _, few, _ = short(figures | {"gowalla.people": 1_000.0})
    assert "| paper / last epoch only | 0.130 / 0.120 | alike in 1 |" in few

    rates = {"ours.none.hit_rate_before": 0.05, "ours.none.hit_rate": 0.5, "ours.cap.hit_rate": 0.2}
    drilled = {f"defences.movielens.outcomes.factors.{key}": value for key, value in rates.items()}
    (stops,) = short(drilled | {"defences.movielens.outcomes.factors.none.cap.accuracy_change": -0.01})
    assert "| MovieLens | `factors` | 0.050 | 0.500 | cap | 0.200 | -0.0100 |" in stops
    (nothing,) = short(drilled | {"defences.movielens.outcomes.factors.ours.cap.hit_rate": 0.6})
    assert nothing.endswith("| none does better | – | – |")


def test_curves_go_through_the_middle_and_are_drawn(tmp_path: Path) -> None:
    figures = {f"synthetic_world.clean.clean.{victim}.hit": 0.04 for victim in ("wmf", "itemcf")}
    places = [
        "middle",
        "users_5",
        "users_100",
        "clicks_6",
        *(f"knows_{what}_0.2" for what in ("users", "items", "clicks")),
    ]
    for victim in ("wmf", "itemcf"):
        for number, place in enumerate(places):
            figures[f"synthetic_world.{place}.learned.{victim}.hit"] = number / 10
            figures[f"synthetic_world.{place}.learned.{victim}.hit.low"] = 0.0
        figures |= {f"synthetic_world.{place}.random.{victim}.hit": 0.1 for place in places[:4]}
    found = curves.curve(figures, "synthetic_world", "users", curves.SYNTHETIC, "learned.wmf.hit")
    assert found == [(5, 0.1), (50, 0.0), (100, 0.2)]
    seen = curves.curve(figures, "synthetic_world", "knows_items", curves.SYNTHETIC, "learned.wmf.hit")
    assert seen == [(0.2, 0.5), (1, 0.0)]
    for file in (tmp_path / "a.svg", tmp_path / "b.svg"):
        curves.plot(figures, file)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_was_not_run_is_left_out_of_the_plot(tmp_path: Path) -> None:
    curves.plot(
        {"synthetic_world.middle.learned.wmf.hit": 0.1, "synthetic_world.users_5.learned.wmf.hit": 0.2},
        tmp_path / "a.svg",
    )
    assert (tmp_path / "a.svg").stat().st_size > 0


def test_cosines_are_means_over_fake_users_and_nobody_moved_has_none() -> None:
    a, b = np.array([[3.0, 0], [0, 2], [0, 0], [1, 1]]), np.array([[5.0, 0], [0, -1], [1, 0], [1, 0]])
    assert directions.cosine(a, b) == pytest.approx((1 - 1 + 0 + 0.5**0.5) / 4)


def test_directions_of_the_worlds_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["exact", "other", "mean", *directions.ways()]
    made = {f"{name}.{column}": 0.25 for name in names for column in ("same", "others")}
    monkeypatch.setattr(directions, "measure", lambda data_seed, seed: made)
    monkeypatch.setattr(directions, "DATA_SEEDS", (2,))
    directions.run(data=None, quick=False, seed=1, keep=Keep(tmp_path))
    monkeypatch.setattr(directions, "DATA_SEEDS", (1, 2))
    figures, text = directions.run(data=None, quick=False, seed=1, keep=Keep(tmp_path, only_kept=True))
    assert {name.split(".")[0] for name in figures} == {"data2"}
    assert "| exact, this seed | 0.25 | 0.25 |" in text
    assert directions.run(data=None, quick=False, seed=2, keep=Keep(tmp_path, only_kept=True)) == ({}, "Not run.")
