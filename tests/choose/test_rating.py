"""Joint ratings: closed forms, brute force, planted worlds, invariances."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit, logsumexp

from tastemaker.choose.belief import Belief, Prior, outcomes
from tastemaker.choose.rating import bootstrap, fit, learned
from tastemaker.choose.votes import Vote, both_bad, dislike, like, pair, pick, sort, tie
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument, UnknownId, UnknownName
from tests.choose.worlds import pairs

AB = Vocabulary.of(["a", "b"])
ABCD = Vocabulary.of(["a", "b", "c", "d"])
FLAT = Prior(items=1e4, bar=1e4, tie=(0, 1e4))


def test_two_items_have_a_closed_form():
    votes = [Vote(pair("a", "b"))] * 7 + [Vote(pair("b", "a"))] * 3
    mode = fit(votes, AB, prior=FLAT).mode
    assert mode[0] - mode[1] == pytest.approx(np.log(7 / 3), abs=1e-5)
    with_prior = fit(votes, AB, prior=Prior(items=1.5)).mode
    difference = brentq(lambda d: 10 * expit(d) - 7 + d / 2 / 1.5**2, -9, 9)
    assert with_prior[0] - with_prior[1] == pytest.approx(difference, abs=1e-7)
    assert with_prior[0] == pytest.approx(-with_prior[1], abs=1e-9)


def test_two_items_and_ties_have_a_closed_form():
    """Davidson: log(wins / losses), and the odds of a tie are ties / sqrt(wins losses)."""
    votes = [Vote(pair("a", "b", ties=True))] * 8 + [Vote(pair("b", "a", ties=True))] * 2 + [Vote(tie("a", "b"))] * 6
    mode = fit(votes, AB, prior=FLAT).mode
    assert mode[0] - mode[1] == pytest.approx(np.log(4), abs=1e-5)
    assert mode[3] == pytest.approx(np.log(6 / 4), abs=1e-5)


def test_likes_have_a_closed_form():
    votes = [Vote(like("a"))] * 9 + [Vote(dislike("a"))]
    mode = fit(votes, AB, prior=FLAT).mode
    assert mode[0] - mode[2] == pytest.approx(np.log(9), abs=1e-5)
    neither = [Vote(both_bad("a", "b", ties=False))] * 2 + [Vote(pair("a", "b", bad=True))] * 3
    neither += [Vote(pair("b", "a", bad=True))]
    mode = fit(neither, AB, prior=FLAT).mode
    np.testing.assert_allclose(mode[:2] - mode[2], np.log([1.5, 0.5]), atol=1e-5)


def log_posterior(b, votes, ids, prior):
    n = len(ids)
    spread = np.array([*[prior.items] * n, prior.bar, prior.tie[1]])
    value = -(((b - np.append(np.zeros(n + 1), prior.tie[0])) / spread) ** 2).sum() / 2
    for vote in votes:
        for choice in vote.choices:
            design, chosen = outcomes(choice, ids)
            value += vote.weight * ((design @ b)[chosen] - logsumexp(design @ b))
    return value


MIXED = [
    Vote(pair("a", "b", ties=True)), Vote(tie("b", "c"), weight=2.0), Vote(sort(["d", "a", "c"])),
    Vote(sort(["a", ["b", "d"], "c"])), Vote(pick("b", ["a", "b", "c", "d"])), Vote(like("a")), Vote(dislike("c")),
    Vote(both_bad("c", "d")), Vote(pair("d", "b", ties=True, bad=True), weight=0.5), Vote(pair("c", "a")),
]  # fmt: skip


def test_every_kind_of_vote_equals_brute_force():
    prior = Prior()
    found = fit(MIXED, ABCD, prior=prior)
    best = minimize(lambda b: -log_posterior(b, MIXED, ABCD, prior), np.zeros(6), tol=1e-12)
    np.testing.assert_allclose(found.mode, best.x, atol=2e-5)
    step = 1e-3
    eye = step * np.eye(6)
    hessian = np.array(
        [
            [
                -sum(
                    s * t * log_posterior(found.mode + s * eye[i] + t * eye[j], MIXED, ABCD, prior)
                    for s in (1, -1)
                    for t in (1, -1)
                )
                / (4 * step**2)
                for j in range(6)
            ]
            for i in range(6)
        ]
    )
    np.testing.assert_allclose(found.belief().cov, np.linalg.inv(hessian), atol=1e-4)


def test_sort_is_plackett_luce():
    u = np.array([0.3, -1.0, 0.5, 0.1, 0, 0])
    chances = []
    for order in permutations("abcd"):
        chance = 1.0
        for choice in sort(order):
            design, chosen = outcomes(choice, ABCD)
            chance *= np.exp((design @ u)[chosen] - logsumexp(design @ u))
        chances.append(chance)
    assert sum(chances) == pytest.approx(1)


def test_hierarchy_equals_a_dense_solution():
    """Persons and tags: minimise over every deviation, seen or not."""
    rng = np.random.default_rng(3)
    votes = [
        v
        for p, t in (("ada", "art"), ("bob", "art"), ("ada", "food"))
        for v in pairs(rng.normal(size=4), 12, rng, person=p, tag=t)
    ]
    ids, prior = Vocabulary.range(4), Prior()
    persons, tags = ["ada", "bob"], ["art", "food"]

    def utilities(b, person, tag):
        table = b.reshape(5, 4)
        return table[0] + table[1 + persons.index(person)] + table[3 + tags.index(tag)]

    def loss(b):
        table = b.reshape(5, 4)
        value = (table[0] ** 2).sum() / prior.items**2 + (table[1:3] ** 2).sum() / prior.person**2
        value = (value + (table[3:] ** 2).sum() / prior.tag**2) / 2
        for vote in votes:
            u = utilities(b, vote.person, vote.tag)
            value += logsumexp(u[list(vote.choices[0].among)]) - u[vote.choices[0].chosen[0]]
        return value

    best = minimize(loss, np.zeros(20), tol=1e-12).x
    found = fit(votes, ids, prior=prior)
    np.testing.assert_allclose(found.belief().mean[:4], best[:4], atol=1e-4)
    for person, tag in (("ada", "food"), ("bob", "art"), ("bob", "food")):
        np.testing.assert_allclose(
            found.belief(person=person, tag=tag).mean[:4], utilities(best, person, tag), atol=1e-4
        )


def test_covariances_are_those_of_the_whole_curvature():
    """Of the crowd, a person, a tag and both: the crowd's share is solved for once, the deviations' one by one."""
    rng = np.random.default_rng(5)
    votes = [
        vote
        for person, tag in (("ada", "art"), ("bob", "art"), ("ada", "food"))
        for vote in pairs(rng.normal(size=3), 6, rng, person=person, tag=tag)
    ]
    votes.append(Vote(pick(3, [2, 3]), "bob", "food"))
    found = fit(votes, Vocabulary.range(4))
    whole, own = found._curvature.solve(np.eye(len(found.mode))), found._design.deviations
    for person, tag in ((None, None), ("ada", None), (None, "food"), ("bob", "food"), ("new", "art")):
        which, extra = np.eye(6, len(whole)), np.zeros(6)
        for kind, name, spread in (("person", person, found.prior.person), ("tag", tag, found.prior.tag)):
            for row in range(5 if name else 0):
                if (at := own.get((kind, name), {}).get(row)) is None:
                    extra[row] += spread**2
                else:
                    which[row, at] = 1
        belief = found.belief(person=person, tag=tag)
        np.testing.assert_allclose(belief.cov, which @ whole @ which.T + np.diag(extra), rtol=1e-9, atol=1e-12)


def test_a_person_deviates_and_a_newcomer_is_the_crowd():
    rng = np.random.default_rng(0)
    crowd = np.linspace(1.5, -1.5, 6)
    votes = [v for i in range(8) for v in pairs(crowd, 40, rng, person=f"p{i}")]
    votes += pairs(-crowd, 60, rng, person="contrary")
    found = fit(votes, Vocabulary.range(6))
    everybody, contrary = found.belief().mean[:6], found.belief(person="contrary").mean[:6]
    assert np.corrcoef(everybody, crowd)[0, 1] > 0.95
    assert np.corrcoef(contrary, crowd)[0, 1] < -0.5
    alone = fit([v for v in votes if v.person == "contrary"], Vocabulary.range(6)).belief(person="contrary").mean[:6]
    assert contrary[0] - contrary[-1] > alone[0] - alone[-1]  # pulled towards the crowd
    new = found.belief(person="nobody")
    np.testing.assert_allclose(new.mean, found.belief().mean)
    assert (np.diag(new.cov)[:6] > np.diag(found.belief().cov)[:6] + 0.48).all()
    assert found.leaderboard(person="nobody").about == "person 'nobody', who has not voted"
    assert new.votes.sum() == 0
    assert found.belief(person="contrary").votes.sum() == 120


def test_tags_have_boards_of_their_own():
    rng = np.random.default_rng(1)
    taste = np.array([1.0, 0, -1])
    votes = pairs(taste, 80, rng, tag="art") + pairs(-taste, 80, rng, tag="food")
    found = fit(votes, Vocabulary.range(3))
    assert found.leaderboard(tag="art").table["id"].to_list() == [0, 1, 2]
    assert found.leaderboard(tag="food").table["id"].to_list() == [2, 1, 0]
    with pytest.raises(UnknownName, match="did you mean 'food'"):
        found.belief(tag="foot")


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 99))
def test_names_and_sides_do_not_matter(names, seed):
    rng = np.random.default_rng(seed)
    votes = pairs(rng.normal(size=5), 30, rng, ties=True, bad=True, person="p")
    plain = fit(votes, Vocabulary.range(5)).leaderboard(person="p").table

    def named(item):
        return None if item is None else names[item]

    turned = [
        Vote(tuple(type(c)(tuple(map(named, c.chosen)), tuple(map(named, reversed(c.among))), c.ties)
                   for c in v.choices), v.person)
        for v in votes
    ]  # fmt: skip
    board = fit(turned, Vocabulary.range(5)).leaderboard(person="p").table
    back = plain.with_columns(pl.Series("id", [names[i] for i in plain["id"]], dtype=pl.Int64))
    left, right = back.sort("id").drop("rank"), board.sort("id").drop("rank")
    for name in left.columns:
        np.testing.assert_allclose(left[name], right[name], atol=1e-6)


def test_weight_is_how_often():
    rng = np.random.default_rng(2)
    votes = pairs(rng.normal(size=4), 20, rng, person="p")
    twice = fit([*votes, *votes], Vocabulary.range(4)).mode
    weighed = fit([Vote(v.choices, v.person, v.tag, 2.0) for v in votes], Vocabulary.range(4)).mode
    np.testing.assert_allclose(twice, weighed, atol=1e-8)


def test_intervals_cover_planted_ratings():
    """Items drawn from the prior: 90 % intervals hold the truth in about 90 % of cases, ranks in at least that."""
    rng = np.random.default_rng(5)
    held, ranks, total = 0, 0, 0
    for _ in range(60):
        truth = rng.normal(size=6)
        board = fit(pairs(truth, 40, rng, ties=True), Vocabulary.range(6), prior=Prior(items=1.0)).leaderboard(
            level=0.9
        )
        table = board.table.sort("id")
        centred, place = truth - truth.mean(), (-truth).argsort().argsort() + 1
        held += int(((table["low"].to_numpy() <= centred) & (centred <= table["high"].to_numpy())).sum())
        ranks += int(((table["rank_low"].to_numpy() <= place) & (place <= table["rank_high"].to_numpy())).sum())
        total += 6
    assert 0.85 < held / total < 0.95
    assert ranks / total > 0.9


def test_bootstrap_agrees_with_laplace():
    rng = np.random.default_rng(7)
    votes = pairs(np.linspace(1, -1, 4), 300, rng)
    table = fit(votes, Vocabulary.range(4)).leaderboard(level=0.9).table.sort("id")
    drawn = bootstrap(votes, Vocabulary.range(4), draws=150, rng=1)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    width = table["high"].to_numpy() - table["low"].to_numpy()
    np.testing.assert_allclose((high - low) / width, 1, atol=0.25)
    np.testing.assert_array_equal(drawn, bootstrap(votes, Vocabulary.range(4), draws=150, rng=1))


def test_evidence_prefers_the_true_spread():
    rng = np.random.default_rng(9)
    votes = [v for i in range(10) for v in pairs(rng.normal(0, 2, 4), 30, rng, person=f"p{i}")]
    spreads = [0.1, 2.0]
    evidence = [fit(votes, Vocabulary.range(4), prior=Prior(items=0.5, person=s)).evidence for s in spreads]
    assert evidence[1] > evidence[0]


def test_spreads_are_learned():
    rng = np.random.default_rng(11)
    crowd = rng.normal(0, 0.5, 6)
    votes = [v for i in range(12) for v in pairs(crowd + rng.normal(0, 1.5, 6), 60, rng, person=f"p{i}")]
    found = learned(votes, Vocabulary.range(6))
    assert 1.0 < found.person < 2.3
    assert found.items < 1.5
    assert (found.tag, found.bar, found.tie) == (Prior().tag, Prior().bar, Prior().tie)


def test_bad_input():
    with pytest.raises(DataError, match="no votes"):
        fit([], AB)
    with pytest.raises(UnknownId, match="unknown"):
        fit([Vote(pair("a", "zebra"))], AB)
    with pytest.raises(DataError, match="ids of type"):
        fit([Vote(pair(1, 2))], AB)
    with pytest.raises(InvalidArgument, match="prior person"):
        Prior(person=0)
    with pytest.raises(InvalidArgument, match="prior tie"):
        Prior(tie=(0, -1))
    with pytest.raises(InvalidArgument, match="level"):
        Belief.start(AB).leaderboard(level=95)
    with pytest.raises(InvalidArgument, match="no items"):
        Belief.start(Vocabulary.range(0))
