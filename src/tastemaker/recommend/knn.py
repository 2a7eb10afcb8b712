"""ItemKNN and UserKNN on signed feedback: neighbours by cosine or Jaccard with shrinkage, dislikes as negative numbers.

    cosine(a, b) = <x_a, x_b> / (|x_a| |x_b| + shrink)
    jaccard(a, b) = (agreements - disagreements) / (in a or in b + shrink)

where x holds +1 / -1 (graded logs: the value minus the person's mean), summed over a pair's events. Jaccard looks at
the signs of x alone; on likes it is the share of what either has that both have. Neighbours are those with the largest
*absolute* similarity: on signed data "liked by those who dislike this one" is evidence too. Everything counts as its
own neighbour with similarity 1, so that what a person said about an item also counts for the item itself.

Who has said nothing has no neighbours. They get what is popular: the sum of x over the people of the fit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.recommend.contract import Recommender, State, item_rows
from tastemaker.recommend.topk import top_k_of

Similarity = Literal["cosine", "jaccard"]
_ROWS = 256  # rows of the similarity matrix that are dense at once


@dataclass(frozen=True, eq=False)
class NeighbourState(State):
    """history: (n_users, n_items) what each user said, float32 CSR.

    links: ItemKNN: (n_items, n_items) similarities to each item's neighbours; UserKNN: (n_fitted_users, n_items) the
    histories among which neighbours are sought. popularity: (n_items,) score of each item for who has no history.
    """

    history: sparse.csr_matrix
    links: sparse.csr_matrix
    popularity: NDArray[np.float32]


@dataclass
class ItemKNN(Recommender[NeighbourState]):
    """Items like those a person liked, unlike those they disliked: score(u, i) = sum_j x_uj similarity(j, i).

    Attributes:
        neighbours: how many other items each item is linked to.
        shrink: pulls similarities that rest on little evidence towards 0.
        similarity: 'cosine', or 'jaccard', which looks at likes and dislikes and not at how strong they are.
    """

    state_type: ClassVar[type[State]] = NeighbourState
    kind: ClassVar[str] = "itemknn"

    neighbours: int = 100
    shrink: float = 10.0
    similarity: Similarity = "cosine"

    def _learn(self, log: FeedbackLog, weight: NDArray[np.float64], rng: np.random.Generator) -> NeighbourState:
        _check(self)
        history = preferences(log, weight)
        columns = _compared(history.T.tocsr(), self.similarity)
        parts = []
        for start in range(0, log.n_items, _ROWS):
            rows = np.arange(start, min(start + _ROWS, log.n_items))
            block = _similarity(columns[rows], columns, self.similarity, self.shrink)
            parts.append(_strongest(block, self.neighbours, but=rows))
        links = sparse.vstack(parts, format="csr") + sparse.identity(log.n_items, np.float32, format="csr")
        return NeighbourState(log.user_ids, log.item_ids, history, sparse.csr_matrix(links), _popularity(history))

    def _score_rows(self, state: NeighbourState, users: NDArray[np.int32]) -> NDArray[np.float32]:
        own = state.history[users]
        scores: NDArray[np.float32] = (own @ state.links).toarray()
        scores[own.getnnz(axis=1) == 0] = state.popularity
        return scores

    def _fold_in(self, state: NeighbourState, log: FeedbackLog, weight: NDArray[np.float64]) -> NeighbourState:
        return _refreshed(state, log, weight)

    def similar_items(self, items: ArrayLike, k: int = 10) -> pl.DataFrame:
        """The k nearest items of each item: table item, similar, score, rank; only items of positive similarity."""
        state = self.fitted
        rows = item_rows(items, len(state.item_ids))
        dense = state.links[rows].toarray()
        dense[np.arange(len(rows)), rows] = 0.0  # not itself
        dense[dense <= 0] = -np.inf
        return similar_table(rows, *top_k_of(dense, min(k, len(state.item_ids))))


@dataclass
class UserKNN(Recommender[NeighbourState]):
    """What people who agree with a person said: score(u, i) = x_ui + sum_v similarity(u, v) x_vi.

    Attributes:
        neighbours: how many other people count.
        shrink: pulls similarities that rest on little evidence towards 0.
        similarity: 'cosine', or 'jaccard', which looks at likes and dislikes and not at how strong they are.
    """

    state_type: ClassVar[type[State]] = NeighbourState
    kind: ClassVar[str] = "userknn"

    neighbours: int = 100
    shrink: float = 10.0
    similarity: Similarity = "cosine"

    def _learn(self, log: FeedbackLog, weight: NDArray[np.float64], rng: np.random.Generator) -> NeighbourState:
        _check(self)
        history = preferences(log, weight)
        return NeighbourState(log.user_ids, log.item_ids, history, history, _popularity(history))

    def _score_rows(self, state: NeighbourState, users: NDArray[np.int32]) -> NDArray[np.float32]:
        own = state.history[users]
        ours, theirs = _compared(own, self.similarity), _compared(state.links, self.similarity)
        scores = np.empty(own.shape, np.float32)
        for start in range(0, len(users), _ROWS):
            at = slice(start, min(start + _ROWS, len(users)))
            block = _similarity(ours[at], theirs, self.similarity, self.shrink)
            near = _strongest(block, self.neighbours, but=users[at])
            scores[at] = (near @ state.links + own[at]).toarray()
        scores[own.getnnz(axis=1) == 0] = state.popularity
        return scores

    def _fold_in(self, state: NeighbourState, log: FeedbackLog, weight: NDArray[np.float64]) -> NeighbourState:
        return _refreshed(state, log, weight)


def preferences(log: FeedbackLog, weight: NDArray[np.float64]) -> sparse.csr_matrix:
    """(n_users, n_items) float32: signed values, or graded values minus the user's weighted mean, summed by pair."""
    value = log.value.astype(np.float64)
    if not log.scale.signed:
        mass = np.bincount(log.user, weights=weight, minlength=log.n_users)
        total = np.bincount(log.user, weights=weight * value, minlength=log.n_users)
        value = value - (total / np.maximum(mass, 1e-12))[log.user]
    shape = (log.n_users, log.n_items)
    matrix = sparse.coo_matrix((weight * value, (log.user, log.item)), shape=shape).tocsr()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix.astype(np.float32)


