"""What was found, in figures and words, as a plot and as sheets. Only the explanations are written by hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from recipes.cocktail import judge, methods, verdict
from recipes.cocktail.judge import STRUCTURES, STYLES, Judged
from recipes.cocktail.methods import ABLATIONS, METHODS, Arm
from recipes.cocktail.study import Study
from recipes.cocktail.verdict import Curve, Gap, band, curves, verdicts
from tastemaker.generate.picture import write_picture
from tastemaker.generate.sheet import Cell, sheet

OURS = ("cocktail", "published")
FLOOR = "alone"  # never sees the picture
BASELINES = tuple(key for key in METHODS if key not in (*OURS, FLOOR))
PAIR_DRAWS = 500  # of the bootstrap for one pair of models
ROWS = 6  # prompts on a sheet


@dataclass(frozen=True, eq=False)
class Found:
    """Everything that was measured, and what follows from it."""

    judged: Judged

    @cached_property
    def measures(self) -> dict[str, str]:
        return {key: label for key, label in {**STRUCTURES, **STYLES}.items() if key in self.judged.table.columns}

    @cached_property
    def curves(self) -> dict[tuple[str, str], dict[str, Curve]]:
        """By axes, then by method or ablation."""
        return {axes: curves(self.judged.table, *axes) for axes in self.judged.axes}

    @cached_property
    def goal(self) -> dict[tuple[str, str], dict[str, dict[str, Gap]]]:
        """By axes, then ours, then the baseline or the floor."""
        return {
            axes: {ours: verdicts(found, ours, (*BASELINES, FLOOR)) for ours in OURS}
            for axes, found in self.curves.items()
        }

    @cached_property
    def pairs(self) -> dict[tuple[str, str], dict[str, Gap]]:
        """By (source, target): our default against each baseline, on the axes that decide."""
        axes = self.judged.axes[0]
        table = self.judged.table.filter(pl.col("method").is_in(list(METHODS)))
        return {
            (str(source), str(target)): verdicts(curves(part, *axes), "cocktail", BASELINES, draws=PAIR_DRAWS)
            for (source, target), part in table.group_by("source", "target", maintain_order=True)
        }

    def values(self, method: str, measure: str) -> NDArray[np.float64]:
        """(n_dials, n_prompts)."""
        axes = next(axes for axes in self.curves if measure in axes)
        curve = self.curves[axes][method]
        return curve.structure if measure == axes[0] else curve.style

    def figures(self) -> dict[str, float]:
        """Flat names; what is not defined is left out."""
        result = {f"reader.{name}.accuracy": value for name, value in self.judged.accuracy.items()}
        result |= {f"round_trip.{arm}": value for arm, value in self.judged.trips.items()}
        names = dict(self.judged.table.select((pl.col("method") + "|" + pl.col("dial")).alias("k"), "arm").iter_rows())
        for measure in self.measures:
            for method, curve in next(iter(self.curves.values())).items():
                for dial, row in zip(curve.dials, self.values(method, measure), strict=True):
                    name = f"{names[f'{method}|{dial}']}.{measure}"
                    result |= dict(zip((name, f"{name}_low", f"{name}_high"), band(row), strict=True))
        for (structure, style), by in self.goal.items():
            for ours, gaps in by.items():
                name = f"goal.{structure}_{style}.{ours}"
                result[f"{name}.holds"] = float(all(gaps[key].word == "holds" for key in BASELINES if key in gaps))
                for baseline, one in gaps.items():
                    result |= {f"{name}.{baseline}.gap": one.mean, f"{name}.{baseline}.gap_low": one.low}
                    result[f"{name}.{baseline}.gap_high"] = one.high
        for baseline in BASELINES:
            for word in ("holds", "open", "fails"):
                result[f"pairs.{baseline}.{word}"] = float(self._count(baseline, word))
        return {name: value for name, value in result.items() if math.isfinite(value)}

    def _count(self, baseline: str, word: str) -> int:
        return sum(gaps[baseline].word == word for gaps in self.pairs.values() if baseline in gaps)

    # -- words ---------------------------------------------------------------------------------------------------------

    def sentence(self, axes: tuple[str, str], ours: str) -> str:
        """The goal, judged in words."""
        gaps = self.goal[axes][ours]
        rivals = {METHODS[key][0]: gaps[key].word for key in BASELINES if key in gaps}
        by = {word: [name for name, its in rivals.items() if its == word] for word in ("holds", "open", "fails")}
        start = f"{METHODS[ours][0]}, {axes[0]} against {axes[1]}: at equal style more structure than every baseline"
        if not (by["open"] or by["fails"]):
            return f"{start}: **holds**, intervals apart."
        beaten = f"; keeps more than {', '.join(by['holds'])}" if by["holds"] else ""
        lost = f"; keeps less than {', '.join(by['fails'])}" if by["fails"] else ""
        unsure = f"; undecided: {', '.join(by['open'])}" if by["open"] else ""
        return f"{start}: **does not hold**{beaten}{lost}{unsure}."

    def goal_rows(self, axes: tuple[str, str]) -> list[list[str]]:
        return [[METHODS[key][0], *(_said(self.goal[axes][ours][key]) for ours in OURS)]
                for key in (*BASELINES, FLOOR) if key in self.goal[axes]["cocktail"]]  # fmt: skip

    def method_rows(self, keys: Sequence[str], *, trips: bool = False) -> list[list[str]]:
        """One row a setting: method, dial, each measure with its interval."""
        names, found, rows = {**METHODS, **ABLATIONS}, next(iter(self.curves.values())), []
        for key in (key for key in keys if key in found):
            for number, dial in enumerate(found[key].dials):
                row = [names[key][0], dial or "–"]
                row += [_banded(self.values(key, measure)[number]) for measure in self.measures]
                trip = self.judged.trips.get(f"{key}.{dial}")
                rows.append([*row, "" if trip is None else f"{trip:.4f}"] if trips else row)
        return rows

    def pair_rows(self) -> list[list[str]]:
        return [[METHODS[key][0], *(str(self._count(key, word)) for word in ("holds", "open", "fails"))]
                for key in BASELINES]  # fmt: skip

    def text(self) -> str:
        """Everything but plot and sheets, in Markdown."""
        lines = ["## The goal", "", *(f"- {self.sentence(axes, ours)}" for axes in self.goal for ours in OURS), ""]
        lines += [about(verdict), ""]
        for axes in self.goal:
            lines += [f"{axes[0]} against {axes[1]}: how much more a cocktail keeps at equal style than", ""]
            lines += [*_table(["baseline", *(METHODS[ours][0] for ours in OURS)], self.goal_rows(axes)), ""]
        lines += [
            f"The same for each of the {len(self.pairs)} ordered pairs of models by itself, our default, "
            f"{' against '.join(self.judged.axes[0])}: number of pairs in which it", "",
            *_table(["baseline", "holds", "is open", "fails"], self.pair_rows()), "",
            "## Every setting", "", about(methods), "",
            "Mean over pairs of models, prompts and seeds ± half the 95 % interval over prompts; higher is better.", "",
            *_table(["method", "dial", *self.measures.values()], self.method_rows(list(METHODS))), "",
        ]  # fmt: skip
        if ablations := self.method_rows(list(ABLATIONS), trips=True):
            lines += [
                "## One thing at a time",
                "",
                "From our default with attention 0.5 and residuals 0.8, on the first",
            ]
            lines += ["model's pictures. Round trip: error of inverting and drawing back, relative.", ""]
            lines += [*_table(["changed", "to", *self.measures.values(), "round trip"], ablations), ""]
        read = ", ".join(f"{name} {value:.0%}" for name, value in self.judged.accuracy.items())
        how = "; ".join(f"{name} by {what}" for name, what in self.judged.measured_by.items())
        lines += [
            "## What measured",
            "",
            about(judge),
            "",
            f"Here: {how}.",
            "",
            f"Sources whose style the reader names rightly: {read}.",
        ]
        return "\n".join(lines)


def about(module: ModuleType) -> str:
    """A module's own words, without its first line."""
    return inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2]


