"""How much it takes: budget and knowledge.

`Loop()` with a hard number of clicks, on the synthetic world (first of its data seeds, 20 rounds, HR@10 of item 0) and
on a fifth of Gowalla, the busiest people and places (30 rounds, HR@50 of five head targets), one thing varied at a
time. What varies: the number of fake users, the clicks of each, and the share of people, of items and of clicks that
the attacker sees; targets are always seen, and fake users click nothing the attacker does not know. The victim is
trained on everything: the model of the surrogate from three seeds of its own, and ItemCF. Random fakes look at nothing,
so they have no value on the curves of knowledge. In the plot, thin lines are without fakes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recipes.injection import gowalla, synthetic
from recipes.injection.keep import Keep, Numbers
from recipes.injection.study import Learned, Rule, Study
from recipes.injection.victims import AsSurrogate, ItemCF, Victim
from tastemaker.attack import heuristic
from tastemaker.attack.bilevel import Loop
from tastemaker.attack.bilevel_loss import Surrogate
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.profiles import Budget, Knowledge, draw_targets
from tastemaker.data import FeedbackLog

SHARES = (0.5, 0.2, 0.1)
RANDOM = Rule("random", heuristic.random)
SYNTHETIC, FIFTH = Budget(50, 12), Budget(26, 41)  # the middles; 1% of a fifth of Gowalla


@dataclass(frozen=True)
class Point:
    """One point of one curve. label: what varies, and its value."""

    curve: str
    label: str
    budget: Budget
    knowledge: Knowledge


def points(middle: Budget, users: tuple[int, ...], clicks: tuple[int, ...]) -> Iterator[Point]:
    """Curves through the middle, one thing varied at a time; at the middle the attacker knows everything."""
    everything = Knowledge()
    yield Point("middle", f"{middle.users} fake users, {middle.clicks} clicks, all known", middle, everything)
    for n in users:
        yield Point(f"users_{n}", f"{n} fake users", replace(middle, users=n), everything)
    for n in clicks:
        yield Point(f"clicks_{n}", f"{n} clicks each", replace(middle, clicks=n), everything)
    for what in ("users", "items", "clicks"):
        for share in SHARES:
            word = "people" if what == "users" else what
            seen = replace(everything, **{what: share})
            yield Point(f"knows_{what}_{share:g}", f"sees {share:.0%} of {word}", middle, seen)


def worlds(data: Path | None, keep: Keep, seed: int) -> Iterator[tuple[str, Study, Surrogate, list[Point]]]:
    """Name, the study without its attacks, the surrogate, the points."""
    here = synthetic.study(synthetic.DATA_SEEDS[0], keep, seed, rounds=20)
    victims = {name: synthetic.VICTIMS[name] for name in ("wmf", "itemcf")}
    middle = list(points(SYNTHETIC, users=(5, 10, 25, 100), clicks=(6, 24, 48)))
    yield "synthetic world", replace(here, part="curves", victims=victims), synthetic.SHORT, middle
    if data is None or not (data / gowalla.FOLDER).exists():
        return
    train, test = busiest(*gowalla.read(data / gowalla.FOLDER), share=0.2)
    targets = {"head": draw_targets(train, "head", 5, np.random.default_rng(seed))}
    surrogate = WMF(batch=512)
    few = {"wmf": Victim("WRMF-SGD", lambda: AsSurrogate(surrogate), seeds=3), "itemcf": Victim("ItemCF", ItemCF)}
    part = Study("curves", train, test, targets, FIFTH, {}, few, keep, seed=seed)
    yield "a fifth of Gowalla", part, surrogate, list(points(FIFTH, users=(5, 13, 52, 131), clicks=(20, 80)))


def busiest(train: FeedbackLog, test: FeedbackLog, share: float) -> tuple[FeedbackLog, FeedbackLog]:
    """The log of the users and items with the most train events, and the test rows between them, renumbered."""
    kept = []
    for rows, n in ((train.user, train.n_users), (train.item, train.n_items)):
        order = np.argsort(-np.bincount(rows, minlength=n), kind="stable")
        kept.append(np.sort(order[: round(share * n)]))
    users, items = kept
    user_ids = FeedbackLog.of(users, np.zeros_like(users), np.ones(len(users))).user_ids
    item_ids = FeedbackLog.of(np.zeros_like(items), items, np.ones(len(items))).item_ids

    def part(log: FeedbackLog) -> FeedbackLog:
        inside = np.isin(log.user, users) & np.isin(log.item, items)
        ones = np.ones(int(inside.sum()))
        return FeedbackLog.of(log.user[inside], log.item[inside], ones, user_ids=user_ids, item_ids=item_ids)

    return part(train), part(test)


def run(*, data: Path | None, quick: bool, seed: int, keep: Keep) -> tuple[Numbers, str]:
    """Figures, and the page's section."""
    if quick:
        return {}, "Left out with `--quick`."
    figures, parts = Numbers(), list[str]()
    for name, bare, surrogate, curve in worlds(data, keep, seed):
        rows = {"no attack": ("clean", hits(bare, ("clean",)))}
        for point in curve:
            learned = Learned(point.label, surrogate, Loop(), knowledge=point.knowledge)
            here = replace(bare, budget=point.budget, attacks={"learned": learned, "random": RANDOM})
            # A rule looks at nothing, so it has one value on the curves of knowledge: that of the middle.
            attacks = ("learned", "random") if point.knowledge == Knowledge() else ("learned",)
            rows[point.label] = (point.curve, hits(here, attacks))
        for place, found in rows.values():
            figures |= {f"{name.replace(' ', '_')}.{place}.{key}": value for key, value in found.items()}
        parts += [f"### {name[0].upper()}{name[1:]}", table(bare, {label: found for label, (_, found) in rows.items()})]
    return figures, "\n\n".join(parts)


