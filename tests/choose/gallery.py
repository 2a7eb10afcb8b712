"""A small planted grid: prompts and pictures in one space, models with a style, and who draws what well."""

from __future__ import annotations

import numpy as np
import polars as pl

from tastemaker.choose.predictor import Examples
from tastemaker.data.catalog import Catalog
from tastemaker.data.promptbook import Promptbook

DIM = 24


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def book(n_prompts=30, n_models=20, *, rng=0, noise=0.2):
    """Pictures near their prompt, moved by the model's style; models of one kind share tags and lean one way."""
    r = np.random.default_rng(rng)
    texts = unit(r.normal(size=(n_prompts, DIM)))
    kinds = r.normal(size=(4, DIM))
    kind = np.arange(n_models) % 4
    style = 0.8 * unit(kinds[kind] + 0.3 * r.normal(size=(n_models, DIM)))
    pictures = unit(texts[:, None] + style + noise * r.normal(size=(n_prompts, n_models, DIM)))
    ids = np.arange(n_models) * 10 + 7
    models = Catalog(
        pl.DataFrame(
            {
                "id": ids,
                "name": [f"model {i}" for i in range(n_models)],
                "base": ["old" if i % 3 else "new" for i in range(n_models)],
                "tags": [[f"kind{k}", "nsfw"] if i == 3 else [f"kind{k}"] for i, k in enumerate(kind)],
                "downloads": r.integers(0, 10_000, n_models),
            }
        )
    )
    prompts = Catalog(pl.DataFrame({"id": np.arange(n_prompts), "text": [f"prompt {i}" for i in range(n_prompts)]}))
    p, m = np.divmod(np.arange(n_prompts * n_models), n_models)
    picture = [f"{a}/{b}" for a, b in zip(p, m, strict=True)]
    cells = pl.DataFrame({"prompt": p, "model": ids[m], "seed": p, "picture": picture})
    return Promptbook(models, prompts, cells, pictures.reshape(-1, DIM).astype("f4"), texts.astype("f4"))


def examples(planted, *, rng=0, noise=0.2):
    """Quality: some models are good, and a model is good for texts that lie in its style."""
    r = np.random.default_rng(rng)
    n, m = len(planted.prompts), len(planted.models)
    pictures = planted.pictures.reshape(n, m, DIM).astype(float)
    style = (pictures - pictures.mean(1, keepdims=True)).mean(0)
    quality = r.normal(size=m) * 0.3 + 3 * planted.texts @ style.T + noise * r.normal(size=(n, m))
    return Examples(planted.models.ids, planted.texts.astype(float), quality, np.arange(n) // 2, pictures)
