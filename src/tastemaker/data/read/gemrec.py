"""GEMRec-18K: 200 models x 90 prompts (Guo et al. 2023, arXiv 2308.02205): roster, prompt sets, metadata, embeddings.

Facts that are easy to get wrong:
- `modelVersion_id` names a model here: two versions in the roster share one `model_id`.
- `image_id` is a 128-bit number and is kept as text; a spreadsheet or a float would round it.
- Embeddings come as an array (prompts, models, dim): models in the order of a file of ids (not the roster's order),
  prompts in the order of `prompt_id`, which must run from 1 on. Both become keys here, so that files in any order
  give the same cells.
- The ten 'original' prompts and their 'extended' rewrites share a seed: seeds name the 80 groups that a split over
  prompts must keep together.
- Trigger words are written as a Python list; download counts of the three base models are from another site.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tastemaker.data.catalog import ID, Catalog
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, SEED, Promptbook, Vectors
from tastemaker.data.read.records import Records
from tastemaker.data.read.text import read_bytes
from tastemaker.errors import DataError, InvalidArgument

ROSTER = (
    "tag", "model_name", "model_id", "modelVersion_name", "modelVersion_id", "modelVersion_url",
    "modelVersion_trainedWords", "model_download_count", "baseModel",
)  # fmt: skip
PROMPTSET = ("prompt_id", "tag", "size", "seed", "prompt", "negativePrompt", "sampler", "cfgScale")
METADATA = (
    "image_id", "tag", "model_id", "modelVersion_id", "prompt_id", "size", "seed", "prompt", "negativePrompt",
    "cfgScale", "sampler", "note",
)  # fmt: skip
SCORES = (
    "clip_score", "mcos_score", "msq_score", "nsfw_score",
    "norm_clip", "norm_mcos", "norm_msq", "norm_nsfw", "norm_pop",
)  # fmt: skip


def read_gemrec(
    folder: str | Path, *, promptset: str = "promptset_v6.csv", metadata: str | Path | None = None
) -> Promptbook:
    """The promptbook of a folder with roster.csv and promptsets/, and, where they are there, the embeddings.

    Args:
        promptset: file below promptsets/.
        metadata: the table of pictures (CSV or Parquet) from the data set's hub. Without it there is one cell for each
            row of the embeddings, or for each prompt and model, and its picture is called PROMPT/MODEL.

    Raises DataError naming file, line and column.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("is no folder; expected one with roster.csv and promptsets/", file=folder)
    models, prompts = read_roster(folder / "roster.csv"), read_promptset(folder / "promptsets" / promptset)
    cells = None if metadata is None else read_metadata(metadata, models, prompts)
    if not (folder / "image_embeddings.npy").exists():
        return Promptbook(models, prompts, _every(models.table[ID], prompts) if cells is None else cells)
    ids = _model_ids(folder / "modelVersion_ids.txt", models)
    n = _prompts_from_one(prompts, folder / "image_embeddings.npy")
    pictures = _array(folder / "image_embeddings.npy", (n, len(ids), None))
    texts = _array(folder / "text_embeddings.npy", (n, pictures.shape[2]))[prompts.table[ID].to_numpy() - 1]
    if cells is None:
        cells = _every(ids, prompts)
    column = {model: place for place, model in enumerate(ids)}
    if stray := [model for model in cells[MODEL].unique() if model not in column]:
        raise DataError(f"model {stray[0]} has pictures but no embeddings", file=folder / "modelVersion_ids.txt")
    at = cells[PROMPT].to_numpy() - 1, np.array([column[model] for model in cells[MODEL]])
    return Promptbook(models, prompts, cells, pictures[at], texts)


def read_roster(path: str | Path) -> Catalog:
    """Models: id (modelVersion_id), name, version, model_id, base, downloads, tags and triggers (lists), url."""
    file = Records.read(path, ROSTER)
    file.key("modelVersion_id")
    return Catalog(
        pl.DataFrame(
            {
                ID: file.whole("modelVersion_id"),
                "name": file.text("model_name"),
                "version": file.text("modelVersion_name"),
                "model_id": file.whole("model_id"),
                "base": file.text("baseModel"),
                "downloads": file.whole("model_download_count"),
                "tags": file.text("tag").str.split("|"),
                "triggers": _triggers(file),
                "url": file.text("modelVersion_url"),
            }
        )
    )


def read_promptset(path: str | Path) -> Catalog:
    """Prompts: id, tag, text, negative, size (text as in the file), seed, sampler, guidance, note.

    Sampler and note are '' and guidance is null where the file says nothing, as in the early sets.
    """
    file = Records.read(path, PROMPTSET)
    file.key("prompt_id")
    size = file.text("size")
    if (bad := ~size.str.contains(r"^[1-9]\d*x[1-9]\d*$")).any():
        row = int(bad.arg_max() or 0)
        raise file.fault("size", row, f"'{size[row][:40]}' is not a size such as 768x512")
    note = file.text("note", blank=True) if "note" in file.table.columns else pl.Series([""] * size.len())
    return Catalog(
        pl.DataFrame(
            {
                ID: file.whole("prompt_id"),
                "tag": file.text("tag"),
                "text": file.text("prompt"),
                "negative": file.text("negativePrompt", blank=True),
                "size": size,
                SEED: file.whole("seed"),
                "sampler": file.text("sampler", blank=True),
                "guidance": file.number("cfgScale", blank=True),
                "note": note,
            }
        )
    )


