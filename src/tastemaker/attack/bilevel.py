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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.attack.bilevel_loss import (
    Adversary,
    Diverged,
    Mode,
    Problem,
    Solved,
    Surrogate,
    known,
    positive,
    solve,
    whole,
)
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.clicks import Clicks
from tastemaker.attack.profiles import (
    Budget,
    Fakes,
    Knowledge,
    Progress,
    by_count,
    by_threshold,
    generator,
    is_whole,
    target_rows,
)
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Array = NDArray[Any]
LOWER = "lower the surrogate's learning_rate (or weight, decay or init), or unroll fewer epochs"
LONGEST_START = 100  # clicks of a real user whose row a fake user may start from, as published


@dataclass(frozen=True)
class Loop:
    """The outer loop.

    Attributes:
        learning_rate, momentum: of the steps on fake clicks.
        normalise: give every fake user's gradient length 1.
        tau: click where the iterate exceeds this, whatever the number; None for exactly the clicks of the budget.
        fresh_seeds: train every round's surrogate from a new seed.
        seeds: surrogates a round, trained side by side where they can; their gradients and hit rates are averaged.
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
        whole(self, "seeds")
        positive(self, "learning_rate")
        if not 0 <= self.momentum < 1:
            raise InvalidArgument(f"Loop(momentum={self.momentum!r}); expected a number from 0 and below 1")
        if self.tau is not None and not np.isfinite(self.tau):
            raise InvalidArgument(
                f"Loop(tau={self.tau!r}); expected a finite threshold, or None for a budget of clicks"
            )


PAPER = Loop(momentum=0.95, tau=0.05, fresh_seeds=False, random_start=False, judge_last=False)
NOTEBOOK = dataclasses.replace(PAPER, tau=0.2, momentum=0.99, normalise=False)


@dataclass(frozen=True, eq=False)
class Aim:
    """One attacker's problem: targets (item rows), what they may spend, and their randomness."""

    targets: ArrayLike
    budget: Budget
    rng: int | np.random.Generator | None = None


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
    clicks, UnknownName for a gradient the surrogate lacks, Diverged where training or its gradient is not finite.
    """
    told = None if progress is None else lambda _, one: progress(one)
    return attack_many(
        log, [Aim(targets, budget, rng)], surrogate=surrogate, gradient=gradient, rounds=rounds, loop=loop,
        knowledge=knowledge, k=k, progress=told,
    )[0]  # fmt: skip


def attack_many(
    log: FeedbackLog,
    aims: Sequence[Aim],
    *,
    surrogate: Surrogate | None = None,
    gradient: Mode = "exact",
    rounds: int = 30,
    loop: Loop | None = None,
    knowledge: Knowledge | None = None,
    k: int = 50,
    progress: Callable[[int, Progress], Any] | None = None,
) -> list[Fakes]:
    """`attack` for several seeds, target sets or budgets at once, with the same fakes as one after the other.

    A surrogate that can trains them side by side: `WMF` does, to the last bit, where they have as many users each and
    are small; memory grows with how many. `progress` is called with the place of the aim in `aims`; an error names it.
    """
    model, how = surrogate or WMF(), loop or Loop()
    known(model, gradient)
    if not (is_whole(rounds) and is_whole(k)):
        raise InvalidArgument(f"rounds={rounds!r}, k={k!r}; expected whole numbers from 1")
    drawn = [one.rng for one in aims if isinstance(one.rng, np.random.Generator)]
    if len({id(one) for one in drawn}) < len(drawn):
        raise InvalidArgument("several aims share one random generator; give each its own, or a seed")
    view = knowledge or Knowledge()
    attackers = [_Attacker(log, one, how, view, k) for one in aims]
    for number in range(rounds + how.judge_last):
        mode = gradient if number < rounds else None
        problems = [one.problems(model.weight) for one in attackers]
        solved = solve(model, [problem for some in problems for problem in some], mode)
        for place, one in enumerate(attackers):
            own = solved[place * how.seeds : (place + 1) * how.seeds]
            where = f"round {number}" if len(aims) == 1 else f"aim {place}, round {number}"
            one.look(number, own, where)
            if progress is not None:
                progress(place, one.history[-1])
            if mode is not None:
                one.move(where, [cells for _, cells in own if cells is not None])
    settings = {"gradient": gradient, "rounds": rounds, "k": k}
    more = dataclasses.asdict(how) | {"surrogate": repr(model), "knowledge": repr(view)}
    return [one.result(settings, more) for one in attackers]


class _Attacker:
    """One aim on its way through the rounds: the real-valued iterate, the clicks made of it, the best so far."""

    def __init__(self, log: FeedbackLog, aim: Aim, how: Loop, knowledge: Knowledge, k: int) -> None:
        self.draw, self.how, self.k, self.log = generator(aim.rng), how, k, log
        self.goals = target_rows(log, aim.targets)
        n_fakes, self.n_clicks = aim.budget.of(log)
        self.real, self.columns = knowledge.view(log, self.goals, self.draw)
        if self.n_clicks > len(self.columns):
            raise InvalidArgument(
                f"{self.n_clicks} clicks a fake user, but the attacker knows only {len(self.columns)} items"
            )
        self.seen_goals = np.searchsorted(self.columns, self.goals).astype(np.int32)
        if how.click_targets and how.tau is None and self.n_clicks < len(self.goals):
            raise InvalidArgument(
                f"{self.n_clicks} clicks a fake user cannot hold {len(self.goals)} targets; allow more clicks"
            )
        self.iterate = self.fakes = _start(self.real, n_fakes, how, self.draw)
        if how.tau is None:  # a row short of clicks is filled up at random
            self.fakes = self.project(self.iterate + 1e-3 * self.draw.random(self.iterate.shape, np.float32))
        self.velocity, self.fixed = np.zeros_like(self.iterate), int(self.draw.integers(2**31))
        self.best, self.history = (-1.0, 0.0, self.fakes), list[Progress]()

    def project(self, x: Array) -> Array:
        if self.how.click_targets:
            x = x.copy()
            x[:, self.seen_goals] = np.inf
        return by_count(x, self.n_clicks) if self.how.tau is None else by_threshold(x, self.how.tau)

    def problems(self, weight: float) -> list[Problem]:
        """This round's: the current fakes, once a surrogate seed."""
        clicks = Clicks.build(self.real, self.fakes, weight)
        adversary, n = Adversary(self.seen_goals, clicks, self.k), self.how.seeds
        seeds = self.draw.integers(2**31, size=n) if self.how.fresh_seeds else [self.fixed + s for s in range(n)]
        return [Problem(clicks, adversary, np.random.default_rng(seed)) for seed in seeds]

    def look(self, number: int, solved: Sequence[Solved], where: str) -> None:
        """How good the round's fakes are."""
        hit_rate = float(np.mean([judged.hit.mean() for judged, _ in solved]))
        loss = float(np.mean([judged.loss for judged, _ in solved]))
        if not np.isfinite(loss):
            raise Diverged(f"{where}: the surrogate's training diverged (its loss is {loss}); {LOWER}")
        self.best = max(self.best, (hit_rate, -loss, self.fakes), key=lambda one: one[:2])
        self.history.append(Progress(number, hit_rate, loss, float(self.fakes.sum(axis=1).mean())))

    def move(self, where: str, cells: Sequence[Array]) -> None:
        """One step along the gradient, and clicks made of where it leads."""
        step = np.mean(cells, axis=0)
        if self.how.click_targets:
            step[:, self.seen_goals] = 0
        length = np.linalg.norm(step, axis=1, keepdims=True)
        if bad := int((~np.isfinite(length)).sum()):
            raise Diverged(f"{where}: the gradients of {bad} of {len(step)} fake users are not finite; {LOWER}")
        if self.how.normalise:
            step = np.divide(step, length, out=np.zeros_like(step), where=length > 0)
        self.velocity = self.how.momentum * self.velocity + step
        self.iterate = self.iterate - self.how.learning_rate * self.velocity
        self.fakes = self.project(self.iterate)
        if self.how.tau is not None:  # published: only the velocity remembers
            self.iterate = self.fakes

    def result(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Fakes:
        chosen = np.zeros((len(self.fakes), self.log.n_items), np.float32)
        chosen[:, self.columns] = self.best[2]
        settings = {**before, "users": len(self.fakes), "clicks": self.n_clicks, **after}
        return Fakes.of(chosen, self.goals, "bilevel", settings=settings, history=tuple(self.history))


def _start(real: sparse.csr_matrix, n: int, how: Loop, draw: np.random.Generator) -> Array:
    """Clicks of n real users, (n, n_items) float32; users repeat only where fewer than n are short enough."""
    short = np.flatnonzero(np.diff(real.indptr) <= LONGEST_START)
    if not len(short):
        short = np.arange(real.shape[0])
    order = draw.permutation(short) if how.random_start else short
    rows: Array = real[np.resize(order, n)].toarray().astype(np.float32)
    return rows
