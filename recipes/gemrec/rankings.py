"""What people's rankings of generated pictures teach without the pictures.

The 466 prompts and 2,720 rankings of ImageReward's test set come as text and file names: no pictures, no word on who
ranked or which model drew. So nothing can be learned about a person, a model or a look, and no text feature can order
the pictures of a prompt, for they share it. What is left, judged on held-out prompts:

- the place in the list. Pictures listed earlier are ranked higher, more often than not. Ratings of the places
  (`choose.rating`, with ties, the spread learned) are fitted to nine tenths of the prompts and predict the rest, beside
  the plain rule that the earlier one wins. A method judged on these lists in their order gets that for nothing:
  shuffle them.
- ties, which the choice model predicts from their fitted odds, and whether longer prompts have fewer of them.

Accuracy is of pairs that people did not tie; log loss is of all pairs, in nats, over win, tie and loss. Intervals are
of prompts drawn again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import spearmanr

from tastemaker.choose.belief import Prior
from tastemaker.choose.rankings import Ranked, read_rankings
from tastemaker.choose.rating import fit, learned
from tastemaker.choose.votes import Vote, sort
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.evaluate.compare import ratio_bounds

Floats = NDArray[np.float64]

FOLDS = 10


def by_place(ranked: Ranked) -> Vote:
    """The ranking as a vote on places in the list instead of pictures."""
    groups: dict[int, list[int]] = {}
    for at, rank in enumerate(ranked.places):
        groups.setdefault(rank, []).append(at)
    return Vote(sort([groups[rank] for rank in sorted(groups)], ties=True))


def judged(ranked: Ranked, utility: Floats, tie: float) -> Floats:
    """Sums over pairs of a prompt: untied, of them ordered rightly, earlier first; all, tied, chance of a tie, loss.

    Args:
        utility: of the places, shape (n,).
        tie: log odds of a tie between equals.
    """
    earlier, later = np.triu_indices(len(utility), 1)
    gap = np.sign(np.array(ranked.places)[later] - np.array(ranked.places)[earlier])  # 1: the earlier one won
    one, other = utility[earlier], utility[later]
    log = log_softmax(np.stack([other, (one + other) / 2 + tie, one]), axis=0)
    right = np.where(one == other, 0.5, np.sign(one - other) == gap)
    loss = -log[gap + 1, np.arange(len(gap))]
    untied = gap != 0
    parts = [untied, untied * right, gap > 0, np.ones(len(gap)), gap == 0, np.exp(log[1]), loss]
    return np.asarray(np.sum(parts, 1, dtype=np.float64))


def measure(data: Path, seed: int, quick: bool) -> dict[str, float]:
    """Figures by name, with `.low` and `.high`."""
    rankings = read_rankings(data / "t2i_prompts" / "imagereward_test.json")
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(rankings)) % FOLDS
    ids = Vocabulary.range(max(len(one.places) for one in rankings))
    prior = learned([by_place(one) for one in rankings], ids, prior=Prior(items=0.3)) if not quick else Prior(items=0.3)
    sums, blind = np.zeros((len(rankings), 7)), np.zeros((len(rankings), 7))
    for part in range(FOLDS):
        train = [by_place(one) for one, own in zip(rankings, fold, strict=True) if own != part]
        belief = fit(train, ids, prior=prior).belief()
        flat = fit(train, ids, prior=Prior(items=1e-3)).belief()
        for row in np.flatnonzero(fold == part):
            n = len(rankings[row].places)
            sums[row] = judged(rankings[row], belief.mean[:n], belief.mean[-1])
            blind[row] = judged(rankings[row], flat.mean[:n], flat.mean[-1])
    words = np.array([len(one.prompt.split()) for one in rankings])
    ties = sums[:, 4] / sums[:, 3]
    drawn = rng.integers(0, len(words), (200 if quick else 1000, len(words)))
    lengths = [float(spearmanr(words[rows], ties[rows]).statistic) for rows in drawn]
    above = np.column_stack([sums[:, [1, 2]], sums[:, [4, 5, 6]], blind[:, 6], sums[:, 6] - blind[:, 6]])
    below = np.column_stack([sums[:, [0, 0]], *[sums[:, 3]] * 5])
    names = ["accuracy.place", "accuracy.earlier_first", "ties.share", "ties.predicted"]
    names += ["log_loss.place", "log_loss.no_place", "log_loss.difference"]
    figures = {"prompts": float(len(rankings)), "pairs": float(sums[:, 3].sum()), "spread_of_places": prior.items}
    for name, *bounds in zip(names, *ratio_bounds(above, below, rng=rng), strict=True):
        figures |= dict(zip([name, f"{name}.low", f"{name}.high"], map(float, bounds), strict=True))
    low, high = np.quantile(lengths, [0.025, 0.975])
    figures |= {
        "ties.with_length": float(spearmanr(words, ties).statistic),
        "ties.with_length.low": float(low),
        "ties.with_length.high": float(high),
    }
    return figures


def table(figures: dict[str, float]) -> str:
    words = {
        "accuracy.place": "pairs ordered rightly by ratings of places",
        "accuracy.earlier_first": "pairs ordered rightly by 'the earlier one'",
        "ties.share": "share of pairs tied",
        "ties.predicted": "share of ties predicted",
        "log_loss.place": "log loss, ratings of places and ties",
        "log_loss.no_place": "log loss, ties only",
        "log_loss.difference": "difference",
        "ties.with_length": "Spearman, words of the prompt with its share of ties",
    }
    lines = [
        f"{figures['prompts']:.0f} prompts, {figures['pairs']:.0f} pairs, {FOLDS} folds over prompts.",
        "",
        "| figure | held out | 95 % |",
        "|---|---|---|",
    ]
    for name, told in words.items():
        lines.append(
            f"| {told} | {figures[name]:.3f} | {figures[f'{name}.low']:.3f} to {figures[f'{name}.high']:.3f} |"
        )
    return "\n".join(lines)
