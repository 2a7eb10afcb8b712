"""A person's order of pictures, against the number of comparisons asked.

Simulated people with a planted taste look at real pictures: the 200 models' pictures of a prompt, as embeddings. A
person's utility is made of the published scores (weights around the paper's), closeness to some pictures and distance
from others (a taste that people share in part), and of what no feature tells, in the shares of `World`. Answers are
Bradley-Terry's: better by one logit is chosen in 73 % of the comparisons.

The flow is the gallery's. Of `SHOWN` models' pictures a person picks the ten liked best, under some noise; the picks
are filled up to twelve with the highest published totals and sorted worst total first; then the twelve are compared two
by two. The published battle needs eleven comparisons. Ours begins as the crowd, learned from votes of *other*
simulated people on *other* prompts, never from what was planted, and asks for the two candidates for the best, or for
the pair that tells most. "With picks" it also knows what was picked and what was passed over, which the fits of the
published gallery know as well; the others know votes only.

Figures are Kendall's tau between the order and the planted one, and regret: logits lost by the first place. Intervals
are of people drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from tastemaker.choose import picks, points
from tastemaker.choose.belief import Belief, Prior
from tastemaker.choose.pairing import Policy, ask
from tastemaker.choose.rank import Pictures, Taste, learned, look
from tastemaker.choose.votes import Choice, Vote, pair
from tastemaker.data.read.gemrec import read_gemrec
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.evaluate.compare import ratio_bounds
from tastemaker.evaluate.images import gallery
from tastemaker.evaluate.images.embedding import Embeddings

Floats = NDArray[np.float64]

SHOWN, PICKED, COMPARED = 24, 10, 12
PARTS = ["norm_clip", "norm_mcos", "norm_pop"]
THIRD = (COMPARED - 1) // 3
TOLD = [0, THIRD, COMPARED - 1]
VARIANTS: list[tuple[str, str, Policy]] = [
    ("ours_knowing_nobody", "nobody", "information"),
    ("ours_information", "crowd", "information"),
    ("ours_thompson", "crowd", "thompson"),
]
TURNS = ["ours_with_picks", "ours_second_prompt", "ours_third_prompt"]
NAMES = ("closeness to the prompt", "distinctness", "popular model")


@dataclass(frozen=True)
class World:
    """How people differ. Parts are shares of the variance of a utility.

    Attributes:
        scores: that the published scores explain; each person's weights are the paper's plus noise as large.
        shared, own: that closeness to favourite pictures explains, of everybody, and of the person.
        rest: that no feature explains.
        spread: standard deviation of a utility over pictures of a prompt, in logits.
    """

    scores: float
    shared: float
    own: float
    rest: float = 0.15
    spread: float = 2.0


WORLDS = {
    "alike": World(0.2, 0.4, 0.25),
    "apart": World(0.2, 0.15, 0.5),
    "alone": World(0.0, 0.0, 0.85),
}


@dataclass(frozen=True)
class Grid:
    """Pictures of the visible prompts.

    Attributes:
        vectors: less the mean of their prompt, shape (n_prompts, n_models, dim).
        parts: the published scores, shape (n_prompts, n_models, 3); `totals`: their published sum.
        features: scores and look, standardised, shape (n_prompts, n_models, k).
        groups: prompts of one seed belong together, shape (n_prompts,).
    """

    vectors: Floats
    parts: Floats
    totals: Floats
    features: Floats
    names: tuple[str, ...]
    groups: NDArray[np.int64]

    def pictures(self, prompt: int, models: Sequence[int]) -> Pictures:
        ids = Vocabulary(pl.Series([name(prompt, model) for model in models]))
        return Pictures(ids, self.features[prompt, list(models)], self.names)


def name(prompt: int, model: int) -> int:
    """Id of a picture."""
    return prompt * 1000 + model


def read(data: Path, axes: int = 40) -> Grid:
    """The grid of `data`/gemrec, less the prompts that the gallery hides."""
    book = read_gemrec(data / "gemrec")
    book = book.only(prompts=[p for p in book.prompts.table["id"].to_list() if p not in points.HIDDEN])
    assert book.pictures is not None
    assert book.texts is not None
    texts = Embeddings(book.texts, tuple(map(str, book.prompts.table["id"])))
    cells = gallery.measure(book.cells, book.pictures, texts, paper=True)
    cells = gallery.score(cells, book.models.table.select(model="id", downloads="downloads"), paper=True)
    at = book.rows()
    v = book.pictures[at].astype(np.float64)
    v -= v.mean(1, keepdims=True)
    parts = cells.select(PARTS).to_numpy()[at]
    scores = (parts - parts.mean((0, 1))) / parts.std((0, 1)) / len(PARTS) ** 0.5
    direction = look(v.reshape(-1, v.shape[-1]), axes)
    features = np.concatenate([scores, v @ direction.T], -1)
    groups = np.unique(book.prompts.table["seed"].to_numpy(), return_inverse=True)[1]
    return Grid(v, parts, cells["total_score"].to_numpy()[at], features, NAMES + ("look",) * axes, groups)


def people(grid: Grid, world: World, n: int, rng: np.random.Generator) -> Floats:
    """Planted utilities, shape (n, n_prompts, n_models), centred within each prompt."""
    weights = np.array([1.0, 0.8, 0.2]) * (1 + rng.standard_normal((n, 3)))
    scores = _spread(np.einsum("pmk,nk->npm", grid.parts, weights))
    shared = _spread(_closeness(grid, 1, 12, rng))
    own = _spread(_closeness(grid, n, 6, rng))
    rest = _spread(rng.standard_normal(own.shape))
    parts = [(world.scores, scores), (world.shared, shared), (world.own, own), (world.rest, rest)]
    return world.spread * _spread(sum(np.sqrt(share) * part for share, part in parts))


def _closeness(grid: Grid, n: int, favourites: int, rng: np.random.Generator) -> Floats:
    """Cosine with liked pictures less that with disliked ones, drawn from the whole grid."""
    flat = grid.vectors.reshape(-1, grid.vectors.shape[-1])
    drawn = rng.choice(len(flat), (n, favourites), replace=True)
    liked = flat[drawn] / np.linalg.norm(flat[drawn], axis=-1, keepdims=True)
    sign = np.where(np.arange(favourites) % 2, -1.0, 1.0)
    return np.asarray((flat @ (liked * sign[:, None]).sum(1).T).T.reshape(n, *grid.vectors.shape[:2]))


def _spread(utility: Floats) -> Floats:
    """Centred within prompts, with a standard deviation of 1 for each person."""
    centred = utility - utility.mean(-1, keepdims=True)
    return np.asarray(centred / centred.std((1, 2), keepdims=True))


@dataclass(frozen=True)
class Visit:
    """A person at a prompt. Models are numbers of the grid.

    Attributes:
        utility: planted, of every model's picture, shape (n_models,).
        shown, picked, lineup: what was shown, picked of it, and is compared, in the published order.
    """

    prompt: int
    person: str
    utility: Floats
    shown: list[int]
    picked: list[int]
    lineup: list[int]

    def choose(self, left: int, right: int, rng: np.random.Generator) -> int:
        """One of two models' pictures."""
        return left if rng.random() < expit(self.utility[left] - self.utility[right]) else right

    def pick_vote(self) -> Vote:
        """Each pick is better than all that was passed over; nothing is said about the picks among each other."""
        passed = [name(self.prompt, model) for model in self.shown if model not in self.picked]
        best = [name(self.prompt, model) for model in self.picked]
        return Vote(tuple(Choice((item,), (item, *passed)) for item in best), self.person)

    def vote(self, left: int, right: int, rng: np.random.Generator) -> Vote:
        winner = self.choose(left, right, rng)
        loser = right if winner == left else left
        return Vote(pair(name(self.prompt, winner), name(self.prompt, loser)), self.person)


