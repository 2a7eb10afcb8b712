"""ItemAE and MultVAE: their documented losses cell by cell, what dislikes do, fold-in, the paper's settings."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from tastemaker.data import FeedbackLog, Vocabulary, synthetic
from tastemaker.errors import InvalidArgument
from tastemaker.recommend import ItemAE, MultVAE
from tastemaker.recommend.train import Params, Told


@pytest.fixture(scope="module")
def log() -> FeedbackLog:
    return synthetic.make(synthetic.tiny(), 5).log


def tensors(params: Params) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in params.items()}


def told_of(log: FeedbackLog) -> Told:
    return Told.of(log, np.arange(len(log)) % 3 + 1.0)


# -- ItemAE ------------------------------------------------------------------------------------------------------------


def test_item_loss_is_the_documented_one(log: FeedbackLog) -> None:
    told, model = told_of(log), ItemAE(batch=7, hidden=5, latent=3, like=20, dislike=4, decay=0.1)
    params = model.init(np.random.default_rng(0), told.likes.shape)
    net = told.likes.toarray() - told.dislikes.toarray()
    expected = 0.0
    for item in range(log.n_items):
        h = np.sign(net[:, item])
        for layer in range(4):
            h = h @ params[f"weight{layer}"] + params[f"bias{layer}"]
            h = np.tanh(h) if layer < 3 else h
        for user in range(log.n_users):
            x = net[user, item]
            c = 20 * x if x > 0 else -4 * x if x < 0 else 1
            expected += c * (np.sign(x) - h[user]) ** 2
    batches = list(model.batches(told, np.random.default_rng(1), 0))
    penalty = sum((x.astype(np.float64) ** 2).sum() for x in params.values())
    total = sum(model.loss(tensors(params), [torch.tensor(x).double()], torch.tensor(c)).item() for (x,), c in batches)
    assert total == pytest.approx(expected + len(batches) * 0.1 / 2 * penalty, rel=1e-5)


def test_item_loss_has_derivatives_by_the_data(log: FeedbackLog) -> None:
    """What an attack differentiates: cells are an input of the network, and a step of training has a derivative."""
    told, model = told_of(log), ItemAE(batch=8, hidden=4, latent=3)
    params = tensors(model.init(np.random.default_rng(0), told.likes.shape))
    (x,), c = next(model.batches(told, np.random.default_rng(1), 0))
    cells = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    names = list(params)
    slope = torch.autograd.grad(
        model.loss(params, [cells], torch.tensor(c)), [params[n] for n in names], create_graph=True
    )
    stepped = {name: params[name] - 1e-3 * g for name, g in zip(names, slope, strict=True)}
    (by_cells,) = torch.autograd.grad(model.loss(stepped, [cells.detach()], torch.tensor(c)), cells)
    assert by_cells.abs().max() > 0


def test_item_scores_are_the_output_of_the_network(log: FeedbackLog) -> None:
    told, model = told_of(log), ItemAE(epochs=2, batch=16, hidden=6, latent=3, device="cpu")
    params = model.init(np.random.default_rng(0), told.likes.shape)
    fitted = model.with_state(model._finish(log, told, params))
    h = np.sign(told.likes.toarray() - told.dislikes.toarray()).T
    for layer in range(4):
        h = h @ params[f"weight{layer}"] + params[f"bias{layer}"]
        h = np.tanh(h) if layer < 3 else h
    users, items = np.divmod(np.arange(log.n_users * log.n_items), log.n_items)
    assert_allclose(fitted.score(users, items).reshape(log.n_users, -1), h.T, atol=1e-5)


def test_item_fold_in_solves_the_last_layer(log: FeedbackLog) -> None:
    """No small change of the new user's weights lowers their weighted squared error and penalty."""
    model = ItemAE(epochs=20, batch=16, learning_rate=0.01, hidden=6, latent=3, decay=0, device="cpu").fit(log, rng=0)
    new = FeedbackLog(
        log.events.filter(log.events["user"] == 2).with_columns(user=40).cast({"user": log.events["user"].dtype}),
        Vocabulary.range(41), log.item_ids,
    )  # fmt: skip
    state = model.fold_in(new).fitted
    x, c = np.zeros(log.n_items), np.ones(log.n_items)
    x[new.item], c[new.item] = new.value, np.where(new.value > 0, 20, 5)

    def objective(row: np.ndarray) -> float:
        residual = x - (state.items @ row[:-1] + row[-1])
        return float((c * residual**2).sum() + 1e-3 * (row**2).sum())

    row = np.append(state.users[40], state.user_bias[40]).astype(np.float64)
    rng = np.random.default_rng(0)
    assert all(objective(row + 0.05 * rng.standard_normal(len(row))) > objective(row) for _ in range(50))


