"""ItemAE and MultVAE: autoencoders of items over users, and of users over items.

**ItemAE** (Sedhain et al., "AutoRec: autoencoders meet collaborative filtering", WWW 2015, item-based; in the form that
injection attacks use, Tang, Wen & Wang, RecSys 2020): an item is the row x of what every user said about it,

    tanh layers: users -> hidden -> latent -> hidden, then linear: hidden -> users
    loss = sum over all cells  c (x - output)^2  +  decay / 2 * |parameters|^2

x is +1 liked, -1 disliked, 0 unseen, and c is `like`, `dislike` (times the event's weight) and 1. So a dislike is a
click of the other sign; on likes alone this is the published victim. Unlike in AutoRec proper, unseen cells count.

**MultVAE** (Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018): a user is the set of
clicks, normalised to length 1 and thinned by dropout,

    h = tanh(x W + b);   z ~ N(mu(h), sigma(h)^2);   pi = softmax(tanh(z V + c) U + d)
    loss = mean over users of  - sum over clicks w log pi_i  +  beta KL(N(mu, sigma^2) || N(0, 1))

with beta raised step by step to its final value over `anneal` steps (KL annealing). A multinomial has no word for a
dislike: here dislikes count as not clicked, nothing more.

Easy to get wrong:
- The last layer of ItemAE belongs to users: a score is <item's last hidden layer, user's column>, so a new user is a
  weighted ridge regression, which is what training minimises with everything but the user's column fixed. The encoder
  of the items is left as it is.
- MultVAE encodes what was clicked; a weight says how much a click counts in the loss only. Scores come from mu, without
  noise or dropout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.recommend import least_squares
from tastemaker.recommend.contract import State
from tastemaker.recommend.least_squares import Cells
from tastemaker.recommend.train import Batch, Params, Told, Trained, glorot, replaced

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ItemAEState(State):
    """items (n_items, hidden): the last hidden layer; users (n_users, hidden), user_bias (n_users,): the last weights;
    like, dislike: weight of one event; reg: penalty of a user's row. A score is <items, users> + user_bias."""

    items: Floats
    users: Floats
    user_bias: Floats
    like: float
    dislike: float
    reg: float


