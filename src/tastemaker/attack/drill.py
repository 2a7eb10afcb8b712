"""The drill: what these fake users do to these recommenders, what stops them, and who pays for it.

Every victim is fitted on the clean log and on each poisoned one, with each defence, always from the same seed; then all
lists are judged on the same test log. Attacks run on copies; nothing leaves this process. In every table the column
`simulated` is True where fake users were in the log.

Easy to get wrong:
- Before and after speak of the same victim with the same defence, so a defence that already hides the target without
  an attack gets no credit for it. The price of a defence is the change against the *undefended* victim on the clean
  log.
- Lists leave out what a user has events on in the log the model was fitted on; fake users get no lists and are not
  judged. Only users of the test log who have events in the training log count.
- One drill holds one run of each attack and one seed. Intervals are over users; another run of the attack may differ
  by more.
- A log that is poisoned already is refused: its fake users would be taken for people, judged and made an average of.
- `Learned` knows the rules it was taught. Where it is judged on one of them, the row of `detection` is marked `taught`:
  that AUC says nothing about attacks it has not seen.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import polars as pl

from tastemaker import columns as c
from tastemaker.attack.certify import Votes, certificate
from tastemaker.attack.defend import Choosy, Defence, Distrust, Plain, Victim, fresh
from tastemaker.attack.detect import PCA, Detection, Detector, Learned, Reconstruction, Statistics, judge
from tastemaker.attack.hits import hit_rate, per_target
from tastemaker.attack.profiles import Fakes, poisoned, target_rows
from tastemaker.data.feedback import FeedbackLog
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.compare import paired
from tastemaker.evaluate.groups import Groups, by_popularity
from tastemaker.evaluate.ranking import depth, per_user
from tastemaker.evaluate.stakeholders import stakeholders

NONE = "none"  # the attack, or the defence, that is not there
T = TypeVar("T")
Some: TypeAlias = T | Sequence[T] | Mapping[str, T]  # one, several, or several by name


@dataclass(frozen=True, eq=False)
class Drill:
    """What came out.

    Attributes:
        outcomes: victim, attack, defence, simulated; hit_rate_before, hit_rate: share of judged users with a target in
            their first k, without and with the fakes; per_target_before, per_target: mean over targets, among users who
            have not clicked it; accuracy: mean `metric` of likes in the test log; accuracy_change, change_low,
            change_high: against the undefended victim on the clean log, users resampled in pairs; detection_auc: of the
            detector a defence relies on. Null: nothing to say, such as hits without an attack, or a defence that this
            victim cannot have.
        stakeholders: victim, attack, defence, simulated, then the table of `evaluate.stakeholders` (consumers, then the
            groups of makers), and hit_rate_change, exposure_change, liked_exposure_change against the undefended
            victim on the clean log.
        detection: detector, attack, simulated, taught (whether the detector was taught the rule of this very attack),
            auc, low, high, average_precision, precision (at the true number of fakes), n_fake, n_real.
        curves: detector, attack, simulated, then the curve of `detect.Detection`.
        transfer: attack, surrogate, simulated, and a column a victim: hit rate with less without the fakes, undefended.
        attacks: attack, method, surrogate, simulated, users, share (of real users), clicks (mean), targets.
        certificates: victim, defence, then what `certify.certificate` proves of the clean log, a row a number of fake
            users: a few, and as many as each attack has. Empty without a defence that can prove anything.
    """

    outcomes: pl.DataFrame
    stakeholders: pl.DataFrame
    detection: pl.DataFrame
    curves: pl.DataFrame
    transfer: pl.DataFrame
    attacks: pl.DataFrame
    certificates: pl.DataFrame
    k: int
    metric: str
    seed: int

    def figures(self) -> dict[str, float]:
        """Every number of outcomes and detection by a flat name such as outcomes.factors.random.none.hit_rate."""
        keys = {"outcomes": ("victim", "attack", "defence"), "detection": ("detector", "attack")}
        return {
            ".".join([part, *(str(row[key]) for key in names), name]): value
            for part, names in keys.items()
            for row in getattr(self, part).iter_rows(named=True)
            for name, value in row.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }


def drill(
    victims: Some[Victim],
    log: FeedbackLog,
    fakes: Some[Fakes],
    defences: Some[Defence] = (),
    *,
    test: FeedbackLog,
    groups: Groups | None = None,
    detectors: Some[Detector] | None = None,
    k: int = 10,
    metric: str | None = None,
    draws: int = 500,
    seed: int = 0,
    say: Callable[[str], Any] = lambda text: None,
) -> Drill:
    """Attack and defend each victim, and tell what everybody got.

    Args:
        victims: recommenders, fitted or not; copies are fitted, they stay as they are. Named by `kind`, or as given.
        log: the clean training log, likes and dislikes.
        fakes: attacks, made for this log.
        defences: ways to train beside the plain one, which is always there.
        test: later or held-out events over the same vocabularies.
        groups: of makers; by default the well-known and the lesser-known half of the likes in `log`.
        detectors: `PCA()`, `Statistics()`, `Reconstruction()`, `Learned()` by default.
        k: length of the lists. metric: of `evaluate.ranking`, NDCG@k by default.
        draws: bootstrap samples of users.
        say: called with a sentence before each fit.

    Raises InvalidArgument for a victim that cannot be refitted, fakes made for another log, and what `check` refuses;
    UnknownId for targets that do not exist.
    """
    metric = metric or f"NDCG@{k}"
    check(victims, log, test=test, k=k, metric=metric, seed=seed)
    who = _who(victims)
    attacks = _named(fakes, lambda one: one.method, "attacks")
    ways: dict[str, Defence] = {NONE: Plain(), **_named(defences, lambda one: type(one).__name__.lower(), "defences")}
    finders = _named(
        (PCA(), Statistics(), Reconstruction(), Learned()) if detectors is None else detectors,
        lambda one: type(one).__name__.lower(),
        "detectors",
    )
    if not attacks:
        raise InvalidArgument("0 attacks; expected at least one, such as heuristic.random(log, targets, Budget(0.01))")
    for one in attacks.values():
        target_rows(log, one.targets)
    judged = _judged(log, test)
    groups = groups or by_popularity(log)
    logs = {NONE: log} | {name: poisoned(log, one) for name, one in attacks.items()}
    surrogates = {name: _surrogate(one) for name, one in attacks.items()}

    found: dict[tuple[str, str], Detection] = {}
    suspicion: dict[tuple[Detector, str], Detection] = {}
    doubted = {name: way.detector for name, way in ways.items() if isinstance(way, Distrust)}
    for attack, detector in [(a, d) for a in attacks for d in (*finders.values(), *doubted.values())]:
        if (detector, attack) not in suspicion:
            say(f"{attack}: asking {detector}")
            fake = np.arange(logs[attack].n_users) >= log.n_users
            suspicion[detector, attack] = judge(detector.score(logs[attack]), fake)
    for attack in attacks:
        found |= {(name, attack): suspicion[detector, attack] for name, detector in finders.items()}

    outcomes: list[dict[str, Any]] = []
    shares: list[pl.DataFrame] = []
    proofs: list[pl.DataFrame] = []
    for name, victim in who.items():
        plain: tuple[pl.DataFrame, pl.DataFrame] | None = None  # undefended, clean: accuracy by user, stakeholders
        for way, defence in ways.items():
            suits = not isinstance(defence, Choosy) or defence.suits(victim)
            clean = pl.DataFrame()
            for attack, seen in logs.items():
                label = {"victim": name, "attack": attack, "defence": way, c.SIMULATED: attack != NONE}
                outcomes.append(label)
                if not suits:
                    continue
                say(f"{name}: {attack} attack, defence {way}")
                model = defence.fit(victim, seen, rng=seed)
                if not callable(getattr(model, "recommend", None)):
                    raise InvalidArgument(
                        f"{name}.fit returned {model!r}, which recommends nothing; expected the fitted recommender: "
                        f"end its fit with 'return self'"
                    )
                recs = model.recommend(judged.users, max(k, depth([metric])), exclude=seen)
                accuracy = per_user(recs, judged, [metric])
                recs = recs.filter(pl.col(c.RANK) < k)
                table = stakeholders(recs, judged, groups, draws=draws, rng=seed)
                if attack == NONE:
                    clean = recs
                    plain = plain or (accuracy, table)
                    if isinstance(model, Votes):
                        proofs.append(_proof(name, way, model, judged.users, attacks, k))
                else:
                    goals = attacks[attack].targets
                    for when, lists in (("_before", clean), ("", recs)):
                        label[f"hit_rate{when}"] = hit_rate(lists, goals, judged.users, k)
                        label[f"per_target{when}"] = _number(per_target(lists, goals, judged.users, log, k))
                    if way in doubted:
                        label["detection_auc"] = suspicion[doubted[way], attack].auc
                assert plain is not None  # the undefended victim on the clean log comes first
                change = paired(accuracy, plain[0], rng=seed, n=draws).row(0, named=True)
                label |= {"accuracy": change["mean_a"], "accuracy_change": change["difference"]}
                label |= {"change_low": change["low"], "change_high": change["high"]}
                changes = [
                    (table[figure] - plain[1][figure]).alias(f"{figure}_change")
                    for figure in ("hit_rate", "exposure", "liked_exposure")
                ]
                words = [pl.lit(label[key]).alias(key) for key in ("victim", "attack", "defence", c.SIMULATED)]
                shares.append(table.with_columns(changes).select(*words, pl.all()))

    numbers = ("hit_rate_before", "hit_rate", "per_target_before", "per_target", "accuracy", "accuracy_change",
               "change_low", "change_high", "detection_auc")  # fmt: skip
    schema: dict[str, Any] = {"victim": pl.String, "attack": pl.String, "defence": pl.String, c.SIMULATED: pl.Boolean}
    results = pl.DataFrame(outcomes, schema=schema | dict.fromkeys(numbers, pl.Float64))
    return Drill(
        results,
        pl.concat(shares),
        _detections(found, finders, attacks),
        _curves(found),
        _transfer(results, surrogates),
        _attacks(attacks, surrogates, log),
        pl.concat(proofs or [pl.DataFrame()]),
        k, metric, seed,
    )  # fmt: skip


def check(
    victims: Some[Victim], log: FeedbackLog, *, test: FeedbackLog, k: int = 10, metric: str | None = None, seed: int = 0
) -> None:
    """Raise for what a drill refuses whatever the attack is; worth asking before a long attack is computed.

    Arguments as in `drill`. Raises InvalidArgument for no victims, one that cannot be refitted, a log that is graded or
    poisoned already, a test log of other vocabularies or without users to judge, a k that the catalogue cannot fill, a
    seed below 0; UnknownName for the metric.
    """
    if not (who := _who(victims)):
        raise InvalidArgument("0 victims; expected at least one recommender, such as Factors()")
    for victim in who.values():
        _check_victim(victim)
    if seed < 0:
        raise InvalidArgument(f"seed={seed}; expected a whole number from 0")
    log.require_signed("a drill")
    if test.user_ids != log.user_ids or test.item_ids != log.item_ids:
        raise InvalidArgument("the test log holds other users or items than the training log; split one log")
    for what, part in (("training", log), ("test", test)):
        if c.SIMULATED in part.events.columns and (fake := int(part.events[c.SIMULATED].sum())):
            raise InvalidArgument(
                f"the {what} log holds {fake:,} events marked '{c.SIMULATED}', such as fake users of an earlier drill; "
                f"expected real ones only: take the log from before, or drop them with "
                f"log.select(~pl.col('{c.SIMULATED}').fill_null(False)).compact(), and .save(folder) for the command "
                f"line"
            )
    if not 1 <= k <= log.n_items:
        raise InvalidArgument(f"k={k}; expected 1 to {log.n_items}, the number of items")
    depth([metric or f"NDCG@{k}"])
    if not (_judged(log, test).value > 0).any():
        raise InvalidArgument("nobody with events in the training log likes anything in the test log; nothing to judge")


def _who(victims: Some[Victim]) -> dict[str, Victim]:
    return _named(victims, lambda one: str(getattr(one, "kind", type(one).__name__)), "victims")


def _named(given: Some[T], name: Callable[[T], str], what: str) -> dict[str, T]:
    """By name, as given or from `name`; names that repeat are numbered from 2."""
    if isinstance(given, Mapping):
        result = dict(given)
    else:
        result = {}
        for one in given if isinstance(given, Sequence) else [given]:
            base = name(one)
            same = sum(known == base or known.startswith(f"{base} ") for known in result)
            result[base if not same else f"{base} {same + 1}"] = one
    if NONE in result:
        raise InvalidArgument(f"{what} hold one named '{NONE}', which stands for none at all; name it otherwise")
    return result


def _check_victim(victim: Victim) -> None:
    fresh(victim)
    takes = inspect.signature(victim.fit).parameters
    if missing := [name for name in ("weight", "rng") if name not in takes]:
        raise InvalidArgument(
            f"{type(victim).__name__}.fit takes no {' and no '.join(missing)}, so it cannot be refitted under a "
            f"defence and a seed; expected fit(log, *, weight=None, rng=None)"
        )


def _judged(log: FeedbackLog, test: FeedbackLog) -> FeedbackLog:
    """The test events of users who have events in the log."""
    return test.select(np.isin(test.user, log.users))


def _surrogate(fakes: Fakes) -> str | None:
    given = fakes.settings.get("surrogate")
    return None if given is None else str(given)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _detections(
    found: Mapping[tuple[str, str], Detection], detectors: Mapping[str, Detector], attacks: Mapping[str, Fakes]
) -> pl.DataFrame:
    rows = []
    for (detector, attack), one in found.items():
        numbers = {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name != "curve"}
        taught = _taught(detectors[detector], attacks[attack])
        rows.append({"detector": detector, "attack": attack, c.SIMULATED: True, "taught": taught, **numbers})
    return pl.DataFrame(rows)


def _taught(detector: Detector, fakes: Fakes) -> bool:
    """Whether the detector learned from the rule that made these fakes, rewritten since (`evade`) or not."""
    rules = detector.attacks if isinstance(detector, Learned) else ()
    return fakes.method.removesuffix(" evading") in [rule.__name__ for rule in rules]


def _curves(found: Mapping[tuple[str, str], Detection]) -> pl.DataFrame:
    parts: Iterable[pl.DataFrame] = (
        one.curve.select(
            pl.lit(detector).alias("detector"),
            pl.lit(attack).alias("attack"),
            pl.lit(True).alias(c.SIMULATED),
            pl.all(),
        )
        for (detector, attack), one in found.items()
    )
    tables = list(parts)
    return pl.concat(tables) if tables else pl.DataFrame()


def _transfer(outcomes: pl.DataFrame, surrogates: Mapping[str, str | None]) -> pl.DataFrame:
    gains = outcomes.filter((pl.col("defence") == NONE) & pl.col(c.SIMULATED)).select(
        "attack", "victim", (pl.col("hit_rate") - pl.col("hit_rate_before")).alias("gain")
    )
    wide = gains.pivot("victim", index="attack", values="gain", maintain_order=True)
    surrogate = pl.Series("surrogate", [surrogates[attack] for attack in wide["attack"]], pl.String)
    return wide.select("attack", surrogate, pl.lit(True).alias(c.SIMULATED), pl.exclude("attack"))


def _attacks(attacks: Mapping[str, Fakes], surrogates: Mapping[str, str | None], log: FeedbackLog) -> pl.DataFrame:
    real = len(np.unique(log.user[log.value > 0]))
    return pl.DataFrame(
        {
            "attack": list(attacks),
            "method": [one.method for one in attacks.values()],
            "surrogate": pl.Series(list(surrogates.values()), dtype=pl.String),
            c.SIMULATED: [True] * len(attacks),
            "users": [len(one) for one in attacks.values()],
            "share": [len(one) / real for one in attacks.values()],
            "clicks": [float(np.mean([len(profile) for profile in one.profiles])) for one in attacks.values()],
            "targets": [one.targets.tolist() for one in attacks.values()],
        }
    )


def _proof(victim: str, defence: str, votes: Votes, users: Any, attacks: Mapping[str, Fakes], k: int) -> pl.DataFrame:
    """What is proven of the clean log, also against the numbers of fake users that the attacks have."""
    numbers = sorted({0, 1, 2, 5, 10, *map(len, attacks.values())})
    targets = np.unique(np.concatenate([one.targets for one in attacks.values()]))
    found = certificate(votes, users, k=k, fakes=numbers, targets=targets)
    return found.select(pl.lit(victim).alias("victim"), pl.lit(defence).alias("defence"), pl.all())
