"""One contract for latent diffusion models with a UNet: SD 1.x, SD 2.x, SDXL and small ones built the same way.

Every algorithm here rests on one line. Whatever the network predicts (noise or v), a deterministic DDIM step from time
t to time s is *linear* in the latents and the raw prediction,

    x_s = a x_t + b f(x_t, t),    (a, b) = schedule.step(t, s)

with mu = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), and for
    epsilon:  a = mu_s / mu_t,                        b = sigma_s - sigma_t mu_s / mu_t
    v:        a = mu_s mu_t + sigma_s sigma_t,        b = sigma_s mu_t - mu_s sigma_t
so samplers and inversions never ask what kind of model they have, guidance on raw predictions is guidance on the noise,
and v stays finite where alpha_bar is zero.

Easy to get wrong:
- Nothing is assumed: VAE scale and factor, tokens of context, prediction, spacing and the last alpha come from the
  model's own files. The level before the smallest time is the scheduler's final alpha, written as time `END`.
- Latents are float32 throughout and never clipped; only the network's inputs have the model's dtype.
- The next time is the next of the list. diffusers takes t - n_train // steps, which is the same for leading timesteps
  and wherever steps divides n_train.
- SDXL with `force_zeros_for_empty_prompt` answers the empty prompt with zeros, as diffusers' pipeline does.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from tastemaker.errors import InvalidArgument

END = -1  # the time of clean latents
MAX_WINDOWS = 8
WEIGHTED = re.compile(r"\(([^()]*):\s*([0-9]*\.?[0-9]+)\)")


@dataclass(frozen=True)
class Condition:
    """What the prompts say, as the network reads it.

    Attributes:
        tokens: (B, L, D); L is the context times the windows of the longest prompt.
        pooled: (B, P) for models that have one summary vector more, else None.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | list[int]) -> Condition:
        return Condition(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def scaled(self, alpha: float, other: Condition, beta: float) -> Condition:
        """alpha * self - beta * other on token embeddings; the summary vector stays our own, unscaled."""
        return Condition(alpha * self.tokens - beta * other.tokens, self.pooled)

    def repeat(self, times: int) -> Condition:
        """The whole batch `times` times."""
        pooled = None if self.pooled is None else self.pooled.repeat(times, 1)
        return Condition(self.tokens.repeat(times, 1, 1), pooled)


def join(parts: Sequence[Condition]) -> Condition:
    """One batch of several; they must come from one call of `condition`, so that their lengths agree."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Condition(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True)
class Schedule:
    """Times and noise levels of a model, read from its scheduler's config.

    Attributes:
        alpha_bar: one cumulative alpha for each training time.
        final: the alpha of clean latents; SD 1.x has alpha_bar[0] here, not 1.
        prediction: what the network predicts.
        config: diffusers' DDIM scheduler of the same config, asked only for its list of times.
    """

    alpha_bar: tuple[float, ...]
    final: float
    prediction: Literal["epsilon", "v_prediction"]
    config: DDIMScheduler = dataclasses.field(repr=False, compare=False)

    @classmethod
    def of(cls, config: dict[str, Any]) -> Self:
        """Raises InvalidArgument for predictions other than epsilon and v, and for epsilon without any last signal."""
        scheduler = DDIMScheduler.from_config({**config, "clip_sample": False})
        alphas = tuple(scheduler.alphas_cumprod.double().tolist())
        prediction = scheduler.config["prediction_type"]
        if prediction not in ("epsilon", "v_prediction"):
            raise InvalidArgument(
                f"a model that predicts '{prediction}'; this works with epsilon and v_prediction: convert the model"
            )
        if prediction == "epsilon" and alphas[-1] <= 0:
            raise InvalidArgument(
                "the schedule ends in pure noise (rescale_betas_zero_snr) but the network predicts epsilon, which says "
                "nothing there; use a v_prediction model, or a schedule without rescaling"
            )
        return cls(alphas, float(scheduler.final_alpha_cumprod), prediction, scheduler)

    def timesteps(self, steps: int) -> list[int]:
        """`steps` times in descending order, spaced as the config says."""
        if not 1 <= steps <= len(self.alpha_bar):
            raise InvalidArgument(f"{steps} steps; expected 1 to {len(self.alpha_bar)}, the times this model knows")
        scheduler = DDIMScheduler.from_config(self.config.config)  # set_timesteps changes it: not ours to share
        scheduler.set_timesteps(steps)
        times = [int(t) for t in scheduler.timesteps]
        if times[0] >= len(self.alpha_bar) or len(set(times)) != steps:
            raise InvalidArgument(f"{steps} steps do not fit {len(self.alpha_bar)} times with this model's spacing")
        return times

    def alpha(self, t: int) -> float:
        return self.final if t == END else self.alpha_bar[t]

    def step(self, t: int, s: int) -> tuple[float, float]:
        """(a, b) of the step from t to s; s may lie before or after t."""
        (mu_t, sigma_t), (mu_s, sigma_s) = self._level(t), self._level(s)
        if self.prediction == "epsilon":
            return mu_s / mu_t, sigma_s - sigma_t * mu_s / mu_t
        return mu_s * mu_t + sigma_s * sigma_t, sigma_s * mu_t - mu_s * sigma_t

    def split(self, x: Tensor, raw: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """(clean latents, noise) that a raw prediction means, each shaped as x."""
        mu, sigma = self._level(t)
        if self.prediction == "epsilon":
            return (x - sigma * raw) / mu, raw
        return mu * x - sigma * raw, mu * raw + sigma * x

    def noised(self, x: Tensor, noise: Tensor, t: int) -> Tensor:
        """Clean latents x at the noise level of time t."""
        mu, sigma = self._level(t)
        return mu * x + sigma * noise

    def _level(self, t: int) -> tuple[float, float]:
        alpha = self.alpha(t)
        return alpha**0.5, (1 - alpha) ** 0.5


def pairs(times: Sequence[int]) -> list[tuple[int, int]]:
    """Descending times with the one that follows each; END follows the last."""
    return list(zip(times, [*times[1:], END], strict=True))


@runtime_checkable
class Denoiser(Protocol):
    """What drawing, inverting and mixing need of a model. All tensors live on the model's device.

    Attributes:
        name: for people.
        unet: the network whose layers can be read and replaced.
        schedule: times and noise levels.
        channels, factor, scale: of the latents, pixels a latent, and what the VAE's latents are multiplied with; models
            whose latents mean the same agree in all three.
        size: (width, height) in pixels it was trained for.
        multiple: pixels that width and height should be a multiple of, so that every level of the UNet halves evenly.
    """

    @property
    def name(self) -> str: ...
    @property
    def unet(self) -> UNet2DConditionModel: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def multiple(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def identity(self) -> str:
        """Equal for models that give equal results: a hash of the weights and the schedule, 32 hex digits."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of prompts, all as long as the longest needs.

        A prompt beyond the context is cut into windows of it, each with its own begin and end, embedded one by one and
        put behind each other; shorter prompts of the same call get empty windows behind them. `(words:1.3)` moves those
        tokens that much further from the empty prompt's (0 removes them). Raises InvalidArgument for an endless prompt.
        """
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, channels, H / factor, W / factor): the posterior's mean."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to pictures (B, 3, H, W) in [-1, 1], clamped."""
        ...

    def predict(self, latents: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        """The network's raw prediction, float32, shaped as latents (B, C, h, w); t is one time or one for each row."""
        ...


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """SD 1.x, SD 2.x and whatever is built like them; see Denoiser for the attributes.

    Attributes:
        encoders: pairs of tokenizer and text model.
        zero_empty: the empty prompt is zeros.
        lora: (hash of the file, scale) of each LoRA that is on.
    """

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[tuple[Any, nn.Module], ...]
    schedule: Schedule
    zero_empty: bool = False
    lora: tuple[tuple[str, float], ...] = ()

    @property
    def channels(self) -> int:
        return int(self.unet.config["in_channels"])

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @property
    def scale(self) -> float:
        return float(self.vae.config["scaling_factor"])

    @property
    def size(self) -> tuple[int, int]:
        side = self.unet.config["sample_size"]
        height, width = (side, side) if isinstance(side, int) else side
        return int(width) * self.factor, int(height) * self.factor

    @property
    def multiple(self) -> int:
        return self.factor * int(2 ** (len(self.unet.config["block_out_channels"]) - 1))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.unet.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's arithmetic. diffusers' own property walks through all modules, too long for every call."""
        weight: Tensor = self.unet.conv_in.weight
        return weight.dtype

    @functools.cached_property
    def identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for module in (self.unet, self.vae, *(encoder for _, encoder in self.encoders)):
            for name, tensor in module.state_dict().items():
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(repr((self.schedule, self.lora, self.zero_empty)).encode())
        return digest.hexdigest()

    @torch.inference_mode()
    def condition(self, prompts: Sequence[str]) -> Condition:
        parsed = [[_tokens(prompt, tokenizer) for prompt in prompts] for tokenizer, _ in self.encoders]
        room = min(int(tokenizer.model_max_length) for tokenizer, _ in self.encoders) - 2
        longest = max((len(ids) for batch in parsed for ids, _ in batch), default=0)
        windows = max(1, -(-longest // room))
        if windows > MAX_WINDOWS:
            raise InvalidArgument(
                f"a prompt of {longest} tokens; this model reads {room} at a time and at most {MAX_WINDOWS} times "
                "that: shorten the prompt"
            )
        streams = [
            self._read(tokenizer, encoder, batch, windows, room)
            for (tokenizer, encoder), batch in zip(self.encoders, parsed, strict=True)
        ]
        tokens = torch.cat([hidden for hidden, _ in streams], dim=-1)
        pooled = streams[-1][1]
        if self.zero_empty:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=tokens.device)
            tokens = tokens * said[:, None, None]
            pooled = None if pooled is None else pooled * said[:, None]
        return Condition(tokens, pooled)

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        posterior = self.vae.encode(pictures.to(self.device, self.vae.dtype)).latent_dist
        latents: Tensor = posterior.mean.float() * self.scale
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        scaled = latents.to(self.device) / self.scale
        picture: Tensor = self.vae.decode(scaled.to(self.vae.dtype)).sample
        return picture.float().clamp(-1, 1)

    @torch.inference_mode()
    def predict(self, latents: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        time = torch.as_tensor(t, device=latents.device)
        raw: Tensor = self.unet(
            latents.to(self.dtype),
            time,
            encoder_hidden_states=condition.tokens.to(self.dtype),
            added_cond_kwargs=self._added(latents, condition),
            return_dict=False,
        )[0]
        return raw.float()

    def _read(
        self, tokenizer: Any, encoder: nn.Module, batch: list[tuple[list[int], list[float]]], windows: int, room: int
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, windows * context, D) of one text encoder, and its summary of the first window."""
        begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        rows, strengths = [], []
        for ids, weights in [*batch, ([], [])]:  # the empty prompt last: what weights are measured from
            for at in range(0, windows * room, room):
                part, weight = ids[at : at + room], weights[at : at + room]
                rows.append([begin, *part, end, *[pad] * (room - len(part))])
                strengths.append([1.0, *weight, 1.0, *[1.0] * (room - len(part))])
        hidden, pooled = self._encode(encoder, torch.tensor(rows, device=self.device))
        hidden = hidden.float().reshape(len(batch) + 1, -1, hidden.shape[-1])
        strength = torch.tensor(strengths, dtype=torch.float32, device=self.device).view(len(batch) + 1, -1, 1)
        if bool((strength != 1).any()):
            hidden = hidden[-1:] + strength * (hidden - hidden[-1:])
        return hidden[:-1], None if pooled is None else pooled.float()[::windows][:-1]

    def _encode(self, encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden: Tensor = encoder(ids)[0]
        return hidden, None

    def _added(self, latents: Tensor, condition: Condition) -> dict[str, Tensor] | None:
        return None


class StableDiffusionXL(StableDiffusion):
    """Two text encoders read before their last layer, a summary vector, and the size of the picture as a condition."""

    def _encode(self, encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        read = encoder(ids, output_hidden_states=True)
        summary = read[0] if read[0].ndim == 2 else None
        return read.hidden_states[-2], summary

    def _added(self, latents: Tensor, condition: Condition) -> dict[str, Tensor]:
        height, width = (self.factor * side for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=latents.device)  # original, crop, target
        assert condition.pooled is not None
        return {
            "text_embeds": condition.pooled.to(self.dtype),
            "time_ids": sizes.to(self.dtype).expand(len(latents), -1),
        }


def _tokens(prompt: str, tokenizer: Any) -> tuple[list[int], list[float]]:
    """Ids without begin and end, and the weight of each."""
    ids: list[int] = []
    weights: list[float] = []
    for at, piece in enumerate(WEIGHTED.split(prompt)):  # text, (weighted, weight, text)*
        if at % 3 == 2:
            weights += [float(piece)] * (len(ids) - len(weights))
            continue
        weights += [1.0] * (len(ids) - len(weights)) if at % 3 == 1 else []
        ids += tokenizer(piece, add_special_tokens=False, verbose=False).input_ids if piece else []
        weights += [1.0] * (len(ids) - len(weights)) if at % 3 == 0 else []
    return ids, weights