def hits(here: Study, attacks: tuple[str, ...]) -> Numbers:
    """Figures of the study's one set of targets, as attack.victim.metric."""
    (targets,) = here.targets
    steps = [(targets, attack, victim) for attack in attacks for victim in here.victims]
    here.run(steps)
    return {key.removeprefix(f"{targets}."): value for key, value in here.figures(steps).items()}


def table(here: Study, rows: dict[str, Numbers]) -> str:
    columns = [f"{one.label}, {how}" for one in here.victims.values() for how in ("learned", "random")]
    lines = [f"| what varies | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for label, found in rows.items():
        names = [(victim, attack) for victim in here.victims for attack in ("learned", "random")]
        cells = [found.get(f"{attack}.{victim}.hit", found.get(f"clean.{victim}.hit")) for victim, attack in names]
        if any(cell is not None for cell in cells):
            lines.append(f"| {label} | {' | '.join('–' if cell is None else f'{cell:.3f}' for cell in cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Not run."


AXES = {
    "users": "fake users", "clicks": "clicks each",
    "knows_users": "people seen", "knows_items": "items seen", "knows_clicks": "clicks seen",
}  # fmt: skip


def curve(figures: Numbers, world: str, axis: str, ends: Budget, name: str) -> list[tuple[float, float]]:
    """Where one thing varies, and what it makes of a figure such as 'learned.wmf.hit'; with the middle, ascending."""
    middle = {"users": ends.users, "clicks": ends.clicks}.get(axis, 1.0)
    start = f"{world}.{axis}_"
    found = {float(key[len(start) :].partition(f".{name}")[0]): value for key, value in figures.items()
             if key.startswith(start) and key.endswith(f".{name}")}  # fmt: skip
    if f"{world}.middle.{name}" in figures and middle is not None:
        found[float(middle)] = figures[f"{world}.middle.{name}"]
    return sorted(found.items())


def plot(figures: Numbers, path: Path) -> None:
    """A row a world, a column what varies: the hit rate of learned and of random fakes on the two victims."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "injection"  # the same figures draw the same file
    from matplotlib import pyplot as plt

    middles = {"synthetic_world": SYNTHETIC, "a_fifth_of_Gowalla": FIFTH}
    worlds = [world for world in middles if any(name.startswith(f"{world}.") for name in figures)]
    drawn, panels = plt.subplots(
        len(worlds), len(AXES), figsize=(12.5, 2.9 * len(worlds)), squeeze=False, sharey="row", layout="constrained"
    )
    for row, world in zip(panels, worlds, strict=True):
        for panel, (axis, label) in zip(row, AXES.items(), strict=True):
            for victim, colour in (("wmf", "#c2341d"), ("itemcf", "#2a5db5")):
                name = f"{'ItemCF' if victim == 'itemcf' else 'surrogate, other seeds'}"
                if (clean := figures.get(f"{world}.clean.clean.{victim}.hit")) is not None:
                    panel.axhline(clean, color=colour, lw=0.8, alpha=0.5)
                for attack, line in (("learned", "o-"), ("random", "o:")):
                    at = curve(figures, world, axis, middles[world], f"{attack}.{victim}.hit")
                    if len(at) < 2:  # a rule looks at nothing; or not run
                        continue
                    x, y = zip(*at, strict=True)
                    panel.plot(x, y, line, color=colour, ms=3.5, lw=1.4, alpha=0.9, label=f"{name}, {attack} fakes")
            panel.set(xscale="log", xlabel=label)
            ticks = [at for at, _ in curve(figures, world, axis, middles[world], "learned.wmf.hit")]
            panel.set_xticks(ticks, [f"{at:.0%}" if axis.startswith("knows") else f"{at:g}" for at in ticks])
            panel.minorticks_off()
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"hit rate, {world.replace('_', ' ')}")
    names = dict(zip(*panels[0][0].get_legend_handles_labels()[::-1], strict=True))
    drawn.legend(names.values(), names, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(drawn)
