"""Which models have weights that can be mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tastemaker.errors import InvalidArgument
from tastemaker.generate.load import load
from tastemaker.generate.mix_weights import mix_weights
from tests.generate import tiny


def test_models_with_other_latents_are_refused(folder: Path, tmp_path: Path) -> None:
    first = load(tiny.save("sd1", folder), device="cpu")
    other = Path(shutil.copytree(tiny.save("sd1", folder), tmp_path / "other"))
    config = other / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
    with pytest.raises(InvalidArgument, match=r"other has latents of 4 channels, .*scale 0\.5, .*sd1 of 4 channels"):
        mix_weights([first, load(other, device="cpu")], [0.5, 0.5])
