"""What a vote tells where Compare asks: of pairs of all models, or of 32 drawn by lot, or any pair.

People whose answers follow the model of `choose.rating`, ties included, are asked one question after the other; their
utilities are drawn from the prior. For each rule, means over worlds: nats that the question asked was expected to tell
at that moment, by the belief there was; the error of the utilities and the rank correlation after the last vote; and
processor time of a question. `votes_as_good` is how many votes the rule took to the error that asking of all had after
half of them.

    PYTHONPATH=src python -m bench.questions [--models N] [--votes N] [--worlds N] [--met N] [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import spearmanr

from bench.output import write_json
from tastemaker.choose.belief import Belief, Prior
from tastemaker.choose.pairing import ask, information
from tastemaker.choose.votes import Choice, pair, tie
from tastemaker.data.vocabulary import Vocabulary

RULES = ("all", "lot", "any")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--votes", type=int, default=600)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--met", type=int, default=32, help="models drawn by lot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    figures, half = {}, 0.0
    for rule in RULES:
        told = [play(rule, args.models, args.votes, args.met, args.seed + world) for world in range(args.worlds)]
        nats, errors = (np.mean([one[at] for one in told], axis=0) for at in (0, 1))
        half = half or errors[args.votes // 2 - 1]
        enough = np.flatnonzero(errors <= half)
        figures |= {
            f"{rule}.nats_a_vote": float(nats.mean()),
            f"{rule}.error": float(errors[-1]),
            f"{rule}.rank_correlation": float(np.mean([one[2] for one in told])),
            f"{rule}.votes_as_good": float(enough[0] + 1) if len(enough) else float("inf"),
            f"{rule}.cpu_ms": float(np.mean([one[3] for one in told])),
        }
    for name, value in figures.items():
        print(f"{name} {value:,.4g}")
    if args.json:
        known = {name: value for name, value in figures.items() if np.isfinite(value)}
        write_json(args.json, module="bench.questions", seed=args.seed, figures=known)


def play(rule: str, n: int, votes: int, met: int, seed: int) -> tuple[list[float], list[float], float, float]:
    """Of each vote the nats expected and the error after it; the rank correlation at the end; CPU ms a question."""
    rng, prior = np.random.default_rng(seed), Prior()
    truth = rng.normal(0, prior.items, n)
    belief, nats, errors, took = Belief.start(Vocabulary.range(n)), [], [], 0.0
    for _ in range(votes):
        began = time.process_time()
        among = rng.permutation(n)[:met] if rule == "lot" else np.arange(n)
        part = _part(belief, among)
        policy = "random" if rule == "any" else "information"
        asked = ask(part, policy=policy, ties=True, explore=0.1, rng=rng)
        took += time.process_time() - began
        left, right = int(asked.left), int(asked.right)
        nats.append(float(information(_part(belief, np.array([left, right])), ties=True)[0, 1]))
        belief = belief.add(_answer(left, right, truth, prior.tie[0], rng))
        off = belief.mean[:n] - belief.mean[:n].mean() - (truth - truth.mean())
        errors.append(float(np.sqrt(np.mean(off**2))))
    return nats, errors, float(spearmanr(belief.mean[:n], truth).statistic), 1e3 * took / votes


def _part(belief: Belief, rows: NDArray[np.int64]) -> Belief:
    """What is believed of these alone."""
    at = np.r_[rows, len(belief.ids), len(belief.ids) + 1]
    ids = Vocabulary.of(rows.tolist())
    return Belief(ids, belief.mean[at], belief.cov[np.ix_(at, at)], belief.votes[rows], belief.about)


def _answer(
    left: int, right: int, truth: NDArray[np.float64], tie_odds: float, rng: np.random.Generator
) -> tuple[Choice, ...]:
    half = (truth[left] - truth[right]) / 2
    said = rng.choice(3, p=softmax([half, -half, tie_odds]))
    if said == 2:
        return tie(left, right)
    return pair(*((left, right) if said == 0 else (right, left)), ties=True)


if __name__ == "__main__":
    main()
