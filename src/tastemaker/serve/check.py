"""Whether all of a gallery is there, as after a backup was put back: its database, its pictures, its versions.

A server leaves out a picture whose file is gone, and says nothing; here it is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tastemaker.errors import DataError
from tastemaker.generate.picture import Recipe, read_picture, read_recipe
from tastemaker.serve.gallery import Gallery
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store
from tastemaker.serve.versions import Versions


@dataclass(frozen=True)
class Fault:
    """Something missing or damaged. `part` is database, picture or version; `name` says which one."""

    part: str
    name: str
    problem: str


def check(store: Store, settings: Settings) -> Iterator[Fault]:
    """Everything that is missing or damaged; every picture is decoded, which takes a few milliseconds each.

    PostgreSQL checks its own files (`pg_amcheck`). Raises DataError for a grid folder that cannot be read.
    """
    with store.reading() as db:
        if db.dialect.name == "sqlite":
            said = db.exec_driver_sql("PRAGMA integrity_check").scalars().all()
            yield from (Fault("database", store.where, problem) for problem in said if problem != "ok")
    gallery = Gallery(store, settings)
    for item in store.items():
        if item.recipe is None:
            continue
        if problem := _wrong(gallery, item.id, item.recipe):
            yield Fault("picture", item.id, problem)
    versions = Versions(settings.versions)
    try:
        now = versions.in_force().version
        if now and now not in versions.numbers():
            yield Fault("version", str(now), "is in force and not there; roll back to another")
    except DataError as error:
        yield Fault("version", "in force", str(error))
    for number in versions.numbers():
        try:
            versions.read(number)
        except DataError as error:
            yield Fault("version", str(number), str(error))


def _wrong(gallery: Gallery, id: str, recipe: str) -> str:
    if not gallery.has(id):
        return f"no file, neither in {gallery.settings.pictures} nor in a grid that was named"
    file = gallery.get(id).file
    try:
        read_picture(file)
        if read_recipe(file).digest != Recipe.from_json(recipe).digest:
            return f"{file} is another picture: its recipe is not the one in the store"
    except DataError as error:
        return str(error)
    return ""
