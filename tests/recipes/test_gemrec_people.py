"""The recipe's people on a small grid of random pictures."""

import json

import numpy as np
import pytest

from recipes.gemrec import people, rankings, rigging
from recipes.gemrec.people import COMPARED, SHOWN, Grid, World, battle, curves, judged, ours, visit
from tastemaker.choose.rank import Taste, look


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(0)
    v = rng.standard_normal((12, 30, 8))
    v -= v.mean(1, keepdims=True)
    parts = rng.random((12, 30, 3))
    features = np.concatenate([parts - parts.mean((0, 1)), v @ look(v.reshape(-1, 8), 4).T], -1)
    names = people.NAMES + ("look",) * 4
    return Grid(v, parts, parts @ [1.0, 0.8, 0.2], features, names, np.arange(12))


def test_planted_utilities(grid):
    found = people.people(grid, World(0.2, 0.4, 0.25), 5, np.random.default_rng(1))
    assert found.shape == (5, 12, 30)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-9)
    np.testing.assert_allclose(found.std((1, 2)), 2)
    alike = people.people(grid, World(0, 1, 0, 0), 3, np.random.default_rng(1))
    assert np.corrcoef(alike.reshape(3, -1)).min() > 0.99
    alone = people.people(grid, World(0, 0, 1, 0), 40, np.random.default_rng(1))
    assert abs(np.corrcoef(alone.reshape(40, -1))[np.triu_indices(40, 1)].mean()) < 0.1


def test_a_visit(grid):
    utility = np.linspace(-30, 30, 30)
    seen = visit(grid, 3, "ada", utility, np.random.default_rng(0))
    assert len(seen.shown) == SHOWN
    assert set(seen.picked) <= set(seen.shown)
    assert set(seen.picked) <= set(seen.lineup)
    assert len(seen.lineup) == COMPARED
    assert (np.diff(grid.totals[3, seen.lineup]) >= 0).all()
    vote = seen.pick_vote()
    assert len(vote.choices) == len(seen.picked)
    assert all(len(choice.among) == SHOWN - len(seen.picked) + 1 for choice in vote.choices)


def test_battle_and_judge(grid):
    seen = visit(grid, 3, "ada", np.linspace(-3000, 3000, 30), np.random.default_rng(0))
    orders = list(battle(seen, np.random.default_rng(0)))
    assert len(orders) == COMPARED
    assert judged(orders[-1], seen)[1] == 0  # sure answers: the best wins
    truth = seen.utility[seen.lineup]
    assert judged(truth, seen) == (1, 0)
    assert judged(-truth, seen) == (-1, np.ptp(truth))
    assert judged(np.zeros(COMPARED), seen) == (0, pytest.approx(truth.max() - truth.mean()))


def test_sure_answers_are_learned(grid):
    seen = visit(grid, 3, "ada", 20 * grid.vectors[3, :, 0], np.random.default_rng(0))
    steps = list(ours(grid, seen, Taste.start(grid.names).of("ada"), "information", np.random.default_rng(0)))
    assert len(steps) == COMPARED
    assert judged(steps[-1][0], seen)[0] > judged(steps[0][0], seen)[0] + 0.4
    assert steps[0][1].about.startswith("person 'ada', who has not voted")


def test_every_method_has_a_curve(grid):
    rng = np.random.default_rng(0)
    found = curves(grid, people.WORLDS["apart"], 2, 3, rng)
    assert {"paper", "grid", "svm", "greedy", "battle", "elo", "no_features", *people.TURNS} <= found.keys()
    assert all(each.shape == (2, COMPARED, 2) and np.isfinite(each).all() for each in found.values())
    figures = people.summed("apart", found, rng)
    assert figures["apart.battle.tau_above_battle.11"] == 0
    assert figures["apart.battle.tau.needed"] <= 11
    assert "| battle |" in people.table(figures)


def test_rankings(tmp_path):
    rng = np.random.default_rng(0)
    entries = [
        {"id": str(n), "prompt": "a " * (1 + n % 7), "generations": [f"{n}/{k}" for k in range(4)],
         "ranking": (1 + np.argsort(np.argsort(np.arange(4) + rng.normal(size=4)))).tolist() if n % 5 else [1, 2, 2, 4]}
        for n in range(60)
    ]  # fmt: skip
    (tmp_path / "t2i_prompts").mkdir()
    (tmp_path / "t2i_prompts" / "imagereward_test.json").write_text(json.dumps(entries))
    figures = rankings.measure(tmp_path, 0, True)
    assert figures["accuracy.place"] > 0.6
    assert figures["log_loss.difference"] < 0
    assert figures["ties.share"] == pytest.approx(12 / 360)
    assert "| pairs ordered rightly" in rankings.table(figures)


def test_rigging_table():
    ways = [f"{way}.{name}.votes" for way in ("one", "bulk", "many", "asked") for name in ("none", "capped", "dropped")]
    figures = dict.fromkeys(ways[1:], 7.0) | dict.fromkeys(
        ["honest.votes", "honest.accounts", "bound.votes", "bound.accounts", "honest.suspects"], 1.0
    )
    assert "| one account | more than 4 | 7 |" in rigging.table(figures)
