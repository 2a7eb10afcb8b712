"""The networks behind `debias.sequence`: what a platform probably shows next, given what a person has rated so far.

`Chooser` is our default, `Variational` the published model (Pan et al. 2021, arXiv 2109.06037). Both know nothing of
single people: everything about somebody comes from their history, so people never seen in training need no refit.

Shapes: B people, T steps, N items, C of them in one chunk, d dimensions. Step k of a person has k events behind it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Encoder = Literal["gru", "transformer", "none"]
CELLS = 1 << 23  # cells of steps x items held at once: 32 MB of float32


class Chooser(nn.Module):
    """Logits from popularity, an item-based recommender, and a state of the history.

        logit_k(i) = b_i + level * sigmoid(steep * (z_k(i) - cut)) + <o_i, h_k>

    z_k(i) is the score an item-based recommender would give: the mean of the ratings so far, each weighted by how much
    its item resembles i (softmax over the history), standardised over all items of the step. The sigmoid is the list
    such a platform shows: being high on it matters, how high does not. Only h_k, from the encoder, knows order.

    The candidates are the queries, so the softmax over the history is a ratio of two running sums over steps, and all
    steps together cost what the last one would.
    """

    def __init__(self, n_items: int, dim: int, encoder: Encoder, dropout: float, exclude: bool, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.dim, self.encoder, self.dropout, self.exclude = dim, encoder, dropout, exclude
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.like = nn.Parameter(torch.randn(n_items, dim, generator=draw) / dim**0.5)
        self.level = nn.Parameter(torch.tensor(0.5))  # of the logarithm, as `steep`
        self.cut = nn.Parameter(torch.tensor(1.0))
        self.steep = nn.Parameter(torch.tensor(1.2))
        self.rating = nn.Parameter(torch.tensor([1.0, 0.0]))
        if encoder != "none":
            self.out = nn.Parameter(torch.zeros(n_items, dim))
            self.start = nn.Parameter(torch.zeros(dim))
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator only
            torch.manual_seed(seed)
            if encoder != "none":
                self.enter = nn.Linear(dim + 1, dim)
            if encoder == "gru":
                self.gru = nn.GRU(dim, dim, batch_first=True)
            elif encoder == "transformer":
                layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout, batch_first=True, norm_first=True)
                self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(
        self, item: Tensor, value: Tensor, sample: Tensor | None = None, cells: int = CELLS
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of the item of each step, and the rating it was expected to get, both (B, T).

        Args:
            item, value: (B, T); padding behind the end of a history is any item, its results are meaningless.
            sample: (C,) distinct items drawn uniformly, to estimate the sum over items from; None takes all items.
            cells: with all items, hold at most so many cells of steps x items; the gradient recomputes its chunks.
        """
        keys, state = self.like[item], self.state(item, value)
        own = self.own_score(keys, value)
        n_items, (n_people, n_steps) = len(self.bias), item.shape
        first = first_steps(item, n_items) if self.exclude else None
        rows = torch.arange(n_items, device=item.device) if sample is None else sample
        step = len(rows) if sample is not None else max(1, cells // (n_people * n_steps))
        parts = torch.split(rows, step)
        if len(parts) == 1:
            score = self.scores(keys, value, rows)
            mean, spread = moments(score.sum(-1), score.square().sum(-1), len(rows))
            logits = self.logits(score, mean, spread, state, rows)
            logits = hide(logits, first, rows, item if sample is not None else None)
            total = logits.logsumexp(-1)
        else:
            sums = [checkpoint(self.part_moments, keys, value, part, use_reentrant=False) for part in parts]
            mean, spread = moments(sum(s for s, _ in sums), sum(q for _, q in sums), len(rows))
            total = torch.stack([
                checkpoint(self.part_total, keys, value, part, mean, spread, state, first, use_reentrant=False)
                for part in parts
            ]).logsumexp(0)  # fmt: skip
        chosen = self.bias[item] + self.lift(own, mean, spread)
        if state is not None:
            chosen = chosen + (state * self.out[item]).sum(-1)
        if sample is not None:  # the sample stands for all others than the item itself
            total = torch.logaddexp(chosen, total + math.log(n_items / len(rows)))
        return chosen - total, own * self.rating[0] + self.rating[1]

    def every_item(self, item: Tensor, value: Tensor) -> Tensor:
        """Log-probability of all items at each step, (B, T, N)."""
        rows = torch.arange(len(self.bias), device=item.device)
        score = self.scores(self.like[item], value, rows)
        mean, spread = moments(score.sum(-1), score.square().sum(-1), len(rows))
        logits = self.logits(score, mean, spread, self.state(item, value), rows)
        return hide(logits, first_steps(item, len(rows)) if self.exclude else None, rows, None).log_softmax(-1)

    # -- the item-based recommender ------------------------------------------------------------------------------------

    def scores(self, keys: Tensor, value: Tensor, rows: Tensor) -> Tensor:
        """Similarity-weighted mean rating of the events before each step, (B, T, C); 0 before the first."""
        weight = similarity(keys @ self.like[rows].T)
        return before(weight * value[..., None]) / before(weight).clamp_min(1e-30)

    def own_score(self, keys: Tensor, value: Tensor) -> Tensor:
        """The same for the item of each step alone, (B, T)."""
        weight = similarity(keys @ keys.transpose(1, 2)).tril(-1)
        return (weight @ value[..., None])[..., 0] / weight.sum(-1).clamp_min(1e-30)

    def lift(self, score: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        return self.level.exp() * torch.sigmoid(self.steep.exp() * ((score - mean) / spread - self.cut))

    def logits(self, score: Tensor, mean: Tensor, spread: Tensor, state: Tensor | None, rows: Tensor) -> Tensor:
        logits = self.bias[rows] + self.lift(score, mean[..., None], spread[..., None])
        return logits if state is None else logits + state @ self.out[rows].T

    def part_moments(self, keys: Tensor, value: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        score = self.scores(keys, value, rows)
        return score.sum(-1), score.square().sum(-1)

    def part_total(
        self, keys: Tensor, value: Tensor, rows: Tensor, mean: Tensor, spread: Tensor, state: Tensor | None,
        first: Tensor | None,
    ) -> Tensor:  # fmt: skip
        logits = self.logits(self.scores(keys, value, rows), mean, spread, state, rows)
        return hide(logits, first, rows, None).logsumexp(-1)

    # -- the state of the history --------------------------------------------------------------------------------------

    def state(self, item: Tensor, value: Tensor) -> Tensor | None:
        """What the events before each step amount to, (B, T, d); None without an encoder."""
        if self.encoder == "none":
            return None
        entered = self.enter(torch.cat([self.like[item], value[..., None]], -1))
        entered = torch.cat([self.start.expand(len(item), 1, -1), entered[:, :-1]], 1)
        if self.encoder == "gru":
            hidden: Tensor = self.gru(entered)[0]
        else:
            steps = item.shape[1]
            ahead = torch.ones(steps, steps, dtype=torch.bool, device=item.device).triu(1)
            hidden = self.layers(entered + positions(steps, self.dim).to(entered), mask=ahead)
        return F.dropout(hidden, self.dropout, self.training)


def similarity(product: Tensor) -> Tensor:
    """Positive weight; bounded, for running sums cannot subtract their maximum."""
    return product.clamp(-15, 15).exp()


def before(x: Tensor) -> Tensor:
    """Sums over the earlier steps, (B, T, C); a product is several times faster than a running sum where T is small."""
    steps = x.shape[1]
    if steps <= 128:
        return x.new_ones(steps, steps).tril(-1) @ x
    return F.pad(x.cumsum(1)[:, :-1], (0, 0, 1, 0))


def moments(total: Tensor, squares: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation; a step where all items score alike keeps them alike."""
    mean = total / n
    return mean, ((squares / n - mean.square()).clamp_min(0) + 1e-4).sqrt()


def first_steps(item: Tensor, n_items: int) -> Tensor:
    """Step at which each item is first rated, (B, N); T where it never is."""
    n_people, n_steps = item.shape
    at = torch.arange(n_steps, device=item.device).expand(n_people, -1)
    return at.new_full((n_people, n_items), n_steps).scatter_reduce(1, item, at, "amin")


def hide(logits: Tensor, first: Tensor | None, rows: Tensor, chosen: Tensor | None) -> Tensor:
    """Logits (B, T, C) with -inf for items rated before, and for the item of the step itself where it is given."""
    hidden = torch.zeros((), dtype=torch.bool, device=logits.device)
    if first is not None:
        hidden = first[:, rows][:, None] < torch.arange(logits.shape[1], device=logits.device)[:, None]
    if chosen is not None:
        hidden = hidden | (chosen[..., None] == rows)
    return logits.masked_fill(hidden, -math.inf)


def positions(steps: int, dim: int) -> Tensor:
    """Sines and cosines of the step, (T, d)."""
    pace = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angle = torch.arange(steps)[:, None] * pace
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(steps, -1)[:, :dim]


class Variational(nn.Module):
    """The published model, constants and quirks included (spec B3, B9).

    A static code v of the person, a GRU over the history, and a dynamic code u_k with a prior, from the history, and a
    posterior, which sees the item it is to explain. Quirks: the rating map of v's mean also shapes its variance (the
    map meant for that is never used), the likelihood is averaged over steps but the KL summed, rated items stay in the
    softmax.
    """

    DIM = 32

    def __init__(self, log_popularity: Tensor, seed: int) -> None:
        super().__init__()
        d, n = self.DIM, len(log_popularity)
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=draw) * std)

        self.e_mu, self.e_sig, self.e_p, self.e_q = (normal(n + 1, d, std=1 / 32) for _ in range(4))
        self.w_mu, self.w_sig, self.w_p = normal(d, std=1 / 32), normal(d, std=1 / 32), normal(d, std=1.0)
        self.p_mu, self.q_mu = nn.Parameter(torch.eye(d)), nn.Parameter(torch.eye(d, 3 * d))
        self.p_sig, self.q_sig = normal(d, d, std=1 / 32), normal(d, 3 * d, std=1 / 96)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.gru = nn.GRU(2 * d, d, batch_first=True)
            self.out = nn.Linear(2 * d, n)
        self.out.weight = normal(n, 2 * d, std=1 / 64)
        self.register_buffer("popular", log_popularity)
        self.popular: Tensor

    def person(self, item: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the static code given these events, (T,) -> (d,) each."""
        rated = value[:, None] * self.w_mu
        return (self.e_mu[item] + rated).mean(0), (self.e_sig[item] + rated).exp().mean(0)

    def person_so_far(self, item: Tensor, value: Tensor) -> Tensor:
        """Mean of the static code given the events before each step, (T, d); 0, the prior, before the first."""
        before = (self.e_mu[item] + value[:, None] * self.w_mu).cumsum(0)[:-1]
        return F.pad(before / torch.arange(1, len(item), device=item.device)[:, None], (0, 0, 1, 0))

    def histories(self, item: Tensor, value: Tensor) -> Tensor:
        """Hidden states h_1 = 0, ..., h_{T+1}, (T + 1, d)."""
        seen = torch.cat([self.e_p[item], value[:, None] * self.w_p], 1)
        return F.pad(self.gru(seen[None])[0][0], (0, 0, 1, 0))

    def log_probability(self, u: Tensor, v: Tensor) -> Tensor:
        """Over all items, (T, N), from codes (T, d) and (d,) or (T, d)."""
        logits: Tensor = self.out(torch.cat([u, v.expand_as(u)], 1)) + self.popular
        return logits.log_softmax(1)

    def loss(self, item: Tensor, value: Tensor, kl_weight: float, noise: torch.Generator | None) -> Tensor:
        """Of one person; without `noise` codes are their means."""
        mu_v, var_v = self.person(item, value)
        v = draw_normal(mu_v, var_v, noise)
        h = self.histories(item, value)[:-1]
        z = torch.cat([h, self.e_q[item], v.expand_as(h)], 1)
        mu_q, var_q = z @ self.q_mu.T, (z @ self.q_sig.T).exp()
        mu_p, var_p = h @ self.p_mu.T, (h @ self.p_sig.T).exp()
        u = draw_normal(mu_q, var_q, noise)
        fit = F.nll_loss(self.log_probability(u, v), item)
        kl_u = gaussian_kl(mu_q, var_q, mu_p, var_p)
        return fit + kl_weight * (kl_u + gaussian_kl(mu_v, var_v, mu_v.new_zeros(()), mu_v.new_ones(())))

    def observed(self, item: Tensor, value: Tensor, smoothing: bool) -> Tensor:
        """Log-probability of the item of each step, (T,): smoothing with posterior, else filtering with prior means."""
        h = self.histories(item, value)[:-1]
        if smoothing:
            v = self.person(item, value)[0]
            u = torch.cat([h, self.e_q[item], v.expand_as(h)], 1) @ self.q_mu.T
        else:
            v, u = self.person_so_far(item, value), h @ self.p_mu.T
        return self.log_probability(u, v).gather(1, item[:, None])[:, 0]

    def next_items(self, item: Tensor, value: Tensor) -> Tensor:
        """Log-probability of every item after the whole history, (N,): the mode of validation."""
        u = self.histories(item, value)[-1:] @ self.p_mu.T
        return self.log_probability(u, self.person(item, value)[0])[0]


def draw_normal(mean: Tensor, variance: Tensor, noise: torch.Generator | None) -> Tensor:
    if noise is None:
        return mean
    return mean + variance.sqrt() * torch.randn(mean.shape, generator=noise, dtype=mean.dtype)


def gaussian_kl(mean: Tensor, variance: Tensor, to_mean: Tensor, to_variance: Tensor) -> Tensor:
    """KL of diagonal normals, summed over everything."""
    ratio = variance / to_variance
    return 0.5 * (ratio + (mean - to_mean).square() / to_variance - 1 - ratio.log()).sum()
