"""The promptbook of a folder that a grid of prompts x models was drawn into: FOLDER/catalogue.csv.

A model whose card names trigger words draws 'PROMPT, word' for PROMPT, so that the texts of one planned prompt differ
between models. Say what the planned prompts were, and each picture goes to the longest one that its text is or begins
with (before a comma); without them every distinct text is a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tastemaker.data.catalog import ID, Catalog
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, SEED, Promptbook
from tastemaker.data.read.records import Records
from tastemaker.errors import InvalidArgument

COLUMNS = (
    "id", "prompt", "negative", "model", "model_hash", "loras", "seed", "steps", "guidance", "width", "height",
    "sampler", "thumbnail",
)  # fmt: skip


def read_grid(folder: str | Path, *, prompts: Sequence[str] | None = None) -> Promptbook:
    """The promptbook of a folder. A model with LoRAs counts as a model of its own, called 'MODEL + LORA:STRENGTH'.

    Args:
        prompts: the planned prompts, in the order wanted.

    Returns:
        models: id, name, hash, loras; prompts: id, text (the same); cells: prompt, model, seed, picture (the file's
        place in the folder), drawn_as (the text with trigger words), negative, steps, guidance, width, height, sampler.

    Raises DataError for a file that is no catalogue, a cell drawn twice with other settings, one name for two models
    (retrained), or a picture of none of `prompts`.
    """
    path = Path(folder) / "catalogue.csv"
    file = Records.read(path, COLUMNS)
    file.key("id")
    loras = file.text("loras", blank=True)
    bare = file.text("model")
    model = pl.Series([f"{name} + {lora}" if lora else name for name, lora in zip(bare, loras, strict=True)])
    drawn = file.text("prompt")
    prompt = drawn if prompts is None else _planned(file, drawn, prompts)
    cells = pl.DataFrame(
        {
            PROMPT: prompt,
            MODEL: model,
            SEED: file.whole("seed"),
            PICTURE: file.text("id"),
            "drawn_as": drawn,
            "negative": file.text("negative", blank=True),
            "steps": file.whole("steps", low=1),
            "guidance": file.number("guidance"),
            "width": file.whole("width", low=1),
            "height": file.whole("height", low=1),
            "sampler": file.text("sampler"),
        }
    )
    first: dict[tuple[object, ...], int] = {}
    for row, key in enumerate(cells.select(PROMPT, MODEL, SEED).iter_rows()):
        if (seen := first.setdefault(key, row)) != row:
            problem = (
                f"model {key[1]}, seed {key[2]} drew this prompt before, on line {file.lines[seen]}, with other "
                f"settings; draw them into folders of their own"
            )
            raise file.fault("prompt", row, problem)
    return Promptbook(_models(file, bare, model, loras), _prompts(prompt, prompts), cells)


def _planned(file: Records, drawn: pl.Series, prompts: Sequence[str]) -> pl.Series:
    if isinstance(prompts, str) or not prompts or len(set(prompts)) < len(prompts):
        raise InvalidArgument("prompts must be a list of at least one planned prompt, each once")
    longest_first = sorted(prompts, key=len, reverse=True)
    found = []
    for row, text in enumerate(drawn):
        planned = next((p for p in longest_first if text == p or text.startswith(f"{p}, ")), None)
        if planned is None:
            raise file.fault("prompt", row, f"'{text[:60]}' is none of the {len(prompts)} prompts given")
        found.append(planned)
    return pl.Series(found, dtype=pl.String)


def _models(file: Records, bare: pl.Series, model: pl.Series, loras: pl.Series) -> Catalog:
    hashes = file.text("model_hash")
    table = pl.DataFrame({ID: model, "name": bare, "hash": hashes, "loras": loras})
    known: dict[str, str] = {}
    for row, (name, digest) in enumerate(zip(model, hashes, strict=True)):
        if known.setdefault(name, digest) != digest:
            problem = f"'{name}' has another hash than before: it was retrained; draw it into a folder of its own"
            raise file.fault("model_hash", row, problem)
    return Catalog(table.unique(ID, maintain_order=True))


def _prompts(prompt: pl.Series, prompts: Sequence[str] | None) -> Catalog:
    text = prompt.unique(maintain_order=True) if prompts is None else pl.Series(list(prompts), dtype=pl.String)
    return Catalog(pl.DataFrame({ID: text, "text": text}))
