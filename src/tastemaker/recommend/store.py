"""Save and load fitted recommenders: one folder, JSON for what people read, safetensors for arrays, never pickle.

    model.json          format, version, kind of model, configuration, the state's plain numbers
    state.safetensors   the state's arrays; a sparse matrix is stored as its three CSR arrays
    users.parquet, items.parquet   the vocabularies

The caller names the class to load (`Factors.load(folder)`); the file only says what it holds, and a mismatch is an
error. The state's dataclass fields say what to write, so a new model needs no code here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, UnknownName
from tastemaker.recommend.contract import Recommender, State

FORMAT, VERSION = "tastemaker-model", 1
R = TypeVar("R", bound=Recommender[Any])


def save(model: Recommender[Any], folder: str | Path) -> None:
    """Write a fitted model; raises NotFitted before fit."""
    folder, state = Path(folder), model.fitted
    if folder.exists() and not folder.is_dir():
        raise DataError("is a file; a model is saved in a folder, name one", file=folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    numbers: dict[str, float | int | bool | str | None] = {}
    for name, value in _values(state).items():
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)
        elif sparse.issparse(value):
            for part in ("data", "indices", "indptr"):
                arrays[f"{name}.{part}"] = np.ascontiguousarray(getattr(value, part))
            arrays[f"{name}.shape"] = np.asarray(value.shape, np.int64)
        else:
            numbers[name] = value
    save_file(arrays, folder / "state.safetensors")
    pl.DataFrame({"id": state.user_ids.series}).write_parquet(folder / "users.parquet")
    pl.DataFrame({"id": state.item_ids.series}).write_parquet(folder / "items.parquet")
    text = {"format": FORMAT, "version": VERSION, "kind": model.kind, "config": config(model), "numbers": numbers}
    (folder / "model.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def describe(folder: str | Path) -> dict[str, Any]:
    """The checked content of model.json."""
    path = Path(folder) / "model.json"
    try:
        text: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = (text["format"], text["version"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("no model.json; expected a folder written by save()", file=folder) from error
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"not readable ({error})", file=path) from error
    if found != (FORMAT, VERSION):
        raise DataError(f"holds {found}, expected {(FORMAT, VERSION)}", file=path)
    return text


def load(cls: type[R], folder: str | Path) -> R:
    """Read a model of the named class."""
    folder, text = Path(folder), describe(folder)
    if text["kind"] != cls.kind:
        raise DataError(f"holds a '{text['kind']}' model; expected '{cls.kind}'", file=folder / "model.json")
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    if unknown := set(text["config"]) - known:
        raise UnknownName(f"option of {cls.__name__}", sorted(unknown)[0], known)
    try:
        arrays = load_file(folder / "state.safetensors")
        ids = [Vocabulary(pl.read_parquet(folder / f"{name}.parquet")["id"]) for name in ("users", "items")]
        values = {name: _assemble(name, arrays, text["numbers"]) for name in _own_fields(cls.state_type)}
    except (FileNotFoundError, SafetensorError, KeyError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the saved model is incomplete or damaged ({error!r})", file=folder) from error
    return cls(**text["config"]).with_state(cls.state_type(*ids, **values))


def config(model: Recommender[Any]) -> dict[str, Any]:
    """The constructor's arguments, ready for JSON."""
    return {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}


def _own_fields(state: type[State] | State) -> list[str]:
    return [f.name for f in dataclasses.fields(state) if f.name not in ("user_ids", "item_ids")]


def _values(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _own_fields(state)}


def _assemble(name: str, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> Any:
    if name in arrays:
        return arrays[name]
    if f"{name}.indptr" in arrays:
        data, indices, indptr, shape = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr", "shape"))
        return sparse.csr_matrix((data, indices, indptr), shape=tuple(shape))
    return numbers[name]
