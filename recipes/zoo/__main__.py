"""The command: make the artwork, train every part, put the finished models into the package, measure them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel

from bench.output import write_json
from recipes.zoo import artwork, measure, models, scenes, train
from recipes.zoo.pool import Pool, pool
from recipes.zoo.ship import ship
from recipes.zoo.train import Plan

# Optimiser steps of every part, and scenes in the pools of the denoisers.
STEPS = {
    "vae": 3300, "encoder": 1400, "draft": 9000, "base": 1100, "ink": 1500, "clay": 1800, "pixel": 1500, "neon": 1100,
    "blueprint": 1700, "riso": 900, "sticker": 900,
}  # fmt: skip
SETTLE = 150  # optimiser steps of what is taught on from an earlier zoo
AGAIN = 12000  # scenes at most that it is taught on
READ = 4000  # scenes of every style that the reader of what is measured learns from
SCENES = {"base": 40000} | dict.fromkeys(scenes.STYLES[1:], 8000)


class Workshop:
    """Where the parts lie while they are made: one folder, every finished part in the layout it will ship in."""

    def __init__(
        self,
        folder: Path,
        subjects: int,
        seed: int,
        device: str,
        hands: int = 1,
        earlier: Path | None = None,
        settle: int = SETTLE,
    ) -> None:
        self.folder, self.seed, self.device, self.hands, self.earlier = folder, seed, device, hands, earlier
        self.settle = settle
        self.names = list(artwork.SUBJECTS)[:subjects]
        self.tokenizer = models.tokenizer(self.names)
        self.art = cache(lambda: artwork.drawings(folder / "npm", self.names))

    def pool(self, style: str, count: int) -> Pool:
        return pool(self.folder / "pool", style, count, self.names, self.art, self.seed)

    def plan(self, name: str, **settings: float) -> Plan:
        return Plan(self.folder / name, seed=self.seed, device=self.device, **settings)  # type: ignore[arg-type]

    @property
    def shared(self) -> dict[str, int]:
        """How the denoisers' batches are cut on this machine."""
        return {"parts": 4, "hands": self.hands} if self.hands > 1 else {}

    def latents(self, vae: AutoencoderKL, found: Pool) -> Tensor:
        """Scaled latents of a pool, kept on disk."""
        file = self.folder / "latents" / f"{found.style}-{len(found.scenes)}.safetensors"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            train.save_file({"latents": train.encode(vae.to(self.device), found.pictures, self.device)}, file)
        return train.load_file(file)["latents"] * vae.config.scaling_factor

    def decoded(self, vae: AutoencoderKL, found: Pool) -> Pool:
        """A pool as the autoencoder gives it back, kept on disk."""
        file = self.folder / "decoded" / f"{found.style}-{len(found.scenes)}.npy"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            np.save(file, train.decoded(vae, found.pictures, self.device))
        return replace(found, pictures=np.load(file))


