"""Rigged votes on planted worlds: the bound holds for every strategy tried, the attack works."""

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit

from tastemaker.choose.belief import Prior
from tastemaker.choose.rating import design_of, fit, loss, solve
from tastemaker.choose.rigging import _lost, capped, rank_of, reach, rigged_votes_needed, surprise
from tastemaker.choose.votes import Vote, pair
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId
from tests.choose.worlds import pairs

IDS = Vocabulary.range(6)


def world(votes=300, **who):
    rng = np.random.default_rng(4)
    return pairs(np.linspace(1.5, -1.5, 6), votes, rng, **who)


@pytest.mark.parametrize("lead", [0.0, 0.5, 2.0, 6.0])
def test_what_one_vote_can_do(lead):
    best = minimize_scalar(lambda z: -(1 - expit(z)) * (z + lead), bounds=(-lead, 20), method="bounded")
    assert reach(lead) == pytest.approx(-best.fun, rel=1e-5)


@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_bound_and_attack(wanted):
    votes = world()
    found = rigged_votes_needed(votes, IDS, 5, wanted)
    assert found.rank == 6
    assert 1 <= found.at_least <= found.enough < np.inf
    share = found.enough / len(found.against)
    rigged = [*votes, *(Vote(pair(5, rival), weight=share) for rival in found.against)]
    assert rank_of(fit(rigged, IDS).mode[:6], 5) <= wanted
    assert f"at least {found.at_least}" in str(found)


@pytest.mark.parametrize("other", [0, 2, 3])
def test_likelihood_lost_equals_a_general_optimiser(other):
    votes = world(60, person="ada")
    design, weight = design_of(votes, IDS, Prior()), np.ones(60)
    mode, least, _ = solve(design, weight, design.centre)
    rule = {"type": "ineq", "fun": lambda b: b[5] - b[other]}
    found = minimize(
        lambda b: loss(design, weight, b)[0],
        mode,
        jac=lambda b: loss(design, weight, b)[1],
        constraints=rule,
        tol=1e-12,
    )
    assert _lost(design, weight, mode, 5, other) == pytest.approx(found.fun, abs=1e-5)
    assert found.fun > least


def test_no_greedy_strategy_beats_the_bound():
    """One vote after another, each the one of all pairs that brings the target nearest."""
    votes = world(60)
    found = rigged_votes_needed(votes, IDS, 5, 1)
    count = 0
    while rank_of((mode := fit(votes, IDS).mode[:6]), 5) > 1:
        rival = int(np.argmax(np.delete(mode, 5)))
        votes, count = [*votes, Vote(pair(5, rival), person=f"fake{count}")], count + 1
    assert count >= found.at_least


def test_two_items_are_exact():
    """70 : 30 between two: 40 rigged wins turn it, less what the prior gives away."""
    votes = [Vote(pair("a", "b"))] * 70 + [Vote(pair("b", "a"))] * 30
    found = rigged_votes_needed(votes, Vocabulary.of(["a", "b"]), "b", 1)
    assert found.enough == 40
    assert 8 <= found.at_least <= 40


def test_more_honest_votes_cost_more():
    few, many = (rigged_votes_needed(world(n), IDS, 5, 1) for n in (60, 600))
    assert many.at_least > 3 * few.at_least
    assert many.enough > 3 * few.enough


def test_persons_and_tags():
    votes = world(80, person="ada", tag="art") + world(80, person="bob")
    found = rigged_votes_needed(votes, IDS, 5, 2)
    assert 1 <= found.at_least <= found.enough


def test_bad_input():
    with pytest.raises(InvalidArgument, match="expected a rank from 1 to 5"):
        rigged_votes_needed(world(), IDS, 5, 6)
    with pytest.raises(InvalidArgument, match="has rank 1"):
        rigged_votes_needed(world(), IDS, 0, 1)
    with pytest.raises(UnknownId):
        rigged_votes_needed(world(), IDS, 77, 1)


def people(n=30, each=20):
    rng = np.random.default_rng(7)
    votes = []
    for number in range(n):
        own = np.linspace(1.5, -1.5, 6) + rng.normal(0, 0.7, 6)
        votes += pairs(own, each, rng, person=f"p{number}")
    return votes


def test_a_cap_is_of_a_person():
    votes = [*people(3), Vote(pair(0, 1)), *[Vote(pair(5, 0), "p1", weight=3.0)] * 10]
    total = {}
    for vote in capped(votes, 20):
        total[vote.person] = total.get(vote.person, 0) + vote.weight
    assert total == {"p0": pytest.approx(20), "p1": pytest.approx(20), "p2": pytest.approx(20), None: 1}
    assert [vote.choices for vote in capped(votes, 20)] == [vote.choices for vote in votes]
    assert sum(vote.weight for vote in capped([Vote(pair(0, 1))] * 50, 20)) == pytest.approx(20)
    with pytest.raises(InvalidArgument, match="most = 0"):
        capped(votes, 0)


def test_no_single_account_turns_a_capped_board():
    votes = people()
    bought = [Vote(pair(5, rival), "fake") for rival in range(5)] * 2000
    assert rank_of(fit([*votes, *bought], IDS).mode[:6], 5) < 6
    assert rank_of(fit(capped([*votes, *bought], 20), IDS).mode[:6], 5) == 6


def test_accounts_that_only_push_are_found():
    votes = people()
    bought = [Vote(pair(5, rival), f"fake{n}") for n in range(5) for rival in range(5) for _ in range(4)]
    found = surprise([*votes, *bought, Vote(pair(5, 0))], IDS)
    assert min(off for person, off in found.items() if person.startswith("fake")) > 3
    assert max(off for person, off in found.items() if person.startswith("p")) < 2
    assert None not in found
    assert surprise([Vote(pair(5, 0))], IDS) == {}


def test_the_bound_in_accounts_holds_where_votes_are_capped():
    votes = people()
    least = int(np.ceil(rigged_votes_needed(votes, IDS, 5, 1).at_least / 20))
    for n in range(least):
        bought = [Vote(pair(5, rival), f"fake{k}") for k in range(n) for rival in range(5) for _ in range(40)]
        assert rank_of(fit(capped([*votes, *bought], 20), IDS).mode[:6], 5) > 1
