"""Surrogate: weighted matrix factorisation by Adam, and the exact gradient through its training.

Tang, Wen, Wang 2020, sections 3 and 4 ("WRMF + SGD"). Scores are P Q'; an epoch takes all users once, real and fake, in
mini-batches; the loss of a mini-batch is the *sum* over its users' cells, clicked or not. The gradient of L_adv with
respect to the fake clicks goes back through the last `unroll` epochs of Adam, moments included, as if every step had
been kept. Nothing of the size users x items is formed:

- sum over all cells of r^2 = trace(P'P Q'Q), so the unclicked cells need d x d matrices, the clicked ones their inner
  products: a step costs O(clicks d + (n_batch + n_items) d^2).
- One step back needs the Hessian times the adjoint (a, b) of the step's gradient: the same sums, once more
  differentiated. A fake cell receives -2 w (a_f . q_i + p_f . b_i), as x enters the gradient linearly.
- States are stored at about sqrt(steps) places and the steps between are run again, so memory grows with the square
  root of what is unrolled.

Easy to get wrong: Adam moves all users in every step (momentum, weight decay), not only those in the mini-batch; see
`bilevel_kernels`. `unroll` epochs are exact for what they cover; what came before counts as constant, so the gradient
is exact altogether only with unroll=None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from math import ceil, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack import bilevel_kernels as kernels
from tastemaker.attack.bilevel_loss import Adversary, Judged, Mode, known, positive
from tastemaker.attack.bilevel_threads import PIECES, Crew, cut, one_blas_thread
from tastemaker.attack.clicks import Clicks

Array = NDArray[Any]


@dataclass
class Moving:
    """What Adam moves: p, q the factors, with their two moments; when (n_users,): how many steps a user has taken."""

    p: Array
    mp: Array
    vp: Array
    q: Array
    mq: Array
    vq: Array
    when: NDArray[np.int64]

    def copy(self) -> Moving:
        return Moving(*(getattr(self, field.name).copy() for field in fields(self)))


@dataclass(frozen=True)
class Step:
    """One step as its way back needs it. asleep: the users' rows and moments as they were at steps `since`."""

    users: NDArray[np.int32]
    since: NDArray[np.int64]
    asleep: tuple[Array, Array, Array]
    p: Array
    q: Array
    grams: tuple[Array, Array]
    gp: Array
    mp: Array
    vp: Array
    gq: Array
    mq: Array
    vq: Array


@dataclass(frozen=True)
class WMF:
    """Weighted matrix factorisation by Adam; the defaults are the paper's.

    Attributes:
        rank: number of factors d.
        weight: of a clicked cell; the others have weight 1.
        epochs: of training.
        unroll: how many of the last epochs are differentiated; None for all.
        batch: users in a mini-batch; None for all at once.
        learning_rate, decay: of Adam; decay is added to the gradient.
        init: standard deviation of the first factors.
        damping, iterations: gradient='implicit' only: added to the Hessian, and conjugate gradient steps.
    """

    rank: int = 128
    weight: float = 20.0
    epochs: int = 50
    unroll: int | None = 10
    batch: int | None = 2048
    learning_rate: float = 1e-2
    decay: float = 1e-5
    init: float = 0.1
    damping: float = 1.0
    iterations: int = 50

    modes: ClassVar[tuple[Mode, ...]] = ("exact", "truncated", "partial", "implicit")

    def __post_init__(self) -> None:
        positive(self, "rank", "weight", "epochs", "unroll", "batch", "learning_rate", "init", "iterations")

    @one_blas_thread()
    def solve(
        self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator
    ) -> tuple[Judged, Array | None]:
        """Train; how the result is judged, and d L_adv / d fakes (n_fakes, n_items), None without a mode.

        'exact': through the last `unroll` epochs; 'truncated': through the last one only; 'partial': with the factors
        held fixed, which is zero since no score depends on a click directly; 'implicit': by the implicit function
        theorem, as if the factors were a stationary point of the loss (they are not quite).
        """
        known(self, mode)
        run = Training(
            clicks, rank=self.rank, epochs=self.epochs, batch=self.batch, learning_rate=self.learning_rate,
            decay=self.decay, init=self.init, rng=rng,
        )  # fmt: skip
        n_steps, now = len(run.batches), run.start
        epochs = {"exact": self.unroll or self.epochs, "truncated": 1}.get(mode or "", 0)
        first = max(0, n_steps - epochs * run.per_epoch)
        every = max(1, ceil(sqrt(n_steps - first)))
        stored: dict[int, Moving] = {}
        for t in range(n_steps):
            if t >= first and (t - first) % every == 0:
                stored[t] = now.copy()
            run.forward(now, t)
        users, n_real = now.p.copy(), clicks.n_real
        everyone = np.arange(len(users), dtype=np.int32)
        kernels.idle(everyone, users, now.mp.copy(), now.vp.copy(), now.when, n_steps, run.table)
        judged = adversary.judge(users[:n_real], now.q)
        if mode is None:
            return judged, None
        if mode == "implicit":
            return judged, self._implicit(run, users, now.q, judged)

        cells = np.zeros_like(clicks.fakes)
        bar = Moving(*(np.zeros_like(getattr(now, field.name)) for field in fields(now)))
        bar.p[:n_real], bar.q[:] = judged.users, judged.items
        if stored:
            idle = (now.p, now.mp, now.vp, now.when, n_steps)
            kernels.idle_back(*idle, run.table, run.tiny, bar.p, bar.mp, bar.vp)
        for start in reversed(list(stored)):
            now = stored.pop(start)
            steps = [run.forward(now, t, record=True) for t in range(start, min(start + every, n_steps))]
            while steps:
                step = steps.pop()
                assert step is not None
                run.backward(step, start + len(steps), bar, cells)
        return judged, -2 * clicks.fake_weight * cells

    def _implicit(self, run: Training, p: Array, q: Array, judged: Judged) -> Array:
        """(Hessian + damping) x (a, b) = derivatives of L_adv, by conjugate gradients; then as one step back."""
        everyone = np.arange(len(p), dtype=np.int32)
        grams = (q.T @ q, p.T @ p)
        ridge = p.dtype.type(self.damping + run.per_epoch * self.decay)

        def hessian(x: Array) -> Array:
            a, b = np.split(x, [len(p)])
            image: Array = 2 * np.concatenate(run.half_hessian(everyone, p, q, grams, a, b)) + ridge * x
            return image

        right = np.zeros((len(p) + len(q), self.rank), p.dtype)
        right[: len(judged.users)], right[len(p) :] = judged.users, judged.items
        a, b = np.split(conjugate_gradients(hessian, right, self.iterations), [len(p)])
        fake = slice(run.clicks.n_real, None)
        cells: Array = 2 * run.clicks.fake_weight * (a[fake] @ q.T + p[fake] @ b.T)
        return cells


