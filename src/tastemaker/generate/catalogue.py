"""catalogue.csv of a grid: one row a picture, appended when the picture is whole; `Catalog.read` reads it.

A row cut short by a kill or a full disk is dropped by the next grid, which finds the picture by its recipe and writes
the row anew. The open file is the lock: one process at a time draws into a folder, and a lock goes with its process.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tastemaker.errors import DataError
from tastemaker.generate.picture import Recipe, write_picture
from tastemaker.generate.sheet import thumbnail

CATALOGUE = "catalogue.csv"
COLUMNS = (
    "id", "prompt", "negative", "model", "model_hash", "loras", "seed", "steps", "guidance", "width", "height",
    "sampler", "seconds", "thumbnail",
)  # fmt: skip


class Catalogue:
    """catalogue.csv of a folder, open for appending and locked; raises DataError where it cannot be.

    Attributes:
        ids: Pictures that have a row.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / CATALOGUE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror}); choose another folder", file=self._path) from error
        self._lock()
        for part in folder.rglob(".*.part"):  # written when a process was killed; nobody else writes here now
            part.unlink()
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))  # a row cut short by a kill or a full disk: its picture is looked up again
        rows = list(csv.reader(whole.decode("utf-8").splitlines()))
        if rows and tuple(rows[0]) != COLUMNS:
            raise DataError(f"is no catalogue of a grid; expected the columns {', '.join(COLUMNS)}", file=self._path)
        self.ids = {row[0] for row in rows[1:]}
        if not rows:
            self._append(COLUMNS)

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, file: str, recipe: Recipe, image: Image.Image, seconds: float | None, *, small: bool) -> None:
        """The thumbnail and the row of a picture that is on disk."""
        thumb = f"thumbnails/{file}" if small else ""
        if thumb:
            write_picture(thumbnail(image), self._folder / thumb)
        if file in self.ids:  # drawn again, for the file was gone or damaged
            return
        loras = " ".join(f"{lora.name}:{lora.scale:g}" for lora in recipe.loras)
        self._append(
            (
                file, recipe.prompt, recipe.negative, recipe.models[0].name, recipe.models[0].hash, loras,
                recipe.seed, recipe.steps, recipe.guidance, image.width, image.height, recipe.sampler,
                "" if seconds is None else f"{seconds:.3f}", thumb,
            )
        )  # fmt: skip
        self.ids.add(file)

    def _append(self, row: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        content = line.getvalue().encode()
        try:
            if self._file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise DataError(f"cannot be written ({error.strerror}); free some space", file=self._path) from error

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except BlockingIOError as error:
            raise DataError("another process is drawing into this folder; wait for it", file=self._folder) from error


def seconds_a_step(folder: Path, files: set[str]) -> list[float]:
    """Seconds a step that the named pictures took, where the catalogue tells."""
    if not (folder / CATALOGUE).is_file():
        return []
    with (folder / CATALOGUE).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["id"] in files and row["seconds"]]
    return [float(row["seconds"]) / int(row["steps"]) for row in rows]
