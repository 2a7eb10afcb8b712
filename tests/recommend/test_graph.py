"""LightGCN: the graph, the smoothing and the loss against dense algebra; fold-in."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tastemaker.data import FeedbackLog, Vocabulary, synthetic
from tastemaker.errors import InvalidArgument
from tastemaker.recommend import LightGCN
from tastemaker.recommend.graph import adjacency
from tastemaker.recommend.train import Told


@pytest.fixture(scope="module")
def log() -> FeedbackLog:
    return synthetic.make(synthetic.tiny(), 5).log


def dense(told: Told) -> np.ndarray:
    r = (told.likes.toarray() > 0).astype(float)
    a = np.block([[np.zeros((len(r), len(r))), r], [r.T, np.zeros((r.shape[1], r.shape[1]))]])
    scale = 1 / np.sqrt(np.maximum(a.sum(1), 1))
    return scale[:, None] * a * scale


def test_the_graph(log: FeedbackLog) -> None:
    told = Told.of(log, np.arange(len(log)) % 3 + 1.0)  # weights have no say in it
    graph = adjacency(told.likes)
    assert_allclose(graph.toarray(), dense(told), atol=1e-6)
    assert (graph != graph.T).nnz == 0


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_scores_and_loss_are_the_documented_ones(log: FeedbackLog, layers: int) -> None:
    told = Told.of(log, np.arange(len(log)) % 3 + 1.0)
    model = LightGCN(batch=20, rank=3, layers=layers, reg=0.1)
    params = model.init(np.random.default_rng(0), told.likes.shape)
    start, a = params["vectors"].astype(np.float64), dense(told)
    smooth = sum(np.linalg.matrix_power(a, k) @ start for k in range(layers + 1)) / (layers + 1)
    users, items = smooth[: log.n_users], smooth[log.n_users :]
    fitted = model.with_state(model._finish(log, told, params))
    assert_allclose(fitted._score_rows(fitted.fitted, np.arange(40, dtype=np.int32)), users @ items.T, atol=1e-6)

    batch, weight = next(model.batches(told, np.random.default_rng(1), 0))
    expected = 0.0
    for user, liked, other, w in zip(*batch[:3], weight, strict=True):
        margin = smooth[user] @ smooth[liked] - smooth[user] @ smooth[other]
        expected += w * np.log1p(np.exp(-margin)) + 0.05 * sum((start[row] ** 2).sum() for row in (user, liked, other))
    found = model.loss(
        {"vectors": torch.tensor(params["vectors"])}, [torch.tensor(x) for x in batch], torch.tensor(weight)
    )
    assert float(found) == pytest.approx(expected / 20, rel=1e-5)


def test_a_new_user_gets_what_items_pass_on(log: FeedbackLog) -> None:
    """Exactly the smoothed vector of an old user with the same likes, less that user's own start vector's direct share.

    With items' layers as learned, the two differ by e^(0) / (layers + 1) alone.
    """
    told, model = Told.of(log, np.ones(len(log))), LightGCN(rank=3, layers=2)
    params = model.init(np.random.default_rng(0), told.likes.shape)
    fitted = model.with_state(model._finish(log, told, params))
    new = log.events.filter(log.events["user"] == 2).with_columns(user=40).cast({"user": log.events["user"].dtype})
    state = fitted.fold_in(FeedbackLog(new, Vocabulary.range(41), log.item_ids)).fitted
    assert_allclose(state.users[40], state.users[2] - params["vectors"][2] / 3, atol=1e-6)


def test_dislikes_are_no_edges(log: FeedbackLog) -> None:
    likes = log.select(log.value > 0)
    both, alone = (adjacency(Told.of(x, np.ones(len(x))).likes) for x in (log, likes))
    assert (both != alone).nnz == 0


def test_bad_options(log: FeedbackLog) -> None:
    for model in (LightGCN(rank=0), LightGCN(layers=-1), LightGCN(reg=-1.0), LightGCN(dislike=2.0)):
        with pytest.raises(InvalidArgument, match="expected"):
            model.fit(log)
    flat = LightGCN(epochs=1, layers=0, device="cpu").fit(log, rng=0)
    with pytest.raises(InvalidArgument, match="refit"):
        flat.fold_in(log)
