"""NCF: neural matrix factorisation, a product of vectors and a network side by side.

He et al., "Neural collaborative filtering", WWW 2017 (NeuMF without pre-training), with one hidden layer:

    logit(u, i) = <g, p_u * q_i>  +  <h, act([p'_u, q'_i] W + b)>  +  c
    loss = sum over likes and their sampled negatives  w * cross-entropy(label, sigmoid(logit)) / likes of the batch
           + reg / 2 * squared vectors looked up / likes of the batch

A like has label 1, each of its `negatives` items drawn anew in every epoch has label 0 and the weight of the like. A
share `dislike` of the negatives are the user's dislikes, where there are any; the rest is uniform among what the user
does not like. So a dislike is a negative that was told; the dislikes of somebody who likes nothing have no say.

Easy to get wrong:
- A list of hidden widths is not a list of layers: with vectors of 64 + 64 and "hidden = [128]" the attack paper's
  official victim has no hidden layer at all, the network is a concatenation. Here `hidden` is a layer, with W and b.
- The loss is pointwise, so the more negatives are dislikes, the lower it scores everything that resembles what people
  look at, liked things included: a small share of them goes a long way.
- W acts on users and items apart, [p', q'] W = p' W_top + q' W_bottom, so a pair costs `hidden` operations, not
  `hidden` times the width of the vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.recommend.contract import State
from tastemaker.recommend.train import (
    Batch,
    Params,
    Told,
    Trained,
    glorot,
    replaced,
    rows_of_newcomers,
    shuffled_pairs,
)

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Activation = Literal["relu", "tanh"]
_BLOCK = 1 << 22  # numbers of the hidden layer held at once while scoring
_USERS = ("users", "mlp_users")


@dataclass(frozen=True, eq=False)
class NCFState(State):
    """The parameters.

    users (n_users, rank), items (n_items, rank), mlp_users (n_users, width), mlp_items (n_items, width),
    product_head g (rank,), weight W (2 width, hidden), bias b (hidden,), hidden_head h (hidden,), offset c (1,).
    """

    users: Floats
    items: Floats
    mlp_users: Floats
    mlp_items: Floats
    product_head: Floats
    weight: Floats
    bias: Floats
    hidden_head: Floats
    offset: Floats


@dataclass
class NCF(Trained[NCFState]):
    """Neural matrix factorisation on likes and sampled negatives; dislikes are negatives that were told.

    Attributes:
        rank: length of the vectors that are multiplied.
        width: length of the vectors that the network reads.
        hidden: width of its hidden layer.
        activation: 'relu' (published) or 'tanh' (the attack paper).
        negatives: sampled for each like.
        dislike: share of the negatives taken from the user's dislikes, where there are any.
        reg: L2 penalty of the vectors looked up.
        batch: likes of a step.
    """

    state_type: ClassVar[type[State]] = NCFState
    kind: ClassVar[str] = "ncf"

    epochs: int = 30
    batch: int = 1024
    learning_rate: float = 2e-3
    rank: int = 32
    width: int = 32
    hidden: int = 32
    activation: Activation = "relu"
    negatives: int = 4
    dislike: float = 0.1
    reg: float = 0.1

    @classmethod
    def victim(cls) -> Self:
        """As the attack paper's NeuralCF is configured, with the hidden layer it meant to have."""
        return cls(
            epochs=90, batch=512, learning_rate=3e-4, rank=256, width=64, hidden=128, activation="tanh", negatives=5,
            reg=1e-4,
        )  # fmt: skip

    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        if self.activation not in get_args(Activation):
            raise UnknownName("activation", self.activation, get_args(Activation))
        if min(self.rank, self.width, self.hidden, self.negatives) < 1 or self.reg < 0 or not 0 <= self.dislike <= 1:
            raise InvalidArgument(f"{self}; expected sizes and negatives of at least 1, reg >= 0 and dislike in [0, 1]")
        shapes = {
            "users": (sizes[0], self.rank), "items": (sizes[1], self.rank),
            "mlp_users": (sizes[0], self.width), "mlp_items": (sizes[1], self.width),
        }  # fmt: skip
        params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
        return params | {
            "product_head": np.ones(self.rank, np.float32),
            "weight": glorot(rng, 2 * self.width, self.hidden),
            "bias": np.zeros(self.hidden, np.float32),
            "hidden_head": glorot(rng, self.hidden, 1)[:, 0],
            "offset": np.zeros(1, np.float32),
        }

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """`batch`: user (n,), item (n, 1 + negatives), the like first; `weight`: of the likes, (n,)."""
        from torch.nn.functional import embedding, softplus

        user, item = batch
        p, q = embedding(user, params["users"]), embedding(item, params["items"])
        mp, mq = embedding(user, params["mlp_users"]), embedding(item, params["mlp_items"])
        top, bottom = params["weight"].chunk(2)
        hidden = (mp @ top + params["bias"])[:, None] + mq @ bottom
        hidden = hidden.relu() if self.activation == "relu" else hidden.tanh()
        logit = ((p * params["product_head"])[:, None] * q).sum(-1) + hidden @ params["hidden_head"] + params["offset"]
        entropy = softplus(-logit[:, 0]) + softplus(logit[:, 1:]).sum(1)
        penalty = sum(x.square().sum() for x in (p, q, mp, mq))
        return ((weight * entropy).sum() + self.reg / 2 * penalty) / len(user)

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        for user, item, weight in shuffled_pairs(told, self.batch, rng):
            others = told.negatives(user, self.negatives, self.dislike, rng)
            yield (user, np.column_stack([item, others])), weight

    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> NCFState:
        return NCFState(log.user_ids, log.item_ids, **params)

    def _score_rows(self, state: NCFState, users: NDArray[np.int32]) -> Floats:
        scores = (state.users[users] * state.product_head) @ state.items.T + state.offset
        width = state.mlp_users.shape[1]
        left = state.mlp_users[users] @ state.weight[:width] + state.bias
        right = state.mlp_items @ state.weight[width:]
        step = max(1, _BLOCK // right.size)
        for start in range(0, len(users), step):
            hidden = left[start : start + step, None] + right
            hidden = np.maximum(hidden, 0, out=hidden) if self.activation == "relu" else np.tanh(hidden, out=hidden)
            scores[start : start + step] += hidden @ state.hidden_head
        return np.asarray(scores, np.float32)

    def _fold_in(self, state: NCFState, log: FeedbackLog, weight: NDArray[np.float64]) -> NCFState:
        """The loss that training minimises, over the new users' vectors alone."""
        log.require_signed("NCF")
        known = log.users
        told = Told.of(log, weight, known)
        params = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)[2:]}
        learned = rows_of_newcomers(self, told, params, _USERS)
        users, mlp_users = (replaced(params[name], known, learned[name], log.n_users) for name in _USERS)
        return dataclasses.replace(state, user_ids=log.user_ids, users=users, mlp_users=mlp_users)
