"""NCF and CML: their documented scores and losses pair by pair, the hidden layer and the ball, what dislikes do."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tastemaker.data import FeedbackLog, synthetic
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.recommend import CML, NCF, LightGCN
from tastemaker.recommend.train import Params, Told, Trained


@pytest.fixture(scope="module")
def log() -> FeedbackLog:
    return synthetic.make(synthetic.tiny(), 5).log


def parts(model: Trained, log: FeedbackLog) -> tuple[Told, Params, list[torch.Tensor], torch.Tensor]:
    told = Told.of(log, np.arange(len(log)) % 3 + 1.0)
    params = model.init(np.random.default_rng(0), told.likes.shape)
    params = {name: np.asarray(x + 0.1, np.float32) for name, x in params.items()}  # no zeros that hide a term
    batch, weight = next(model.batches(told, np.random.default_rng(1), 0))
    return told, params, [torch.tensor(x) for x in batch], torch.tensor(weight, dtype=torch.float64)


def tensors(params: Params) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x, dtype=torch.float64) for name, x in params.items()}


# -- NCF ---------------------------------------------------------------------------------------------------------------


def logit(p: Params, user: int, item: int, act: object) -> float:
    hidden = np.concatenate([p["mlp_users"][user], p["mlp_items"][item]]) @ p["weight"] + p["bias"]
    product = p["users"][user] * p["items"][item]
    return float(p["product_head"] @ product + p["hidden_head"] @ act(hidden) + p["offset"][0])


@pytest.mark.parametrize(("activation", "act"), [("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)])
def test_scores_and_loss_are_the_documented_ones(log: FeedbackLog, activation: str, act: object) -> None:
    model = NCF(batch=20, rank=3, width=4, hidden=5, negatives=2, activation=activation, reg=0.1)
    told, params, batch, weight = parts(model, log)
    fitted = model.with_state(model._finish(log, told, params))
    users, items = np.divmod(np.arange(log.n_users * log.n_items), log.n_items)
    every = np.array([logit(params, u, i, act) for u, i in zip(users, items, strict=True)])
    assert_allclose(fitted.score(users, items), every, rtol=1e-4, atol=1e-5)

    expected = 0.0
    for u, row, w in zip(batch[0].tolist(), batch[1].tolist(), weight.tolist(), strict=True):
        probability = [1 / (1 + np.exp(-every[u * log.n_items + i])) for i in row]
        expected -= w * (np.log(probability[0]) + sum(np.log(1 - p) for p in probability[1:]))
        looked_up = [params["users"][u], params["mlp_users"][u]]
        looked_up += [params[name][i] for i in row for name in ("items", "mlp_items")]
        expected += 0.05 * sum(float((x.astype(np.float64) ** 2).sum()) for x in looked_up)
    assert float(model.loss(tensors(params), batch, weight)) == pytest.approx(expected / 20, rel=1e-5)


def test_the_hidden_layer_is_there(log: FeedbackLog) -> None:
    """Without a hidden layer the network part is a sum of a number of the user and one of the item; here it is not."""
    model = NCF(epochs=10, batch=64, learning_rate=0.02, rank=1, width=4, hidden=8, device="cpu").fit(log, rng=0)
    silent = model.fitted.users * 0
    state = type(model.fitted)(**{**model.fitted.__dict__, "users": silent})
    scores = model.with_state(state)._score_rows(state, np.arange(10, dtype=np.int32))
    mixed = scores - scores.mean(0) - scores.mean(1)[:, None] + scores.mean()
    assert np.abs(mixed).max() > 1e-3


# -- CML ---------------------------------------------------------------------------------------------------------------


def test_metric_loss_is_the_documented_one(log: FeedbackLog) -> None:
    model = CML(batch=20, rank=3, negatives=4, margin=0.7, covariance=0.3)
    _, params, batch, weight = parts(model, log)
    p, q = params["users"].astype(np.float64), params["items"].astype(np.float64)
    expected, points = 0.0, [p[u] for u in batch[0].tolist()]
    for u, (liked, *others), w in zip(batch[0].tolist(), batch[1].tolist(), weight.tolist(), strict=True):
        near = [0.7 + ((p[u] - q[liked]) ** 2).sum() - ((p[u] - q[k]) ** 2).sum() for k in others]
        rank = np.mean([x > 0 for x in near]) * log.n_items
        expected += w * np.log(1 + rank) * max(0.0, *near) / 20
        points += [q[k] for k in (liked, *others)]
    c = np.cov(np.array(points).T, bias=True)
    expected += 0.3 * ((c**2).sum() - (np.diag(c) ** 2).sum())
    assert float(model.loss(tensors(params), batch, weight)) == pytest.approx(expected, rel=1e-5)


def test_points_stay_in_the_ball(log: FeedbackLog) -> None:
    model = CML(epochs=20, batch=64, learning_rate=0.1, rank=4, device="cpu").fit(log, rng=0)
    norms = np.linalg.norm(np.vstack([model.fitted.users, model.fitted.items]), axis=1)
    assert norms.max() <= 1 + 1e-6
    assert (norms > 0.999).any()  # and the ball is what keeps them


def test_scores_are_squared_distances(log: FeedbackLog) -> None:
    model = CML(epochs=2, rank=4, device="cpu").fit(log, rng=0)
    users, items = np.divmod(np.arange(200), 20)
    distance = ((model.fitted.users[users] - model.fitted.items[items]) ** 2).sum(1)
    assert_allclose(model.score(users, items), -distance, atol=1e-5)


# -- what dislikes do --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        NCF(epochs=30, batch=64, learning_rate=0.02, rank=16, width=8, hidden=8, device="cpu"),
        CML(epochs=30, batch=64, learning_rate=0.02, rank=16, negatives=1, device="cpu"),
        LightGCN(epochs=30, batch=64, learning_rate=0.02, rank=16, layers=1, device="cpu"),
    ],
    ids=lambda model: model.kind,
)
def test_dislikes_are_negatives_that_were_told(log: FeedbackLog, model: Trained) -> None:
    """Learned from, they rank below what is unseen, more than they do when `dislike` is 0."""

    def place(share: float) -> float:
        """Share of (disliked, unseen) pairs of one user in which the disliked item scores higher."""
        own = type(model)(**{**model.__dict__, "dislike": share}).fit(log, rng=0)
        scores = own._score_rows(own.fitted, np.arange(log.n_users, dtype=np.int32))
        said = np.zeros(scores.shape)
        said[log.user, log.item] = log.value
        above = [
            (row[s < 0][:, None] > row[s == 0]).mean() for row, s in zip(scores, said, strict=True) if (s < 0).any()
        ]
        return float(np.mean(above))

    assert place(0.7) < place(0.0) - 0.1


def test_bad_options(log: FeedbackLog) -> None:
    for model in (
        NCF(rank=0),
        NCF(hidden=0),
        NCF(dislike=1.5),
        CML(margin=0.0),
        CML(margin=10.0),
        CML(covariance=-1.0),
    ):
        with pytest.raises(InvalidArgument, match="expected"):
            model.fit(log)
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        NCF(activation="rely").fit(log)


def test_settings_of_the_attack_paper() -> None:
    ncf, cml = NCF.victim(), CML.victim()
    assert (ncf.rank, ncf.width, ncf.hidden, ncf.negatives, ncf.activation) == (256, 64, 128, 5, "tanh")
    assert (ncf.batch, ncf.epochs, ncf.learning_rate) == (512, 90, 3e-4)
    assert (cml.rank, cml.negatives, cml.batch, cml.epochs, cml.learning_rate) == (256, 10, 512, 100, 1e-3)
