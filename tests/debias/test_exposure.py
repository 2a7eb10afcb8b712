"""Simple propensity models: known answers, a planted ageing, real Coat, and what they refuse."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from tastemaker.data import FeedbackLog, split, synthetic
from tastemaker.data.feedback import Scale
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.debias import ItemAge, Logged, Logistic, NaiveBayes, Popularity, Uniform
from tastemaker.errors import DataError, InvalidArgument


def small(**columns: list) -> FeedbackLog:
    """Ada rates items 0, 1, 2, Bob item 0; item 3 is never rated."""
    table = {"user": [0, 0, 0, 1], "item": [0, 1, 2, 0], "value": [1.0, -1.0, 1.0, -1.0], **columns}
    return FeedbackLog(pl.DataFrame(table), Vocabulary.range(2), Vocabulary.range(4))


def test_uniform() -> None:
    assert_allclose(Uniform().fit(small()).propensity(small()), 0.25)


def test_popularity() -> None:
    assert_allclose(Popularity(smoothing=0.0).fit(small()).propensity(small()), [0.5, 0.25, 0.25, 0.5])
    assert_allclose(Popularity().fit(small()).propensity(small()), np.array([3, 2, 2, 3]) / 8)


def test_popularity_of_an_unseen_item() -> None:
    unseen = small(item=[0, 1, 2, 3])
    assert Popularity().fit(small()).propensity(unseen)[3] == pytest.approx(1 / 8)
    with pytest.raises(InvalidArgument, match="smoothing above 0"):
        Popularity(smoothing=0.0).fit(small()).propensity(unseen)


# -- naive Bayes -----------------------------------------------------------------------------------------------------


def test_naive_bayes_by_hand() -> None:
    """Half of the observed are likes, a quarter of the random ones: a like is twice as likely to be observed."""
    users, items = np.divmod(np.arange(100), 10)
    ids = Vocabulary.range(10)
    log = FeedbackLog.of(users[:40], items[:40], np.where(np.arange(40) < 20, 1, -1), user_ids=ids, item_ids=ids)
    sample = FeedbackLog.of(users[:40], items[:40], np.where(np.arange(40) < 10, 1, -1), user_ids=ids, item_ids=ids)
    p = NaiveBayes(sample=sample, smoothing=1e-9).fit(log).propensity(log)
    assert_allclose(p[:20], 0.5 * 0.4 / 0.25)
    assert_allclose(p[20:], 0.5 * 0.4 / 0.75)


def test_naive_bayes_on_coat(shared_data: Path) -> None:
    """People rate what they like: propensity rises with the rating, by a factor of about three from 1 to 5."""
    train, random = split.random_exposure(FeedbackLog.read(shared_data / "coat"))
    table = NaiveBayes(sample=random).fit(train).table()
    assert table["value"].to_list() == [1, 2, 3, 4, 5]
    assert (np.diff(table["propensity"]) > 0).all()
    assert table["propensity"][4] / table["propensity"][0] == pytest.approx(2.84, abs=0.05)
    # By the law of total probability the mean over all pairs is the density.
    share = np.bincount(random.value.astype(int), minlength=6)[1:] / len(random)
    assert share @ table["propensity"].to_numpy() == pytest.approx(6960 / (290 * 300), rel=0.01)


def test_naive_bayes_needs_a_random_sample() -> None:
    with pytest.raises(InvalidArgument, match="sample="):
        NaiveBayes().fit(small())
    with pytest.raises(InvalidArgument, match="sample="):
        NaiveBayes().fit(small(random=[False] * 4))
    graded = FeedbackLog.of([0], [0], [4.0], scale=Scale(1, 5))
    with pytest.raises(InvalidArgument, match="Scale"):
        NaiveBayes(sample=graded).fit(small())


def test_naive_bayes_refuses_measurements() -> None:
    rng = np.random.default_rng(0)
    log = FeedbackLog.of(np.arange(500), np.arange(500), rng.uniform(0, 1, 500), scale=Scale(0, 1))
    with pytest.raises(InvalidArgument, match="distinct values"):
        NaiveBayes(sample=log).fit(log)


def test_naive_bayes_refuses_a_value_it_never_saw() -> None:
    ids = Vocabulary.range(2)
    log = FeedbackLog.of([0, 1], [0, 1], [1.0, 2.0], scale=Scale(1, 5), user_ids=ids, item_ids=ids)
    other = FeedbackLog.of([0, 1], [0, 1], [1.0, 5.0], scale=Scale(1, 5), user_ids=ids, item_ids=ids)
    with pytest.raises(InvalidArgument, match="for example 5"):
        NaiveBayes(sample=log).fit(log).propensity(other)


# -- logged ------------------------------------------------------------------------------------------------------------


def test_logged_column_of_events() -> None:
    log = small(probability=[0.1, 0.2, 0.3, 1.0])
    assert_allclose(Logged().fit(log).propensity(log), [0.1, 0.2, 0.3, 1.0])
    assert_allclose(Logged(column="odds").fit(small(odds=[0.5] * 4)).propensity(small(odds=[0.5] * 4)), 0.5)


def test_logged_impressions_are_the_planted_ones() -> None:
    planted = synthetic.make(synthetic.tiny(), 2)
    p = Logged().fit(planted.log).propensity(planted.log)
    assert_allclose(p, planted.log.impressions["probability"])  # row by row the same in this world


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5, float("nan"), None])
def test_logged_refuses_what_is_no_probability(wrong: float | None) -> None:
    with pytest.raises(DataError, match="probabilit"):
        Logged().fit(small(probability=[0.1, 0.2, 0.3, wrong]))


def test_logged_refuses_words_and_nothing() -> None:
    with pytest.raises(DataError, match="expected probabilities"):
        Logged().fit(small(probability=["a", "b", "c", "d"]))
    with pytest.raises(DataError, match="neither in the events"):
        Logged().fit(small())


def with_impressions(table: dict) -> FeedbackLog:
    log = small(time=[1, 2, 3, 4])
    return FeedbackLog(log.events, log.user_ids, log.item_ids, impressions=pl.DataFrame(table))


def test_an_event_that_was_not_shown() -> None:
    log = with_impressions({"user": [0, 0], "item": [0, 1], "time": [1, 2], "probability": [0.5, 0.5]})
    with pytest.raises(DataError, match="2 of 4 events have no logged probability"):
        Logged().fit(log)


def test_an_answer_belongs_to_the_last_showing_before_it() -> None:
    shown = {
        "user": [1, 0, 0, 0, 0, 1], "item": [0, 2, 1, 0, 0, 0], "time": [4, 1, 1, -5, 0, 9],
        "probability": [0.4, 0.3, 0.2, 0.9, 0.1, 0.8],
    }  # fmt: skip
    log = with_impressions(shown)  # answered at 1, 2, 3 and 4; shown before, at the same time, twice before, or after
    assert_allclose(Logged().fit(log).propensity(log), [0.1, 0.2, 0.3, 0.4])
    late = with_impressions({**shown, "time": [5, 1, 1, -5, 0, 9]})
    with pytest.raises(DataError, match="1 of 4 events have no logged probability"):
        Logged().fit(late)


def test_ambiguous_impressions() -> None:
    shown = {"user": [0, 0, 0, 1, 1], "item": [0, 1, 2, 0, 0], "probability": [0.5, 0.5, 0.5, 0.1, 0.2]}
    with pytest.raises(DataError, match="1 events match impressions of different probability"):
        Logged().fit(with_impressions(shown))
    log = with_impressions({**shown, "time": [1, 2, 3, 4, 9]})
    assert_allclose(Logged().fit(log).propensity(log), [0.5, 0.5, 0.5, 0.1])


# -- item age ----------------------------------------------------------------------------------------------------------


def ageing_world(
    rng: np.random.Generator, n: int = 30_000, n_items: int = 60
) -> tuple[FeedbackLog, np.ndarray, np.ndarray]:
    """Items come out at any time; one younger than 100 is shown five times as often. Times are 0..1000."""
    born = np.sort(rng.uniform(-200, 900, n_items))
    rate = rng.uniform(0.5, 2, n_items)
    time = np.sort(rng.uniform(0, 1000, n)).astype(np.int64)
    weight = np.where(time[:, None] > born, rate * np.where(time[:, None] - born < 100, 5.0, 1.0), 0.0)
    p = weight / weight.sum(axis=1, keepdims=True)
    item = (p.cumsum(axis=1) < rng.random(n)[:, None]).sum(axis=1)
    log = FeedbackLog.of(rng.integers(0, 50, n), item, np.ones(n), times=time, item_ids=Vocabulary.range(n_items))
    return log, p[np.arange(n), item], born


def test_item_age_finds_the_planted_ageing() -> None:
    log, truth, born = ageing_world(np.random.default_rng(1))
    model = ItemAge(bins=10, born=born).fit(log)

    def young_over_old(model: ItemAge) -> float:
        table = model.table().drop_nulls("age")
        return (
            table.filter(pl.col("age") < 70)["level"].mean()
            / table.filter(pl.col("age").is_between(100, 400))["level"].mean()
        )

    assert young_over_old(model) == pytest.approx(5, rel=0.15)
    p, popular = model.propensity(log), Popularity().fit(log).propensity(log)
    assert np.corrcoef(np.log(p), np.log(truth))[0, 1] > 0.95
    assert np.log(p).mean() > np.log(truth).mean() - 0.03
    # Without release dates birth is the first event, and the direction is still found.
    guessed = ItemAge(bins=10).fit(log)
    assert young_over_old(guessed) > 3
    assert np.log(guessed.propensity(log)).mean() > np.log(popular).mean() + 0.2


def test_item_age_fits_its_margins() -> None:
    """At the maximum of the likelihood every item is expected as often as it occurred."""
    log, _, _ = ageing_world(np.random.default_rng(2), n=4000, n_items=20)
    model = ItemAge(bins=4, smoothing=1e-9, tolerance=1e-10, rounds=3000).fit(log)
    expected = model.distribution(log, np.arange(len(log))).sum(axis=0)
    assert_allclose(expected, np.bincount(log.item, minlength=20), rtol=1e-3, atol=1e-2)


def test_item_age_with_release_dates() -> None:
    log = small(time=[10, 20, 30, 40])
    p = ItemAge(born=np.array([0.0, 0.0, 0.0, 35.0])).fit(log).propensity(log)
    assert ((p > 0) & (p < 1)).all()
    with pytest.raises(InvalidArgument, match="each of 4 items"):
        ItemAge(born=np.array([0.0, np.nan, 0.0, 35.0])).fit(log)


def test_item_age_where_all_happens_at_once() -> None:
    log = small(time=[7, 7, 7, 7])
    assert_allclose(ItemAge().fit(log).distribution(log, [0]).sum(), 1.0)


# -- logistic ----------------------------------------------------------------------------------------------------------


def test_logistic_finds_the_planted_weights() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 2)), rng.standard_normal((200, 1))
    z = -2 + (x @ [1.0, -0.5])[:, None] + (y @ [0.7]) + 0.4 * x[:, :1] @ y.T
    user, item = np.nonzero(rng.random(z.shape) < 1 / (1 + np.exp(-z)))
    log = FeedbackLog.of(user, item, np.ones(len(user)), user_ids=Vocabulary.range(300), item_ids=Vocabulary.range(200))
    model = Logistic(x, y, interactions=True).fit(log)
    assert_allclose(model.weights, [-2, 1, -0.5, 0.7, 0.4, 0], atol=0.06)
    _, first = np.unique(log.user, return_index=True)
    assert model.distribution(log, first).sum() == pytest.approx(len(log), rel=0.01)


def test_logistic_reproduces_the_propensities_of_coat(shared_data: Path) -> None:
    """The set comes with propensities learned by its authors by logistic regression."""
    folder = shared_data / "coat"
    x, y = (np.loadtxt(folder / "user_item_features" / f"{side}_features.ascii") for side in ("user", "item"))
    train, _ = split.random_exposure(FeedbackLog.read(folder))
    model = Logistic(x, y, interactions=True, rounds=25).fit(train)
    _, first = np.unique(train.user, return_index=True)
    ours, theirs = model.distribution(train, first), np.loadtxt(folder / "propensities.ascii")
    assert np.corrcoef(np.log(ours).ravel(), np.log(theirs).ravel())[0, 1] > 0.95


def test_logistic_refuses() -> None:
    with pytest.raises(InvalidArgument, match="a row for each of 2 users"):
        Logistic(users=np.ones((3, 1))).fit(small())
    with pytest.raises(InvalidArgument, match="NaN"):
        Logistic(items=np.full((4, 1), np.nan)).fit(small())
    with pytest.raises(InvalidArgument, match="interactions"):
        Logistic(interactions=True).fit(small())


# -- bad logs ----------------------------------------------------------------------------------------------------------


def test_nan_ratings_do_not_become_a_log() -> None:
    with pytest.raises(DataError, match="outside the scale"):
        FeedbackLog.of([0, 1], [0, 1], [1.0, np.nan], scale=Scale(1, 5))


def test_an_item_seen_once() -> None:
    log = small(time=[1, 2, 3, 4])
    for model in (Popularity(), ItemAge(), Logistic()):
        p = model.fit(log).propensity(log)
        assert ((p > 0) & (p < 1)).all()
