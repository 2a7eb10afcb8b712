"""`tastemaker data`: look at, convert, split and download feedback logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from cyclopts import Parameter

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, data_app
from tastemaker.data import FeedbackLog, Scale, split
from tastemaker.terminal import out, print_facts, print_json, print_table, working


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How to read a log.

    Attributes:
        format: Format of the file; detected when not given.
        user: Column of user ids; guessed when not given.
        item: Column of item ids; guessed when not given.
        value: Column of values; guessed when not given.
        time: Column of times; guessed when not given.
        scale: Lowest and highest grade there is; the smallest and largest of the file when not given.
        like: Graded values from here up are likes.
        dislike: Graded values from here down are dislikes.
        on_duplicate: What to do with a second event on a pair: error, first, last or keep.
        id_type: Read ids as int or string where the file mixes them.
    """

    format: str | None = None
    user: str | None = None
    item: str | None = None
    value: str | None = None
    time: str | None = None
    scale: tuple[float, float] | None = None
    like: float | None = None
    dislike: float | None = None
    on_duplicate: Literal["error", "first", "last", "keep"] = "error"
    id_type: Literal["int", "string"] | None = None

    def read(self, path: Path) -> FeedbackLog:
        named = {c.USER: self.user, c.ITEM: self.item, c.VALUE: self.value, c.TIME: self.time}
        columns = {role: name for role, name in named.items() if name is not None}
        with working(f"reading {path}"):
            return FeedbackLog.read(
                path,
                format=self.format,
                columns=columns or None,
                scale=None if self.scale is None else Scale(*self.scale),
                like=self.like,
                dislike=self.dislike,
                on_duplicate=self.on_duplicate,
                id_type=self.id_type,
            )


READING = Reading()


@data_app.command
def describe(log: Path, *, reading: Reading = READING, json: Json = False) -> None:
    """What a log holds.

    Args:
        log: File or folder in any known format.
    """
    read = reading.read(log)
    per_user, per_item = (read.events.group_by(name).len()["len"] for name in (c.USER, c.ITEM))
    facts: dict[str, Any] = {
        "events": len(read),
        "users": read.n_users,
        "items": read.n_items,
        "kind": "signed" if read.scale.signed else f"graded {read.scale.low:g}..{read.scale.high:g}",
        "mean value": float(read.value.mean()) if len(read) else None,
        "density": len(read) / max(1, read.n_users * read.n_items),
        "events a user, median": per_user.median(),
        "events an item, median": per_item.median(),
        "impressions": 0 if read.impressions is None else read.impressions.height,
        "columns": ", ".join(read.events.columns),
    }
    if read.scale.signed and len(read):
        facts["share of likes"] = float((read.value > 0).mean())
    if c.TIME in read.events.columns and len(read):
        times = read.events[c.TIME]
        if np.abs(times.to_numpy()).max() >= 10**14:  # microseconds; below that it is a counter (`read.times`)
            times = times.cast(pl.Datetime("us"))
        facts["from"], facts["to"] = str(times.min()), str(times.max())
    facts["notes"] = list(read.notes)
    if json:
        print_json(facts)
    else:
        print_facts(facts)


@data_app.command
def convert(log: Path, folder: Path, *, reading: Reading = READING, json: Json = False) -> None:
    """Write a log in the native format, a folder of Parquet files.

    Args:
        log: File or folder in any known format.
        folder: Where to write.
    """
    read = reading.read(log)
    read.save(folder)
    facts = {"events": len(read), "users": read.n_users, "items": read.n_items, "folder": str(folder)}
    print_json(facts) if json else out.print(f"{read} -> {folder}", soft_wrap=True)


@data_app.command(name="split")
def split_log(
    log: Path,
    folder: Path,
    *,
    how: Literal["time", "last", "user", "random"] = "time",
    test: float = 0.2,
    seed: Seed = 0,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """Cut a log into FOLDER/train and FOLDER/test.

    Args:
        log: File or folder in any known format.
        folder: Where to write.
        how: time = the latest share of events; last = each user's last event; user = a random share of each user's
            events; random = what was shown at random.
        test: Share of events for test (time, user).
    """
    train, held_out = _split(reading.read(log), how, test, seed)
    train.save(folder / "train")
    held_out.save(folder / "test")
    if json:
        print_json({"train": len(train), "test": len(held_out), "folder": str(folder)})
    else:
        out.print(f"train {train}\ntest  {held_out}\n-> {folder}", soft_wrap=True)


@data_app.command
def get(name: str | None = None, *, to: Path = Path("."), json: Json = False) -> None:
    """Download a public data set; without a name, list them.

    Args:
        name: Name of the set.
        to: Folder to download into.
    """
    from tastemaker.data import fetch

    if name is None:
        sets = [{"name": s.name, "licence": s.licence, "url": s.url} for s in fetch.PUBLIC_SETS.values()]
        print_json(sets) if json else print_table("public sets", pl.DataFrame(sets))
        return
    with working(f"downloading {name}") as say:
        path = fetch.fetch(name, to, progress=lambda done, total: say(f"downloading {name}: {done / 1e6:.1f} MB"))
    print_json({"path": str(path)}) if json else out.print(f"{path}")


def _split(log: FeedbackLog, how: str, test: float, seed: int) -> split.Pair:
    if how == "time":
        return split.by_time(log, test)
    if how == "last":
        return split.leave_last_out(log)
    if how == "user":
        return split.per_user(log, test, rng=seed)
    return split.random_exposure(log)
