import numpy as np
import pytest

from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.evaluate.images.measured import Measured


def test_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(3, 1, 400)
    found = Measured("x", values).interval(draws=4000, rng=1)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
    assert found.p < 0.01


def test_results_of_one_source_are_drawn_together():
    effect = np.repeat(np.random.default_rng(0).normal(size=30), 10)
    alone, together = Measured("x", effect).interval(), Measured("x", effect).interval(groups=np.repeat(range(30), 10))
    assert together.mean == alone.mean
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_undefined_values_are_left_out_and_single_ones_have_no_interval():
    found = Measured("x", np.array([1.0, np.nan, 3.0])).interval()
    assert (found.mean, found.n) == (2.0, 2)
    for values in ([1.0], [np.nan], [1.0, np.inf], []):
        found = Measured("x", np.array(values)).interval()
        assert np.isnan(found.low)
        assert np.isnan(found.high)
    assert Measured("x", np.array([1.0, np.inf])).interval().mean == np.inf


def test_bad_input():
    one = Measured("x", np.arange(3.0))
    for arguments in ({"groups": [1, 2]}, {"level": 1.0}, {"draws": 0}):
        with pytest.raises(InvalidArgument):
            one.interval(**arguments)
    with pytest.raises(InvalidArgument, match="one a picture"):
        Measured("x", np.zeros((2, 2)))


def test_embeddings_are_found_by_id():
    rows = np.random.default_rng(0).normal(size=(3, 4))
    found = Embeddings.of(rows, ["a", "b", "c"])
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)
    assert (found.at(["c", "a"]) == found.vectors[[2, 0]]).all()
    with pytest.raises(UnknownId, match="'d'"):
        found.at(["a", "d"])
    Embeddings.of(rows[[0, 1, 0]], ["a", "b", "a"])  # the same picture twice


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (np.ones((2, 3)), ["a"]),
        (np.ones(3), ["a", "b", "c"]),
        (np.zeros((1, 3)), ["a"]),
        (np.array([[np.nan, 1]]), ["a"]),
        (np.eye(2), ["a", "a"]),
    ],
)
def test_bad_embeddings(rows, ids):
    with pytest.raises(InvalidArgument):
        Embeddings.of(rows, ids)


def test_lengths_other_than_one_are_not_repaired():
    with pytest.raises(InvalidArgument, match="id 'b'"):
        Embeddings(np.array([[1, 0], [2, 0]], np.float32), ("a", "b"))
