"""What recommenders trained by gradient steps share: the clicks they read, and the one training loop.

A model is a pure pair. `init(rng, sizes)` draws the parameters, float32 arrays by name; `loss(params, batch, weight)`
is a scalar that autograd can differentiate, once or twice, by the parameters and by whatever in the batch is a number.
It draws nothing and changes nothing: noise, dropout and sampled negatives come with the batch. So one pair serves
training, weighting and gradients *through* training, and the same seed gives the same result on CPU.

Easy to get wrong:
- Implicit models learn from likes. Events of a pair are added up first: a net like is a click of that weight, a net
  dislike a dislike of that weight, and what adds up to nothing (or has weight 0) has no say. What dislikes do is each
  model's to state; in models that sample negatives they are negatives that were told (`Told.negatives`).
- A negative is drawn among what the user did *not like*, exactly and without rejection. Somebody who likes everything
  has no negatives and teaches nothing.
- Penalties are part of the loss, so Adam sees them as torch's `weight_decay` in `Adam` (not `AdamW`) would.
- Rows of parameters are looked up by `embedding`, not by index: the gradient of an index is added up in whatever order
  the threads come, and one seed would give two results.

Only the loop needs torch: a saved model scores without it, and folds in new histories without it where the method has a
closed form or an encoder (ItemAE, MultVAE, LightGCN; NCF and CML learn newcomers by the loop).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument, MissingExtra
from tastemaker.evaluate.ranking import depth, per_user
from tastemaker.recommend.contract import Recommender, Rng, S, event_weights

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Params = dict[str, Floats]
Batch = tuple[tuple[NDArray[Any], ...], Floats]  # what the loss is of, and the weights of its terms
Progress = Callable[[int, int, float], None]  # epoch (from 1), epochs, mean loss of a batch in it
T = TypeVar("T", bound="Trained[Any]")


@dataclass(frozen=True, eq=False)
class Told:
    """likes, dislikes: (n_users, n_items) float32 CSR, the net weight of each liked and of each disliked pair."""

    likes: sparse.csr_matrix
    dislikes: sparse.csr_matrix

    @classmethod
    def of(cls, log: FeedbackLog, weight: NDArray[np.float64], users: NDArray[np.int32] | None = None) -> Self:
        """From a signed log; `users` takes only these rows, in this order."""
        net = sparse.csr_matrix((weight * log.value, (log.user, log.item)), shape=(log.n_users, log.n_items))
        net = (net if users is None else net[users]).astype(np.float32)
        likes, dislikes = net.maximum(0).tocsr(), (-net).maximum(0).tocsr()
        for part in (likes, dislikes):
            part.eliminate_zeros()
            part.sort_indices()
        return cls(likes, dislikes)

    @cached_property
    def pairs(self) -> tuple[Rows, Rows, Floats]:
        """User, item and weight of each like whose user has something left that they do not like; each (n,)."""
        n_likes, n_items = np.diff(self.likes.indptr), self.likes.shape[1]
        user = np.repeat(np.arange(len(n_likes)), n_likes)
        keep = n_likes[user] < n_items
        return user[keep], self.likes.indices[keep].astype(np.int64), self.likes.data[keep]

    @cached_property
    def _gaps(self) -> Rows:
        """For each like, how many items before it the user does not like, offset by user so that all ascend."""
        starts, n_likes = self.likes.indptr[:-1].astype(np.int64), np.diff(self.likes.indptr)
        place = np.arange(self.likes.nnz) - np.repeat(starts, n_likes)
        user = np.repeat(np.arange(len(n_likes)), n_likes)
        return np.asarray(user * self.likes.shape[1] + self.likes.indices - place, np.int64)

    @cached_property
    def _mass(self) -> NDArray[np.float64]:
        """Weight of all dislikes before each dislike, and of all, shape (n_dislikes + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.dislikes.data, dtype=np.float64)])

    def negatives(self, user: Rows, n: int, dislike: float, rng: np.random.Generator) -> Rows:
        """n negatives for each of these users, shape (len(user), n).

        Each is, with probability `dislike`, one of the user's dislikes in proportion to its weight, where there are
        any; else uniform among the items that the user does not like. `user` must have such items (see `pairs`).
        """
        n_items, starts = self.likes.shape[1], self.likes.indptr.astype(np.int64)
        left = n_items - np.diff(starts)[user]
        nth = (rng.random((len(user), n)) * left[:, None]).astype(np.int64)
        before = np.searchsorted(self._gaps, user[:, None] * n_items + nth, side="right") - starts[user][:, None]
        drawn: Rows = nth + before
        if dislike == 0 or self.dislikes.nnz == 0:
            return drawn
        first, last = self.dislikes.indptr[user], self.dislikes.indptr[user + 1]
        low, high = self._mass[first][:, None], self._mass[last][:, None]
        at = np.searchsorted(self._mass, low + rng.random((len(user), n)) * (high - low), side="right") - 1
        told = self.dislikes.indices[np.clip(at, first[:, None], np.maximum(last - 1, 0)[:, None])]
        take = (rng.random((len(user), n)) < dislike) & (last > first)[:, None]
        return np.asarray(np.where(take, told, drawn), np.int64)