@dataclass
class ItemAE(Trained[ItemAEState]):
    """Item autoencoder over users' likes and dislikes.

    Attributes:
        hidden, latent: widths of the layers; the decoder mirrors the encoder.
        like, dislike: weight of a like and of a dislike, unseen is 1.
        decay: L2 penalty of all parameters.
        batch: items of a step.
    """

    state_type: ClassVar[type[State]] = ItemAEState
    kind: ClassVar[str] = "itemae"

    epochs: int = 20
    batch: int = 128
    hidden: int = 64
    latent: int = 32
    like: float = 20.0
    dislike: float = 5.0
    decay: float = 0.1

    @classmethod
    def victim(cls) -> Self:
        """As the attack paper's ItemAE is configured, victim and surrogate; it knows no dislikes."""
        return cls(epochs=50, batch=2048, hidden=256, latent=128, decay=1e-6)

    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        if min(self.hidden, self.latent) < 1 or min(self.like, self.dislike, self.decay) < 0:
            raise InvalidArgument(f"{self}; expected widths of at least 1 and no negative weight or penalty")
        widths = (sizes[0], self.hidden, self.latent, self.hidden, sizes[0])
        return _layers(rng, widths)

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """`batch`: x (items, n_users); `weight`: c of the same shape."""
        (x,) = batch
        h = x
        for layer in range(3):
            h = (h @ params[f"weight{layer}"] + params[f"bias{layer}"]).tanh()
        output = h @ params["weight3"] + params["bias3"]
        return (weight * (x - output).square()).sum() + _penalty(params, self.decay)

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        order = rng.permutation(told.likes.shape[1])
        likes, dislikes = told.likes.T.tocsr(), told.dislikes.T.tocsr()
        for first in range(0, len(order), self.batch):
            at = order[first : first + self.batch]
            liked, disliked = likes[at].toarray(), dislikes[at].toarray()
            weight = np.where(liked > 0, self.like * liked, np.where(disliked > 0, self.dislike * disliked, 1.0))
            yield (np.sign(liked) - np.sign(disliked),), weight.astype(np.float32)

    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> ItemAEState:
        h = (told.likes.sign() - told.dislikes.sign()).T @ params["weight0"] + params["bias0"]
        for layer in (1, 2):
            h = np.tanh(h) @ params[f"weight{layer}"] + params[f"bias{layer}"]
        users = np.ascontiguousarray(params["weight3"].T)
        items = np.asarray(np.tanh(h), np.float32)
        reg = self.decay / 2 * -(-log.n_items // self.batch)  # paid once a step
        return ItemAEState(log.user_ids, log.item_ids, items, users, params["bias3"], self.like, self.dislike, reg)

    def _score_rows(self, state: ItemAEState, users: NDArray[np.int32]) -> Floats:
        return np.asarray(state.users[users] @ state.items.T + state.user_bias[users][:, None], np.float32)

    def _fold_in(self, state: ItemAEState, log: FeedbackLog, weight: NDArray[np.float64]) -> ItemAEState:
        log.require_signed("ItemAE")
        known = log.users
        told = Told.of(log, weight, known)
        both = (state.like * told.likes - state.dislike * told.dislikes).tocoo()
        cells = Cells.build(both.row, both.col, np.sign(both.data), np.abs(both.data), both.shape)
        # Below 1e-3 the normal equations are no longer solved well in float32.
        users, bias = least_squares.fold_in(
            cells, state.items, np.zeros(log.n_items, np.float32), max(state.reg, 1e-3), bias_reg=1.0
        )
        return dataclasses.replace(
            state,
            user_ids=log.user_ids,
            users=replaced(state.users, known, users, log.n_users),
            user_bias=replaced(state.user_bias[:, None], known, bias[:, None], log.n_users)[:, 0],
        )


@dataclass(frozen=True, eq=False)
class MultVAEState(State):
    """clicks: (n_users, n_items) float32 CSR of ones; the rest are the layers, mean and decoder only:
    items -> hidden (weight0, bias0) -> latent (weight1, bias1: mu) -> hidden (weight2, bias2) -> items."""

    clicks: sparse.csr_matrix
    weight0: Floats
    bias0: Floats
    weight1: Floats
    bias1: Floats
    weight2: Floats
    bias2: Floats
    weight3: Floats
    bias3: Floats


@dataclass
class MultVAE(Trained[MultVAEState]):
    """Variational autoencoder with multinomial likelihood, on likes; dislikes count as not clicked.

    Attributes:
        hidden, latent: widths of the layers; the decoder mirrors the encoder.
        dropout: share of the clicks hidden from the encoder while learning.
        beta: final weight of the KL term.
        anneal: steps until `beta` is reached.
        per_click: divide a user's likelihood by their clicks, so that everybody counts the same.
        decay: L2 penalty of all parameters.
        batch: users of a step.
    """

    state_type: ClassVar[type[State]] = MultVAEState
    kind: ClassVar[str] = "multvae"

    epochs: int = 100
    batch: int = 500
    hidden: int = 600
    latent: int = 200
    dropout: float = 0.5
    beta: float = 0.2
    anneal: int = 200_000
    per_click: bool = False
    decay: float = 0.0

    @classmethod
    def victim(cls) -> Self:
        """As the attack paper's UserVAE is configured."""
        return cls(epochs=70, batch=1024, hidden=512, latent=256, beta=1.0, anneal=10_000, per_click=True, decay=1e-6)

    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        if (
            min(self.hidden, self.latent, self.anneal) < 1
            or min(self.beta, self.decay) < 0
            or not 0 <= self.dropout < 1
        ):
            raise InvalidArgument(
                f"{self}; expected widths and anneal of at least 1, beta and decay of at least 0, dropout in [0, 1)"
            )
        # The encoder ends in mu and log sigma^2, side by side.
        encoder = _layers(rng, (sizes[1], self.hidden, 2 * self.latent))
        decoder = _layers(rng, (self.latent, self.hidden, sizes[1]), first=2)
        return encoder | decoder

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """`batch`: input (users, n_items), noise (users, latent), beta (); `weight`: of clicks, (users, n_items)."""
        x, noise, beta = batch
        mu, log_variance = (_tanh(x, params, 0) @ params["weight1"] + params["bias1"]).chunk(2, dim=1)
        z = mu + noise * (log_variance / 2).exp()
        log_pi = (_tanh(z, params, 2) @ params["weight3"] + params["bias3"]).log_softmax(dim=1)
        divergence = (mu.square() + log_variance.exp() - log_variance - 1).sum() / 2
        return (beta * divergence - (weight * log_pi).sum()) / len(x) + _penalty(params, self.decay)

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        clicks = _unit(told.likes.sign())
        likes = told.likes
        if self.per_click:
            likes = sparse.diags(1 / np.maximum(np.asarray(likes.sum(axis=1)).ravel(), 1e-12)) @ likes
        order = rng.permutation(np.flatnonzero(np.diff(told.likes.indptr)))
        for first in range(0, len(order), self.batch):
            at = order[first : first + self.batch]
            x = clicks[at]
            x.data *= (rng.random(x.nnz) >= self.dropout) / np.float32(1 - self.dropout)
            noise = rng.standard_normal((len(at), self.latent), np.float32)
            beta = np.float32(min(self.beta, self.beta * step / self.anneal))
            yield (x.toarray(), noise, np.asarray(beta)), likes[at].toarray().astype(np.float32)
            step += 1

    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> MultVAEState:
        mean = {"weight1": params["weight1"][:, : self.latent], "bias1": params["bias1"][: self.latent]}
        return MultVAEState(log.user_ids, log.item_ids, told.likes.sign(), **(params | mean))

    def _score_rows(self, state: MultVAEState, users: NDArray[np.int32]) -> Floats:
        h = np.tanh(_unit(state.clicks[users]) @ state.weight0 + state.bias0)
        h = np.tanh((h @ state.weight1 + state.bias1) @ state.weight2 + state.bias2)
        return np.asarray(h @ state.weight3 + state.bias3, np.float32)

    def _fold_in(self, state: MultVAEState, log: FeedbackLog, weight: NDArray[np.float64]) -> MultVAEState:
        log.require_signed("MultVAE")
        clicks = state.clicks.copy()
        clicks.resize((log.n_users, log.n_items))
        others = np.ones(log.n_users, np.float32)
        others[log.users] = 0
        clicks = (sparse.diags(others) @ clicks + Told.of(log, weight).likes.sign()).tocsr()
        clicks.eliminate_zeros()
        return dataclasses.replace(state, user_ids=log.user_ids, clicks=clicks.astype(np.float32))


def _layers(rng: np.random.Generator, widths: Sequence[int], first: int = 0) -> Params:
    """Weights (in, out) and zero biases (out,) of fully connected layers, numbered from `first`."""
    params: Params = {}
    for layer, (rows, columns) in enumerate(pairwise(widths), first):
        params[f"weight{layer}"] = glorot(rng, rows, columns)
        params[f"bias{layer}"] = np.zeros(columns, np.float32)
    return params


def _tanh(x: Tensor, params: Mapping[str, Tensor], layer: int) -> Tensor:
    return (x @ params[f"weight{layer}"] + params[f"bias{layer}"]).tanh()


def _penalty(params: Mapping[str, Tensor], decay: float) -> Tensor | float:
    return decay / 2 * sum(x.square().sum() for x in params.values()) if decay else 0.0


def _unit(clicks: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of ones, scaled to length 1."""
    length = np.sqrt(np.maximum(np.diff(clicks.indptr), 1)).astype(np.float32)
    return sparse.csr_matrix(sparse.diags(1 / length) @ clicks)
