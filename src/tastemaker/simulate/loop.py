"""The feedback loop: recommend, show, respond, retrain; over people whose every answer is known.

A recommender learns only from what was shown, and what is shown follows what it learned. `run` turns that wheel and
measures, round by round, what no real log can tell: how good what was shown truly was, and how wrong the model is about
everything that was *not* shown. Round 0 shows `start` random items to everybody; every later round shows
`shown_per_round` items, gets the answers, and fits the recommender again from scratch, on all events so far and, if
asked, with weights that undo the choice (`simulate.correct`). Nobody is shown an item twice. A `raid` (`simulate.raid`)
lets fake people in at some round, and a defence against them at another; they are learned from, but shown nothing.

Row r of the table speaks of what was shown in round r and of the model fitted after it; `simulate.judge` says what the
columns mean.

Easy to get wrong: a loop in which the policy sees nothing but what the model sees is *ignorable* (Rubin 1976): what is
missing depends on recorded answers only, and a model that can express the truth needs no weights. Weights are for
models that cannot, and for choices made with knowledge the log does not hold; they cost variance in either case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.attack.profiles import Fakes
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.debias.weight import effective_sample_size
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import Recommender
from tastemaker.simulate.correct import Weighting
from tastemaker.simulate.judge import METRICS, Judge, best
from tastemaker.simulate.people import People
from tastemaker.simulate.policy import Policy, Random, View, uniform
from tastemaker.simulate.raid import Raid

Floats = NDArray[np.float64]
ROUND = "round"


@dataclass(frozen=True, eq=False)
class LoopResult:
    """What a loop did.

    Attributes:
        table: one row a round, 0..rounds: `round` and METRICS.
        log: every event in the order it happened, with columns time (the person's step), random (shown at random, not
            by the policy's taste) and round; impressions row by row the events, with position in the round's slate,
            policy and the exact probability of being shown at that step.
        model: the recommender after the last round.
        lists: everybody's k best items by score after each round, seen ones included, in no order, shape
            (rounds + 1, n_users, k).
        fakes: who was let in, if anybody.
        doubted: for each round of a defence, whom it trusted less, shape (n_users + n_fakes,).
    """

    table: pl.DataFrame
    log: FeedbackLog
    model: Recommender[Any]
    lists: NDArray[np.int32]
    fakes: Fakes | None = None
    doubted: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)


def run(
    people: People,
    recommender: Recommender[Any],
    policy: Policy,
    *,
    rounds: int,
    shown_per_round: int = 1,
    start: int = 5,
    correct: Weighting | None = None,
    raid: Raid | None = None,
    k: int = 10,
    rng: int | np.random.Generator | None = None,
    after_round: Callable[[int], object] | None = None,
) -> LoopResult:
    """Turn the wheel.

    Args:
        people: who answers.
        recommender: the configuration that is fitted anew after every round; the object itself stays untouched.
        policy: who is shown what.
        rounds, shown_per_round: how often, and how many items a person each time.
        start: uniformly random items a person before round 1; at least 1, for a model needs something to learn from.
        correct: weights of the events for every fit, such as `correct.levelled` or `correct.estimated(model)`.
        raid: an attack and a defence; needs people who answer on a signed scale.
        k: length of the lists that are judged.
        rng: seed or generator; the same seed gives the same result.
        after_round: called with the number of each round that is done, for progress.
    """
    n_users, n_items = people.truth.shape
    needed = start + rounds * shown_per_round
    if min(rounds, shown_per_round, start) < 1 or needed > n_items:
        raise InvalidArgument(
            f"start={start}, rounds={rounds}, shown_per_round={shown_per_round} need {needed} items a person; "
            f"expected each at least 1, and together no more than the {n_items} items there are"
        )
    if not 1 <= k <= n_items:
        raise InvalidArgument(f"k={k}; expected 1..{n_items}")
    if not 0 <= policy.explore <= 1:
        raise InvalidArgument(f"explore={policy.explore:g}; expected a share between 0 and 1")
    if raid is not None:
        raid.check(people.scale, rounds)
    rng = np.random.default_rng(rng)
    judge = Judge.of(people.truth, k)
    unseen = np.ones((n_users, n_items), bool)
    log, model, scores = _nothing(people), recommender, np.zeros((n_users, n_items))
    rows: list[dict[str, float | None]] = []
    lists: list[NDArray[np.int32]] = []
    fakes: Fakes | None = None
    doubted: dict[int, NDArray[np.bool_]] = {}
    for turn in range(rounds + 1):
        rule: Policy = policy if turn else Random()
        view = View(scores, unseen, log, model.fitted if turn else None)
        slate = show(rule, view, shown_per_round if turn else start, rng)
        on_show = judge.shown(slate.items, np.bincount(log.item, minlength=n_items))
        log = _append(log, slate, people, rule.name, turn, rng)
        weight = None if correct is None else correct(log, rng)
        if raid is not None and turn == raid.begins:
            fakes = raid.fakes(log)
        if raid is None or fakes is None:
            model = dataclasses.replace(recommender).fit(log, weight=weight, rng=rng)
        else:
            model, doubts = raid.fit(recommender, log, fakes, weight=weight, turn=turn, rng=rng)
            doubted |= {} if doubts is None else {turn: doubts}
        scores = all_scores(model)[:n_users]
        lists.append(best(scores, k))
        effective = 1.0 if weight is None else effective_sample_size(weight) / len(log)
        rows.append({ROUND: turn, **on_show, **judge.scores(scores), "effective": effective})
        if after_round is not None:
            after_round(turn)
    return LoopResult(pl.DataFrame(rows).select(ROUND, *METRICS), log, model, np.stack(lists), fakes, doubted)


# -- showing and answering ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Slate:
    """What everybody is shown in one round, place by place.

    items: shape (n_users, places); probability: of being shown at that step, given everything before; random: True
    where the item was drawn from the explore share.
    """

    items: NDArray[np.int32]
    probability: Floats
    random: NDArray[np.bool_]


def show(policy: Policy, view: View, places: int, rng: np.random.Generator) -> Slate:
    """Draw `places` items a person, and mark them as seen in `view.unseen`, in place."""
    n_users = len(view.unseen)
    rows, explore = np.arange(n_users), policy.explore
    items = np.empty((n_users, places), np.int32)
    probability, random = np.empty((n_users, places)), np.empty((n_users, places), bool)
    for place in range(places):
        by_chance = uniform(view.unseen)
        by_policy = policy.chances(view, rng) if explore < 1 else by_chance
        random[:, place] = rng.random(n_users) < explore
        running = np.cumsum(np.where(random[:, place, None], by_chance, by_policy), axis=1)
        # The first item whose running sum exceeds the draw; an item of probability 0 never is the first.
        item = (running > rng.random((n_users, 1)) * running[:, -1:]).argmax(axis=1)
        items[:, place] = item
        probability[:, place] = explore * by_chance[rows, item] + (1 - explore) * by_policy[rows, item]
        view.unseen[rows, item] = False
    return Slate(items, np.minimum(probability, 1.0), random)


def _nothing(people: People) -> FeedbackLog:
    """A log without events; the types of its columns are those of every later one."""
    n_users, n_items = people.truth.shape
    key = {c.USER: pl.Int32, c.ITEM: pl.Int32, c.TIME: pl.Int64}
    events = pl.DataFrame(schema=key | {c.VALUE: pl.Float32, c.RANDOM: pl.Boolean, ROUND: pl.Int32})
    shown = pl.DataFrame(schema=key | {c.POSITION: pl.Int32, c.POLICY: pl.String, c.PROBABILITY: pl.Float64})
    note = "a simulated feedback loop"
    return FeedbackLog(events, Vocabulary.range(n_users), Vocabulary.range(n_items), people.scale, shown, (note,))


def _append(
    log: FeedbackLog, slate: Slate, people: People, policy: str, turn: int, rng: np.random.Generator
) -> FeedbackLog:
    """The log with the answers to a slate: place by place, and in each place person by person."""
    n_users, places = slate.items.shape
    user = np.tile(np.arange(n_users, dtype=np.int32), places)
    item = slate.items.T.ravel()
    position = np.repeat(np.arange(places, dtype=np.int32), n_users)
    key = {c.USER: user, c.ITEM: item, c.TIME: position.astype(np.int64) + len(log) // n_users}
    answers = {c.VALUE: people.respond(user, item, rng), c.RANDOM: slate.random.T.ravel()}
    reason = {c.POSITION: position, c.POLICY: [policy] * len(user), c.PROBABILITY: slate.probability.T.ravel()}
    events = pl.DataFrame(key | answers | {ROUND: np.full(len(user), turn, np.int32)})
    assert log.impressions is not None
    return dataclasses.replace(
        log,
        events=pl.concat([log.events, events]),
        impressions=pl.concat([log.impressions, pl.DataFrame(key | reason)]),
    )


def all_scores(model: Recommender[Any]) -> Floats:
    """Score of every item for every person, shape (n_users, n_items)."""
    n_users, n_items = len(model.fitted.user_ids), len(model.fitted.item_ids)
    users, items = np.divmod(np.arange(n_users * n_items), n_items)
    return model.score(users, items).reshape(n_users, n_items).astype(np.float64)
