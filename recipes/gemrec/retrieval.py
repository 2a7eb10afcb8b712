"""Which model for a prompt that nobody has drawn yet

Ten folds over the 80 groups of prompts (a prompt and its rewrite share a seed and stay together). A predictor sees the
pictures and scores of the other prompts and orders all 200 models for each held-out prompt by its text alone. Settings
are chosen by cross-validation inside the training folds (`predictor.Chosen`), never on a held-out prompt.

Two targets, each standardised within the prompt: the clip score, and the paper's total (1.0 accuracy, 0.8
distinctiveness, 0.2 popularity). Figures are means over the 90 prompts with 95 % bootstrap intervals over prompts:

- NDCG@10 with the target as gain, min-max within the prompt: the worst model of 200 is worth 0 and the best 1, so a
  random order already reaches 0.67 on the clip score.
- Recall@10: share of the ten truly best among the ten offered first; 0.05 at random.
- Regret: best model's target less that of the model offered first, in standard deviations over models.
- Kendall's tau between the two orders of all models.
- gain: NDCG@10 less that of the global mean, with the interval of the paired difference.

"Twin" is no predictor but a yardstick: for the 20 prompts that come in pairs (original and rewrite, same seed) it
offers the order that was *measured* on the other one. "Ceiling" is what a predictor would reach that knew each
prompt's expected quality exactly, if the twins' covariance is all the quality there is and the rest luck of the seed;
it is computed from a Gaussian model and is a rough guide, since each cell was drawn with one seed only.

Models left out: ten folds over models instead; the predictor never saw the held-out models and knows their words only
(name, tags, base). They are ordered among themselves, on held-out prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from recipes.gemrec.grid import Grid, read
from tastemaker.choose.predictor import (
    Bilinear,
    Chosen,
    Examples,
    Mean,
    Nearest,
    Popular,
    Predictor,
    Ridge,
    Styled,
    folds,
    standardised,
)
from tastemaker.choose.signature import signatures
from tastemaker.choose.two_tower import TwoTower
from tastemaker.evaluate.compare import ratio_bounds

Floats = NDArray[np.float64]

TARGETS = ("clip", "total")
METRICS = ("ndcg", "recall", "regret", "tau")
TITLES = {
    "random": "Random",
    "popular": "Popularity",
    "mean": "Global mean",
    "nearest": "Nearest prompts",
    "ridge": "Ridge on the text",
    "bilinear": "Low rank",
    "two_tower": "Two towers",
    "styled": "Signatures (ours)",
    "together": "Signatures and low rank (ours)",
}
K = 10


def predictors(grid: Grid, quick: bool, seed: int) -> dict[str, Predictor]:
    """Each with the settings among which the training folds choose."""
    penalties = (2.0,) if quick else (1.0, 2.0, 4.0, 8.0)
    inner = 4

    def chosen(*among: Predictor) -> Predictor:
        return among[0] if len(among) == 1 else Chosen(among, inner, seed)

    found: dict[str, Predictor] = {
        "popular": Popular(grid.book.models),
        "mean": Mean(),
        "nearest": chosen(*(Nearest(h) for h in ((20.0,) if quick else (5.0, 10.0, 20.0, 40.0)))),
        "ridge": chosen(*(Ridge(p) for p in penalties)),
        "bilinear": chosen(*(Bilinear(r, p) for r in ((4,) if quick else (1, 2, 4, 8)) for p in penalties[:3])),
        "styled": Styled()
        if quick
        else chosen(*(Styled(p, lean, curved) for p in (4.0, 8.0) for lean in (0.0, 0.2) for curved in (0.0, 1.0))),
    }
    if not quick:
        found["two_tower"] = chosen(*(TwoTower(decay=d, rng=seed) for d in (0.03, 0.1, 0.3)))
    return found


def measure(data: Path, seed: int, quick: bool) -> dict[str, float]:
    """Figures named TARGET.PREDICTOR.METRIC, with .low and .high for intervals; models_out.… for models left out."""
    grid = read(data)
    figures: dict[str, float] = {}
    for target in TARGETS:
        examples = grid.examples(target)
        found = held_out(examples, predictors(grid, quick, seed), seed)
        found["together"] = (found["styled"] + found["bilinear"]) / 2  # what `Together` of both predicts
        found["random"] = np.random.default_rng(seed).random(examples.quality.shape)
        judged = {name: judge(scores, examples.quality) for name, scores in found.items()}
        draws = 200 if quick else 2000
        for name, values in judged.items():
            figures |= {f"{target}.{name}.{key}": v for key, v in intervals(values, draws, seed).items()}
            gain = {"gain": values["ndcg"] - judged["mean"]["ndcg"]}
            figures |= {f"{target}.{name}.{key}": v for key, v in intervals(gain, draws, seed).items()}
        figures |= {f"{target}.{key}": value for key, value in yardsticks(examples, found["together"], seed).items()}
    figures |= {f"models_out.{key}": value for key, value in models_left_out(grid, seed).items()}
    return figures


def held_out(examples: Examples, among: Mapping[str, Predictor], seed: int, n: int = 10) -> dict[str, Floats]:
    """Predicted quality of every cell by a predictor that saw nothing of the prompt's group."""
    found = {name: np.empty(examples.quality.shape) for name in among}
    for test in folds(examples.groups, n, seed):
        train = examples.part(~test)
        for name, predictor in among.items():
            found[name][test] = predictor.fit(train).predict(examples.texts[test])
    return found


