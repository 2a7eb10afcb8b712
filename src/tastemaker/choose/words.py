"""Cold start: what a model nobody has tried may be like, from the words people wrote about it.

Two models are alike as far as they share words: name, version, base, maker, tags and trigger words, each weighed by its
rarity (tf-idf). Whatever was learned about known models (mean quality, coefficients, signatures) is then carried over
by kernel ridge regression; a model that shares no word with any known one gets the mean of them all.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.data.catalog import Catalog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError

Floats = NDArray[np.float64]

TOLD = ("name", "version", "base", "maker", "tags", "triggers")  # columns with words; those a roster has are read


def bags(models: Catalog) -> sparse.csr_array:
    """Words of each model, shape (n_models, n_words), rows of length 1 (or 0 for a model without words).

    A tag or trigger is also one word as a whole. Words of one model alone say nothing and are left out. Raises
    DataError where the catalogue has none of the columns `TOLD`.
    """
    names = [name for name in TOLD if name in models.table.columns]
    if not names:
        raise DataError(f"models have the columns {models.table.columns}; expected some of {list(TOLD)}")
    words: dict[str, int] = {}
    rows, places = [], []
    for row, facts in enumerate(models.table.select(names).iter_rows(named=True)):
        for word in sorted(_words(facts)):
            rows.append(row)
            places.append(words.setdefault(word, len(words)))
    bag = sparse.csr_array((np.ones(len(rows)), (rows, places)), shape=(len(models), len(words)))
    count = np.bincount(places, minlength=len(words)) if places else np.zeros(len(words))
    bag = sparse.csr_array(bag * np.where(count > 1, np.log(len(models) / np.maximum(count, 1)) + 1, 0))
    length = np.sqrt(np.asarray(bag.multiply(bag).sum(1)).ravel())
    return sparse.csr_array(bag.multiply(1 / np.maximum(length, 1e-12)[:, None]))


def _words(facts: dict[str, object]) -> set[str]:
    found: set[str] = set()
    for name, fact in facts.items():
        for text in fact if isinstance(fact, list) else [fact]:
            whole = str(text or "").lower()
            found |= {f"{name}:{whole}"} if name in ("base", "tags", "triggers", "maker") and whole else set()
            found |= {word for word in re.findall(r"[^\W\d_]{3,}", whole) if name != "base"}
    return found


def guess(values: NDArray[np.floating], ids: Vocabulary, models: Catalog, *, penalty: float = 1.0) -> Floats:
    """`values` of known models (`ids`), and what they say about all others in `models`.

    Args:
        values: shape (len(ids), dim).
        penalty: of the kernel ridge, against word kernels whose diagonal is 1; large means everybody is average.

    Returns:
        shape (len(models), dim), in the order of `models`. Known models keep their values.

    Raises DataError where no model of `ids` is in `models`.
    """
    at = models.ids.find(ids.series)
    if not (at >= 0).any():
        raise DataError("none of the models with known values is in the catalogue; are the ids of the same kind?")
    known, given = at[at >= 0], np.asarray(values, np.float64)[at >= 0]
    out = np.tile(given.mean(0), (len(models), 1))
    new = np.setdiff1d(np.arange(len(models)), known)
    if len(new):
        bag = bags(models)
        own = (bag[known] @ bag[known].T).toarray()
        carried = np.linalg.solve(own + penalty * np.eye(len(known)), given - given.mean(0))
        out[new] += bag[new] @ (bag[known].T @ carried)
    out[known] = given
    return out
