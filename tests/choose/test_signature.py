"""Signatures and guesses from words, against loops over the definition."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tastemaker.choose.signature import signatures
from tastemaker.choose.words import bags, guess
from tastemaker.data.catalog import Catalog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError
from tests.choose.gallery import DIM, book


def test_definition_with_missing_cells():
    whole = book(6, 5)
    keep = np.random.default_rng(1).permutation(30)[:24]  # shuffled, and six cells are missing
    part = replace(whole, cells=whole.cells[keep], pictures=whole.pictures[keep])
    found = signatures(part)
    cells = part.cells.select("prompt", "model").rows()
    rows = {(p, m): v for (p, m), v in zip(cells, part.pictures.astype(float), strict=True)}
    for at, model in enumerate(part.models.table["id"]):
        own = []
        for (prompt, drawn_by), vector in rows.items():
            if drawn_by == model:
                own.append(vector - np.mean([v for (p, _), v in rows.items() if p == prompt], axis=0))
        assert np.allclose(found.vectors[at], np.mean(own, axis=0), atol=1e-6)
        cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(own) for b in own[:i]]
        assert found.consistency[at] == pytest.approx(np.mean(cosines), abs=1e-6)
        assert found.pictures[at] == len(own)
    assert np.allclose(np.linalg.norm(found.direction, axis=1), 1)
    assert found.table().columns == ["id", "strength", "consistency", "pictures"]


def test_one_style_is_more_consistent_than_noise():
    steady, wild = (np.median(signatures(book(20, 8, noise=noise)).consistency) for noise in (0.05, 1.0))
    assert steady > 0.8 > 0.4 > wild


def test_cold_models_resemble_those_that_share_their_tags():
    whole = book(20, 20)
    real = signatures(whole)
    ids = whole.models.table["id"]
    known = signatures(whole.only(models=ids[4:]))  # the first of each kind is unknown
    guessed = known.cold(whole.models, penalty=0.1)
    assert guessed.pictures[:4].tolist() == [0, 0, 0, 0]
    assert np.isnan(guessed.consistency[:4]).all()
    likeness = guessed.vectors[:4] @ real.vectors[:4].T
    assert (likeness.argmax(1) == np.arange(4)).all()
    assert np.allclose(guessed.vectors[4:], known.vectors)


def test_guess_is_kernel_ridge():
    models = book(4, 12).models
    values, known = np.random.default_rng(0).normal(size=(8, 3)), models.ids.ids(np.arange(8))
    found = guess(values, Vocabulary(known), models, penalty=0.7)
    bag = bags(models).toarray()
    weights = np.linalg.solve(bag[:8].T @ bag[:8] + 0.7 * np.eye(bag.shape[1]), bag[:8].T @ (values - values.mean(0)))
    assert np.allclose(found[8:], values.mean(0) + bag[8:] @ weights)
    assert np.allclose(found[:8], values)


def test_a_model_without_shared_words_is_average():
    models = Catalog(pl.DataFrame({"id": [1, 2, 3], "tags": [["ink"], ["ink"], ["unheard"]]}))
    assert guess(np.array([[1.0], [3.0]]), Vocabulary(pl.Series([1, 2])), models)[2] == 2


def test_bad_input():
    whole = book(4, 5)
    with pytest.raises(DataError, match="no vectors"):
        signatures(replace(whole, pictures=None))
    with pytest.raises(DataError, match="expected some of"):
        bags(Catalog(pl.DataFrame({"id": [1], "colour": ["red"]})))
    with pytest.raises(DataError, match="none of the models"):
        guess(np.zeros((1, DIM)), Vocabulary(pl.Series([-1])), whole.models)
