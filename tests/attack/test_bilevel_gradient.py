"""Gradients against finite differences, against dense autograd, and against the formulas they approximate."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from scipy import sparse

from tastemaker.attack.bilevel_als import ALS
from tastemaker.attack.bilevel_loss import Adversary
from tastemaker.attack.bilevel_threads import cut, one_blas_thread
from tastemaker.attack.bilevel_wmf import WMF, Training
from tastemaker.attack.clicks import Clicks
from tastemaker.errors import InvalidArgument, UnknownName

torch = pytest.importorskip("torch")
from tastemaker.attack.bilevel_autoencoder import ItemAutoencoder  # noqa: E402
from tests.attack import dense  # noqa: E402

TARGETS = np.array([3, 17], np.int32)


def world(dtype=np.float64, n_users=30, n_items=20, n_fakes=4):
    rng = np.random.default_rng(0)
    real = (rng.random((n_users, n_items)) < 0.2).astype(dtype)
    fakes = (rng.random((n_fakes, n_items)) < 0.2).astype(dtype)
    real[5] = 0  # somebody without a click counts all the same
    return Clicks.build(sparse.csr_matrix(real), fakes, 20.0)


def gradient(surrogate, clicks, mode="exact", targets=TARGETS):
    return surrogate.solve(clicks, Adversary(targets, clicks, 5), mode, np.random.default_rng(1))[1]


def loss_of(surrogate, clicks, fakes):
    moved = dataclasses.replace(clicks, fakes=fakes)  # the weights stay as they were
    return surrogate.solve(moved, Adversary(TARGETS, moved, 5), None, np.random.default_rng(1))[0].loss


EXACT = {
    "wmf": WMF(rank=4, epochs=3, unroll=None, batch=9, learning_rate=0.05),
    "wmf whole batch": WMF(rank=5, epochs=6, unroll=None, batch=None, learning_rate=0.1, decay=0.3, init=0.5),
    "wmf without decay": WMF(rank=3, epochs=2, unroll=None, batch=10, learning_rate=0.05, decay=0.0),
    "als": ALS(rank=4, alternations=3),
    "item autoencoder": ItemAutoencoder(layers=(6, 4), epochs=2, unroll=None, batch=8, learning_rate=0.01),
    "item autoencoder, selu": ItemAutoencoder((5,), "selu", epochs=3, unroll=None, batch=None, learning_rate=0.01),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_gradient_is_the_directional_derivative(name):
    surrogate, clicks = EXACT[name], world()
    way = np.random.default_rng(2).standard_normal(clicks.fakes.shape)
    step = 1e-7  # as small as this: selu has a kink
    high, low = (loss_of(surrogate, clicks, clicks.fakes + sign * step * way) for sign in (1, -1))
    assert (high - low) / (2 * step) == pytest.approx((gradient(surrogate, clicks) * way).sum(), rel=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-6), (np.float32, 1e-4)])
@pytest.mark.parametrize(("batch", "unroll"), [(16, None), (16, 3), (None, 6), (7, 1)])
def test_sparse_training_equals_dense_autograd(dtype, error, batch, unroll):
    clicks = world(dtype, 60, 40, 6)
    model = WMF(rank=8, epochs=8, unroll=unroll, batch=batch, learning_rate=0.05)
    loss, expected = dense.wmf_gradient(model, clicks, TARGETS, np.random.default_rng(1))
    judged, got = model.solve(clicks, Adversary(TARGETS, clicks), "exact", np.random.default_rng(1))
    assert judged.loss == pytest.approx(loss, rel=error)
    assert got.dtype == dtype
    assert np.linalg.norm(got - expected) < error * np.linalg.norm(expected)


def test_truncated_is_the_last_epoch():
    clicks = world()
    model = WMF(rank=4, epochs=5, unroll=None, batch=9, learning_rate=0.05)
    expected = gradient(dataclasses.replace(model, unroll=1), clicks)
    assert np.array_equal(gradient(model, clicks, "truncated"), expected)


def test_implicit_gradient_at_a_stationary_point():
    """Differences of a re-solved optimum; the Hessian is singular along rotations, the right side is not in them."""
    clicks = world()
    model = WMF(rank=2, epochs=3000, batch=None, learning_rate=0.01, decay=20.0, damping=0.0, iterations=300)
    way = np.random.default_rng(2).standard_normal(clicks.fakes.shape)
    high, low = (loss_of(model, clicks, clicks.fakes + sign * 1e-4 * way) for sign in (1, -1))
    got = (gradient(model, clicks, "implicit") * way).sum()
    assert (high - low) / 2e-4 == pytest.approx(got, rel=1e-2)


def test_implicit_points_where_unrolling_does_once_trained():
    clicks = world(np.float64, 60, 40, 6)
    model = WMF(rank=2, epochs=1500, unroll=None, batch=None, learning_rate=0.01, decay=20.0, damping=0.0)
    one, other = gradient(model, clicks, "implicit"), gradient(model, clicks)
    assert (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other) > 0.9


def test_without_positive_curvature_there_is_no_implicit_gradient():
    """Where nothing holds the factors yet, clicks make the Hessian indefinite; enough damping makes it definite."""
    model = WMF(rank=8, epochs=1, batch=None, learning_rate=1e-8, init=1e-8, damping=0.0)
    with pytest.raises(InvalidArgument, match=r"not positive definite, .* raise damping"):
        gradient(model, world(), "implicit")
    assert gradient(dataclasses.replace(model, damping=1e4), world(), "implicit").any()


def test_partial_derivative_is_zero_for_factors_and_not_for_an_autoencoder():
    clicks = world()
    assert not gradient(EXACT["wmf"], clicks, "partial").any()
    assert not gradient(EXACT["als"], clicks, "partial").any()
    assert np.abs(gradient(EXACT["item autoencoder"], clicks, "partial")).max() > 1e-6


def test_last_solve_is_the_published_formula():
    """q = (P'CP + reg)^-1 P'Cx with C and P constant, by autograd."""
    clicks, model = world(), ALS(rank=3, alternations=2)
    half_trained = dataclasses.replace(clicks, fakes=clicks.fakes.copy())
    seen = {}

    class Spy(Adversary):
        def judge(self, users, items):
            seen["q"] = items
            return super().judge(users, items)

    got = model.solve(half_trained, Spy(TARGETS, clicks), "last_solve", np.random.default_rng(1))[1]
    from tastemaker.attack.bilevel_als import _Half

    q = model.init * np.random.default_rng(1).standard_normal((clicks.n_items, 3), np.float32).astype(float)
    by_user = _Half.build(clicks, model.reg)
    for _ in range(model.alternations):
        p = by_user.forward(q)
        q = by_user.transposed().forward(p)
    assert np.allclose(q, seen["q"])
    p, fakes = torch.from_numpy(p), torch.from_numpy(clicks.fakes).requires_grad_()
    real = torch.zeros(clicks.n_real, clicks.n_items, dtype=p.dtype)
    real[np.repeat(np.arange(clicks.n_real), np.diff(clicks.indptr)), clicks.items] = 1
    x = torch.cat([real, fakes])
    w = torch.cat([1 + 19 * real, torch.from_numpy(clicks.fake_weight)])
    solved = [
        torch.linalg.solve((p.T * w[:, v]) @ p + model.reg * torch.eye(3, dtype=p.dtype), (p.T * w[:, v]) @ x[:, v])
        for v in range(clicks.n_items)
    ]
    loss = dense.adversarial(p[: clicks.n_real] @ torch.stack(solved).T, torch.from_numpy(TARGETS).long())
    expected = torch.autograd.grad(loss, fakes)[0].numpy()
    assert np.allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_autoencoder_loss_equals_the_sum_over_all_cells():
    from tastemaker.attack.bilevel_autoencoder import _Net

    clicks = world()
    net = _Net(EXACT["item autoencoder"], clicks, 1)
    params = net.start(np.random.default_rng(0))[0]
    items = np.array([2, 9, 4])
    hidden, *_ = net.hidden(params, items)
    full = np.zeros((clicks.n_users, clicks.n_items))
    full[np.repeat(np.arange(clicks.n_real), np.diff(clicks.indptr)), clicks.items] = 1
    full[clicks.n_real :] = clicks.fakes
    x = torch.from_numpy(full[:, items].T)
    by_hand = x
    for weight, bias in zip(params[0:-1:2], params[1:-1:2], strict=True):
        by_hand = torch.tanh(by_hand @ weight + bias)
    assert torch.allclose(hidden[:, :-1], by_hand)
    expected = (torch.where(x > 0, 20.0, 1.0) * (x - by_hand @ params[-1][:, :-1].T - params[-1][:, -1]) ** 2).sum()
    assert net.loss(params, items).item() == pytest.approx(expected.item(), rel=1e-10)


def test_rows_move_as_if_everybody_took_every_step():
    """A user outside the mini-batch moves by momentum and decay: torch's own Adam on the dense loss agrees."""
    clicks = world(np.float64, 25, 15, 3)
    run = Training(
        [clicks], rank=4, epochs=3, batch=6, learning_rate=0.05, decay=0.1, init=0.3, rngs=[np.random.default_rng(0)]
    )
    start = run.start.copy()
    params = [torch.from_numpy(x.copy()).requires_grad_() for x in (start.p, start.q)]
    adam = torch.optim.Adam(params, lr=0.05, weight_decay=0.1)
    user, item, value, weight = clicks.cells()
    x, w = np.zeros((28, 15)), np.ones((28, 15))
    x[user, item], w[user, item] = value, weight
    for t, users in enumerate(run.batches):
        run.forward(run.start, t)
        adam.zero_grad()
        error = torch.from_numpy(x[users]) - params[0][torch.from_numpy(users).long()] @ params[1].T
        (torch.from_numpy(w[users]) * error**2).sum().backward()
        adam.step()
    last = run.batches[-1]
    assert np.allclose(run.start.q, params[1].detach(), rtol=1e-9)
    assert np.allclose(run.start.p[last], params[0].detach()[torch.from_numpy(last).long()], rtol=1e-9)


def test_threads_change_nothing(monkeypatch):
    clicks, results = world(np.float32, 60, 40, 6), []
    for cores in ({0}, {0, 1, 2}):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        results.append(gradient(WMF(rank=8, epochs=8, unroll=4, batch=16), clicks))
    assert np.array_equal(*results)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 10])
