"""The page in short: what its figures say, worked out, each part only where its figures are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import mean

from recipes.injection import defences, elsewhere, gowalla, synthetic
from recipes.injection.victims import Victim

Figures = Mapping[str, float]
PLACES = {"synthetic": "the synthetic world", "movielens": "MovieLens", "gallery": "the gallery"}
EQUAL = ", 41 clicks"  # how labels of attacks end that keep this budget
CHANCE = (
    "*Alike*: two shares of so many people may differ by chance as much (95%, people as independent draws; another "
    "attacker's seed moves them too)."
)


def short(figures: Figures) -> list[str]:
    """What is reached, whether exactness pays, rules of thumb, other seeds and defences: Markdown, a part each."""
    said = (reach(figures), exactness(figures), rules(figures), other_seeds(figures), stopping(figures))
    return [part for part in said if part]


def reach(figures: Figures) -> str:
    """The most that equal clicks reach on Gowalla's head targets, for every victim."""
    rows = []
    for victim, about in gowalla.VICTIMS.items():
        before = _head(figures, "clean", victim)
        after = {
            how.label.removesuffix(EQUAL): hit
            for attack, how in gowalla.ATTACKS.items()
            if how.label.endswith(EQUAL) and (hit := _head(figures, attack, victim)) is not None
        }
        if before is not None and after:
            best = max(after, key=lambda label: after[label])
            rows.append([about.label, f"{before:.3f}", f"{after[best]:.3f}", best])
    if not rows:
        return ""
    return (
        "**What 131 fake accounts of 41 clicks reach.** Gowalla, five well-known targets; share of people with one "
        f"among their first 50.\n\n{_table(['recommender', 'without fakes', 'at most', 'under'], rows, left=(0, 3))}"
    )


def exactness(figures: Figures) -> str:
    """The exact gradient against each approximation, at equal clicks, on the same victims."""
    pairs = [(one, other, _both(figures, one, other)) for one, other in gowalla.EXACT]
    pairs = [(one, other, both) for one, other, both in pairs if both]
    if not pairs:
        return ""
    seen = [victim for victim in gowalla.VICTIMS if any(victim in both for _, _, both in pairs)]
    rows = []
    for one, other, both in pairs:
        names = (gowalla.ATTACKS[name].label.removesuffix(EQUAL) for name in (one, other))
        each = [f"{both[victim][0]:.3f} / {both[victim][1]:.3f}" if victim in both else "–" for victim in seen]
        verdicts = [_more(*pair, figures["gowalla.people"]) for pair in both.values()]
        rows.append([" / ".join(names), *each, _counted(verdicts)])
    heads = ["exact / approximation", *(gowalla.VICTIMS[victim].label for victim in seen), "exact reaches"]
    return (
        "**Does the exact gradient pay?** The same people, targets and loop, 41 clicks each. "
        f"{CHANCE}\n\n{_table(heads, rows)}"
    )


def rules(figures: Figures) -> str:
    """How often `ours` reaches more than the best rule of thumb, over targets and victims."""
    places = {"gowalla": "Gowalla", "elsewhere.movielens": "MovieLens", "elsewhere.gallery": "the gallery"}
    victims: dict[str, Victim] = {**gowalla.VICTIMS, **elsewhere.VICTIMS}
    rows = []
    for place, label in places.items():
        found = (key.removeprefix(f"{place}.") for key in figures if key.startswith(f"{place}."))
        verdicts = []
        for start in (f"{place}.{targets}" for targets in dict.fromkeys(key.split(".")[0] for key in found)):
            for victim in victims:
                ours = figures.get(f"{start}.ours.{victim}.hit")
                met = [figures[key] for rule in gowalla.RULES if (key := f"{start}.{rule}.{victim}.hit") in figures]
                if ours is not None and met:
                    verdicts.append(_more(ours, max(met), figures[f"{place}.people"]))
        rows += [[label, str(len(verdicts)), _counted(verdicts)]] if verdicts else []
    if not rows:
        return ""
    return (
        "**Learned, or by a rule of thumb?** `ours` against the best rule that the same recommender met. "
        f"{CHANCE}\n\n{_table(['where', 'pairs of targets and recommender', '`ours` reaches'], rows, left=(0, 2))}"
    )


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
    return f"**What other seeds leave.** The published synthetic attack, mean of three worlds: {', '.join(each)}."


def stopping(figures: Figures) -> str:
    """For every place and victim, the defence that leaves the learned attack least, and its price."""
    rows = list(_stopped(figures))
    if not rows:
        return ""
    heads = ["where", "recommender", "without fakes", "attacked", "best defence", "with it", "NDCG@10, change"]
    return (
        "**What stops the learned attack.** Hit rate of the targets; the change is of a defence without any attack."
        f"\n\n{_table(heads, rows, left=(0, 1, 4))}"
    )


def _stopped(figures: Figures) -> Iterator[list[str]]:
    for place, label in PLACES.items():
        for victim in defences.VICTIMS:
            start = f"defences.{place}.outcomes.{victim}."
            ways = {way: figures[key] for way in defences.LABELS if (key := f"{start}ours.{way}.hit_rate") in figures}
            if not ways:
                continue
            row = [label, f"`{victim}`", f"{figures[f'{start}ours.none.hit_rate_before']:.3f}", f"{ways['none']:.3f}"]
            best = min(ways, key=lambda way: ways[way])
            if best == "none":
                yield [*row, "none does better", "–", "–"]
            else:
                paid = figures[f"{start}none.{best}.accuracy_change"]
                yield [*row, defences.LABELS[best], f"{ways[best]:.3f}", f"{paid:+.4f}"]


def _more(one: float, other: float, people: float) -> str:
    """Whether one share of people is the larger, as a word; two shares of the same people vary less than assumed."""
    spread = 1.96 * sqrt((one * (1 - one) + other * (1 - other)) / people)
    return "alike" if abs(one - other) <= spread else "more" if one > other else "less"


def _counted(verdicts: Sequence[str]) -> str:
    """Such as: more in 2, alike in 1."""
    return ", ".join(f"{word} in {verdicts.count(word)}" for word in ("more", "less", "alike") if word in verdicts)


def _head(figures: Figures, attack: str, victim: str) -> float | None:
    return figures.get(f"gowalla.head.{attack}.{victim}.hit")


def _both(figures: Figures, one: str, other: str) -> dict[str, tuple[float, float]]:
    """Hit rates of two attacks on the victims that met both."""
    met = {victim: (_head(figures, one, victim), _head(figures, other, victim)) for victim in gowalla.VICTIMS}
    return {victim: (a, b) for victim, (a, b) in met.items() if a is not None and b is not None}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    rule = ["---" if at in left else "---:" for at in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))
