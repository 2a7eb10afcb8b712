"""The main job: likes and dislikes in, a report to every stakeholder out.

`make` splits a log, trains recommenders that differ in what they know about dislikes, lets each recommend to everybody,
and judges the result for consumers, well-known and lesser-known makers side by side, with 95 % intervals. The page says
which command and seed made it. Splitting by a share of each user's events leaks time (train holds events later than
test events); `how="time"` does not, but leaves only the people who were there before and after the cut.
"""

from __future__ import annotations

import base64
import io
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import tastemaker
from tastemaker import columns as c
from tastemaker.data import FeedbackLog, split
from tastemaker.errors import InvalidArgument, MissingExtra
from tastemaker.evaluate import by_popularity, compare, exposure, ranking, rating
from tastemaker.evaluate.groups import Groups
from tastemaker.evaluate.stakeholders import rated_report, stakeholders
from tastemaker.recommend import Factors, ItemKNN, Popular, Recommender

LIKES_ONLY, BOTH = "Factors (+)", "Factors (±)"  # what the same model was told: likes only, likes and dislikes


@dataclass(frozen=True)
class Report:
    """Tables of one run and what it takes to run it again.

    facts: name and value of what the reader must know first. verdicts: sentences about what dislikes changed, from
    paired intervals. consumers, makers, rated: tables, one row a model (and stakeholder); `rated` is empty where the
    test set holds likes alone, or dislikes alone, and nothing can be told apart. figures: every number by a flat dotted
    name.
    """

    source: str
    command: str
    seed: int
    facts: dict[str, str]
    verdicts: list[str]
    consumers: pl.DataFrame
    makers: pl.DataFrame
    rated: pl.DataFrame
    figures: dict[str, float]

    def tables(self, compact: bool = True) -> list[tuple[str, pl.DataFrame]]:
        """Titles and tables of text: `0.123 ±.012` (half the interval) when compact, else `0.123 [0.111, 0.135]`."""
        parts = {
            "What each stakeholder gets": self.makers,
            "What consumers get from their lists": self.consumers,
            "Telling likes from dislikes among what was rated": self.rated,
        }
        return [(title, _text(table, compact)) for title, table in parts.items() if table.height]

    def write(self, path: str | Path) -> None:
        """Write one self-contained HTML page."""
        try:
            from jinja2 import Environment, PackageLoader, select_autoescape
        except ImportError as error:
            raise MissingExtra("jinja2", "report") from error
        pages = Environment(loader=PackageLoader("tastemaker", "pages"), autoescape=select_autoescape())
        text = pages.get_template("report.html").render(
            report=self,
            tables=[table for _, table in self.tables(compact=False)],
            plots=[plot_trade_off(self), plot_exposure(self)],
            version=tastemaker.__version__,
        )
        Path(path).write_text(text, encoding="utf-8")


