"""KuaiRec-like data by path: train on what a platform chose to show, judge on a fully observed block.

A folder in the layout of KuaiRec (Gao et al., CIKM 2022): `big_matrix.csv` with what people watched as the platform
chose, `small_matrix.csv` with (nearly) every pair of some people and some videos; columns `user_id`, `video_id`,
`watch_ratio` and, in the big one, `timestamp`. No other kind of data shows on real people what a correction is worth
everywhere, not only where a random slice happens to look.

Every row learns the watch ratios of the big matrix (at most 5) with its own inverse propensities, clipped at 20, with
the same `Factors`; the penalty is the best of four for the *unweighted* row on a tenth of the chosen events.
Judged on all of the small matrix: squared and absolute error of the ratio; AUC over all pairs and NDCG@50 within people
where a ratio of at least 2 is positive, as in the D-DR paper's table (NeurIPS 2024; it trains on another sample, so its
numbers do not belong beside these). Gains are paired over people, who are drawn again for the interval.

- A video watched again counts once, the first time: exposure is about the next *new* item.
- The published sequence model is left out: one person a step, over histories of thousands, takes days.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from tastemaker import columns as c
from tastemaker.data import FeedbackLog, split
from tastemaker.data.read import read_pair
from tastemaker.debias.age import ItemAge
from tastemaker.debias.contract import Propensity
from tastemaker.debias.exposure import Popularity
from tastemaker.debias.poisson import PoissonFactors
from tastemaker.debias.sequence import Exposure
from tastemaker.debias.weight import effective_sample_size, inverse
from tastemaker.errors import DataError
from tastemaker.evaluate import rating
from tastemaker.evaluate.compare import paired
from tastemaker.recommend.factors import Factors

FILES = ("big_matrix.csv", "small_matrix.csv")
FULL = 0.9  # least share of its pairs that the small matrix must hold; KuaiRec's has 99.6 %
PENALTIES = (3.0, 10.0, 30.0, 100.0)
CLIP = 20.0
POSITIVE = 2.0
LABELS = {
    "naive": "naive", "popularity": "popularity", "age": "item age", "poisson": "Poisson factorisation",
    "exposure": "`Exposure()`, filtering",
}  # fmt: skip
COLUMNS = {"mse": "MSE", "mae": "MAE", "auc": "AUC", "ndcg@50": "NDCG@50", "effective": "effective"}


def run(
    *, data: Path | None, quick: bool, seed: int, seeds: int | None, say: Callable[[str], None]
) -> tuple[dict[str, float], str]:
    """Figures and the page's section; `data` is the folder itself. `seeds` is not read: intervals are over people."""
    if data is None:
        return {}, "Left out: pass `--kuairec` with a folder that holds " + " and ".join(f"`{f}`" for f in FILES) + "."
    say("KuaiRec: reading")
    train, test = read(data, people=200 if quick else None)
    model = settled(train, seed, quick)
    figures, found = dict[str, float](), dict[str, pl.DataFrame]()
    for name, shown in models(quick).items():
        say(f"KuaiRec: {LABELS[name]}")
        weight = None if shown is None else inverse(shown.fit(train, rng=seed), train, clip=CLIP)
        scores = model.fit(train, weight=weight, rng=seed).score(test.user, test.item)
        found[name] = per_person(scores, test)
        figures |= {f"{name}.{metric}": value for metric, value in judge(scores, test).items()}
        figures[f"{name}.effective"] = 1.0 if weight is None else effective_sample_size(weight) / len(train)
        if name != "naive":
            gain = paired(found["naive"], found[name], ["mse"], rng=seed).row(0, named=True)
            figures |= {f"{name}.gain{key}": gain[at] for key, at in _BOUNDS.items()}
    return figures, page(figures, train, test, model)


_BOUNDS = {"": "difference", "_low": "low", "_high": "high"}


def models(quick: bool) -> dict[str, Propensity | None]:
    exposure = Exposure(epochs=2 if quick else Exposure.epochs)
    return {"naive": None, "popularity": Popularity(), "age": ItemAge(), "poisson": PoissonFactors(),
            "exposure": exposure}  # fmt: skip