def _strongest(dense: NDArray[np.float32], k: int, but: NDArray[np.integer]) -> sparse.csr_matrix:
    """Each row's k entries of largest absolute value, without column but[r] of row r; ties go to the lower column."""
    m, n = dense.shape
    inside = np.flatnonzero(but < n)  # a folded-in user is not among those that neighbours are sought in
    dense[inside, but[inside]] = 0.0
    found, size = top_k_of(np.abs(dense), min(k, n))
    rows, place = np.nonzero(size > 0)
    columns = found[rows, place]
    return sparse.csr_matrix((dense[rows, columns], (rows, columns)), shape=(m, n))


def similar_table(rows: NDArray[np.int32], found: NDArray[np.int32], scores: NDArray[np.float32]) -> pl.DataFrame:
    """Neighbours as a table item, similar, score, rank; places without a neighbour are left out."""
    k = found.shape[1]
    table = pl.DataFrame(
        {
            "item": np.repeat(rows, k),
            "similar": found.ravel(),
            "score": scores.ravel(),
            "rank": np.tile(np.arange(k, dtype=np.int32), len(rows)),
        }
    )
    return table.filter((pl.col("similar") >= 0) & pl.col("score").is_finite())


def _similarity(a: sparse.csr_matrix, b: sparse.csr_matrix, kind: Similarity, shrink: float) -> NDArray[np.float32]:
    """Dense (len(a), len(b)) similarities. Rows without history have similarity 0 to everything, also at shrink 0."""
    if kind == "jaccard":
        below = np.add.outer(a.getnnz(axis=1), b.getnnz(axis=1)) - (abs(a) @ abs(b).T).toarray()
        below = (below + shrink).astype(np.float32)
    else:
        below = np.multiply.outer(_norms(a), _norms(b)) + np.float32(shrink)
    product: NDArray[np.float32] = (a @ b.T).toarray()
    below[below <= 0] = 1.0
    product /= below
    return product


def _compared(matrix: sparse.csr_matrix, kind: Similarity) -> sparse.csr_matrix:
    """What of histories is compared: all of it, or the signs."""
    return matrix.sign() if kind == "jaccard" else matrix


def _norms(matrix: sparse.csr_matrix) -> NDArray[np.float32]:
    return np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1), np.float64).ravel()).astype(np.float32)


def _popularity(history: sparse.csr_matrix) -> NDArray[np.float32]:
    return np.asarray(history.sum(axis=0), np.float32).ravel()


def _refreshed(state: NeighbourState, log: FeedbackLog, weight: NDArray[np.float64]) -> NeighbourState:
    """The state with the histories of the log's users replaced and new users appended."""
    new = preferences(log, weight)
    kept = np.ones(log.n_users, np.float32)
    kept[log.users] = 0.0
    old = state.history.copy()
    old.resize(new.shape)  # new users get empty rows
    history = sparse.csr_matrix(sparse.diags(kept) @ old + new)
    history.eliminate_zeros()
    return dataclasses.replace(state, user_ids=log.user_ids, history=history.astype(np.float32))


def _check(model: ItemKNN | UserKNN) -> None:
    if model.neighbours < 1 or not model.shrink >= 0:
        raise InvalidArgument(
            f"neighbours={model.neighbours}, shrink={model.shrink:g}; expected neighbours >= 1 and shrink >= 0"
        )
    if model.similarity not in get_args(Similarity):
        raise UnknownName("similarity", model.similarity, get_args(Similarity))
