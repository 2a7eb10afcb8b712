"""What stops it, and what that costs.

`attack.drill` on the synthetic world, on MovieLens (well-known films as targets) and on the gallery: a learned attack,
the bandwagon, and the learned attack rewritten by somebody who knows the detector (`evade`), against every defence.

Under an attack's name stands the hit rate at 10 without and with its fakes, both under the same defence. The other
columns are the price, with nobody attacking, against the undefended victim: *accuracy* is the change of NDCG@10,
*consumers* that of liked items in a list of ten, and the last two that of the share of all places that goes to
well-known and to lesser-known items. Detectors are judged by AUC over all accounts, never at one threshold.

*Distrust* leaves out the accounts a detector doubts most, as many as there are fakes. *Cap*: nobody's events weigh
more than those of the account in the middle. *Trimmed* and *Welsch* losses give events that fit badly no or little say,
*APR* trains against disturbed parameters, and *bagging* lets models of a few accounts each vote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.injection import elsewhere, synthetic
from recipes.injection.keep import Keep, Numbers, Unit
from recipes.injection.study import Attack, Learned, Rule, Study, module
from tastemaker.attack import certify, defend, detect, evade, heuristic, hits, profiles
from tastemaker.attack import drill as drilling
from tastemaker.attack.bilevel import Loop
from tastemaker.attack.certify import Bagging
from tastemaker.attack.defend import Adversarial, Cap, Defence, Distrust, Trimmed, Welsch
from tastemaker.recommend import Factors, ItemKNN, LightGCN
from tastemaker.recommend.contract import Recommender

K = 10
DETECTORS: dict[str, detect.Detector] = {
    "pca": detect.PCA(), "statistics": detect.Statistics(), "learned": detect.Learned(),
}  # fmt: skip
LABELS = {
    "none": "none", "pca": "distrust: PCA", "statistics": "distrust: statistics", "learned": "distrust: learned",
    "cap": "cap", "trimmed": "trimmed loss", "welsch": "Welsch loss", "apr": "APR",
    "bagging": "bagging",
}  # fmt: skip
VICTIMS = ("factors", "itemknn", "mf")
ATTACKS = {"ours": "learned attack", "bandwagon": "bandwagon", "evading": "learned, evading"}
PRICES = ("hit_rate_change", "exposure_change", "liked_exposure_change")


@dataclass(frozen=True, eq=False)
class Stage:
    """Where a drill takes place. share: of accounts that a defence by distrust leaves out, about those that are fake;
    targets: name of the study's set."""

    about: str
    study: Study
    targets: str
    share: float
    victims: Mapping[str, Recommender[Any]]


def stages(data: Path | None, keep: Keep, seed: int) -> list[Stage]:
    graph = LightGCN(epochs=30, layers=0)  # matrix factorisation that gradient defences can train
    world = synthetic.study(synthetic.DATA_SEEDS[0], keep, seed, rounds=20)
    attacks: dict[str, Attack] = {
        "ours": Learned("learned attack", synthetic.SHORT, Loop()), "bandwagon": Rule("bandwagon", heuristic.bandwagon),
    }  # fmt: skip
    dense = {"factors": Factors(rank=20, reg=0.1, unseen=0.05), "itemknn": ItemKNN(), "mf": graph}
    first = replace(world, part="defences", attacks=attacks)
    found = [Stage("Synthetic world, 100 fakes of 12 clicks", first, "item", 0.1, dense)]
    usual = {"factors": Factors(), "itemknn": ItemKNN(), "mf": graph}
    for place in elsewhere.places(data, seed):
        small = {name: elsewhere.ATTACKS[name] for name in attacks}
        here = Study("defences", place.train, place.test, place.targets, place.budget, small, {}, keep, k=K, seed=seed)
        n_fakes, _ = place.budget.of(place.train)
        found.append(Stage(place.about, here, next(iter(place.targets)), n_fakes / len(place.train.users), usual))
    return found


