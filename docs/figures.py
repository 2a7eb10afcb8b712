"""Write docs/numbers.md from docs/figures/*.json, the files that recipes and benches write with --json.

    python docs/figures.py                          write the page
    python docs/figures.py --check                  exit 1 where the page is not what the files make
    python docs/figures.py add FILE... [--as NAME]  take files over, and write the page

A file is called after what wrote it: recipes.piki.json, bench.factors.json; `--as bench.factors.growth` names a second
one of the same bench. What is taken over is as written but for its command line: places of output are left out of it,
and the folder of data is called DATA, since they are this machine's and not the reader's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIGURES, PAGE = HERE / "figures", HERE / "numbers.md"
HEAD = """# Numbers

What recipes and benches measured, as their `--json` says it: with the command, the seed and the machine. This page is
generated (`python docs/figures.py`), and a test fails where it is not what the files make. Tables show the figures that
answer the question of a section; the file behind each holds all of them. Where a figure has a 95 % interval, it stands
in brackets.

Two figures of different machines, or of one machine under different load, cannot be compared; ratios of one run can.
"""
ABSENT = """
## Not here yet

Nothing was taken over from these. After a run with `--json FILE`, `python docs/figures.py add FILE` puts it here.

"""
_OUTPUT = re.compile(r" --(?:json|markdown|plot|write|keep|sheets|folder) \S+| --only-kept")
_DATA = re.compile(r"(--data) \S+")


@dataclass(frozen=True)
class Section:
    """What a file answers.

    Attributes:
        title, about: for people; `about` is Markdown.
        command: to measure it, without places of output.
        tables: (beginning of the names, their last parts): a row for each name between the two, a column a last part.
    """

    title: str
    about: str
    command: str
    tables: tuple[tuple[str, tuple[str, ...]], ...] = ()


SECTIONS: Mapping[str, Section] = {
    "recipes.piki": Section(
        "Do dislikes help?",
        "Means over seeds of a fit with dislike share b in hundredths (b00: likes only); `a6` is the published "
        "protocol, `within.auc` the order of each person's rated items, `lists` the liked share of the first ten "
        "places. [Every table](piki.md).",
        "python -m recipes.piki --data DATA",
        tuple(
            (f"{case}.{solver}.", ("a6.consumers", "a6.lesser_known", "within.auc", "lists.consumers"))
            for case in ("world", "jester", "movielens")
            for solver in ("sampled", "exact")
        ),
    ),
    "recipes.feedback_loop": Section(
        "What correcting for exposure is worth",
        "`table`: error on uniformly random items in a world whose probabilities are known, and the share of the gap "
        "to the oracle that is closed. `coat`: both published protocols. `jester`: the closed loop after 25 rounds. "
        "`movielens`: predicting what is rated next. [Every table](feedback_loop.md), [the loop](simulate.md).",
        "python -m recipes.feedback_loop --data DATA",
        (
            ("table.", ("mse", "gap_closed", "effective", "auc")),
            ("coat.at_least_3.", ("auc", "ndcg5", "f1")),
            ("coat.above_3.", ("auc", "ndcg5")),
            ("jester.jester.", ("value", "list_value", "mse", "bias", "gini")),
            ("jester.topics.", ("value", "list_value", "mse", "bias", "gini")),
            ("movielens.", ("log_likelihood", "rank", "recall10")),
        ),
    ),
    "recipes.gemrec": Section(
        "Which model for an unseen prompt",
        "GEMRec's grid of 200 models and 90 prompts; a prompt that is judged was never seen. [Every table](gemrec.md).",
        "python -m recipes.gemrec --data DATA --parts statistics retrieval",
        (("retrieval.clip.", ("ndcg", "recall", "regret")), ("retrieval.total.", ("ndcg", "recall", "regret"))),
    ),
    "recipes.gemrec.people": Section(
        "How few comparisons put a person's pictures in order",
        "Simulated people and the grid's real pictures, after 0, 3 and 11 comparisons: Kendall's tau with the planted "
        "order, and what the first place loses, in logits. `alike`, `apart`, `alone`: how much taste people share. "
        "[Every table](gemrec.md).",
        "python -m recipes.gemrec --data DATA --parts people",
        tuple(
            (f"people.{world}.", ("tau.0", "tau.3", "tau.11", "regret.3", "regret.11"))
            for world in ("alike", "apart", "alone")
        ),
    ),
    "recipes.gemrec.rankings": Section(
        "What rankings teach without the pictures, and what a bought first place costs",
        "`rankings`: ImageReward's test set, held out. `rigging`: the fewest bought votes that bring the last model of "
        "a leaderboard to the top; a way that is absent failed with 4,800. [Every table](gemrec.md).",
        "python -m recipes.gemrec --data DATA --parts rankings rigging",
        (("rankings.", ()), ("rigging.", ())),
    ),
    "recipes.injection": Section(
        "What fake users reach, and what stops them",
        "Hit rate: share of people with a target among their first 50. [Every table](injection.md).",
        "python -m recipes.injection --data DATA",
        (("synthetic.data1.", ("hit", "recall")), ("gowalla.tail.", ("hit", "ndcg"))),
    ),
    "recipes.cocktail": Section(
        "Cocktails against simpler ways, at equal style",
        "Structure kept where each way has reached the same style. [Making pictures](generate.md).",
        "python -m recipes.cocktail",
    ),
    "recipes.zoo": Section(
        "How well the embedded models draw",
        "Shares of pictures in which a classifier, taught on renders of the artwork only, names the subject, the "
        "style, both of two subjects in their places, the colour that was asked for, and the ground. "
        "[Making pictures](generate.md).",
        "python -m recipes.zoo measure",
        (("", ("subject", "style", "both", "colour", "ground")),),
    ),
    "bench.factors": Section(
        "Training and top-k against implicit",
        "Gowalla; seconds of one run each way; `ratio` is tastemaker over implicit. [Benchmarks](bench.md).",
        "python -m bench.factors",
        (
            ("gowalla.64.", ("seconds", "top_seconds", "memory")),
            ("gowalla.128.", ("seconds", "top_seconds", "memory")),
        ),
    ),
    "bench.factors.growth": Section(
        "Factors as one size grows",
        "Seconds an epoch, and of lists of 50 for 5,000 people. [Benchmarks](bench.md).",
        "python -m bench.factors --growth --quick",
        (("growth.", ("epoch_seconds", "top_seconds")),),
    ),
    "bench.evaluation": Section(
        "Judging lists against implicit and RecTools",
        "Lists of 50 of the same factors; values agree to the last digits. [Benchmarks](bench.md).",
        "python -m bench.evaluation",
        (("", ("tastemaker_s", "implicit_s", "rectools_s", "implicit_over_tastemaker", "rectools_over_tastemaker")),),
    ),
    "bench.retrieval": Section(
        "Choosing among up to a million models",
        "Milliseconds a prompt. [Benchmarks](bench.md).",
        "python -m bench.retrieval",
        (("", ("median_ms", "p95_ms", "prompts_a_second", "recall")),),
    ),
    "bench.serving": Section(
        "The gallery under load",
        "A million events, 20,000 pictures, 10,000 people. [Benchmarks](bench.md).",
        "python -m bench.serving",
        (("", ("p50_ms", "p99_ms", "a_second")),),
    ),
    "bench.exposure": Section(
        "Training models of exposure",
        "The short form: the published loop is timed on 300 people and scaled up to 3,000, ours is trained for two "
        "epochs. Processor seconds of an epoch, one thread. [The long form and its table](bench.md).",
        "python -m bench.exposure --seed 10 --quick",
        (("", ("seconds", "times_faster", "memory", "log_likelihood")),),
    ),
    "bench.reading": Section(
        "Reading ten million rows",
        "Processor seconds and the most memory, also as a multiple of what the log itself takes. Clocked seconds are "
        "in the file; they say how busy the machine was. [Benchmarks](bench.md).",
        "python -m bench.reading",
        (("", ("cpu_seconds", "peak_mb", "peak_over_log")),),
    ),
    "bench.attack": Section(
        "The learned attack",
        "One outer round of the exact gradient beside the dense computation, the whole, and several problems at once. "
        "[Benchmarks](bench.md).",
        "python -m bench.attack --whole --together --data DATA",
        (("", ("wall_seconds", "cpu_seconds", "memory")),),
    ),
    "bench.victims": Section(
        "Every recommender on MovieLens",
        "Untuned settings and one seed: a check that the methods work, not a contest. [Recommenders](recommend.md).",
        "python -m bench.victims",
        (("", ("train_cpu_seconds", "recall@20", "ndcg@20", "dislikes@20")),),
    ),
    "bench.cocktail": Section(
        "Cocktails, the published way and ours",
        "The same pictures; seconds in the networks a style, and memory over the models. [Benchmarks](bench.md).",
        "python -m bench.cocktail",
        (
            ("styles.1.", ("unet_seconds_a_style", "above_models_mib")),
            ("styles.8.", ("unet_seconds_a_style", "above_models_mib")),
        ),
    ),
    "bench.cocktail.sd15": Section(
        "The same at the size of SD 1.5",
        "Random weights, one style, on a CPU. [Benchmarks](bench.md).",
        "python -m bench.cocktail --sd15 --styles 1 --steps 10 --runs 1",
        (("styles.1.", ("unet_seconds_a_style", "above_models_mib")),),
    ),
    "bench.grid": Section(
        "Drawing a grid",
        "A grid of the embedded models beside a plain diffusers loop: the same pictures, and what each takes. "
        "[Making pictures](generate.md).",
        "python -m bench.grid",
        (("", ("seconds", "pictures_a_second", "memory")),),
    ),
}


def page(folder: Path = FIGURES) -> str:
    """The page that the files of a folder make. Raises ValueError for a file that no section is for."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if unknown := sorted(found.keys() - SECTIONS.keys()):
        raise ValueError(f"no section for {', '.join(unknown)}; expected names of SECTIONS, or add one there")
    parts = [HEAD, *(_section(stem, found[stem]) for stem in SECTIONS if stem in found)]
    absent = [f"| {s.title} | `{s.command}` |\n" for stem, s in SECTIONS.items() if stem not in found]
    if absent:
        parts.append(ABSENT + "| question | command |\n|---|---|\n" + "".join(absent))
    return "".join(parts)


