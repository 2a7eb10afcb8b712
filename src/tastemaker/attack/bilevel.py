"""Fake users learned by gradient: the bi-level attack of Tang, Wen and Wang (RecSys 2020, arXiv 2008.04876).

    min over fake clicks X^ of L_adv(scores of theta*)     where theta* trains a surrogate on real and fake clicks

Each round trains a surrogate on the log with the current fakes, takes the gradient of L_adv with respect to every fake
cell through that training, steps along it, and makes clicks of it again. This is a red-team drill: it reads a log, and
returns fake users to retrain your own models with (`profiles.poisoned` marks their rows).

`PAPER` is the published loop, `NOTEBOOK` that of its synthetic experiment, `Loop()` ours. What differs, and why:

- Published, every round starts the surrogate from one seed, and the attack overfits that initialisation: a fresh seed
  for the same model halves its effect. Ours draws a new one each round, so what is measured was not trained on.
- Published, clicks are where the iterate exceeds a threshold, so their number is whatever comes out. Ours clicks
  exactly what the budget allows, and keeps the real-valued iterate: steps too small to move a click today add up.
- Published, the last update is never looked at. Ours trains once more, and the best iterate may be the last.

Easy to get wrong: the hit rate of a round belongs to the fakes it began with. A fake user whose gradient is zero takes
no step (published: a division by zero that empties the profile for good).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.attack.bilevel_loss import Adversary, Mode, Surrogate, known
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.clicks import Clicks
from tastemaker.attack.profiles import Budget, Fakes, Knowledge, Progress, by_count, by_threshold, target_rows
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Array = NDArray[Any]
LONGEST_START = 100  # clicks of a real user whose row a fake user may start from, as published


@dataclass(frozen=True)
class Loop:
    """The outer loop.

    Attributes:
        learning_rate, momentum: of the steps on fake clicks.
        normalise: give every fake user's gradient length 1.
        tau: click where the iterate exceeds this, whatever the number; None for exactly the clicks of the budget.
        fresh_seeds: train every round's surrogate from a new seed.
        seeds: surrogates a round; their gradients and hit rates are averaged.
        random_start: fake users start from random real rows of at most 100 clicks; else from the first ones.
        click_targets: fake users always click all targets.
        judge_last: train once more to judge the last update.
    """

    learning_rate: float = 1.0
    momentum: float = 0.9
    normalise: bool = True
    tau: float | None = None
    fresh_seeds: bool = True
    seeds: int = 1
    random_start: bool = True
    click_targets: bool = False
    judge_last: bool = True

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.seeds >= 1):
            raise InvalidArgument(
                f"learning_rate={self.learning_rate:g}, momentum={self.momentum:g}, seeds={self.seeds}; expected a "
                f"rate above 0, a momentum from 0 and below 1, and at least 1 seed"
            )


PAPER = Loop(momentum=0.95, tau=0.05, fresh_seeds=False, random_start=False, judge_last=False)
NOTEBOOK = dataclasses.replace(PAPER, tau=0.2, momentum=0.99, normalise=False)


def attack(
    log: FeedbackLog,
    targets: ArrayLike,
    budget: Budget,
    *,
    surrogate: Surrogate | None = None,
    gradient: Mode = "exact",
    rounds: int = 30,
    loop: Loop | None = None,
    knowledge: Knowledge | None = None,
    k: int = 50,
    rng: int | np.random.Generator | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> Fakes:
    """Learn fake users that put `targets` (item rows) into real users' first k.

    Args:
        log: signed; likes are clicks, dislikes are not seen by the attack.
        surrogate: what to train in place of the victim: `WMF()` (default), `ALS()`, `ItemAutoencoder()`.
        gradient: one of `surrogate.modes`.
        rounds: updates of the fake clicks.
        loop: the outer loop, `Loop()` by default; `PAPER` for the published one.
        knowledge: the part of the log the attacker sees; all by default.
        progress: called after each round.

    Raises UnknownId for targets that do not exist, InvalidArgument for a budget the log cannot hold or a log without
    clicks, UnknownName for a gradient the surrogate lacks.
    """
    model, how, draw = surrogate or WMF(), loop or Loop(), np.random.default_rng(rng)
    known(model, gradient)
    if rounds < 1 or k < 1:
        raise InvalidArgument(f"rounds={rounds}, k={k}; expected both at least 1")
    goals = target_rows(log, targets)
    n_fakes, n_clicks = budget.of(log)
    real, columns = (knowledge or Knowledge()).view(log, goals, draw)
    if n_clicks > len(columns):
        raise InvalidArgument(f"{n_clicks} clicks a fake user, but the attacker knows only {len(columns)} items")
    seen_goals = np.searchsorted(columns, goals).astype(np.int32)
    if how.click_targets and how.tau is None and n_clicks < len(goals):
        raise InvalidArgument(f"{n_clicks} clicks a fake user cannot hold {len(goals)} targets; allow more clicks")

    def project(x: Array) -> Array:
        if how.click_targets:
            x = x.copy()
            x[:, seen_goals] = np.inf
        return by_count(x, n_clicks) if how.tau is None else by_threshold(x, how.tau)

    iterate = fakes = _start(real, n_fakes, how, draw)
    if how.tau is None:  # a row short of clicks is filled up at random
        fakes = project(iterate + 1e-3 * draw.random(iterate.shape, np.float32))
    velocity, fixed = np.zeros_like(iterate), int(draw.integers(2**31))
    best, history = (-1.0, 0.0, fakes), list[Progress]()
    for number in range(rounds + how.judge_last):
        mode = gradient if number < rounds else None
        clicks = Clicks.build(real, fakes, model.weight)
        adversary = Adversary(seen_goals, clicks, k)
        solved = [
            model.solve(clicks, adversary, mode, np.random.default_rng(seed))
            for seed in (
                draw.integers(2**31, size=how.seeds) if how.fresh_seeds else [fixed + s for s in range(how.seeds)]
            )
        ]
        hit_rate = float(np.mean([judged.hit.mean() for judged, _ in solved]))
        loss = float(np.mean([judged.loss for judged, _ in solved]))
        best = max(best, (hit_rate, -loss, fakes), key=lambda one: one[:2])
        history.append(Progress(number, hit_rate, loss, float(fakes.sum(axis=1).mean())))
        if progress is not None:
            progress(history[-1])
        if mode is None:
            break
        step = np.mean([cells for _, cells in solved if cells is not None], axis=0)
        if how.click_targets:
            step[:, seen_goals] = 0
        if how.normalise:
            length = np.linalg.norm(step, axis=1, keepdims=True)
            step = np.divide(step, length, out=np.zeros_like(step), where=length > 0)
        velocity = how.momentum * velocity + step
        iterate = iterate - how.learning_rate * velocity
        fakes = project(iterate)
        if how.tau is not None:  # published: only the velocity remembers
            iterate = fakes
    chosen = np.zeros((n_fakes, log.n_items), np.float32)
    chosen[:, columns] = best[2]
    settings = {"gradient": gradient, "rounds": rounds, "k": k, "users": n_fakes, "clicks": n_clicks}
    settings |= dataclasses.asdict(how) | {"surrogate": repr(model), "knowledge": repr(knowledge or Knowledge())}
    return Fakes.of(chosen, goals, "bilevel", settings=settings, history=tuple(history))


def _start(real: sparse.csr_matrix, n: int, how: Loop, draw: np.random.Generator) -> Array:
    """Clicks of n real users, (n, n_items) float32; users repeat only where fewer than n are short enough."""
    short = np.flatnonzero(np.diff(real.indptr) <= LONGEST_START)
    if not len(short):
        short = np.arange(real.shape[0])
    order = draw.permutation(short) if how.random_start else short
    rows: Array = real[np.resize(order, n)].toarray().astype(np.float32)
    return rows
