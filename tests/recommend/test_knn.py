"""KNN and Popular against the plain formulas."""

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from tastemaker.data import FeedbackLog, Scale, synthetic
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.recommend import ItemKNN, Popular, UserKNN
from tastemaker.testing import parity_log


@pytest.fixture(scope="module")
def log() -> FeedbackLog:
    return synthetic.make(synthetic.tiny(), 5).log


def neighbours_only(similarity: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(similarity)
    np.fill_diagonal(similarity, 0.0)
    for row, values in enumerate(similarity):
        best = np.argsort(-np.abs(values), kind="stable")[:k]
        kept[row, best] = values[best]
    return kept + np.eye(len(similarity))


@pytest.mark.parametrize("k", [3, 1000])
def test_item_knn_is_the_documented_formula(log: FeedbackLog, k: int) -> None:
    x = log.matrix().toarray().astype(np.float64)
    norm = np.linalg.norm(x, axis=0)
    links = neighbours_only(x.T @ x / (np.outer(norm, norm) + 2.0), k)
    model = ItemKNN(neighbours=k, shrink=2.0).fit(log)
    users, items = np.divmod(np.arange(x.size), log.n_items)
    assert_allclose(model.score(users, items).reshape(x.shape), x @ links, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [3, 1000])
def test_user_knn_is_the_documented_formula(log: FeedbackLog, k: int) -> None:
    x = log.matrix().toarray().astype(np.float64)
    norm = np.linalg.norm(x, axis=1)
    links = neighbours_only(x @ x.T / (np.outer(norm, norm) + 2.0), k)
    model = UserKNN(neighbours=k, shrink=2.0).fit(log)
    users, items = np.divmod(np.arange(x.size), log.n_items)
    assert_allclose(model.score(users, items).reshape(x.shape), links @ x, rtol=1e-4, atol=1e-5)


def test_items_without_history_score_zero() -> None:
    log = FeedbackLog.of([0, 1], [0, 1], [1.0, 1.0])
    for model in (ItemKNN(shrink=0.0), UserKNN(shrink=0.0)):
        assert model.fit(log.select(log.user == 0)).score([0], [1]).tolist() == [0.0]


@pytest.mark.parametrize("kind", [ItemKNN, UserKNN])
def test_people_without_history_get_what_is_popular(kind: type[ItemKNN | UserKNN]) -> None:
    """Person 3 has said nothing; ties of zeros would go to item 0, which everybody dislikes."""
    log = FeedbackLog.of([0, 1, 2, 0, 1, 2, 3], [0, 0, 0, 1, 2, 2, 1], [-1.0, -1, -1, 1, 1, 1, 1])
    model = kind(shrink=0.0).fit(log.select(log.user < 3))
    assert model.recommend([3], k=3)["item"].to_list() == [2, 1, 0]
    assert model.score([3, 3, 3], [0, 1, 2]).tolist() == [-3.0, 1.0, 2.0]
    told = model.fold_in(log.select(log.user == 3))  # and once they have, what is popular plays no part
    assert told.recommend([3], k=1)["item"].to_list() == [1]


@pytest.mark.parametrize("shrink", [0.0, 2.0])
def test_jaccard_is_the_documented_formula(log: FeedbackLog, shrink: float) -> None:
    """Also where events are weighed: Jaccard asks what was said, not how loudly."""
    weight = np.random.default_rng(3).integers(0, 3, len(log)).astype(float)
    x = log.select(weight > 0).matrix().toarray()
    similarity = np.zeros((log.n_items, log.n_items))
    for a, b in np.ndindex(similarity.shape):
        either = ((x[:, a] != 0) | (x[:, b] != 0)).sum() + shrink
        similarity[a, b] = (x[:, a] * x[:, b]).sum() / either if either else 0.0
    model = ItemKNN(neighbours=7, shrink=shrink, similarity="jaccard").fit(log, weight=weight)
    assert_allclose(model.fitted.links.toarray(), neighbours_only(similarity, 7), rtol=1e-5, atol=1e-7)


def test_jaccard_of_likes_is_the_share_in_common() -> None:
    log = FeedbackLog.of([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 0], [1.0] * 6)
    table = ItemKNN(shrink=0.0, similarity="jaccard").fit(log).similar_items([1])
    assert dict(zip(table["similar"], table["score"], strict=True)) == pytest.approx({2: 1.0, 0: 1 / 3})
    likes = UserKNN(shrink=0.0, similarity="jaccard").fit(log)  # person 1 has 2 of the 3 that person 0 has
    assert_allclose(likes.score([1], [0]), [2 / 3], rtol=1e-6)


def test_similar_items_leave_the_item_itself_out() -> None:
    table = ItemKNN(neighbours=19, shrink=0.0).fit(parity_log()).similar_items([4], k=3)
    assert table.height == 3
    assert 4 not in table["similar"]
    assert (table["similar"] % 2 == 0).all()


def test_graded_values_are_centred_on_the_person() -> None:
    log = FeedbackLog.of([0, 0, 1, 1], [0, 1, 0, 1], [5.0, 3, 2, 4], scale=Scale(1, 5))
    state = ItemKNN().fit(log).fitted
    assert state.history.toarray().tolist() == [[1, -1], [-1, 1]]


def test_popular_counts() -> None:
    log = FeedbackLog.of([0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 2], [1.0, 1, -1, 1, 1, -1])
    scores = {by: Popular(by=by, prior=1.0).fit(log).fitted.scores for by in ("net", "likes", "mean")}
    mean = 2 / 6
    assert scores["net"].tolist() == [1, 2, -1]
    assert scores["likes"].tolist() == [2, 2, 0]
    assert_allclose(scores["mean"], [(1 + mean) / 4, (2 + mean) / 3, (-1 + mean) / 2], rtol=1e-6)


def test_bad_options() -> None:
    with pytest.raises(UnknownName, match="did you mean 'likes'"):
        Popular(by="like").fit(parity_log())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="neighbours=0"):
        ItemKNN(neighbours=0).fit(parity_log())
    with pytest.raises(UnknownName, match="did you mean 'jaccard'"):
        UserKNN(similarity="jacard").fit(parity_log())  # type: ignore[arg-type]


def test_recommendations_are_for_people_asked_for(log: FeedbackLog) -> None:
    recs = UserKNN(neighbours=5).fit(log).recommend([3, 1], k=4)
    assert recs["user"].unique(maintain_order=True).to_list() == [3, 1]
    assert recs.group_by("user").len()["len"].to_list() == [4, 4]
    assert recs.schema["user"] == pl.Int32