def visit(grid: Grid, prompt: int, person: str, utility: Floats, rng: np.random.Generator) -> Visit:
    shown = sorted(rng.choice(len(utility), SHOWN, replace=False).tolist())
    liking = utility[shown] + rng.gumbel(size=SHOWN)
    picked = [shown[at] for at in np.argsort(-liking)[:PICKED]]
    totals = pl.DataFrame({"model": range(len(utility)), "total_score": grid.totals[prompt]})
    lineup = points.lineup(totals, picked)
    return Visit(prompt, person, utility, shown, picked, [int(model) for model in lineup])


def battle(seen: Visit, rng: np.random.Generator) -> Iterator[Floats]:
    """Points of the published battle after 0, 1, ... rounds; earlier in the line-up is better where they are equal."""
    rounds = list(points.battle(seen.lineup, lambda one, other: seen.choose(int(one), int(other), rng), prompt=0))
    for count in range(len(rounds) + 1):
        place = {row["id"]: row["rank"] for row in points.replay(rounds[:count]).iter_rows(named=True)}
        yield np.array([-place.get(model, len(place) + 1 + at) for at, model in enumerate(seen.lineup)], np.float64)


def elo(seen: Visit, rng: np.random.Generator) -> Iterator[Floats]:
    """Elo's rating, 32 points at stake, on random pairs."""
    rating = np.zeros(COMPARED)
    yield rating.copy()
    for _ in range(COMPARED - 1):
        one, other = rng.choice(COMPARED, 2, replace=False)
        if seen.choose(seen.lineup[one], seen.lineup[other], rng) != seen.lineup[one]:
            one, other = other, one
        gain = 32 * (1 - 1 / (1 + 10 ** ((rating[other] - rating[one]) / 400)))
        rating[one] += gain
        rating[other] -= gain
        yield rating.copy()


