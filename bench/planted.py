"""A gallery to measure: tiny pictures of many models, people with tastes, words on what they were shown, votes.

Everything goes the way of a user's own data: a grid's folder, `import_folder`, `Store.load`, votes one by one, a fit.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import sqlalchemy as sa

from tastemaker.choose.votes import pair
from tastemaker.data.feedback import FeedbackLog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.generate.catalogue import CATALOGUE
from tastemaker.generate.picture import CHUNK, Part, Recipe
from tastemaker.generate.plan import slug
from tastemaker.serve import schema as s
from tastemaker.serve.events import Voted
from tastemaker.serve.gallery import import_folder
from tastemaker.serve.learn import Learner
from tastemaker.serve.store import Store

_WHAT = ("apple", "boat", "cat", "door", "egg", "fox", "guitar", "house", "island", "jug")
_WHERE = ("rain", "snow", "fog", "spring", "autumn", "winter", "moonlight", "a storm", "gold", "blue")
PROMPTS = {f"{what} in {where}": what for what in _WHAT for where in _WHERE}  # and the tag of each


@dataclass(frozen=True)
class Size:
    """`events` likes and dislikes, on 6/5 as many impressions, and a hundredth as many votes."""

    events: int
    pictures: int
    people: int
    seed: int


def plant(folder: Path, size: Size) -> dict[str, float]:
    """Make `folder`/grid, `folder`/home and `folder`/silent.parquet, unless they are there.

    The last holds person, item, impression: what was shown, and nothing said. Returns what each part took when made.
    """
    facts = folder / "planted.json"
    if not facts.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        pictures = _pictures(folder / "grid", size)
        log = _log(pictures["stem"].to_list(), size)
        facts.write_text(json.dumps(_store(folder, pictures, log, size)))
    told: dict[str, float] = json.loads(facts.read_text())
    return told


def _store(folder: Path, pictures: pl.DataFrame, log: FeedbackLog, size: Size) -> dict[str, float]:
    took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        print(f"{what} ...", file=sys.stderr)
        wall, processor = time.perf_counter(), time.process_time()
        yield
        took[f"{what}.seconds"] = time.perf_counter() - wall
        took[f"{what}.cpu_seconds"] = time.process_time() - processor

    home = folder / "home"
    home.mkdir()
    with Store(home / "store.db") as store:
        with timed("import.pictures"):
            import_folder(store, folder / "grid")
        with timed("import.events"):
            store.load(log)
        with timed("import.votes"):
            _vote(store, pictures, size)
        with timed("read_log"):
            store.log(last=True)
        with timed("fit"):
            Learner(store, home / "versions").refit(rng=size.seed)
        _silent(store).write_parquet(folder / "silent.parquet")
    took["store_mib"] = sum(file.stat().st_size for file in home.glob("store.db*")) / 2**20
    return took


def _pictures(folder: Path, size: Size) -> pl.DataFrame:
    """A grid of 8 x 8 pictures, a hundred prompts by as many models as it takes: id, stem, model, prompt."""
    from PIL import Image, PngImagePlugin

    rows = []
    for number, prompt in zip(range(size.pictures), list(PROMPTS) * (size.pictures // 100 + 1), strict=False):
        model = f"model-{number // 100}"
        recipe = Recipe("generate", prompt, (Part(model, f"hash of {model}"),), number % 7, 20, 4.0)
        file = folder / model / f"{slug(prompt)}-{recipe.seed}-{recipe.digest[:10]}.png"
        chunks, content = PngImagePlugin.PngInfo(), io.BytesIO()
        chunks.add_text(CHUNK, recipe.to_json())
        Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 80)).save(content, "PNG", pnginfo=chunks)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
        rows.append((f"{model}/{file.name}", file.stem, model, prompt))
    pictures = pl.DataFrame(rows, schema=["id", "stem", "model", "prompt"], orient="row")
    pictures.select("id").write_csv(folder / CATALOGUE)
    pl.DataFrame({"prompt": list(PROMPTS), "tag": list(PROMPTS.values())}).write_csv(folder / "prompts.csv")
    models = pictures["model"].unique(maintain_order=True)
    rank = pl.Series(range(len(models)))
    facts = {"model": models, "maker": "maker " + (rank % 20).cast(pl.String), "downloads": 100 * rank + 100}
    pl.DataFrame(facts).write_csv(folder / "models.csv")
    return pictures


def _log(items: Sequence[str], size: Size) -> FeedbackLog:
    """Words on pictures shown at random, by people with a taste in eight directions."""
    rng = np.random.default_rng(size.seed)
    n, people = size.events * 6 // 5, pl.Series([f"person-{at}" for at in range(size.people)])
    pairs = np.unique(rng.integers(size.people * len(items), size=n * 13 // 10))
    user, item = np.divmod(rng.permutation(pairs)[:n], len(items))
    tastes, looks = rng.standard_normal((size.people, 8)), rng.standard_normal((len(items), 8))
    liked = np.einsum("nd,nd->n", tastes[user], looks[item]) + 2 * rng.standard_normal(n) > 0
    now = time.time_ns() // 1000
    shown = pl.DataFrame({
        "user": user.astype(np.int32), "item": item.astype(np.int32),
        "time": np.sort(rng.integers(now - 10**13, now - 10**9, size=n)), "position": np.zeros(n, np.int32),
        "policy": ["uniform"] * n, "probability": np.full(n, 1 / len(items)),
    })  # fmt: skip
    value = pl.Series("value", np.where(liked, 1, -1).astype(np.float32))
    speaks = np.isin(np.arange(n), rng.choice(n, size.events, replace=False))
    said = shown.select("user", "item", value, pl.col("time") + 1).filter(speaks)
    return FeedbackLog(said, Vocabulary(people), Vocabulary(pl.Series(list(items))), impressions=shown)


def _silent(store: Store) -> pl.DataFrame:
    i, answered = s.impressions.c, sa.select(s.feedback.c.impression)
    query = sa.select(s.users.c.id, s.generations.c.id, i.seq).where(
        s.users.c.user == i.user, s.generations.c.item == i.item, i.seq.not_in(answered)
    )
    with store.reading() as db:
        rows = [tuple(row) for row in db.execute(query)]
    return pl.DataFrame(rows, schema=["person", "item", "impression"], orient="row")


def _vote(store: Store, pictures: pl.DataFrame, size: Size) -> None:
    """Votes between two models' pictures of one prompt; the later model wins more often."""
    rng, waiting = np.random.default_rng(size.seed), []
    of = {prompt: part["stem"].to_list() for (prompt,), part in pictures.group_by("prompt", maintain_order=True)}
    several = [prompt for prompt, stems in of.items() if len(stems) > 1]
    for number in range(size.events // 100):
        prompt = several[number % len(several)]
        first, second = sorted(rng.choice(len(of[prompt]), 2, replace=False), reverse=rng.random() < 0.7)
        choices = pair(of[prompt][first], of[prompt][second], ties=True, bad=True)
        vote = Voted(f"person-{rng.integers(size.people)}", choices, PROMPTS[prompt], "random battle", 0.001)
        waiting.append(store.submit(vote, key=f"planted vote {number}"))
        if number % 5000 == 4999:  # no more than may wait
            waiting[-1].result()
    for one in waiting:
        one.result()
