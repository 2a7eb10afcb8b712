"""Two towers: a small network for the prompt, a learned row for each model; the usual neural answer, for comparison.

    b_m + f(t) . v_m,   f(t) = W2 tanh(W1 (t - mean t) * sqrt(dim))

Trained on all cells at once by Adam with weight decay. With tens of prompts it can learn little that a ridge does not;
it is here to be compared with, and for grids of thousands of prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tastemaker.choose.predictor import Examples, Fitted, Floats, means
from tastemaker.errors import InvalidArgument, MissingExtra


@dataclass(frozen=True)
class TwoTower:
    """Settings of the network; the same `rng` gives the same result on a CPU."""

    width: int = 64
    rank: int = 16
    epochs: int = 200
    step: float = 0.01
    decay: float = 0.03
    rng: int = 0

    def fit(self, examples: Examples) -> Fitted:
        """Raises MissingExtra without torch."""
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("torch", "torch") from error
        if min(self.width, self.rank, self.epochs) < 1:
            raise InvalidArgument(f"width={self.width}, rank={self.rank}, epochs={self.epochs}; expected 1 or more")
        general, spread, rest = means(examples)
        centre, dim = examples.texts.mean(0), examples.texts.shape[1]
        generator = torch.Generator().manual_seed(self.rng)
        shapes = ((dim, self.width), (self.width, self.rank), (self.rank, len(general)))
        w = [(torch.randn(shape, generator=generator) / shape[0] ** 0.5).requires_grad_() for shape in shapes]
        x = torch.tensor((examples.texts - centre) * dim**0.5, dtype=torch.float32)
        y = torch.tensor(rest, dtype=torch.float32)
        there = torch.tensor(np.isfinite(examples.quality), dtype=torch.float32)
        adam = torch.optim.AdamW(w, lr=self.step, weight_decay=self.decay / self.step)
        for _ in range(self.epochs):
            adam.zero_grad()
            loss = (there * (y - torch.tanh(x @ w[0]) @ w[1] @ w[2]) ** 2).sum() / there.sum()
            loss.backward()
            adam.step()
        first, second, models = (one.detach().numpy().astype(np.float64) for one in w)

        def query(t: Floats) -> Floats:
            return np.column_stack([np.ones(len(t)), np.tanh((t - centre) * dim**0.5 @ first) @ second])

        rows = np.column_stack([general, models.T])
        return Fitted(examples.models, dim, query, rows, general, spread, np.zeros(len(general), np.bool_))