def rated(seen: Visit, policy: Policy, rng: np.random.Generator) -> Iterator[Floats]:
    """Ratings without features, from nothing."""
    belief = Belief.start(Vocabulary(pl.Series(seen.lineup)), Prior(items=2.0))
    yield belief.mean[:-2]
    for _ in range(COMPARED - 1):
        question = ask(belief, policy=policy, rng=rng)
        left, right = int(question.left), int(question.right)
        winner = seen.choose(left, right, rng)
        belief = belief.add(pair(winner, right if winner == left else left))
        yield belief.mean[:-2]


def ours(
    grid: Grid, seen: Visit, taste: Taste, policy: Policy, rng: np.random.Generator
) -> Iterator[tuple[Floats, Taste]]:
    """`choose.rank` from this taste, with the taste after each comparison."""
    pictures = grid.pictures(seen.prompt, seen.lineup)
    belief = taste.belief(pictures)
    yield belief.mean[:-2], taste
    for _ in range(COMPARED - 1):
        question = ask(belief, policy=policy, rng=rng)
        taste = taste.update([seen.vote(int(question.left) % 1000, int(question.right) % 1000, rng)], pictures)
        belief = taste.belief(pictures)
        yield belief.mean[:-2], taste


def others(grid: Grid, utility: Floats, prompts: Sequence[int], rng: np.random.Generator) -> Taste:
    """The crowd: learned from other people's picks and random comparisons, three prompts each.

    Args:
        utility: theirs, shape (n, n_prompts, n_models).
    """
    votes: list[Vote] = []
    cells: dict[tuple[int, int], None] = {}
    for number, own in enumerate(utility):
        for prompt in rng.choice(prompts, 3, replace=False).tolist():
            seen = visit(grid, prompt, f"other {number}", own[prompt], rng)
            votes.append(seen.pick_vote())
            for _ in range(COMPARED - 1):
                left, right = rng.choice(seen.lineup, 2, replace=False).tolist()
                votes.append(seen.vote(left, right, rng))
            cells |= dict.fromkeys((prompt, model) for model in (*seen.shown, *seen.lineup))
    ids = Vocabulary(pl.Series([name(*cell) for cell in cells]))
    pictures = Pictures(ids, np.array([grid.features[cell] for cell in cells]), grid.names)
    return learned(votes, pictures, Taste.start(grid.names), rounds=8)


