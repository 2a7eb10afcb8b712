"""The command: run the parts, print their tables, write figures and page."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.markdown import Markdown

from bench.output import machine, write_json
from recipes.injection import curves, defences, directions, elsewhere, gowalla, synthetic
from recipes.injection.keep import Keep
from recipes.injection.short import short
from tastemaker.errors import TastemakerError

PARTS: dict[str, ModuleType] = {
    "synthetic": synthetic, "directions": directions, "gowalla": gowalla, "curves": curves, "defences": defences,
    "elsewhere": elsewhere,
}  # fmt: skip
INTRODUCTION = """# Injection attacks: what a liar can do, and what stops it

This page is for those who answer for a recommender: it measures on logs of their own what somebody with a few fake
accounts could reach, before somebody else finds out. Everything runs on files given by path, every fake row is marked
`simulated`, and nothing here talks to a system in use.
"""

KEPT = """## What was kept, and from when

This page was put together from kept units of work, so the machine facts above are those of the moment of writing. Units
are known by settings and code: what either changed is made again, but for what is said here.
"""  # what is said: the folder's about.md, if somebody wrote one


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.injection", description=INTRODUCTION.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds gowalla_attack and ml-latest-small")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--quick", action="store_true", help="the synthetic world alone, few rounds, under a minute")
    parser.add_argument("--seed", type=int, default=1, help="of the attacker; victims have others")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--write", type=Path, help="write the page of results here")
    parser.add_argument("--plot", type=Path, help="draw the curves of budget and knowledge here (.svg or .png)")
    parser.add_argument(
        "--keep", type=Path, help="folder for units of work; a stopped run goes on from there, several runs share it"
    )
    parser.add_argument("--only-kept", action="store_true", help="compute nothing; tables of what --keep holds")
    given = parser.parse_args()
    if given.only_kept and not given.keep:
        parser.error("--only-kept needs --keep FOLDER")

    began, out = time.perf_counter(), Console()
    figures: dict[str, float] = {}
    parts = list[str]()
    with tempfile.TemporaryDirectory() as folder:
        keep = Keep(given.keep or Path(folder), given.only_kept, say)
        for name in given.parts:
            found, text = PARTS[name].run(data=given.data, quick=given.quick, seed=given.seed, keep=keep)
            figures |= {f"{name}.{figure}": value for figure, value in found.items()}
            if name == "curves" and given.plot and found:
                curves.plot(found, given.plot)
                place = os.path.relpath(given.plot, given.write.parent if given.write else Path())
                text = f"![Hit rate against budget and knowledge]({place})\n\n{text}"
            parts.append(section(name, text, given, bool(found)))
            out.print(Markdown(parts[-1]))
    said = short(figures)
    page = [INTRODUCTION, *["## In short", *said] * bool(said), *parts]
    if given.only_kept:
        page += [KEPT, *(path.read_text(encoding="utf-8") for path in given.keep.glob("about.md"))]
    if given.json:
        write_json(given.json, module="recipes.injection", seed=given.seed, figures=figures)
    if given.write:
        given.write.write_text("\n\n".join(part.strip() for part in page) + "\n", encoding="utf-8")
    say(f"{time.perf_counter() - began:.0f} s")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def section(name: str, text: str, given: argparse.Namespace, ran: bool) -> str:
    """Heading and explanation from the part's own words, what it found, and the command that repeats it."""
    title, _, about = (inspect.getdoc(PARTS[name]) or "").partition("\n\n")
    parts = [f"## {title.rstrip('.')}", about, text.strip()]
    if ran:
        words = ["python -m recipes.injection --parts", name, f"--seed {given.seed}", *["--quick"] * given.quick]
        words += ["--data DATA"] * (given.data is not None) + ["--keep FOLDER"] * (given.keep is not None)
        facts = ", ".join(f"{fact} {value}" for fact, value in machine().items())
        parts.append(f"Command: `{' '.join(words)}`; {facts}.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
