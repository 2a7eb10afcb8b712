"""A simulated loop whose probabilities are known: what each kind of weight does to the error on uniformly random items.

The world of topics of `simulate.topics` at the published sizes: 60,000 train events, 60,000 ratings of uniformly random
items for the test. Each row learns the same rating predictor, the published GMF, with its own inverse propensities, and
is stopped by the same unweighted later events. One world a seed, three starts of the predictor a world; intervals
are Student's t over worlds, and differences are paired.

The published model trains one person a step, so it is trained on the first world only, for 30 epochs, its epoch chosen
as published, by the likelihood of later events. Ours chooses its epoch by held-out people of the train events. No row
but the oracle's looks at a true probability. Read of the published model's rows the share of the gap closed, which is
that of their one world; their errors are not means over the same worlds as the others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.debias.exposure import Popularity
from tastemaker.debias.poisson import PoissonFactors
from tastemaker.debias.rating import train_gmf
from tastemaker.debias.sequence import Exposure, train_exposure
from tastemaker.debias.weight import effective_sample_size
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import Interval, over_seeds
from tastemaker.simulate.topics import Topics, by_iteration, world

Floats = NDArray[np.float64]
Say = Callable[[str], None]
REPEATS = 3
PUBLISHED_EPOCHS = 30
SPLIT = (20, 25, 30)
NAMES = {
    "naive": "naive",
    "popularity": "popularity",
    "poisson": "Poisson factorisation",
    "published": "published sequence model, smoothing",
    "published_filtering": "published sequence model, filtering",
    "ours": "`Exposure()`, filtering",
    "oracle": "oracle",
}
ORDER = ("naive", "popularity", "poisson", "ours", "oracle")  # expected: each with a lower error than the one before
QUICK = Topics(users=800, items=300, topics=6, shown=30)


def run(*, data: Path | None, quick: bool, seed: int, seeds: int | None, say: Say) -> tuple[dict[str, float], str]:
    """Figures by name, and the page; `seeds` None means 5, or 2 when quick. `data` is not read."""
    n_seeds = seeds if seeds is not None else 2 if quick else 5
    if n_seeds < 2:
        raise InvalidArgument(f"seeds={n_seeds}; intervals need at least 2")
    frame = measure(range(seed, seed + n_seeds), quick, say)
    return figures(frame), markdown(frame)


def measure(seeds: range, quick: bool, say: Say) -> pl.DataFrame:
    """One row a world and kind of weight: columns seed, row, and the figures."""
    rows = []
    for seed in seeds:
        found = world(QUICK if quick else Topics(), seed)
        train, validation, _ = by_iteration(found.log, *SPLIT)
        for name, p in propensities(train, validation, seed, quick, seed == seeds[0], say):
            say(f"world {seed}: ratings, {NAMES[name]}")
            rows.append({"seed": seed, "row": name, **judge(p, train)})
            for key, value in errors(train, validation, found.test, p, 1 if quick else REPEATS).items():
                rows[-1][key] = value
    return pl.DataFrame(rows)


def propensities(
    train: FeedbackLog, validation: FeedbackLog, seed: int, quick: bool, first: bool, say: Say
) -> Iterator[tuple[str, Floats]]:
    """A probability for each train event, by kind."""
    yield "naive", np.ones(len(train))
    yield "popularity", Popularity(smoothing=0).fit(train).propensity(train)
    say(f"world {seed}: Poisson factorisation")
    yield "poisson", PoissonFactors().fit(train, rng=seed).propensity(train)
    if first:

        def tell(epoch: int, epochs: int, reached: float) -> None:
            say(f"world {seed}: published sequence model, epoch {epoch} of {epochs}")

        published = Exposure(faithful=True, epochs=1 if quick else PUBLISHED_EPOCHS)
        published = train_exposure(train, validation, model=published, rng=seed, progress=tell)
        yield "published", published.propensity(train)
        published.smoothing = False
        yield "published_filtering", published.propensity(train)
    say(f"world {seed}: our sequence model")
    yield "ours", Exposure().fit(train, rng=seed).propensity(train)
    yield "oracle", train.events[c.PROBABILITY].to_numpy()


def judge(p: Floats, train: FeedbackLog) -> dict[str, float | None]:
    """Propensities beside the truth. AUC: events that the platform recommended above those it did not."""
    truth = train.events[c.PROBABILITY].to_numpy()
    later = train.events[c.TIME].to_numpy() > 0
    high = truth[later] > np.sqrt(truth[later].min() * truth[later].max())
    rank = rankdata(p[later])
    n_high = int(high.sum())
    known = bool(np.ptp(p) > 0)
    return {
        "effective": effective_sample_size(1 / p) / len(p),
        "mean": float(p.mean()) if known else None,
        "log_correlation": float(np.corrcoef(np.log(p), np.log(truth))[0, 1]) if known else None,
        "auc": float((rank[high].mean() - (n_high + 1) / 2) / (len(high) - n_high)) if known else None,
    }


def errors(train: FeedbackLog, validation: FeedbackLog, test: FeedbackLog, p: Floats, repeats: int) -> dict[str, float]:
    """Mean squared and absolute error on the uniformly random items, over starts of the predictor."""
    squared, absolute = [], []
    for start in range(repeats):
        model = train_gmf(train, validation, weight=1 / p, rng=start)
        error = model.score(test.user, test.item).astype(np.float64) - test.value
        squared.append(float((error**2).mean()))
        absolute.append(float(np.abs(error).mean()))
    return {"mse": float(np.mean(squared)), "mae": float(np.mean(absolute))}


def shares(frame: pl.DataFrame, row: str) -> tuple[float, Floats]:
    """Share of the gap between naive and oracle that a row closes: of the mean gap, and of the gap of each world."""
    by_seed = frame.pivot(on="row", index="seed", values="mse").drop_nulls(row)
    naive, oracle, here = (by_seed[name].to_numpy() for name in ("naive", "oracle", row))
    closed, gap = naive - here, naive - oracle
    return float(closed.sum() / gap.sum()), np.asarray(closed / gap)


def gain(frame: pl.DataFrame, row: str, over: str) -> Interval | None:
    """How much lower the error of a row is, paired over worlds; None with fewer than 2 worlds."""
    by_seed = frame.pivot(on="row", index="seed", values="mse").drop_nulls([row, over])
    if by_seed.height < 2:
        return None
    return over_seeds(by_seed[over].to_numpy(), by_seed[row].to_numpy())


def figures(frame: pl.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in present(frame):
        mine = frame.filter(pl.col("row") == row)
        for name in ("mse", "mae", "effective", "mean", "log_correlation", "auc"):
            if mine[name].null_count() == 0:
                found[f"{row}.{name}"] = float(mine[name].mean())  # type: ignore[arg-type]
        found[f"{row}.gap_closed"], share = shares(frame, row)
        found[f"{row}.worlds"] = float(mine.height)
        if len(share) > 1 and row not in ("naive", "oracle"):
            interval = over_seeds(share)
            found |= {f"{row}.gap_closed_low": interval.low, f"{row}.gap_closed_high": interval.high}
        if (less := gain(frame, row, "naive")) is not None and row != "naive":
            found |= {f"{row}.gain": less.mean, f"{row}.gain_low": less.low, f"{row}.gain_high": less.high}
    for before, row in pairwise(ORDER):
        if (less := gain(frame, row, before)) is not None:
            name = f"{row}.gain_over_{before}"
            found |= {name: less.mean, f"{name}_low": less.low, f"{name}_high": less.high}
    return found


def present(frame: pl.DataFrame) -> list[str]:
    return [name for name in NAMES if name in frame["row"]]


def markdown(frame: pl.DataFrame) -> str:
    found = figures(frame)
    worlds = frame["seed"].n_unique()
    lines = [
        f"{worlds} worlds; gain = how much lower the MSE is than the naive one, paired, with 95 % interval; effective "
        "= effective share of the train events; AUC = recommended above not recommended, first events left out.",
        "",
        "| weights | test MSE | MAE | gain over naive | gap closed | effective | oracle log-corr. | AUC | worlds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in present(frame):

        def cell(name: str, digits: int = 3, row: str = row) -> str:
            return f"{found[f'{row}.{name}']:.{digits}f}" if f"{row}.{name}" in found else "–"

        less = f"{cell('gain')} ({cell('gain_low')} to {cell('gain_high')})" if f"{row}.gain" in found else "–"
        closed = f"{found[f'{row}.gap_closed']:.0%}"
        if f"{row}.gap_closed_low" in found:
            closed += f" ({found[f'{row}.gap_closed_low']:.0%} to {found[f'{row}.gap_closed_high']:.0%})"
        lines.append(
            f"| {NAMES[row]} | {cell('mse')} | {cell('mae')} | {less} | {closed} | {cell('effective', 2)} "
            f"| {cell('log_correlation', 2)} | {cell('auc', 2)} | {cell('worlds', 0)} |"
        )
    steps = []
    for before, row in pairwise(ORDER):
        mean, low, high = (found[f"{row}.gain_over_{before}{key}"] for key in ("", "_low", "_high"))
        verdict = "holds" if low > 0 else "is reversed" if high < 0 else "is open"
        steps.append(f"- {NAMES[before]} > {NAMES[row]} {verdict}: {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return "\n".join([*lines, "", "The expected order of errors, step by step, with paired differences:", "", *steps])