def make(
    log: FeedbackLog | None,
    *,
    source: str | None = None,
    how: str | None = None,
    test: float = 0.2,
    k: int = 10,
    rank: int = 32,
    seed: int = 0,
    command: str = "",
    say: Callable[[str], Any] = lambda text: None,
) -> Report:
    """Run the main job on a log, or on a world with planted taste when `log` is None.

    A graded log is cut at 70 % and 40 % of its scale (movie stars 0.5..5: liked from 4, disliked up to 2); cut it
    yourself with `log.signed` for other cuts. `how`: 'user' (default), 'time' or 'random'.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(seed)
    if log is None:
        from tastemaker.data import synthetic

        say("building a world with planted taste")
        log, source = synthetic.make(synthetic.demo(), rng).log, "a world with planted taste (synthetic.demo)"
    if not log.scale.signed:
        span = log.scale.high - log.scale.low
        log = log.signed(like=log.scale.low + 0.7 * span, dislike=log.scale.low + 0.4 * span)
    say("splitting")
    train, held_out = _split(log, how or "user", test, rng)
    warm = np.intersect1d(held_out.users, train.users)
    judged = held_out.select(np.isin(held_out.user, warm))
    if not len(judged):
        raise InvalidArgument("no user has events both in train and in test; split another way (--how user)")
    groups = by_popularity(train, cuts=(0.5,), names=("well-known", "lesser-known"))
    models: dict[str, Recommender[Any]] = {"Popular": Popular(), "ItemKNN": ItemKNN()}
    if _both_kinds(train):  # otherwise there is nothing to compare
        models[LIKES_ONLY] = Factors(rank=rank, dislike=0.0)
    models[BOTH] = Factors(rank=rank)

    makers, consumers, rated, per_user = [], [], [], {}
    for name, model in models.items():
        say(f"fitting {name}")
        model.fit(train, rng=seed)
        say(f"judging {name}")
        recs = model.recommend(warm, k, exclude=train)
        scores = model.score(judged.user, judged.item)
        makers.append(_named(stakeholders(recs, judged, groups, rng=seed), name))
        table, per_user[name] = _consumers(recs, judged, train, k, seed)
        consumers.append(_named(table, name))
        per_user[name] = (
            per_user[name]
            .join(rating.within_user(scores, judged), on=c.USER, how="left")
            .rename({"auc": "AUC within user"})
        )
        rated.append(_named(_rated(scores, judged, train, groups, seed), name))
    told_apart = pl.concat(rated) if _both_kinds(judged) else pl.DataFrame()

    facts = _facts(log, train, judged, held_out, groups)
    facts["time"] = (
        f"{time.perf_counter() - started:.1f} s on {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    report = Report(
        source or "a log", command, seed, facts, _verdicts(per_user, k, seed),
        pl.concat(consumers), pl.concat(makers), told_apart, {},
    )  # fmt: skip
    report.figures.update(_figures(report))
    return report


def _both_kinds(log: FeedbackLog) -> bool:
    return bool((log.value > 0).any() and (log.value < 0).any())


def _split(log: FeedbackLog, how: str, test: float, rng: np.random.Generator) -> split.Pair:
    if how == "time":
        return split.by_time(log, test)
    if how == "random":
        return split.random_exposure(log)
    return split.per_user(log, test, rng=rng)


def _consumers(
    recs: pl.DataFrame, test: FeedbackLog, train: FeedbackLog, k: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row of list metrics with intervals, and the per-user table behind it."""
    names = [f"NDCG@{k}", f"Recall@{k}", f"Dislikes@{k}"]
    per_user = ranking.per_user(recs, test, names)
    wide: dict[str, float | None] = {}
    for row in ranking.summary(per_user, rng=seed).iter_rows(named=True):
        wide |= {row["metric"]: row["mean"], f"{row['metric']}_low": row["low"], f"{row['metric']}_high": row["high"]}
    spread = dict(exposure.overview(recs, train.n_items).iter_rows())
    wide |= {"items shown": spread["coverage"], "Gini": spread["gini"]}
    return pl.DataFrame([wide], schema=dict.fromkeys(wide, pl.Float64)), per_user


