"""The attack's gradient done densely: every users x items matrix formed, every step of Adam kept by autograd."""

import numpy as np
import torch

from tastemaker.attack.bilevel_wmf import Training


def adam(params, grads, moments, t, learning_rate, decay):
    """One step of torch.optim.Adam, written out so that it can be differentiated."""
    new, kept = [], []
    for x, g, (m, v) in zip(params, grads, moments, strict=True):
        g = g + decay * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = torch.sqrt(v / (1 - 0.999**t))
        new.append(x - learning_rate / (1 - 0.9**t) * m / (root + 1e-8))
        kept.append((m, v))
    return new, kept


def adversarial(scores, targets):
    return -torch.log_softmax(scores, dim=1)[:, targets].mean(1).sum()


def wmf_gradient(model, clicks, targets, rng):
    """L_adv and its derivative by the fake clicks; the same mini-batches from the same start as `model.solve`."""
    run = Training(
        [clicks], rank=model.rank, epochs=model.epochs, batch=model.batch, learning_rate=model.learning_rate,
        decay=model.decay, init=model.init, rngs=[rng],
    )  # fmt: skip
    first = 0 if model.unroll is None else len(run.batches) - model.unroll * run.per_epoch
    n_real = clicks.n_real
    real = np.zeros((n_real, clicks.n_items), clicks.fakes.dtype)
    real[np.repeat(np.arange(n_real), np.diff(clicks.indptr)), clicks.items] = 1
    w = torch.from_numpy(np.concatenate([np.where(real > 0, clicks.weight, 1).astype(real.dtype), clicks.fake_weight]))
    real, x_fake = torch.from_numpy(real), torch.from_numpy(clicks.fakes).clone().requires_grad_()
    x = torch.cat([real, x_fake])
    params = [torch.from_numpy(run.start.p).requires_grad_(), torch.from_numpy(run.start.q).requires_grad_()]
    moments = [(torch.zeros_like(y), torch.zeros_like(y)) for y in params]
    for t, users in enumerate(run.batches):
        rows, unroll = torch.from_numpy(users).long(), t >= first
        loss = (w[rows] * ((x if unroll else x.detach())[rows] - params[0][rows] @ params[1].T) ** 2).sum()
        grads = torch.autograd.grad(loss, params, create_graph=unroll)
        params, moments = adam(params, grads, moments, t + 1, model.learning_rate, model.decay)
        if not unroll:
            params = [y.detach().requires_grad_() for y in params]
            moments = [(m.detach(), v.detach()) for m, v in moments]
    loss = adversarial(params[0][:n_real] @ params[1].T, torch.from_numpy(targets).long())
    return loss.item(), torch.autograd.grad(loss, x_fake)[0].numpy()