def judge(scores: Floats, quality: Floats, k: int = K) -> dict[str, Floats]:
    """Each metric for each prompt, shape (n_prompts,); `quality` as standardised."""
    y = standardised(quality)
    low, high = y.min(1, keepdims=True), y.max(1, keepdims=True)
    gain, discount = (y - low) / (high - low), 1 / np.log2(np.arange(k) + 2.0)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.argsort(-y, axis=1, kind="stable")[:, :k]
    reached, possible = (np.take_along_axis(gain, at, 1) @ discount for at in (first, best))
    recall = [np.isin(one, other).mean() for one, other in zip(first, best, strict=True)]
    tau = [float(kendalltau(one, other).statistic) for one, other in zip(scores, y, strict=True)]
    regret = high[:, 0] - np.take_along_axis(y, first[:, :1], 1)[:, 0]
    return {
        "ndcg": reached / possible,
        "recall": np.array(recall),
        "regret": regret,
        "tau": np.nan_to_num(np.array(tau)),
    }


def intervals(values: Mapping[str, Floats], draws: int, seed: int) -> dict[str, float]:
    """Mean of each, with .low and .high of its 95 % bootstrap interval."""
    table = np.column_stack(list(values.values()))
    mean, low, high = ratio_bounds(table, np.ones_like(table), level=0.95, draws=draws, rng=seed)
    parts = zip(values, mean, low, high, strict=True)
    return {key: float(v) for name, m, lo, hi in parts for key, v in zip(_keys(name), (m, lo, hi), strict=True)}


def _keys(name: str) -> tuple[str, str, str]:
    return name, f"{name}.low", f"{name}.high"


def yardsticks(examples: Examples, ours: Floats, seed: int) -> dict[str, float]:
    """Twins and the ceiling; see the module's text."""
    names, counts = np.unique(examples.groups, return_counts=True)
    pairs = [np.flatnonzero(examples.groups == name) for name in names[counts == 2]]
    if not pairs:
        return {}
    one, other = np.array(pairs).T
    y = standardised(examples.quality)
    at = np.r_[one, other]
    twin, own = judge(y[np.r_[other, one]], y[at]), judge(ours[at], y[at])
    signal = float((y[one] * y[other]).mean())
    rng = np.random.default_rng(seed)
    known = rng.standard_normal((400, y.shape[1])) * np.sqrt(max(signal, 0))
    perfect = judge(known, known + rng.standard_normal(known.shape) * np.sqrt(1 - signal))
    return {
        **{f"twin.{name}": float(twin[name].mean()) for name in METRICS},
        **{f"ours_on_twins.{name}": float(own[name].mean()) for name in METRICS},
        "ceiling.signal": signal,
        **{f"ceiling.{name}": float(perfect[name].mean()) for name in METRICS},
    }


