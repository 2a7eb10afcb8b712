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

Several problems of one size (other seeds, targets or fakes) are trained side by side: their rows are laid out so that
what goes number by number or click by click runs through all of them at once; only products with d x d matrices are
made problem by problem. Every sum is taken in the order in which it would be taken alone, so the results are those of
one problem after another, to the last bit. It saves calls and the waiting of threads for each other, not arithmetic:
small problems gain, large ones would lose the cache, and are not put together (`TOGETHER`).

Easy to get wrong: Adam moves all users in every step (momentum, weight decay), not only those in the mini-batch; see
`bilevel_kernels`. `unroll` epochs are exact for what they cover; what came before counts as constant, so the gradient
is exact altogether only with unroll=None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import ceil, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack import bilevel_kernels as kernels
from tastemaker.attack.bilevel_loss import Adversary, Judged, Mode, Problem, Solved, known, positive, whole
from tastemaker.attack.bilevel_threads import PIECES, Crew, cut, one_blas_thread
from tastemaker.attack.clicks import Clicks
from tastemaker.errors import InvalidArgument

Array = NDArray[Any]
TOGETHER = 1 << 19  # numbers in the factors of all problems solved at once: with more, they leave the cache


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
        whole(self, "rank", "epochs", "unroll", "batch", "iterations")
        positive(self, "weight", "learning_rate", "init")
        positive(self, "decay", "damping", or_zero=True)

    def solve(self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator) -> Solved:
        """Train; how the result is judged, and d L_adv / d fakes (n_fakes, n_items), None without a mode.

        'exact': through the last `unroll` epochs; 'truncated': through the last one only; 'partial': with the factors
        held fixed, which is zero since no score depends on a click directly; 'implicit': by the implicit function
        theorem, as if the factors were a stationary point of the loss (they are not quite).
        """
        return self.solve_many([Problem(clicks, adversary, rng)], mode)[0]

    def solve_many(self, problems: Sequence[Problem], mode: Mode | None) -> list[Solved]:
        """`solve` for each, the same to the last bit; small ones of equal size at once, in as many times the memory.

        'implicit' takes one after the other.
        """
        known(self, mode)
        alike, solved = dict[Any, list[int]](), dict[int, Solved]()
        for place, one in enumerate(problems):
            size = (one.clicks.n_users + one.clicks.n_items) * self.rank
            most = 1 if mode == "implicit" else max(1, TOGETHER // size)
            kind = (one.clicks.n_users, one.clicks.n_items, one.clicks.fakes.dtype, most)
            alike.setdefault(kind, []).append(place)
        for (*_, most), places in alike.items():
            for first in range(0, len(places), most):
                some = places[first : first + most]
                solved |= zip(some, self._solve([problems[place] for place in some], mode), strict=True)
        return [solved[place] for place in range(len(problems))]

    @one_blas_thread()
    def _solve(self, problems: Sequence[Problem], mode: Mode | None) -> list[Solved]:
        run = Training(
            [one.clicks for one in problems], rank=self.rank, epochs=self.epochs, batch=self.batch,
            learning_rate=self.learning_rate, decay=self.decay, init=self.init, rngs=[one.rng for one in problems],
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
        users = now.p.copy()
        everyone = np.arange(len(users), dtype=np.int32)
        kernels.idle(everyone, users, now.mp.copy(), now.vp.copy(), now.when, n_steps, run.table)
        own = list(zip(problems, run.real_users, run.item_rows, strict=True))
        judged = [one.adversary.judge(users[real], now.q[items]) for one, real, items in own]
        if mode is None:
            return [(one, None) for one in judged]
        if mode == "implicit":
            return [(judged[0], self._implicit(run, users, now.q, judged[0]))]

        cells = [np.zeros_like(one.clicks.fakes) for one in problems]
        bar = Moving(*(np.zeros_like(getattr(now, field.name)) for field in fields(now)))
        for found, (_, real, items) in zip(judged, own, strict=True):
            bar.p[real], bar.q[items] = found.users, found.items
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
        into = [-2 * one.clicks.fake_weight * part for one, part in zip(problems, cells, strict=True)]
        return list(zip(judged, into, strict=True))

    def _implicit(self, run: Training, p: Array, q: Array, judged: Judged) -> Array:
        """(Hessian + damping) x (a, b) = derivatives of L_adv, by conjugate gradients; then as one step back."""
        everyone = np.arange(len(p), dtype=np.int32)
        grams = ((q.T @ q)[None], (p.T @ p)[None])
        ridge = p.dtype.type(self.damping + run.per_epoch * self.decay)

        def hessian(x: Array) -> Array:
            a, b = np.split(x, [len(p)])
            image: Array = 2 * np.concatenate(run.half_hessian(everyone, p, q, grams, a, b)) + ridge * x
            return image

        right = np.zeros((len(p) + len(q), self.rank), p.dtype)
        right[: len(judged.users)], right[len(p) :] = judged.users, judged.items
        found = conjugate_gradients(hessian, right, self.iterations)
        if right.any() and not found.any():
            raise InvalidArgument(
                f"WMF(damping={self.damping!r}): the Hessian of the training loss is not positive definite, so "
                f"there is no implicit gradient; raise damping"
            )
        a, b = np.split(found, [len(p)])
        (clicks,) = run.clicks
        fake = slice(clicks.n_real, None)
        cells: Array = 2 * clicks.fake_weight * (a[fake] @ q.T + p[fake] @ b.T)
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


@dataclass(frozen=True)
class Piece:
    """A share of the items of every problem. rows: where it is held; parts, columns: by problem, its rows and items."""

    rows: slice
    parts: tuple[slice, ...]
    columns: tuple[slice, ...]


class Training:
    """Adam on several sets of clicks, equal in size; the mini-batches of all epochs are drawn first, so any step can be
    run again.

    User u of problem s is row s n_users + u of p. A mini-batch, and the items in q, are held piece by piece and within
    a piece problem by problem; `item_rows` says where an item is.
    """

    def __init__(
        self, clicks: Sequence[Clicks], *, rank: int, epochs: int, batch: int | None, learning_rate: float,
        decay: float, init: float, rngs: Sequence[np.random.Generator],
    ) -> None:  # fmt: skip
        n, n_items, dtype = clicks[0].n_users, clicks[0].n_items, clicks[0].fakes.dtype
        self.clicks, self.n_users, self.rank = clicks, n, rank
        size = n if batch is None else min(batch, n)
        firsts = np.arange(len(clicks), dtype=np.int32) * np.int32(n)
        self.real_users = [slice(first, first + one.n_real) for first, one in zip(firsts, clicks, strict=True)]
        orders = [
            [first + rng.permutation(n).astype(np.int32) for _ in range(epochs)]
            for first, rng in zip(firsts, rngs, strict=True)
        ]
        parts = [slice(k, min(k + size, n)) for k in range(0, n, size)]
        self.batches = [
            np.concatenate([own[part][u] for u in cut(part.stop - part.start) for own in epoch])
            for epoch in zip(*orders, strict=True)
            for part in parts
        ]
        self.per_epoch = len(parts)
        self.table = kernels.schedule(len(self.batches), learning_rate, decay, dtype)
        self.tiny = dtype.type(1e-25)

        self._lay_out(clicks, firsts)
        self.items = np.arange(len(clicks) * n_items, dtype=np.int32)
        p, q = np.empty((len(clicks) * n, rank), dtype), np.empty((len(self.items), rank), dtype)
        for rng, first, rows in zip(rngs, firsts, self.item_rows, strict=True):
            p[first : first + n] = init * rng.standard_normal((n, rank), np.float32).astype(dtype)
            q[rows] = init * rng.standard_normal((n_items, rank), np.float32).astype(dtype)
        self.start = Moving(p, 0 * p, 0 * p, q, 0 * q, 0 * q, np.zeros(len(p), np.int64))
        self.crew = Crew()

    def _lay_out(self, clicks: Sequence[Clicks], firsts: NDArray[np.int32]) -> None:
        """pieces, item_rows, and the clicks in the order of the rows of q: ends and by_item, as the kernels want."""
        cells, cuts = [], []
        for one, first in zip(clicks, firsts, strict=True):
            user, item, x, w = one.cells()
            order = np.argsort(item, kind="stable")
            ends = np.searchsorted(item[order], np.arange(one.n_items + 1)).astype(np.int64)
            cells.append((ends, user[order] + first, (w - 1)[order], (w * x)[order]))
            cost = ends + 4 * np.arange(len(ends))  # products of whole rows beside those of clicked cells
            cuts.append(np.unique(np.searchsorted(cost, np.linspace(0, cost[-1], PIECES + 1))))
        n_cuts, row = max(len(own) for own in cuts), 0
        columns = [[slice(a, b) for a, b in pairwise(np.pad(own, (0, n_cuts - len(own)), "edge"))] for own in cuts]
        self.pieces: list[Piece] = []
        self.item_rows = [np.empty(one.n_items, np.int64) for one in clicks]
        for share in zip(*columns, strict=True):
            parts = []
            for rows, items in zip(self.item_rows, share, strict=True):
                parts.append(slice(row, row + items.stop - items.start))
                rows[items] = np.arange(parts[-1].start, parts[-1].stop)
                row = parts[-1].stop
            self.pieces.append(Piece(slice(parts[0].start, row), tuple(parts), share))
        laid = [(own, items) for piece in self.pieces for own, items in zip(cells, piece.columns, strict=True)]
        counts = [np.diff(own[0])[items] for own, items in laid]
        self.ends = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
        self.by_item = tuple(
            np.concatenate([own[k][own[0][items.start] : own[0][items.stop]] for own, items in laid]) for k in (1, 2, 3)
        )

    def clicked(self, piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.int32], Array, Array]:
        """Clicks on some items, as the kernels want them."""
        users, excess, pull = self.by_item
        return self.ends[piece.rows.start : piece.rows.stop + 1], users, excess, pull

    def place(self, users: NDArray[np.int32]) -> NDArray[np.int32]:
        """Of every user, the row in the mini-batch, or -1."""
        place = np.full(len(self.clicks) * self.n_users, -1, np.int32)
        place[users] = np.arange(len(users), dtype=np.int32)
        return place

    def rows(self, users: NDArray[np.int32]) -> list[slice]:
        """The mini-batch in pieces."""
        n = len(self.clicks)
        return [slice(n * u.start, n * u.stop) for u in cut(len(users) // n)]

    def split(self, x: Array) -> Array:
        """A piece of a mini-batch, problem by problem: (n_problems, n, d)."""
        return x.reshape(len(self.clicks), -1, self.rank)

    def of_items(self, x: Array, y: Array) -> Array:
        """x' y of the items of every problem, (n_problems, d, d)."""

        def of_piece(i: Piece) -> Array:
            products = np.empty((len(i.parts), self.rank, self.rank), x.dtype)
            for product, j in zip(products, i.parts, strict=True):
                np.matmul(x[j].T, y[j], out=product)
            return products

        total: Array = self.crew.total(of_piece, self.pieces)
        return total

    def half_hessian(
        self, users: NDArray[np.int32], p: Array, q: Array, grams: tuple[Array, Array], a: Array, b: Array
    ) -> tuple[Array, Array]:
        """Half the Hessian of the loss of `users`, whose rows are p, times the direction (a, b), by p and by q."""
        place, rows, split = self.place(users), self.rows(users), self.split
        turn_q = self.of_items(b, q)
        turn_p = self.crew.total(lambda u: turned(split(a[u])) @ split(p[u]), rows)
        turn_q, turn_p, hq = turn_q + turned(turn_q), turn_p + turned(turn_p), np.empty_like(q)

        def of_items(i: Piece) -> Array:
            part = np.zeros_like(p)
            for j, gram, turn in zip(i.parts, grams[1], turn_p, strict=True):
                np.matmul(b[j], gram, out=hq[j])
                hq[j] += q[j] @ turn
            kernels.clicked_hessian(place, *self.clicked(i), p, q[i.rows], a, b[i.rows], part, hq[i.rows])
            return part

        def of_users(u: slice) -> None:
            hp[u] += (split(a[u]) @ grams[0] + split(p[u]) @ turn_q).reshape(-1, self.rank)

        hp: Array = self.crew.total(of_items, self.pieces)
        self.crew.each(of_users, rows)
        return hp, hq

    def forward(self, now: Moving, t: int, *, record: bool = False) -> Step | None:
        """Step t, in place; with `record`, what `backward` needs of it."""
        users, h, crew, split = self.batches[t], self.table[t], self.crew, self.split
        rows, place, since = self.rows(users), self.place(users), now.when[users]
        asleep = (now.p[users], now.mp[users], now.vp[users]) if record else None
        old = (now.q, now.mq, now.vq)
        if record:
            now.q, now.mq, now.vq = (np.empty_like(x) for x in old)
        q, gq, p = old[0], np.empty_like(now.q), np.empty((len(users), now.p.shape[1]), now.p.dtype)

        def wake(u: slice) -> Array:
            kernels.idle(users[u], now.p, now.mp, now.vp, now.when, t, self.table)
            p[u] = now.p[users[u]]
            gram: Array = turned(split(p[u])) @ split(p[u])
            return gram

        def move_items(i: Piece) -> Array:
            part = np.zeros_like(p)
            for j, gram in zip(i.parts, gram_p, strict=True):
                np.matmul(q[j], gram, out=gq[j])
            kernels.clicked_gradient(place, *self.clicked(i), p, q[i.rows], part, gq[i.rows])
            if record:
                now.q[i.rows], now.mq[i.rows], now.vq[i.rows] = (x[i.rows] for x in old)
            kernels.adam(self.items[i.rows], now.q, now.mq, now.vq, gq[i.rows], h)
            return part

        def move_users(u: slice) -> None:
            gp[u] += (split(p[u]) @ gram_q).reshape(-1, self.rank)
            kernels.adam(users[u], now.p, now.mp, now.vp, gp[u], h)

        gram_q, gram_p = self.of_items(q, q), crew.total(wake, rows)
        gp = crew.total(move_items, self.pieces)
        crew.each(move_users, rows)
        now.when[users] = t + 1
        if asleep is None:
            return None
        return Step(users, since, asleep, p, q, (gram_q, gram_p), gp, now.mp[users], now.vp[users], gq, now.mq, now.vq)

    def backward(self, step: Step, t: int, bar: Moving, cells: Sequence[Array]) -> None:
        """Turn the adjoint `bar` of the state after step t into that before it; add to the fake cells' own."""
        users, h, crew, rows = step.users, self.table[t], self.crew, self.rows(step.users)
        x, m, v = bar.p[users], bar.mp[users], bar.vp[users]
        a, b = np.empty_like(step.p), np.empty_like(step.q)
        fakes = []  # by problem, the rows of fake users in the mini-batch, and which they are
        for real in self.real_users:
            at = np.flatnonzero((users >= real.stop) & (users < real.start + self.n_users))
            fakes.append((at, users[at] - real.stop))

        def gradient_of_users(u: slice) -> None:
            kernels.adam_back(x[u], m[u], v[u], step.gp[u], step.mp[u], step.vp[u], h, self.tiny, a[u])

        def gradient_of_items(i: Piece) -> None:
            moved = (bar.q[i.rows], bar.mq[i.rows], bar.vq[i.rows])
            known = (step.gq[i.rows], step.mq[i.rows], step.vq[i.rows])
            kernels.adam_back(*moved, *known, h, self.tiny, b[i.rows])
            for own, (at, whose), j, items in zip(cells, fakes, i.parts, i.columns, strict=True):
                own[whose, items] += a[at] @ step.q[j].T + step.p[at] @ b[j].T

        def settle_items(i: Piece) -> None:
            bar.q[i.rows] += 2 * hq[i.rows]

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


def turned(x: Array) -> Array:
    """Each of several matrices transposed."""
    return x.swapaxes(1, 2)
