"""Training that fake users sway less. Each defence takes any recommender of the contract and returns a fitted copy.

    defence.fit(victim, log, rng=...) -> something that recommends        the victim itself is left as it was

Through weights alone, so for every recommender whose `fit` accepts them:
- `Distrust`: the most suspicious users count less, or not at all (a detector's verdict as the weight of a user, as in
  GraphRfi: Zhang et al. 2020, without its joint training);
- `Cap`: nobody has more say than so many events; a fake user is not louder than a person of few words;
- `Trimmed`, `Welsch`: fit, look how badly each event fits, weigh the worst down, fit again (iteratively reweighted,
  as robust factorisation by M-estimators does: Mehta, Hofmann and Nejdl 2007).

Through the gradient, for models trained by `recommend.train`:
- `Adversarial`: APR (He et al. 2018): also fit the data with every row of the parameters pushed `epsilon` along its
  gradient. `per_user=True` is the idea of VAT (Zhang et al., RecSys 2024): push well-fitted users, who have most to
  lose, further: epsilon * 2 sigmoid(mean loss / loss_u - 1).

With a guarantee: `attack.certify.Bagging`.

Easy to get wrong: a defence costs accuracy and makers' exposure also when nobody attacks; `attack.drill` shows both.
Residuals are places in a user's own ranking, because the scores of a recommender need not be on the scale of values.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from tastemaker.attack.detect import Detector
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import Recommender, Rng, event_weights
from tastemaker.recommend.graph import LightGCN
from tastemaker.recommend.train import Batch, Told, Trained, descend

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Victim = Recommender[Any]


class Recommends(Protocol):
    """What a defence returns: lists, as `Recommender.recommend` gives them."""

    def recommend(self, users: ArrayLike, k: int = 10, *, exclude: FeedbackLog | None = None) -> pl.DataFrame:
        """The k best items for each user."""


class Defence(Protocol):
    """A way to train."""

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Recommends:
        """A fitted copy of the victim; deterministic by seed."""


@runtime_checkable
class Choosy(Defence, Protocol):
    """A defence that not every victim can have."""

    def suits(self, victim: Victim) -> bool:
        """Whether `fit` takes this victim."""


@dataclass(frozen=True)
class Plain:
    """No defence."""

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        return fresh(victim).fit(log, rng=rng)


@dataclass(frozen=True)
class Distrust:
    """The `share` of users that `detector` finds most suspicious count `weight` each; 0 removes them.

    Users of equal suspicion at the cut are all trusted. Doubted users have little or no say in what is learned, but
    some are real: with `serve` their histories are folded into what was learned, so that they get lists as good as a
    newcomer's. Without, a removed user's list may be arbitrary.
    """

    detector: Detector
    share: float = 0.02
    weight: float = 0.0
    serve: bool = True

    def suits(self, victim: Victim) -> bool:
        return folds_in(victim) or not self.serve

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        _between("share", self.share, 0, 1)
        _between("weight", self.weight, 0, 1)
        if not self.suits(fresh(victim)):
            raise InvalidArgument(
                f"{type(victim).__name__} cannot fold in users; expected one that can, or serve=False"
            )
        doubted = self.doubted(log)[log.user]
        model = fresh(victim).fit(log, weight=np.where(doubted, self.weight, 1.0), rng=rng)
        return model.fold_in(log.select(doubted)) if self.serve and doubted.any() else model

    def doubted(self, log: FeedbackLog) -> NDArray[np.bool_]:
        """Who counts less, shape (n_users,)."""
        suspicion = self.detector.score(log)
        known = suspicion[suspicion > -np.inf]
        n = int(self.share * len(known))
        return np.asarray(suspicion > np.sort(known)[::-1][n], bool)


@dataclass(frozen=True)
class Cap:
    """Each user's events weigh at most as much together as the events of the user at this quantile of activity."""

    quantile: float = 0.5

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        _between("quantile", self.quantile, 0, 1)
        events = np.bincount(log.user, minlength=log.n_users)
        most = np.quantile(events[events > 0], self.quantile)
        return fresh(victim).fit(log, weight=np.minimum(1, most / events[log.user]), rng=rng)


@dataclass(frozen=True)
class Trimmed:
    """The `share` of events that fit worst have no say, found anew after each of `rounds` fits."""

    share: float = 0.05
    rounds: int = 2

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        _between("share", self.share, 0, 1)
        return _reweighted(victim, log, self.rounds, rng, self._weigh)

    def _weigh(self, residual: Floats) -> Floats:
        return (residual <= np.quantile(residual, 1 - self.share)).astype(np.float64)