def read(folder: Path, people: int | None = None) -> tuple[FeedbackLog, FeedbackLog]:
    """The big and the small matrix with shared ids; all people, or the first so many of the small matrix alone."""
    for name in FILES:
        if not (folder / name).exists():
            raise DataError(
                f"has no {name}; expected the folder of KuaiRec's data with {' and '.join(FILES)}", file=folder
            )
    train, test = read_pair(folder / FILES[0], folder / FILES[1], format="kuairec", on_duplicate="first")
    filled = len(test) / (len(test.users) * len(np.unique(test.item)))
    if filled < FULL:
        problem = (
            f"holds {filled:.0%} of the pairs of its people and videos; expected at least {FULL:.0%}, for only a fully "
            f"observed matrix judges without bias; are the two files swapped?"
        )
        raise DataError(problem, file=folder / FILES[1])
    if c.TIME not in train.events.columns:
        problem = "has no timestamps, or not for every row; item age and the sequence model need them"
        raise DataError(problem, file=folder / FILES[0], column="timestamp")
    if not np.isin(test.users, train.users).any():
        raise DataError("nobody of the small matrix is in the big one", file=folder)
    if people is not None:
        mine = test.users[:people]
        train, test = (log.select(np.isin(log.user, mine)) for log in (train, test))
    return train, test


def settled(train: FeedbackLog, seed: int, quick: bool) -> Factors:
    """The recommender of all rows: the penalty with the least unweighted error on a tenth of the chosen events."""
    learned, held = split.per_user(train, 0.1, rng=seed)
    plain = Factors(rank=4 if quick else 32, epochs=5 if quick else 15)

    def error(reg: float) -> float:
        model = replace(plain, reg=reg).fit(learned, rng=seed)
        return float(np.square(model.score(held.user, held.item) - held.value).mean())

    return replace(plain, reg=min(PENALTIES, key=error))


def judge(scores: np.ndarray, test: FeedbackLog) -> dict[str, float]:
    """Means over all pairs; NDCG@50 over people with a positive pair."""
    positive = _signed(test)
    error = scores - test.value
    auc = dict(rating.pooled(scores, positive, draws=1).select("metric", "value").iter_rows())["auc"]
    ndcg = rating.within_user(scores, positive, k=(50,))["ndcg@50"].mean()
    found = {"mse": np.square(error).mean(), "mae": np.abs(error).mean(), "auc": auc, "ndcg@50": ndcg}
    return {name: float("nan") if value is None else float(value) for name, value in found.items()}  # type: ignore[arg-type]


def per_person(scores: np.ndarray, test: FeedbackLog) -> pl.DataFrame:
    """Mean squared error of each person: columns user, mse."""
    table = pl.DataFrame({c.USER: test.user, "mse": np.square(scores - test.value).astype(np.float64)})
    return table.group_by(c.USER).mean().sort(c.USER)


def _signed(test: FeedbackLog) -> FeedbackLog:
    return test.signed(like=POSITIVE, dislike=float(np.nextafter(np.float32(POSITIVE), np.float32(0))))


def page(figures: dict[str, float], train: FeedbackLog, test: FeedbackLog, model: Factors) -> str:
    both = np.isin(*(log.user.astype(np.int64) * log.n_items + log.item for log in (test, train))).mean()
    lines = [
        f"{len(train):,} chosen events of {len(train.users):,} people; judged on {len(test):,} pairs of "
        f"{len(test.users):,} people, {both:.1%} of which the chosen events hold too; penalty {model.reg:g}.",
        "",
        "| weights | " + " | ".join(COLUMNS.values()) + " | MSE lower than naive (95 %) |",
        "| --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    for name, label in LABELS.items():
        cells = " | ".join(f"{figures[f'{name}.{metric}']:.3f}" for metric in COLUMNS)
        bounds = (figures.get(f"{name}.gain{key}", 0.0) for key in _BOUNDS)
        gain = "–" if name == "naive" else "{:+.3f} ({:+.3f} to {:+.3f})".format(*bounds)
        lines.append(f"| {label} | {cells} | {gain} |")
    return "\n".join(lines)
