"""The command: run the parts, print their tables, write figures, plot and page."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from bench.output import machine, write_json
from recipes.feedback_loop import coat, jester, kuairec, movielens, table
from tastemaker.errors import DataError, TastemakerError

PARTS: dict[str, ModuleType] = {
    "table": table, "coat": coat, "jester": jester, "movielens": movielens, "kuairec": kuairec,
}  # fmt: skip
INTRODUCTION = """# Correcting the feedback loop: every table

People can only react to what they were shown, and what they are shown follows what they reacted to. Here that loop is
measured, and corrected with inverse propensities: in a simulation whose exposure probabilities are known, under the
published protocols of a data set with random exposure, in a closed loop over fully observed ratings, and on ratings
with time stamps.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.feedback_loop", description=INTRODUCTION.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds coat, jester5k and ml-latest-small")
    parser.add_argument("--kuairec", type=Path, help="folder that holds big_matrix.csv and small_matrix.csv")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--quick", action="store_true", help="small and few seeds, under a minute")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--seeds", type=int, help="number of seeds; each part has its own default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write the plot of the loop here (.svg or .png)")
    parser.add_argument("--markdown", type=Path, help="write the page of results here")
    parser.add_argument("--keep", type=Path, help="folder for each part's result; one of the same settings is reused")
    given = parser.parse_args()
    if given.seeds is not None and given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: expected at least 1")

    began, out, err = time.perf_counter(), Console(), Console(stderr=True)
    figures: dict[str, float] = {}
    page = [INTRODUCTION]
    for name in given.parts:
        with err.status(name) as status:
            found = result(name, given, status.update)
        figures |= {f"{name}.{figure}": value for figure, value in found["figures"].items()}
        text = section(name, found, given)
        page.append(text)
        out.print(Markdown(text))
    if given.json:
        write_json(given.json, module="recipes.feedback_loop", seed=given.seed, figures=figures)
    if given.markdown:
        given.markdown.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


def result(name: str, given: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """What a part found: settings, command, machine, figures, text. Taken from --keep where the settings are the same.

    The settings do not know the code: after a change to it, empty the folder.
    """
    data = given.kuairec if name == "kuairec" else given.data
    settings = {"quick": given.quick, "seed": given.seed, "seeds": given.seeds, "data": data and str(data)}
    run: Callable[..., tuple[dict[str, float], str]] = PARTS[name].run
    if name == "jester" and given.plot:
        settings["plot"] = given.plot.name
        run = partial(run, plot=given.plot)
    kept = given.keep / f"{name}.json" if given.keep else None
    drawn = name != "jester" or not given.plot or given.plot.exists()
    if kept is not None and kept.exists() and drawn:
        found = _kept(kept)
        if found["settings"] == settings:
            return found
    figures, text = run(data=data, quick=given.quick, seed=given.seed, seeds=given.seeds, say=say)
    command = ["python -m recipes.feedback_loop --parts", name, f"--seed {given.seed}"]
    command += ["--quick"] * given.quick + [f"--seeds {given.seeds}"] * (given.seeds is not None)
    command += [f"--{'kuairec FOLDER' if name == 'kuairec' else 'data DATA'}"] * (data is not None)
    facts = ", ".join(f"{fact} {value}" for fact, value in machine().items())
    found = {
        "settings": settings, "command": " ".join(command), "machine": facts, "figures": figures, "text": text,
    }  # fmt: skip
    if kept is not None and figures:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _kept(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {"settings", "command", "machine", "figures", "text"} <= found.keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise DataError("is not the result of a part; expected what --keep wrote; delete it", file=path)


def section(name: str, found: dict[str, Any], given: argparse.Namespace) -> str:
    """Heading and explanation from the part's own words, what it found, the plots, and the command that repeats it."""
    title, _, about = (inspect.getdoc(PARTS[name]) or "").partition("\n\n")
    parts = [f"## {title.rstrip('.')}", about, found["text"].strip()]
    if name == "jester" and given.plot and given.markdown:
        for world, at in (("jester", given.plot), ("topics", given.plot.with_stem(f"{given.plot.stem}_topics"))):
            if any(figure.startswith(f"{world}.") for figure in found["figures"]):
                parts.append(f"![The loop, round by round]({os.path.relpath(at, given.markdown.parent)})")
    if found["figures"]:
        parts.append(f"Command: `{found['command']}`; {found['machine']}.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