def _rated(scores: Any, test: FeedbackLog, train: FeedbackLog, groups: Groups, seed: int) -> pl.DataFrame:
    """One row: within-user metrics, and the published global-median protocol beside them."""
    popularity = np.bincount(train.item, minlength=train.n_items)[test.item]
    table = rated_report(scores, test, popularity, train=train, rng=seed).filter(pl.col("rule") == "model")
    wanted = {
        ("within user", "auc"): "AUC within user",
        ("within user", "precision@like_rate"): "at own like rate",
        ("global median (A6)", "consumer"): "pooled: consumers",
        ("global median (A6)", "well_known"): "pooled: well-known",
        ("global median (A6)", "lesser_known"): "pooled: lesser-known",
    }
    wide: dict[str, float | None] = {}
    for row in table.iter_rows(named=True):
        if name := wanted.get((row["protocol"], row["metric"])):
            wide |= {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return pl.DataFrame([wide], schema=dict.fromkeys(wide, pl.Float64))


def _verdicts(per_user: dict[str, pl.DataFrame], k: int, seed: int) -> list[str]:
    """What dislikes changed for the lists, in words that follow from the paired intervals."""
    if LIKES_ONLY not in per_user:
        return []
    metrics = [f"NDCG@{k}", f"Recall@{k}", f"Dislikes@{k}", "AUC within user"]
    changes = compare.paired(per_user[BOTH], per_user[LIKES_ONLY], metrics, rng=seed)
    words = []
    for row in changes.drop_nulls("difference").iter_rows(named=True):
        span = f"95 % interval {row['low']:+.4f} to {row['high']:+.4f}, {row['n_users']:,} people"
        clear = row["low"] > 0 or row["high"] < 0
        better = (row["difference"] > 0) != row["metric"].lower().startswith("dislikes")
        verdict = ("better" if better else "worse") if clear else "no clear difference"
        words.append(f"{row['metric']}: {row['difference']:+.4f} ({span}): {verdict} with dislikes.")
    return words


def _facts(
    log: FeedbackLog, train: FeedbackLog, judged: FeedbackLog, test: FeedbackLog, groups: Groups
) -> dict[str, str]:
    sizes = np.bincount(groups.group, minlength=len(groups.names))
    facts = {
        "log": repr(log),
        "likes": f"{(log.value > 0).mean():.1%} of {len(log):,} events",
        "train and test": f"{len(train):,} and {len(judged):,} events",
        "makers": ", ".join(f"{n:,} {name} items" for n, name in zip(sizes, groups.names, strict=True)),
    }
    if not _both_kinds(judged):
        facts["likes and dislikes"] = "test holds one of the two alone: nothing says how well they are told apart"
    if cold := len(test) - len(judged):
        facts["left out"] = f"{cold:,} test events of people without events in train"
    for number, note in enumerate(log.notes, 1):
        facts[f"note {number}"] = note
    return facts


def _named(table: pl.DataFrame, model: str) -> pl.DataFrame:
    return table.select(pl.lit(model).alias("model"), pl.all())


def _figures(report: Report) -> dict[str, float]:
    """Every number by a flat dotted name, such as makers.popular.consumers.precision."""
    figures = {}
    for part in ("makers", "consumers", "rated"):
        for row in getattr(report, part).iter_rows(named=True):
            where = [part] + [str(row[key]) for key in ("model", "stakeholder") if key in row]
            for name, value in row.items():
                if isinstance(value, int | float):
                    figures[".".join(_slug(word) for word in [*where, name])] = value
    return figures


def _slug(text: str) -> str:
    text = text.replace("(+)", "likes only").replace("(±)", "")
    return "_".join("".join(letter if letter.isalnum() or letter == "@" else " " for letter in text.lower()).split())


def _text(table: pl.DataFrame, compact: bool) -> pl.DataFrame:
    """Names and rounded numbers with their intervals, as text; counts are left out."""
    columns = []
    for name in table.columns:
        if table[name].dtype == pl.String:
            columns.append(table[name])
        elif table[name].dtype.is_float() and not name.endswith(("_low", "_high")):
            none = pl.Series([None] * table.height, dtype=pl.Float64)
            low, high = (
                table[f"{name}_{end}"] if f"{name}_{end}" in table.columns else none for end in ("low", "high")
            )
            cells = [_cell(*cell, compact=compact) for cell in zip(table[name], low, high, strict=True)]
            columns.append(pl.Series(name, cells))
    return pl.DataFrame(columns)


def _cell(value: float | None, low: float | None, high: float | None, compact: bool) -> str:
    if value is None:
        return "-"
    if low is None or high is None or low == high:
        return f"{value:.3f}"
    return (
        f"{value:.3f} ±{f'{(high - low) / 2:.3f}'.lstrip('0')}" if compact else f"{value:.3f} [{low:.3f}, {high:.3f}]"
    )


def plot_trade_off(report: Report) -> str:
    """Value for consumers against exposure for lesser-known makers, one point a model; an inline image."""
    figure, axes = _figure(6.4, 4.2)
    for number, model in enumerate(report.makers["model"].unique(maintain_order=True)):
        rows = {row["stakeholder"]: row for row in report.makers.filter(pl.col("model") == model).iter_rows(named=True)}
        x, y = rows["lesser-known"], rows["consumers"]
        spans = [[[r[n] - r[f"{n}_low"]], [r[f"{n}_high"] - r[n]]] for r, n in ((x, "exposure"), (y, "hit_rate"))]
        axes.errorbar(x["exposure"], y["hit_rate"], xerr=spans[0], yerr=spans[1], fmt="o", ms=8, capsize=3,
                      color=f"C{number}", label=model)  # fmt: skip
    axes.set_xlabel("share of the lists that lesser-known items get")
    axes.set_ylabel("share of the lists that people liked")
    axes.set_title("Consumers and lesser-known makers", loc="left")
    axes.legend(frameon=False)
    return _image(figure)


def plot_exposure(report: Report) -> str:
    """Share of exposure and of liked exposure by group of makers, one bar a model; an inline image."""
    figure, axes = _figure(6.4, 4.2)
    table = report.makers.filter(pl.col("stakeholder") == "lesser-known")
    place = np.arange(table.height)
    for shift, name, label in ((-0.2, "exposure", "of exposure"), (0.2, "liked_exposure", "of liked exposure")):
        value = table[name].to_numpy()
        low, high = table[f"{name}_low"].to_numpy(), table[f"{name}_high"].to_numpy()
        axes.barh(place + shift, value, 0.38, xerr=[value - low, high - value], label=label, capsize=2)
    axes.set_yticks(place, table["model"].to_list())
    axes.invert_yaxis()
    axes.set_xlabel("share that lesser-known items get")
    axes.set_title("What lesser-known makers get", loc="left")
    axes.legend(frameon=False)
    return _image(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _image(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
