"""An attacker who sees a part: the same attack on what is seen, clicks only there."""

from __future__ import annotations

import numpy as np
import pytest

from tastemaker.attack import bilevel, heuristic
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.clicks import real_clicks
from tastemaker.attack.profiles import Budget, Knowledge
from tastemaker.attack.seen import view
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.errors import InvalidArgument, UnknownId

TRAIN, _ = low_rank_clicks(np.random.default_rng(0), n_users=120, n_items=80)
TARGETS = [3, 50]
RULES = [heuristic.random, heuristic.average, heuristic.bandwagon, heuristic.segment, heuristic.power_users]


@pytest.mark.parametrize("rule", RULES)
def test_who_sees_everything_makes_the_same_fakes(rule):
    seen = view(TRAIN, TARGETS, Knowledge(), rng=1)
    found, expected = (
        seen.back(rule(seen.log, seen.targets, Budget(7, 12), rng=2)),
        rule(TRAIN, TARGETS, Budget(7, 12), rng=2),
    )
    assert all(np.array_equal(a, b) for a, b in zip(found.profiles, expected.profiles, strict=True))
    assert found.n_items == expected.n_items == 80
    assert found.targets.tolist() == TARGETS


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_clicked_that_is_not_seen_and_targets_always_are(rule):
    seen = view(TRAIN, TARGETS, Knowledge(users=0.4, items=0.3, clicks=0.8), rng=1)
    assert set(TARGETS) <= set(seen.items.tolist())
    assert len(seen.items) <= 24 + 2
    assert seen.log.n_users <= 48
    fakes = seen.back(rule(seen.log, seen.targets, Budget(7, 12), rng=2))
    for profile in fakes.profiles:
        assert set(profile.tolist()) <= set(seen.items.tolist())
        assert set(TARGETS) <= set(profile.tolist())
    assert fakes.settings["sees_users"] == 0.4
    assert fakes.settings["clicks"] == 12


def test_what_is_seen_was_liked():
    seen = view(TRAIN, TARGETS, Knowledge(users=0.5, items=0.5, clicks=0.5), rng=3)
    part, whole = real_clicks(seen.log).toarray(), real_clicks(TRAIN).toarray()[:, seen.items]
    assert all((row <= whole).all(axis=1).any() for row in part)
    assert part.any(axis=1).all()


def test_learning_on_a_view_is_learning_with_that_knowledge():
    knowledge = Knowledge(users=0.5, items=0.6)
    model = WMF(rank=4, epochs=5, unroll=2, batch=None)
    seen = view(TRAIN, TARGETS, knowledge, rng=1)
    fakes = seen.back(bilevel.attack(seen.log, seen.targets, Budget(4, 9), surrogate=model, rounds=2, rng=1))
    assert [len(one) for one in fakes.profiles] == [9] * 4
    assert set(np.concatenate(fakes.profiles).tolist()) <= set(seen.items.tolist())


def test_bad_input():
    with pytest.raises(UnknownId):
        view(TRAIN, [80], Knowledge())
    seen = view(TRAIN, TARGETS, Knowledge(items=0.3), rng=1)
    with pytest.raises(InvalidArgument, match="fakes of 80 items for a view of"):
        seen.back(heuristic.random(TRAIN, TARGETS, Budget(4), rng=0))
