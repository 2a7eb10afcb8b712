"""The models under attack, and how each is judged: target hits, and what people lose.

The paper's six (section 5; constants of its code): ItemCF, WRMF-SGD, ItemAE, NeuralCF, CML, UserVAE. `ItemCF` and the
two that are also surrogates are written here, the others are the library's with the paper's constants; beside them
stand the library's own defaults. A victim never shares its seed with the attacker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.attack import hits
from tastemaker.attack.bilevel_loss import Adversary, Judged, Surrogate
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.clicks import Clicks, real_clicks
from tastemaker.data import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate import ranking
from tastemaker.recommend.contract import Allowed, Exclude, Found, Recommender, State
from tastemaker.recommend.topk import top_k, top_k_of

Rows = NDArray[np.int32]
DEPTH = 100  # lists as published; a target below is counted as at place n_items


@dataclass(frozen=True, eq=False)
class Linked(State):
    """history (n_users, n_items) and links (n_items, n_items): an item's row holds its neighbours; CSR float32."""

    history: sparse.csr_matrix
    links: sparse.csr_matrix


@dataclass
class ItemCF(Recommender[Linked]):
    """score(u, i) = sum of the Jaccard similarities of i to those of its 50 nearest items that u has clicked."""

    state_type: ClassVar[type[State]] = Linked
    kind: ClassVar[str] = "itemcf"

    neighbours: int = 50

    def _learn(self, log: FeedbackLog, weight: NDArray[np.float64], rng: np.random.Generator) -> Linked:
        _unweighted(weight)
        history = real_clicks(log)
        clicked = history.T.tocsr()
        count = np.diff(clicked.indptr).astype(np.float32)
        k = min(self.neighbours, log.n_items - 1)
        parts = []
        for start in range(0, log.n_items, 256):
            rows = np.arange(start, min(start + 256, log.n_items))
            both = (clicked[rows] @ history).toarray()
            similar = both / np.maximum(count[rows, None] + count - both, 1)
            similar[np.arange(len(rows)), rows] = 0  # not its own neighbour
            near, size = top_k_of(similar, k)
            row, place = np.nonzero(size > 0)
            parts.append(sparse.csr_matrix((size[row, place], (row, near[row, place])), (len(rows), log.n_items)))
        return Linked(log.user_ids, log.item_ids, history, sparse.csr_matrix(sparse.vstack(parts, format="csr")))

    def _score_rows(self, state: Linked, users: Rows) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (state.history[users] @ state.links.T).toarray()
        return scores

    def _fold_in(self, state: Linked, log: FeedbackLog, weight: NDArray[np.float64]) -> Linked:
        raise InvalidArgument("ItemCF stands here as a victim only; refit it")


@dataclass(frozen=True, eq=False)
class Pair(State):
    """users (n_users, d), items (n_items, d), float32."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]


class _Factors(Adversary):
    """Has no wish: gives back the factors it is shown in place of derivatives."""

    def judge(self, users: NDArray[Any], items: NDArray[Any]) -> Judged:
        return Judged(0.0, np.zeros(len(users), bool), users.copy(), items.copy())


@dataclass
class AsSurrogate(Recommender[Pair]):
    """A victim that is trained exactly as the attacker's surrogate: WRMF-SGD, WRMF-ALS or ItemAE."""

    state_type: ClassVar[type[State]] = Pair
    kind: ClassVar[str] = "surrogate"

    surrogate: Surrogate = field(default_factory=WMF)

    def _learn(self, log: FeedbackLog, weight: NDArray[np.float64], rng: np.random.Generator) -> Pair:
        _unweighted(weight)
        nobody = np.zeros((0, log.n_items), np.float32)
        clicks = Clicks.build(real_clicks(log), nobody, self.surrogate.weight)
        found, _ = self.surrogate.solve(clicks, _Factors(np.zeros(1, np.int32), clicks), None, rng)
        return Pair(log.user_ids, log.item_ids, found.users, found.items)

    def _score_rows(self, state: Pair, users: Rows) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = state.users[users] @ state.items.T
        return scores

    def _top_k(self, state: Pair, users: Rows, k: int, exclude: Exclude | None, items: Allowed) -> Found:
        return top_k(state.users[users], state.items, k, exclude=exclude, allowed=items)

    def _fold_in(self, state: Pair, log: FeedbackLog, weight: NDArray[np.float64]) -> Pair:
        raise InvalidArgument("a surrogate stands here as a victim only; refit it")


def _unweighted(weight: NDArray[np.float64]) -> None:
    if (weight != 1).any():
        raise InvalidArgument("the published victims know no weights; for defences by weight take the library's models")


@dataclass(frozen=True)
class Victim:
    """label: on the page; make: a new, unfitted model; seeds: how many are trained, for the models that draw."""

    label: str
    make: Callable[[], Recommender[Any]]
    seeds: int = 1


def judge(
    model: Recommender[Any],
    log: FeedbackLog,
    test: FeedbackLog,
    targets: Mapping[str, Rows],
    *,
    k: int,
    rng: int,
) -> dict[str, float]:
    """Fit on `log`, poisoned or not, and judge the lists of the people of `test`.

    For each set of targets NAME: `hit.NAME`, the share of people with at least one target among their first k, as
    published; `per_target.NAME`, today's convention; `place.NAME`, mean place. What people get: `recall`, `ndcg` and
    `precision` at k on their test rows.
    """
    people = test.users
    recs = model.fit(log, rng=rng).recommend(people, max(k, DEPTH), exclude=log)
    figures = dict[str, float]()
    for name, rows in targets.items():
        figures[f"hit.{name}"] = hits.hit_rate(recs, rows, people, k)
        figures[f"per_target.{name}"] = hits.per_target(recs, rows, people, log, k)
        figures[f"place.{name}"] = hits.mean_place(recs, rows, people, log.n_items, DEPTH)
    names = {"recall": f"Recall@{k}", "ndcg": f"NDCG@{k}", "precision": f"Precision@{k}"}
    found = ranking.summary(ranking.per_user(recs, test, list(names.values())), draws=0)
    means = dict(found.select("metric", "mean").iter_rows())
    return figures | {short: float(means[name]) for short, name in names.items()}
