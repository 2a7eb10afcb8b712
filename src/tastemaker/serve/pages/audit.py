"""Audit: who got what, how it came to be shown, and whether the log can bear corrections.

Everything here is computed from the log alone, so that anybody with an export can check it. A probability of 1 / 5,000
makes one reaction weigh as much as 5,000; the effective sample says how many equally weighted ones the weighted ones
are worth (Kish).

No request computes it: it is made in the background, of a long log in a process of its own, and kept until something
happens. Where a new one takes longer than a moment the page shows the last account and says as of when. The first of a
long log nobody waits for: the page says that it is being counted, and asks again by itself.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.responses import Response

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import TastemakerError
from tastemaker.evaluate.groups import Groups, by_popularity, by_value
from tastemaker.evaluate.stakeholders import stakeholders
from tastemaker.serve import schema as s
from tastemaker.serve.gallery import NONE, Gallery
from tastemaker.serve.store import Store
from tastemaker.serve.trust import Doubt
from tastemaker.serve.visit import Here, Site

router = APIRouter(tags=["answer for it"])
DRILL = "drill.json"
_FIGURES = 60  # of a drill
_NAMES, _NUMBERS = ("victim", "attack", "defence"), ("hit_rate_before", "hit_rate", "accuracy", "accuracy_change")
_DOUBTS = 40  # shown
_LONG = 100_000  # events: a process takes longer to start than fewer take to count
_SHORT = 10.0  # seconds to wait for the first account of fewer, which takes a tenth of one


@dataclass(frozen=True)
class Account:
    """What is computed from the log, as of an event and a moment (microseconds since 1970)."""

    seq: int
    time: int
    counts: dict[str, int]
    stakeholders: list[dict[str, Any]]
    groups: str
    makers: list[dict[str, Any]]
    policies: list[dict[str, Any]]


@dataclass(frozen=True)
class Origins:
    """Of each picture its maker, and of its model how well known it is."""

    makers: Mapping[str, str]
    downloads: Mapping[str, int | None]

    @classmethod
    def of(cls, gallery: Gallery) -> Origins:
        gallery.refresh()
        known = {name: model.downloads for name, model in gallery.models.items()}
        pictures = gallery.everything()
        return cls({one.id: one.maker for one in pictures}, {one.id: known.get(one.model) for one in pictures})


def accounts(store: Store, gallery: Gallery) -> Account:
    """Of the log as it is now; of a long one by a process of its own, for it would slow every page down."""
    origins = Origins.of(gallery)
    if store.seq() < _LONG:
        return account(store, origins)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=os.nice, initargs=(5,)) as process:
        return process.submit(_account_of, store.where, origins).result()


def account(store: Store, origins: Origins) -> Account:
    """Of the log as it is now, here."""
    seq = store.seq()
    log = store.log(last=True, upto=seq)
    table, groups = _stakeholders(log, origins)
    return Account(seq, s.now(), store.counts(), table, groups, _makers(log, origins), policies(log))


def _account_of(where: str, origins: Origins) -> Account:
    with Store(where) as store:
        return account(store, origins)


@router.get("/audit", summary="Stakeholders, exposure by maker, propensities, doubts, the last attack drill")
def audit(here: Here) -> Response:
    site = here.site
    site.gallery.refresh()
    seq = site.store.seq()
    made = site.accounts.get((seq, len(site.gallery)), patience=_SHORT if seq < _LONG else 0.0)
    facts = {
        "as_of": None if made is None else {"seq": made.seq, "time": made.time, "events_since": max(0, seq - made.seq)},
        "counts": {} if made is None else made.counts, "version": _version(site),
        "stakeholders": [] if made is None else made.stakeholders, "groups": "" if made is None else made.groups,
        "makers": [] if made is None else made.makers, "policies": [] if made is None else made.policies,
        "doubts": _doubts(site), "drill": _drill(site.settings.home / DRILL),
    }  # fmt: skip
    most = max((row["shown"] for row in facts["makers"]), default=0)
    return here.page("audit.html", facts, view={"most": most, "file": DRILL, "behind": site.learner.behind()})


def _version(site: Site) -> dict[str, Any]:
    """The version in force, without its doubts, which may name people."""
    return {name: value for name, value in vars(site.learner.version).items() if name not in ("doubts", "persons")}


def _doubts(site: Site) -> dict[str, Any]:
    """Who counts less since the last fit; in a public gallery how many, but not who."""
    found = site.learner.vetted.doubts
    rows = [{"person": None if site.settings.public else one.person} | _without_person(one) for one in found[:_DOUBTS]]
    kinds = {}
    for kind in ("votes", "likes"):
        of = [one for one in found if one.kind == kind]
        lost = sum(one.count * (1 - one.weight) for one in of)
        kinds[kind] = {"people": len(of), "given": sum(one.count for one in of), "left_out": round(lost, 1)}
    return {"on": site.settings.trust, **kinds, "rows": rows}


def _without_person(doubt: Doubt) -> dict[str, Any]:
    return {name: value for name, value in vars(doubt).items() if name != "person"}


def policies(log: FeedbackLog) -> list[dict[str, Any]]:
    """A row a policy: what it showed, with which probabilities, and what people made of it.

    like_rate is that of the impressions that were answered; corrected, the same weighted by 1 / probability.
    """
    shown = _impressions(log)
    if shown is None:
        return []
    rows = []
    for (policy,), part in shown.group_by("rule", maintain_order=True):
        answered = part.filter(pl.col(c.VALUE).is_not_null() & pl.col(c.PROBABILITY).is_not_null())
        weight = 1 / answered[c.PROBABILITY].to_numpy()
        liked = answered[c.VALUE].to_numpy() > 0
        rows.append(
            {
                "policy": policy, "shown": part.height, "people": part[c.USER].n_unique(),
                "items": part[c.ITEM].n_unique(),
                "without": part[c.PROBABILITY].null_count(), "lowest": part[c.PROBABILITY].min(),
                "median": part[c.PROBABILITY].median(), "answered": answered.height,
                "like_rate": float(liked.mean()) if len(liked) else None,
                "corrected": float(weight @ liked / weight.sum()) if len(liked) else None,
                "effective": float(weight.sum() ** 2 / (weight @ weight)) if len(liked) else 0.0,
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["shown"])


def _impressions(log: FeedbackLog) -> pl.DataFrame | None:
    """Impressions with the rule that chose (its policy without version and share) and the answer, on the last one."""
    if log.impressions is None:
        return None
    said = log.events.select(c.USER, c.ITEM, c.VALUE).unique([c.USER, c.ITEM], keep="last")
    rule = pl.col(c.POLICY).fill_null("unknown").str.replace(r"/\d+.*$", "").alias("rule")
    last = pl.int_range(pl.len()).reverse().over(c.USER, c.ITEM) == 0
    joined = log.impressions.with_columns(rule, last.alias("last")).join(said, on=[c.USER, c.ITEM], how="left")
    return joined.with_columns(pl.when("last").then(c.VALUE).alias(c.VALUE))


def _makers(log: FeedbackLog, origins: Origins) -> list[dict[str, Any]]:
    """A row a maker: pictures, how often shown and liked, and its exposure against its share of the pictures."""
    pictures = origins.makers
    maker = [pictures.get(id, NONE) for id in log.item_ids.series]
    names = sorted(set(maker))
    at = np.array([names.index(name) for name in maker], np.int64)
    every = np.arange(len(at))

    def count(rows: NDArray[np.integer], weight: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        return np.bincount(at[rows], weight, len(names)).astype(np.float64)

    made = count(every[[id in pictures for id in log.item_ids.series]])
    shown = np.zeros(len(names)) if log.impressions is None else count(log.impressions[c.ITEM].to_numpy())
    likes, dislikes = count(log.item, log.value > 0), count(log.item, log.value < 0)
    fair = made / max(1, made.sum()) * shown.sum()
    rows = [
        {
            "maker": name, "pictures": int(made[i]), "shown": int(shown[i]), "likes": int(likes[i]),
            "dislikes": int(dislikes[i]), "against_share": float(shown[i] / fair[i]) if fair[i] else None,
        }
        for i, name in enumerate(names) if made[i]
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["shown"])


def _stakeholders(log: FeedbackLog, origins: Origins) -> tuple[list[dict[str, Any]], str]:
    """The table of `evaluate.stakeholders` over what was really shown, and how makers were grouped; or why not."""
    if log.impressions is None or not len(log):
        return [], "nobody has been shown anything and said something yet"
    once = log.impressions.unique([c.USER, c.ITEM], keep="first", maintain_order=True).sort(c.USER, maintain_order=True)
    lists = once.select(c.USER, c.ITEM, pl.int_range(pl.len(), dtype=pl.Int32).over(c.USER).alias(c.RANK))
    try:
        groups, how = _groups(log, origins)
        return stakeholders(lists, log, groups, draws=200).to_dicts(), how
    except TastemakerError as error:
        return [], str(error)


def _groups(log: FeedbackLog, origins: Origins) -> tuple[Groups, str]:
    downloads = [origins.downloads.get(id) for id in log.item_ids.series]
    known = [number for number in downloads if number is not None]
    if known:
        half = float(np.median(known))
        return by_value([number or 0 for number in downloads], [half]), f"downloads of the model, {half:,.0f} or more"
    return by_popularity(log), "the most liked pictures, which together hold half of all likes"


def _drill(path: Path) -> dict[str, Any] | None:
    """The last drill: drill.json of `tastemaker attack`, or what a recipe's --json wrote. None where there is none."""
    try:
        told = json.loads(path.read_bytes())
        made = {"name": str(told.get("name", "tastemaker attack")), "time": path.stat().st_mtime_ns // 1000}
        if "outcomes" in told:
            targets = ", ".join(map(str, told["targets"][:5]))
            about = f"targets {targets} in {Path(str(told['log'])).name}, k {told['k']}"
            rows = [_outcome(row) for row in told["outcomes"][:_FIGURES]]
            return {**made, "command": about, "outcomes": rows, "figures": []}
        figures = [(str(name), _finite(value)) for name, value in told["figures"].items() if value is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return {**made, "command": str(told.get("command", "")), "outcomes": [], "figures": figures[:_FIGURES]}


def _outcome(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a drill's outcomes, its names and numbers only."""
    return {name: str(row[name]) for name in _NAMES} | {name: _finite(row[name]) for name in _NUMBERS}


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
