"""What stops it, and what that costs.

`attack.drill` on the synthetic world, on MovieLens (well-known films as targets) and on the gallery: a learned attack
and a rule of thumb against every defence.

Under an attack's name stands the hit rate at 10 without and with its fakes, both under the same defence. The other
columns are the price, with nobody attacking, against the undefended victim: *accuracy* is the change of NDCG@10 with
its 95% interval over people (paired bootstrap; *no difference* where that holds zero), *consumers* that of liked items
in a list of ten, and the last two that of the share of all places that goes to well-known and to lesser-known items.

*Distrust* leaves out the accounts a detector doubts most, as many as there are fakes. *Cap*: nobody's events weigh
more than those of the account in the middle. *Trimmed* and *Welsch* losses give events that fit badly no or little say,
*APR* trains against disturbed parameters, *VAT* disturbs those more who are fitted well, and *bagging* lets models of
a few accounts each vote.

Detectors are judged by AUC over all accounts, never at one threshold; below 0.5 fakes look more ordinary than people
do. The learned detector was taught on random and bandwagon fakes only, so its figures on these two (in italics) are no
test; all others are of attacks it never met. *Evading* rows are of an attacker who asks that detector and goes on until
the fakes are no more suspicious than a quantile of real accounts (`attack.evade`). The attacker may click as much as
nine in ten people do, and clicks fewer targets where these are what shows. One learned attack and one seed a place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recipes.injection import elsewhere, synthetic
from recipes.injection.keep import Keep, Numbers, Unit
from recipes.injection.study import Attack, Learned, Rule, Study, module
from tastemaker.attack import certify, clicks, defend, detect, hits, profiles
from tastemaker.attack import drill as drilling
from tastemaker.attack import evade as hiding
from tastemaker.attack import heuristic as rules
from tastemaker.attack.bilevel import Loop
from tastemaker.attack.certify import Bagging
from tastemaker.attack.defend import Adversarial, Cap, Defence, Distrust, Plain, Trimmed, Welsch
from tastemaker.attack.profiles import Fakes, poisoned
from tastemaker.evaluate.compare import paired
from tastemaker.evaluate.ranking import per_user
from tastemaker.recommend import Factors, ItemKNN, LightGCN, Popular
from tastemaker.recommend.contract import Recommender

K = 10
TAUGHT = ("random", "bandwagon")  # to `Learned`, by default
DETECTORS: dict[str, detect.Detector] = {
    "pca": detect.PCA(), "statistics": detect.Statistics(), "reconstruction": detect.Reconstruction(),
    "learned": detect.Learned(),
}  # fmt: skip
LABELS = {
    "none": "none", "pca": "distrust: PCA", "statistics": "distrust: statistics",
    "reconstruction": "distrust: reconstruction", "learned": "distrust: learned", "cap": "cap",
    "trimmed": "trimmed loss", "welsch": "Welsch loss", "apr": "APR", "vat": "VAT", "bagging": "bagging",
}  # fmt: skip
VICTIMS = ("factors", "itemknn", "mf")
RULES = {name: Rule(name, getattr(rules, name)) for name in ("random", "bandwagon", "average", "segment")}
ATTACKS = {"ours": "learned attack", "average": "average"}  # against every defence; the other rules are only detected
QUANTILES = (0.9, 0.7, 0.5)  # of real accounts' suspicion, which the evading fakes may reach
PRICES = ("hit_rate_change", "exposure_change", "liked_exposure_change")
FAKES = (0, 1, 2, 5, 10, 20)  # of the certificates


@dataclass(frozen=True, eq=False)
class Stage:
    """Where a drill takes place. name: of its figures; share: of accounts that a defence by distrust leaves out, about
    those that are fake; targets: name of the study's set; proofs: what is certified, by label."""

    name: str
    about: str
    study: Study
    targets: str
    share: float
    victims: Mapping[str, Recommender[Any]]
    proofs: Mapping[str, tuple[Recommender[Any], Bagging]]


