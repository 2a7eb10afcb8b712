"""Defences: the weights they give, the victims they leave alone, and adversarial training against its formulas."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tastemaker.attack import Budget, heuristic, poisoned
from tastemaker.attack.defend import (
    Adversarial,
    Cap,
    Choosy,
    Distrust,
    Plain,
    Trimmed,
    Welsch,
    _lengths,
    _Pushed,
    fresh,
    residuals,
)
from tastemaker.attack.detect import Statistics
from tastemaker.attack.hits import hit_rate
from tastemaker.attack.synthetic import low_rank_clicks
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument, NotFitted
from tastemaker.recommend import CML, Factors, ItemKNN, LightGCN, Popular
from tastemaker.recommend.contract import event_weights

TRAIN, TEST = low_rank_clicks(np.random.default_rng(1), n_users=120, n_items=60)
BAD = poisoned(TRAIN, heuristic.random(TRAIN, [3], Budget(12), rng=0))


@dataclass(frozen=True)
class Informer:
    """A detector that knows: for telling what a defence does from what a detector does."""

    def score(self, log: FeedbackLog) -> np.ndarray:
        suspicion = np.where(np.arange(log.n_users) >= TRAIN.n_users, 2.0, 1.0)
        return np.where(np.bincount(log.user, minlength=log.n_users) > 0, suspicion, -np.inf)


@dataclass
class Recorder(ItemKNN):
    """ItemKNN that keeps the weights it was last fitted with."""

    def _learn(self, log, weight, rng):
        WEIGHTS.append(weight)
        return super()._learn(log, weight, rng)


WEIGHTS: list[np.ndarray] = []


def lists(model, log):
    return model.recommend(TRAIN.users, 5, exclude=log)


WAYS = [Plain(), Distrust(Informer(), 0.1), Cap(), Trimmed(rounds=1), Welsch(rounds=1)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
@pytest.mark.parametrize("victim", [Factors(rank=4, epochs=3), ItemKNN(), Popular()], ids=lambda one: one.kind)
def test_every_victim_stays_as_it_was_and_the_same_seed_gives_the_same_lists(way, victim):
    first, again = way.fit(victim, BAD, rng=3), way.fit(victim, BAD, rng=3)
    assert lists(first, BAD).equals(lists(again, BAD))
    with pytest.raises(NotFitted):
        victim.recommend([0])


def test_removing_all_fakes_is_training_without_them():
    n = len(BAD.users)
    way = Distrust(Informer(), share=12 / n + 1e-9)
    assert np.array_equal(np.flatnonzero(way.doubted(BAD)), np.arange(TRAIN.n_users, BAD.n_users))
    assert lists(way.fit(Recorder(), BAD), BAD).equals(lists(ItemKNN().fit(TRAIN), TRAIN))
    half = dataclasses.replace(way, weight=0.5)
    half.fit(Recorder(), BAD)
    assert np.array_equal(WEIGHTS[-1], np.where(BAD.user >= TRAIN.n_users, 0.5, 1.0))


def test_doubted_people_get_the_lists_of_newcomers():
    way = Distrust(Statistics(), share=0.2)
    doubted = np.flatnonzero(way.doubted(TRAIN))
    rest = ItemKNN().fit(TRAIN.select(~np.isin(TRAIN.user, doubted)))
    served = rest.fold_in(TRAIN.select(np.isin(TRAIN.user, doubted)))
    assert len(doubted)
    assert lists(way.fit(ItemKNN(), TRAIN), TRAIN).equals(lists(served, TRAIN))
    unserved = dataclasses.replace(way, serve=False)
    assert lists(unserved.fit(ItemKNN(), TRAIN), TRAIN).equals(lists(rest, TRAIN))
    assert not way.suits(LightGCN(layers=0))
    assert unserved.suits(LightGCN(layers=0))
    with pytest.raises(InvalidArgument, match="serve=False"):
        way.fit(LightGCN(layers=0), TRAIN)


def test_equal_suspicion_at_the_cut_is_kept():
    assert not Distrust(Informer(), share=0.5).doubted(TRAIN).any()
    assert Distrust(Informer(), share=0.5).doubted(BAD).sum() == 12


def test_cap_limits_the_say_of_a_user():
    Cap(0.3).fit(Recorder(), BAD)
    events, say = np.bincount(BAD.user), np.bincount(BAD.user, WEIGHTS[-1])
    most = np.quantile(events[events > 0], 0.3)
    assert np.allclose(say, np.minimum(events, most))


def test_residuals_are_places_in_the_users_own_ranking():
    signed = FeedbackLog.of(["a", "a", "b", "c"], ["x", "y", "x", "z"], [1, -1, 1, 1])
    model = Factors(rank=2, reg=0.1).fit(signed, rng=0)
    for at, residual in enumerate(residuals(model, signed)):
        user, item = signed.user[at], signed.item[at]
        scores = model.score(np.full(3, user), np.arange(3))
        above = ((scores > scores[item]).sum() + ((scores == scores[item]).sum() - 1) / 2) / 2
        assert residual == pytest.approx(above if signed.value[at] > 0 else 1 - above)


def test_reweighting_follows_the_residuals_of_the_fit_before():
    victim = Recorder()
    WEIGHTS.clear()
    Trimmed(share=0.1, rounds=1).fit(victim, BAD)
    residual = residuals(ItemKNN().fit(BAD), BAD)
    assert (WEIGHTS[0] == 1).all()
    assert np.array_equal(WEIGHTS[1], residual <= np.quantile(residual, 0.9))
    Welsch(scale=0.3, rounds=1).fit(victim, BAD)
    assert np.allclose(WEIGHTS[3], np.exp(-((residual / 0.3) ** 2)))


def test_a_known_liar_is_stopped():
    victim = Factors(rank=8, reg=0.1, unseen=0.05)
    recs = [way.fit(victim, BAD, rng=0).recommend(TEST.users, 10, exclude=BAD) for way in (Plain(), WAYS[1])]
    clean = victim.fit(TRAIN, rng=0).recommend(TEST.users, 10, exclude=TRAIN)
    hits = [hit_rate(table, [3], TEST.users, 10) for table in (*recs, clean)]
    assert hits[0] > hits[2] + 0.1
    assert hits[1] < hits[0]


MF = LightGCN(layers=0, epochs=2, batch=64, rank=4, learning_rate=0.01)


def test_adversarial_loss_is_the_loss_at_pushed_rows():
    told = MF._told(TRAIN, event_weights(TRAIN, None))
    rng = np.random.default_rng(0)
    start = {name: torch.tensor(x, requires_grad=True) for name, x in MF.init(rng, told.likes.shape).items()}
    parts, weight = next(MF.batches(told, rng, 0))
    batch, weight = [torch.as_tensor(x) for x in parts], torch.as_tensor(weight)
    plain = MF.loss(start, batch, weight)
    slope = torch.autograd.grad(plain, start["vectors"])[0]
    push = 0.3 * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
    at_pushed = MF.loss({"vectors": start["vectors"] + push}, batch, weight)
    found = _Pushed(MF, Adversarial(0.3, 2.0), 1, 0.01, None).loss(start, batch, weight)
    assert torch.allclose(found, plain + 2 * at_pushed)
    assert at_pushed > plain  # the push is uphill


def test_users_that_fit_well_are_pushed_further():
    user = torch.tensor([0, 0, 2, 3])
    losses = torch.tensor([1.0, 3.0, 0.5, 8.0])
    own = torch.tensor([2.0, 0.5, 8.0])
    wanted = 2 * torch.sigmoid(own.mean() / own - 1)
    assert torch.allclose(_lengths(user, losses, 5)[[0, 2, 3]], wanted)
    assert torch.equal(_lengths(user, losses, 5)[[1, 4]], torch.ones(2))


@pytest.mark.parametrize("victim", [MF, CML(epochs=2, batch=64, rank=4, negatives=2)], ids=lambda one: one.kind)
def test_adversarial_training_of_any_model_trained_by_gradient(victim):
    way = Adversarial(epsilon=0.2)
    model = way.fit(victim, TRAIN, rng=0)
    assert lists(model, TRAIN).equals(lists(way.fit(victim, TRAIN, rng=0), TRAIN))
    assert not lists(model, TRAIN).equals(lists(Plain().fit(victim, TRAIN, rng=0), TRAIN))
    only_warm = dataclasses.replace(way, warm=1.0).fit(victim, TRAIN, rng=0)
    assert lists(only_warm, TRAIN).equals(lists(Plain().fit(victim, TRAIN, rng=0), TRAIN))


def test_per_user_lengths_are_for_lightgcn():
    way = Adversarial(per_user=True)
    assert isinstance(way, Choosy)
    assert way.suits(MF)
    assert not way.suits(CML())
    assert len(lists(way.fit(MF, TRAIN, rng=0), TRAIN))
    with pytest.raises(InvalidArgument, match="LightGCN"):
        way.fit(CML(), TRAIN)
    with pytest.raises(InvalidArgument, match="trained by gradient"):
        Adversarial().fit(ItemKNN(), TRAIN)


@pytest.mark.parametrize(
    "way",
    [
        Distrust(Informer(), share=1.0), Distrust(Informer(), share=-0.1), Distrust(Informer(), weight=2.0),
        Cap(1.5), Trimmed(share=1.0), Trimmed(rounds=0), Welsch(scale=0.0), Welsch(rounds=0),
    ],
    ids=repr,
)  # fmt: skip
def test_bad_settings(way):
    with pytest.raises(InvalidArgument, match="expected"):
        way.fit(ItemKNN(), TRAIN)


def test_bad_adversarial_settings():
    for way in (Adversarial(epsilon=-1), Adversarial(weight=-1), Adversarial(warm=2)):
        with pytest.raises(InvalidArgument, match="expected"):
            way.fit(MF, TRAIN)


@pytest.mark.parametrize("victim", [ItemKNN, "itemknn", None])
def test_what_cannot_be_refitted(victim):
    with pytest.raises(InvalidArgument, match="cannot be refitted"):
        fresh(victim)
