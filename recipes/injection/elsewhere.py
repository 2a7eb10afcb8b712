"""Elsewhere: films, and a gallery of generated pictures.

*MovieLens* latest-small: liked from 4, disliked up to 2.5, a fifth of everybody's events held out; 30 fake accounts for
five films, well-known ones or hardly known ones. *Gallery*: 2,000 viewers, 1,200 pictures by 240
makers, drawn with planted taste; a lesser-known maker buys 20 accounts (1%) that like 40 pictures each, to bring their
own pictures into people's lists.

The attacker learns on a small matrix factorisation and knows nothing of the victims, which are the library's models as
they come. A rule of thumb needs no such model, so it does not suffer where the victim is another one. A hit is a person
with at least one target among their first 10. *Slots* is the share of all ten-picture lists' places that go to the
targets, among people who have not reacted to them yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recipes.injection.keep import Keep, Numbers
from recipes.injection.study import Attack, Learned, Rule, Step, Study
from recipes.injection.victims import Rows, Victim
from tastemaker.attack import heuristic
from tastemaker.attack.bilevel import Loop
from tastemaker.attack.bilevel_wmf import WMF
from tastemaker.attack.profiles import Budget, draw_targets
from tastemaker.data import FeedbackLog, split, synthetic
from tastemaker.recommend import NCF, Factors, ItemAE, ItemKNN

MOVIELENS = Path("ml-latest-small/ratings.csv")
GALLERY = synthetic.World(n_items=1_200, n_makers=240, rank=4, taste=2.5, quality=0.7, events=80.0, seeks_taste=0.3)
PICTURES = 5  # of the maker who buys likes
K = 10

ATTACKS: dict[str, Attack] = {
    "ours": Learned("ours", WMF(rank=32, batch=256), Loop()),
    "random": Rule("random", heuristic.random),
    "average": Rule("average", heuristic.average),
    "bandwagon": Rule("bandwagon", heuristic.bandwagon),
    "segment": Rule("segment", heuristic.segment),
}
VICTIMS = {
    "factors": Victim("`Factors()`", Factors, seeds=3),
    "itemknn": Victim("`ItemKNN()`", ItemKNN),
    "itemae": Victim("`ItemAE()`", ItemAE),
    "ncf": Victim("`NCF()`", NCF),
}


@dataclass(frozen=True, eq=False)
class Place:
    """Somewhere to attack. name: of its figures; about: for the page."""

    name: str
    about: str
    train: FeedbackLog
    test: FeedbackLog
    targets: dict[str, Rows]
    budget: Budget


def movielens(path: Path, seed: int) -> Place:
    log = FeedbackLog.read(path, format="movielens", like=4, dislike=2.5)
    train, test = split.per_user(replace(log, impressions=None), rng=seed)
    draw = np.random.default_rng(seed)
    targets = {name: draw_targets(train, name, 5, draw) for name in ("head", "upper torso", "lower torso")}
    about = f"MovieLens: {len(train.users):,} people, {train.n_items:,} films, {len(train):,} events to learn from"
    return Place("movielens", about, train, test, targets, Budget(30))


def gallery(seed: int) -> Place:
    """The targets are all pictures of one maker, of the lesser-known half, who has as many as `PICTURES`."""
    world = synthetic.make(GALLERY, seed)
    train, test = split.per_user(replace(world.log, impressions=None), rng=seed)
    popularity = world.catalog.column("popularity").to_numpy()
    maker, names = world.catalog.groups("maker")
    sizes = np.bincount(maker, minlength=len(names))
    fame = np.bincount(maker, popularity, len(names)) / np.maximum(sizes, 1)
    chosen = int(np.flatnonzero((sizes == PICTURES) & (fame < np.median(fame)))[0])
    rows = np.flatnonzero(maker == chosen).astype(np.int32)
    about = (
        f"Gallery: {len(train.users):,} viewers, {train.n_items:,} pictures, {len(train):,} events to learn from; "
        f"maker {names[chosen]} has {len(rows)} pictures and popularity {fame[chosen]:.0f} of 100"
    )
    return Place("gallery", about, train, test, {"maker": rows}, Budget(0.01, 40))


def places(data: Path | None, seed: int) -> list[Place]:
    found = [gallery(seed)]
    if data is not None and (data / MOVIELENS).exists():
        found.insert(0, movielens(data / MOVIELENS, seed))
    return found


def run(*, data: Path | None, quick: bool, seed: int, keep: Keep) -> tuple[Numbers, str]:
    """Figures, and the page's section."""
    if quick:
        return {}, "Left out with `--quick`."
    figures, parts = Numbers(), list[str]()
    for place in places(data, seed):
        here = Study(
            "elsewhere", place.train, place.test, place.targets, place.budget, ATTACKS, VICTIMS, keep, k=K, seed=seed
        )
        plan: list[Step] = [(t, a, v) for t in place.targets for a in ("clean", *ATTACKS) for v in VICTIMS]
        here.run(plan)
        found = here.figures(plan)
        for name in [one for one in found if one.endswith(".per_target")]:
            n_targets = len(place.targets[name.split(".")[0].replace("_", " ")])
            found[name.removesuffix("per_target") + "slots"] = found[name] * n_targets / K
        figures |= {f"{place.name}.{name}": value for name, value in found.items()}
        parts += [f"### {place.about}"]
        for targets in place.targets:
            for metric, title in (("hit", f"HR@{K}"), ("slots", "slots"), ("ndcg", f"NDCG@{K}")):
                parts += [f"{title}, targets: {targets}", here.table(plan, found, targets, metric)]
                parts += [here.contest(found, targets)] * (metric == "hit")
    return figures, "\n\n".join(filter(None, parts))
