"""MovieLens latest-small with time stamps: how well is the next rated film predicted?

There is no oracle, so a model of exposure is judged by what it says of events it has not seen: each person's last
fifth, step by step, with everything the person rated before known. Films with at least five ratings, at least one
of them in train. Every model's probabilities are renormalised over the films that the person has not yet rated, the
same candidates for all, plus 1e-6 shared out evenly, so that no model loses by a single zero.

- log-likelihood: mean log-probability of the film that came; higher is better. Chance is minus the log of the number of
  candidates.
- mean rank: of the film that came, from 1; ties count half.
- recall@k: share of events whose film is among the k most probable.

People rate many films in one sitting, from a list, so a film's age and popularity alone say much about the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.debias.age import ItemAge
from tastemaker.debias.contract import Propensity
from tastemaker.debias.exposure import Popularity, Uniform
from tastemaker.debias.poisson import PoissonFactors
from tastemaker.debias.sequence import Exposure, Sequences
from tastemaker.evaluate.compare import paired

Floats = NDArray[np.float64]
Say = Callable[[str], None]
PLACE = "ml-latest-small"
COMMON = 5
TEST = 0.2
AT = (1, 5, 10, 20, 50)
_EVENTS = 200  # events whose distributions are held at once


def run(*, data: Path | None, quick: bool, seed: int, seeds: int | None, say: Say) -> tuple[dict[str, float], str]:
    """Figures by name, and the page. `seeds` is not read: the split is by time, and intervals are over people."""
    if data is None or not (data / PLACE).exists():
        say(f"no {PLACE} in --data: left out")
        return {}, f"Left out: no {PLACE} in the folder given by --data."
    log, test = split(read(data / PLACE, people=60 if quick else None))
    train = log.select(~test)
    found: dict[str, pl.DataFrame] = {}
    for name, model in models(quick).items():
        say(f"MovieLens: {name}")
        model.fit(train, rng=seed)
        found[name] = per_person(model, log, np.flatnonzero(test))
    figures = {
        f"{name}.{metric}": float(np.average(table[metric], weights=table["events"]))
        for name, table in found.items()
        for metric in table.columns[2:]
    }
    rivals = [name for name in found if name != "exposure"]
    best = max(rivals, key=lambda name: figures[f"{name}.log_likelihood"])
    against = paired(found["exposure"], found[best], ["log_likelihood"], rng=seed).row(0, named=True)
    figures |= {f"exposure.over_best.{key}": float(against[key]) for key in ("difference", "low", "high")}
    lines = [
        f"{len(train):,} train and {int(test.sum()):,} later events of {len(log.users)} people on {log.n_items:,} "
        f"films with at least {COMMON} ratings; step by step, everything rated before known; candidates are the films "
        "not yet rated.",
        "",
        "| model | log-likelihood | mean rank | " + " | ".join(f"recall@{k}" for k in AT) + " |",
        "|---|" + "---|" * (2 + len(AT)),
    ]
    for name in found:
        recalls = " | ".join(f"{figures[f'{name}.recall{k}']:.3f}" for k in AT)
        lines.append(
            f"| {LABELS[name]} | {figures[f'{name}.log_likelihood']:.3f} | {figures[f'{name}.rank']:.0f} | {recalls} |"
        )
    lines += [
        "",
        f"`Exposure()` over {LABELS[best]}: log-likelihood {against['difference']:+.3f} ({against['low']:+.3f} to "
        f"{against['high']:+.3f}), mean over people, paired bootstrap.",
    ]
    return figures, "\n".join(lines)


LABELS = {
    "uniform": "uniform",
    "popularity": "popularity",
    "age": "item age",
    "poisson": "Poisson factorisation",
    "exposure": "`Exposure()`",
}


def models(quick: bool) -> dict[str, Propensity]:
    return {
        "uniform": Uniform(),
        "popularity": Popularity(),
        "age": ItemAge(),
        "poisson": PoissonFactors(normalise=True),
        "exposure": Exposure(epochs=2 if quick else Exposure.epochs),
    }


def read(folder: Path, people: int | None) -> FeedbackLog:
    """Half stars with times, all or the first `people`, films with at least `COMMON` ratings."""
    log = FeedbackLog.read(folder, format="movielens", scale=Scale(0.5, 5.0))
    if people is not None:
        log = log.select(log.user < people)
    common = np.bincount(log.item, minlength=log.n_items) >= COMMON
    return log.select(common[log.item]).compact()


def split(log: FeedbackLog) -> tuple[FeedbackLog, NDArray[np.bool_]]:
    """The log without what train cannot know, and a flag for each event: True for the last fifth of a person's."""

    def later(log: FeedbackLog) -> NDArray[np.bool_]:
        sequences = Sequences.of(log, refuse_twice=True)
        flag = np.zeros(len(log), np.bool_)
        for first, end in zip(sequences.start[:-1], sequences.start[1:], strict=True):
            flag[sequences.event[end - int(TEST * (end - first)) : end]] = True
        return flag

    known = np.bincount(log.item[~later(log)], minlength=log.n_items) > 0
    log = log.select(known[log.item])
    log = replace(log.compact(), impressions=None)
    return log, later(log)


def per_person(model: Propensity, log: FeedbackLog, events: NDArray[np.int64]) -> pl.DataFrame:
    """Mean figures of each person's events: columns user, events, log_likelihood, rank, recall1, ..."""
    events = events[np.argsort(log.user[events], kind="stable")]
    sequences = Sequences.of(log, refuse_twice=True)
    step = np.empty(len(log), np.int64)
    step[sequences.event] = np.arange(len(log)) - np.repeat(sequences.start[:-1], np.diff(sequences.start))
    rows = []
    for mine in np.split(events, np.flatnonzero(np.diff(log.user[events])) + 1):
        user = int(log.user[mine[0]])
        history = log.item[log.user == user]
        when = step[log.user == user]
        first = np.full(log.n_items, len(log))
        first[history] = when
        ranks, logs = [], []
        for part in np.split(mine, range(_EVENTS, len(mine), _EVENTS)):
            p = model.distribution(log, part)
            candidate = first >= step[part][:, None]
            p = np.where(candidate, p, 0.0)
            p = (p / np.maximum(p.sum(1, keepdims=True), 1e-300) + 1e-6 / candidate.sum(1, keepdims=True)) / (1 + 1e-6)
            own = p[np.arange(len(part)), log.item[part]]
            above = (candidate & (p > own[:, None])).sum(1)
            ties = (candidate & (p == own[:, None])).sum(1) - 1
            ranks.append(1 + above + ties / 2)
            logs.append(np.log(own))
        rank = np.concatenate(ranks)
        row = {c.USER: user, "events": len(mine), "log_likelihood": float(np.concatenate(logs).mean())}
        rows.append(row | {"rank": float(rank.mean())} | {f"recall{k}": float((rank <= k).mean()) for k in AT})
    return pl.DataFrame(rows)
