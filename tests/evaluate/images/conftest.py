from pathlib import Path

import pytest

from tastemaker.evaluate.images.vit import ViT
from tastemaker.generate.embed import Encoder
from tests.evaluate.images import tiny


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vit_folder(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def encoder(clip_folder: Path) -> Encoder:
    return Encoder.load(clip_folder)


@pytest.fixture(scope="session")
def vit(vit_folder: Path) -> ViT:
    return ViT.load(vit_folder)
