"""The loop itself, on real people whose every answer is known: Jester's block, and beside it the world of topics.

1,473 people rated all 100 jokes, so a loop can be run over them and judged on what it never asked. Everybody is shown
5 random jokes and then one a round; after each round `Factors` is fitted anew. Two questions, two halves:

- *The model chooses.* Greedy, epsilon-greedy, softmax, Thompson sampling and random: what does the loop do to what is
  shown, and to what the model knows? All that such a policy looks at is in the log.
- *People choose* among what the model pushes, by their own taste (`Wanted`): what is rated depends on what the log does
  not hold. Uncorrected, with the logged probabilities (levelled weights, their square root, and plain 1/p), and with
  propensities estimated anew from the growing log in every round: item popularity, and `Exposure`, the model of each
  person's history, here without an encoder of its order and with 4 epochs, so that a round costs seconds.

The same in the world of topics (Pan et al., arXiv 2109.06037), where tastes are sharper and most items are nothing to
most people. The regularisation was chosen once, on uniformly random ratings, and is the same for every policy. On
Jester it is so strong that the factors stay at zero until the ratings outweigh it: the steps in some lines.
A seed draws the start, the choices and, in the world of topics, the people; intervals are Student's t over seeds,
differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tastemaker.data import FeedbackLog, Scale
from tastemaker.debias.exposure import Popularity
from tastemaker.debias.sequence import Exposure
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import Interval, over_seeds
from tastemaker.recommend.factors import Factors
from tastemaker.simulate import correct, loop, policy, topics
from tastemaker.simulate.correct import Weighting
from tastemaker.simulate.judge import METRICS
from tastemaker.simulate.people import FullyObserved, jester_block

JESTER = Path("jester5k/jester5k_ratings.csv.gz")
Say = Callable[[str], object]


@dataclass(frozen=True)
class World:
    """A population, the model for it, and softmax, push and hurry in the unit of its ratings; see `simulate.policy`."""

    name: str
    about: str
    people: Callable[[int], FullyObserved]
    model: Factors
    softmax: float
    push: float
    hurry: float
    rounds: int
    start: int


@dataclass(frozen=True)
class Arm:
    """One line of a table: a policy, the weights of the fits, and the arm it is compared with."""

    name: str
    label: str
    half: str
    against: str | None
    policy: Callable[[World, FullyObserved], policy.Policy]
    correct: Weighting | None = None


def _wanted(world: World, people: FullyObserved) -> policy.Policy:
    return policy.Wanted(people.truth, world.hurry, world.push)


MODEL, PEOPLE = "the model chooses", "people choose"
ARMS = (
    Arm("greedy", "greedy", MODEL, None, lambda w, p: policy.Greedy()),
    Arm("epsilon", "epsilon 0.2", MODEL, "greedy", lambda w, p: policy.Greedy(explore=0.2)),
    Arm("softmax", "softmax", MODEL, "greedy", lambda w, p: policy.Softmax(w.softmax)),
    Arm("thompson", "Thompson", MODEL, "greedy", lambda w, p: policy.Thompson()),
    Arm("random", "random", MODEL, "greedy", lambda w, p: policy.Random()),
    Arm("epsilon_corrected", "epsilon 0.2, corrected", MODEL, "epsilon", lambda w, p: policy.Greedy(explore=0.2),
        correct.levelled),
    Arm("people", "uncorrected", PEOPLE, None, _wanted),
    Arm("people_corrected", "corrected: logged, levelled", PEOPLE, "people", _wanted, correct.levelled),
    Arm("people_tempered", "corrected: their square root", PEOPLE, "people", _wanted, correct.tempered(0.5)),
    Arm("people_inverse", "corrected: logged, 1/p", PEOPLE, "people", _wanted, correct.inverse),
    Arm("people_popularity", "corrected: popularity", PEOPLE, "people", _wanted, correct.estimated(Popularity())),
    Arm("people_exposure", "corrected: `Exposure`", PEOPLE, "people", _wanted,
        correct.estimated(Exposure(encoder="none", epochs=4), over="unseen")),
)  # fmt: skip
COLUMNS = {
    "value": "value shown", "regret": "regret", "list_value": "value of lists", "mse": "MSE, all cells", "bias": "bias",
    "correlation": "rank corr.", "gini": "Gini", "tail": "tail share", "diversity": "diversity",
    "effective": "effective",
}  # fmt: skip


# -- worlds ------------------------------------------------------------------------------------------------------------


def jester(path: Path, quick: bool) -> World:
    """The fully observed block; the first 300 of its people when quick."""
    block = jester_block(FeedbackLog.read(path, format="jester", scale=Scale(-10, 10)))
    people = FullyObserved(block.truth[:300], block.scale) if quick else block
    n_users, n_items = people.truth.shape
    return World(
        "jester", f"Jester 5k: {n_users:,} people who rated all {n_items} jokes, -10 to 10", lambda seed: people,
        Factors(rank=4, reg=40, bias_reg=0.3, epochs=5 if quick else 15), softmax=1.0, push=3.0, hurry=5.0,
        rounds=5 if quick else 25, start=5,
    )  # fmt: skip


def of_topics(quick: bool) -> World:
    """A smaller world of topics than the published one, so that ten loops and more seeds fit."""
    size = topics.Topics(users=150, items=120, shown=12) if quick else topics.Topics(users=600, items=300, shown=30)

    def people(seed: int) -> FullyObserved:
        return FullyObserved(topics.people(size, np.random.default_rng(seed)).rating.astype(np.float64), topics.SCALE)

    return World(
        "topics", f"World of topics: {size.users} people, {size.items} items, ratings 0 to 10", people,
        Factors(rank=10, reg=4, bias_reg=1.0, epochs=5 if quick else 15), softmax=1.0, push=3.0, hurry=2.0,
        rounds=5 if quick else 25, start=5,
    )  # fmt: skip


# -- running -----------------------------------------------------------------------------------------------------------


def run(
    *, data: Path | None, quick: bool, seed: int, seeds: int | None, say: Say, plot: Path | None = None
) -> tuple[dict[str, float], str]:
    """Figures by name, and the page; `seeds` None means 5, or 2 when quick.

    `plot` (.svg or .png) gets the picture of Jester, and the world of topics one beside it with `_topics` in its name;
    without Jester ratings there is only the second.
    """
    found = [of_topics(quick)]
    if data is not None and (data / JESTER).exists():
        found.insert(0, jester(data / JESTER, quick))
    else:
        say(f"no Jester ratings ({JESTER} in --data): the world of topics only")
    n_seeds = seeds if seeds is not None else 2 if quick else 5
    if n_seeds < 2:
        raise InvalidArgument(f"seeds={n_seeds}; intervals need at least 2")
    frame = measure(found, range(seed, seed + n_seeds), say)
    if plot is not None:
        for world in found:
            draw(frame, world, plot if world.name == "jester" else plot.with_stem(f"{plot.stem}_{world.name}"))
    page = markdown(frame, found)
    if len(found) == 1:
        page = f"Without Jester ratings ({JESTER} in the folder given by --data): the world of topics only.\n\n{page}"
    return figures(frame), page


def measure(worlds: list[World], seeds: range, say: Say) -> pl.DataFrame:
    """Every round of every loop: columns world, arm, seed, round and the metrics of `simulate.judge`."""
    parts = []
    for world in worlds:
        for seed in seeds:
            people = world.people(seed)
            for arm in ARMS:
                say(f"{world.name}, seed {seed}: {arm.label}")
                done = loop.run(
                    people, world.model, arm.policy(world, people), rounds=world.rounds, start=world.start,
                    correct=arm.correct, rng=seed,
                )  # fmt: skip
                key = {"world": world.name, "arm": arm.name, "seed": seed}
                parts.append(done.table.select([pl.lit(v).alias(k) for k, v in key.items()] + [pl.col("*")]))
    return pl.concat(parts, how="vertical_relaxed")


def summary(frame: pl.DataFrame) -> dict[tuple[str, str, str], np.ndarray]:
    """(world, arm, metric) to one number a seed: the last round; for value shown, the mean of all rounds from 1 on."""
    last = frame.filter(pl.col("round") == pl.col("round").max().over("world", "arm", "seed"))
    over_rounds = frame.filter(pl.col("round") > 0).group_by("world", "arm", "seed").agg(pl.col("value").mean())
    table = last.drop("value").join(over_rounds, on=["world", "arm", "seed"]).sort("seed")
    return {
        (world, arm, metric): part[metric].to_numpy()
        for (world, arm), part in table.partition_by("world", "arm", as_dict=True).items()
        for metric in METRICS
    }


def change(values: Mapping[tuple[str, str, str], np.ndarray], world: str, arm: Arm, metric: str) -> Interval:
    """The arm less the arm it is compared with, paired over seeds."""
    assert arm.against is not None
    return over_seeds(values[world, arm.name, metric], values[world, arm.against, metric])


def figures(frame: pl.DataFrame) -> dict[str, float]:
    """WORLD.ARM.METRIC, and .change, .change.low and .change.high against the arm it is compared with."""
    values, result = summary(frame), dict[str, float]()
    for world in frame["world"].unique(maintain_order=True):
        for arm in ARMS:
            for metric in METRICS:
                name = f"{world}.{arm.name}.{metric}"
                result[name] = float(values[world, arm.name, metric].mean())
                if arm.against is not None:
                    by = change(values, world, arm, metric)
                    result |= {f"{name}.change": by.mean, f"{name}.change.low": by.low, f"{name}.change.high": by.high}
    return result


# -- page and plot -----------------------------------------------------------------------------------------------------


def markdown(frame: pl.DataFrame, worlds: list[World]) -> str:
    """Tables and sentences, all computed."""
    values, lines = summary(frame), list[str]()
    for world in worlds:
        lines += [
            f"### {world.about}", "",
            f"{world.rounds} rounds of one item. Means over seeds ± half the 95 % interval; value shown is the mean",
            "over all rounds, all else is after the last one.", "",
        ]  # fmt: skip
        for half in (MODEL, PEOPLE):
            lines += [f"| *{half}* | {' | '.join(COLUMNS.values())} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
            for arm in (arm for arm in ARMS if arm.half == half):
                cells = " | ".join(_cell(values[world.name, arm.name, metric]) for metric in COLUMNS)
                lines.append(f"| {arm.label} | {cells} |")
            lines += ["", *(f"- {s}" for s in sentences(values, world.name, half)), ""]
    return "\n".join(lines)


def sentences(values: Mapping[tuple[str, str, str], np.ndarray], world: str, half: str) -> list[str]:
    """What every arm changes, in words; a change is named where its interval excludes 0."""
    label = {arm.name: arm.label for arm in ARMS}
    result = []
    for arm in ARMS:
        if arm.half == half and arm.against is not None:
            parts = []
            for metric, high_is_good in (("value", True), ("list_value", True), ("mse", False)):
                by = change(values, world, arm, metric)
                sure = by.low > 0 or by.high < 0
                word = ("better" if (by.mean > 0) == high_is_good else "worse") if sure else "open"
                parts.append(f"{COLUMNS[metric]} {by.mean:+.2f} [{by.low:+.2f}, {by.high:+.2f}] ({word})")
            result.append(f"{arm.label} against {label[arm.against]}: {', '.join(parts)}.")
    return result


def _cell(numbers: np.ndarray) -> str:
    interval = over_seeds(numbers)
    half = interval.mean - interval.low
    return f"{interval.mean:.2f}" if half < 0.005 else f"{interval.mean:.2f} ±{half:.2f}"


TITLES = {
    "tail": "share of places for the half\nof items shown least so far",
    "value": "true value of what is shown",
    "list_value": "true value of the best 10\nof all items by score",
    "mse": "squared error over every cell",
    "bias": "score - truth over every cell",
}
PANELS = {MODEL: ("tail", "value", "list_value", "mse"), PEOPLE: ("bias", "value", "list_value", "mse")}
LOOKS = {
    "greedy": ("black", "-"), "epsilon": ("#0072b2", "-"), "softmax": ("#009e73", "-"), "thompson": ("#e69f00", "-"),
    "random": ("#999999", "-"), "epsilon_corrected": ("#0072b2", ":"), "people": ("#d55e00", "-"),
    "people_corrected": ("#009e73", "-"), "people_tempered": ("#0072b2", "-"), "people_inverse": ("#56b4e9", "--"),
    "people_popularity": ("#cc79a7", "-."), "people_exposure": ("black", "-."),
}  # fmt: skip


def draw(frame: pl.DataFrame, world: World, path: Path) -> None:
    """Round by round: a row a half, a line an arm with its 95 % band over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "feedback_loop"  # the same figures draw the same file
    from matplotlib import pyplot as plt

    runs = {
        str(arm): part.sort("seed", "round")
        for (arm,), part in frame.filter(pl.col("world") == world.name).partition_by("arm", as_dict=True).items()
    }
    drawn = plt.figure(figsize=(13, 7.6), layout="constrained")
    drawn.suptitle(world.about, fontsize=12)
    for rows, (half, panels) in zip(drawn.subfigures(2, 1), PANELS.items(), strict=True):
        axes = rows.subplots(1, len(panels))
        for axis, metric in zip(axes, panels, strict=True):
            for arm in (arm for arm in ARMS if arm.half == half):
                values = runs[arm.name].pivot("round", index="seed", values=metric).drop("seed").to_numpy()
                values = values[:, 1 if metric in ("value", "tail") else 0 :].astype(float)
                x = np.arange(runs[arm.name]["round"].max() + 1)[-values.shape[1] :]  # type: ignore[operator]
                colour, line = LOOKS[arm.name]
                axis.plot(x, values.mean(0), line, color=colour, linewidth=1.6, label=arm.label.replace("`", ""))
                if len(values) > 2:  # an interval from two seeds would hide the lines
                    low, high = np.transpose([(i.low, i.high) for i in map(over_seeds, values.T)])
                    if metric == "tail":  # a share
                        low, high = np.clip((low, high), 0, 1)
                    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            if metric == "bias":
                axis.axhline(0, color="black", linewidth=0.6)
            axis.set_title(TITLES[metric], fontsize=10)
            axis.set_xlabel("round")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        names = axes[0].get_legend_handles_labels()
        rows.legend(*names, loc="outside upper center", ncols=6, frameon=False, title=half[0].upper() + half[1:])
    drawn.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(drawn)