def models_left_out(grid: Grid, seed: int, n: int = 10) -> dict[str, float]:
    """Correlation, over prompts and folds, of predicted and real clip score among models nobody has tried; and how near
    guessed signatures are to real ones (mean cosine)."""
    examples = grid.examples("clip")
    ids = grid.book.models.ids
    kind = np.random.default_rng(seed).permutation(len(ids)) % n
    prompts = folds(examples.groups, 2, seed)
    values: dict[str, list[float]] = {"words": [], "popular": [], "signature": []}
    downloads = np.log10(grid.book.models.column("downloads").to_numpy() + 1.0)
    assert examples.pictures is not None
    for fold in range(n):
        new = kind == fold
        for test in prompts:
            fitted = Styled().fit(examples.part(~test, ~new)).cold(grid.book.models)
            y = standardised(examples.quality[test][:, new])
            predicted = fitted.predict(examples.texts[test])[:, new]
            values["words"].append(float((standardised(predicted) * y).mean()))
            values["popular"].append(float((standardised(downloads[new][None]) * y).mean()))
    real = signatures(grid.book)
    for fold in range(n):
        new = kind == fold
        part = signatures(grid.book.only(models=ids.ids(np.flatnonzero(~new))))
        centre = part.vectors.mean(0)
        guessed = part.cold(grid.book.models).vectors[new] - centre
        own = real.vectors[new] - centre
        cosine = (guessed * own).sum(1) / np.maximum(
            np.linalg.norm(guessed, axis=1) * np.linalg.norm(own, axis=1), 1e-12
        )
        values["signature"].append(float(cosine.mean()))
    return {f"{name}.correlation": float(np.mean(each)) for name, each in values.items()}


def table(figures: Mapping[str, float]) -> str:
    """Markdown."""
    lines = []
    for target in TARGETS:
        lines += [f"### Target: {'clip score' if target == 'clip' else 'the total of the paper'}", ""]
        lines += [
            "| predictor | NDCG@10 | gain over the global mean | Recall@10 | regret | tau |",
            "|---|---|---|---|---|---|",
        ]
        for name, title in TITLES.items():
            if f"{target}.{name}.ndcg" in figures:
                shown = (_interval(figures, f"{target}.{name}.{metric}") for metric in ("ndcg", "gain", *METRICS[1:]))
                lines.append(f"| {title} | " + " | ".join(shown) + " |")
        for name, title in (
            ("twin", "Twin's measured order (20 prompts)"),
            ("ours_on_twins", "Ours, same 20 prompts"),
            (
                "ceiling",
                f"Ceiling, if {figures.get(f'{target}.ceiling.signal', np.nan):.0%} of the variance is quality",
            ),
        ):
            if f"{target}.{name}.ndcg" in figures:
                f = [figures[f"{target}.{name}.{metric}"] for metric in METRICS]
                lines.append(f"| {title} | {f[0]:.3f} | | {f[1]:.3f} | {f[2]:.2f} | {f[3]:.3f} |")
        lines.append("")
    lines += ["### Models nobody has tried", "", "| known of them | correlation with the real one |", "|---|---|"]
    for name, title in (
        ("words", "clip score from words"),
        ("popular", "clip score from downloads"),
        ("signature", "signature from words (cosine, less the mean)"),
    ):
        lines.append(f"| {title} | {figures[f'models_out.{name}.correlation']:.3f} |")
    return "\n".join(lines)


def _interval(figures: Mapping[str, float], name: str) -> str:
    digits = 2 if name.endswith("regret") else 3
    low, high = figures[f"{name}.low"], figures[f"{name}.high"]
    return f"{figures[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
