"""Training, in steps that a stop at any moment costs at most a minute of: autoencoder, encoder, denoisers, adapters.

Every step draws its batch and its noise from (seed, step) alone: a resumed run ends where an unbroken one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from recipes.zoo.hands import Hands

DROP_CAPTION = 0.1  # for classifier-free guidance


@dataclass(frozen=True)
class Plan:
    """One run: how long, how fast, where its state lives.

    The learning rate warms up for `warm` steps, stays, and falls to 2 % of itself over the last `cool` of all steps.
    Times are drawn as uniform numbers to the power `noisy`: below 1 the noisy ones, where places are settled, come
    oftener. A batch may be cut into `parts`, which `hands` processes work off: that changes rounding only.
    """

    folder: Path
    steps: int
    batch: int
    rate: float
    seed: int = 0
    warm: int = 100
    cool: float = 0.35
    average: float = 0.999
    noisy: float = 1.0
    clip: float = 1.0
    low_precision: bool = False
    device: str = "cpu"
    save_seconds: float = 60.0
    parts: int = 1
    hands: int = 1

    def learning_rate(self, step: int) -> float:
        falling = max(0.0, (step / self.steps - 1 + self.cool) / self.cool)
        return self.rate * min(1, (step + 1) / self.warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))


class Running:
    """Weights, their moving average, the optimiser's state, and the step: saved as safetensors, read back exactly."""

    def __init__(self, plan: Plan, parts: dict[str, nn.Module]) -> None:
        self.plan, self.parts = plan, {name: part.to(plan.device) for name, part in parts.items()}
        self.weights = {
            f"{name}/{key}": value
            for name, part in self.parts.items()
            for key, value in part.named_parameters()
            if value.requires_grad
        }
        self.average = {key: value.detach().clone() for key, value in self.weights.items()}
        self.optimiser = torch.optim.AdamW(
            self.weights.values(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.step = 0
        self._resume()

    def run(self, loss: Callable[[int, torch.Generator, int], Tensor]) -> dict[str, dict[str, Tensor]]:
        """Train to the plan's end; `loss(step, generator, part)` is of a part of a batch. Gives averaged weights."""

        def take(step: int, part: int) -> Tensor:
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
            with torch.autocast(plan.device, torch.bfloat16, enabled=plan.low_precision):
                value = loss(step, generator, part)
            value.backward()
            return value.detach()

        plan, recent, saved = self.plan, [], time.monotonic()
        began, first = saved, self.step
        hands = Hands(list(self.weights.values()), plan.parts, plan.hands, take) if plan.parts > 1 else None
        while self.step < plan.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = plan.learning_rate(self.step)
            value = hands.gradient(self.step) if hands else take(self.step, 0)
            nn.utils.clip_grad_norm_(list(self.weights.values()), plan.clip)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.step += 1
            keep = min(plan.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.values()), [w.detach() for w in self.weights.values()], 1 - keep)
            recent.append(value)
            if time.monotonic() - saved > plan.save_seconds or self.step == plan.steps:
                saved = time.monotonic()
                speed = (self.step - first) * plan.batch / (saved - began)
                mean = float(torch.stack(recent).mean())
                print(
                    f"{plan.folder.name}: step {self.step}/{plan.steps}, loss {mean:.4f}, {speed:.1f} samples/s",
                    flush=True,
                )
                recent = []
                self._save()
        return {name: self._averaged(name) for name in self.parts}

    def _averaged(self, name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.average.items() if key.startswith(prefix)}

    def _save(self) -> None:
        names = {id(value): key for key, value in self.weights.items()}
        state = {
            f"optimiser/{field}/{names[id(weight)]}": value
            for weight, fields in self.optimiser.state.items()
            for field, value in fields.items()
        }
        tensors = (
            {f"weight/{k}": v.detach() for k, v in self.weights.items()}
            | {f"average/{k}": v for k, v in self.average.items()}
            | state
        )
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.plan.folder / "state.new"
        save_file({key: value.contiguous() for key, value in tensors.items()}, fresh, metadata={"step": str(self.step)})
        fresh.replace(self.plan.folder / "state.safetensors")

    def _resume(self) -> None:
        file = self.plan.folder / "state.safetensors"
        if not file.exists():
            return
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            self.step = int(opened.metadata()["step"])
        state = load_file(file, device=self.plan.device)
        with torch.no_grad():
            for key, value in self.weights.items():
                value.copy_(state[f"weight/{key}"])
                self.average[key].copy_(state[f"average/{key}"])
                fields = ("step", "exp_avg", "exp_avg_sq")
                self.optimiser.state[value] = {field: state[f"optimiser/{field}/{key}"] for field in fields}
        print(f"{self.plan.folder.name}: goes on from step {self.step}", flush=True)


def rows(plan: Plan, step: int, count: int, kinds: Sequence[np.ndarray] = (), kinds_from: float = 0.0) -> np.ndarray:
    """The rows of a step's batch, (batch,); from the share `kinds_from` of the steps on, every kind of rows has an
    equal part of it, and the last part is of all rows."""
    rng = np.random.default_rng([plan.seed, step])
    chosen = rng.integers(count, size=plan.batch)
    if step >= kinds_from * plan.steps:
        for at, kind in enumerate(kinds):
            part = chosen[at :: len(kinds) + 1]
            part[:] = rng.choice(kind, size=len(part))
    return chosen


def relation_rows(
    plan: Plan, step: int, count: int, forth: np.ndarray, back: np.ndarray, even_from: float
) -> np.ndarray:
    """The rows of a step's batch that teaches relations, (batch,): three quarters show two subjects.

    Which of two subjects is above is the product of which is named first and which word stands between: neither alone
    tells anything, so nothing leads a network there, and thousands of steps on both words alike taught nothing of it.
    While seven of eight pairs are `forth` (left of, above), the first alone pays, and is learned in a few hundred
    steps; then the word, from its exceptions, `back` (right of, below). From the share `even_from` of the steps on,
    five of twelve are `back`.
    """
    rng = np.random.default_rng([plan.seed, step])
    chosen = rng.integers(count, size=plan.batch)
    pairs = plan.batch * 3 // 4
    rare = pairs * 5 // 12 if step >= even_from * plan.steps else pairs // 8
    chosen[:rare], chosen[rare:pairs] = rng.choice(back, rare), rng.choice(forth, pairs - rare)
    return rng.permutation(chosen)


def to_unit(pictures: np.ndarray, device: str) -> Tensor:
    """(n, P, P, 3) uint8 -> (n, 3, P, P) in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def train_vae(model: AutoencoderKL, pictures: np.ndarray, plan: Plan, crop: int = 32) -> None:
    """Absolute error, error of gradients (edges are what a drawing is made of), a trace of squared error and of KL."""

    def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step])
        side = pictures.shape[1]
        tops, lefts = rng.integers(side - crop + 1, size=(2, plan.batch))
        chosen = rng.integers(len(pictures), size=plan.batch)
        batch = np.stack([pictures[r, y : y + crop, x : x + crop] for r, y, x in zip(chosen, tops, lefts, strict=True)])
        real = to_unit(batch, plan.device)
        posterior = model.encode(real).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(plan.device)
        made = model.decode(posterior.mean + posterior.std * noise).sample.float()
        error = made - real
        across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return error.abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean()) + error.square().mean() + 1e-4 * kl

    averaged = Running(plan, {"vae": model}).run(loss)["vae"]
    model.load_state_dict(averaged)


def encode(model: AutoencoderKL, pictures: np.ndarray, device: str, batch: int = 250) -> Tensor:
    """Posterior means (n, 4, P/4, P/4) in float32, not yet scaled."""
    with torch.no_grad():
        parts = np.array_split(pictures, max(1, len(pictures) // batch))
        return torch.cat([model.encode(to_unit(part, device)).latent_dist.mean.cpu() for part in parts]).contiguous()


def decoded(model: AutoencoderKL, pictures: np.ndarray, device: str, batch: int = 250) -> np.ndarray:
    """The pictures (n, P, P, 3) uint8 as the autoencoder gives them back."""
    with torch.no_grad():
        parts = np.array_split(pictures, max(1, len(pictures) // batch))
        made = [model.decode(encode(model, part, device).to(device)).sample.clamp(-1, 1).cpu() for part in parts]
    return torch.cat(made).add(1).mul(127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_encoder(model: CLIPModel, pictures: np.ndarray, ids: Tensor, plan: Plan) -> None:
    """The usual contrastive loss; equal captions in a batch count as matches of one another."""

    def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
        chosen = rows(plan, step, len(pictures))
        text = ids[chosen].to(plan.device)
        out = model(input_ids=text, pixel_values=to_unit(pictures[chosen], plan.device))
        same = (text[:, None] == text[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(out.logits_per_image, target) + F.cross_entropy(out.logits_per_text, target)) / 2

    model.load_state_dict(Running(plan, {"encoder": model}).run(loss)["encoder"], strict=False)


def train_denoiser(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    schedule: DDIMScheduler,
    latents: Tensor,
    ids: Tensor,
    empty: Tensor,
    choose: Callable[[int], np.ndarray],
    plan: Plan,
    *,
    teach_text: bool,
) -> None:
    """v-prediction on scaled latents (n, 4, h, w); the text encoder learns along with the base and is fixed after.

    `choose` gives the rows of a step's batch.
    """
    text.requires_grad_(teach_text)
    alpha_bar = schedule.alphas_cumprod
    parts: dict[str, nn.Module] = {"unet": unet} | ({"text": text} if teach_text else {})
    text.to(plan.device)

    def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
        chosen = torch.from_numpy(choose(step))
        clean = latents[chosen].to(plan.device)
        noise = torch.randn(clean.shape, generator=generator).to(plan.device)
        # One time in each of `batch` equal parts: the same law as independent times, less noise in the loss.
        even = (torch.arange(plan.batch) + torch.rand(plan.batch, generator=generator)) / plan.batch
        times = (even**plan.noisy * len(alpha_bar)).long()
        signal, spread = (root.sqrt()[times, None, None, None].to(plan.device) for root in (alpha_bar, 1 - alpha_bar))
        dropped = torch.rand(plan.batch, 1, generator=generator) < DROP_CAPTION
        captions = torch.where(dropped, empty, ids[chosen]).to(plan.device)
        # Parts take every so-many-th row: each sees the whole range of times.
        noisy, wanted, own_times, own_captions = (
            rows[part :: plan.parts]
            for rows in (signal * clean + spread * noise, signal * noise - spread * clean, times, captions)
        )
        states = text(own_captions).last_hidden_state
        predicted = unet(noisy, own_times.to(plan.device), states, return_dict=False)[0]
        return F.mse_loss(predicted.float(), wanted)

    averaged = Running(plan, parts).run(loss)
    unet.load_state_dict(averaged["unet"], strict=False)
    if teach_text:
        text.load_state_dict(averaged["text"], strict=False)
