"""The page in short: what its figures say, worked out, each sentence only where its figures are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean

from recipes.injection import defences, elsewhere, gowalla, synthetic

Figures = Mapping[str, float]
PLACES = {"synthetic": "the synthetic world", "movielens": "MovieLens", "gallery": "the gallery"}


def short(figures: Figures) -> list[str]:
    """Sentences about reach, exactness, rules of thumb, other seeds and defences, one each."""
    said = (reach(figures), exactness(figures), rules(figures), other_seeds(figures), *stopping(figures))
    return [sentence for sentence in said if sentence]


def reach(figures: Figures) -> str:
    """The most that equal clicks reach on Gowalla's head targets, for every victim."""
    found = []
    for victim, about in gowalla.VICTIMS.items():
        before = figures.get(f"gowalla.head.clean.{victim}.hit")
        after = {
            how.label.removesuffix(", 41 clicks"): figures[key]
            for attack, how in gowalla.ATTACKS.items()
            if how.label.endswith("41 clicks") and (key := f"gowalla.head.{attack}.{victim}.hit") in figures
        }
        if before is not None and after:
            best = max(after, key=lambda label: after[label])
            found.append(f"{about.label} {before:.3f} → {after[best]:.3f} ({best})")
    if not found:
        return ""
    return (
        "Gowalla, five well-known targets, 131 fake accounts of 41 clicks; share of people with a target among their "
        f"first 50, without fakes and under the attack that reaches most: {', '.join(found)}."
    )


def exactness(figures: Figures) -> str:
    """The exact gradient against each approximation, at equal clicks, on the same victims."""
    found = []
    for exact, cheaper in gowalla.EXACT:
        both = [
            (figures[one], figures[other], about.label)
            for victim, about in gowalla.VICTIMS.items()
            if (one := f"gowalla.head.{exact}.{victim}.hit") in figures
            and (other := f"gowalla.head.{cheaper}.{victim}.hit") in figures
        ]
        if both:
            each = ", ".join(f"{label} {one:.3f} against {other:.3f}" for one, other, label in both)
            wins = sum(one > other for one, other, _ in both)
            names = (gowalla.ATTACKS[name].label.removesuffix(", 41 clicks") for name in (exact, cheaper))
            found.append(f"{' against '.join(names)}: more on {wins} of {len(both)} victims ({each})")
    if not found:
        return ""
    return f"Does the exact gradient pay? Gowalla, head targets, 41 clicks each. {'; '.join(found)}."


def rules(figures: Figures) -> str:
    """How often `ours` reaches more than every rule of thumb, over targets and victims."""
    places = {"Gowalla": [f"gowalla.{targets.replace(' ', '_')}" for targets in gowalla.TARGETS]}
    tried = (key.split(".") for key in figures if key.startswith("elsewhere."))
    places["MovieLens and the gallery"] = sorted({".".join(words[:3]) for words in tried})
    victims, told = {**gowalla.VICTIMS, **elsewhere.VICTIMS}, []
    for label, starts in places.items():
        won = []
        for start in starts:
            for victim in victims:
                ours = figures.get(f"{start}.ours.{victim}.hit")
                met = [figures[key] for rule in gowalla.RULES if (key := f"{start}.{rule}.{victim}.hit") in figures]
                won += [ours > max(met)] if ours is not None and met else []
        told += [f"{sum(won)} of {len(won)} pairs of targets and victim on {label}"] if won else []
    return f"`ours` reaches more than every rule of thumb it met in {' and '.join(told)}." if told else ""


def other_seeds(figures: Figures) -> str:
    """What is left of the published synthetic result on victims the attacker did not train."""
    columns = {"white_box.best": "the attacker's own model"}
    columns |= {f"{name}.hit": victim.label for name, victim in synthetic.VICTIMS.items()}
    each = []
    for column, label in columns.items():
        keys = [f"synthetic.data{seed}.notebook.{column}" for seed in synthetic.DATA_SEEDS]
        if not all(key in figures for key in keys):
            return ""
        each.append(f"{label} {mean(figures[key] for key in keys):.3f}")
    return f"The published synthetic attack reaches, trained anew, mean of three worlds: {', '.join(each)}."


def stopping(figures: Figures) -> Iterator[str]:
    """For every place and victim, the defence that leaves the learned attack least, and its price."""
    for place, label in PLACES.items():
        found = []
        for victim in defences.VICTIMS:
            start = f"defences.{place}.outcomes.{victim}."
            ways = {way: figures[key] for way in defences.LABELS if (key := f"{start}ours.{way}.hit_rate") in figures}
            if not ways:
                continue
            best = min(ways, key=lambda way: ways[way])
            said = f"`{victim}` {figures[f'{start}ours.none.hit_rate_before']:.3f} → {ways['none']:.3f}, "
            if best == "none":
                found.append(f"{said}no defence does better")
            else:
                paid = figures[f"{start}none.{best}.accuracy_change"]
                found.append(f"{said}with {defences.LABELS[best]} {ways[best]:.3f} (NDCG@10 {paid:+.4f})")
        yield f"What stops the learned attack on {label}: {'; '.join(found)}." if found else ""
