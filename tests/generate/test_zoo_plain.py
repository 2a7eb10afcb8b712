"""The embedded models are read by diffusers and transformers alone: nothing of ours beyond the names of the folders."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from tastemaker.generate import zoo

CARDS = zoo.zoo()
ENCODER = zoo.ROOT.parent / "zoo_encoder"


def drawn(pipeline: StableDiffusionPipeline, prompt: str) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt, num_inference_steps=3, guidance_scale=4.0, generator=torch.Generator().manual_seed(3), output_type="np"
    )
    picture: np.ndarray = made.images[0]
    return picture


@pytest.mark.parametrize("card", [card for card in CARDS if card.kind == "model"], ids=lambda card: card.name)
def test_every_model_draws_with_the_plain_pipeline(card: zoo.Card) -> None:
    picture = drawn(StableDiffusionPipeline.from_pretrained(card.folder, local_files_only=True), "a cat")
    assert picture.shape == (card.size, card.size, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.02


@pytest.mark.parametrize("card", [card for card in CARDS if card.kind == "lora"], ids=lambda card: card.name)
def test_every_lora_is_worn_by_the_plain_pipeline(card: zoo.Card) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(zoo.ROOT / "base", local_files_only=True)
    prompt = ", ".join(["a cat", *card.trigger])
    bare = drawn(pipeline, prompt)
    pipeline.load_lora_weights(card.folder, weight_name="pytorch_lora_weights.safetensors")
    picture = drawn(pipeline, prompt)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.02
    assert np.abs(picture - bare).mean() > 0.01


def test_the_encoder_reads_with_transformers_alone() -> None:
    model = CLIPModel.from_pretrained(ENCODER, local_files_only=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(ENCODER, local_files_only=True)
    prepare = CLIPImageProcessor.from_pretrained(ENCODER, local_files_only=True)
    pictures = [Image.open(zoo.ROOT / "base" / f"{at:02d}.png").convert("RGB") for at in (0, 10)]
    with torch.inference_mode():
        read = model(
            **tokenizer(["a cat", "a penguin"], padding=True, return_tensors="pt"),
            **prepare(pictures, return_tensors="pt"),
        )
    logits = read.logits_per_image
    assert logits.dtype == torch.float32
    assert logits.argmax(1).tolist() == [0, 1]


def test_configs_name_the_arithmetic_a_cpu_has() -> None:
    for file in (*zoo.ROOT.rglob("config.json"), ENCODER / "config.json"):
        assert json.loads(file.read_text()).get("dtype", "float32") == "float32", file
