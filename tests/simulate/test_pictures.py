"""People who look at pictures: each part of their taste moves what it should, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest

from tastemaker.data.catalog import Catalog
from tastemaker.data.feedback import SIGNED
from tastemaker.errors import DataError, InvalidArgument, TastemakerError, UnknownName
from tastemaker.simulate.pictures import Taste, axes, invented_makers, makers, means, viewers
from tests.simulate.pictures import FAILED, book

NOTHING = Taste(subject=0, style=0, maker=0, fame=0, craft=0, look=0, person=0, noise=0)
PARTS = ("subject", "style", "maker", "fame", "craft", "look", "person")


def test_truth_is_a_mean_answer_and_the_like_rate_is_met() -> None:
    for rate in (0.2, 0.45, 0.8):
        those = viewers(book(), 200, taste=Taste(like_rate=rate), rng=1).people
        assert those.scale == SIGNED
        assert np.abs(those.truth).max() <= 1
        assert those.probability.mean() == pytest.approx(rate, abs=1e-6)
        assert those.probability.min() >= Taste().noise / 2


def test_the_same_seed_gives_the_same_people() -> None:
    one, same, other = (viewers(book(), 30, rng=seed).people.probability for seed in (4, 4, 5))
    assert (one == same).all()
    assert not np.allclose(one, other)


def test_without_taste_everything_is_alike() -> None:
    assert viewers(book(), 5, taste=NOTHING, rng=0).people.probability == pytest.approx(0.45)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_its_spread_and_moves_the_truth_alone(part: str) -> None:
    those = viewers(book(), 2_000, taste=replace(NOTHING, **{part: 1.0}), rng=2)
    assert those.parts[part].std() == pytest.approx(1, rel=0.3 if part == "craft" else 0.15)  # craft is cut at 3
    assert all(np.abs(those.parts[name]).max() == 0 for name in PARTS if name != part)
    logits = np.log(those.people.probability / (1 - those.people.probability))
    assert np.ptp(logits - those.parts[part]) < 1e-9


def test_parts_live_where_they_should() -> None:
    """Subject is one number a person and prompt, style and fame one a model, look none of either."""
    some = book()
    parts = viewers(some, 40, rng=3).parts
    prompt, model = some.prompts.ids.rows(some.cells["prompt"]), some.models.ids.rows(some.cells["model"])
    for name, group in (("subject", prompt), ("style", model), ("fame", model), ("maker", makers(some)[0])):
        assert np.allclose(parts[name], means(parts[name].T, group)[group].T)
    for group in (prompt, model):
        assert np.abs(means(parts["look"].T, group)).max() < 1e-6


def test_a_failed_drawing_is_liked_less_than_the_others_of_its_prompt() -> None:
    some = book()
    those = viewers(some, 300, rng=0)
    beside = np.flatnonzero(some.cells["prompt"].to_numpy() == some.cells["prompt"][FAILED])
    assert those.parts["craft"][0, FAILED] == those.parts["craft"][0].min()
    liked = those.people.truth.mean(axis=0)[beside]
    assert liked[beside == FAILED] < liked[beside != FAILED].mean() - 0.2


def test_axes_are_the_leading_directions() -> None:
    rng = np.random.default_rng(0)
    values = np.outer(rng.standard_normal(50), rng.standard_normal(7)) + 1e-3 * rng.standard_normal((50, 7))
    place = axes(values, 1)
    assert abs(np.corrcoef(place[:, 0], values[:, 0])[0, 1]) > 0.999
    assert axes(np.ones((4, 3)), 2).shape == (4, 0)


def test_makers_are_invented_from_the_order_alone() -> None:
    table = invented_makers([f"m{n}" for n in range(23)])
    known = table.filter(pl.col("downloads") >= 20_000)
    assert known["maker"].n_unique() == 2
    assert known.height == 12
    assert table.filter(pl.col("downloads") < 20_000)["maker"].is_unique().all()
    assert table["maker"].str.ends_with("(invented)").all()
    assert table["downloads"].min() > 0
    assert invented_makers([]).height == 0


def test_bad_input_is_refused() -> None:
    some = book()
    for name in (field.name for field in fields(Taste) if field.name not in ("axes",)):
        with pytest.raises(InvalidArgument):
            Taste(**{name: -0.1})
        with pytest.raises(InvalidArgument):
            Taste(**{name: float("nan")})
    for wrong in ({"axes": 0}, {"like_rate": 1.0}, {"like_rate": 0.01}, {"subject": float("inf")}):
        with pytest.raises(InvalidArgument):
            Taste(**wrong)
    with pytest.raises(InvalidArgument, match="0 people"):
        viewers(some, 0)
    for bare in (replace(some, pictures=None), replace(some, texts=None)):
        with pytest.raises(DataError, match="no vectors"):
            viewers(bare, 3)
    assert some.pictures is not None
    with pytest.raises(DataError, match="1 pictures"):
        viewers(replace(some, cells=some.cells[:1], pictures=some.pictures[:1]), 3)
    table = some.models.table
    with pytest.raises(UnknownName, match="maker"):
        viewers(replace(some, models=Catalog(table.drop("maker"))), 3)
    for downloads in (0, -5, None, "many"):
        with pytest.raises(TastemakerError, match="downloads"):
            viewers(replace(some, models=Catalog(table.with_columns(pl.lit(downloads).alias("downloads")))), 3)