def _said(gap: Gap) -> str:
    if math.isnan(gap.mean):
        return "open: no style in common"
    if math.isnan(gap.low):
        return f"open: {gap.mean:+.3f}"
    return f"{gap.word}: {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def _banded(values: object) -> str:
    mean, low, high = band(values)  # type: ignore[arg-type]
    return f"{mean:.3f} ±{(high - low) / 2:.3f}" if math.isfinite(low) else f"{mean:.3f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)]


# -- pictures ----------------------------------------------------------------------------------------------------------

COLOURS = {
    "cocktail": "#c2341d", "published": "#e39a5b", "alone": "#888888",
    "img2img": "#2a5db5", "weights": "#3f8f5f", "inversion": "#8a56b0", "pnp": "#1f9aa6",
}  # fmt: skip


def plot(found: Found, path: Path) -> None:
    """Structure against style, a curve a method, a panel for the axes that decide and one for the encoder's, if any."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cocktail"  # the same figures draw the same file
    from matplotlib import pyplot as plt

    shown = [found.judged.axes[0], *found.judged.axes[-1:]] if len(found.judged.axes) > 1 else found.judged.axes
    drawn, panels = plt.subplots(1, len(shown), figsize=(6.2 * len(shown), 5.4), squeeze=False, layout="constrained")
    for panel, axes in zip(panels[0], shown, strict=True):
        for method, (name, _) in METHODS.items():
            curve = found.curves[axes].get(method)
            if curve is None:
                continue
            (x, *across), (y, *up) = _bars(curve.style), _bars(curve.structure)
            panel.errorbar(x, y, xerr=across, yerr=up, color=COLOURS[method], linewidth=0.6, fmt="none", alpha=0.6)
            panel.plot(
                x, y, "o-" if len(x) > 1 else "D", color=COLOURS[method], markersize=5, label=name,
                linewidth=2.2 if method == "cocktail" else 1.1,
            )  # fmt: skip
            for dial, at in zip(curve.dials, zip(x, y, strict=True), strict=True):
                panel.annotate(dial.replace(" ", ""), at, (4, 4), textcoords="offset points", fontsize=6.5,
                               color=COLOURS[method])  # fmt: skip
        panel.set_xlabel(STYLES[axes[1]])
        panel.set_ylabel(STRUCTURES[axes[0]])
        panel.margins(0.08)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    names = dict(zip(*panels[0][0].get_legend_handles_labels()[::-1], strict=True))
    drawn.legend(names.values(), names, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(drawn)


def _bars(values: object) -> tuple[list[float], list[float], list[float]]:
    """Means, and how far their intervals reach down and up, a number a setting."""
    bands = [band(row) for row in values]  # type: ignore[attr-defined]
    return (
        [mean for mean, _, _ in bands],
        [max(0.0, mean - low) if math.isfinite(low) else 0.0 for mean, low, _ in bands],
        [max(0.0, high - mean) if math.isfinite(high) else 0.0 for mean, _, high in bands],
    )


def sheets(study: Study, arms: Sequence[Arm], folder: Path) -> list[Path]:
    """What the first model draws in every other style, back from the last, and all in all: what methods make of it."""
    names = list(study.models)
    typical = _typical(arms, study.plan.guidance)
    cells = study.plan.cells
    chosen = sorted({round(k * (len(cells) - 1) / max(1, ROWS - 1)) for k in range(ROWS)})
    written = []
    first = names[0]
    back = [(name, first) for name in names[1:] if first in study.targets(name)][-1:]
    for source, target in [*((first, name) for name in study.targets(first)), *back]:
        shown = {"source": study.own(source)}
        shown |= {f"{METHODS[arm.method][0]} {arm.dial}": study.brought(source, arm)[0][target] for arm in typical}
        rows = [[Cell(Image.fromarray(found[row])) for found in shown.values()] for row in chosen]
        page = sheet(
            rows, row_labels=[study.plan.prompts[cells[row][0]] for row in chosen], column_labels=list(shown),
            title=f"{source} in the style of {target}", cell=128,
        )  # fmt: skip
        written.append(write_picture(page, folder / f"{source}-{target}.png"))
    ours = next(arm for arm in typical if arm.name == "cocktail.1-1")
    brought = {name: study.brought(name, ours)[0] | {name: study.own(name)} for name in names}
    shown = [[brought[a].get(b) for b in names] for a in names]
    rows = [[None if found is None else Cell(Image.fromarray(found[chosen[0]])) for found in row] for row in shown]
    page = sheet(
        rows, row_labels=[f"content of {name}" for name in names], column_labels=[f"style of {name}" for name in names],
        title=f"{study.plan.prompts[cells[chosen[0]][0]]}; on the diagonal as drawn", cell=128,
    )  # fmt: skip
    return [*written, write_picture(page, folder / "matrix.png")]


def _typical(arms: Sequence[Arm], guidance: float) -> list[Arm]:
    """One setting a method for the eye, of the cocktail two."""
    wanted: dict[str, tuple[str, ...]] = {"img2img": ("0.5",), "weights": ("0.5", "1"), "pnp": ("0.5 / 0.8",)}
    wanted |= {"inversion": (f"{guidance:g}",)}
    wanted |= {"published": ("0.5 / 0.8",), "cocktail": ("1 / 1, 0.5", "1 / 1")}
    order = list(METHODS)[::-1]
    chosen = (arm for arm in arms if arm.dial in wanted.get(arm.method, ()))
    return sorted(chosen, key=lambda arm: order.index(arm.method))
