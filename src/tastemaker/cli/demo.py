"""`tastemaker demo`: pictures drawn, people simulated, the loop four times, the report, and the gallery with it all."""

from __future__ import annotations

import csv
import hashlib
import json as jsons
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from cyclopts import Parameter

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.pictures import MACHINE, Machine, Models
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, TastemakerError
from tastemaker.terminal import counting, err, out, print_facts, print_json, print_table, working

if TYPE_CHECKING:
    from tastemaker.data.promptbook import Promptbook
    from tastemaker.generate.plan import Plan
    from tastemaker.simulate.quarters import Quarters

PROMPTS: Mapping[str, str] = {  # and the tag that the gallery gives them
    "a fox": "animals", "a house": "places", "a mushroom": "plants", "a crown": "things",
    "a cat": "animals", "a rocket": "things", "a pumpkin": "plants", "a panda": "animals",
    "a cactus": "plants", "a sailboat": "things", "an octopus": "animals", "a guitar": "things",
    "a red heart on a blue background": "things", "a lion on a yellow background": "animals",
    "a snowman on a purple background": "places", "a penguin left of a balloon": "animals",
}  # fmt: skip
EPOCH, MINUTE = 1_700_000_000_000_000, 60_000_000  # when simulated people begin, and how long a step takes them


@app.command
def demo(
    *,
    home: Path = Path("demo"),
    to: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"),
    models: Models = ["zoo"],  # noqa: B006
    prompts: int = len(PROMPTS),
    steps: int = 10,
    people: int = 300,
    crowds: int = 4,
    rounds: int = 10,
    serve: bool | None = None,
    port: int = 8765,
    seed: Seed = 0,
    machine: Machine = MACHINE,
    json: Json = False,
) -> None:
    """The whole loop in one command, without network or GPU, in minutes.

    Draws a small promptbook, lets simulated people live with it in four
    ways (corrected or not, raided by fake accounts or not), writes a report,
    and puts pictures and people into a gallery. Ended at any time, the same
    command goes on: no picture is drawn twice.

        demo
        demo --no-serve --prompts 6 --crowds 2

    Args:
        home: Folder for pictures and gallery.
        to: Where to write the HTML page.
        models: Models that draw; with zoo its LoRAs count as models too.
        prompts: How many of the demo's prompts.
        steps: Steps of each picture; the models' own number looks better and takes longer.
        people: In each crowd.
        crowds: How many times everything is simulated, for the intervals.
        rounds: In which people are shown pictures.
        serve: Open the gallery at the end, until Ctrl-C; by default where somebody sits at the terminal.
        port: Of the gallery.
    """
    from tastemaker.simulate import quarters, report

    if not 2 <= prompts <= len(PROMPTS):
        raise InvalidArgument(f"--prompts {prompts}; expected 2 to {len(PROMPTS)}")
    if rounds < 3:
        raise InvalidArgument(f"--rounds {rounds}; expected at least 3: before the raid, during it, and after")
    usual = quarters.Setting()
    setting = quarters.Setting(
        people=people, crowds=crowds, rounds=rounds,
        raid=min(usual.raid, rounds - 2), defence=min(usual.defence, rounds - 1),
    )  # fmt: skip
    plans = _plans(list(PROMPTS)[:prompts], models, steps)
    setting.check(sum(len(plan) for plan in plans))
    folder, drawn = _draw(home, plans, machine)
    with working("looking at the pictures"):
        book = _book(folder, list(PROMPTS)[:prompts])
    with counting("simulating people", crowds * len(quarters.ARMS)) as say:
        done = quarters.run(book, setting, seed=seed, say=say)
    command = "tastemaker " + shlex.join(sys.argv[1:])
    with working("writing the report"):
        report.write(done, book, to, lambda name: folder / name, command=command, facts={"steps": str(steps)})
    with working("filling the gallery"):
        gallery = _fill(home / "gallery", folder, done, command, report.figures(done))
    if json:
        print_json({"name": "demo", "command": command, "seed": seed, "figures": report.figures(done)})
    else:
        _show(done)
        print_facts({"pictures drawn": drawn, "there already": book.cells.height - drawn, "report": str(to.resolve())})
    if serve is None:
        serve = sys.stdin.isatty() and sys.stdout.isatty()
    if serve:
        from tastemaker.cli import serve as gallery_of

        gallery_of.serve(folder, home=gallery, models=models, port=port)
    else:
        again = shlex.join(["tastemaker", "serve", str(folder), "--home", str(gallery)])
        err.print(f"the gallery: {again}", highlight=False, soft_wrap=True)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _plans(prompts: Sequence[str], models: Sequence[str], steps: int) -> list[Plan]:
    """Every model, and every embedded LoRA on its base."""
    from tastemaker.generate import grid, zoo

    names = zoo.find(models)
    worn = [card for card in zoo.zoo() if card.kind == "lora" and f"{zoo.PREFIX}{card.base}" in names]
    loras = [
        grid.plan(prompts, [f"{zoo.PREFIX}{card.base}"], [0], loras=[(card.source, 1.0)], steps=steps) for card in worn
    ]
    return [grid.plan(prompts, names, [0], steps=steps), *loras]


