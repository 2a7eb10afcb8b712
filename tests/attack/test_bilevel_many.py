"""Several problems at once: each gets exactly what it gets alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from tastemaker.attack import bilevel, bilevel_wmf
from tastemaker.attack.bilevel import NOTEBOOK, Aim, Loop
from tastemaker.attack.bilevel_als import ALS
from tastemaker.attack.bilevel_loss import Adversary, Diverged, Problem
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.clicks import Clicks
from tastemaker.attack.profiles import Budget, Knowledge
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.errors import InvalidArgument

TRAIN, _ = low_rank_clicks(np.random.default_rng(1), n_users=120, n_items=50)
SMALL = WMF(rank=6, epochs=5, unroll=2, batch=50, learning_rate=0.05)


def problem(seed, dtype=np.float64, n_users=40, n_items=30, n_fakes=5):
    """Every seed has other real users, another number of clicks, other fakes and another target."""
    rng = np.random.default_rng(seed)
    real = (rng.random((n_users, n_items)) < rng.uniform(0.05, 0.4)).astype(dtype)
    clicks = Clicks.build(sparse.csr_matrix(real), (rng.random((n_fakes, n_items)) < 0.2).astype(dtype), 20.0)
    return Problem(clicks, Adversary(np.array([seed % n_items], np.int32), clicks, 5), np.random.default_rng(seed))


def equal(one, other):
    return (
        one[0].loss == other[0].loss
        and all(np.array_equal(getattr(one[0], name), getattr(other[0], name)) for name in ("hit", "users", "items"))
        and (np.array_equal(one[1], other[1]) if one[1] is not None else other[1] is None)
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("mode", ["exact", "truncated", "partial", "implicit", None])
@pytest.mark.parametrize(
    "model",
    [
        WMF(rank=5, epochs=4, unroll=2, batch=16, learning_rate=0.05),
        WMF(rank=17, epochs=6, unroll=None, batch=None, learning_rate=0.1, decay=0.3, init=0.5),
        WMF(rank=3, epochs=3, unroll=None, batch=3, learning_rate=0.05),  # the last mini-batch is empty of most pieces
    ],
)
def test_a_problem_solved_among_others_is_the_problem_solved_alone(model, mode, dtype):
    together = model.solve_many([problem(seed, dtype) for seed in range(5)], mode)
    for seed, got in enumerate(together):
        one = problem(seed, dtype)
        assert equal(got, model.solve(one.clicks, one.adversary, mode, one.rng))


def test_problems_of_several_sizes_keep_their_places():
    sizes = [{}, {"n_users": 50}, {"n_fakes": 9}, {}, {"n_items": 3}, {"n_users": 41, "n_fakes": 4}]
    together = SMALL.solve_many([problem(seed, **size) for seed, size in enumerate(sizes)], "exact")
    for seed, (size, got) in enumerate(zip(sizes, together, strict=True)):
        one = problem(seed, **size)
        assert got[1].shape == one.clicks.fakes.shape
        assert equal(got, SMALL.solve(one.clicks, one.adversary, "exact", one.rng))
    assert SMALL.solve_many([], "exact") == []


def test_only_as_many_at_once_as_are_small_together(monkeypatch):
    seen = []
    solve = WMF._solve
    monkeypatch.setattr(WMF, "_solve", lambda self, some, mode: seen.append(len(some)) or solve(self, some, mode))
    monkeypatch.setattr(bilevel_wmf, "TOGETHER", 2 * (45 + 30) * SMALL.rank)
    SMALL.solve_many([problem(seed) for seed in range(5)], None)
    assert seen == [2, 2, 1]
    monkeypatch.setattr(bilevel_wmf, "TOGETHER", 1)
    SMALL.solve_many([problem(seed) for seed in range(2)], None)
    assert seen[3:] == [1, 1]


def same_fakes(one, other):
    return (
        one.history == other.history
        and one.settings == other.settings
        and all(np.array_equal(a, b) for a, b in zip(one.profiles, other.profiles, strict=True))
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"surrogate": SMALL},
        {"surrogate": SMALL, "loop": Loop(seeds=2)},
        {"surrogate": dataclasses.replace(SMALL, batch=None), "loop": NOTEBOOK},
        {"surrogate": SMALL, "gradient": "implicit"},
        {"surrogate": SMALL, "knowledge": Knowledge(users=0.6, items=0.7)},
        {"surrogate": ALS(rank=4, alternations=2)},
    ],
    ids=["seeds, targets and budgets", "two surrogates", "published", "implicit", "knowledge", "als"],
)
def test_many_attacks_are_the_attacks_one_by_one(settings):
    kept = {"rounds": 2, "k": 5} | settings
    aims = [([3], Budget(6, 5)), ([3, 9], Budget(6, 5)), ([3], Budget(6, 8)), ([7], Budget(0.1, 5))]
    told = []
    together = bilevel.attack_many(
        TRAIN, [Aim(*aim, rng=seed) for seed, aim in enumerate(aims)], **kept, progress=lambda *one: told.append(one)
    )
    for place, (aim, got) in enumerate(zip(aims, together, strict=True)):
        assert same_fakes(got, bilevel.attack(TRAIN, *aim, rng=place, **kept))
        assert tuple(one for whose, one in told if whose == place) == got.history


def test_many_attacks_through_an_autoencoder():
    pytest.importorskip("torch")
    from tastemaker.attack.bilevel_autoencoder import ItemAutoencoder

    kept = {"surrogate": ItemAutoencoder((6, 4), epochs=3, unroll=1, batch=20), "rounds": 1, "k": 5}
    together = bilevel.attack_many(TRAIN, [Aim([3], Budget(4, 5), 0), Aim([4], Budget(5, 4), 1)], **kept)
    assert same_fakes(together[0], bilevel.attack(TRAIN, [3], Budget(4, 5), rng=0, **kept))
    assert same_fakes(together[1], bilevel.attack(TRAIN, [4], Budget(5, 4), rng=1, **kept))


def test_aims_do_not_share_a_generator():
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidArgument, match="share one random generator; give each its own"):
        bilevel.attack_many(TRAIN, [Aim([3], Budget(4), rng), Aim([4], Budget(4), rng)], surrogate=SMALL)
    assert bilevel.attack_many(TRAIN, [], surrogate=SMALL) == []


def test_an_error_names_its_aim():
    @dataclasses.dataclass(frozen=True)
    class Steep(WMF):
        def solve_many(self, problems, mode):
            solved = super().solve_many(problems, mode)
            solved[1][1][1, 2] = np.nan
            return solved

    aims = [Aim([3], Budget(4, 5), 0), Aim([4], Budget(4, 5), 1)]
    with pytest.raises(Diverged, match="aim 1, round 0: the gradients of 1 of 4 fake users"):
        bilevel.attack_many(TRAIN, aims, surrogate=Steep(rank=4, epochs=2), rounds=1)
