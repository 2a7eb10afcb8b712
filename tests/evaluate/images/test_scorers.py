from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import CLIPModel

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.evaluate.images.scorers import Aesthetic, Preference, Scorer
from tests.evaluate.images.tiny import noise

PROMPTS = ["a red apple", "the blue cat", "a dog on the left"]


def test_a_preference_is_the_models_own_logit(encoder, clip_folder):
    pictures = noise(3, width=80)
    scorer: Scorer = Preference(encoder, encoder.scale)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = encoder.tokenizer(PROMPTS, padding="max_length", max_length=16, return_tensors="pt")
    inputs = np.stack([encoder.prepare(picture, "crop") for picture in pictures])
    with torch.no_grad():
        logits = model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=torch.from_numpy(inputs),
        ).logits_per_image.numpy()
    assert scorer.score(pictures, PROMPTS) == pytest.approx(np.diag(logits), abs=1e-4)
    assert "CLIP" in scorer.name


def test_a_chain_of_linear_layers_is_one_line(encoder, tmp_path):
    rng = np.random.default_rng(0)
    sizes = (12, 7, 5, 1)
    layers = [(rng.normal(size=(b, a)), rng.normal(size=b)) for a, b in pairwise(sizes)]
    state = {}
    for place, (weight, bias) in zip((0, 2, 10), layers, strict=True):  # 10 comes after 2
        state |= {f"layers.{place}.weight": weight.astype(np.float32), f"layers.{place}.bias": bias.astype(np.float32)}
    save_file(state, tmp_path / "head.safetensors")
    head = Aesthetic.load(tmp_path / "head.safetensors", encoder)
    pictures = noise(3)
    expected = encoder.embed_pictures(pictures).vectors.astype(float)
    for weight, bias in layers:
        expected = expected @ weight.T + bias
    assert head.score(pictures, PROMPTS) == pytest.approx(expected[:, 0], abs=1e-4)
    assert head.score(pictures, PROMPTS[::-1]) == pytest.approx(expected[:, 0], abs=1e-4)  # prompts do not count


def test_one_layer_without_a_prefix(encoder, tmp_path):
    save_file({"weight": np.ones(12, np.float32), "bias": np.ones(1, np.float32)}, tmp_path / "head.safetensors")
    head = Aesthetic.load(tmp_path / "head.safetensors", encoder)
    vectors = encoder.embed_pictures(noise(2)).vectors
    assert head.score(noise(2), PROMPTS[:2]) == pytest.approx(vectors.sum(1) + 1, abs=1e-5)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"bias": np.ones(1, np.float32)}, "no '...weight'"),
        ({"weight": np.ones((1, 12), np.float32)}, "absent"),
        ({"weight": np.ones((2, 12), np.float32), "bias": np.ones(2, np.float32)}, "expected one"),
        (
            {
                f"{k}.{part}": np.ones((3, 12) if part == "weight" else 3, np.float32)
                for k in (0, 1)
                for part in ("weight", "bias")
            },
            "fit together",
        ),
    ],
)
def test_heads_that_are_none(encoder, tmp_path, state, problem):
    save_file(state, tmp_path / "head.safetensors")
    with pytest.raises(DataError, match=problem):
        Aesthetic.load(tmp_path / "head.safetensors", encoder)


def test_bad_input(encoder, tmp_path):
    with pytest.raises(DataError, match="pickled"):
        Aesthetic.load(tmp_path / "head.pth", encoder)
    with pytest.raises(InvalidArgument, match="own encoder"):
        Aesthetic(encoder, np.ones(5), 0.0).score(noise(1), PROMPTS[:1])
    with pytest.raises(InvalidArgument, match="in pairs"):
        Preference(encoder).score(noise(2), PROMPTS)
