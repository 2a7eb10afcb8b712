"""Did it work? Hit rate and place of the targets in recommendations (Tang, Wen, Wang 2020, section 5).

Recommendations are made on the poisoned log and leave out what the user has clicked in it. A user who has clicked a
target cannot hit on it but stays in the denominator, as published; `per_target` is today's convention: for each target
the share among users who have not clicked it, then the mean over targets.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from tastemaker import columns as c
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument


def hit_rate(recs: pl.DataFrame, targets: ArrayLike, users: ArrayLike, k: int = 50) -> float:
    """Share of `users` with at least one target among their first k. recs: table of `columns.RECOMMENDATIONS`."""
    wanted = _users(users)
    found = recs.filter((pl.col(c.RANK) < k) & pl.col(c.ITEM).is_in(np.atleast_1d(targets)))
    return int(np.isin(wanted, found[c.USER].unique().to_numpy()).sum()) / len(wanted)


def per_target(recs: pl.DataFrame, targets: ArrayLike, users: ArrayLike, train: FeedbackLog, k: int = 50) -> float:
    """Mean over targets of the share, among `users` without an event on it in `train`, who have it in their first k.

    A target that every user has an event on is left out; nan where none is left.
    """
    wanted, shares = _users(users), []
    for target in np.atleast_1d(targets):
        open_to = np.setdiff1d(wanted, train.user[train.item == target])
        found = recs.filter((pl.col(c.RANK) < k) & (pl.col(c.ITEM) == int(target)))[c.USER].to_numpy()
        if len(open_to):
            shares.append(np.isin(open_to, found).mean())
    return float(np.mean(shares)) if shares else float("nan")


def mean_place(recs: pl.DataFrame, targets: ArrayLike, users: ArrayLike, n_items: int, k: int = 100) -> float:
    """Mean 0-based place of the targets over users and targets; n_items where it is not among the first k."""
    wanted, rows = _users(users), np.atleast_1d(targets)
    keep = (pl.col(c.RANK) < k) & pl.col(c.ITEM).is_in(rows) & pl.col(c.USER).is_in(wanted)
    found = recs.filter(keep)[c.RANK].to_numpy()
    cells = len(wanted) * len(rows)
    return float(found.sum(dtype=np.float64) + (cells - len(found)) * n_items) / cells


def _users(users: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    rows = np.unique(np.asarray(users, np.int64))
    if not len(rows):
        raise InvalidArgument("no users to average over; expected at least one row")
    return rows
