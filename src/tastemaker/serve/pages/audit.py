"""Audit: who got what, how it came to be shown, and whether the log can bear corrections.

Everything here is computed from the log alone, so that anybody with an export can check it. A probability of 1 / 5,000
makes one reaction weigh as much as 5,000; the effective sample says how many equally weighted ones the weighted ones
are worth (Kish).
"""

from __future__ import annotations

import json
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
from tastemaker.serve.gallery import NONE, Gallery
from tastemaker.serve.visit import Here

router = APIRouter(tags=["answer for it"])
DRILL = "drill.json"
_FIGURES = 60  # of a drill


@router.get("/audit", summary="Stakeholders, exposure by maker, propensities, the last attack drill")
def audit(here: Here) -> Response:
    site = here.site
    site.gallery.refresh()
    log = site.store.log(last=True)
    makers = _makers(log, site.gallery)
    table, groups = _stakeholders(log, site.gallery)
    facts = {
        "counts": site.store.counts(), "version": site.learner.version, "stakeholders": table, "groups": groups,
        "makers": makers, "policies": policies(log), "drill": _drill(site.settings.home / DRILL),
    }  # fmt: skip
    most = max((row["shown"] for row in makers), default=0)
    return here.page("audit.html", facts, view={"most": most, "file": DRILL, "behind": site.learner.behind()})


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


def _makers(log: FeedbackLog, gallery: Gallery) -> list[dict[str, Any]]:
    """A row a maker: pictures, how often shown and liked, and its exposure against its share of the pictures."""
    pictures = {one.id: one.maker for one in gallery.everything()}
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


def _stakeholders(log: FeedbackLog, gallery: Gallery) -> tuple[list[dict[str, Any]], str]:
    """The table of `evaluate.stakeholders` over what was really shown, and how makers were grouped; or why not."""
    if log.impressions is None or not len(log):
        return [], "nobody has been shown anything and said something yet"
    once = log.impressions.unique([c.USER, c.ITEM], keep="first", maintain_order=True).sort(c.USER, maintain_order=True)
    lists = once.select(c.USER, c.ITEM, pl.int_range(pl.len(), dtype=pl.Int32).over(c.USER).alias(c.RANK))
    try:
        groups, how = _groups(log, gallery)
        return stakeholders(lists, log, groups, draws=200).to_dicts(), how
    except TastemakerError as error:
        return [], str(error)


def _groups(log: FeedbackLog, gallery: Gallery) -> tuple[Groups, str]:
    models = {one.id: gallery.models.get(one.model) for one in gallery.everything()}
    downloads = [getattr(models.get(id), "downloads", None) for id in log.item_ids.series]
    known = [number for number in downloads if number is not None]
    if known:
        half = float(np.median(known))
        return by_value([number or 0 for number in downloads], [half]), f"downloads of the model, {half:,.0f} or more"
    return by_popularity(log), "the most liked pictures, which together hold half of all likes"


def _drill(path: Path) -> dict[str, Any] | None:
    """The last drill: what a recipe's --json wrote. None where there is none."""
    try:
        told = json.loads(path.read_bytes())
        figures = [(str(name), float(value)) for name, value in told["figures"].items() if value is not None]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"name": str(told.get("name", "")), "command": str(told.get("command", "")), "figures": figures[:_FIGURES]}
