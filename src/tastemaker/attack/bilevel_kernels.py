"""Compiled loops of weighted matrix factorisation by Adam, forward and backward: one pass over memory each.

Two things are done here. *Clicked cells*: what a click adds to the gradient of the loss, and to its Hessian times a
direction, beyond what an unclicked cell would. *Adam*: one step, and the adjoint of one step. A user who is not in the
mini-batch still moves, by momentum and weight decay alone; such idle steps need nothing but the user's own row, so they
are made up for when the row is needed next, in the cache, with the same result as if all rows had moved every step.

One step of Adam at time t, on the gradient g of the loss plus decay * x:

    m' = b1 m + (1 - b1) g      v' = b2 v + (1 - b2) g^2      x' = x - rate m' / (c sqrt(v') + eps)

with rate = lr / (1 - b1^t) and c = 1 / sqrt(1 - b2^t): a row of the table that `schedule` returns.
All arrays are C-contiguous and of one dtype, float32 or float64.
"""

# mypy: disallow-untyped-decorators=False
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
compiled: Any = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def schedule(steps: int, learning_rate: float, decay: float, dtype: Any) -> Array:
    """The constants of steps 1..n, shape (n, 9): decay, b1, 1 - b1, b2, 1 - b2, rate, c, eps, 2."""
    t = np.arange(1, steps + 1)
    rate, c = learning_rate / (1 - 0.9**t), 1 / np.sqrt(1 - 0.999**t)
    columns = np.broadcast_arrays(decay, 0.9, 0.1, 0.999, 0.001, rate, c, 1e-8, 2.0)
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype)


@compiled
def clicked_gradient(
    place: Array, indptr: Array, users: Array, excess: Array, pull: Array, p: Array, q: Array, gp: Array, gq: Array
) -> None:
    """Add what clicks add to half the gradient.

    Clicks are read item by item, so that an item's row is fetched once and the mini-batch stays in the cache.
    place (n_users,): a user's row in the mini-batch, or -1; p, gp (n_batch, d); q, gq (n_items, d); indptr
    (n_items + 1,) cuts users, excess = w - 1 and pull = w x, one number a click.
    """
    d, zero = p.shape[1], p.dtype.type(0)
    for i in range(len(q)):
        qi, gi = q[i], gq[i]
        for cell in range(indptr[i], indptr[i + 1]):
            n = place[users[cell]]
            if n < 0:
                continue
            pu, gu = p[n], gp[n]
            r = zero
            for k in range(d):
                r += pu[k] * qi[k]
            e = excess[cell] * r - pull[cell]
            for k in range(d):
                gu[k] += e * qi[k]
                gi[k] += e * pu[k]


@compiled
def clicked_hessian(
    place: Array, indptr: Array, users: Array, excess: Array, pull: Array,
    p: Array, q: Array, a: Array, b: Array, hp: Array, hq: Array,
) -> None:  # fmt: skip
    """Add what clicks add to half the Hessian times the direction (a of p, b of q); shapes as p and q."""
    d, zero = p.shape[1], p.dtype.type(0)
    for i in range(len(q)):
        qi, bi, hi = q[i], b[i], hq[i]
        for cell in range(indptr[i], indptr[i + 1]):
            n = place[users[cell]]
            if n < 0:
                continue
            pu, au, hu = p[n], a[n], hp[n]
            r, s = zero, zero
            for k in range(d):
                r += pu[k] * qi[k]
                s += au[k] * qi[k] + pu[k] * bi[k]
            e, f = excess[cell] * r - pull[cell], excess[cell] * s
            for k in range(d):
                hu[k] += e * bi[k] + f * qi[k]
                hi[k] += e * au[k] + f * pu[k]


@compiled
def _moments(x: Any, m: Any, v: Any, g: Any, h: Any) -> Any:
    m1 = h[1] * m + h[2] * g
    v1 = h[3] * v + h[4] * g * g
    return x - h[5] * m1 / (np.sqrt(v1) * h[6] + h[7]), m1, v1


@compiled
def _adjoint(x: Any, m: Any, v: Any, g: Any, m1: Any, v1: Any, h: Any, tiny: Any) -> Any:
    """Adjoints of (x', m', v') to those of (g, m, v); the one of x is that of x' plus what comes through g."""
    root = max(np.sqrt(v1), tiny)  # v' is 0 only where nothing ever moved: m' is 0 there, and so is the term
    below = root * h[6] + h[7]
    step = h[5] * x / below
    m -= step
    v += step * m1 * h[6] / (below * h[8] * root)
    return h[2] * m + h[8] * h[4] * g * v, h[1] * m, h[3] * v


@compiled
def adam(rows: Array, x: Array, m: Array, v: Array, g: Array, h: Array) -> None:
    """One step for some rows of x, m, v (n, d), in place. g (n_rows, d) holds half the gradient of each and receives
    the whole, decay included.
    """
    for n in range(len(rows)):
        xr, mr, vr, gr = x[rows[n]], m[rows[n]], v[rows[n]], g[n]
        for k in range(len(xr)):
            gr[k] = h[8] * gr[k] + h[0] * xr[k]
            xr[k], mr[k], vr[k] = _moments(xr[k], mr[k], vr[k], gr[k], h)


