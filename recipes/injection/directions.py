"""How near an approximation's direction comes to the exact one, and to what any surrogate would say.

On the synthetic worlds above, before the first round: the fake users are the clicks of the first 100 people, and every
gradient is with respect to their cells, in float64. *Exact* goes through all 100 steps of the matrix factorisation.
Figures are cosines of directions, mean over fake users, since the loop makes every fake user's step one long; unrelated
directions in 300 items have a cosine of 0 ± 0.06. The first column is the exact direction through the same surrogate,
the second the mean of the exact ones through eight others, which is what a victim of yet another seed can be told.

- The published surrogate stops after 100 steps, not at a stationary point, which the implicit gradient takes for
  granted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.injection.keep import Keep, Numbers, Unit
from recipes.injection.synthetic import AUTOENCODER, BUDGET, DATA_SEEDS, SURROGATE
from tastemaker.attack import bilevel_als, bilevel_autoencoder, bilevel_kernels, bilevel_loss, bilevel_wmf, clicks
from tastemaker.attack.bilevel_als import ALS
from tastemaker.attack.bilevel_loss import Adversary, Mode, Surrogate
from tastemaker.attack.clicks import Clicks, real_clicks
from tastemaker.attack.synthetic import low_rank_clicks

CODE = (bilevel_als, bilevel_autoencoder, bilevel_kernels, bilevel_loss, bilevel_wmf, clicks)
SEEDS = 8  # surrogates in a mean
ALTERNATING = ALS(rank=16, init=1.0)


def ways() -> dict[str, tuple[str, Surrogate, Mode]]:
    """By name: label, surrogate, gradient. All from the seed of the exact one's surrogate."""
    return {
        "last_50": ("the last 50 of 100 steps", replace(SURROGATE, unroll=50), "exact"),
        "last_10": ("the last 10 of 100 steps", replace(SURROGATE, unroll=10), "exact"),
        "last_1": ("the last of 100 steps", replace(SURROGATE, unroll=1), "exact"),
        "implicit": ("implicit, after the 100 steps", SURROGATE, "implicit"),
        "implicit_1000": ("implicit, after 1,000 steps", replace(SURROGATE, epochs=1000), "implicit"),
        "als": ("ALS, all ten alternations", ALTERNATING, "exact"),
        "als_last": ("ALS, last solve", ALTERNATING, "last_solve"),
        "ae": ("item autoencoder, 100 of 100 steps", AUTOENCODER, "exact"),
        "ae_partial": ("item autoencoder, partial", AUTOENCODER, "partial"),
        "partial": ("partial", SURROGATE, "partial"),
    }


def normalised(cells: NDArray[Any]) -> NDArray[Any]:
    """Rows of length one; a row of zeros stays."""
    length: NDArray[Any] = np.linalg.norm(cells, axis=1, keepdims=True)
    rows: NDArray[Any] = np.divide(cells, length, out=np.zeros_like(cells), where=length > 0)
    return rows


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean over rows; a row of zeros has none, and counts as 0."""
    return float((normalised(a) * normalised(b)).sum(axis=1).mean())


def measure(data_seed: int, seed: int) -> Numbers:
    """Cosines with the exact direction through surrogate `seed` (.same), and with the mean of others' (.others)."""
    real = real_clicks(low_rank_clicks(np.random.default_rng(data_seed))[0])
    fakes = real[: BUDGET.users].toarray().astype(np.float64)

    def direction(surrogate: Surrogate, mode: Mode, number: int) -> NDArray[Any]:
        seen = Clicks.build(real, fakes, surrogate.weight)
        adversary = Adversary(np.zeros(1, np.int32), seen, k=10)
        _, cells = surrogate.solve(seen, adversary, mode, np.random.default_rng(number))
        assert cells is not None
        return cells

    def steps(*numbers: int) -> NDArray[Any]:
        """Mean of what the loop would step through surrogates of these seeds."""
        each = np.stack([normalised(direction(SURROGATE, "exact", number)) for number in numbers])
        cells: NDArray[Any] = each.mean(axis=0)
        return cells

    exact = direction(SURROGATE, "exact", seed)
    many, more = (steps(*range(seed + 1 + first, seed + 1 + first + SEEDS)) for first in (0, SEEDS))
    found = {"exact": exact, "other": direction(SURROGATE, "exact", seed + 2 * SEEDS + 1), "mean": more}
    found |= {name: direction(surrogate, mode, seed) for name, (_, surrogate, mode) in ways().items()}
    same = {f"{name}.same": cosine(cells, exact) for name, cells in found.items()}
    return same | {f"{name}.others": cosine(cells, many) for name, cells in found.items()}


def run(*, data: Path | None, quick: bool, seed: int, keep: Keep) -> tuple[Numbers, str]:
    """Figures, and the page's section."""
    if quick:
        return {}, "Left out with `--quick`."
    figures, seen = Numbers(), list[int]()
    for data_seed in DATA_SEEDS:
        settings = {"data": str(data_seed), "seed": str(seed), "ways": repr(ways()), "others": str(SEEDS)}
        unit = Unit("directions", f"data{data_seed}", "directions", settings, CODE)
        found = keep.numbers(unit, partial(measure, data_seed, seed)) or {}
        figures |= {f"data{data_seed}.{name}": value for name, value in found.items()}
        seen += [data_seed] * bool(found)
    if not seen:
        return {}, "Not run."
    labels = {"exact": "exact, this seed", "other": "exact, another seed", "mean": f"exact, mean of {SEEDS} more seeds"}
    labels |= {name: label for name, (label, *_) in ways().items()}
    worlds = ", ".join(map(str, seen))
    lines = [
        f"| direction; data of seed {worlds} | same surrogate's exact one | others' mean |",
        "| --- | ---: | ---: |",
    ]
    for name, label in labels.items():
        cells = [[figures[f"data{one}.{name}.{column}"] for one in seen] for column in ("same", "others")]
        lines.append(f"| {label} | {' | '.join(' / '.join(format(one, '.2f') for one in cell) for cell in cells)} |")

    def others(name: str) -> str:
        return f"{np.mean([figures[f'data{one}.{name}.others'] for one in seen]):.2f}"

    lines += [
        "",
        f"- With what other surrogates say, the exact direction through one has {others('exact')}, mean of the worlds; "
        f"the last ten steps alone {others('last_10')}, the implicit one {others('implicit')}, ALS' last solve "
        f"{others('als_last')}. Through all steps a gradient is exact for its own initialisation, and says little of "
        f"others: take a mean over seeds, or draw a new one each round.",
    ]
    return figures, "\n".join(lines)
