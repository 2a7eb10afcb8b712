"""The cocktail as published against ours, same result: UNet-seconds and peak memory, one style and eight.

Both sides run in this process, alternating, on networks with random weights, which take as long as trained ones,
built from the configs of the embedded base. The published way inverts again for every style, runs three streams at
every step and writes attention out.
UNet-seconds are the time in which a network is at work, hooks and early stops included; text encoders and VAEs are left
out. Both have the same threads.
Peaks come from a process of their own for each side: resident memory on a CPU, allocated memory on a GPU.

    python -m bench.cocktail --quick
    python -m bench.cocktail --sd15 --device cuda                         SD 1.5 size, half precision, on a GPU
    python -m bench.cocktail --sd15 --styles 1 --steps 10 --runs 1        the same on a CPU: twenty minutes, 16 GB
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.output import peak_memory, write_json
from tastemaker.generate import zoo
from tastemaker.generate.cocktail import Cocktail, cocktail
from tastemaker.generate.denoiser import Condition, Schedule, StableDiffusion
from tastemaker.generate.settings import Settings

PROMPT = "a red apple"
Parts = tuple[CLIPTokenizer, CLIPTextModel, UNet2DConditionModel, AutoencoderKL, DDIMScheduler]


class Clock:
    """Runs while at least one network is at work; several may be, side by side."""

    def __init__(self) -> None:
        self.seconds, self.began, self.working, self.lock = 0.0, 0.0, 0, threading.Lock()

    @contextlib.contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        with self.lock:
            self.working += 1
            if self.working == 1:
                self.began = now(device)
        try:
            yield
        finally:  # an early stop leaves by an exception
            with self.lock:
                self.working -= 1
                if self.working == 0:
                    self.seconds += now(device) - self.began


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclasses.dataclass(frozen=True, eq=False)
class Timed(StableDiffusion):
    """Says when its network is at work."""

    clock: Clock = dataclasses.field(default_factory=Clock)

    def predict(self, latents: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        with self.clock.running(latents.device):
            return super().predict(latents, t, condition)


def build(sd15: bool, device: str, clock: Clock, seed: int) -> Timed:
    """A model with random weights: built as the embedded base is, from its own configs, or of SD 1.5's size."""
    torch.manual_seed(seed)
    words, text, unet, vae, scheduler = full_size() if sd15 else embedded_size()
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    for module in (unet, text, vae):
        module.to(device, dtype if module is not vae else torch.float32).eval().requires_grad_(False)
    schedule = Schedule.of(dict(scheduler.config))
    return Timed(f"random {seed}", unet, vae, ((words, text),), schedule, clock=clock)


def embedded_size() -> Parts:
    base = zoo.ROOT / "base"
    return (
        CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True),
        CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder", local_files_only=True)).float(),
        UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet", local_files_only=True)),
        AutoencoderKL.from_config(AutoencoderKL.load_config(base / "vae", local_files_only=True)),
        DDIMScheduler.from_config(DDIMScheduler.load_config(base / "scheduler", local_files_only=True)),
    )


def full_size() -> Parts:
    context, width = 77, 768
    letters = {symbol: at + 2 for at, symbol in enumerate(string.ascii_lowercase)}
    pieces = {"<|startoftext|>": 0, "<|endoftext|>": 1, **letters, **{f"{x}</w>": y + 26 for x, y in letters.items()}}
    words = CLIPTokenizer(vocab=pieces, merges=[], model_max_length=context)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(pieces),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=context,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=width,
        norm_num_groups=32,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        latent_channels=4,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1
    )
    return words, text, unet, vae, scheduler


def published(models: list[Timed], picture: Image.Image, settings: Settings) -> list[Cocktail]:
    content, *styles = models
    shared = {"prompt": PROMPT, "settings": settings, "round_trip": False, "plain": True}
    return [cocktail(picture, content=content, style=style, **shared) for style in styles]


def ours(models: list[Timed], picture: Image.Image, settings: Settings) -> list[Cocktail]:
    content, *styles = models
    return [cocktail(picture, content=content, style=styles, prompt=PROMPT, settings=settings, round_trip=False)]


WAYS = {"published": published, "ours": ours}


def clocked(way: str, models: list[Timed], picture: Image.Image, settings: Settings) -> tuple[float, list[Cocktail]]:
    clock = models[0].clock
    clock.seconds = 0.0
    made = WAYS[way](models, picture, settings)
    return clock.seconds, made


def side_by_side(args: argparse.Namespace, styles: int, settings: Settings, runs: int) -> dict[str, float]:
    clock = Clock()
    models = [build(args.sd15, args.device, clock, args.seed + at) for at in range(1 + styles)]
    picture = test_picture(models[0], args.seed)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    pixels: dict[str, Any] = {}
    for way in WAYS:
        clocked(way, models, picture, dataclasses.replace(settings, steps=2))  # warms up
    for _ in range(runs):
        for way in WAYS:
            seconds, made = clocked(way, models, picture, settings)
            pixels[way] = np.stack([np.asarray(row[0], dtype=np.int64) for one in made for row in one.pictures])
            times[way].append(seconds)
    middle = {way: median(seconds) for way, seconds in times.items()}
    name = f"styles.{styles}"
    return {
        f"{name}.published.unet_seconds_a_style": middle["published"] / styles,
        f"{name}.ours.unet_seconds_a_style": middle["ours"] / styles,
        f"{name}.times_faster": middle["published"] / middle["ours"],
        f"{name}.largest_difference_of_255": float(abs(pixels["published"] - pixels["ours"]).max()),
    }


def test_picture(model: Timed, seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(model.size, Image.Resampling.BICUBIC)


def work(way: str, args: argparse.Namespace, settings: Settings) -> None:
    """Peak memory of one way, as JSON on stdout."""
    models = [build(args.sd15, args.device, Clock(), args.seed + at) for at in range(1 + args.worker_styles)]
    cuda = args.device.startswith("cuda")
    before = torch.cuda.memory_allocated() / 2**20 if cuda else peak_memory()
    clocked(way, models, test_picture(models[0], args.seed), settings)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak_memory()
    print(json.dumps({"peak_mib": peak, "above_models_mib": peak - before}))


def memory(way: str, styles: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.cocktail", "--worker", way, "--worker-styles", str(styles)]
    command += ["--device", args.device, "--seed", str(args.seed), "--steps", str(args.steps)]
    command += ["--sd15"] if args.sd15 else []
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
    return {f"styles.{styles}.{way}.{name}": value for name, value in json.loads(answer).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10 steps, one run; under a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=0, help="of inversion and of drawing; 50, or 10 with --quick")
    parser.add_argument("--styles", type=int, nargs="+", default=[1, 8], help="of one picture")
    parser.add_argument("--runs", type=int, default=3, help="of each way, whose median counts")
    parser.add_argument("--sd15", action="store_true", help="SD 1.5 size instead of the zoo's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--worker-styles", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.steps = args.steps or (10 if args.quick else 50)
    settings = Settings(steps=args.steps)
    if args.worker:
        return work(args.worker, args, settings)
    weights = build(args.sd15, args.device, Clock(), args.seed).unet.num_parameters()
    figures: dict[str, float] = {"unet.million_weights": weights / 1e6}
    for styles in args.styles:
        figures |= side_by_side(args, styles, settings, runs=1 if args.quick else args.runs)
        for way in WAYS:
            figures |= memory(way, styles, args)
    for name, value in figures.items():
        print(f"{name:52} {value:10.4g}")
    if args.json:
        write_json(args.json, module="bench.cocktail", seed=args.seed, figures=figures)
    return None


if __name__ == "__main__":
    main()
