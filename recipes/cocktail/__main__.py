"""The command: draw, judge, and write figures, plot, sheets and page."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from bench.output import command, machine, write_json
from recipes.cocktail import pie_bench, report
from recipes.cocktail.judge import judge
from recipes.cocktail.methods import ABLATIONS, METHODS, arms
from recipes.cocktail.prompts import COUNT, prompts
from recipes.cocktail.study import Plan, Say, Study, together
from tastemaker.errors import InvalidArgument, TastemakerError
from tastemaker.evaluate.images.vit import ViT
from tastemaker.generate import zoo
from tastemaker.generate.embed import Encoder

INTRODUCTION = """# What a cocktail keeps and what it reaches

Every model draws the same prompts; each picture is then brought into every other model's style, by every method at
several settings of its dial. Structure kept and style reached are read off, and methods are compared at equal style.
"""
NAMES = """## Names of the figures

`--json` writes `METHOD.DIAL.MEASURE` with `_low` and `_high` (METHOD: {methods}; dials without dots); for the goal
`goal.STRUCTURE_STYLE.cocktail.BASELINE.gap` with `_low` and `_high`, `goal.STRUCTURE_STYLE.cocktail.holds` (1 or 0)
and the same for `published`; `pairs.BASELINE.holds`, `.open` and `.fails`; `reader.MODEL.accuracy`;
`round_trip.kind.KIND`. What is not defined is left out.
"""


def main() -> None:
    given = _parser().parse_args()
    began, out, err = time.perf_counter(), Console(), Console(stderr=True)
    with err.status("loading") as status:
        if given.pie_bench is not None:
            figures, page, title = *pie_bench.run(given, status.update), "# PIE-Bench"
        else:
            figures, page, title = *compare(given, status.update), INTRODUCTION
    out.print(Markdown(page))
    if given.json:
        write_json(given.json, module="recipes.cocktail", seed=given.seed, figures=figures)
    if given.markdown:
        facts = ", ".join(f"{fact} {value}" for fact, value in machine().items())
        says = f"Command: `{command('recipes.cocktail')}`; seed {given.seed}; machine: {facts}."
        given.markdown.parent.mkdir(parents=True, exist_ok=True)
        given.markdown.write_text(f"{title.strip()}\n\n{says}\n\n{page.strip()}\n", encoding="utf-8")
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.cocktail", description=INTRODUCTION.split("\n")[0][2:])
    parser.add_argument("--models", nargs="+", default=["zoo"], help="zoo/NAME, folders, .safetensors files, patterns")
    parser.add_argument("--quick", action="store_true", help="two models, few prompts and settings, under a minute")
    parser.add_argument("--prompts", type=Path, help="file with one prompt a line; of the zoo's words if not given")
    parser.add_argument("--count", type=int, help=f"number of prompts; {COUNT} if not given, 5 if quick")
    parser.add_argument("--skip", type=int, default=0, help="prompts left out before, such as those of a first look")
    parser.add_argument("--hands", type=int, default=1, help="processes that share the drawing; they need --keep")
    parser.add_argument("--finished", action="store_true", help="only judge the pairs that --keep has whole")
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="pictures of each prompt")
    parser.add_argument("--steps", type=int, help="25 if not given, 10 if quick, 50 for --pie-bench")
    parser.add_argument("--guidance", type=float, help="what the first model's card suggests, else 5")
    parser.add_argument("--batch", type=int, default=20, help="pictures drawn at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="of the networks")
    parser.add_argument("--encoder", type=Path, help="CLIP folder; the embedded one for embedded models if not given")
    parser.add_argument("--vit", type=Path, help="ViT folder for structure, such as DINO ViT-B/8")
    parser.add_argument("--keep", type=Path, help="folder of finished pictures; the same command goes on from there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="write the plot here (.svg or .png); with --sheets there by default")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--markdown", type=Path, help="write the page of results here")
    parser.add_argument("--pie-bench", type=Path, metavar="FOLDER", help="only the anchor on this PIE-Bench folder")
    parser.add_argument("--model", help="for --pie-bench: the one model, SD 1.5")
    parser.add_argument("--squeeze", type=Path, help="for --pie-bench: SqueezeNet features for LPIPS (.safetensors)")
    parser.add_argument("--lpips", type=Path, help="for --pie-bench: its learned weights (.safetensors)")
    return parser


def compare(given: argparse.Namespace, say: Say) -> tuple[dict[str, float], str]:
    """Figures and page of the comparison; writes plot and sheets."""
    names = zoo.find(given.models)[: 2 if given.quick else None]
    card = zoo.card_of(names[0])
    guidance = given.guidance if given.guidance is not None else card.guidance if card is not None else 5.0
    count = given.count if given.count is not None else 5 if given.quick else COUNT
    steps = given.steps if given.steps is not None else 10 if given.quick else 25
    plan = Plan(names, prompts(count, given.prompts, skip=given.skip), given.seeds, given.seed, steps, guidance)
    where = {"device": given.device, "dtype": given.dtype}
    study = Study.of(plan, **where, keep=given.keep, batch=given.batch, say=say)
    chosen = list(arms(steps, guidance, quick=given.quick))
    if given.hands > 1:
        if given.keep is None:
            raise InvalidArgument(f"--hands {given.hands} without --keep; give the folder that the processes share")
        together(study, chosen, given.hands, **where)
    if given.finished:
        study, chosen = study.finished(chosen)
    vit = None if given.vit is None else ViT.load(given.vit)
    found = report.Found(judge(study, chosen, encoder=_encoder(given.encoder, names), vit=vit))
    compared, all_ = sum(len(study.targets(name)) for name in study.models), len(names) * (len(names) - 1)
    drawn = f"{len(names)} models ({', '.join(plan.names)}), {compared} of their {all_} ordered pairs, "
    drawn += f"{len(plan.prompts)} prompts, seeds a prompt {plan.seeds}"
    page = [f"{drawn}, {steps} steps, guidance {guidance:g}.", found.text()]
    home = given.markdown.parent if given.markdown else Path()
    at = given.plot or (given.sheets / "pareto.svg" if given.sheets else None)
    if at is not None:
        report.plot(found, at)
        page.insert(1, f"![Structure kept against style reached]({os.path.relpath(at, home)})")
    if given.sheets:
        written = report.sheets(study, chosen, given.sheets)
        page += ["## Sheets", *(f"![{path.stem}]({os.path.relpath(path, home)})" for path in written)]
    page.append(NAMES.format(methods=", ".join(f"`{key}`" for key in (*METHODS, *ABLATIONS))))
    return found.figures(), "\n\n".join(page)


def _encoder(folder: Path | None, names: tuple[str, ...]) -> Encoder | None:
    """The one given; for embedded models the embedded one."""
    embedded = zoo.ROOT.parent / "zoo_encoder"
    if folder is None and embedded.is_dir() and all(name.startswith(zoo.PREFIX) for name in names):
        folder = embedded
    return None if folder is None else Encoder.load(folder)


if __name__ == "__main__":
    try:
        main()
    except TastemakerError as error:
        sys.exit(f"error: {error}")
