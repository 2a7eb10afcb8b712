"""CML: collaborative metric learning, users and items as points of one ball; near is liked.

Hsieh et al., "Collaborative metric learning", WWW 2017:

    score(u, i) = -|p_u - q_i|^2,                         every point within the unit ball
    loss = mean over likes (u, i)  w * log(1 + rank) * [margin + |p_u - q_i|^2 - min over negatives |p_u - q_k|^2]_+
           + covariance * (|C|_F^2 - |diag C|^2),         C the covariance of the points looked up

rank is the WARP estimate: the share of the sampled negatives that lie within the margin, times the number of items. It
is a weight, so no gradient goes through it. After each step points outside the ball are put back on its surface.

A share `dislike` of the negatives are the user's dislikes, where there are any, the rest is uniform among what the user
does not like: a dislike is a negative that was told, kept beyond the margin as the others are and pushed no
further. The dislikes of somebody who likes nothing have no say.

Easy to get wrong: without the ball, the rank weight, and with vectors of norm 16 and a margin of 10 (the attack paper's
official victim) this is a hinge loss on distances, not CML: the margin has a meaning only against the ball's diameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import State
from tastemaker.recommend.train import (
    Batch,
    Params,
    Told,
    Trained,
    replaced,
    rows_of_newcomers,
    shuffled_pairs,
)

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CMLState(State):
    """Points: users (n_users, rank), items (n_items, rank), norms at most 1."""

    users: Floats
    items: Floats


@dataclass
class CML(Trained[CMLState]):
    """Metric learning on likes and sampled negatives; dislikes are negatives that were told.

    Attributes:
        rank: dimensions of the space.
        margin: how much farther than a like a negative should be, in squared distance; the ball's is 4 at most.
        negatives: sampled for each like; the nearest counts, and all estimate the rank.
        dislike: share of the negatives taken from the user's dislikes, where there are any.
        covariance: weight of the penalty that keeps dimensions uncorrelated; 0 leaves it out.
        batch: likes of a step.
    """

    state_type: ClassVar[type[State]] = CMLState
    kind: ClassVar[str] = "cml"

    learning_rate: float = 5e-3
    batch: int = 1024
    rank: int = 64
    margin: float = 0.5
    negatives: int = 20
    dislike: float = 0.5
    covariance: float = 1.0

    @classmethod
    def victim(cls) -> Self:
        """Sizes and schedule of the attack paper's CML; ball, rank weight and margin are the published method's."""
        return cls(epochs=100, batch=512, learning_rate=1e-3, rank=256, negatives=10, covariance=0.0)

    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        if min(self.rank, self.negatives) < 1 or not 0 < self.margin <= 4 or not 0 <= self.dislike <= 1:
            raise InvalidArgument(
                f"{self}; expected rank and negatives of at least 1, margin in (0, 4] and dislike in [0, 1]"
            )
        if self.covariance < 0:
            raise InvalidArgument(f"covariance={self.covariance:g}; expected at least 0")
        start = rng.normal(0, 0.5 / np.sqrt(self.rank), (sum(sizes), self.rank)).astype(np.float32)  # norms about 1/2
        return {"users": start[: sizes[0]], "items": start[sizes[0] :]}

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """`batch`: user (n,), item (n, 1 + negatives), the like first; `weight`: of the likes, (n,)."""
        import torch
        from torch.nn.functional import embedding

        user, item = batch
        p, q = embedding(user, params["users"]), embedding(item, params["items"])
        distance = (p[:, None] - q).square().sum(-1)
        near = self.margin + distance[:, :1] - distance[:, 1:]
        rank = (near.detach() > 0).float().mean(1) * len(params["items"])
        hinge = near.max(1).values.relu()
        loss = (weight * rank.log1p() * hinge).sum() / len(user)
        if self.covariance:
            points = torch.cat([p, q.flatten(0, 1)])
            centred = points - points.mean(0)
            c = centred.T @ centred / len(points)
            loss = loss + self.covariance * (c.square().sum() - c.diagonal().square().sum())
        return loss

    def project(self, params: Mapping[str, Tensor]) -> None:
        for points in params.values():
            points /= points.norm(dim=1, keepdim=True).clamp_min(1)

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        for user, item, weight in shuffled_pairs(told, self.batch, rng):
            others = told.negatives(user, self.negatives, self.dislike, rng)
            yield (user, np.column_stack([item, others])), weight

    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> CMLState:
        return CMLState(log.user_ids, log.item_ids, **params)

    def _score_rows(self, state: CMLState, users: NDArray[np.int32]) -> Floats:
        p = state.users[users]
        scores = 2 * p @ state.items.T
        scores -= (p * p).sum(1)[:, None] + (state.items * state.items).sum(1)
        return np.asarray(scores, np.float32)

    def _fold_in(self, state: CMLState, log: FeedbackLog, weight: NDArray[np.float64]) -> CMLState:
        """The loss that training minimises, over the new users' points alone."""
        log.require_signed("CML")
        known = log.users
        told = Told.of(log, weight, known)
        learned = rows_of_newcomers(self, told, {"users": state.users, "items": state.items}, ("users",))
        users = replaced(state.users, known, learned["users"], log.n_users)
        return dataclasses.replace(state, user_ids=log.user_ids, users=users)
