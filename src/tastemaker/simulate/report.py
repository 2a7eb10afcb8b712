"""Four loops on one page: charts round by round, tables for every stakeholder, and the pictures themselves.

The page is one HTML file without scripts, which follows the light or dark setting of the system. Charts have grey ink
and no ground, so that they suit both.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

import tastemaker
from tastemaker import columns as c
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, Promptbook
from tastemaker.errors import MissingExtra
from tastemaker.generate.picture import read_picture
from tastemaker.generate.sheet import thumbnail
from tastemaker.simulate.loop import ROUND
from tastemaker.simulate.pictures import DOWNLOADS, MAKER
from tastemaker.simulate.quarters import ARM, ARMS, CROWD, Quarters

INK = "#7d828a"
COLOURS = {False: "#d0641c", True: "#2f86c4"}  # not corrected, corrected
MOST, PATH = 12, 0  # pictures of a row; the person whose path is shown


@dataclass(frozen=True)
class Chart:
    """A metric, what it is called, and whether it is a share."""

    metric: str
    title: str
    said: str
    share: bool = False


CHARTS = (
    Chart("value", "How good what was shown was", "mean true value, −1 to 1"),
    Chart("lists", "How good the best ten are", "mean true value of everybody's best pictures by score, seen or not"),
    Chart("diversity", "How different the best ten look", "mean distance of two pictures of one list"),
    Chart("lesser", "What lesser-known makers got", "share of the places shown", True),
    Chart("target", "Damage: the raided maker, shown", "share of the places shown", True),
    Chart("target_lists", "Damage: the raided maker, best ten", "share of the places in everybody's lists", True),
)


def write(
    done: Quarters,
    book: Promptbook,
    path: str | Path,
    where: Callable[[str], Path],
    *,
    command: str = "",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write the page; `where` gives the file of a picture. Raises MissingExtra, and DataError for a picture."""
    try:
        from jinja2 import Environment, PackageLoader, select_autoescape
    except ImportError as error:
        raise MissingExtra("jinja2", "report") from error
    small: dict[str, str] = {}

    def image(name: str) -> str:
        if name not in small:
            small[name] = _image(where(name))
        return small[name]

    setting = done.setting
    told = {
        "pictures": f"{book.cells.height}: {len(book.prompts)} prompts drawn by {len(book.models)} models",
        "people": f"{setting.people} in each of {setting.crowds} crowds, all of them simulated",
        "loop": f"{setting.start} random pictures, then {setting.rounds} rounds of {setting.shown}",
        "raid": f"{setting.fakes:.0%} as many fakes as people like every picture of {done.target} after round "
        f"{setting.raid}; the defence doubts {setting.doubted:.0%} of all accounts after round {setting.defence}",
        **(facts or {}),
        "setting": ", ".join(f"{name}={value}" for name, value in asdict(setting).items() if name != "taste"),
        "taste": ", ".join(f"{name}={value}" for name, value in asdict(setting.taste).items()),
    }
    pages = Environment(loader=PackageLoader("tastemaker", "pages"), autoescape=select_autoescape())
    page = pages.get_template("loop.html").render(
        done=done,
        changes=changes(done),
        arms=[{"name": arm, "colour": COLOURS[fair], "dashed": raided} for arm, (fair, raided) in ARMS.items()],
        charts=[(chart, _plot(done, chart)) for chart in CHARTS],
        summary=_text(summary(done), (ARM,)),
        stakeholders=_text(
            done.stakeholders.select(ARM, "stakeholder", *_three("precision"), *_three("exposure")).rename(
                {"precision": "liked", "precision_low": "liked_low", "precision_high": "liked_high"}
            ),
            (ARM, "stakeholder"),
        ),
        rounds=_text(done.means(), (ARM, ROUND)),
        makers=[row | {"image": image(row[PICTURE])} for row in _makers(done, book)],
        most=[(arm, [row | {"image": image(row[PICTURE])} for row in _most_shown(done, book, arm)]) for arm in ARMS],
        path=[row | {"image": image(row[PICTURE])} for row in _path(done, book, "corrected")],
        facts=told,
        command=command,
        version=tastemaker.__version__,
    )
    Path(path).write_text(page, encoding="utf-8")


