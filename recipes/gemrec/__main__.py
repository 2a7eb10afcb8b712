"""The command: run the parts, print their tables, write figures and page."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.markdown import Markdown

from bench.output import command, machine, write_json
from tastemaker.errors import TastemakerError

PARTS = ("statistics", "retrieval", "people", "rankings", "rigging")
INTRODUCTION = """# Which model for this prompt and this person

The paper's grid, 200 models by 90 prompts (GEMRec, arXiv 2308.02205), from the published vectors of its pictures.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.gemrec", description=INTRODUCTION.split("\n")[0][2:])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds gemrec (and t2i_prompts)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--quick", action="store_true", help="few settings, under a minute a part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the page of results here")
    given = parser.parse_args()

    out, err = Console(), Console(stderr=True)
    figures: dict[str, float] = {}
    page = [INTRODUCTION]
    for name in given.parts:
        part, began = import_module(f"recipes.gemrec.{name}"), time.perf_counter()
        with err.status(name):
            found: dict[str, float] = part.measure(given.data, given.seed, given.quick)
        figures |= {f"{name}.{figure}": value for figure, value in found.items()}
        page.append(section(part, found))
        out.print(Markdown(page[-1]))
        err.print(f"{name}: {time.perf_counter() - began:.0f} s")
    if given.json:
        write_json(given.json, module="recipes.gemrec", seed=given.seed, figures=figures)
    if given.markdown:
        facts = ", ".join(f"{fact} {value}" for fact, value in machine().items())
        page.append(f"Command: `{command('recipes.gemrec')}`; {facts}.")
        given.markdown.write_text("\n\n".join(page) + "\n", encoding="utf-8")


def section(part: ModuleType, found: dict[str, float]) -> str:
    """Heading and explanation from the part's own words, and its table."""
    title, _, about = (inspect.getdoc(part) or "").partition("\n\n")
    return "\n\n".join([f"## {title.strip().rstrip('.')}", about.strip(), part.table(found)])


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