def _section(stem: str, content: Mapping[str, Any]) -> str:
    about, machine = SECTIONS[stem], content["machine"]
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    lines = [f"\n## {about.title}\n", f"{about.about}\n"]
    lines += [table for beginning, ends in about.tables if (table := _table(content["figures"], beginning, ends))]
    lines.append(
        f"`{content['command']}`, seed {content['seed']}; {facts}. "
        f"[All {len(content['figures']):,} figures](figures/{stem}.json).\n"
    )
    return "\n".join(lines)


def _table(figures: Mapping[str, float], beginning: str, ends: tuple[str, ...]) -> str:
    """Names that begin so, a row for what stands between beginning and end; no ends: a row a name."""
    some = {name.removeprefix(beginning): value for name, value in figures.items() if name.startswith(beginning)}
    if not ends:
        names = [name for name in some if re.sub(r"[._](low|high)$", "", name) not in some.keys() - {name}]
        return _rows(beginning, ["value"], {name: [_cell(some, name)] for name in names})
    between = dict.fromkeys(
        name[: -len(end) - 1] for name in some for end in ends if name.endswith(f".{end}") and name.count(".")
    )
    rows = {row: [_cell(some, f"{row}.{end}") for end in ends] for row in between}
    used = [place for place in range(len(ends)) if any(cells[place] for cells in rows.values())]
    return _rows(beginning, [ends[p] for p in used], {row: [cells[p] for p in used] for row, cells in rows.items()})