def conjugate_gradients(times: Callable[[Array], Array], right: Array, iterations: int) -> Array:
    """x with times(x) = right, nearly; ends early where the matrix turns out not to be positive definite."""
    x, residual = np.zeros_like(right), right.copy()
    direction, size = residual.copy(), float((residual**2).sum())
    first = size
    for _ in range(iterations):
        if size <= 1e-20 * first:
            break
        image = times(direction)
        curvature = float((direction * image).sum())
        if curvature <= 0:
            break
        x += right.dtype.type(size / curvature) * direction
        residual -= right.dtype.type(size / curvature) * image
        before, size = size, float((residual**2).sum())
        direction = residual + right.dtype.type(size / before) * direction
    return x


class Training:
    """Adam on one set of clicks; the mini-batches of all epochs are drawn first, so any step can be run again."""

    def __init__(
        self, clicks: Clicks, *, rank: int, epochs: int, batch: int | None, learning_rate: float, decay: float,
        init: float, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        n, dtype = clicks.n_users, clicks.fakes.dtype
        self.clicks = clicks
        size = n if batch is None else min(batch, n)
        orders = [rng.permutation(n).astype(np.int32) for _ in range(epochs)]
        self.batches = [order[k : k + size] for order in orders for k in range(0, n, size)]
        self.per_epoch = ceil(n / size)
        self.table = kernels.schedule(len(self.batches), learning_rate, decay, dtype)
        self.tiny = dtype.type(1e-25)
        p, q = (init * rng.standard_normal((rows, rank), np.float32).astype(dtype) for rows in (n, clicks.n_items))
        self.start = Moving(p, 0 * p, 0 * p, q, 0 * q, 0 * q, np.zeros(n, np.int64))

        user, item, x, w = clicks.cells()
        order = np.argsort(item, kind="stable")
        self.items = np.arange(clicks.n_items, dtype=np.int32)
        self.ends = np.searchsorted(item[order], np.arange(clicks.n_items + 1)).astype(np.int64)
        self.by_item = (user[order], (w - 1)[order], (w * x)[order])
        cost = self.ends + 4 * np.arange(len(self.ends))  # products of whole rows beside those of clicked cells
        cuts = np.unique(np.searchsorted(cost, np.linspace(0, cost[-1], PIECES + 1)))
        self.pieces = [slice(a, b) for a, b in pairwise(cuts)]
        self.crew = Crew()

    def clicked(self, items: slice) -> tuple[NDArray[np.int64], NDArray[np.int32], Array, Array]:
        """Clicks on some items, as the kernels want them."""
        return self.ends[items.start : items.stop + 1], *self.by_item

    def place(self, users: NDArray[np.int32]) -> NDArray[np.int32]:
        """Of every user, the row in the mini-batch, or -1."""
        place = np.full(self.clicks.n_users, -1, np.int32)
        place[users] = np.arange(len(users), dtype=np.int32)
        return place

    def half_hessian(
        self, users: NDArray[np.int32], p: Array, q: Array, grams: tuple[Array, Array], a: Array, b: Array
    ) -> tuple[Array, Array]:
        """Half the Hessian of the loss of `users`, whose rows are p, times the direction (a, b), by p and by q."""
        place, rows = self.place(users), cut(len(users))
        turn_q = self.crew.total(lambda i: b[i].T @ q[i], self.pieces)
        turn_p = self.crew.total(lambda u: a[u].T @ p[u], rows)
        turn_q, turn_p, hq = turn_q + turn_q.T, turn_p + turn_p.T, np.empty_like(q)

        def of_items(i: slice) -> Array:
            part = np.zeros_like(p)
            np.matmul(b[i], grams[1], out=hq[i])
            hq[i] += q[i] @ turn_p
            kernels.clicked_hessian(place, *self.clicked(i), p, q[i], a, b[i], part, hq[i])
            return part

        def of_users(u: slice) -> None:
            hp[u] += a[u] @ grams[0] + p[u] @ turn_q

        hp = self.crew.total(of_items, self.pieces)
        self.crew.each(of_users, rows)
        return hp, hq

    def forward(self, now: Moving, t: int, *, record: bool = False) -> Step | None:
        """Step t, in place; with `record`, what `backward` needs of it."""
        users, h, crew = self.batches[t], self.table[t], self.crew
        rows, place, since = cut(len(users)), self.place(users), now.when[users]
        asleep = (now.p[users], now.mp[users], now.vp[users]) if record else None
        old = (now.q, now.mq, now.vq)
        if record:
            now.q, now.mq, now.vq = (np.empty_like(x) for x in old)
        q, gq, p = old[0], np.empty_like(now.q), np.empty((len(users), now.p.shape[1]), now.p.dtype)

        def wake(u: slice) -> Array:
            kernels.idle(users[u], now.p, now.mp, now.vp, now.when, t, self.table)
            p[u] = now.p[users[u]]
            gram: Array = p[u].T @ p[u]
            return gram

        def move_items(i: slice) -> Array:
            part = np.zeros_like(p)
            np.matmul(q[i], gram_p, out=gq[i])
            kernels.clicked_gradient(place, *self.clicked(i), p, q[i], part, gq[i])
            if record:
                now.q[i], now.mq[i], now.vq[i] = (x[i] for x in old)
            kernels.adam(self.items[i], now.q, now.mq, now.vq, gq[i], h)
            return part

        def move_users(u: slice) -> None:
            gp[u] += p[u] @ gram_q
            kernels.adam(users[u], now.p, now.mp, now.vp, gp[u], h)

        gram_q, gram_p = crew.total(lambda i: q[i].T @ q[i], self.pieces), crew.total(wake, rows)
        gp = crew.total(move_items, self.pieces)
        crew.each(move_users, rows)
        now.when[users] = t + 1
        if asleep is None:
            return None
        return Step(users, since, asleep, p, q, (gram_q, gram_p), gp, now.mp[users], now.vp[users], gq, now.mq, now.vq)

    def backward(self, step: Step, t: int, bar: Moving, cells: Array) -> None:
        """Turn the adjoint `bar` of the state after step t into that before it; add to the fake cells' own."""
        users, h, crew, rows = step.users, self.table[t], self.crew, cut(len(step.users))
        x, m, v = bar.p[users], bar.mp[users], bar.vp[users]
        a, b = np.empty_like(step.p), np.empty_like(step.q)
        fake = users >= self.clicks.n_real
        whose = users[fake] - self.clicks.n_real

        def gradient_of_users(u: slice) -> None:
            kernels.adam_back(x[u], m[u], v[u], step.gp[u], step.mp[u], step.vp[u], h, self.tiny, a[u])

        def gradient_of_items(i: slice) -> None:
            moved = (bar.q[i], bar.mq[i], bar.vq[i])
            kernels.adam_back(*moved, step.gq[i], step.mq[i], step.vq[i], h, self.tiny, b[i])
            cells[whose, i] += a[fake] @ step.q[i].T + step.p[fake] @ b[i].T

        def settle_items(i: slice) -> None:
            bar.q[i] += 2 * hq[i]

        def settle_users(u: slice) -> None:
            x[u] += 2 * hp[u]
            asleep = (y[u] for y in step.asleep)
            kernels.idle_back(*asleep, step.since[u], t, self.table, self.tiny, x[u], m[u], v[u])

        crew.each(gradient_of_users, rows)
        crew.each(gradient_of_items, self.pieces)
        hp, hq = self.half_hessian(users, step.p, step.q, step.grams, a, b)
        crew.each(settle_items, self.pieces)
        crew.each(settle_users, rows)
        bar.p[users], bar.mp[users], bar.vp[users] = x, m, v