def read_metadata(path: str | Path, models: Catalog, prompts: Catalog) -> pl.DataFrame:
    """Cells: prompt, model, seed, picture (the image_id as text), and those of `SCORES` that the file has.

    The file repeats facts of the roster and the prompt set; where it contradicts them it is refused.
    """
    file = Records.read(path, METADATA)
    picture = file.text("image_id")
    if (bad := ~picture.str.contains(r"^\d+$")).any():
        row = int(bad.arg_max() or 0)
        problem = f"'{picture[row][:60]}' is no whole number; was it saved by a spreadsheet? Read the original as text"
        raise file.fault("image_id", row, problem)
    file.key("image_id")
    file.key("prompt_id", "modelVersion_id")
    rows = {}
    for name, catalog in (("prompt_id", prompts), ("modelVersion_id", models)):
        ids = file.whole(name)
        rows[name] = catalog.ids.find(ids)
        if (unknown := rows[name] < 0).any():
            row = int(np.argmax(unknown))
            raise file.fault(name, row, f"{ids[row]} is not in the {'roster' if catalog is models else 'prompt set'}")
    repeated = {"tag": "tag", "size": "size", "prompt": "text", "seed": SEED}
    for name, fact in repeated.items():
        _agree(file, name, prompts.column(fact)[rows["prompt_id"].astype(np.int64)])
    _agree(file, "model_id", models.column("model_id")[rows["modelVersion_id"].astype(np.int64)])
    cells = {PROMPT: file.whole("prompt_id"), MODEL: file.whole("modelVersion_id"), SEED: file.whole("seed")}
    scores = {name: file.number(name) for name in SCORES if name in file.table.columns}
    return pl.DataFrame({**cells, PICTURE: picture, **scores})


def quotas(downloads: ArrayLike, *, wanted: int = 194, bins: int = 20) -> NDArray[np.int64]:
    """How many models the paper draws from each popularity bin of a pool, shape (bins,).

    Bins are of equal width in log10(downloads + 1). Each gives its share of `wanted`, rounded, and a bin that holds
    models gives at least one, so that the sum may differ from `wanted` (the paper's pool of 3436 gave 197).
    """
    counts = np.asarray(downloads)
    if counts.ndim != 1 or not len(counts) or not (counts >= 0).all() or wanted < 1 or bins < 1:
        raise InvalidArgument("expected downloads of shape (n,), none negative, and at least one model and bin wanted")
    held = np.histogram(np.log10(counts + 1.0), bins)[0]
    share = np.rint(held * wanted / len(counts)).astype(np.int64)
    return np.where((share == 0) & (held > 0), 1, share)


def _triggers(file: Records) -> pl.Series:
    lists = []
    for row, text in enumerate(file.text("modelVersion_trainedWords")):
        try:
            words = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise file.fault("modelVersion_trainedWords", row, f"{text[:40]!r} is not a list such as ['word']")
        lists.append([word for word in words if word])
    return pl.Series(lists, dtype=pl.List(pl.String))


def _agree(file: Records, name: str, expected: pl.Series) -> None:
    given = file.whole(name) if expected.dtype == pl.Int64 else file.text(name)
    if (bad := given != expected).any():
        row = int(bad.arg_max() or 0)
        raise file.fault(name, row, f"'{str(given[row])[:40]}', but elsewhere it is '{str(expected[row])[:40]}'")


def _every(models: pl.Series, prompts: Catalog) -> pl.DataFrame:
    each = prompts.table.select(pl.col(ID).alias(PROMPT), SEED).join(pl.DataFrame({MODEL: models}), how="cross")
    return each.select(PROMPT, MODEL, SEED, pl.format("{}/{}", PROMPT, MODEL).alias(PICTURE))


def _model_ids(path: Path, models: Catalog) -> pl.Series:
    values: list[int] = []
    for line, text in enumerate(read_bytes(path).decode().splitlines(), 1):
        if not text.strip().isdecimal() or int(text) not in models.table[ID]:
            raise DataError(f"'{text[:40]}' is no modelVersion_id of the roster", file=path, line=line)
        if int(text) in values:
            raise DataError(f"{text} is there twice", file=path, line=line)
        values.append(int(text))
    return pl.Series(values, dtype=pl.Int64)


def _prompts_from_one(prompts: Catalog, file: Path) -> int:
    n = len(prompts)
    if sorted(prompts.table[ID]) != list(range(1, n + 1)):
        raise DataError(f"holds prompts in the order of their ids, which must then be 1..{n}; other set?", file=file)
    return n


def _array(path: Path, shape: tuple[int | None, ...]) -> Vectors:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read as an array ({error})", file=path) from error
    fits = len(array.shape) == len(shape) and all(s in (None, n) for s, n in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind != "f":
        wanted = ", ".join("dim" if s is None else str(s) for s in shape)
        raise DataError(f"holds {array.dtype} of shape {array.shape}; expected floats of shape ({wanted})", file=path)
    if not np.isfinite(array).all():
        raise DataError("holds values that are not finite", file=path)
    return np.asarray(array, np.float32)
