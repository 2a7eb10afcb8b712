"""What the command line shows: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# What is printed is data: [red], :smile: and the like are what people call their songs.
out = Console(markup=False, emoji=False)
err = Console(markup=False, emoji=False, stderr=True)


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_facts(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        lines: Iterable[object] = value if isinstance(value, list) else [value]
        for line in lines:
            table.add_row(Text(name, "bold"), f"{line:,}" if isinstance(line, int) else _cell(line))
            name = ""
    out.print(table)


def print_table(title: str, frame: pl.DataFrame, most: int = 40, whole: Sequence[str] = ()) -> None:
    """A table as wide as the terminal; columns named in `whole`, of what one must type, are never cut."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name, dtype in frame.schema.items():
        table.add_column(
            name.replace("_", " "),
            justify="right" if dtype.is_numeric() else "left",
            no_wrap=name in whole,
            min_width=max((len(_cell(value)) for value in frame[name].head(most)), default=0)
            if name in whole
            else None,
        )
    for row in frame.head(most).iter_rows():
        table.add_row(*(_cell(value) for value in row))
    out.print(table)
    if frame.height > most:
        out.print(f"... and {frame.height - most:,} more rows; --json or a file gives all of them")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with the elapsed time, where that is a terminal; yields a function that changes its text."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda text: progress.update(task, description=text)


@contextmanager
def counting(what: str, total: float) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on stderr with the time gone and the time left; yields say(done, total, text).

    Where stderr is no terminal, each new text is a line of its own.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal)
    with bar as progress:
        task = progress.add_task(what, total=total)
        said = what

        def say(done: float, total: float, text: str) -> None:
            nonlocal said
            progress.update(task, completed=done, total=total, description=text)
            if text != said and not err.is_terminal:
                err.print(f"{text} ({done:.0f} of {total:.0f} done)", highlight=False, soft_wrap=True)
            said = text

        yield say