def figures(done: Quarters) -> dict[str, float]:
    """Every number of `summary` and `changes` by a flat dotted name."""
    found: dict[str, float] = {}
    for row in summary(done).iter_rows(named=True):
        found |= {_slug(f"{row[ARM]}.{name}"): value for name, value in row.items() if name != ARM}
    for change in changes(done):
        for part in ("before", "after", "low", "high"):
            found[_slug(f"{change.cause}.{change.what}.{part}")] = getattr(change, part)
    return found


def summary(done: Quarters) -> pl.DataFrame:
    """A row an arm: means over the rounds from 1 on, and the raided maker's share before, during and after the raid."""
    setting, turn = done.setting, pl.col(ROUND)
    before, last = turn.is_between(1, setting.raid), turn == setting.rounds
    under, after = turn.is_between(setting.raid + 1, setting.defence), turn > setting.defence
    each = done.table.group_by(ARM, CROWD, maintain_order=True).agg(
        pl.col("value").filter(turn > 0).mean().alias("value"),
        pl.col("lists").filter(last).mean().alias("best ten"),
        pl.col("diversity").filter(last).mean().alias("diversity"),
        pl.col("lesser").filter(turn > 0).mean().alias("lesser-known"),
        pl.col("gini").filter(turn > 0).mean().alias("Gini"),
        pl.col("target").filter(before).mean().alias("raided: before"),
        pl.col("target").filter(under).mean().alias("during"),
        pl.col("target").filter(after).mean().alias("defended"),
    )
    names = [name for name in each.columns if name not in (ARM, CROWD)]
    half = stats.t.ppf(0.975, setting.crowds - 1) / np.sqrt(setting.crowds)
    bounds = [
        bound
        for name in names
        for bound in (
            pl.col(name).mean(),
            (pl.col(name).mean() - half * pl.col(name).std()).alias(f"{name}_low"),
            (pl.col(name).mean() + half * pl.col(name).std()).alias(f"{name}_high"),
        )
    ]
    return each.group_by(ARM, maintain_order=True).agg(bounds)


@dataclass(frozen=True)
class Change:
    """What something changed: a metric without it and with it, and the 95 % interval of the paired difference.

    first: whether it opens the list of its cause.
    """

    cause: str
    what: str
    first: bool
    before: float
    after: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def changes(done: Quarters) -> list[Change]:
    """What the correction, the raid and the defence changed; differences are paired by crowd."""
    setting, turn = done.setting, pl.col(ROUND)
    ever, end = turn > 0, turn == setting.rounds
    shown, lists = (
        turn.is_between(setting.raid + 1, setting.defence),
        turn.is_between(setting.raid, setting.defence - 1),
    )
    fair = ("corrected", "plain")
    asked: dict[str, list[tuple[str, str, pl.Expr, str, str]]] = {
        "The correction, nobody raiding": [
            ("value of what was shown", "value", ever, *fair),
            ("lesser-known makers' share of what was shown", "lesser", ever, *fair),
            ("value of the best ten, in the end", "lists", end, *fair),
        ],
        "The raid, before the defence": [
            ("the raided maker's share of what was shown", "target", shown, "plain, raided", "plain"),
            ("its share of the best ten", "target_lists", lists, "plain, raided", "plain"),
            ("value of what was shown", "value", shown, "plain, raided", "plain"),
            (
                "the share of the best ten, if there is a correction too",
                "target_lists",
                lists,
                "corrected, raided",
                fair[0],
            ),
        ],
        "The raid, with the defence, in the end": [
            ("its share of the best ten", "target_lists", end, "plain, raided", "plain"),
            ("the same, if there is a correction too", "target_lists", end, "corrected, raided", fair[0]),
        ],
    }
    return [
        Change(cause, what, number == 0, *_difference(done, metric, when, arm, other))
        for cause, several in asked.items()
        for number, (what, metric, when, arm, other) in enumerate(several)
    ]