@dataclass
class Trained(Recommender[S]):
    """A recommender that Adam trains.

    Attributes:
        epochs: passes over the training data.
        batch: rows or likes of a step.
        learning_rate: of Adam.
        device: torch device; None takes a GPU where there is one.
    """

    epochs: int = 50
    batch: int = 512
    learning_rate: float = 1e-3
    device: str | None = None

    @abstractmethod
    def init(self, rng: np.random.Generator, sizes: tuple[int, int]) -> Params:
        """Untrained parameters for (n_users, n_items)."""

    @abstractmethod
    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        """The scalar that a step lowers."""

    @abstractmethod
    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        """One epoch of batches; `step` steps were made before it."""

    def project(self, params: Mapping[str, Tensor]) -> None:
        """Bring the parameters back, in place, into the set they must lie in; called after each step."""

    @abstractmethod
    def _finish(self, log: FeedbackLog, told: Told, params: Params) -> S:
        """What scoring and fold-in need."""

    def _learn(self, log: FeedbackLog, weight: NDArray[np.float64], rng: np.random.Generator) -> S:
        told = self._told(log, weight)
        return self._finish(log, told, descend(self, told, self.init(rng, told.likes.shape), rng))

    def _told(self, log: FeedbackLog, weight: NDArray[np.float64]) -> Told:
        log.require_signed(type(self).__name__)
        if min(self.epochs, self.batch) < 1 or self.learning_rate <= 0:
            raise InvalidArgument(
                f"epochs={self.epochs}, batch={self.batch}, learning_rate={self.learning_rate:g}; expected all above 0"
            )
        told = Told.of(log, weight)
        if len(told.pairs[0]) == 0:
            raise InvalidArgument(
                f"{type(self).__name__} learns from likes, and nobody in this log likes some items and not others; "
                f"expected events of value +1 and a weight above 0"
            )
        return told


def train(
    model: T,
    log: FeedbackLog,
    *,
    validation: FeedbackLog | None = None,
    metric: str = "NDCG@20",
    patience: int = 5,
    weight: ArrayLike | None = None,
    progress: Progress | None = None,
    rng: Rng = None,
) -> T:
    """A fitted model, with progress and, where there is a validation log, stopped early.

    Args:
        model: the configuration; it stays as it is.
        log: the training events.
        validation: later or held-out events of the same users and items. After each epoch its users get lists without
            what they have in `log`; the epoch of the best mean `metric` is kept. None keeps the last epoch.
        metric: a ranking metric with its k, larger is better.
        patience: stop after so many epochs without a better one.
        weight: as in `fit`.
        progress: called after each epoch with epoch, epochs and mean loss.
        rng: seed or generator.
    """
    if len(log) == 0:
        raise InvalidArgument("the log has no events to learn from")
    if patience < 1:
        raise InvalidArgument(f"patience={patience}; expected at least 1 epoch")
    generator = np.random.default_rng(rng)
    told = model._told(log, event_weights(log, weight))
    if validation is not None:
        if validation.user_ids != log.user_ids or validation.item_ids != log.item_ids:
            raise InvalidArgument("log and validation hold different users or items; split one log")
        if not (validation.value > 0).any():
            raise InvalidArgument("the validation log has no likes to find; leave it out to run all epochs")

    def quality(params: Params) -> float:
        assert validation is not None
        recs = model.with_state(model._finish(log, told, params)).recommend(
            validation.users, depth([metric]), exclude=log
        )
        return float(per_user(recs, validation, [metric])[metric].mean())  # type: ignore[arg-type]

    start = model.init(generator, told.likes.shape)
    check = None if validation is None else quality
    params = descend(model, told, start, generator, progress=progress, check=check, patience=patience)
    return model.with_state(model._finish(log, told, params))


