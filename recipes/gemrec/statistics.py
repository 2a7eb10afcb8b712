"""What the grid of 200 models and 90 prompts says about itself

- Variance of the pictures' vectors around their grand mean, split into prompt, model and what is left (model and prompt
  together, and the luck of the seed: there is one picture a cell).
- Identification: which model drew this picture of an *unseen* prompt? Nearest mean deviation (cosine) over the other
  prompts, where a deviation is the picture less the mean over the models.
- Distinctiveness (mean norm_mcos of a model) by two random halves of the prompts: Spearman's correlation, 50 splits.
- The fixtures of mCos, and facts of the roster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from recipes.gemrec.grid import Grid, read
from tastemaker.choose.signature import deviations, pictures, signatures

Floats = NDArray[np.float64]

PUBLISHED = {
    "variance.prompt": 0.455, "variance.model": 0.066, "variance.left": 0.479,
    "identify.top1": 0.188, "identify.top5": 0.399, "identify.mrr": 0.298,
    "distinct.split_half": 0.943, "mcos.mean": 0.73366, "mcos.min": 0.26700, "mcos.max": 0.91792,
}  # fmt: skip
NAMES = {
    "variance.prompt": "variance between prompts",
    "variance.model": "variance between models",
    "variance.left": "variance left",
    "identify.top1": "model identified, first guess",
    "identify.top5": "model among the first five",
    "identify.mrr": "mean reciprocal rank",
    "distinct.split_half": "distinctiveness, two halves",
    "mcos.mean": "mCos, mean",
    "mcos.min": "mCos, least",
    "mcos.max": "mCos, most",
    "signature.consistency": "consistency of a signature, median",
    "signature.strength": "strength of a signature, median",
    "text.right_prompt_nearest": "pictures nearest to their own prompt",
}


def measure(data: Path, seed: int, quick: bool) -> dict[str, float]:
    """Figures as in `NAMES`, and models, prompts, groups, visible."""
    grid = read(data)
    vectors = pictures(grid.book).astype(np.float64)
    assert grid.book.texts is not None
    signature = signatures(grid.book)
    mcos = grid.scores["mcos_score"].to_numpy()
    nearest = (vectors @ grid.book.texts.T.astype(np.float64)).argmax(2)
    return {
        "models": len(grid.book.models),
        "prompts": len(grid.book.prompts),
        "groups": len(grid.book.prompts.groups("seed")[1]),
        **variance(vectors),
        **identification(vectors),
        "distinct.split_half": split_half(grid, 10 if quick else 50, seed),
        "mcos.mean": float(mcos.mean()),
        "mcos.min": float(mcos.min()),
        "mcos.max": float(mcos.max()),
        "signature.consistency": float(np.median(signature.consistency)),
        "signature.strength": float(np.median(signature.strength)),
        "text.right_prompt_nearest": float((nearest == np.arange(len(nearest))[:, None]).mean()),
    }


def variance(vectors: Floats) -> dict[str, float]:
    """Shares of the squared distance to the grand mean, for a complete grid (n_prompts, n_models, dim)."""
    grand = vectors.mean((0, 1))
    total = ((vectors - grand) ** 2).sum(2).mean()
    prompt = ((vectors.mean(1) - grand) ** 2).sum(1).mean() / total
    model = ((vectors.mean(0) - grand) ** 2).sum(1).mean() / total
    return {
        "variance.prompt": float(prompt),
        "variance.model": float(model),
        "variance.left": float(1 - prompt - model),
    }


def identification(vectors: Floats) -> dict[str, float]:
    """Rank of the true model for each picture by the cosine with mean deviations over the other prompts."""
    deviation, _ = deviations(vectors)
    total, n = deviation.sum(0), len(deviation)
    ranks = []
    for own in deviation:
        rest = (total - own) / (n - 1)
        cosine = _unit(own) @ _unit(rest).T
        ranks.append((cosine > np.diag(cosine)[:, None]).sum(1) + 1)
    rank = np.concatenate(ranks)
    return {
        "identify.top1": float((rank == 1).mean()),
        "identify.top5": float((rank <= 5).mean()),
        "identify.mrr": float((1 / rank).mean()),
    }


def split_half(grid: Grid, splits: int, seed: int) -> float:
    """Mean Spearman correlation of the models' mean norm_mcos over two halves of the prompts."""
    values = grid.values("norm_mcos")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        order = rng.permutation(len(values))
        one, other = (values[half].mean(0) for half in np.array_split(order, 2))
        found.append(spearmanr(one, other).statistic)
    return float(np.mean(found))


def table(figures: Mapping[str, float]) -> str:
    """Markdown."""
    lines = [
        f"{figures['models']:.0f} models, {figures['prompts']:.0f} prompts in {figures['groups']:.0f} groups.",
        "",
        "| figure | here | reference |",
        "|---|---|---|",
    ]
    for name, title in NAMES.items():
        reference = f"{PUBLISHED[name]:.3f}" if name in PUBLISHED else ""
        lines.append(f"| {title} | {figures[name]:.3f} | {reference} |")
    return "\n".join(lines)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