def test_pieces_cover_all_rows_in_order(n):
    assert [row for piece in cut(n) for row in range(n)[piece]] == list(range(n))


def test_blas_has_one_thread_meanwhile_and_its_own_again_after():
    def threads():
        return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(2, "blas"):
        before = threads()
        with one_blas_thread():
            assert set(threads()) == {1}
        assert threads() == before


def test_memory_grows_with_the_root_of_the_steps():
    clicks = world(np.float32, 400, 300, 8)
    peaks = []
    for epochs in (25, 100):
        model = WMF(rank=16, epochs=epochs, unroll=None, batch=None)
        gradient(dataclasses.replace(model, epochs=1), clicks)
        tracemalloc.start()
        gradient(model, clicks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.3 * peaks[0]  # four times the steps


def test_memory_of_the_implicit_gradient_does_not_grow_with_the_steps():
    clicks = world(np.float32, 400, 300, 8)
    peaks = []
    for epochs in (25, 100):
        model = WMF(rank=16, epochs=epochs, batch=None)
        gradient(dataclasses.replace(model, epochs=1), clicks, "implicit")
        tracemalloc.start()
        gradient(model, clicks, "implicit")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


AUTOENCODER_PEAKS = """
import sys
import numpy as np
from bench.output import peak_memory
from tastemaker.attack.bilevel_autoencoder import ItemAutoencoder
from tastemaker.attack.bilevel_loss import Adversary
from tests.attack.test_bilevel_gradient import world

clicks = world(np.float32, 3000, 40, 2)
for epochs in (1, 25, 100):  # the first has everything loaded and compiled
    model = ItemAutoencoder((64,), epochs=epochs, unroll=None, batch=None)
    model.solve(clicks, Adversary(np.array([3], np.int32), clicks), "exact", np.random.default_rng(0))
    print(peak_memory())
"""


def test_memory_of_the_autoencoder_grows_with_the_root_of_the_steps():
    """Torch's memory is known to the operating system alone, and its peak never falls: a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", AUTOENCODER_PEAKS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    start, few, many = (float(line) for line in done.stdout.split())
    assert few - start > 20  # a state is 4.7 MB: ten of them, and what the steps need
    assert many - start < 3 * (few - start)  # four times the steps; 2.2 times when it was written


@pytest.mark.parametrize("surrogate", [WMF(), ALS(), ItemAutoencoder()], ids=lambda s: type(s).__name__)
def test_a_gradient_the_surrogate_lacks(surrogate):
    lacking = "implicit" if not isinstance(surrogate, WMF) else "last_solve"
    with pytest.raises(UnknownName, match=lacking):
        gradient(surrogate, world(), lacking)


@pytest.mark.parametrize(
    "build",
    [
        lambda: WMF(rank=0),
        lambda: WMF(unroll=0),
        lambda: WMF(learning_rate=float("nan")),
        lambda: WMF(learning_rate=float("inf")),
        lambda: WMF(rank=2.5),
        lambda: WMF(epochs=True),
        lambda: WMF(decay=float("nan")),
        lambda: WMF(decay=-1e-5),
        lambda: WMF(damping=-1.0),
        lambda: WMF(damping=float("inf")),
        lambda: ItemAutoencoder(decay=-1.0),
        lambda: ItemAutoencoder(weight=float("inf")),
        lambda: ALS(reg=0.0),
        lambda: ALS(alternations=-1),
        lambda: ItemAutoencoder(layers=()),
        lambda: ItemAutoencoder(batch=0),
    ],
)
def test_settings_that_cannot_be(build):
    with pytest.raises(InvalidArgument, match="expected"):
        build()


def test_an_unknown_activation():
    with pytest.raises(UnknownName, match="did you mean 'tanh'"):
        ItemAutoencoder(activation="tan")
