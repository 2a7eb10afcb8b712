import numpy as np
import pytest

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.evaluate.images.style import StyleReader, statistics, style_similarity
from tests.evaluate.images.tiny import noise, scene

STYLES = ("flat", "ink", "pixel")


@pytest.fixture(scope="module")
def reader():
    return StyleReader.fit({style: [scene(seed, style) for seed in range(30)] for style in STYLES})


def test_fresh_pictures_are_read(reader):
    for column, style in enumerate(STYLES):
        fresh = [scene(seed, style) for seed in range(100, 140)]
        read = reader.probability(fresh)
        assert read.sum(1) == pytest.approx(1)
        assert (read.argmax(1) == column).mean() >= 0.95
        assert reader.reached(fresh, style).interval().low > 0.8
        assert reader.reached(fresh, [style] * 40).values == pytest.approx(read[:, column])


def test_a_picture_between_styles_is_read_between():
    """Two styles that differ in brightness alone: the reader must move with it, from one to the other."""
    dark, light = ([np.clip(scene(s) * k, 0, 255).astype(np.uint8) for s in range(30)] for k in (0.5, 1.0))
    reader = StyleReader.fit({"dark": dark, "light": light})
    read = [reader.reached([np.clip(scene(99) * k, 0, 255).astype(np.uint8)], "light").values[0] for k in (0.5, 1.0)]
    assert read[0] < 0.2
    assert read[1] > 0.8


def test_statistics_are_finite_also_on_flat_pictures():
    flat = statistics(np.zeros((20, 30, 3), np.uint8))
    assert np.isfinite(flat).all()
    assert flat.shape == statistics(scene(0)).shape


def test_similarity_is_the_mean_cosine():
    rng = np.random.default_rng(0)
    a, b = (Embeddings.of(rng.normal(size=(n, 5)), [str(k) for k in range(n)]) for n in (3, 4))
    expected = [np.mean([x @ y for y in b.vectors]) for x in a.vectors]
    assert style_similarity(a, b).values == pytest.approx(expected, abs=1e-6)


def test_bad_input(reader):
    with pytest.raises(UnknownName, match="did you mean 'ink'"):
        reader.reached(noise(1), "inc")
    with pytest.raises(InvalidArgument, match="2 wanted styles and 1 pictures"):
        reader.reached(noise(1), ["ink", "flat"])
    with pytest.raises(InvalidArgument, match="17 x 17"):
        statistics(noise(1, height=16)[0])
    with pytest.raises(InvalidArgument, match="two styles"):
        StyleReader.fit({"ink": noise(3)})
    with pytest.raises(InvalidArgument, match="two pictures"):
        StyleReader.fit({"ink": noise(3), "flat": noise(1)})
    with pytest.raises(InvalidArgument, match="shrink"):
        StyleReader.fit({"ink": noise(3), "flat": noise(3)}, shrink=0)
    with pytest.raises(DataError):
        reader.probability([np.zeros((20, 20))])
    with pytest.raises(InvalidArgument, match="one encoder"):
        style_similarity(Embeddings.of(np.eye(2), ["a", "b"]), Embeddings.of(np.eye(3), ["a", "b", "c"]))
