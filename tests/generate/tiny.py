"""Tiny pipelines of the real classes with random weights, saved in diffusers' layout, for every test of pictures.

`sd1` is built as SD 1.x is (epsilon, three levels with cross-attention and one without, two layers each, so every layer
that is ever injected exists), `sd2` predicts v with a zero terminal signal and trailing timesteps, `sdxl` has two text
encoders, a pooled vector and size ids. Their contexts (16 tokens), VAE scales and VAE factors differ from the real ones
on purpose: code that assumes 77, 0.18215 or 8 fails here.
"""

from __future__ import annotations

import functools
import string
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = ("a", "an", "apple", "blue", "cat", "dog", "left", "of", "on", "red", "the")
CONTEXT = 16
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(context: int = CONTEXT) -> CLIPTokenizer:
    """Byte-pair encoding in which each of WORDS is one token; other words fall into letters."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = {BEGIN: 0, END: 1}
    merges: list[str] = []
    for symbol in [*letters, *(f"{letter}</w>" for letter in letters)]:
        pieces.setdefault(symbol, len(pieces))
    for word in WORDS:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        while len(symbols) > 1:
            pair, joined = f"{symbols[0]} {symbols[1]}", symbols[0] + symbols[1]
            if pair not in merges:
                merges.append(pair)
                pieces.setdefault(joined, len(pieces))
            symbols = [joined, *symbols[2:]]
    return CLIPTokenizer(
        vocab=pieces, merges=[tuple(pair.split()) for pair in merges], model_max_length=context, pad_token=END
    )


def text_config(width: int, words: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def autoencoder(channels: int = 4) -> AutoencoderKL:
    """Factor 4, so 32 pixels are 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.7,
    )


def unet(
    channels: int = 4, size: int = 8, widths: tuple[int, ...] = (8, 8, 16, 16), width: int = 16, layers: int = 2
) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=layers,
        attention_head_dim=2,
        cross_attention_dim=width,
        norm_num_groups=4,
    )


def scheduler(prediction: str = "epsilon") -> DDIMScheduler:
    """SD 1.x's schedule, or for v-prediction one that ends in pure noise."""
    last = prediction == "v_prediction"
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=last,
        steps_offset=1,
        prediction_type=prediction,
        rescale_betas_zero_snr=last,
        timestep_spacing="trailing" if last else "leading",
    )


def sd(prediction: str = "epsilon", *, seed: int = 0, channels: int = 4, layers: int = 2) -> StableDiffusionPipeline:
    """A pipeline as SD 1.x is built; models of different seeds differ in every weight."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer()
        return StableDiffusionPipeline(
            vae=autoencoder(channels),
            text_encoder=CLIPTextModel(text_config(16, words)),
            tokenizer=words,
            unet=unet(channels, layers=layers),
            scheduler=scheduler(prediction),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = tokenizer()
        return StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(text_config(8, words)),
            text_encoder_2=CLIPTextModelWithProjection(text_config(16, words)),
            tokenizer=words,
            tokenizer_2=words,
            unet=UNet2DConditionModel(
                sample_size=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(8, 8, 16),
                layers_per_block=2,
                transformer_layers_per_block=(1, 1, 2),
                attention_head_dim=(2, 2, 2),
                cross_attention_dim=24,
                norm_num_groups=4,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=scheduler(),
            add_watermarker=False,
        )


def lora(folder: Path, *, seed: int = 0) -> Path:
    """A LoRA of the attention of `sd`'s UNet in diffusers' format, with weights large enough to be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = unet()
        net.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(net))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
    return folder / "pytorch_lora_weights.safetensors"


@functools.cache
def _pipeline(name: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    match name:
        case "sd1":
            return sd()
        case "sd1-style":
            return sd(seed=1)
        case "sd2":
            return sd("v_prediction")
        case "sd2-style":
            return sd("v_prediction", seed=1)
        case "sdxl":
            return sdxl()
        case "shallow":
            return sd(layers=1)
        case "eight-channels":
            return sd(channels=8)
    raise AssertionError(f"no tiny model '{name}'")


def save(name: str, folder: Path) -> Path:
    """Write one of sd1, sd1-style, sd2, sd2-style, sdxl, shallow, eight-channels to `folder / name`."""
    path = folder / name
    if not path.exists():
        _pipeline(name).save_pretrained(path, safe_serialization=True)
    return path


def photo(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
