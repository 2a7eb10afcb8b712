"""How a cocktail is mixed: our default, and the published defaults of each official surface.

Diffusion Cocktail (arXiv 2312.08873) came as a command line, an evaluation script, a web demo, an extension of a web UI
and a third party's node; their defaults differ. Numbers that were cut to whole ones there are floats here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from tastemaker.errors import InvalidArgument
from tastemaker.generate.inject import Injection
from tastemaker.generate.invert import Inversion


@dataclass(frozen=True)
class Settings:
    """How a cocktail is mixed.

    Attributes:
        steps: of the inversion.
        sampling_steps: of drawing; their times must be among the inversion's. None takes the same.
        strength: how far back drawing starts, in (0, 1]: a share of the sampling steps, at least one. Below 1 it
            starts from the inverted latents on the way, which hold more of the picture (the encoding ratio of DiffEdit,
            arXiv 2210.11427).
        alpha, beta: condition scaling of the inversion; larger alpha keeps more structure.
        guidance: of drawing.
        negative: negative prompt of both stages, unless the call names others.
        injection: see `generate.inject`.
        inversion: see `generate.invert`; drawing uses the sampler that matches.
        prompt_by: whose text encoder reads positive and negative prompts for drawing; the published command line and
            what calls it use the content model's, the published evaluation the style model's.
        side: the picture's short side in pixels, None for what the content model was trained for.
        even: round both sides so that every level of the UNet halves evenly; the published code does not.
        trigger_everywhere: put trigger words into the inversion prompt too, as published, though the content model
            does not know them.
        trigger_first: put trigger words before the prompt, as the published web demo does; otherwise they follow it.
        lora_scale: of LoRAs whose scale is not given; for the command line, since `orders.order` is told each.
    """

    steps: int = 25
    sampling_steps: int | None = None
    strength: float = 1.0
    alpha: float = 1.0
    beta: float = 0.0
    guidance: float = 5.0
    negative: str = ""
    injection: Injection = field(default_factory=Injection)
    inversion: Inversion = field(default_factory=Inversion)
    prompt_by: Literal["style", "content"] = "style"
    side: int | None = None
    even: bool = True
    trigger_everywhere: bool = False
    trigger_first: bool = False
    lora_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < math.inf:
            raise InvalidArgument(f"guidance = {self.guidance}; expected a finite number, 0 or more (2.5 is usual)")
        if not 0 < self.strength <= 1:
            raise InvalidArgument(f"strength = {self.strength}; expected a share of the steps in (0, 1]")
        for name in ("alpha", "beta", "lora_scale"):
            if not math.isfinite(value := getattr(self, name)):
                raise InvalidArgument(f"{name} = {value}; expected a finite number")
        if self.side is not None and self.side < 1:
            raise InvalidArgument(f"side = {self.side}; expected a number of pixels, or none for the model's own size")


#: Alpha 3, as two of the published surfaces have it: more structure at the same style, and a nearer round trip. Half
#: the usual guidance, since the start is a picture already and not noise. `recipes.cocktail` has what both are worth.
DEFAULT = Settings(alpha=3.0, guidance=2.5)
PUBLISHED = Settings(
    steps=50,
    alpha=2.0,
    beta=0.5,
    guidance=15.0,
    negative="worst quality, blurry, NSFW",
    prompt_by="content",
    even=False,
    trigger_everywhere=True,
    lora_scale=0.7,
)
#: Published defaults. The extension takes steps, guidance, negative prompt and the scale of LoRAs from its host: the
#: host's own stand here.
SURFACES: Mapping[str, Settings] = MappingProxyType(
    {
        "cli": PUBLISHED,
        "batch": replace(PUBLISHED, alpha=3.0, beta=1.0, guidance=7.5, prompt_by="style"),
        "huggingface": replace(PUBLISHED, alpha=3.0, trigger_first=True),
        "extension": replace(
            PUBLISHED,
            steps=20,
            alpha=5.0,
            guidance=7.0,
            negative="",
            prompt_by="style",
            trigger_everywhere=False,
            lora_scale=1.0,
        ),
        "comfyui": PUBLISHED,
    }
)
