"""Tiny models of the real classes with random weights, saved as folders, and pictures to judge."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTModel

from tests.generate.tiny import tokenizer


def clip_folder(folder: Path, *, seed: int = 0, size: int = 32) -> Path:
    """A CLIPModel with 16 tokens a text and its own colours, as save_pretrained writes it."""
    words = tokenizer()
    shape = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(words),
            "hidden_size": 16,
            "max_position_embeddings": 16,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            **shape,
        },
        vision_config={"hidden_size": 16, "image_size": size, "patch_size": 8, **shape},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for weight in model.parameters():  # the initial scale of CLIP makes all pictures alike
            if weight.ndim > 1:
                weight.data.normal_(0, 0.3)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    processor = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )
    processor.save_pretrained(folder)
    return folder


def vit_folder(folder: Path, *, size: int = 224) -> Path:
    """A ViTModel with patches of 8, so 785 tokens at 224 pixels."""
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=size,
        patch_size=8,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder, safe_serialization=True)
    return folder


def noise(n: int, *, height: int = 48, width: int = 48, seed: int = 0) -> list[np.ndarray]:
    """Pictures of nothing."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (n, height, width, 3)).astype(np.uint8))


def scene(seed: int, style: str = "flat", *, size: int = 64) -> np.ndarray:
    """A disc, a box and a bar at places the seed says, drawn flat, in ink or in large pixels."""
    rng = np.random.default_rng(seed)
    drawn = tuple(rng.integers(120, 256, 3).tolist())
    ground = (235, 240, 245) if style == "ink" else drawn
    picture = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(picture)
    for shape in (draw.ellipse, draw.rectangle, draw.rounded_rectangle):
        x, y = rng.integers(2, size - 28, 2).tolist()
        wide, high = rng.integers(12, 26, 2).tolist()
        colour = tuple(rng.integers(0, 200, 3).tolist())
        if style == "ink":
            shape((x, y, x + wide, y + high), fill=ground, outline=(20, 20, 30), width=2)
        else:
            shape((x, y, x + wide, y + high), fill=colour)
    if style == "pixel":
        picture = picture.resize((size // 4, size // 4), Image.Resampling.BOX).resize((size, size), 0)
    return np.asarray(picture)