def stages(data: Path | None, keep: Keep, seed: int) -> list[Stage]:
    graph = LightGCN(epochs=30, layers=0)  # matrix factorisation that gradient defences can train
    popular, knn = Popular(by="likes"), ItemKNN()
    proofs: dict[str, tuple[Recommender[Any], Bagging]] = {
        "`popular`, 2,000 bags of 5": (popular, Bagging(2000, 5)),
        "`itemknn`, 2,000 bags of 20": (knn, Bagging(2000, 20)), "`itemknn`, 100 bags of 100": (knn, Bagging(100, 100)),
    }  # fmt: skip
    world = synthetic.study(synthetic.DATA_SEEDS[0], keep, seed, rounds=20)
    attacks: dict[str, Attack] = {"ours": Learned("learned attack", synthetic.SHORT, Loop()), **RULES}
    dense: dict[str, Recommender[Any]] = {
        "factors": Factors(rank=20, reg=0.1, unseen=0.05),
        "itemknn": knn,
        "mf": graph,
    }
    first = replace(world, part="defences", attacks=attacks)
    found = [Stage("synthetic", "Synthetic world, 100 fakes of 12 clicks", first, "item", 0.1, dense, proofs)]
    usual: dict[str, Recommender[Any]] = {"factors": Factors(), "itemknn": knn, "mf": graph}
    cheap: dict[str, tuple[Recommender[Any], Bagging]] = {
        "`popular`, 2,000 bags of 5": (popular, Bagging(2000, 5)), "`popular`, 100 bags of 100": (popular, Bagging()),
    }  # fmt: skip
    for place in elsewhere.places(data, seed):
        known = {"ours": elsewhere.ATTACKS["ours"], **RULES}
        here = Study("defences", place.train, place.test, place.targets, place.budget, known, {}, keep, k=K, seed=seed)
        share = place.budget.of(place.train)[0] / len(place.train.users)
        proven = cheap if place.name == "movielens" else proofs  # a bag of neighbours of 9,000 films takes seconds
        found.append(Stage(place.name, place.about, here, next(iter(place.targets)), share, usual, proven))
    return found


