"""Two pictures of a drill: whether fake users can be told apart, and what each defence buys at what price.

Both return a matplotlib figure; save it with `figure.savefig(path)`.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from tastemaker.attack.drill import NONE, Drill
from tastemaker.errors import InvalidArgument, MissingExtra


def plot_detection(drill: Drill) -> Any:
    """A column an attack: recall against false alarms above, precision against recall below, a line a detector."""
    attacks = drill.detection["attack"].unique(maintain_order=True).to_list() if drill.detection.height else []
    if not attacks:
        raise InvalidArgument("this drill asked no detectors; run it with detectors=..., or leave the default")
    figure = _figure(2.6 * len(attacks) + 1.2, 5.4)
    axes = figure.subplots(2, len(attacks), squeeze=False, sharex="row", sharey="row")
    for column, attack in enumerate(attacks):
        upper, lower = axes[:, column]
        upper.plot([0, 1], [0, 1], color="0.8", lw=1)
        for row in drill.detection.filter(pl.col("attack") == attack).iter_rows(named=True):
            where = (pl.col("attack") == attack) & (pl.col("detector") == row["detector"])
            curve = drill.curves.filter(where)
            upper.plot(curve["false_alarms"], curve["recall"], label=f"{row['detector']}, AUC {row['auc']:.2f}")
            known = curve.drop_nulls("precision")
            lower.plot(known["recall"], known["precision"])
        upper.set(title=attack, xlabel="real users flagged")
        upper.legend(fontsize=7, loc="lower right", framealpha=0.8, edgecolor="none")
        lower.set(xlabel="fake users flagged", ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("fake users flagged")
    axes[1, 0].set_ylabel("share of flagged who are fake")
    return figure


def plot_price(drill: Drill) -> Any:
    """A panel a victim: target hit rate under each attack against what the defence costs in accuracy without any.

    A point a defence and attack; left is dear, low is safe. Defences that a victim cannot have are missing.
    """
    victims = drill.outcomes["victim"].unique(maintain_order=True).to_list()
    defences = drill.outcomes["defence"].unique(maintain_order=True).to_list()
    attacks = drill.attacks["attack"].to_list()
    figure = _figure(3.4 * len(victims) + 1.8, 3.8)
    axes = figure.subplots(1, len(victims), squeeze=False, sharey=True)[0]
    for axis, victim in zip(axes, victims, strict=True):
        mine = drill.outcomes.filter(pl.col("victim") == victim)
        price = dict(mine.filter(pl.col("attack") == NONE).select("defence", "accuracy_change").iter_rows())
        for number, defence in enumerate(defences):
            points = mine.filter((pl.col("defence") == defence) & (pl.col("attack") != NONE)).drop_nulls("hit_rate")
            for attack, rate in points.select("attack", "hit_rate").iter_rows():
                marker = "osD^vP*X<>ph"[attacks.index(attack) % 12]
                axis.plot(price[defence], rate, marker, color=f"C{number % 10}", ms=6, alpha=0.8)
        axis.axvline(0, color="0.8", lw=1, zorder=0)
        axis.set(title=victim, xlabel=f"change of {drill.metric} without an attack")
    axes[0].set_ylabel(f"people with a target in their first {drill.k}")
    colours = [axes[0].plot([], [], "s", color=f"C{n % 10}", label=d)[0] for n, d in enumerate(defences)]
    shapes = [axes[0].plot([], [], "osD^vP*X<>ph"[n % 12], color="0.4", label=a)[0] for n, a in enumerate(attacks)]
    figure.legend(
        handles=[*colours, *shapes], loc="outside right upper", frameon=False, fontsize=8, title="defence, attack"
    )
    return figure


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    return Figure(figsize=(width, height), layout="constrained")
