"""A raid on a feedback loop: from one round on fake people like a maker's items, from another a defence doubts people.

The fakes are made once, by any rule of `attack` that reads the log of likes so far, and stay. Nobody chose to show them
anything, so no weight undoes a choice: each of their likes counts 1. The defence is `attack.defend.Distrust`, asked
anew after every round: those whom a detector finds most suspicious have no say in what is learned, and a real person
among them is folded in, so that they still get lists.

Easy to get wrong: items of which nobody is shown twice run out. Where fakes push a few items, their share of what is
*shown* falls by itself once most people have seen them; their share of the best lists (`LoopResult.lists`), which hold
seen items too, does not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack import heuristic
from tastemaker.attack.defend import Distrust, folds_in
from tastemaker.attack.detect import Detector, Rule, Statistics
from tastemaker.attack.profiles import Budget, Fakes, poisoned
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import Recommender

TENTH, STATISTICS = Budget(0.1), Statistics()


@dataclass(frozen=True)
class Raid:
    """An attack, and what is done about it.

    Attributes:
        targets: item rows that the fakes push.
        begins: round after which the recommender learns from the fakes.
        defended: round after which it learns with the defence; None for never.
        budget: how many fakes, and how much each likes.
        rule: who makes them: a function of `attack.heuristic`, or any (log, targets, budget, *, rng) -> Fakes.
        detector: how suspicious everybody is.
        share: of all people, that the defence doubts.
        seed: of the fakes.
    """

    targets: tuple[int, ...]
    begins: int
    defended: int | None = None
    budget: Budget = TENTH
    rule: Rule = heuristic.bandwagon
    detector: Detector = STATISTICS
    share: float = 0.1
    seed: int = 0

    def check(self, scale: Scale, rounds: int) -> None:
        """Raises InvalidArgument for a graded scale, or a round that never comes."""
        if not scale.signed:
            raise InvalidArgument("fakes only like, but these people answer on a graded scale; give them scale=SIGNED")
        if not 0 <= self.begins <= rounds:
            raise InvalidArgument(f"a raid that begins after round {self.begins}; expected 0..{rounds}")
        if self.defended is not None and not self.begins <= self.defended <= rounds:
            raise InvalidArgument(f"a defence after round {self.defended}; expected {self.begins}..{rounds}, or None")

    def fakes(self, log: FeedbackLog) -> Fakes:
        """Fake people who know the log so far. Raises what the rule raises."""
        return self.rule(log, self.targets, self.budget, rng=self.seed)

    def fit(
        self,
        recommender: Recommender[Any],
        log: FeedbackLog,
        fakes: Fakes,
        *,
        weight: NDArray[np.float64] | None,
        turn: int,
        rng: np.random.Generator,
    ) -> tuple[Recommender[Any], NDArray[np.bool_] | None]:
        """A recommender fitted to log and fakes, whose rows follow those of the log; and who was doubted, if asked."""
        told = poisoned(log, fakes)
        real = np.ones(len(log)) if weight is None else weight
        say = np.concatenate([real, np.ones(len(told) - len(log))])
        model = dataclasses.replace(recommender)
        if self.defended is None or turn < self.defended:
            return model.fit(told, weight=say, rng=rng), None
        doubted = Distrust(self.detector, self.share).doubted(told)
        out = doubted[told.user]
        model.fit(told, weight=np.where(out, 0.0, say), rng=rng)
        if not folds_in(model):
            raise InvalidArgument(f"{type(model).__name__} cannot fold in the people it doubts; use one that can")
        return (model.fold_in(told.select(out), weight=say[out]) if out.any() else model), doubted