def _rows(beginning: str, columns: list[str], rows: Mapping[str, list[str]]) -> str:
    if not rows:
        return ""
    lines = [[beginning.rstrip("."), *columns], ["---", *(["---:"] * len(columns))]]
    lines += [[row, *cells] for row, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    for low, high in ((f"{name}.low", f"{name}.high"), (f"{name}_low", f"{name}_high")):
        if low in figures and high in figures:
            return f"{_number(figures[name])} ({_number(figures[low])} to {_number(figures[high])})"
    return _number(figures[name])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def add(file: Path, name: str | None) -> None:
    """Take a file over. Raises ValueError where no section is for it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    module = re.search(r"-m ((?:recipes|bench)\.\w+)", content["command"])
    stem = name or (module[1] if module else file.stem)
    if stem not in SECTIONS:
        raise ValueError(f"{file}: no section '{stem}'; expected one of {', '.join(SECTIONS)}")
    content["command"] = _DATA.sub(r"\1 DATA", _OUTPUT.sub("", content["command"]))
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/numbers.md from docs/figures.")
    parser.add_argument("what", nargs="?", choices=["write", "add"], default="write")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--as", dest="name", help="call the one file so")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is stale")
    given = parser.parse_args()
    for file in given.files:
        add(file, given.name)
    if given.check:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