def curves(grid: Grid, world: World, n: int, n_others: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Tau and regret of each method after 0, 1, ... comparisons, shape (n, COMPARED, 2)."""
    shuffled = rng.permutation(grid.groups.max() + 1)
    for_others = np.isin(grid.groups, shuffled[: len(shuffled) // 2])
    everybody = people(grid, world, n + n_others, rng)
    crowd = others(grid, everybody[n:], np.flatnonzero(for_others).tolist(), rng)
    found: dict[str, list[Floats]] = {}
    for number, utility in enumerate(everybody[:n]):
        person = f"person {number}"
        carried = crowd.of(person)
        for turn, prompt in enumerate(rng.choice(np.flatnonzero(~for_others), 3, replace=False).tolist()):
            seen = visit(grid, prompt, person, utility[prompt], rng)
            orders: dict[str, list[Floats]] = {}
            if turn == 0:
                orders = by_weights(grid, seen)
                orders["battle"] = list(battle(seen, rng))
                orders["elo"] = list(elo(seen, rng))
                orders["no_features"] = list(rated(seen, "information", rng))
                for label, start, policy in VARIANTS:
                    begun = (crowd if start == "crowd" else Taste.start(grid.names)).of(person)
                    orders[label] = [order for order, _ in ours(grid, seen, begun, policy, rng)]
            carried = carried.update([seen.pick_vote()], grid.pictures(prompt, seen.shown))
            steps = list(ours(grid, seen, carried, "thompson", rng))
            orders[TURNS[turn]] = [order for order, _ in steps]
            carried = steps[THIRD + 1][1]  # about a third of the comparisons, then the next prompt
            for label, each in orders.items():
                found.setdefault(label, []).append(np.array([judged(order, seen) for order in each]))
    return {label: np.array(each) for label, each in found.items()}


def by_weights(grid: Grid, seen: Visit) -> dict[str, list[Floats]]:
    """Orders by the published total, and by weights fitted to the picks of this prompt; no comparison changes them."""
    shown, picked = grid.parts[seen.prompt, seen.shown], np.isin(seen.shown, seen.picked)
    lineup = grid.parts[seen.prompt, seen.lineup]
    weights = {
        "paper": np.array([1.0, 0.8, 0.2]),
        "grid": picks.grid(shown, picked),
        "svm": picks.svm(shown, picked),
        "greedy": picks.greedy(shown, picked),
    }
    return {label: [lineup @ w] * COMPARED for label, w in weights.items()}


def judged(order: Floats, seen: Visit) -> tuple[float, float]:
    """Kendall's tau with the planted order (equal ones count half), and logits lost by the first."""
    truth = seen.utility[seen.lineup]
    one, other = np.triu_indices(len(truth), 1)
    agree = np.sign(order[one] - order[other]) * np.sign(truth[one] - truth[other])
    return float(agree.mean()), float(truth.max() - truth[order == order.max()].mean())


def measure(data: Path, seed: int, quick: bool) -> dict[str, float]:
    """Figures by name: `WORLD.METHOD.tau.COUNT`, with `.low` and `.high`; see the module for what they say."""
    grid = read(data)
    figures: dict[str, float] = {}
    for world in ["apart"] if quick else WORLDS:
        rng = np.random.default_rng(seed)
        n, n_others = (15, 20) if quick else (80, 60)
        found = curves(grid, WORLDS[world], n, n_others, rng)
        figures |= summed(world, found, rng)
    return figures


def summed(world: str, found: dict[str, Floats], rng: np.random.Generator) -> dict[str, float]:
    """Means over people with intervals, beside the published battle's final ones (paired).

    `needed` is left out where the battle's end is never reached.
    """
    figures: dict[str, float] = {}
    goal = found["battle"][:, -1]
    for label, each in found.items():
        for at, metric in enumerate(("tau", "regret")):
            key = f"{world}.{label}.{metric}"
            figures |= _with_intervals(key, each[..., at], rng)
            figures |= _with_intervals(f"{key}_above_battle", each[..., at] - goal[:, None, at], rng)
            ahead = (each.mean(0)[:, at] - goal[:, at].mean()) * (1 if metric == "tau" else -1)
            if (reached := ahead > -1e-9).any():
                figures[f"{key}.needed"] = float(np.argmax(reached))
    return figures


def _with_intervals(label: str, values: Floats, rng: np.random.Generator) -> dict[str, float]:
    """Mean over people after each of `TOLD` comparisons, with its interval."""
    out: dict[str, float] = {}
    mean, low, high = ratio_bounds(values[:, TOLD], np.ones((len(values), len(TOLD))), rng=rng)
    for at, count in enumerate(TOLD):
        key = f"{label}.{count}"
        out |= {key: float(mean[at]), f"{key}.low": float(low[at]), f"{key}.high": float(high[at])}
    return out


def table(figures: dict[str, float]) -> str:
    """One table a world."""
    worlds = dict.fromkeys(key.split(".")[0] for key in figures)
    return "\n\n".join(_table(world, figures) for world in worlds)


def _table(world: str, figures: dict[str, float]) -> str:
    labels = dict.fromkeys(key.split(".")[1] for key in figures if key.startswith(f"{world}."))
    shares = WORLDS[world]
    lines = [
        f"People {world}: scores {shares.scores:.0%}, shared look {shares.shared:.0%}, own look {shares.own:.0%}, "
        f"rest {shares.rest:.0%} of the variance. After 0, {THIRD} and {COMPARED - 1} comparisons; *needed*: until the "
        f"published battle's final mean is reached; *above*: after {THIRD}, above the published battle's end, paired.",
        "",
        f"| order by | tau, 0 | {THIRD} | {COMPARED - 1} | needed | above | "
        f"regret, 0 | {THIRD} | {COMPARED - 1} | needed | above |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label in labels:
        cells = []
        for metric in ("tau", "regret"):
            key = f"{world}.{label}.{metric}"
            cells += [f"{figures[f'{key}.{count}']:.3f}" for count in TOLD]
            cells.append(f"{figures[f'{key}.needed']:.0f}" if f"{key}.needed" in figures else "never")
            cells.append(_cell(figures, f"{key}_above_battle.{THIRD}"))
        lines.append(f"| {label.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figures: dict[str, float], key: str) -> str:
    return f"{figures[key]:+.3f} ({figures[f'{key}.low']:+.2f} to {figures[f'{key}.high']:+.2f})"
