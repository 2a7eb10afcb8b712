"""Loaded tiny models for the tests of pictures, each built once in a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tastemaker.generate.denoiser import StableDiffusion
from tastemaker.generate.load import load
from tests.generate import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are saved."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def models(folder: Path) -> Callable[[str], StableDiffusion]:
    """`models("sd1")`: see `tiny.save` for the names. Shared: leave them as they are."""
    return functools.cache(lambda name: load(tiny.save(name, folder), device="cpu"))
