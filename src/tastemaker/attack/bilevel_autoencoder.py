"""Surrogate: item autoencoder, and the exact gradient through its training (needs torch).

Tang, Wen, Wang 2020 ("ItemAE"). A row is an item: everybody's click on it, fake users last. Encoder with an activation
on every layer, mirrored decoder with linear output; weighted squared error over all cells, Adam on mini-batches of
items. Fake clicks act twice, as input and as what is to be reproduced, so even with the weights held fixed the scores
depend on them: that *partial* derivative alone is the shortcut the paper warns of.

As in matrix factorisation the sum over all cells of the linear output (H, 1) (W, b)' is a trace of two Gram matrices,
so only the columns of fake users are ever dense. The way back keeps a state at about sqrt(steps) places and runs the
steps between again. Adam and its adjoint are those of `bilevel_kernels`; what a step back needs of the network is the
Hessian times a direction, which autograd gives by differentiating twice, one step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tastemaker.attack import bilevel_kernels as kernels
from tastemaker.attack.bilevel_loss import Adversary, Judged, Mode, Solved, known, positive, whole
from tastemaker.attack.clicks import Clicks
from tastemaker.errors import InvalidArgument, MissingExtra, UnknownName

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise MissingExtra("torch", "torch") from error

Array = NDArray[Any]
Activation = Literal["tanh", "selu"]
Tensors = list[Tensor]
State = tuple[Tensors, Tensors, Tensors]  # weights and biases by layer, their first moments, their second


@dataclass(frozen=True)
class ItemAutoencoder:
    """Item autoencoder by Adam; the defaults are the paper's.

    Attributes:
        layers: widths of the encoder; the decoder mirrors them.
        activation: 'tanh', or 'selu' as in the paper's synthetic experiment.
        weight: of a clicked cell; the others have weight 1.
        epochs: of training.
        unroll: how many of the last epochs are differentiated; None for all.
        batch: items in a mini-batch; None for all at once.
        learning_rate, decay: of Adam; decay is added to the gradient.
    """

    layers: Sequence[int] = (256, 128)
    activation: Activation = "tanh"
    weight: float = 20.0
    epochs: int = 50
    unroll: int | None = 5
    batch: int | None = 2048
    learning_rate: float = 1e-3
    decay: float = 1e-6

    modes: ClassVar[tuple[Mode, ...]] = ("exact", "truncated", "partial")

    def __post_init__(self) -> None:
        whole(self, "epochs", "unroll", "batch")
        positive(self, "weight", "learning_rate")
        positive(self, "decay", or_zero=True)
        if self.activation not in get_args(Activation):
            raise UnknownName("activation", self.activation, get_args(Activation))
        if not self.layers or min(self.layers) < 1:
            raise InvalidArgument(f"layers={self.layers}; expected at least one width above 0")

    def solve(self, clicks: Clicks, adversary: Adversary, mode: Mode | None, rng: np.random.Generator) -> Solved:
        """Train; how the result is judged, and d L_adv / d fakes (n_fakes, n_items), None without a mode.

        'exact': through the last `unroll` epochs; 'truncated': through the last one only; 'partial': with the weights
        held fixed.
        """
        known(self, mode)
        n, size = clicks.n_items, min(self.batch or clicks.n_items, clicks.n_items)
        orders = [rng.permutation(n) for _ in range(self.epochs)]
        batches = [order[k : k + size] for order in orders for k in range(0, n, size)]
        net = _Net(self, clicks, len(batches))
        state = net.start(rng)
        epochs = {"exact": self.unroll or self.epochs, "truncated": 1}.get(mode or "", 0)
        first = max(0, len(batches) - epochs * ceil(n / size))
        every = max(1, ceil(sqrt(len(batches) - first)))
        stored: dict[int, State] = {}
        for t, items in enumerate(batches):
            if t < first:
                net.step(state, t, items)
                continue
            if (t - first) % every == 0:
                stored[t] = state
            state, _ = net.forward(state, t, items)
        judged, bar, cells = net.judge(state[0], adversary, size, mode is not None)
        if mode is None:
            return judged, None
        for start in reversed(list(stored)):
            state, steps = stored.pop(start), []
            for t in range(start, min(start + every, len(batches))):
                after, grads = net.forward(state, t, batches[t])
                steps.append((state[0], grads, after))
                state = after
            while steps:
                params, grads, after = steps.pop()
                t = start + len(steps)
                cells += net.backward(params, grads, after, t, batches[t], bar)
        return judged, cells.numpy()


@dataclass(frozen=True)
class _Pattern:
    """Cells by row (CSR): row r owns ends[r] up to ends[r + 1] of `columns`."""

    ends: Array
    columns: Array
    n_columns: int


class _Products(torch.autograd.Function):
    """a_row . b_column of every cell, (nnz,). Its derivatives are `_Sums`, whose own are these again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, cells: _Pattern) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.cells = cells
        arrays = (x.detach().contiguous().numpy() for x in (a, b))
        return torch.from_numpy(kernels.inner_products(cells.ends, cells.columns, *arrays))

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return sums(bar, b, ctx.cells, False), sums(bar, a, ctx.cells, True), None


