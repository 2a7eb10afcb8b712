"""`tastemaker report` and `debias`: what the stakeholders got, and what correcting for exposure changes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.logs import READING, Reading
from tastemaker.terminal import err, out, print_facts, print_json, print_table, working


@app.command
def report(
    log: Path | None = None,
    *,
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"),
    how: Literal["time", "user", "random"] | None = None,
    test: float = 0.2,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    rank: int = 32,
    seed: Seed = 0,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """The main job: likes and dislikes in, a report to every stakeholder out.

    Args:
        log: File or folder in any known format; without one, a world with planted taste is built.
        to: Where to write the HTML page.
        how: How to split: the latest events, a share of each user's events (when not given), or what was shown at
            random.
        test: Share of events for test.
        k: Items a person.
        rank: Factors of the matrix factorisation.
    """
    from tastemaker import report as reports

    command = "tastemaker " + shlex.join(sys.argv[1:])
    to.parent.mkdir(parents=True, exist_ok=True)
    with working("working") as say:
        made = reports.make(
            None if log is None else reading.read(log),
            source=None if log is None else str(log),
            how=how, test=test, k=k, rank=rank, seed=seed, command=command, say=say,
        )  # fmt: skip
        made.write(to)
    if json:
        print_json(made.figures)
    else:
        for title, table in made.tables():
            print_table(title, table)
        told = "Factors (+) was told of likes only, Factors (±) of dislikes too."
        one_sided = "train holds likes alone, or dislikes alone, so nothing here says what dislikes add."
        out.print(f"\n± is half a 95 % interval; {told if made.verdicts else one_sided}")
        for verdict in made.verdicts:
            out.print(verdict)
    err.print(f"report: {to.resolve()}", soft_wrap=True)


@app.command
def debias(
    log: Path,
    *,
    propensity: str = "popularity",
    clip: float = 20.0,
    random_test: bool | None = None,
    how: Literal["user", "time"] = "user",
    test: float = 0.2,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    rank: int = 32,
    seed: Seed = 0,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """How items came to be shown, whether that can be believed, and what correcting for it changes.

    Args:
        log: File or folder in any known format.
        propensity: Model of how items came to be shown: uniform, popularity, item-age, poisson, logistic, naive-bayes,
            logged or sequence.
        clip: Largest weight; 1 is even exposure.
        random_test: Judge by the events flagged random; by default where there are any.
        how: How to split the other events; a share of each user's events, or the latest.
        test: Share of events for test.
        k: Items a person.
        rank: Factors of the recommender.
    """
    from tastemaker.debias import report as reports

    with working("working") as say:
        made = reports.make(
            reading.read(log), propensity=propensity, clip=clip, random_test=random_test,
            how=how, test=test, k=k, rank=rank, seed=seed, say=say,
        )  # fmt: skip
    for warning in made.warnings:
        err.print(f"note: {warning}", highlight=False)
    if json:
        print_json({"facts": made.facts, "warnings": made.warnings, "verdicts": made.verdicts, "figures": made.figures})
        return
    print_facts(made.facts)
    for title, table in made.tables.items():
        print_table(title, table)
    out.print("")
    for verdict in made.verdicts:
        out.print(verdict)
