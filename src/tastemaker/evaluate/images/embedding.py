"""Unit vectors of pictures and texts in one space, kept with their ids; and what may make them.

Rows are found by id, never by place: the same prompts in another order must not change a figure unnoticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import InvalidArgument, UnknownId

if TYPE_CHECKING:
    from tastemaker.evaluate.images.picture import Fit, Picture

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Unit vectors with ids.

    Attributes:
        vectors: shape (n, dim) float32, each of length 1.
        ids: one a row. An id may come twice (the same picture twice), but then with the same vector.
    """

    vectors: Vectors
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        vectors, ids = np.asarray(self.vectors, np.float32), tuple(self.ids)
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise InvalidArgument(f"vectors of shape {vectors.shape} for {len(ids)} ids; expected one row an id")
        length = np.linalg.norm(vectors.astype(np.float64), axis=1)
        wrong = ~(np.abs(length - 1) < 1e-3)
        if wrong.any():
            raise InvalidArgument(
                f"{int(wrong.sum())} of {len(ids)} vectors are not of length 1 (the first: {length[wrong][0]:g}, id "
                f"'{ids[int(np.argmax(wrong))]}'); use Embeddings.of, which divides by the length"
            )
        row = {name: place for place, name in enumerate(ids)}
        if len(row) < len(ids):
            for place, name in enumerate(ids):
                if not np.allclose(vectors[place], vectors[row[name]], atol=1e-4):
                    raise InvalidArgument(f"id '{name}' has two different vectors; expected one vector an id")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_row", row)

    @classmethod
    def of(cls, vectors: ArrayLike, ids: Sequence[str]) -> Embeddings:
        """Divide each row by its length; a zero, infinite or NaN row is refused."""
        rows = np.asarray(vectors, np.float64)
        if rows.ndim != 2:
            raise InvalidArgument(f"vectors of shape {rows.shape}; expected (n, dim)")
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if bad := int((~((length > 0) & np.isfinite(length))).sum()):
            raise InvalidArgument(f"{bad} of {len(rows)} vectors are zero or not finite and have no direction")
        return cls((rows / length).astype(np.float32), tuple(ids))

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, ids: Sequence[str]) -> Vectors:
        """Vectors of these ids, in this order, shape (len(ids), dim). Raises UnknownId for one that is not here."""
        rows: dict[str, int] = self._row  # type: ignore[attr-defined]
        absent = [name for name in ids if name not in rows]
        if absent:
            raise UnknownId(
                f"{len(absent)} of {len(ids)} ids have no vector, the first '{absent[0]}'; embed them first"
            )
        return self.vectors[[rows[name] for name in ids]]


class Encoder(Protocol):
    """Texts and pictures into one space, such as a CLIP model."""

    @property
    def name(self) -> str: ...

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """One unit vector a text, ids = the texts."""
        ...

    def embed_pictures(self, pictures: Sequence[Picture], *, fit: Fit = "crop") -> Embeddings:
        """One unit vector a picture."""
        ...


class Features(Protocol):
    """A description of pictures for FID and KID, such as the last pooling layer of a classifier."""

    @property
    def name(self) -> str: ...

    def features(self, pictures: Sequence[Picture]) -> NDArray[np.floating]:
        """Shape (n, dim)."""
        ...
