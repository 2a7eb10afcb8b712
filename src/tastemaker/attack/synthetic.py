"""The attack paper's synthetic clicks: low-rank taste, a click where it is strong (Tang, Wen, Wang 2020, section 4).

D = A B with standard normal A (users, rank) and B (rank, items); a click where D > `above`. With rank 20 and above = 5
about 13% of the cells are clicks. Every user loses one random click to the test log.
"""

from __future__ import annotations

import numpy as np

from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary


def low_rank_clicks(
    rng: np.random.Generator, *, n_users: int = 900, n_items: int = 300, rank: int = 20, above: float = 5.0
) -> tuple[FeedbackLog, FeedbackLog]:
    """Train and test log over the same vocabularies; a user without a click is in neither."""
    taste = rng.standard_normal((n_users, rank)) @ rng.standard_normal((rank, n_items))
    user, item = np.nonzero(taste > above)
    chance = rng.random(len(user))
    order = np.lexsort((chance, user))
    held = np.zeros(len(user), bool)
    held[order[np.unique(user[order], return_index=True)[1]]] = True
    users, items = Vocabulary.range(n_users), Vocabulary.range(n_items)

    def log(keep: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> FeedbackLog:
        n = int(keep.sum())
        return FeedbackLog.of(user[keep], item[keep], np.ones(n), user_ids=users, item_ids=items)

    return log(~held), log(held)
