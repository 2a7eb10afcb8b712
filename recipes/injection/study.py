"""Attacks times victims on one log: what to run, in which order, each unit kept, and tables of what is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import numpy as np

from recipes.injection import victims as judging
from recipes.injection.keep import Keep, Numbers, Remembered, Unit, fingerprint
from recipes.injection.victims import AsSurrogate, Rows, Victim
from tastemaker.attack import bilevel, bilevel_kernels, bilevel_loss, bilevel_threads, clicks, heuristic, hits, profiles
from tastemaker.attack.bilevel import Loop
from tastemaker.attack.bilevel_loss import Mode, Surrogate
from tastemaker.attack.profiles import Budget, Fakes, Knowledge, Progress, poisoned
from tastemaker.data import FeedbackLog
from tastemaker.recommend import train as training
from tastemaker.recommend.contract import Recommender


@dataclass(frozen=True)
class Learned:
    """A bi-level attack. label: on the page."""

    label: str
    surrogate: Surrogate
    loop: Loop
    gradient: Mode = "exact"
    knowledge: Knowledge = field(default_factory=Knowledge)


@dataclass(frozen=True)
class Rule:
    """A heuristic attack: a function of log, targets, budget and rng."""

    label: str
    rule: Callable[..., Fakes]


Attack = Learned | Rule
Step = tuple[str, str, str]  # targets, attack ("clean" for none), victim


@dataclass(frozen=True, eq=False)
class Study:
    """One log under attack.

    part: folder of its units; targets: item rows by name; k: length of a list that counts; rounds: of learned attacks;
    seed: of the attacker. The victims' seeds are others.
    """

    part: str
    train: FeedbackLog
    test: FeedbackLog
    targets: Mapping[str, Rows]
    budget: Budget
    attacks: Mapping[str, Attack]
    victims: Mapping[str, Victim]
    keep: Keep
    k: int = 50
    rounds: int = 30
    seed: int = 1
    data: str = field(init=False)  # hashed once: half a million rows for every unit would be felt

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", fingerprint(self.train, self.test))

    # -- one unit ------------------------------------------------------------------------------------------------------

    def fakes_unit(self, targets: str, attack: str) -> Unit:
        how = self.attacks[attack]
        settings = {
            "data": self.data, "targets": str(self.targets[targets].tolist()), "budget": repr(self.budget),
            "seed": str(self.seed),
        }  # fmt: skip
        if isinstance(how, Rule):
            settings["rule"] = how.rule.__name__
            code: tuple[ModuleType, ...] = (heuristic, profiles, clicks)
        else:
            settings |= {"surrogate": repr(how.surrogate), "loop": repr(how.loop), "gradient": how.gradient}
            settings |= {"knowledge": repr(how.knowledge), "rounds": str(self.rounds), "k": str(self.k)}
            code = (bilevel, bilevel_loss, bilevel_kernels, bilevel_threads, profiles, clicks, module(how.surrogate))
        return Unit(self.part, f"{targets.replace(' ', '_')}-{attack}", f"{self.part} {attack}", settings, code)

    def fakes(self, targets: str, attack: str) -> Fakes | None:
        how = self.attacks[attack]
        rows = self.targets[targets]
        unit = self.fakes_unit(targets, attack)

        def make(folder: Path) -> Fakes:
            if isinstance(how, Rule):
                return how.rule(self.train, rows, self.budget, rng=self.seed)
            spent: list[float] = []

            def after(progress: Progress) -> None:
                left = mean(spent) * (self.rounds - progress.round) / 60 if spent else 0.0
                self.keep.say(
                    f"{how.label} on {targets}: round {progress.round} of {self.rounds}, hit rate "
                    f"{progress.hit_rate:.3f}, {progress.clicks:.1f} clicks each, {left:.0f} min left"
                )

            return bilevel.attack(
                self.train, rows, self.budget, surrogate=Remembered(how.surrogate, folder, spent.append),
                gradient=how.gradient, rounds=self.rounds, loop=how.loop, knowledge=how.knowledge, k=self.k,
                rng=self.seed, progress=after,
            )  # fmt: skip

        return self.keep.fakes(unit, make)

    def history(self, targets: str, attack: str) -> Numbers | None:
        """Of kept or made fakes: clicks each, and the share of the targets that each clicks; of learned ones also the
        surrogate's hit rate at the start, at best, in which round, at the end."""
        fakes = self.fakes(targets, attack)
        if fakes is None:
            return None
        found = {"clicks": mean(len(profile) for profile in fakes.profiles)}
        found["targets"] = mean(float(np.isin(fakes.targets, profile).mean()) for profile in fakes.profiles)
        if fakes.history:
            rates = [one.hit_rate for one in fakes.history]
            best = int(np.argmax(rates))
            found |= {"first": rates[0], "best": rates[best], "best_round": float(best), "last": rates[-1]}
        return found

    def judged(self, targets: str, attack: str, victim: str) -> list[Numbers] | None:
        """Figures of a victim, one a seed; None where a unit is missing and may not be made."""
        which, found = self.victims[victim], []
        for number in range(which.seeds):
            unit = self.judged_unit(targets, attack, victim, number)

            def make(number: int = number) -> Numbers:
                log = self.train
                if attack != "clean":
                    fakes = self.fakes(targets, attack)
                    assert fakes is not None  # `keep` makes what is missing, or this would not run
                    log = poisoned(self.train, fakes)
                return judging.judge(which.make(), log, self.test, self.targets, k=self.k, rng=self._seed(number))

            figures = self.keep.numbers(unit, make)
            if figures is None:
                return None
            found.append(figures)
        return found

    def judged_unit(self, targets: str, attack: str, victim: str, number: int) -> Unit:
        model = self.victims[victim].make()
        settings = {"data": self.data, "k": str(self.k), "victim": repr(model), "seed": str(self._seed(number))}
        settings["targets"] = str({name: rows.tolist() for name, rows in self.targets.items()})
        name = f"clean-{victim}{number}"
        if attack != "clean":
            fakes = self.fakes_unit(targets, attack)
            settings["fakes"], name = fakes.key, f"{fakes.name}-{victim}{number}"
        return Unit(self.part, name, f"{self.part} victim {victim}", settings, _modules(model))

    def _seed(self, number: int) -> int:
        return 1000 * self.seed + number + 1

    # -- all of them ---------------------------------------------------------------------------------------------------

    def run(self, plan: Sequence[Step]) -> None:
        """Every step of the plan in order; what is kept is passed over, and what another process is at comes later."""
        waiting = [] if self.keep.only_kept else list(plan)
        while waiting := [step for step in waiting if not self._done(step)]:
            step = next((one for one in waiting if not self._busy(one)), waiting[0])
            targets, attack, victim = step
            label = "no attack" if attack == "clean" else f"{self.attacks[attack].label} on {targets}"
            place = f"{self.part} {plan.index(step) + 1} of {len(plan)}"
            self.keep.say(f"{place}: {label}, {self.victims[victim].label}; {self._left(waiting)}")
            self.judged(*step)

    def _done(self, step: Step) -> bool:
        seeds = range(self.victims[step[2]].seeds)
        return all(self.keep.has(self.judged_unit(*step, number)) for number in seeds)

    def _busy(self, step: Step) -> bool:
        targets, attack, victim = step
        units = [self.judged_unit(*step, number) for number in range(self.victims[victim].seeds)]
        units += [] if attack == "clean" else [self.fakes_unit(targets, attack)]
        return any(map(self.keep.busy, units))

    def _left(self, steps: Sequence[Step]) -> str:
        """Time left, by what units of the same kind took."""
        units: dict[str, list[Unit]] = {"attacks": [], "victims": []}
        for targets, attack, victim in steps:
            if attack != "clean" and not self.keep.has(self.fakes_unit(targets, attack), ".npz"):
                units["attacks"].append(self.fakes_unit(targets, attack))
            seeds = range(self.victims[victim].seeds)
            units["victims"] += [self.judged_unit(targets, attack, victim, number) for number in seeds]
        distinct = {unit.name: unit for group in units.values() for unit in group if not self.keep.has(unit)}
        timed = [mean(seconds) for unit in distinct.values() if (seconds := self.keep.seconds.get(unit.kind))]
        unknown = len(distinct) - len(timed)
        return f"{sum(timed) / 60:.0f} min left" + f" and {unknown} units of a kind not timed yet" * (unknown > 0)

    # -- what is there -------------------------------------------------------------------------------------------------

    def figures(self, plan: Sequence[Step]) -> Numbers:
        """What has been run: means over seeds as targets.attack.victim.metric; `history` under white_box; people: of
        whom hit rates are shares."""
        found: Numbers = {"people": float(len(self.test.users))}
        for targets, attack in dict.fromkeys((targets, attack) for targets, attack, _ in plan if attack != "clean"):
            seen = self.history(targets, attack)
            if seen is not None:
                prefix = f"{targets.replace(' ', '_')}.{attack}.white_box"
                found |= {f"{prefix}.{key}": value for key, value in seen.items()}
        for targets, attack, victim in plan:
            judged = self.judged(targets, attack, victim)
            for metric in ("hit", "per_target", "place", "recall", "ndcg", "precision") if judged else ():
                assert judged is not None
                key = f"{metric}.{targets}" if metric in ("hit", "per_target", "place") else metric
                values = [one[key] for one in judged]
                name = f"{targets.replace(' ', '_')}.{attack}.{victim}.{metric}"
                found[name] = mean(values)
                if len(values) > 1:
                    found |= {f"{name}.low": min(values), f"{name}.high": max(values)}
        return found

    def table(self, plan: Sequence[Step], figures: Numbers, targets: str, metric: str = "hit") -> str:
        """A row an attack, a column a victim, on one set of targets; what was not run is a dash, or not there."""
        stem = targets.replace(" ", "_")
        run = [(a, v) for t, a, v in plan if t == targets and f"{stem}.{a}.{v}.{metric}" in figures]
        if not run:
            return "Not run."
        rows = list(dict.fromkeys(attack for attack, _ in run))
        columns = [victim for victim in self.victims if any(victim == one for _, one in run)]
        lines = [
            "| attack | clicks each | targets clicked | "
            + " | ".join(self.victims[name].label for name in columns)
            + " |",
            "| --- |" + " ---: |" * (2 + len(columns)),
        ]
        for attack in rows:
            prefix = f"{stem}.{attack}"
            cells = [figures.get(f"{prefix}.{victim}.{metric}") for victim in columns]
            label, each, share = "none", "–", "–"
            if attack != "clean":
                label = self.attacks[attack].label
                each = f"{figures[f'{prefix}.white_box.clicks']:.1f}"
                share = f"{figures[f'{prefix}.white_box.targets']:.0%}"
            lines.append(f"| {label} | {each} | {share} | " + " | ".join(map(_number, cells)) + " |")
        return "\n".join(lines)

    def contest(self, figures: Numbers, targets: str, metric: str = "hit") -> str:
        """One sentence, worked out: `ours` against the best rule, for every victim that met both; '' for none."""
        stem, found = targets.replace(" ", "_"), []
        rules = [name for name, how in self.attacks.items() if isinstance(how, Rule)]
        for victim, about in self.victims.items():
            tried = {one: figures.get(f"{stem}.{one}.{victim}.{metric}") for one in ("ours", *rules)}
            known = {one: value for one, value in tried.items() if value is not None}
            if "ours" in known and len(known) > 1:
                ours = known.pop("ours")
                best = max(known, key=lambda one: known[one])
                found.append(f"{about.label} {ours:.3f} against {known[best]:.3f} ({best.replace('_', ' ')})")
        return f"`ours` against the best rule of thumb: {', '.join(found)}." if found else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def module(thing: object) -> ModuleType:
    """Where the class of something is written."""
    return sys.modules[type(thing).__module__]


def _modules(model: Recommender[Any]) -> tuple[ModuleType, ...]:
    """What a victim's figures depend on."""
    code = (judging, hits, profiles, module(model))
    if isinstance(model, AsSurrogate):
        return (*code, bilevel_kernels, bilevel_threads, clicks, module(model.surrogate))
    return (*code, training) if isinstance(model, training.Trained) else code
