"""`tastemaker attack`: what bought likes do to recommenders, what stops them, and who pays for it."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as selectors
from cyclopts import Parameter

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.logs import READING, Reading
from tastemaker.data import FeedbackLog, split
from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.recommend import MODELS
from tastemaker.recommend.contract import Recommender
from tastemaker.terminal import err, print_facts, print_json, print_table, working

if TYPE_CHECKING:
    from tastemaker.attack.defend import Defence
    from tastemaker.attack.drill import Drill
    from tastemaker.attack.profiles import Budget, Fakes

Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Attack = Literal["random", "average", "bandwagon", "segment", "power-users", "power-items", "learned", "hidden"]
Way = Literal["distrust", "cap", "trimmed", "welsch", "adversarial", "bagging"]


@app.command
def attack(
    log: Path,
    *,
    targets: Names = [],  # noqa: B006
    target_class: Literal["head", "upper torso", "lower torso", "tail"] = "tail",
    n_targets: int = 5,
    budget: str = "1%",
    clicks: int | None = None,
    attacks: Annotated[list[Attack], Parameter(consume_multiple=True, negative="")] = ["bandwagon", "learned"],  # noqa: B006
    victims: Names = ["factors", "itemknn"],  # noqa: B006
    defences: Annotated[list[Way], Parameter(consume_multiple=True, negative="")] = ["distrust", "cap"],  # noqa: B006
    rounds: int = 10,
    rank: int = 32,
    how: Literal["user", "time"] = "user",
    test: float = 0.2,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("drill"),
    seed: Seed = 0,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """What fake users could do to recommenders trained on your log, and what stops them at what price.

    For drills on logs you answer for. Nothing is sent anywhere, and every
    fake row is marked `simulated`. Writes the poisoned logs, one folder an
    attack, and the tables as drill.json.

        attack ratings.csv --like 4 --dislike 2 --target-class tail
        attack log/ --targets 17 23 --budget 1% --attacks learned hidden \\
            --victims factors itemknn multvae --defences distrust bagging

    Attacks: random, average, bandwagon, segment, power-users and power-items
    fill profiles by rules; learned finds them by the exact gradient through
    the training of a surrogate; hidden is learned, with fillers exchanged
    until a detector looks away. Any recommender can be a victim.

    Args:
        log: File or folder in any known format.
        targets: Ids of the items to push; drawn from a class when not given.
        target_class: Class by popularity to draw targets from.
        n_targets: How many to draw.
        budget: Fake users, a number or a share such as 1%.
        clicks: Items each fake user likes; as many as real users do on average when not given.
        attacks: Which attacks.
        victims: Which recommenders, with their usual settings.
        defences: Ways to train beside the plain one.
        rounds: Outer rounds of the learned attacks.
        rank: Factors of the learned attacks' surrogate.
        how: How to split; a share of each user's events, or the latest.
        test: Share of events for test.
        k: Items a person.
        to: Folder for the poisoned logs and drill.json.
    """
    from tastemaker.attack.drill import drill
    from tastemaker.attack.profiles import draw_targets, poisoned

    read = reading.read(log)
    read.require_signed("an attack drill")
    train, held = split.by_time(read, test) if how == "time" else split.per_user(read, test, rng=seed)
    spent = _budget(budget, clicks)
    rng = np.random.default_rng(seed)
    goals = read.item_ids.rows(_typed(targets, read)) if targets else draw_targets(train, target_class, n_targets, rng)
    chosen = [_victim(name) for name in victims]
    ways: dict[str, Defence] = {name: _defence(name, train) for name in defences}
    with working("working") as say:
        fakes: dict[str, Fakes] = {}
        for name in attacks:
            say(f"attack {name}")
            fakes[name] = _fakes(name, train, goals, spent, rounds, rank, rng, say)
        made = drill(chosen, train, fakes, ways, test=held, k=k, seed=seed, say=say)
        for kind, one in fakes.items():
            poisoned(train, one).save(to / kind)
    ids = read.item_ids.ids(goals).to_list()
    told = {"targets": ids, "k": k, "metric": made.metric, "seed": seed, "log": str(log), **_tables(made)}
    (to / "drill.json").write_text(dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if json:
        print_json(told)
        return
    label = ["victim", "attack", "defence"]
    reached = ["hit_rate_before", "hit_rate", "accuracy", "accuracy_change", "change_low", "change_high"]
    got = ["stakeholder", "hit_rate", "hit_rate_change", "exposure", "exposure_change"]
    shown = ["detector", "attack", "auc", "low", "high", "precision", "n_fake"]
    print_table(f"Targets' hit rate@{k} and {made.metric}", made.outcomes.select(*label, *reached))
    print_table("What each got; changes against neither attack nor defence", made.stakeholders.select(*label, *got))
    print_table("Can it be seen? Fake users against real ones", made.detection.select(shown))
    gains = made.transfer.with_columns(pl.col("surrogate").str.extract(r"^(\w+)")).drop(c.SIMULATED)
    print_table("Transfer: change of the targets' hit rate, undefended", gains)
    if len(made.certificates):
        print_table(
            "Proven, whatever fake users do (share of places that stay, of targets that stay out)", made.certificates
        )
    print_facts({"targets": ids, "fake users": {name: len(one) for name, one in fakes.items()}})
    err.print(f"poisoned logs and drill.json: {to.resolve()}", soft_wrap=True)


def _budget(text: str, clicks: int | None) -> Budget:
    from tastemaker.attack.profiles import Budget

    try:
        users = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError as error:
        raise InvalidArgument(f"budget {text!r}; expected a number of fake users, or a share such as 1%") from error
    return Budget(users, clicks)


def _typed(ids: list[str], read: FeedbackLog) -> list[Any]:
    """Ids as the log has them: numbers where its items are numbers."""
    if not read.item_ids.series.dtype.is_integer():
        return list(ids)
    try:
        return [int(one) for one in ids]
    except ValueError as error:
        raise InvalidArgument(f"targets {ids}; the log's item ids are whole numbers") from error


def _victim(name: str) -> Recommender[Any]:
    if name not in MODELS:
        raise UnknownName("recommender", name, list(MODELS))
    return MODELS[name]()


def _defence(name: Way, log: FeedbackLog) -> Defence:
    from tastemaker.attack import defend
    from tastemaker.attack.certify import Bagging
    from tastemaker.attack.detect import PCA

    made: dict[Way, Callable[[], Defence]] = {
        "distrust": lambda: defend.Distrust(PCA()),
        "cap": defend.Cap,
        "trimmed": defend.Trimmed,
        "welsch": defend.Welsch,
        "adversarial": defend.Adversarial,
        "bagging": lambda: Bagging(size=max(1, min(100, len(log.users) // 5))),
    }
    return made[name]()


def _fakes(
    name: Attack,
    log: FeedbackLog,
    goals: Any,
    budget: Budget,
    rounds: int,
    rank: int,
    rng: np.random.Generator,
    say: Callable[[str], Any],
) -> Fakes:
    from tastemaker.attack import bilevel, heuristic
    from tastemaker.attack.bilevel_wmf import WMF
    from tastemaker.attack.detect import PCA
    from tastemaker.attack.evade import evade

    if name not in ("learned", "hidden"):
        return getattr(heuristic, name.replace("-", "_"))(log, goals, budget, rng=rng)  # type: ignore[no-any-return]
    surrogate = WMF(rank=min(rank, log.n_items))
    made = bilevel.attack(
        log, goals, budget, surrogate=surrogate, rounds=rounds, rng=rng,
        progress=lambda one: say(f"attack {name}: round {one.round} of {rounds}"),
    )  # fmt: skip
    return made if name == "learned" else evade(log, made, PCA(), rng=rng)


def _tables(made: Drill) -> dict[str, list[dict[str, Any]]]:
    """The drill's tables as rows; what is not defined is null."""
    names = ("outcomes", "stakeholders", "detection", "curves", "transfer", "attacks", "certificates")
    numbers = selectors.float()
    finite = pl.when(numbers.is_finite()).then(numbers)  # a curve's first threshold is infinite
    return {name: getattr(made, name).with_columns(finite).to_dicts() for name in names}
