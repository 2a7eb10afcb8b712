"""What `tastemaker debias` shows: how items came to be shown, whether the model of it can be believed, and what
correcting for it changes.

The same recommender is trained twice on the same events, plain and with inverse propensity weights, and judged three
ways where possible: over what people chose (which rewards imitating the chooser), over the same events weighted
(unbiased if the propensities are true), and over events shown at random (unbiased). Without random events the page says
so; a weighted figure is then all there is, as good as the propensities and the effective number of events behind it.

On a signed log the recommender regresses on what people say (unseen=0, a dislike worth as much as a like), on a graded
log on the grades: the question is what people *would* say, not what they will click.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.data import FeedbackLog, split
from tastemaker.debias import calibration
from tastemaker.debias.age import ItemAge
from tastemaker.debias.contract import Floats, Propensity
from tastemaker.debias.exposure import Logged, NaiveBayes, Popularity, Uniform
from tastemaker.debias.logistic import Logistic
from tastemaker.debias.poisson import PoissonFactors
from tastemaker.debias.weight import clipping, describe, inverse
from tastemaker.errors import InvalidArgument, MissingExtra, UnknownName
from tastemaker.evaluate import counterfactual
from tastemaker.recommend import Factors

NO_RANDOM = (
    "there are no events on items shown at random, so nothing here is unbiased for certain; the weighted figures are "
    "as good as the propensities"
)
SAMPLE = 0.1  # share of the random events that naive Bayes learns from; the rest judges

_ROW = "row of the whole log"


def _sequence() -> Propensity:
    try:
        model: Propensity = import_module("tastemaker.debias.sequence").Exposure()
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("torch", "torch") from error
    return model


#: Propensity models by the name the command line uses.
MODELS: Mapping[str, Callable[[], Propensity]] = {
    "uniform": Uniform,
    "popularity": Popularity,
    "item-age": ItemAge,
    "poisson": PoissonFactors,
    "logistic": Logistic,
    "naive-bayes": NaiveBayes,
    "logged": Logged,
    "sequence": _sequence,
}


@dataclass(frozen=True)
class Report:
    """One run. facts: name and value; warnings, verdicts: sentences; tables: by title; figures: by flat dotted name."""

    facts: dict[str, str]
    warnings: list[str]
    verdicts: list[str]
    tables: dict[str, pl.DataFrame]
    figures: dict[str, float]


def make(
    log: FeedbackLog,
    *,
    propensity: str = "popularity",
    clip: float | None = 20.0,
    random_test: bool | None = None,
    how: str = "user",
    test: float = 0.2,
    k: int = 10,
    rank: int = 32,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Report:
    """Fit how items came to be shown, check it, and train the same recommender plain and corrected.

    Args:
        propensity: a name of `MODELS`.
        clip: largest weight, on the scale where 1 is even exposure; None does not clip.
        random_test: hold out the events flagged `random` to judge by. None: where there are any; True: raise where
            there are none; False: use them like all others.
        how: what else is held out: 'user', a random `test` share of each user's events, or 'time', the latest.
        k, rank: items a person, and factors of the recommender.
    """
    if propensity not in MODELS:
        raise UnknownName("propensity model", propensity, MODELS)
    if log.scale.signed and not (log.events[c.VALUE] < 0).any():
        raise InvalidArgument(
            "the log holds likes only; the check compares what people say with what was predicted: it needs dislikes "
            "or grades"
        )
    model = MODELS[propensity]()
    chosen, random = _random(log, random_test)
    if isinstance(model, NaiveBayes) and random is not None:
        random, sample = split.per_user(random, SAMPLE, rng=seed)
        model = dataclasses.replace(model, sample=sample)
    chosen = dataclasses.replace(chosen, events=chosen.events.with_row_index(_ROW))
    train, held_out = _split(chosen, how, test, seed)
    rows = held_out.events[_ROW].to_numpy().astype(np.int64)

    say(f"fitting {model}")
    model.fit(train, rng=seed)
    say("checking the propensities")
    raw = inverse(model, chosen, normalise=False)
    weight = inverse(model, train, clip=clip)
    tables = _calibration(model, chosen, train, rows, raw, seed)
    described = describe(weight)
    warnings = [described.warning] if described.warning else []
    if random is None:
        warnings.append(NO_RANDOM)

    judged_by = raw[rows] if clip is None else np.minimum(raw[rows], clip)
    errors, lists = [], []
    tests = [(counterfactual.CHOSEN, held_out, None), (counterfactual.WEIGHTED, held_out, judged_by)]
    if random is not None:
        tests.append((counterfactual.RANDOM, random, None))
    options: dict[str, Any] = {"like": 1.0, "dislike": 1.0, "unseen": 0.0} if log.scale.signed else {}
    models = {}
    for name, given in (("plain", None), ("corrected", weight)):
        say(f"fitting the {name} recommender")
        models[name] = Factors(rank=rank, **options).fit(train, weight=given, rng=seed)
    say("judging")
    for judged, events, w in tests:
        errors.append(_errors(models, judged, events, w, seed))
    users = np.union1d(held_out.users, [] if random is None else random.users).astype(np.int32)
    like = None if log.scale.signed else log.scale.low + 0.7 * (log.scale.high - log.scale.low)
    for name, recommender in models.items():
        table = counterfactual.recalls(
            recommender.recommend(users, k, exclude=train),
            held_out,
            weight=judged_by,
            random=random,
            k=(k,),
            like=like,
            rng=seed,
        )
        lists.append(table.select(pl.lit(name).alias("model"), pl.exclude("users", "likes")))
    tables["error of what people would say"] = pl.concat(errors)
    tables["what the lists find"] = pl.concat(lists)

    facts = {
        "log": repr(log),
        "train": f"{len(train):,} events",
        "test": f"{len(held_out):,} events people chose, {0 if random is None else len(random):,} shown at random",
        "propensity": f"{model}, means '{model.meaning}', {'filtering' if model.filtering else 'smoothing'}",
        "mean log propensity": f"{np.log(model.propensity(train)).mean():.4f}",
        "weights": f"{described.n:,} worth {described.effective:,.0f} equal ones ({described.effective_share:.0%}), "
        f"from {described.least:.3g} to {described.most:.3g}",
    }
    if isinstance(model, NaiveBayes) and model.sample is not None:
        facts["naive Bayes learned from"] = f"{len(model.sample):,} random events, which judge nothing"
    if like is not None:
        facts["liked from"] = f"{like:g}"
    verdicts = _verdicts(tables["error of what people would say"])
    figures = _figures(tables, described.effective_share)
    checks = {
        "calibration_error": "share of events in the wrong bin",
        "bmse_plain": "BMSE, plain",
        "bmse_weighted": "BMSE, weighted",
    }
    facts |= {
        words: f"{figures[f'propensity.{name}']:.4g}"
        for name, words in checks.items()
        if f"propensity.{name}" in figures
    }
    tables = {title: _readable(table) for title, table in tables.items()}
    return Report(facts, warnings, verdicts, tables, figures)


def _random(log: FeedbackLog, wanted: bool | None) -> tuple[FeedbackLog, FeedbackLog | None]:
    """Chosen events, and random ones where they are held out."""
    if wanted is False:
        return log, None
    there = c.RANDOM in log.events.columns and bool(log.events[c.RANDOM].any())
    if not there and wanted is None:
        return log, None
    chosen, random = split.random_exposure(log)
    if not len(random) or not len(chosen):
        raise InvalidArgument(f"{len(chosen):,} events were chosen and {len(random):,} random; expected some of each")
    return chosen, random


def _split(log: FeedbackLog, how: str, test: float, seed: int) -> split.Pair:
    if how not in ("user", "time"):
        raise UnknownName("split", how, ["user", "time"])
    train, held_out = split.by_time(log, test) if how == "time" else split.per_user(log, test, rng=seed)
    if not len(held_out):
        raise InvalidArgument(
            f"nothing is held out of {len(log):,} events of {len(log.users):,} users; raise test={test:g}"
        )
    return train, held_out


def _calibration(
    model: Propensity, chosen: FeedbackLog, train: FeedbackLog, rows: NDArray[np.int64], raw: Floats, seed: int
) -> dict[str, pl.DataFrame]:
    """Tables about the propensities; those that a model or a log cannot give are left out."""
    tables = {}
    if model.knows_others:
        # Steps are checked on what was held out; pairs of the held-out events are pairs of the training log as well.
        on, events = (chosen, rows) if model.meaning == "step" else (train, None)
        tables["reliability: expected and observed events by forecast"] = calibration.reliability(
            model, on, events=events, rng=seed
        )
    if model.meaning == "step" and c.TIME in chosen.events.columns and not chosen.events[c.TIME].null_count():
        p = 1 / (raw * chosen.n_items)
        tables["propensities along the histories"] = calibration.steps(p, chosen)
    held_out = chosen.select(np.isin(np.arange(len(chosen)), rows))
    groups = calibration.popularity_groups(train)
    tables["balance: do weighted held-out events look like the catalogue?"] = calibration.balance(
        raw[np.sort(rows)], held_out, groups
    )
    tables["clipping"] = clipping(model, train)
    return tables


def _errors(
    models: Mapping[str, Factors], judged: str, test: FeedbackLog, weight: Floats | None, seed: int
) -> pl.DataFrame:
    """Errors of both models and their difference, with an interval: one row a metric."""
    w = np.ones(len(test)) if weight is None else weight
    low, high = test.scale.low, test.scale.high
    off = {name: np.clip(m.score(test.user, test.item), low, high) - test.value for name, m in models.items()}
    rows = []
    for metric, loss in (("MSE", np.square), ("MAE", np.abs)):
        plain, corrected = (loss(off[name].astype(np.float64)) for name in ("plain", "corrected"))
        found = counterfactual.estimates(corrected - plain, test, w, clip=None, rng=seed)
        difference = found.row(by_predicate=pl.col("estimator") == "SNIPS", named=True)
        rows.append(
            {
                "judged": judged,
                "metric": metric,
                "plain": float(np.average(plain, weights=w)),
                "corrected": float(np.average(corrected, weights=w)),
                "change": difference["value"],
                "low": difference["low"],
                "high": difference["high"],
                "effective": difference["effective"],
            }
        )
    return pl.DataFrame(rows)


def _verdicts(errors: pl.DataFrame) -> list[str]:
    """What the correction changed, in words that follow from the intervals."""
    words = []
    for row in errors.filter(pl.col("metric") == "MSE").iter_rows(named=True):
        clear = row["low"] > 0 or row["high"] < 0
        verdict = ("better" if row["change"] < 0 else "worse") if clear else "no clear difference"
        words.append(
            f"MSE {counterfactual.MEANING[row['judged']]}: {row['plain']:.4f} plain, {row['corrected']:.4f} "
            f"corrected, change {row['change']:+.4f} (95 % interval {row['low']:+.4f} to {row['high']:+.4f}, "
            f"{row['effective']:,.0f} effective events): {verdict} with the correction"
        )
    return words


def _readable(table: pl.DataFrame) -> pl.DataFrame:
    """Four digits after the point where numbers are not tiny; effective events, whole, in a column `worth`."""
    table = table.with_columns(
        pl.when(pl.selectors.float().abs() < 0.01)
        .then(pl.selectors.float().round_sig_figs(2))
        .otherwise(pl.selectors.float().round(4))
    )
    if "effective" not in table.columns:
        return table
    return table.with_columns(pl.col("effective").round().cast(pl.Int64)).rename({"effective": "worth"})


def _figures(tables: Mapping[str, pl.DataFrame], effective_share: float) -> dict[str, float]:
    """Every number worth keeping, by a flat dotted name such as random.MSE.corrected."""
    short = {counterfactual.CHOSEN: "chosen", counterfactual.WEIGHTED: "weighted", counterfactual.RANDOM: "random"}
    figures = {"weights.effective_share": effective_share}
    for title, table in tables.items():
        if title.startswith("reliability"):
            figures["propensity.calibration_error"] = calibration.error(table)
        elif title.startswith("balance"):
            figures["propensity.bmse_plain"], figures["propensity.bmse_weighted"] = calibration.bmse(table)
    for row in tables["error of what people would say"].iter_rows(named=True):
        for name in ("plain", "corrected", "change", "low", "high"):
            figures[f"{short[row['judged']]}.{row['metric']}.{name}"] = row[name]
    for row in tables["what the lists find"].iter_rows(named=True):
        if row["value"] is not None:
            figures[f"{short[row['judged']]}.{row['metric']}.{row['model']}"] = row["value"]
    return figures