@compiled
def adam_back(x: Array, m: Array, v: Array, g: Array, m1: Array, v1: Array, h: Array, tiny: Any, back: Array) -> None:
    """Adjoints x, m, v (n, d) of what a step made, turned in place into those of what it was given; back: that of g.

    `tiny` is a positive number far below any sqrt(v').
    """
    for n in range(len(x)):
        for k in range(x.shape[1]):
            back[n, k], m[n, k], v[n, k] = _adjoint(x[n, k], m[n, k], v[n, k], g[n, k], m1[n, k], v1[n, k], h, tiny)
            x[n, k] += h[0] * back[n, k]


@compiled
def idle(rows: Array, x: Array, m: Array, v: Array, when: Array, until: int, table: Array) -> None:
    """Steps when[row]..until - 1 without a gradient, for some rows of x, m, v (n, d) in place."""
    for row in rows:
        xr, mr, vr = x[row], m[row], v[row]
        for t in range(when[row], until):
            h = table[t]
            for k in range(len(xr)):
                xr[k], mr[k], vr[k] = _moments(xr[k], mr[k], vr[k], h[0] * xr[k], h)


@compiled
def _idle_adjoint(x: Array, m: Array, v: Array, x0: Array, m1: Array, v1: Array, h: Array, tiny: Any) -> None:
    for k in range(len(x)):
        g, m[k], v[k] = _adjoint(x[k], m[k], v[k], h[0] * x0[k], m1[k], v1[k], h, tiny)
        x[k] += h[0] * g


@compiled
def idle_back(
    x0: Array, m0: Array, v0: Array, since: Array, until: int, table: Array, tiny: Any, x: Array, m: Array, v: Array
) -> None:
    """Adjoints x, m, v (n, d) at step `until` turned in place into those at since[n]; there a row was x0, m0, v0."""
    if len(x0) == 0:
        return
    shape = (until - since.min() + 1, x0.shape[1])
    xs, ms, vs = np.empty(shape, x0.dtype), np.empty(shape, x0.dtype), np.empty(shape, x0.dtype)
    for n in range(len(x0)):
        steps = until - since[n]
        xs[0], ms[0], vs[0] = x0[n], m0[n], v0[n]
        for j in range(steps):
            h = table[since[n] + j]
            for k in range(x0.shape[1]):
                xs[j + 1, k], ms[j + 1, k], vs[j + 1, k] = _moments(xs[j, k], ms[j, k], vs[j, k], h[0] * xs[j, k], h)
        for j in range(steps, 0, -1):
            _idle_adjoint(x[n], m[n], v[n], xs[j - 1], ms[j], vs[j], table[since[n] + j - 1], tiny)


@compiled
def solve_rows(indptr: Array, columns: Array, excess: Array, z: Array, gram: Array, right: Array) -> Array:
    """x (n_rows, d) with (gram + sum over a row's cells of excess z z') x = right, row by row."""
    d = z.shape[1]
    x = np.empty_like(right)
    for row in range(len(right)):
        matrix = gram.copy()
        for cell in range(indptr[row], indptr[row + 1]):
            zc = z[columns[cell]]
            for j in range(d):
                scaled, line = excess[cell] * zc[j], matrix[j]
                for k in range(d):
                    line[k] += scaled * zc[k]
        x[row] = np.linalg.solve(matrix, right[row])
    return x


@compiled
def inner_products(indptr: Array, columns: Array, x: Array, z: Array) -> Array:
    """x_row . z_column of every cell, (nnz,)."""
    result = np.empty(len(columns), x.dtype)
    for row in range(len(indptr) - 1):
        xr = x[row]
        for cell in range(indptr[row], indptr[row + 1]):
            zc = z[columns[cell]]
            r = xr[0] * zc[0]
            for k in range(1, len(xr)):
                r += xr[k] * zc[k]
            result[cell] = r
    return result


@compiled
def weighted_rows(indptr: Array, columns: Array, value: Array, z: Array, x: Array) -> None:
    """x[row] += sum over the row's cells of value z[column]."""
    for row in range(len(indptr) - 1):
        xr = x[row]
        for cell in range(indptr[row], indptr[row + 1]):
            zc = z[columns[cell]]
            for k in range(len(xr)):
                xr[k] += value[cell] * zc[k]


@compiled
def weighted_columns(indptr: Array, columns: Array, value: Array, x: Array, z: Array) -> None:
    """z[column] += sum over the column's cells of value x[row]."""
    for row in range(len(indptr) - 1):
        xr = x[row]
        for cell in range(indptr[row], indptr[row + 1]):
            zc = z[columns[cell]]
            for k in range(len(xr)):
                zc[k] += value[cell] * xr[k]
