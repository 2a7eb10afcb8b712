"""LightGCN: vectors smoothed over the graph of who liked what.

He et al., "LightGCN: simplifying and powering graph convolution network for recommendation", SIGIR 2020:

    e^(k+1) = A e^(k),   A = D^-1/2 [0 R; R^T 0] D^-1/2,   e = mean of e^(0) .. e^(layers)
    score(u, i) = <e_u, e_i>
    loss = mean over likes (u, i) and a negative j  w * softplus(score(u, j) - score(u, i))          (BPR)
           + reg / 2 * mean of |e_u^(0)|^2 + |e_i^(0)|^2 + |e_j^(0)|^2

Only e^(0) is learned. R has a one for each like; weights count in the loss, not in the graph. A share `dislike` of the
negatives are the user's dislikes, where there are any, the rest is uniform among what the user does not like: a dislike
is a negative that was told, and no edge. The dislikes of somebody who likes nothing have no say.

Easy to get wrong:
- The penalty is on e^(0), not on the smoothed vectors.
- The whole graph is passed in every step, `2 layers` products of A with all vectors, so a larger batch makes an epoch
  cheaper almost in proportion.
- A new user has no e^(0). Folding in gives the layers the user gets from items, with e^(0) = 0 and the items' layers
  as they were learned; it does not change the items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import State
from tastemaker.recommend.train import Batch, Params, Told, Trained, replaced, shuffled_pairs

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LightGCNState(State):
    """users (n_users, rank), items (n_items, rank): smoothed; passed (n_items, rank): what an edge brings a new user
    from each item, before division by the root of the number of the user's edges."""

    users: Floats
    items: Floats
    passed: Floats


@dataclass
class LightGCN(Trained[LightGCNState]):
    """Graph convolution on likes with pairwise ranking; dislikes are negatives that were told.

    Attributes:
        rank: length of the vectors.
        layers: how far vectors are passed along the graph; 0 is plain matrix factorisation with BPR.
        dislike: share of the negatives taken from the user's dislikes, where there are any.
        reg: L2 penalty of the vectors looked up.
        batch: likes of a step.
    """

    state_type: ClassVar[type[State]] = LightGCNState
    kind: ClassVar[str] = "lightgcn"

    epochs: int = 100
    batch: int = 2048
    rank: int = 64
    layers: int = 3
    dislike: float = 0.5
    reg: float = 1e-4

    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        if self.rank < 1 or min(self.layers, self.reg) < 0 or not 0 <= self.dislike <= 1:
            raise InvalidArgument(f"{self}; expected rank >= 1, layers and reg of at least 0 and dislike in [0, 1]")
        return {"vectors": rng.normal(0, 0.1, (sum(sizes), self.rank)).astype(np.float32)}

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """`batch`: user, liked, other (n,), rows of `vectors`; the graph's places (2, edges), numbers (edges,)."""
        import torch
        from torch.nn.functional import embedding, softplus

        user, liked, other, places, numbers = batch
        start = params["vectors"]
        # COO: torch knows its derivative, and A is its own transpose in sorted order.
        graph = torch.sparse_coo_tensor(
            places, numbers, (len(start), len(start)), is_coalesced=True, check_invariants=False
        )
        layer, smooth = start, start
        for _ in range(self.layers):
            layer = torch.sparse.mm(graph, layer)
            smooth = smooth + layer
        smooth = smooth / (self.layers + 1)
        margin = (embedding(user, smooth) * (embedding(liked, smooth) - embedding(other, smooth))).sum(1)
        penalty = sum(embedding(rows, start).square().sum() for rows in (user, liked, other))
        return ((weight * softplus(-margin)).sum() + self.reg / 2 * penalty) / len(user)

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        graph, n_users = adjacency(told.likes).tocoo(), told.likes.shape[0]
        places = np.stack([graph.row, graph.col]).astype(np.int64)
        for user, item, weight in shuffled_pairs(told, self.batch, rng):
            other = told.negatives(user, 1, self.dislike, rng)[:, 0]
            yield (user, item + n_users, other + n_users, places, graph.data), weight

    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> LightGCNState:
        graph, n_users = adjacency(told.likes), log.n_users
        layers = [params["vectors"]]
        for _ in range(self.layers):
            layers.append(graph @ layers[-1])
        smooth = sum(layers[1:], layers[0]) / (self.layers + 1)
        degree = np.maximum(np.bincount(told.likes.indices, minlength=log.n_items), 1)[:, None]
        below = sum((layer[n_users:] for layer in layers[:-1]), np.zeros_like(layers[0][n_users:]))
        passed = below / np.sqrt(degree) / (self.layers + 1)
        tables = (np.asarray(x, np.float32) for x in (smooth[:n_users], smooth[n_users:], passed))
        return LightGCNState(log.user_ids, log.item_ids, *tables)

    def _score_rows(self, state: LightGCNState, users: NDArray[np.int32]) -> Floats:
        return np.asarray(state.users[users] @ state.items.T, np.float32)

    def _fold_in(self, state: LightGCNState, log: FeedbackLog, weight: NDArray[np.float64]) -> LightGCNState:
        if self.layers == 0:
            raise InvalidArgument("a new user gets nothing from a graph of layers=0; expected layers >= 1, or refit")
        log.require_signed("LightGCN")
        known = log.users
        likes = Told.of(log, weight, known).likes
        edges = np.sqrt(np.maximum(np.diff(likes.indptr), 1)).astype(np.float32)[:, None]
        users = replaced(state.users, known, likes.sign() @ state.passed / edges, log.n_users)
        return dataclasses.replace(state, user_ids=log.user_ids, users=users)


def adjacency(likes: sparse.csr_matrix) -> sparse.csr_matrix:
    """A, (n_users + n_items) squared, float32 CSR: users first; nodes without edges have empty rows."""
    ones = likes.sign()
    per_user, per_item = np.diff(ones.indptr), np.bincount(ones.indices, minlength=likes.shape[1])
    left, right = (sparse.diags(1 / np.sqrt(np.maximum(degree, 1))) for degree in (per_user, per_item))
    scaled = (left @ ones @ right).astype(np.float32)
    graph = sparse.bmat([[None, scaled], [scaled.T, None]], format="csr", dtype=np.float32)
    graph.sort_indices()
    return sparse.csr_matrix(graph)