def descend(
    model: Trained[Any],
    told: Told,
    start: Params,
    rng: np.random.Generator,
    *,
    free: Sequence[str] | None = None,
    progress: Progress | None = None,
    check: Callable[[Params], float] | None = None,
    patience: int = 5,
) -> Params:
    """Parameters after training from `start`: mini-batches, Adam, the model's own projection.

    Args:
        free: names of the parameters that move; None moves all.
        check: called with the parameters after each epoch; those of the largest answer are kept.
        patience: stop after so many epochs without a larger answer.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error
    where = torch.device(model.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    params = {
        name: torch.tensor(x, device=where, requires_grad=free is None or name in free) for name, x in start.items()
    }
    adam = torch.optim.Adam([x for x in params.values() if x.requires_grad], model.learning_rate, fused=True)

    def arrays() -> Params:
        return {name: x.detach().cpu().numpy().copy() for name, x in params.items()}

    kept, best, best_epoch, step = start, -np.inf, 0, 0
    for epoch in range(1, model.epochs + 1):
        total, first = torch.zeros((), device=where), step
        for batch, weight in model.batches(told, rng, step):
            loss = model.loss(
                params, [torch.as_tensor(x, device=where) for x in batch], torch.as_tensor(weight, device=where)
            )
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
            with torch.no_grad():
                model.project(params)
            total += loss.detach()
            step += 1
        mean = float(total) / (step - first)
        if not np.isfinite(mean):
            raise InvalidArgument(
                f"training diverged in epoch {epoch} with learning_rate={model.learning_rate:g}; expected a smaller one"
            )
        if progress is not None:
            progress(epoch, model.epochs, mean)
        if check is None:
            continue
        found = check(arrays())
        if found > best:
            kept, best, best_epoch = arrays(), found, epoch
        elif epoch - best_epoch >= patience:
            break
    return arrays() if check is None else kept


def rows_of_newcomers(model: Trained[Any], told: Told, params: Params, names: Sequence[str]) -> Params:
    """The named tables of parameters, a row a user, learned for the users of `told` with all other parameters fixed.

    They start as the average user. With everything else fixed it takes few and large steps: 200 of 0.05.
    """
    n = told.likes.shape[0]
    start = params | {name: np.repeat(params[name].mean(axis=0, keepdims=True), n, axis=0) for name in names}
    if len(told.pairs[0]) == 0:  # nobody likes anything: there is nothing to learn from
        return {name: start[name] for name in names}
    short = dataclasses.replace(model, epochs=200, learning_rate=0.05, batch=1 << 15)
    learned = descend(short, told, start, np.random.default_rng(0), free=names)
    return {name: learned[name] for name in names}


def replaced(old: Floats, users: NDArray[np.int32], rows: Floats, n: int) -> Floats:
    """`old` with the rows of these users replaced, made n rows long."""
    table = np.pad(old, ((0, n - len(old)), (0, 0)))
    table[users] = rows
    return table


def shuffled_pairs(told: Told, batch: int, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Every like once, in random order: user, item, weight, each (batch,) or shorter."""
    user, item, weight = told.pairs
    order = rng.permutation(len(user))
    for first in range(0, len(order), batch):
        at = order[first : first + batch]
        yield user[at], item[at], weight[at]


def glorot(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Uniform weights of a layer, (rows, columns), that keep the spread of what goes through (Glorot & Bengio 2010)."""
    bound = np.sqrt(6 / (rows + columns))
    return rng.uniform(-bound, bound, (rows, columns)).astype(np.float32)