def defences(stage: Stage) -> dict[str, Defence]:
    bag = min(100, len(stage.study.train.users) // 5)
    return {name: Distrust(detector, stage.share) for name, detector in DETECTORS.items()} | {
        "cap": Cap(), "trimmed": Trimmed(), "welsch": Welsch(), "apr": Adversarial(), "vat": Adversarial(per_user=True),
        "bagging": Bagging(size=bag),
    }  # fmt: skip


def run(*, data: Path | None, quick: bool, seed: int, keep: Keep) -> tuple[Numbers, str]:
    """Figures, and the page's section."""
    if quick:
        return {}, "Left out with `--quick`."
    figures, parts = Numbers(), list[str]()
    for stage in stages(data, keep, seed):
        parts.append(f"### {stage.about}")
        if seen := detected(stage):
            parts.append(_detection(seen))
        found = {victim: drilled(stage, victim) for victim in stage.victims}
        for victim, one in found.items():
            parts += [_table(one, victim), _least(one, victim)] if one else [f"`{victim}`: not run."]
        proven = certified(stage)
        hidden = {victim: evaded(stage, victim) for victim in stage.victims}
        if seen and all(hidden.values()):
            parts.append(_frontier(seen, {name: one for name, one in hidden.items() if one}))
        if proven:
            parts.append(_proofs(stage, proven))
        for some in (seen, *found.values(), *hidden.values(), proven):
            figures |= {f"{stage.name}.{key}": value for key, value in (some or {}).items()}
    return figures, "\n\n".join(parts)


# -- units -------------------------------------------------------------------------------------------------------------


def _settings(stage: Stage, **more: str) -> dict[str, str]:
    study = stage.study
    fakes = " ".join(study.fakes_unit(stage.targets, name).key for name in study.attacks)
    return {"data": study.data, "seed": str(study.seed), "k": str(K), "fakes": fakes, **more}


def _unit(stage: Stage, what: str, code: tuple[Any, ...], **settings: str) -> Unit:
    name = f"{stage.targets.replace(' ', '_')}-{what}"
    return Unit("defences", name, f"defences {what}", _settings(stage, **settings), (*code, clicks, profiles))


def _given(stage: Stage, attack: str) -> Fakes | None:
    return stage.study.fakes(stage.targets, attack)


def evading(stage: Stage, detector: str, quantile: float) -> Fakes | None:
    """The learned attack, hidden from a detector."""
    study, about = stage.study, repr(DETECTORS[detector])
    unit = _unit(stage, f"evading-{detector}-{quantile:g}", (hiding, detect), detector=about, quantile=str(quantile))

    def make(_: Path) -> Fakes:
        ours = _given(stage, "ours")
        assert ours is not None  # `keep` makes what is missing, or this would not run
        longest = hiding.usual_length(study.train)
        study.keep.say(f"{stage.name}: evading {detector} at {quantile:g}")
        return hiding.evade(study.train, ours, DETECTORS[detector], quantile=quantile, longest=longest, rng=study.seed)

    return study.keep.fakes(unit, make)


def detected(stage: Stage) -> Numbers | None:
    """detection.DETECTOR.ATTACK.auc, low, high of every attack, and of evading ones what they click."""
    study = stage.study
    unit = _unit(stage, "detected", (detect, hiding), detectors=repr(DETECTORS), quantiles=str(QUANTILES))

    def make() -> Numbers:
        fakes = {name: _given(stage, name) for name in study.attacks}
        fakes |= {f"evading_{d}_{q:g}": evading(stage, d, q) for d in DETECTORS for q in QUANTILES}
        figures = Numbers()
        for attack, one in fakes.items():
            assert one is not None
            log = poisoned(study.train, one)
            for name, detector in DETECTORS.items():
                study.keep.say(f"{stage.name}: {attack} before {name}")
                judged = detect.judge(detector.score(log), np.arange(log.n_users) >= study.train.n_users)
                start = f"detection.{name}.{attack}"
                figures |= {f"{start}.auc": judged.auc, f"{start}.low": judged.low, f"{start}.high": judged.high}
            for word in ("hidden", "clicks", "targets_clicked") if attack.startswith("evading") else ():
                figures[f"evading.{attack}.{word}"] = float(one.settings[word] or 0.0)
        return figures

    return study.keep.numbers(unit, make)


def drilled(stage: Stage, victim: str) -> Numbers | None:
    """One victim's drill: flat figures of its outcomes and stakeholders, and how many people were judged."""
    study, model = stage.study, stage.victims[victim]
    ways = defences(stage)
    code = (drilling, certify, defend, detect, hits, module(model))
    unit = _unit(stage, victim, code, victim=repr(model), defences=repr(ways), attacks=str(list(ATTACKS)))

    def make() -> Numbers:
        given = {name: one for name in ATTACKS if (one := _given(stage, name)) is not None}
        found = drilling.drill(
            {victim: model}, study.train, given, ways, test=study.test, detectors=(), k=K, draws=200,
            seed=study.seed, say=study.keep.say,
        )  # fmt: skip
        figures = found.figures() | {f"people.{victim}": float(len(_judged(study)))}
        for row in found.stakeholders.iter_rows(named=True):
            words = ("victim", "attack", "defence", "stakeholder")
            name = ".".join(["stakeholders", *(row[word].replace(" ", "_") for word in words)])
            figures |= {f"{name}.{key}": row[key] for key in PRICES if row[key] is not None}
        return figures

    return study.keep.numbers(unit, make)


def evaded(stage: Stage, victim: str) -> Numbers | None:
    """hidden.VICTIM.DETECTOR.ATTACK: hit rate of the learned attack and of each evading one; `defended` under distrust
    by that detector."""
    study, model = stage.study, stage.victims[victim]
    code = (hiding, defend, detect, hits, module(model))
    unit = _unit(
        stage, f"evaded-{victim}", code, victim=repr(model), detectors=repr(DETECTORS), quantiles=str(QUANTILES),
        share=str(stage.share),
    )  # fmt: skip

    def make() -> Numbers:
        def reach(fakes: Fakes | None, way: Defence) -> float:
            assert fakes is not None
            log, people = poisoned(study.train, fakes), _judged(study)
            recs = way.fit(model, log, rng=study.seed).recommend(people, K, exclude=log)
            return hits.hit_rate(recs, fakes.targets, people, K)

        figures = Numbers()
        plain = reach(_given(stage, "ours"), Plain())
        for name, detector in DETECTORS.items():
            guard, start = Distrust(detector, stage.share), f"hidden.{victim}.{name}"
            figures[f"{start}.none"] = plain
            for quantile in QUANTILES:
                study.keep.say(f"{stage.name}: {victim}, evading {name} at {quantile:g}")
                fakes = evading(stage, name, quantile)
                figures[f"{start}.{quantile:g}"] = reach(fakes, Plain())
                if quantile == QUANTILES[-1] and guard.suits(model):
                    figures[f"{start}.none.defended"] = reach(_given(stage, "ours"), guard)
                    figures[f"{start}.{quantile:g}.defended"] = reach(fakes, guard)
        return figures

    return study.keep.numbers(unit, make)


def certified(stage: Stage) -> Numbers | None:
    """proof.LABEL.FAKES.kept, targets_out; proof.LABEL.accuracy and its change against the same model of everybody."""
    study = stage.study
    code = (certify, defend, *(module(model) for model, _ in stage.proofs.values()))
    unit = _unit(stage, "certified", code, proofs=repr(stage.proofs), numbers=str(FAKES))

    def make() -> Numbers:
        people, test = _judged(study), study.test
        metric, figures = f"NDCG@{K}", Numbers()
        for label, (model, bagging) in stage.proofs.items():
            study.keep.say(f"{stage.name}: proofs of {label}")
            votes = bagging.fit(model, study.train, rng=study.seed)
            whole = Plain().fit(model, study.train, rng=study.seed).recommend(people, K, exclude=study.train)
            judged = test.select(np.isin(test.user, people))
            both = [per_user(recs, judged, [metric]) for recs in (votes.recommend(people, K), whole)]
            change = paired(both[0], both[1], rng=study.seed, n=200).row(0, named=True)
            table = certify.certificate(votes, people, k=K, fakes=FAKES, targets=study.targets[stage.targets])
            start = f"proof.{_flat(label)}"
            figures |= {f"{start}.accuracy": change["mean_a"], f"{start}.accuracy_change": change["difference"]}
            figures |= {f"{start}.change_low": change["low"], f"{start}.change_high": change["high"]}
            for row in table.iter_rows(named=True):
                for word in ("kept", "targets_out"):
                    figures[f"{start}.{row['fakes']}.{word}"] = row[word]
        return figures

    return study.keep.numbers(unit, make)


def _judged(study: Study) -> profiles.Array:
    """People of the test log who have events to learn from."""
    return np.intersect1d(study.test.users, study.train.users)


def _flat(label: str) -> str:
    return label.replace("`", "").replace(",", "").replace(" ", "_")


# -- the page ----------------------------------------------------------------------------------------------------------


def _detection(found: Numbers) -> str:
    last = f"{QUANTILES[-1]:g}"
    attacks = {"ours": "learned attack"} | {name: how.label for name, how in RULES.items()}
    attacks |= {f"evading_{name}_{last}": f"learned, evading {name}" for name in DETECTORS}
    lines = [f"| detection, AUC | {' | '.join(DETECTORS)} |", "| --- |" + " ---: |" * len(DETECTORS)]
    for attack, label in attacks.items():
        cells = []
        for detector in DETECTORS:
            auc, low, high = (found[f"detection.{detector}.{attack}.{word}"] for word in ("auc", "low", "high"))
            mark = "*" * (detector == "learned" and attack in TAUGHT)
            cells.append(f"{mark}{auc:.3f}{mark} ({low:.2f}–{high:.2f})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(found: Numbers, victim: str) -> str:
    """A row a defence: targets under each attack, then the price with nobody attacking."""
    start = f"stakeholders.{victim}.none.none."
    makers = [key.split(".")[4] for key in found if key.startswith(start) and key.endswith(".exposure_change")][1:]
    columns = [*ATTACKS.values(), "accuracy", "consumers", *(one.replace("_", " ") for one in makers)]
    lines = [f"| `{victim}` with | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for way, label in LABELS.items():
        if f"outcomes.{victim}.none.{way}.accuracy" not in found:
            continue  # a defence this victim cannot have
        outcomes = (f"outcomes.{victim}.{attack}.{way}" for attack in ATTACKS)
        cells = [f"{found[f'{one}.hit_rate_before']:.3f} → {found[f'{one}.hit_rate']:.3f}" for one in outcomes]
        price = f"stakeholders.{victim}.none.{way}"
        cells.append("" if way == "none" else _price(found, f"outcomes.{victim}.none.{way}"))
        cells.append(f"{K * found[f'{price}.consumers.hit_rate_change']:+.3f}")
        cells += [f"{found[f'{price}.{one}.exposure_change']:+.3f}" for one in makers]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _price(found: Numbers, start: str) -> str:
    """Change of accuracy with its interval, which may hold zero."""
    low, high = found[f"{start}.change_low"], found[f"{start}.change_high"]
    interval = f"({low:+.4f} to {high:+.4f})"
    if low <= 0 <= high:
        return f"no difference {interval}"
    return f"{found[f'{start}.accuracy_change']:+.4f} {interval}"


def _least(found: Numbers, victim: str) -> str:
    """The defence under which the learned attack reaches fewest, in words.

    The interval of what it takes off treats the two hit rates as of different people, which makes it too wide where
    the same people are hit.
    """
    start = f"outcomes.{victim}.ours."
    ways = {way: found[key] for way in LABELS if (key := f"{start}{way}.hit_rate") in found}
    best = min(ways, key=lambda way: ways[way])
    if best == "none":
        return "No defence leaves the learned attack fewer people than it reaches without one."
    a, b, n = ways["none"], ways[best], found[f"people.{victim}"]
    spread = 1.96 * float(np.sqrt((a * (1 - a) + b * (1 - b)) / n))
    label, whole = LABELS[best], found[f"outcomes.{victim}.none.none.accuracy"]
    least = f"The learned attack reaches fewest people with {label}: {b:.3f}, not {a:.3f}"
    if spread >= a - b:
        return f"{least}, no difference ({b - a - spread:+.3f} to {b - a + spread:+.3f})."
    return (
        f"{least} ({b - a - spread:+.3f} to {b - a + spread:+.3f}), the best of {len(ways) - 1} tried; "
        f"NDCG@{K}, {whole:.4f} undefended: {_price(found, f'outcomes.{victim}.none.{best}')}."
    )


def _frontier(seen: Numbers, hidden: Mapping[str, Numbers]) -> str:
    """A row a detector evaded and quantile: what it sees, what the fakes click, whom they reach; the last column under
    distrust by that detector."""
    heads = ["AUC", "hidden", "clicks", *(f"`{victim}`" for victim in hidden)]
    lines = [f"| learned, evading | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for detector in DETECTORS:
        for level in ("none", *(f"{one:g}" for one in QUANTILES)):
            attack = "ours" if level == "none" else f"evading_{detector}_{level}"
            cells = [f"{seen[f'detection.{detector}.{attack}.auc']:.3f}"]
            cells += (
                ["–", "–"]
                if level == "none"
                else [f"{seen[f'evading.{attack}.hidden']:.2f}", f"{seen[f'evading.{attack}.clicks']:.1f}"]
            )
            for victim, found in hidden.items():
                key = f"hidden.{victim}.{detector}.{level}"
                guarded = found.get(f"{key}.defended")
                cells.append(f"{found[key]:.3f}" + ("" if guarded is None else f" ({guarded:.3f})"))
            label = f"{detector}: not yet" if level == "none" else f"{detector}, at {level}"
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return (
        "What hiding from a detector costs the attacker: AUC of the detector evaded, share of fakes at or below the "
        "quantile, clicks each, and hit rates undefended (in brackets with distrust by that detector).\n\n"
        + "\n".join(lines)
    )


def _proofs(stage: Stage, found: Numbers) -> str:
    heads = [*(f"{number} fakes" for number in FAKES), "NDCG@10", "change"]
    lines = [f"| proven | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for label in stage.proofs:
        start = f"proof.{_flat(label)}"
        cells = [f"{found[f'{start}.{n}.kept']:.3f} / {found[f'{start}.{n}.targets_out']:.3f}" for n in FAKES]
        cells += [f"{found[f'{start}.accuracy']:.4f}", _price(found, start)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    few = max(
        found[f"proof.{_flat(label)}.1.kept"] for label, (_, bagging) in stage.proofs.items() if bagging.bags == 100
    )
    return (
        "Proven by bagging, whatever fake users click, with confidence 0.999 for all people and items at once: share "
        f"of the {K} places that stay / of targets that stay out. The change is of NDCG@{K} against the same "
        f"recommender of everybody's data. A hundred bags prove {f'{few:.3f}' if few else 'none'} of the places "
        "against a single fake user.\n\n" + "\n".join(lines)
    )