class _Sums(torch.autograd.Function):
    """Sum over each row's cells of value x_column; `turned`: over each column's cells of value x_row."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, cells: _Pattern, turned: bool) -> Tensor:
        ctx.save_for_backward(value, x)
        ctx.cells, ctx.turned = cells, turned
        n_rows = cells.n_columns if turned else len(cells.ends) - 1
        total = torch.zeros(n_rows, x.shape[1], dtype=x.dtype)
        add = kernels.weighted_columns if turned else kernels.weighted_rows
        arrays = (y.detach().contiguous().numpy() for y in (value, x, total))
        add(cells.ends, cells.columns, *arrays)
        return total

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        value, x = ctx.saved_tensors
        pair = (x, bar) if ctx.turned else (bar, x)
        into_value = products(*pair, ctx.cells) if ctx.needs_input_grad[0] else None
        return into_value, sums(value, bar, ctx.cells, not ctx.turned), None, None


class _Gram(torch.autograd.Function):
    """x' x. The way back takes one product of matrices, where that of `x.T @ x` takes two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.T @ x

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        width = x.shape[1]
        both = torch.nn.functional.pad(bar + bar.T, (0, -width % 8))  # odd widths take half as long again
        return (x @ both)[:, :width]


gram: Any = _Gram.apply
products: Any = _Products.apply
sums: Any = _Sums.apply


