"""The curvature of a log posterior, factored: what Newton's step, intervals and the evidence are solved with.

Of the parameters of `rating` a few are shared by all (the crowd's and the tags'), and many are one person's; two
persons' never meet in one choice. With the shared ones first the curvature is

    | A   B |        D block diagonal, a block a person
    | B'  D |

so that persons are eliminated by small inverses, all blocks of one size at once, and A - B D^-1 B' (the Schur
complement) is dense and of the shared ones alone: one Cholesky. Where that would be too large, or persons' blocks
would, SuperLU takes the whole as it is: slower by ten for a few thousand shared parameters, and faster for many. It
also takes votes that weigh 1e10 times as much as the prior, of which the subtraction leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import SuperLU, splu

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
_SHARED = 6_000  # parameters of one dense Cholesky: 288 MB
_OWN = 20_000_000  # numbers in the inverses of all persons


class Curvature(Protocol):
    """A symmetric positive definite matrix, factored."""

    def solve(self, right: Floats) -> Floats:
        """Of shape (n,) or (n, k)."""

    @property
    def logdet(self) -> float:
        """Log of the determinant."""


@dataclass(frozen=True, eq=False)
class Whole:
    """By SuperLU."""

    factor: SuperLU

    def solve(self, right: Floats) -> Floats:
        return np.asarray(self.factor.solve(np.ascontiguousarray(right)))

    @property
    def logdet(self) -> float:
        return float(np.log(np.abs(self.factor.U.diagonal())).sum())


@dataclass(frozen=True, eq=False)
class Eliminated:
    """By blocks.

    Attributes:
        shared, own: parameters, the latter block after block.
        coupling: B, shape (len(shared), len(own)).
        inverse: D^-1, shape (len(own), len(own)).
        root: the Schur complement's lower Cholesky factor.
        logdet: of the whole.
    """

    shared: Places
    own: Places
    coupling: sparse.csr_array
    inverse: sparse.csr_array
    root: Floats
    logdet: float

    def solve(self, right: Floats) -> Floats:
        alone = self.inverse @ right[self.own]
        out = np.empty_like(right)
        out[self.shared] = together = cho_solve((self.root, True), right[self.shared] - self.coupling @ alone)
        out[self.own] = alone - self.inverse @ (self.coupling.T @ together)
        return out


def factored(matrix: sparse.csc_array, blocks: Sequence[Places]) -> Curvature:
    """The factored matrix.

    Args:
        matrix: symmetric positive definite, shape (n, n).
        blocks: places that meet none of another block; what is in none is shared.
    """
    own = np.concatenate([np.zeros(0, np.int64), *blocks])
    shared = np.setdiff1d(np.arange(matrix.shape[0]), own)
    if len(shared) > _SHARED or sum(len(block) ** 2 for block in blocks) > _OWN:
        return _whole(matrix)
    rows = matrix.tocsr()
    top, bottom = rows[shared], rows[own]
    coupling, meeting = top[:, own], top[:, shared].toarray()
    inverse, logdet = _inverse(bottom[:, own], [len(block) for block in blocks])
    try:
        root = cho_factor(meeting - (coupling @ inverse @ coupling.T).toarray(), lower=True, overwrite_a=True)[0]
    except np.linalg.LinAlgError:
        return _whole(matrix)
    logdet += 2 * float(np.log(root.diagonal()).sum())
    return Eliminated(shared, own, coupling, inverse, root, logdet)


def _whole(matrix: sparse.csc_array) -> Whole:
    return Whole(splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}))


def _inverse(matrix: sparse.csr_array, sizes: Iterable[int]) -> tuple[sparse.csr_array, float]:
    """Of a block diagonal matrix, and the log of its determinant; blocks of one size are inverted at once."""
    size = np.fromiter(sizes, np.int64)
    start = np.cumsum(size) - size
    entries = matrix.tocoo()
    block = np.repeat(np.arange(len(size)), size)[entries.row]  # of each entry
    row, column = entries.row - start[block], entries.col - start[block]
    rows, columns, values, logdet = [], [], [], 0.0
    for k in np.unique(size[size > 0]):
        which = np.flatnonzero(size == k)
        mine = size[block] == k
        dense = np.zeros((len(which), k, k))
        dense[np.searchsorted(which, block[mine]), row[mine], column[mine]] = entries.data[mine]
        values.append(np.linalg.inv(dense).ravel())
        logdet += float(np.linalg.slogdet(dense).logabsdet.sum())
        places = start[which, None] + np.arange(k)
        rows.append(np.repeat(places, k, axis=1).ravel())
        columns.append(np.tile(places, (1, k)).ravel())
    if not values:
        return matrix, 0.0
    found = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(found, shape=matrix.shape), logdet