def _difference(done: Quarters, metric: str, when: pl.Expr, arm: str, other: str) -> tuple[float, float, float, float]:
    """Mean without and with, and the bounds of the difference."""
    each = done.table.filter(when).group_by(ARM, CROWD, maintain_order=True).agg(pl.col(metric).mean())
    mine, yours = (each.filter(pl.col(ARM) == name).sort(CROWD)[metric].to_numpy() for name in (arm, other))
    off = mine - yours
    half = stats.t.ppf(0.975, len(off) - 1) * off.std(ddof=1) / np.sqrt(len(off))
    return float(yours.mean()), float(mine.mean()), float(off.mean() - half), float(off.mean() + half)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _makers(done: Quarters, book: Promptbook) -> list[dict[str, Any]]:
    """A row a model, the best known first: who made it, an example, how much people would like it on average."""
    liked = (1 + done.viewers.people.truth.mean(axis=0)) / 2
    facts = {row["id"]: row for row in book.models.table.iter_rows(named=True)}
    rows = []
    for name, part in book.cells.with_columns(pl.Series("liked", liked)).group_by(MODEL, maintain_order=True):
        fact = facts[name[0]]
        rows.append(
            {
                "model": name[0], "maker": fact[MAKER], "downloads": fact[DOWNLOADS], PICTURE: part[PICTURE][0],
                "liked": float(part["liked"].mean()),  # type: ignore[arg-type]
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["downloads"])


def _most_shown(done: Quarters, book: Promptbook, arm: str) -> list[dict[str, Any]]:
    """The pictures shown most often after round 0 to the first crowd."""
    later = done.logs[arm].select(pl.col(ROUND) > 0)
    times = np.bincount(later.item, minlength=later.n_items)
    likes = np.bincount(later.item, later.value > 0, later.n_items)
    return [
        _told(book, int(row), f"{times[row]} times, {likes[row] / times[row]:.0%} liked")
        for row in np.argsort(-times, kind="stable")[:MOST]
        if times[row]
    ]


def _path(done: Quarters, book: Promptbook, arm: str) -> list[dict[str, Any]]:
    """What one person of the first crowd was shown, in order, and what they said."""
    mine = done.logs[arm].select(pl.col(c.USER) == PATH).events
    return [
        _told(book, item, f"round {turn}") | {"liked": value > 0}
        for item, value, turn in mine.select(c.ITEM, c.VALUE, ROUND).iter_rows()
    ]


def _told(book: Promptbook, row: int, said: str) -> dict[str, Any]:
    cell = book.cells.row(row, named=True)
    return {PICTURE: cell[PICTURE], "what": f"{cell[PROMPT]}, by {cell[MODEL]}", "said": said}


def _image(file: Path) -> str:
    buffer = io.BytesIO()
    thumbnail(read_picture(file), 96).save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# -- charts and tables -------------------------------------------------------------------------------------------------


def _plot(done: Quarters, chart: Chart) -> str:
    """One metric round by round, a line an arm with its interval; an inline image."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    table, setting = done.means(), done.setting
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.metric, "font.size": 11}):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for arm, (fair, raided) in ARMS.items():
            rows = table.filter(pl.col(ARM) == arm)
            low, high = rows[f"{chart.metric}_low"], rows[f"{chart.metric}_high"]
            axes.fill_between(rows[ROUND], low, high, color=COLOURS[fair], alpha=0.10, lw=0)
            style = (0, (4, 2)) if raided else "-"
            axes.plot(rows[ROUND], rows[chart.metric], color=COLOURS[fair], ls=style, lw=2)
        for turn, word in ((setting.raid, "raid"), (setting.defence, "defence")):
            axes.axvline(turn, color=INK, lw=1, ls=":")
            axes.text(
                turn, 1.01, word, color=INK, ha="center", va="bottom", fontsize=9, transform=axes.get_xaxis_transform()
            )
        axes.set_xlabel("round", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if chart.share:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK)
        axes.grid(color=INK, alpha=0.2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _slug(name: str) -> str:
    return ".".join("_".join(re.findall(r"[a-z0-9]+", part)) for part in name.lower().split("."))


def _three(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _text(table: pl.DataFrame, keys: tuple[str, ...]) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Names of the columns, and rows of (number, half its interval), as text."""
    names = [name for name in table.columns if not name.endswith(("_low", "_high"))]
    rows = []
    for row in table.iter_rows(named=True):
        cells = [(str(row[name]), "") for name in keys]
        for name in names[len(keys) :]:
            value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
            off = "" if low is None or high is None or low == high else f"±{(high - low) / 2:.3f}"
            cells.append(("–", "") if value is None else (f"{value:.3f}", off.replace("±0.", "±.")))
        rows.append(cells)
    return [name.replace("_", " ") for name in names], rows