@dataclass(frozen=True)
class Welsch:
    """An event of residual r weighs exp(-(r / scale)^2), found anew after each of `rounds` fits."""

    scale: float = 0.5
    rounds: int = 2

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        if not self.scale > 0:
            raise InvalidArgument(f"scale={self.scale:g}; expected above 0")
        return _reweighted(victim, log, self.rounds, rng, lambda residual: np.exp(-((residual / self.scale) ** 2)))


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training of a victim that `recommend.train` trains.

    Attributes:
        epsilon: length by which each row of the parameters is pushed along its gradient.
        weight: of the loss at the pushed parameters; that at the parameters themselves has weight 1.
        warm: share of the epochs that come before, without pushing.
        per_user: VAT's lengths for users; needs a LightGCN victim (layers=0 is plain matrix factorisation).
    """

    epsilon: float = 0.5
    weight: float = 1.0
    warm: float = 0.5
    per_user: bool = False

    def suits(self, victim: Victim) -> bool:
        return isinstance(victim, LightGCN if self.per_user else Trained)

    def fit(self, victim: Victim, log: FeedbackLog, *, rng: Rng = None) -> Victim:
        if not (self.suits(victim) and isinstance(victim, Trained)):
            raise InvalidArgument(
                f"{self} of a {type(victim).__name__}; expected "
                + ("a LightGCN (layers=0 is matrix factorisation)" if self.per_user else "a model trained by gradient")
                + "; use Distrust, Cap, Trimmed or Welsch for other victims"
            )
        if self.epsilon < 0 or self.weight < 0:
            raise InvalidArgument(f"epsilon={self.epsilon:g}, weight={self.weight:g}; expected none below 0")
        _between("warm", self.warm, 0, 1)
        draw, told = np.random.default_rng(rng), victim._told(log, event_weights(log, None))
        params, n_warm = victim.init(draw, told.likes.shape), round(self.warm * victim.epochs)
        if n_warm:
            params = descend(dataclasses.replace(victim, epochs=n_warm), told, params, draw)
        if n_warm < victim.epochs:
            pushed = _Pushed(victim, self, victim.epochs - n_warm, victim.learning_rate, victim.device)
            params = descend(cast(Trained[Any], pushed), told, params, draw)
        return victim.with_state(victim._finish(log, told, params))


@dataclass(frozen=True)
class _Pushed:
    """What `descend` asks of a model, from `inner` but for the loss."""

    inner: Trained[Any]
    how: Adversarial
    epochs: int
    learning_rate: float
    device: str | None

    def batches(self, told: Told, rng: np.random.Generator, step: int) -> Iterator[Batch]:
        return self.inner.batches(told, rng, step)

    def project(self, params: Mapping[str, Tensor]) -> None:
        self.inner.project(params)

    def loss(self, params: Mapping[str, Tensor], batch: Sequence[Tensor], weight: Tensor) -> Tensor:
        import torch

        names = [name for name, x in params.items() if x.requires_grad]
        say = weight.clone().requires_grad_()
        plain = self.inner.loss(params, batch, say)
        *slopes, losses = torch.autograd.grad(plain, [*(params[name] for name in names), say], retain_graph=True)
        moved = dict(params)
        for name, slope in zip(names, slopes, strict=True):
            length = slope.norm(dim=-1, keepdim=True)
            step = self.how.epsilon * slope / length.clamp_min(1e-12)
            if self.how.per_user:  # the loss is linear in its weights, so their derivative is each like's own loss
                step = step * _lengths(batch[0], losses, len(slope))[:, None]
            moved[name] = params[name] + step.detach()
        return plain + self.how.weight * self.inner.loss(moved, batch, weight)


def _lengths(user: Tensor, losses: Tensor, n_rows: int) -> Tensor:
    """2 sigmoid(mean loss / loss_u - 1) for the rows of users in the batch, 1 for all others, (n_rows,)."""
    import torch

    total = torch.zeros(n_rows, device=losses.device).index_add_(0, user, losses)
    count = torch.zeros_like(total).index_add_(0, user, torch.ones_like(losses))
    own = total / count.clamp_min(1)
    mean = own[count > 0].mean()
    return torch.where(count > 0, 2 * torch.sigmoid(mean / own.clamp_min(1e-12) - 1), torch.ones_like(own))


def fresh(victim: Victim) -> Victim:
    """A copy to fit, so that the victim stays as it was. Raises InvalidArgument for what cannot be refitted."""
    if isinstance(victim, type) or not callable(getattr(victim, "fit", None)):
        given = victim.__name__ + ", a class" if isinstance(victim, type) else type(victim).__name__
        raise InvalidArgument(
            f"{given}, cannot be refitted; expected a recommender, an object with fit(log, weight=, rng=) and "
            f"recommend(users, k, exclude=), such as Factors()"
        )
    return copy.copy(victim)


def folds_in(victim: Victim) -> bool:
    """Whether the victim can learn a user's history without a new fit; LightGCN without layers cannot."""
    bare = isinstance(victim, LightGCN) and victim.layers == 0
    return callable(getattr(victim, "fold_in", None)) and not bare


def residuals(model: Victim, log: FeedbackLog) -> Floats:
    """How badly each event fits, (n_events,): the share of the user's items that a liked one lies below, or a disliked
    one above, in the model's scores; ties count half."""
    log.require_signed("residuals")
    order = np.argsort(log.user, kind="stable")
    starts = np.flatnonzero(np.diff(log.user[order], prepend=-1))
    items, result = np.arange(log.n_items), np.empty(len(log))
    for at in np.split(order, starts[1:]):
        scores = model.score(np.full(log.n_items, log.user[at[0]]), items)
        above = (log.n_items - stats.rankdata(scores)[log.item[at]]) / max(1, log.n_items - 1)
        result[at] = np.where(log.value[at] > 0, above, 1 - above)
    return result


def _reweighted(victim: Victim, log: FeedbackLog, rounds: int, rng: Rng, weigh: Any) -> Victim:
    if rounds < 1:
        raise InvalidArgument(f"rounds={rounds}; expected at least 1")
    seed = int(np.random.default_rng(rng).integers(2**31))  # each fit starts alike: only the weights differ
    model = fresh(victim).fit(log, rng=seed)
    for _ in range(rounds):
        model = fresh(victim).fit(log, weight=weigh(residuals(model, log)), rng=seed)
    return model


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or (name == "share" and value == high):
        raise InvalidArgument(f"{name}={value:g}; expected {low:g} to {high:g}")
