"""What trained recommenders share: the clicks they read, the negatives they draw, and the one loop."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tastemaker.data import FeedbackLog, Scale, Vocabulary, split, synthetic
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.ranking import per_user
from tastemaker.recommend import CML, NCF, ItemAE, LightGCN, MultVAE, Popular, Recommender
from tastemaker.recommend.train import Told, Trained, descend, train
from tastemaker.testing import parity_log

ALL = (ItemAE, MultVAE, NCF, CML, LightGCN)


def log_of(rows: list[tuple[int, int, float]], n_users: int, n_items: int) -> FeedbackLog:
    table = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "value": pl.Float32}, orient="row")
    return FeedbackLog(table, Vocabulary.range(n_users), Vocabulary.range(n_items))


# -- what was told -----------------------------------------------------------------------------------------------------


def test_events_of_a_pair_add_up() -> None:
    log = log_of([(0, 0, 1), (0, 0, 1), (0, 1, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1), (1, 1, -1)], 2, 2)
    told = Told.of(log, np.array([1.0, 2, 1, 1, 1, 1, 3]))
    assert_array_equal(told.likes.toarray(), [[3, 0], [0, 0]])
    assert_array_equal(told.dislikes.toarray(), [[0, 0], [1, 2]])
    assert told.likes.nnz + told.dislikes.nnz == 3  # what cancelled is nowhere


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9), st.floats(0, 1))
def test_negatives_are_never_liked(seed: int, n_users: int, n_items: int, dislike: float) -> None:
    rng = np.random.default_rng(seed)
    value = rng.integers(-1, 2, (n_users, n_items))
    user, item = np.nonzero(value)
    rows = [(u, i, value[u, i]) for u, i in zip(user.tolist(), item.tolist(), strict=True)]
    told = Told.of(log_of(rows, n_users, n_items), rng.integers(1, 4, len(rows)).astype(float))
    users = told.pairs[0]
    assert_array_equal(np.unique(users), [u for u in range(n_users) if 0 < (value[u] > 0).sum() < n_items])
    drawn = told.negatives(users, 5, dislike, rng)
    assert drawn.shape == (len(users), 5)
    assert (value[users[:, None], drawn] <= 0).all()
    told_so = told.negatives(users, 5, 1.0, rng)
    for u, row in zip(users, told_so, strict=True):
        assert (value[u, row] == -1).all() or not (value[u] == -1).any()


def test_negatives_have_the_stated_distribution() -> None:
    """Two likes of six items; dislikes of weight 1 and 3 share half of the negatives, the rest is uniform."""
    log = log_of([(1, 1, 1), (1, 4, 1), (1, 0, -1), (1, 5, -1)], 3, 6)
    told = Told.of(log, np.array([1.0, 1, 1, 3]))
    drawn = told.negatives(np.ones(20_000, np.int64), 2, 0.5, np.random.default_rng(0))
    share = np.bincount(drawn.ravel(), minlength=6) / drawn.size
    assert_allclose(share, [1 / 8 + 1 / 8, 0, 1 / 8, 1 / 8, 0, 1 / 8 + 3 / 8], atol=0.01)


# -- the loop ----------------------------------------------------------------------------------------------------------


def small(kind: type[Trained]) -> Trained:
    return kind(epochs=3, batch=32, learning_rate=0.002, device="cpu")


@pytest.mark.parametrize("kind", ALL)
def test_a_seed_gives_the_same_whatever_the_number_of_threads(kind: type[Trained]) -> None:
    """With so many rows of so many numbers torch shares the work of a step out, its gradients included."""
    log, before, scores = parity_log(), torch.get_num_threads(), []
    model = kind(epochs=3, batch=4096, device="cpu", **({} if kind in (ItemAE, MultVAE) else {"rank": 64}))
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            fitted = replace(model).fit(log, rng=5)
            scores.append(fitted.score(np.arange(20), np.arange(20)))
    finally:
        torch.set_num_threads(before)
    for other in scores[1:]:
        assert_array_equal(other, scores[0])


@pytest.mark.parametrize("kind", ALL)
def test_progress_and_fit_agree(kind: type[Trained]) -> None:
    log, seen = parity_log(), []
    model = train(small(kind), log, rng=5, progress=lambda *said: seen.append(said))
    assert [said[:2] for said in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] < seen[0][2]
    again = small(kind).fit(log, rng=5)
    assert_array_equal(model.score(np.arange(20), np.arange(20)), again.score(np.arange(20), np.arange(20)))


@pytest.mark.parametrize("kind", ALL)
def test_no_epoch_and_no_seed_leak(kind: type[Trained]) -> None:
    """Another seed is another model, and the configuration is not touched by fitting."""
    log, model = parity_log(), small(kind)
    before = repr(model)
    one, two = (model.fit(log, rng=seed).score(np.arange(20), np.arange(20)) for seed in (1, 2))
    assert not np.allclose(one, two)
    assert repr(model) == before


def test_the_best_epoch_is_kept() -> None:
    world = synthetic.make(synthetic.tiny(), 3).log
    log, held = split.per_user(world, 0.3, rng=0)
    model = LightGCN(epochs=40, batch=64, learning_rate=0.05, rank=8, device="cpu")
    seen: list[int] = []
    stopped = train(model, log, validation=held, patience=3, rng=0, progress=lambda epoch, *_: seen.append(epoch))
    assert len(seen) < 40

    def quality(fitted: Recommender) -> float:
        recs = fitted.recommend(held.users, 20, exclude=log)
        return per_user(recs, held, ["NDCG@20"])["NDCG@20"].mean()

    each = [
        quality(LightGCN(epochs=n, batch=64, learning_rate=0.05, rank=8, device="cpu").fit(log, rng=0)) for n in seen
    ]
    assert quality(stopped) == pytest.approx(max(each))
    assert int(np.argmax(each)) == len(seen) - 1 - 3


def test_only_free_parameters_move() -> None:
    told = Told.of(parity_log(), np.ones(len(parity_log())))
    model = small(CML)
    start = model.init(np.random.default_rng(0), told.likes.shape)
    end = descend(model, told, start, np.random.default_rng(0), free=["users"])
    assert_array_equal(end["items"], start["items"])
    assert not np.allclose(end["users"], start["users"])


@pytest.mark.parametrize("kind", ALL)
def test_bad_input(kind: type[Trained]) -> None:
    log = parity_log()
    graded = FeedbackLog.of([0, 1], [0, 1], [3.0, 4.0], scale=Scale(1, 5))
    with pytest.raises(InvalidArgument, match="graded"):
        small(kind).fit(graded)
    with pytest.raises(InvalidArgument, match="likes"):
        small(kind).fit(log.select(log.value < 0))
    with pytest.raises(InvalidArgument, match="nobody"):
        small(kind).fit(log, weight=(log.value < 0).astype(float))
    for option in ({"epochs": 0}, {"batch": 0}, {"learning_rate": 0.0}):
        with pytest.raises(InvalidArgument, match=next(iter(option))):
            kind(**{"device": "cpu"} | option).fit(log)
    if kind is not CML:  # its ball keeps it
        with pytest.raises(InvalidArgument, match="diverged"):
            kind(epochs=30, learning_rate=1e30, device="cpu").fit(log, rng=0)
    with pytest.raises(InvalidArgument, match="graded"):
        small(kind).fit(log, rng=0).fold_in(FeedbackLog(log.events, log.user_ids, log.item_ids, Scale(-1, 5)))


def test_bad_validation() -> None:
    log = parity_log()
    model = small(LightGCN)
    with pytest.raises(InvalidArgument, match="different"):
        train(model, log, validation=log_of([(0, 0, 1)], 2, 2))
    with pytest.raises(InvalidArgument, match="no likes"):
        train(model, log, validation=log.select(log.value < 0))
    with pytest.raises(InvalidArgument, match="patience"):
        train(model, log, patience=0)
    with pytest.raises(InvalidArgument, match="no events"):
        train(model, log.select(np.zeros(len(log), bool)))


@pytest.mark.parametrize("kind", ALL)
def test_people_without_likes(kind: type[Trained]) -> None:
    """Somebody with dislikes only, somebody with nothing, and somebody who likes everything get finite scores."""
    base = parity_log(8, 6)
    rows = [(8, 0, -1.0), *((10, i, 1.0) for i in range(6))]
    log = log_of([*base.events.rows(), *rows], 11, 6)
    model = small(kind).fit(log, rng=0)
    assert np.isfinite(model.score(np.repeat([8, 9, 10], 6), np.tile(np.arange(6), 3))).all()
    folded = model.fold_in(log_of([(11, 0, -1.0), *((12, i, 1.0) for i in range(6))], 13, 6))
    assert np.isfinite(folded.score(np.repeat([11, 12], 6), np.tile(np.arange(6), 2))).all()


# -- a world with planted taste ----------------------------------------------------------------------------------------

WORLD = synthetic.World(
    n_users=300, n_items=150, n_makers=150, rank=3, taste=3.0, events=40, events_spread=0.3, seeks_taste=0.3,
    random_share=0.6,
)  # fmt: skip
LEARNERS = [
    ItemAE(epochs=40, batch=64, learning_rate=3e-3, hidden=48, latent=16, decay=1e-3, device="cpu"),
    MultVAE(epochs=40, batch=64, learning_rate=3e-3, hidden=64, latent=16, device="cpu"),
    NCF(epochs=25, batch=256, learning_rate=5e-3, rank=16, width=16, hidden=16, reg=1e-2, device="cpu"),
    CML(epochs=25, batch=256, learning_rate=1e-2, rank=16, device="cpu"),
    LightGCN(epochs=40, batch=512, learning_rate=1e-2, rank=16, device="cpu"),
]


@pytest.mark.parametrize("model", LEARNERS, ids=lambda model: model.kind)
def test_planted_taste_is_found(model: Trained) -> None:
    log, test = split.per_user(synthetic.make(WORLD, 1).log, 0.25, rng=0)

    def ndcg(fitted: Recommender) -> float:
        return per_user(fitted.recommend(test.users, 10, exclude=log), test, ["NDCG@10"])["NDCG@10"].mean()

    assert ndcg(model.fit(log, rng=0)) > 1.25 * ndcg(Popular().fit(log))