def test_item_dislikes_end_below_unseen_below_likes(log: FeedbackLog) -> None:
    model = ItemAE(epochs=150, batch=16, learning_rate=0.01, hidden=16, latent=8, device="cpu").fit(log, rng=0)
    scores = model._score_rows(model.fitted, np.arange(log.n_users, dtype=np.int32))
    said = np.zeros(scores.shape)
    said[log.user, log.item] = log.value
    assert scores[said < 0].mean() < scores[said == 0].mean() < scores[said > 0].mean()


# -- MultVAE -----------------------------------------------------------------------------------------------------------


def test_multinomial_loss_is_the_documented_one(log: FeedbackLog) -> None:
    told, model = told_of(log), MultVAE(batch=9, hidden=5, latent=3, dropout=0.0, beta=0.4, anneal=10, decay=0.1)
    params = model.init(np.random.default_rng(0), told.likes.shape)
    (x, noise, beta), weight = list(model.batches(told, np.random.default_rng(1), 3))[1]
    assert beta == pytest.approx(0.4 * 4 / 10)
    assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
    assert_array_equal(x > 0, weight > 0)
    p = {name: value.astype(np.float64) for name, value in params.items()}
    expected = 0.05 * sum((value**2).sum() for value in p.values())
    for clicks, z, w in zip(x, noise, weight, strict=True):
        both = np.tanh(clicks @ p["weight0"] + p["bias0"]) @ p["weight1"] + p["bias1"]
        mu, sigma = both[:3], np.exp(both[3:] / 2)
        logits = np.tanh((mu + sigma * z) @ p["weight2"] + p["bias2"]) @ p["weight3"] + p["bias3"]
        log_pi = logits - np.log(np.exp(logits).sum())
        kl = sum(0.5 * (s**2 + m**2 - 1) - np.log(s) for m, s in zip(mu, sigma, strict=True))
        expected += (beta * kl - (w * log_pi).sum()) / len(x)
    batch = [torch.tensor(part, dtype=torch.float64) for part in (x, noise, beta)]
    assert model.loss(tensors(params), batch, torch.tensor(weight)).item() == pytest.approx(expected, rel=1e-5)


def test_dropout_and_annealing(log: FeedbackLog) -> None:
    told, model = told_of(log), MultVAE(batch=40, hidden=5, latent=3, dropout=0.5, beta=0.4, anneal=10)
    (x, _, beta), weight = next(model.batches(told, np.random.default_rng(1), 10_000))
    assert beta == pytest.approx(0.4)
    kept = (x > 0).sum() / (weight > 0).sum()
    assert 0.4 < kept < 0.6
    assert x.max() <= 2.0  # kept clicks make up for hidden ones


def test_per_click_gives_everybody_the_same_mass(log: FeedbackLog) -> None:
    _, weight = next(MultVAE.victim().batches(told_of(log), np.random.default_rng(1), 0))
    assert_allclose(weight.sum(axis=1), 1, rtol=1e-5)


def test_dislikes_count_as_not_clicked(log: FeedbackLog) -> None:
    model = MultVAE(epochs=3, hidden=8, latent=3, device="cpu")
    with_them, without = model.fit(log, rng=0).fitted, model.fit(log.select(log.value > 0), rng=0).fitted
    for name in ("weight0", "bias3"):
        assert_array_equal(getattr(with_them, name), getattr(without, name))


def test_a_new_history_goes_through_the_encoder(log: FeedbackLog) -> None:
    """Same likes, same scores: exactly those of the old user."""
    model = MultVAE(epochs=5, hidden=8, latent=3, device="cpu").fit(log, rng=0)
    new = log.events.filter(log.events["user"] == 2).with_columns(user=40).cast({"user": log.events["user"].dtype})
    folded = model.fold_in(FeedbackLog(new, Vocabulary.range(41), log.item_ids))
    items = np.arange(log.n_items)
    assert_allclose(folded.score(np.full(60, 40), items), model.score(np.full(60, 2), items), rtol=1e-5, atol=1e-6)


def test_settings_of_the_attack_paper() -> None:
    ae, vae = ItemAE.victim(), MultVAE.victim()
    assert (ae.hidden, ae.latent, ae.like, ae.decay, ae.batch, ae.epochs) == (256, 128, 20, 1e-6, 2048, 50)
    assert (vae.hidden, vae.latent, vae.beta, vae.anneal, vae.batch, vae.epochs) == (512, 256, 1, 10_000, 1024, 70)
    assert vae.per_click


def test_bad_options(log: FeedbackLog) -> None:
    for model in (ItemAE(hidden=0), ItemAE(like=-1.0), ItemAE(decay=-1.0), MultVAE(latent=0), MultVAE(dropout=1.0)):
        with pytest.raises(InvalidArgument, match="expected"):
            model.fit(log)
    with pytest.raises(InvalidArgument, match="expected"):
        MultVAE(beta=-0.1).fit(log)