def defences(stage: Stage) -> dict[str, Defence]:
    bag = min(100, len(stage.study.train.users) // 5)
    return {name: Distrust(detector, stage.share) for name, detector in DETECTORS.items()} | {
        "cap": Cap(), "trimmed": Trimmed(), "welsch": Welsch(), "apr": Adversarial(), "bagging": Bagging(size=bag),
    }  # fmt: skip


def run(*, data: Path | None, quick: bool, seed: int, keep: Keep) -> tuple[Numbers, str]:
    """Figures, and the page's section."""
    if quick:
        return {}, "Left out with `--quick`."
    figures, parts = Numbers(), list[str]()
    for stage, name in zip(stages(data, keep, seed), ("synthetic", *_names(data)), strict=True):
        parts.append(f"### {stage.about}")
        for victim in stage.victims:
            found = drilled(stage, victim)
            if found is None:
                parts.append(f"`{victim}`: not run.")
                continue
            figures |= {f"{name}.{key}": value for key, value in found.items()}
            if victim == next(iter(stage.victims)):
                parts.append(_detection(found))
            parts += [_table(found, victim), _least(found, victim)]
    return figures, "\n\n".join(parts)


def _names(data: Path | None) -> list[str]:
    there = data is not None and (data / elsewhere.MOVIELENS).exists()
    return ["movielens"] * there + ["gallery"]


def drilled(stage: Stage, victim: str) -> Numbers | None:
    """One victim's drill as one unit: flat figures of its outcomes, detection and stakeholders."""
    study, model = stage.study, stage.victims[victim]
    ways = defences(stage)
    settings = {
        "data": study.data, "victim": repr(model), "defences": repr(ways), "seed": str(study.seed), "k": str(K),
        "fakes": " ".join(study.fakes_unit(stage.targets, name).key for name in study.attacks),
    }  # fmt: skip
    code = (drilling, certify, defend, detect, evade, hits, profiles, module(model))
    unit = Unit("defences", f"{stage.targets.replace(' ', '_')}-{victim}", f"drill {victim}", settings, code)

    def make() -> Numbers:
        fakes = {name: study.fakes(stage.targets, name) for name in study.attacks}
        given = {name: one for name, one in fakes.items() if one is not None}
        study.keep.say(f"evading: {stage.about}")
        given["evading"] = evade.evade(study.train, given["ours"], DETECTORS["learned"], rng=study.seed)
        found = drilling.drill(
            {victim: model}, study.train, given, ways, test=study.test, detectors=DETECTORS, k=K, draws=200,
            seed=study.seed, say=study.keep.say,
        )  # fmt: skip
        figures = found.figures()
        for row in found.stakeholders.iter_rows(named=True):
            words = ("victim", "attack", "defence", "stakeholder")
            name = ".".join(["stakeholders", *(row[word].replace(" ", "_") for word in words)])
            figures |= {f"{name}.{key}": row[key] for key in PRICES if row[key] is not None}
        return figures

    return study.keep.numbers(unit, make)


def _least(found: Numbers, victim: str) -> str:
    """The defence under which the learned attack reaches fewest, in words."""
    start = f"outcomes.{victim}.ours."
    ways = {way: found[key] for way in LABELS if (key := f"{start}{way}.hit_rate") in found}
    best, price = min(ways, key=lambda way: ways[way]), f"outcomes.{victim}.none."
    if best == "none":
        return "No defence leaves the learned attack fewer people than it reaches without one."
    paid, whole = found[f"{price}{best}.accuracy_change"], found[f"{price}none.accuracy"]
    return (
        f"The learned attack reaches fewest people with {LABELS[best]}: {ways[best]:.3f}, not {ways['none']:.3f}; "
        f"it changes NDCG@{K}, {whole:.4f} undefended, by {paid:+.4f}."
    )


def _detection(found: Numbers) -> str:
    lines = [f"| detection, AUC | {' | '.join(DETECTORS)} |", "| --- |" + " ---: |" * len(DETECTORS)]
    for attack, label in ATTACKS.items():
        cells = (found[f"detection.{detector}.{attack}.auc"] for detector in DETECTORS)
        lines.append(f"| {label} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
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
        cells.append(f"{found[f'outcomes.{victim}.none.{way}.accuracy_change']:+.4f}")
        cells.append(f"{K * found[f'{price}.consumers.hit_rate_change']:+.3f}")
        cells += [f"{found[f'{price}.{one}.exposure_change']:+.3f}" for one in makers]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
