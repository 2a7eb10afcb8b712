"""The models with the largest product with a query: exactly up to a million rows, approximately beyond.

One product of a million rows of 64 numbers reads 256 MB, some tens of milliseconds on one core, and needs no index, so
approximation is not worth its errors below that. Beyond, faiss is asked, behind the same call: an inverted file over
inner products that visits the nearest lists only.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import InvalidArgument

EXACT = 1_000_000  # rows up to which every row is looked at

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Index:
    """Rows of models, ready to be searched.

    Attributes:
        rows: shape (n, r) float32.
        faiss: the approximate index over them; None where every row is looked at.
    """

    rows: NDArray[np.float32]
    faiss: Any = None

    @classmethod
    def of(cls, rows: NDArray[np.floating], *, exact: int = EXACT, visited: float = 0.2) -> Index:
        """
        Args:
            rows: shape (n, r).
            exact: up to this many rows every row is looked at.
            visited: share of the lists that an approximate search visits.

        Raises ImportError, with what to install, where faiss is needed and not there.
        """
        own = np.ascontiguousarray(rows, np.float32)
        if own.ndim != 2 or not len(own) or not np.isfinite(own).all():
            raise InvalidArgument(f"rows of shape {own.shape}; expected (n, r), at least one row, all finite")
        if len(own) <= exact:
            return cls(own)
        try:
            faiss: Any = import_module("faiss")
        except ImportError as error:
            raise ImportError(
                f"{len(own):,} models are more than the {exact:,} that are searched exactly; pip install faiss-cpu, or "
                f"pass exact={len(own)} to look at every row all the same"
            ) from error
        lists = max(1, int(4 * len(own) ** 0.5))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(own.shape[1]), own.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(own[:: max(1, len(own) // (64 * lists))])
        index.add(own)
        index.nprobe = max(1, int(visited * lists))
        return cls(own, index)

    def best(
        self,
        query: NDArray[np.floating],
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        extra: NDArray[np.floating] | None = None,
    ) -> Found:
        """The k largest products, best first, equal ones by row.

        Args:
            query: shape (r,).
            allowed: rows to choose from, shape (n,); by default all.
            extra: added to the products, shape (n,). An approximate search adds it to the 4 k best products only.

        Returns:
            rows and products, shape (k,) each; fewer where fewer are allowed (or, beyond `exact`, were found).
        """
        q = np.asarray(query, np.float32)
        if q.shape != self.rows.shape[1:] or k < 1:
            raise InvalidArgument(f"query of shape {q.shape}, k = {k}; expected ({self.rows.shape[1]},) and k from 1")
        if self.faiss is None:
            scores = self.rows @ q
            return largest(scores if extra is None else scores + extra, k, allowed)
        # Filters are applied afterwards: ask for so many that k are left on average, and a margin.
        share = 1.0 if allowed is None else max(float(allowed.mean()), 1e-4)
        scores, rows = self.faiss.search(q[None], min(len(self.rows), int(4 * k / share) + 16))
        keep = rows[0] >= 0 if allowed is None else (rows[0] >= 0) & allowed[rows[0]]
        found, worth = rows[0][keep], scores[0][keep]
        order = largest(worth if extra is None else worth + extra[found], k)[0]
        return found[order], (worth if extra is None else worth + extra[found])[order].astype(np.float32)


def largest(scores: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None) -> Found:
    """Rows and values of the k largest scores, best first, equal ones by row."""
    candidates = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    values = scores if allowed is None else scores[candidates]
    if k < len(values):
        # All that are as good as the k-th, so that equal scores at the edge are settled by row.
        least = np.partition(values, len(values) - k)[len(values) - k]
        keep = np.flatnonzero(values >= least)
        candidates, values = candidates[keep], values[keep]
    order = np.argsort(-values, kind="stable")[:k]
    return candidates[order], values[order].astype(np.float32)