class _Net:
    """The network on one set of clicks: pure functions of a state."""

    def __init__(self, model: ItemAutoencoder, clicks: Clicks, steps: int) -> None:
        self.model, self.clicks = model, clicks
        self.table = kernels.schedule(steps, model.learning_rate, model.decay, clicks.fakes.dtype)
        self.fakes = torch.from_numpy(clicks.fakes).clone().requires_grad_()
        self.fake_weight = torch.from_numpy(clicks.fake_weight)
        users = np.repeat(np.arange(clicks.n_real), np.diff(clicks.indptr))
        order = np.argsort(clicks.items, kind="stable")
        self.users, self.ends = users[order], np.searchsorted(clicks.items[order], np.arange(clicks.n_items + 1))
        widths = [clicks.n_users, *model.layers]
        self.widths = [*widths, *widths[-2::-1]]

    def start(self, rng: np.random.Generator) -> State:
        """Uniform within 1 / sqrt(width of the input); moments zero.

        Layer by layer (inputs, outputs) and (outputs,), but the last as one matrix (n_users, inputs + 1) with its bias.
        """
        params = []
        for layer, (inputs, outputs) in enumerate(pairwise(self.widths), start=2):
            last = layer == len(self.widths)
            for shape in ((outputs, inputs + 1),) if last else ((inputs, outputs), (outputs,)):
                drawn = (2 * rng.random(shape, np.float32) - 1) / np.float32(sqrt(inputs))
                params.append(torch.from_numpy(drawn).to(self.fakes.dtype))
        return params, [torch.zeros_like(x) for x in params], [torch.zeros_like(x) for x in params]

    def hidden(self, params: Tensors, items: Array) -> tuple[Tensor, _Pattern]:
        """The last hidden layer of `items`, with a constant 1 appended; where their real clicks are."""
        counts = self.ends[items + 1] - self.ends[items]
        ends = np.concatenate([[0], np.cumsum(counts)])
        cell = np.arange(ends[-1]) + np.repeat(self.ends[items] - ends[:-1], counts)
        clicked = _Pattern(ends, self.users[cell], self.clicks.n_real)
        weights, n_real = params[0], self.clicks.n_real
        ones = torch.ones(len(cell), dtype=weights.dtype)
        x: Tensor = sums(ones, weights[:n_real], clicked, False)
        x = self.activate(x + self.fakes[:, torch.from_numpy(items)].T @ weights[n_real:] + params[1])
        for weight, bias in zip(params[2:-1:2], params[3:-1:2], strict=True):
            x = self.activate(x @ weight + bias)
        return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1), clicked

    def activate(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if self.model.activation == "tanh" else torch.nn.functional.selu(x)

    def loss(self, params: Tensors, items: Array) -> Tensor:
        hidden, clicked = self.hidden(params, items)
        n_real, w = self.clicks.n_real, self.model.weight
        real, fake = params[-1][:n_real], params[-1][n_real:]
        scores = products(hidden, real, clicked)
        everywhere = (gram(hidden) * gram(real)).sum()
        clicks = ((w - 1) * scores**2 - 2 * w * scores + w).sum()
        index = torch.from_numpy(items)
        error = self.fakes[:, index] - fake @ hidden.T
        total: Tensor = everywhere + clicks + (self.fake_weight[:, index] * error**2).sum()
        return total

    def forward(self, state: State, t: int, items: Array) -> tuple[State, Tensors]:
        """One step of Adam: a new state, and the gradient it took, decay included."""
        params, first, second = ([x.clone() for x in part] for part in state)
        after = params, first, second
        return after, self.step(after, t, items)

    def step(self, state: State, t: int, items: Array) -> Tensors:
        """The same in place; the gradient."""
        params = [x.detach().requires_grad_() for x in state[0]]
        grads = list(torch.autograd.grad(self.loss(params, items) / 2, params))  # half of it, as the kernel wants
        for arrays in zip(*state, grads, strict=True):
            x, m, v, g = (_rows(array) for array in arrays)
            kernels.adam(np.arange(len(x)), x, m, v, g, self.table[t])
        return grads

    def backward(self, params: Tensors, grads: Tensors, after: State, t: int, items: Array, bar: State) -> Tensor:
        """Turn the adjoint `bar` of the state after step t into that before it; the fake cells' share."""
        tiny, directions = self.clicks.fakes.dtype.type(1e-25), [torch.empty_like(x) for x in params]
        for arrays in zip(*bar, grads, after[1], after[2], directions, strict=True):
            *moved, back = (_rows(x) for x in arrays)
            kernels.adam_back(*moved, self.table[t], tiny, back)
        params = [x.detach().requires_grad_() for x in params]
        slopes = torch.autograd.grad(self.loss(params, items), params, create_graph=True)
        along = torch.stack([(slope * way).sum() for slope, way in zip(slopes, directions, strict=True)]).sum()
        *into, cells = torch.autograd.grad(along, [*params, self.fakes])
        for total, part in zip(bar[0], into, strict=True):
            total += part
        return cells

    def judge(self, params: Tensors, adversary: Adversary, size: int, back: bool) -> tuple[Judged, State, Tensor]:
        """How the final scores are judged; the adjoint of the state, and the fake cells' direct share."""
        n_real, n_items = self.clicks.n_real, self.clicks.n_items
        blocks = [np.arange(k, min(k + size, n_items)) for k in range(0, n_items, size)]
        with torch.no_grad():
            items = torch.cat([self.hidden(params, block)[0] for block in blocks]).numpy()
            users = params[-1][:n_real].numpy()
        judged = adversary.judge(users, items)
        bar = tuple([torch.zeros_like(x) for x in params] for _ in range(3))
        cells = torch.zeros_like(self.fakes)
        if back:
            inputs = [*(x.detach().requires_grad_() for x in params[:-1]), self.fakes]
            for block in blocks:
                hidden = self.hidden([*inputs[:-1], params[-1]], block)[0]
                *into, direct = torch.autograd.grad(hidden, inputs, torch.from_numpy(judged.items[block]))
                cells += direct
                for total, part in zip(bar[0], into, strict=False):
                    total += part
            bar[0][-1][:n_real] = torch.from_numpy(judged.users)
        return judged, (bar[0], bar[1], bar[2]), cells


def _rows(x: Tensor) -> Array:
    """The numbers of a tensor as a matrix, in the same memory."""
    array: Array = x.detach().numpy()
    return array if array.ndim == 2 else array[None]
