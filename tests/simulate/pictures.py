"""A promptbook whose vectors are drawn, not embedded: subjects, styles and a remainder, some drawings failed."""

from __future__ import annotations

import numpy as np
import polars as pl

from tastemaker.data.catalog import Catalog
from tastemaker.data.promptbook import Promptbook
from tastemaker.simulate.pictures import invented_makers

FAILED = 3  # row of a picture that shows nothing of its prompt


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def book(n_prompts: int = 8, n_models: int = 6, dim: int = 24, seed: int = 0) -> Promptbook:
    """Each picture's vector: its prompt's text, its model's style, and something of its own."""
    rng = np.random.default_rng(seed)
    texts, styles = unit(rng.standard_normal((n_prompts, dim))), unit(rng.standard_normal((n_models, dim)))
    at, by = np.divmod(np.arange(n_prompts * n_models), n_models)
    own = unit(rng.standard_normal((len(at), dim)))
    seen = texts[at] + styles[by] + 0.5 * own
    seen[FAILED] = styles[by[FAILED]] - 0.5 * texts[at[FAILED]] + 0.5 * own[FAILED]
    prompts, models = [f"prompt {p}" for p in range(n_prompts)], [f"model {m}" for m in range(n_models)]
    makers = invented_makers(models).rename({"model": "id"})
    cells = {
        "prompt": [prompts[p] for p in at],
        "model": [models[m] for m in by],
        "seed": [0] * len(at),
        "picture": [f"model {m}/prompt {p}.png" for p, m in zip(at, by, strict=True)],
    }
    texts_table = pl.DataFrame({"id": prompts, "text": prompts})
    return Promptbook(Catalog(makers), Catalog(texts_table), pl.DataFrame(cells), unit(seen), texts)
