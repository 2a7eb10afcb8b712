"""`tastemaker gallery`: look after a gallery that exists. Its server need not stop, nor run."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from cyclopts import App, Parameter

from tastemaker.cli.app import Json, Seed, app
from tastemaker.cli.logs import READING, Reading
from tastemaker.data import FeedbackLog
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.terminal import err, out, print_facts, print_json, print_table, working

if TYPE_CHECKING:
    from tastemaker.serve.store import Store
    from tastemaker.serve.versions import Version, Versions

gallery_app = App(name="gallery", help="Look after a gallery: versions of its model, its log, who draws for it.")
app.command(gallery_app)

Home = Annotated[Path, Parameter(help="Folder of the gallery, the --home of `tastemaker serve`.")]
Database = Annotated[
    str | None,
    Parameter(
        name=["--store", "--url"],
        help="Its database, as `serve` takes it: postgresql://...; a file in the home folder when not given.",
    ),
]


# -- versions ----------------------------------------------------------------------------------------------------------


@gallery_app.command
def versions(home: Home, *, json: Json = False) -> None:
    """The fitted versions of the model, oldest first, and which one lists are made with."""
    kept = _versions(home)
    now = kept.in_force()
    rows = [_row(kept, number) for number in kept.numbers()]
    if json:
        print_json({"in force": now.version, "pinned": now.pinned, "versions": rows})
        return
    used = "in force, pinned" if now.pinned else "in force"
    for row in rows:
        here = used if row["version"] == now.version else ""
        row["state"] = "damaged" if row.pop("damaged") else here
    print_table(f"versions of {home}", pl.DataFrame(rows)) if rows else out.print("no version has been fitted yet")


@gallery_app.command
def refit(home: Home, *, store: Database = None, trust: bool = True, seed: Seed = 0, json: Json = False) -> None:
    """Fit a version from everything said so far, and put it in force unless another one is pinned.

    A server does this itself, in the background, as people react.

    Args:
        trust: Let suspicious votes and likes count less.
    """
    from tastemaker.serve.learn import Plan, learn
    from tastemaker.serve.settings import Settings
    from tastemaker.serve.trust import Watch
    from tastemaker.serve.versions import Versions

    with _opened(home, store) as opened, working("fitting"):
        (folder := Settings(home).versions).mkdir(exist_ok=True)
        made = learn(opened, folder, Plan(trust=Watch() if trust else None), seed)
    _tell(Versions(folder), made, json)


@gallery_app.command
def roll_back(home: Home, *, to: int | None = None, json: Json = False) -> None:
    """Put an earlier version in force and pin it; a running server's next list is made with it.

    Later versions are fitted and wait, until `follow`. No word of anybody is undone.

    Args:
        to: Number of the version; the one before the one in force when not given.
    """
    kept = _versions(home)
    _tell(kept, kept.roll_back() if to is None else kept.use(to), json)


@gallery_app.command
def follow(home: Home, *, json: Json = False) -> None:
    """Put the newest version in force, and every later one as it comes: the end of a roll-back."""
    kept = _versions(home)
    _tell(kept, kept.follow(), json)


# -- the log -----------------------------------------------------------------------------------------------------------


@gallery_app.command
def export(home: Home, folder: Path, *, store: Database = None, json: Json = False) -> None:
    """Write what was shown and said as a log in the native format, which every other verb reads.

    What was taken back, votes and recipes are not in it.

    Args:
        folder: Where to write; a new folder.
    """
    if folder.exists():
        raise InvalidArgument(f"'{folder}' is there already; name a folder that is not")
    with _opened(home, store) as opened, working("reading the store"):
        try:
            log = opened.export(folder)
        except OSError as error:
            raise DataError(f"cannot be written ({error}); name a folder elsewhere", file=folder) from error
    print_json(_sizes(log) | {"folder": str(folder)}) if json else out.print(f"{log} -> {folder}", soft_wrap=True)


@gallery_app.command(name="import")
def import_log(
    home: Home, log: Path, *, store: Database = None, reading: Reading = READING, json: Json = False
) -> None:
    """Store a signed log, all of it or nothing, and say how much of it was new. What is there already is left out.

    Into a folder without a gallery it begins one. What a running server stores meanwhile is counted too.

    Args:
        log: File or folder in any known format; cut grades with --like and --dislike.
    """
    read = reading.read(log)
    with _opened(home, store, begin=True) as opened, working("storing"):
        before = opened.counts()
        notes = opened.load(read)
        after = opened.counts()
    names = {"events": "feedback", "users": "users", "items": "generations", "impressions": "impressions"}
    new = {f"new {name}": after[table] - before[table] for name, table in names.items()}
    facts = _sizes(read) | new | {"notes": list(notes)}
    print_json(facts) if json else print_facts(facts)


# -- what is there -----------------------------------------------------------------------------------------------------


@gallery_app.command
def check(home: Home, *grids: Path, store: Database = None, json: Json = False) -> None:
    """Whether all of the gallery is there and whole, as after a backup was put back; exit code 1 if it is not.

    Args:
        grids: The folders that `tastemaker serve` is given.
    """
    from tastemaker.serve.check import check as faults_of
    from tastemaker.serve.settings import Settings

    with _opened(home, store) as opened, working("checking"):
        faults = [asdict(fault) for fault in faults_of(opened, Settings(home, grids, models=(), store=store))]
    if json:
        print_json(faults)
    elif faults:
        print_table(f"{len(faults):,} faults", pl.DataFrame(faults))
    else:
        out.print("all of it is there and whole")
    if faults:
        raise SystemExit(1)


# -- drawing -----------------------------------------------------------------------------------------------------------


@gallery_app.command
def work(home: Home, *, device: str = "auto", store: Database = None, once: bool = False) -> None:
    """Draw what people order, one process a device, for a server that runs with --devices none. Ctrl-C ends it.

    Home folder and models must lie under the same paths as on the server's machine.

    Args:
        device: auto, cpu, cuda:0, cuda:1, ...
        once: End when nothing waits.
    """
    from tastemaker.generate.load import place_of
    from tastemaker.serve.settings import Settings
    from tastemaker.serve.worker import run

    place = place_of(device)  # what is wrong is said at once, not job by job
    _opened(home, store).close()
    err.print(f"drawing on {place} for {home} (Ctrl-C ends it)", soft_wrap=True)
    settings = Settings(home, store=store)
    run(settings.where, settings.pictures, device, once=once)


# -- what the verbs share ----------------------------------------------------------------------------------------------


def _opened(home: Path, store: str | None, *, begin: bool = False) -> Store:
    """The store of a gallery. Only with `begin` may it be new, and even then in a folder that is there."""
    from tastemaker.serve.settings import Settings
    from tastemaker.serve.store import Store

    where = Settings(home, store=store).where
    if not home.is_dir():
        raise DataError("no such folder; give the --home of a gallery", file=home)
    if not begin and "://" not in where and not Path(where).is_file():
        raise DataError("no such store; give the --home of a gallery, and its --store if it has one", file=where)
    return Store(where)


def _versions(home: Path) -> Versions:
    from tastemaker.serve.settings import Settings
    from tastemaker.serve.versions import Versions

    folder = Settings(home).versions
    if not folder.is_dir():
        raise DataError(
            "no such folder; give the --home of a gallery, and fit its first version with `tastemaker gallery refit`",
            file=folder,
        )
    return Versions(folder)


def _row(kept: Versions, number: int) -> dict[str, Any]:
    """Facts of a version that can be read whole, and so be put in force; of another, what is wrong with it."""
    try:
        return _facts(kept.read(number).version) | {"damaged": None}
    except DataError as error:
        return {"version": number, "fitted": None, "words": None, "votes": None, "doubted": None, "damaged": str(error)}


def _facts(made: Version) -> dict[str, Any]:
    fitted = datetime.fromtimestamp(made.time / 1e6, UTC).isoformat(" ", "seconds")
    words, votes, doubted = made.words, made.votes, len(made.doubts)
    return {"version": made.version, "fitted": fitted, "words": words, "votes": votes, "doubted": doubted}


def _tell(kept: Versions, made: Version, json: bool) -> None:
    now = kept.in_force()
    facts = _facts(made) | {"in force": now.version, "pinned": now.pinned}
    if json:
        print_json(facts)
    else:
        print_facts(facts | {"pinned": "yes, until `tastemaker gallery follow`" if now.pinned else "no"})


def _sizes(log: FeedbackLog) -> dict[str, Any]:
    shown = 0 if log.impressions is None else log.impressions.height
    return {"events": len(log), "users": log.n_users, "items": log.n_items, "impressions": shown}
