"""A local folder in the transformers format: its config, its preprocessor, and only weights that cannot run code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from tastemaker.errors import DataError


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures: a square of `size` pixels, then (colour in 0..1 - mean) / std."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def config(folder: Path, model_type: str) -> dict[str, Any]:
    """config.json of a model of this type."""
    if not folder.is_dir():
        raise DataError("no such folder; expected a model folder with config.json and model.safetensors", file=folder)
    facts = _json(folder / "config.json")
    if facts.get("model_type") != model_type:
        raise DataError(f"model_type '{facts.get('model_type')}'; expected '{model_type}'", file=folder / "config.json")
    return facts


def safe_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted and whole; pickled weights are never opened."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        given = f"only pickled weights ({', '.join(pickled)}), which can run code" if pickled else "no weights"
        raise DataError(
            f"{given}; expected model.safetensors: convert with save_pretrained(folder) in a place you trust",
            file=folder,
        )
    for path in found:
        try:
            with safe_open(path, framework="numpy"):
                pass  # opening checks that the header is right and the file as long as it says
        except SafetensorError as error:
            raise DataError(f"not a whole safetensors file ({error}); fetch it again", file=path) from error
    return found


def read_tensors(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """Every tensor of one safetensors file. Raises DataError for another kind of file or a cut one."""
    if Path(path).suffix != ".safetensors":
        raise DataError("expected a .safetensors file; pickled weights can run code: convert them first", file=path)
    try:
        tensors: dict[str, NDArray[np.generic]] = load_file(path)
    except FileNotFoundError:
        raise DataError("no such file; expected weights as safetensors", file=path) from None
    except SafetensorError as error:
        raise DataError(f"not a whole safetensors file ({error}); fetch it again", file=path) from error
    return tensors


def preprocessing(folder: Path) -> Preprocessing | None:
    """From preprocessor_config.json or processor_config.json; None where the folder has neither."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            facts = _json(path)
            facts = facts.get("image_processor", facts)
            size = facts.get("crop_size") or facts.get("size")
            if isinstance(size, dict):
                size = size.get("height") or size.get("shortest_edge")
            mean, std = facts.get("image_mean"), facts.get("image_std")
            if not size or not mean or not std:
                raise DataError("expected size (or crop_size), image_mean and image_std", file=path)
            return Preprocessing(int(size), tuple(map(float, mean)), tuple(map(float, std)))
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file; expected a model folder in the transformers format", file=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not JSON ({error})", file=path) from error
    if not isinstance(found, dict):
        raise DataError("expected a JSON object", file=path)
    return found