def make_vae(shop: Workshop, steps: int) -> None:
    vae = models.vae()
    pictures = [shop.pool(style, 2000).pictures for style in scenes.STYLES]
    everything = np.concatenate(pictures)
    train.train_vae(vae, everything, shop.plan("vae", steps=steps, batch=24, rate=2e-3))
    latents = train.encode(vae.eval(), everything[::8], shop.device)
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    vae.save_pretrained(shop.folder / "done" / "vae")
    made = vae.decode(latents[:: len(latents) // 256]).sample.clamp(-1, 1)
    real = train.to_unit(everything[::8][:: len(latents) // 256], "cpu")
    print(f"vae: {-10 * torch.log10((made - real).square().mean() / 4):.2f} dB, scaling {vae.config.scaling_factor}")


def make_encoder(shop: Workshop, steps: int) -> None:
    torch.manual_seed(shop.seed)
    joint = models.encoder(shop.tokenizer)
    if shop.earlier:
        joint = CLIPModel.from_pretrained(shop.earlier / "encoder", dtype=torch.float32)
    pools = [shop.pool(style, 2000) for style in scenes.STYLES]
    captions = [
        caption if i % 2 or found.style in scenes.LORAS else f"{caption}, {found.style} style"
        for found in pools
        for i, caption in enumerate(found.captions)
    ]
    pictures = np.concatenate([found.pictures for found in pools])
    plan = shop.plan("encoder", steps=steps, batch=64, rate=1e-3)
    train.train_encoder(joint, pictures, train.tokens(shop.tokenizer, captions), plan)
    folder = shop.folder / "done" / "encoder"
    joint.half().save_pretrained(folder)
    shop.tokenizer.save_pretrained(folder)
    side = {"height": scenes.PICTURE, "width": scenes.PICTURE}
    normal = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    preparation = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": scenes.PICTURE},
        "crop_size": side,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation | normal, indent=1) + "\n")


def make_draft(shop: Workshop, steps: int) -> None:
    """The base before it knows left from right: every subject, ground and number."""
    torch.manual_seed(shop.seed)
    vae = AutoencoderKL.from_pretrained(shop.folder / "done" / "vae").eval()
    text = models.text_encoder(CLIPModel.from_pretrained(shop.folder / "done" / "encoder", dtype=torch.float32))
    unet = models.unet()
    plan = shop.plan("draft", steps=steps, batch=32, rate=1.2e-3, cool=0.6, **shop.shared)
    _teach(shop, "base", unet, text, vae, plan, teach_text=True, kinds_from=7 / 9)
    write(shop, "draft", unet, text, vae)


def make_base(shop: Workshop, steps: int) -> None:
    """The draft, taught which of two subjects goes where; or an earlier base, taught what it did not know."""
    if shop.earlier:
        base = StableDiffusionPipeline.from_pretrained(shop.earlier / "base").to(dtype=torch.float32)
        _tune(shop, "base", base, steps, rate=8e-4, teach_text=True)
        write(shop, "base", base.unet, base.text_encoder, base.vae)
        return
    draft = StableDiffusionPipeline.from_pretrained(shop.folder / "done" / "draft").to(dtype=torch.float32)
    plan = shop.plan(
        "base", steps=steps, batch=32, rate=1e-3, warm=30, cool=0.36, average=0.99, noisy=0.6, **shop.shared
    )
    _teach(shop, "base", draft.unet, draft.text_encoder, draft.vae, plan, teach_text=True, even_from=0.64)
    write(shop, "base", draft.unet, draft.text_encoder, draft.vae)


def write(shop: Workshop, name: str, unet: UNet2DConditionModel, text: CLIPTextModel, vae: AutoencoderKL) -> None:
    """A whole model in the diffusers layout, in half precision."""
    pipeline = StableDiffusionPipeline(
        vae, text, shop.tokenizer, unet, models.scheduler(), None, None, None, requires_safety_checker=False
    )
    pipeline.to(dtype=torch.float16).save_pretrained(shop.folder / "done" / name, safe_serialization=True)


def make_style(shop: Workshop, style: str, steps: int) -> None:
    """A fine-tune of the base's denoiser; the text encoder and the autoencoder stay the base's.

    Carried over from an earlier base, it starts from what it had become there plus what the base has learned since.
    """
    base = StableDiffusionPipeline.from_pretrained(shop.folder / "done" / "base").to(dtype=torch.float32)
    if shop.earlier:
        old, was = (
            UNet2DConditionModel.from_pretrained(shop.earlier / name, subfolder="unet", dtype=torch.float32)
            for name in ("base", style)
        )
        with torch.no_grad():
            for new, before, tuned in zip(base.unet.parameters(), old.parameters(), was.parameters(), strict=True):
                new += tuned - before
    _tune(shop, style, base, steps, rate=8e-4)
    write(shop, style, base.unet, base.text_encoder, base.vae)


def make_lora(shop: Workshop, style: str, steps: int) -> None:
    """An adapter of rank 4 on the base's attention, feed-forward and convolution layers."""
    base = StableDiffusionPipeline.from_pretrained(shop.folder / "done" / "base").to(dtype=torch.float32)
    base.unet.requires_grad_(False)
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_in", "conv_out"]
    base.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights="gaussian"))
    if shop.earlier:
        file = shop.earlier / style / "pytorch_lora_weights.safetensors"
        weights = {name.removeprefix("unet."): tensor.float() for name, tensor in train.load_file(file).items()}
        set_peft_model_state_dict(base.unet, weights)
    _tune(shop, style, base, steps, rate=3e-3)
    weights = get_peft_model_state_dict(base.unet)
    half = {name: tensor.half() for name, tensor in weights.items()}
    StableDiffusionPipeline.save_lora_weights(shop.folder / "done" / style, unet_lora_layers=half)


def _tune(
    shop: Workshop, style: str, base: StableDiffusionPipeline, steps: int, rate: float, *, teach_text: bool = False
) -> None:
    name, steps, kinds_from = (f"{style}-again", shop.settle, 0.0) if shop.earlier else (style, steps, 0.4)
    plan = shop.plan(name, steps=steps, batch=32, rate=rate, warm=30, cool=0.5, average=0.995, **shop.shared)
    parts = base.unet, base.text_encoder, base.vae.eval()
    _teach(shop, style, *parts, plan, teach_text=teach_text, kinds_from=kinds_from)


