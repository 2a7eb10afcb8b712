"""`tastemaker attack`: what bought likes do to recommenders, what stops them, and who pays for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from json import dumps
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import polars as pl
import polars.selectors as selectors
from cyclopts import Parameter
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.logs import READING, Reading
from tastemaker.data import FeedbackLog, split
from tastemaker.errors import DataError, InvalidArgument, MissingExtra, UnknownId, UnknownName
from tastemaker.recommend import MODELS
from tastemaker.recommend.contract import Recommender
from tastemaker.terminal import err, out, print_facts, print_json, print_table, working

if TYPE_CHECKING:
    from tastemaker.attack.bilevel_loss import Surrogate
    from tastemaker.attack.defend import Defence
    from tastemaker.attack.detect import Detector
    from tastemaker.attack.drill import Drill
    from tastemaker.attack.profiles import Budget, Fakes
    from tastemaker.attack.seen import View

Rule = Literal["random", "average", "bandwagon", "segment", "power-users", "power-items"]
Through = Literal["learned", "hidden"]  # a surrogate
Model = Literal["wmf", "als", "itemae"]
Watch = Literal["pca", "statistics", "reconstruction", "learned"]
Way = Literal["distrust", "cap", "trimmed", "welsch", "adversarial", "bagging"]
Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
PLOTS = ("detection", "price")


@app.command
def attack(
    log: Path,
    *,
    targets: Names = [],  # noqa: B006
    target_class: Literal["head", "upper torso", "lower torso", "tail"] = "tail",
    n_targets: int = 5,
    budget: str = "1%",
    clicks: int | None = None,
    attacks: Annotated[list[Rule | Through], Parameter(consume_multiple=True, negative="")] = ["bandwagon", "learned"],  # noqa: B006
    surrogate: Annotated[list[Model], Parameter(consume_multiple=True, negative="")] = ["wmf"],  # noqa: B006
    victims: Names = ["factors", "itemknn"],  # noqa: B006
    defences: Annotated[list[Way], Parameter(consume_multiple=True, negative="")] = ["distrust", "cap"],  # noqa: B006
    detector: Watch = "learned",
    sees_users: float = 1.0,
    sees_items: float = 1.0,
    sees_clicks: float = 1.0,
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
    attack, the tables as drill.json, and plots where matplotlib is installed.
    A drill that the folder holds already is replaced.

        attack ratings.csv --like 4 --dislike 2 --target-class tail
        attack log/ --targets 17 23 --budget 1% --attacks learned hidden \\
            --surrogate wmf als --victims factors itemknn multvae \\
            --defences distrust bagging

    Attacks: random, average, bandwagon, segment, power-users and power-items
    fill profiles by rules; learned finds them by the exact gradient through
    the training of a surrogate; hidden is learned, with fillers exchanged
    until the detector looks away. Any recommender can be a victim.

    Args:
        log: File or folder in any known format.
        targets: Ids of the items to push; drawn from a class when not given.
        target_class: Class by popularity to draw targets from.
        n_targets: How many to draw.
        budget: Fake users, a number or a share such as 1%.
        clicks: Items each fake user likes; as many as real users do on average when not given.
        attacks: Which attacks. Each draws by itself, so the others change none; but hidden evades a learned detector,
            which is taught on rules that are not among them.
        surrogate: What learned and hidden train in place of the victim; with several, each has attacks of its own.
        victims: Which recommenders, with their usual settings.
        defences: Ways to train beside the plain one. distrust leaves out as many accounts as there are fakes.
        detector: What distrust relies on and hidden evades (its attacker knows it); all four are judged. learned, the
            default, is taught on rules that are not among the attacks. Which sees most depends on the log: compare.
        sees_users: Share of people whose likes the attacker sees; 1 for all. Fake users are made from what is seen.
        sees_items: Share of items the attacker knows, beside the targets; no other is clicked.
        sees_clicks: Share of the likes between them that is seen.
        rounds: Outer rounds of the learned attacks.
        rank: Factors of the learned attacks' surrogates.
        how: How to split; a share of each user's events, or the latest.
        test: Share of events for test.
        k: Items a person.
        to: Folder for the poisoned logs, drill.json and plots.
    """
    from tastemaker.attack.drill import check, drill
    from tastemaker.attack.evade import usual_length
    from tastemaker.attack.profiles import Budget, Knowledge, draw_targets, poisoned
    from tastemaker.attack.seen import view

    _each_once(attacks=attacks, surrogate=surrogate, victims=victims, defences=defences)
    if rounds < 1:
        raise InvalidArgument(f"--rounds {rounds}; expected 1 or more")
    plan, chosen, spent = _plan(attacks, surrogate), {name: _victim(name) for name in victims}, _budget(budget, clicks)
    _check_folder(to, plan)
    read = reading.read(log)
    read.require_signed("an attack drill")
    train, held = split.by_time(read, test) if how == "time" else split.per_user(read, test, rng=seed)
    check(chosen, train, test=held, k=k, seed=seed)
    goals = _targets(targets, read) if targets else draw_targets(train, target_class, n_targets, _rng(seed, "targets"))
    n_fakes, n_clicks = spent.of(train)
    people = len(np.unique(train.user[train.value > 0]))
    seen = view(train, goals, Knowledge(sees_users, sees_items, sees_clicks), rng=_rng(seed, "seen"))
    each = Budget(n_fakes, n_clicks)
    each.of(seen.log)  # raises where what is seen cannot hold it
    models = {name: _surrogate(name, rank, seen.log.n_users + n_fakes, seen.log.n_items) for name in surrogate}
    detectors = _detectors(attacks)
    ways: dict[str, Defence] = {name: _defence(name, train, detectors[detector], n_fakes, people) for name in defences}
    to.mkdir(parents=True, exist_ok=True)
    with working("working") as say:
        longest = None if clicks else usual_length(seen.log)  # a budget of clicks binds who hides, too
        found = _fakes(plan, seen, each, longest, models, detectors[detector], rounds, k, seed, say)
        fakes = {name: seen.back(one) for name, one in found.items()}
        made = drill(chosen, train, fakes, ways, test=held, detectors=detectors, k=k, seed=seed, say=say)
        _forget(to)
        for name, one in fakes.items():
            poisoned(train, one).save(to / name)
        _plot(made, to)
    ids = read.item_ids.ids(goals).to_list()
    told = {"targets": ids, "k": k, "metric": made.metric, "seed": seed, "log": str(log), "detector": detector}
    told["sees"] = {"users": sees_users, "items": sees_items, "clicks": sees_clicks}
    told |= _tables(made)
    (to / "drill.json").write_text(dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if json:
        print_json(told)
    else:
        _print(made, ways)
        print_facts(
            {"targets": [str(one) for one in ids], "fake users": [f"{len(one)} {name}" for name, one in fakes.items()]}
        )
    err.print(f"drill.json, poisoned logs and plots: {to.resolve()}", soft_wrap=True)


# -- what was asked for ------------------------------------------------------------------------------------------------


def _each_once(**options: Sequence[str]) -> None:
    for option, names in options.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidArgument(f"--{option} names {', '.join(twice)} more than once; expected each once")


def _plan(attacks: Collection[Rule | Through], surrogates: Collection[Model]) -> dict[str, Model | None]:
    """Every attack by its name, and the surrogate it goes through, if any; the name tells it where there are several.

    What goes through one is called learned or hidden, with several learned-als and the like.
    """
    if not attacks or not surrogates:
        raise InvalidArgument(f"{len(attacks)} attacks, {len(surrogates)} surrogates; expected at least one of each")
    plan: dict[str, Model | None] = {}
    for name in attacks:
        if name not in get_args(Through):
            plan[name] = None
        elif len(surrogates) == 1:
            plan[name] = next(iter(surrogates))
        else:
            plan |= {f"{name}-{model}": model for model in surrogates}
    return plan


def _victim(name: str) -> Recommender[Any]:
    if name not in MODELS:
        raise UnknownName("recommender", name, list(MODELS))
    return MODELS[name]()


def _budget(text: str, clicks: int | None) -> Budget:
    from tastemaker.attack.profiles import Budget

    try:
        users = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError as error:
        raise InvalidArgument(f"budget {text!r}; expected a number of fake users, or a share such as 1%") from error
    return Budget(users, clicks)


def _targets(given: list[str], read: FeedbackLog) -> NDArray[np.int32]:
    """Rows of the items with these ids, which are numbers where the log's are."""
    ids: list[Any] = list(given)
    if read.item_ids.series.dtype.is_integer():
        try:
            ids = [int(one) for one in given]
        except ValueError as error:
            raise InvalidArgument(f"targets {given}; the log's item ids are whole numbers") from error
    _each_once(targets=[str(one) for one in ids])
    rows = read.item_ids.find(ids)
    if strange := [str(one) for one, row in zip(ids, rows, strict=True) if row < 0]:
        some = ", ".join(str(one) for one in read.item_ids.series.head(3))
        raise UnknownId(
            f"the log holds no item {', '.join(strange[:5])}; expected ids of its {read.n_items:,} items, such as "
            f"{some}"
        )
    return rows


def _surrogate(name: Model, rank: int, n_users: int, n_items: int) -> Surrogate:
    """Surrogates in the paper's proportions at this rank. n_users: real and fake."""
    rank = min(rank, n_items)
    if name == "als":
        from tastemaker.attack.bilevel_als import ALS

        return ALS(rank)
    if name == "wmf":
        from tastemaker.attack.bilevel_wmf import WMF

        return WMF(rank, batch=_batch(n_users))
    from tastemaker.attack.bilevel_autoencoder import ItemAutoencoder

    return ItemAutoencoder((2 * rank, rank), batch=_batch(n_items))


def _batch(rows: int) -> int:
    """Rows in a mini-batch, so that an epoch has about as many steps as the paper's, whatever the size of the log.

    13,149 people (or 14,007 items) in mini-batches of 2,048 make 7 steps of Adam; 600 people would make one. A larger
    log than the paper's has more of them.
    """
    return min(2048, ceil(rows / 7))


def _detectors(attacks: Collection[str]) -> dict[str, Detector]:
    """All three. `Learned` is taught by two rules that are not among the attacks; by its usual two where all are."""
    from tastemaker.attack import heuristic
    from tastemaker.attack.detect import PCA, Learned, Reconstruction, Statistics

    order: tuple[Rule, ...] = ("random", "bandwagon", "power-items", "average", "power-users", "segment")
    rules = [getattr(heuristic, name.replace("-", "_")) for name in order if name not in attacks][:2]
    taught = Learned(tuple(rules)) if rules else Learned()
    return {"pca": PCA(), "statistics": Statistics(), "reconstruction": Reconstruction(), "learned": taught}


def _defence(name: Way, log: FeedbackLog, detector: Detector, n_fakes: int, people: int) -> Defence:
    """people: users with likes."""
    from tastemaker.attack import defend
    from tastemaker.attack.certify import Bagging

    accounts = n_fakes + 1e-6  # a share is rounded down to accounts, and the product must not fall below a whole number
    share = max(accounts / (n_fakes + people), (1 + 1e-6) / people)  # at least one, also where there are no fakes
    made: dict[Way, Callable[[], Defence]] = {
        "distrust": lambda: defend.Distrust(detector, share),
        "cap": defend.Cap,
        "trimmed": defend.Trimmed,
        "welsch": defend.Welsch,
        "adversarial": defend.Adversarial,
        "bagging": lambda: Bagging(size=max(1, min(100, len(log.users) // 5))),
    }
    return made[name]()


# -- fake users --------------------------------------------------------------------------------------------------------


def _rng(seed: int, *words: str) -> np.random.Generator:
    """Of each piece of work its own, so that which others there are, and in which order, changes none."""
    return np.random.default_rng([seed, *" ".join(words).encode()])


def _fakes(
    plan: Mapping[str, Model | None],
    seen: View,
    budget: Budget,
    longest: int | None,
    models: Mapping[Model, Surrogate],
    detector: Detector,
    rounds: int,
    k: int,
    seed: int,
    say: Callable[[str], Any],
) -> dict[str, Fakes]:
    """The attacks of the plan, by its names, for the log that is seen. Rules come first: they are quick, and say at
    once what they cannot do. longest: `evade`'s."""
    from tastemaker.attack import bilevel, heuristic
    from tastemaker.attack.evade import evade

    log, goals = seen.log, seen.targets

    @cache
    def learned(model: Model) -> Fakes:
        return bilevel.attack(
            log, goals, budget, surrogate=models[model], rounds=rounds, k=k, rng=_rng(seed, "learned", model),
            progress=lambda one: say(f"attack learned through {model}: round {one.round} of {rounds}"),
        )  # fmt: skip

    made: dict[str, Fakes] = {}
    for name, model in sorted(plan.items(), key=lambda one: one[1] is not None):
        say(f"attack {name}")
        if model is None:
            made[name] = getattr(heuristic, name.replace("-", "_"))(log, goals, budget, rng=_rng(seed, name))
        elif name.startswith("learned"):
            made[name] = learned(model)
        else:
            made[name] = evade(log, learned(model), detector, longest=longest, rng=_rng(seed, "hidden", model))
    return {name: made[name] for name in plan}


# -- the folder --------------------------------------------------------------------------------------------------------


def _check_folder(to: Path, names: Collection[str]) -> None:
    """Raise where writing would be impossible, or over something that no drill wrote."""
    if to.exists() and not to.is_dir():
        raise DataError("is a file; a drill is written to a folder, name one with --out", file=to)
    for folder in (to / name for name in names):
        if folder.exists() and not _is_poisoned(folder):
            raise DataError("is there already and is no poisoned log; name another folder with --out", file=folder)


def _forget(to: Path) -> None:
    """Remove the drill that the folder holds, so that what lies there in the end is one drill; nothing else."""
    for file in ("drill.json", *(f"{name}.svg" for name in PLOTS)):
        (to / file).unlink(missing_ok=True)
    kinds = [f"{name}-{model}" for name in get_args(Through) for model in get_args(Model)]
    for name in (*get_args(Rule), *get_args(Through), *kinds):
        if _is_poisoned(folder := to / name):
            for path in (*folder.glob("*.parquet"), folder / "schema.json"):
                path.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()


def _is_poisoned(folder: Path) -> bool:
    try:
        return c.SIMULATED in pl.read_parquet_schema(folder / "events.parquet")
    except (OSError, pl.exceptions.PolarsError):
        return False


def _plot(made: Drill, to: Path) -> None:
    from tastemaker.attack.report import plot_detection, plot_price

    try:
        for name, plot in zip(PLOTS, (plot_detection, plot_price), strict=True):
            plot(made).savefig(to / f"{name}.svg", metadata={"Date": None})
    except MissingExtra as error:
        err.print(f"note: no plots; {error}", soft_wrap=True)


# -- what came out -----------------------------------------------------------------------------------------------------


def _print(made: Drill, ways: Mapping[str, Defence]) -> None:
    label = ["attack", "defence"]
    reached = {"hit_rate_before": "before", "hit_rate": "after", "accuracy": "accuracy", "accuracy_change": "change"}
    reached |= {"change_low": "low", "change_high": "high"}
    got = {"stakeholder": "who", "hit_rate": "hit_rate", "hit_rate_change": "change"}
    got |= {"exposure": "exposure", "exposure_change": "change "}
    shown = ["detector", "attack", "taught", "auc", "low", "high", "precision", "n_fake"]
    places = selectors.float().round(4)

    def of(victim: str, table: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
        return table.filter(pl.col("victim") == victim).select(*label, *columns).rename(columns).with_columns(places)

    for victim in made.outcomes["victim"].unique(maintain_order=True):
        title = f"{victim}: targets' hit rate@{made.k} before and after, and {made.metric} with its change"
        print_table(title, of(victim, made.outcomes, reached))
    for victim in made.outcomes["victim"].unique(maintain_order=True):
        title = f"{victim}: what each got; changes against neither attack nor defence"
        print_table(title, of(victim, made.stakeholders, got))
    seen = made.detection.with_columns(places, pl.when("taught").then(pl.lit("yes")).alias("taught"))
    print_table("Can it be seen? Fake users against real ones", seen.select(shown))
    if made.detection["taught"].any():
        out.print("taught: the detector learned from this very rule, so the row says little of attacks it has not seen")
    gains = made.transfer.with_columns(places, pl.col("surrogate").str.extract(r"^(\w+)")).drop(c.SIMULATED)
    print_table("Transfer: change of the targets' hit rate, undefended", gains)
    _print_proofs(made.certificates, ways)


def _print_proofs(table: pl.DataFrame, ways: Mapping[str, Defence]) -> None:
    """What is proven of each victim; where that is nothing, in words."""
    from tastemaker.attack.certify import Bagging

    proven = (pl.col("fakes") > 0) & (pl.max_horizontal("kept", "users_keeping", "targets_out") > 0)
    for (victim, way), part in table.group_by("victim", "defence", maintain_order=True) if len(table) else ():
        if part.filter(proven).height:
            title = f"Proven of {victim} with {way}, whatever fake users do"
            print_table(
                f"{title} (share of places that stay, of targets that stay out)", part.drop("victim", "defence")
            )
            continue
        defence = ways[str(way)]
        assert isinstance(defence, Bagging)  # the one defence that can prove anything
        out.print(f"\nProven of {victim} with {way}: {defence.bags} bags prove nothing here; thousands are needed")


def _tables(made: Drill) -> dict[str, list[dict[str, Any]]]:
    """The drill's tables as rows; what is not defined is null."""
    names = ("outcomes", "stakeholders", "detection", "curves", "transfer", "attacks", "certificates")
    numbers = selectors.float()
    finite = pl.when(numbers.is_finite()).then(numbers)  # a curve's first threshold is infinite
    return {name: getattr(made, name).with_columns(finite).to_dicts() for name in names}
