"""Surrogate: weighted matrix factorisation by alternating least squares, and gradients through its closed forms.

Tang, Wen, Wang 2020 ("WRMF + ALS"); the gradient of the last solve alone is the kind of approximation the paper argues
against, of the family of Li, Wang, Singh and Vorobeychik 2016. A half-step solves, for every row with the other side Z
fixed,

    x = A^-1 sum_c w_c y_c z_c,      A = sum_c w_c z_c z_c' + reg I      over all columns c, clicked or not.

Back through it, with l = A^-1 (adjoint of x): a cell receives w_c (l . z_c), and z_c receives
w_c (y_c l - (x . z_c) l - (l . z_c) x); over unclicked cells that is -Z (L'X + X'L), so nothing dense is formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tastemaker.attack.bilevel_kernels import inner_products, solve_rows
from tastemaker.attack.bilevel_loss import Adversary, Diverged, Mode, Solved, known, positive, whole
from tastemaker.attack.clicks import Clicks

Array = NDArray[Any]


@dataclass(frozen=True)
class ALS:
    """Weighted matrix factorisation by alternating least squares; the defaults are the paper's.

    Attributes:
        rank: number of factors d.
        weight: of a clicked cell; the others have weight 1.
        alternations: users, then items, this many times.
        unroll: how many of the last alternations 'exact' differentiates; None for all.
        reg: L2 penalty of every row.
        init: standard deviation of the first item factors.
    """

    rank: int = 128
    weight: float = 20.0
    alternations: int = 10
    unroll: int | None = None
    reg: float = 0.05
    init: float = 0.1

    modes: ClassVar[tuple[Mode, ...]] = ("exact", "truncated", "last_solve", "partial")

    def __post_init__(self) -> None:
        whole(self, "rank", "alternations", "unroll")
        positive(self, "weight", "reg", "init")

    def solve(self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator) -> Solved:
        """Train; how the result is judged, and d L_adv / d fakes (n_fakes, n_items), None without a mode.

        'exact': through the last `unroll` alternations; 'truncated': through the last one; 'last_solve': through the
        last solve for items, users held fixed; 'partial': zero, as no score depends on a click directly.
        """
        known(self, mode)
        by_user = _Half.build(clicks, self.reg)
        by_item = by_user.transposed()
        n_real, dtype = clicks.n_real, clicks.fakes.dtype
        q = self.init * rng.standard_normal((clicks.n_items, self.rank), np.float32).astype(dtype)
        kept = []
        for _ in range(self.alternations):
            p = by_user.forward(q)
            kept.append((q, p))
            q = by_item.forward(p)
        judged = adversary.judge(p[:n_real], q)
        if mode is None:
            return judged, None
        cells = np.zeros_like(clicks.fakes)
        if mode == "partial":
            return judged, cells
        depth = {"exact": self.unroll or self.alternations}.get(mode, 1)
        p_bar, q_bar = np.zeros_like(p), judged.items
        p_bar[:n_real] = judged.users
        for before, p in reversed(kept[-depth:]):
            through, into_p = by_item.backward(p, q, q_bar)
            cells += p[n_real:] @ through.T
            if mode == "last_solve":
                break
            p_bar += into_p
            through, q_bar = by_user.backward(before, p, p_bar)
            cells += through[n_real:] @ before.T
            q, p_bar = before, np.zeros_like(p)
        return judged, clicks.fake_weight * cells


@dataclass(frozen=True, eq=False)
class _Half:
    """One side's rows: CSR matrices of equal pattern with data w - 1 and w y, (n_rows, n_columns)."""

    excess: sparse.csr_matrix
    pull: sparse.csr_matrix
    reg: float

    @classmethod
    def build(cls, clicks: Clicks, reg: float) -> _Half:
        user, item, x, w = clicks.cells()
        ends = np.searchsorted(user, np.arange(clicks.n_users + 1))
        shape = (clicks.n_users, clicks.n_items)
        excess, pull = (sparse.csr_matrix((data, item, ends), shape) for data in (w - 1, w * x))
        return cls(excess, pull, reg)

    def transposed(self) -> _Half:
        return _Half(self.excess.T.tocsr(), self.pull.T.tocsr(), self.reg)

    def forward(self, z: Array) -> Array:
        return self._solve(z, self.pull @ z)

    def backward(self, z: Array, x: Array, x_bar: Array) -> tuple[Array, Array]:
        """l (n_rows, d), and the adjoint of z."""
        through = self._solve(z, x_bar)
        turn = through.T @ x
        first, second = self.pull.copy(), self.excess.copy()
        first.data -= self.excess.data * inner_products(self.pull.indptr, self.pull.indices, x, z)
        second.data *= -inner_products(second.indptr, second.indices, through, z)
        return through, first.T @ through + second.T @ x - z @ (turn + turn.T)

    def _solve(self, z: Array, right: Array) -> Array:
        gram = z.T @ z + z.dtype.type(self.reg) * np.eye(z.shape[1], dtype=z.dtype)
        try:
            x: Array = solve_rows(self.excess.indptr, self.excess.indices, self.excess.data, z, gram, right)
        except np.linalg.LinAlgError as error:
            raise Diverged(f"ALS: a row cannot be solved for ({error}); raise reg, or lower weight or init") from error
        return x