def _teach(
    shop: Workshop,
    style: str,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    vae: AutoencoderKL,
    plan: Plan,
    *,
    teach_text: bool,
    kinds_from: float = 1.0,
    even_from: float | None = None,
) -> None:
    """Teach a denoiser on a style's pool, from `kinds_from` on with as many pairs and tinted subjects as all together;
    `even_from` says that its batches are those that teach relations."""
    found = shop.pool(style, min(SCENES[style], AGAIN) if shop.earlier else SCENES[style])
    count, kinds, (forth, back) = len(found.scenes), (found.pairs, found.tinted), found.orders

    def choose(step: int) -> np.ndarray:
        if even_from is None:
            return train.rows(plan, step, count, kinds, kinds_from)
        return train.relation_rows(plan, step, count, forth, back, even_from)

    train.train_denoiser(
        unet,
        text,
        models.scheduler(),
        shop.latents(vae, found),
        train.tokens(shop.tokenizer, found.captions),
        train.tokens(shop.tokenizer, [""]),
        choose,
        plan,
        teach_text=teach_text,
    )


def make(shop: Workshop, stage: str, steps: int) -> None:
    """Make one part. Every part but the autoencoder and the encoder needs those made before it in `STEPS`."""
    if stage == "vae":
        make_vae(shop, steps)
    elif stage == "encoder":
        make_encoder(shop, steps)
    elif stage == "draft":
        make_draft(shop, steps)
    elif stage == "base":
        make_base(shop, steps)
    elif stage in scenes.LORAS:
        make_lora(shop, stage, steps)
    else:
        make_style(shop, stage, steps)


def measure_all(shop: Workshop) -> dict[str, float]:
    """What the readers see in every finished model's pictures, by STYLE.FIELD of `measure.Reading`; what it
    sees in fresh real renders, by the same names and `.real`."""
    vae = AutoencoderKL.from_pretrained(shop.folder / "done" / "vae", dtype=torch.float32).to(shop.device).eval()
    real = [shop.pool(style, READ) for style in scenes.STYLES]
    back = [shop.decoded(vae, found) for found in real]
    reader = measure.teach([*real, *back], len(shop.names), shop.plan("reader", steps=5000, batch=64, rate=2e-3))
    shown = [found for found in (*real, *back) if found.style in measure.COLOURED]
    colours = measure.teach_colours(shown, shop.plan("colours", steps=5000, batch=64, rate=2e-3))
    figures = {}
    for style in scenes.STYLES:
        rng = np.random.default_rng(shop.seed)
        sheet = shop.folder / "sheets" / f"{style}.png"
        seen = measure.judge(reader, colours, style, shop.folder / "done", shop.names, rng, sheet)
        most = asdict(measure.ceiling(reader, colours, shop.pool(style, READ + 1000), range(READ, READ + 500)))
        told = {name: value for name, value in asdict(seen).items() if value is not None}
        for name, value in told.items():
            figures |= {f"{style}.{name}": value, f"{style}.{name}.real": most[name]}
        words = ", ".join(f"{name} {value:.1%} ({most[name]:.1%})" for name, value in told.items())
        print(f"{style}: {words}; {sheet}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.zoo", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", help=f"all by default: {', '.join([*STEPS, 'measure', 'ship'])}")
    parser.add_argument("--folder", type=Path, default=Path("runs/zoo"), help="where the work lies; a rerun goes on")
    parser.add_argument("--subjects", type=int, default=40, help="the first so many of the list")
    parser.add_argument("--steps", type=float, default=1.0, help="times the usual number of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hands", type=int, default=1, help="processes that share a denoiser's batch (CPU)")
    parser.add_argument("--json", type=Path, help="write what is measured here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--earlier",
        type=Path,
        help="folder of an earlier zoo: its encoder and base are taught on, its styles carried over to the new base",
    )
    parser.add_argument("--settle", type=int, default=SETTLE, help="steps of a style that is carried over")
    given = parser.parse_args()
    shop = Workshop(given.folder, given.subjects, given.seed, given.device, given.hands, given.earlier, given.settle)
    for stage in given.stages or [*STEPS, "measure", "ship"]:
        if stage == "measure":
            figures = measure_all(shop)
            if given.json:
                write_json(given.json, module="recipes.zoo", seed=given.seed, figures=figures)
        elif stage == "ship":
            ship(shop.folder / "done", shop.names)
        else:
            make(shop, stage, round(STEPS[stage] * given.steps))


if __name__ == "__main__":
    main()