def _draw(home: Path, plans: Sequence[Plan], machine: Machine) -> tuple[Path, int]:
    """The folder of the pictures, and how many had to be drawn. Other models or steps get a folder of their own."""
    from tastemaker.generate import grid
    from tastemaker.generate.plan import survey

    with working("looking at models"):
        first = [survey(plan, name, home) for plan in plans for name in plan.models]
    recipes = [picture.recipe.digest for _, finished, missing in first for picture in (*finished, *missing)[:1]]
    folder = home / f"book-{hashlib.sha256(' '.join(recipes).encode()).hexdigest()[:8]}"
    total, before, drawn = sum(len(plan) for plan in plans), 0, 0
    with counting("drawing", total) as say, warnings.catch_warnings():
        # peft lists every layer of the base that a LoRA leaves alone.
        warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
        for plan in plans:
            outcome = grid.draw_grid(
                plan, folder, loading=machine.loading,
                say=lambda done, _, text, before=before: say(before + done, total, text),  # type: ignore[misc]
            )  # fmt: skip
            if outcome.failures:
                failure = outcome.failures[0]
                raise TastemakerError(f"{failure.model} does not draw: {failure.problem}")
            before, drawn = before + len(plan), drawn + outcome.drawn
    return folder, drawn


def _book(folder: Path, prompts: Sequence[str]) -> Promptbook:
    """The pictures with vectors and makers; models.csv and prompts.csv beside them tell the gallery the same."""
    import dataclasses

    from tastemaker.choose.stock import embedded, eyes
    from tastemaker.data.catalog import ID, Catalog
    from tastemaker.data.read.grid import read_grid
    from tastemaker.generate.load import quiet
    from tastemaker.simulate.pictures import invented_makers

    book = read_grid(folder, prompts=list(PROMPTS)).only(prompts=list(prompts))
    table = book.models.table
    makers = invented_makers(table[ID].to_list())
    makers.write_csv(folder / "models.csv")
    with (folder / "prompts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "tag"), *PROMPTS.items()])
    known = table.join(makers, left_on=ID, right_on="model", how="left", maintain_order="left")
    with quiet():
        return embedded(dataclasses.replace(book, models=Catalog(known)), eyes(), lambda name: folder / name)


# -- gallery and words -------------------------------------------------------------------------------------------------


def _fill(home: Path, folder: Path, done: Quarters, command: str, figures: dict[str, float]) -> Path:
    """The gallery with the pictures, what the first crowd said with the correction, a first model, and the drill."""
    from tastemaker.serve.gallery import import_folder
    from tastemaker.serve.learn import Learner
    from tastemaker.serve.settings import Settings
    from tastemaker.serve.store import Store

    home.mkdir(parents=True, exist_ok=True)
    with Store(Settings(home).where) as store:
        import_folder(store, folder)
        store.load(_dated(done.logs["corrected"]))
        learner = Learner(store, home / "versions")
        try:
            if learner.behind():
                learner.refit()
        finally:
            learner.close()
    told = ("raided.value", "raided.raided_before", "raided.during", "raided.defended", ".before", ".after")
    raid = {name: value for name, value in figures.items() if "raid" in name.split(".")[0] and name.endswith(told)}
    drill = {"name": "a raid on simulated people", "command": command, "figures": raid}
    (home / "drill.json").write_text(jsons.dumps(drill, indent=1), encoding="utf-8")
    return home


def _dated(log: FeedbackLog) -> FeedbackLog:
    """The log with the gallery's names for pictures, and a time for each step."""
    assert log.impressions is not None
    time = (pl.col(c.TIME) * MINUTE + EPOCH).alias(c.TIME)
    pictures = Vocabulary(pl.Series([Path(name).stem for name in log.item_ids.series]))
    events = log.events.select(c.USER, c.ITEM, c.VALUE, c.TIME, c.SIMULATED).with_columns(time)
    return FeedbackLog(events, log.user_ids, pictures, log.scale, log.impressions.with_columns(time), log.notes)


def _show(done: Quarters) -> None:
    from tastemaker.simulate import quarters, report

    means = report.summary(done).select(pl.exclude("^.*_(low|high)$"))
    turned = means.transpose(include_header=True, header_name="", column_names=quarters.ARM)
    print_table("Four loops on the same pictures", turned.with_columns(pl.exclude("").round(3)))
    changes: dict[str, list[dict[str, Any]]] = {}
    for change in report.changes(done):
        span = f"{change.low:+.3f} to {change.high:+.3f}" + ("" if change.clear else ", unclear")
        row = {"": change.what, "from": round(change.before, 3), "to": round(change.after, 3), "95 % interval": span}
        changes.setdefault(change.cause, []).append(row)
    for cause, rows in changes.items():
        print_table(cause, pl.DataFrame(rows))
    out.print(f"\nPeople and makers are simulated; raided are the pictures of {done.target}.", highlight=False)
