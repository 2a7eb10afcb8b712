"""What a surrogate is trained on: the clicks of real users and, below them, of fake ones, as 0 and 1.

Loss of a surrogate with predictions r: sum over *all* cells of w (x - r)^2, w = `weight` where clicked and 1 elsewhere.
The weight is never differentiated with respect to x (Tang, Wen, Wang 2020, section 3): a cell keeps the weight it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Clicks:
    """Rows are users, the real ones first.

    indptr (n_real + 1,), items: what each real user clicked, ascending. fakes (n_fakes, n_items): what each fake user
    did, a float array; fake_weight, same shape: weight of each of its cells. weight: of a real click.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    fakes: Array
    fake_weight: Array
    weight: float

    @classmethod
    def build(cls, real: sparse.csr_matrix, fakes: Array, weight: float) -> Clicks:
        """From the clicks of real users and of fake ones, (n_real, n_items) and (n_fakes, n_items)."""
        real = real.sorted_indices()
        fake_weight = np.where(fakes > 0, weight, 1.0).astype(fakes.dtype)
        return cls(real.indptr.astype(np.int64), real.indices.astype(np.int32), fakes, fake_weight, weight)

    @property
    def n_real(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_users(self) -> int:
        return self.n_real + len(self.fakes)

    @property
    def n_items(self) -> int:
        return int(self.fakes.shape[1])

    def cells(self) -> tuple[NDArray[np.int32], NDArray[np.int32], Array, Array]:
        """Users, items, x and w of all cells that are not (x = 0, w = 1), real users first; x and w in fakes.dtype."""
        fake, item = np.nonzero((self.fakes != 0) | (self.fake_weight != 1))
        real = np.repeat(np.arange(self.n_real, dtype=np.int32), np.diff(self.indptr))
        ones = np.ones(len(real), self.fakes.dtype)
        return (
            np.concatenate([real, (fake + self.n_real).astype(np.int32)]),
            np.concatenate([self.items, item.astype(np.int32)]),
            np.concatenate([ones, self.fakes[fake, item]]),
            np.concatenate([ones * self.fakes.dtype.type(self.weight), self.fake_weight[fake, item]]),
        )


def real_clicks(log: FeedbackLog) -> sparse.csr_matrix:
    """Distinct (user, item) pairs liked at least once, as ones, shape (n_users, n_items) float32.

    Raises InvalidArgument where the log is graded or holds no like.
    """
    log.require_signed("an injection attack")
    liked = log.value > 0
    if not liked.any():
        raise InvalidArgument(f"the log has {len(log)} events and no click (no like); an attack needs real clicks")
    shape = (log.n_users, log.n_items)
    matrix = sparse.csr_matrix((np.ones(int(liked.sum()), np.float32), (log.user[liked], log.item[liked])), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
