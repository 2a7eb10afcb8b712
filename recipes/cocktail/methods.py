"""What is compared: ways to bring a picture into another model's style, each with a dial between structure and style.

- target alone: the target model draws the same prompt, from the source's own noise or from other noise. Only a picture
  whose seed is known has a noise of its own, so the first is not to be had for a photograph. No dial.
- img2img: SDEdit (Meng et al. 2022, arXiv 2108.01073), noise added and taken off again; the dial is its strength.
- weights: (1 - gamma) source + gamma target draws the prompt from the source's noise; the dial is gamma.
- inversion: the cocktail without injection; the dial is guidance.
- Plug-and-Play: the style model inverts and draws, and never hears of the content model; the dial is injection.
- cocktail, with our default settings and with the published ones; the dial is injection.

All draw with the same steps but for the published cocktail (50, unless quick), and the same guidance but for it (7.5)
and inversion.
The published negative prompt is left out: small models do not know its words, and no other method has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from tastemaker.generate.cocktail import DEFAULT, SURFACES, Settings, cocktail, to_tensor
from tastemaker.generate.denoiser import StableDiffusion, join
from tastemaker.generate.draw import draw, noise, sample, to_images
from tastemaker.generate.inject import Injection
from tastemaker.generate.invert import Cache, Inversion
from tastemaker.generate.mix_weights import mix_weights

METHODS = {  # key -> name, what the dial is
    "cocktail": ("default cocktail", "attention / residuals"),
    "published": ("published cocktail", "attention / residuals"),
    "same_noise": ("target alone (source's noise)", ""),
    "other_noise": ("target alone (other noise)", ""),
    "img2img": ("img2img", "strength"),
    "weights": ("mixed weights", "gamma"),
    "inversion": ("inversion without injection", "guidance"),
    "pnp": ("Plug-and-Play on the target", "attention / residuals"),
}
ABLATIONS = {
    "alpha": ("condition scaling", "alpha"),
    "layers": ("what is injected", "attention / residuals"),
    "guidance": ("guidance", "guidance"),
    "kind": ("kind of inversion", "kind"),
}
RATIOS = ((0.25, 0.4), (0.5, 0.8), (0.8, 0.9), (1.0, 1.0))
MIDDLE = Injection(0.5, 0.8)


@dataclass(frozen=True)
class Arm:
    """A method or ablation at one setting.

    Attributes:
        method: a key of METHODS or ABLATIONS.
        dial: the setting in print.
        value: strength or gamma, for methods that are no cocktail.
        settings: of a cocktail; None for the others.
    """

    method: str
    dial: str = ""
    value: float = 0.0
    settings: Settings | None = None

    @property
    def name(self) -> str:
        """As figures and files are called: method.dial, without dots or slashes in the dial."""
        return f"{self.method}.{self.dial.replace('.', '_').replace(' / ', '-')}" if self.dial else self.method

    @property
    def job(self) -> str:
        """The same for arms whose pictures are the same, whatever they are called."""
        if self.settings is None:
            return self.name
        digest = hashlib.sha256(repr(self.settings).encode()).hexdigest()[:12]
        return f"{self.method if self.method in ('pnp', 'kind') else 'cocktail'}-{digest}"


def arms(steps: int, guidance: float, *, quick: bool) -> tuple[Arm, ...]:
    """Every method at every setting; `quick` has two settings a curve and no ablations."""
    default = replace(DEFAULT, steps=steps, guidance=guidance)
    plain = replace(default, alpha=1.0, beta=0.0)  # scaling the condition is the cocktail's own
    published = replace(SURFACES["batch"], steps=steps if quick else SURFACES["batch"].steps, negative="")
    all_ = RATIOS[1::2] if quick else RATIOS
    few = RATIOS[1::2] if quick else (*RATIOS[:2], RATIOS[3])
    found = [Arm("same_noise"), Arm("other_noise")]
    found += [Arm("img2img", f"{s:g}", s) for s in ((0.5, 0.75) if quick else (0.2, 0.35, 0.5, 0.65, 0.8, 0.95))]
    found += [Arm("weights", f"{g:g}", g) for g in ((0.5,) if quick else (0.25, 0.5, 0.75))]
    scales = (1.0, guidance) if quick else (1.0, guidance / 2, guidance, 2 * guidance)
    bare = replace(plain, injection=Injection(0, 0))
    found += [Arm("inversion", f"{w:g}", settings=replace(bare, guidance=w)) for w in dict.fromkeys(scales)]
    for method, settings, ratios in (("pnp", plain, few), ("cocktail", default, all_), ("published", published, few)):
        found += [Arm(method, f"{a:g} / {c:g}", settings=replace(settings, injection=Injection(a, c)))
                  for a, c in ratios]  # fmt: skip
    return tuple(found if quick else [*found, *_ablations(replace(default, injection=MIDDLE))])


def _ablations(middle: Settings) -> list[Arm]:
    """One thing changed at a time, from our default; compared on the first model's pictures only."""
    alphas = [Arm("alpha", f"{a:g}", settings=replace(middle, alpha=a)) for a in (1.0, 2.0, 3.0, 5.0)]
    layers = [Arm("layers", f"{a:g} / {c:g}", settings=replace(middle, injection=Injection(a, c)))
              for a, c in ((0, 0), (0.5, 0), (0, 0.8), (0.5, 0.8))]  # fmt: skip
    scales = dict.fromkeys((1.0, middle.guidance / 2, middle.guidance, 2 * middle.guidance))
    guidance = [Arm("guidance", f"{w:g}", settings=replace(middle, guidance=w)) for w in scales]
    kinds = [Arm("kind", kind, settings=replace(middle, inversion=Inversion(kind)))
             for kind in ("ddim", "fixed-point", "bdia", "edict")]  # fmt: skip
    return [*alphas, *layers, *guidance, *kinds]


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures of the source model of one size, whose prompts are of one length.

    Attributes:
        pictures, prompts: of the sources.
        said: each prompt with the trigger words of the target.
        seeds, others: the sources' own seeds, and fresh ones.
    """

    pictures: Sequence[Image.Image]
    prompts: Sequence[str]
    said: Sequence[str]
    seeds: Sequence[int]
    others: Sequence[int]


def drawn(
    arm: Arm, source: StableDiffusion, target: StableDiffusion, batch: Batch, *, steps: int, guidance: float,
    cache: Cache | None,
) -> tuple[list[Image.Image], float | None]:  # fmt: skip
    """The batch in the target's style, and the round-trip error where the arm compares kinds of inversion.

    Not for the target alone, which asks nothing of the source but its seeds.
    """
    if arm.settings is not None:
        content = target if arm.method == "pnp" else source
        made = cocktail(
            batch.pictures, content=content, style=target, prompt=batch.said, settings=arm.settings,
            inversion_prompt=batch.said if arm.method == "pnp" else batch.prompts,
            round_trip=arm.method == "kind", cache=cache,
        )  # fmt: skip
        return list(made.pictures[0]), made.round_trip
    if arm.method == "img2img":
        return img2img(target, batch, arm.value, steps=steps, guidance=guidance), None
    between = mix_weights([source, target], [1 - arm.value, arm.value])
    return draw(between, batch.said, seeds=batch.seeds, steps=steps, guidance=guidance), None


def img2img(model: StableDiffusion, batch: Batch, strength: float, *, steps: int, guidance: float) -> list[Image.Image]:
    """Noise for this share of the steps, at least one, and the model draws on from there."""
    start = steps - max(1, round(strength * steps))
    clean = model.encode(torch.cat([to_tensor(picture) for picture in batch.pictures]).to(model.device))
    fresh = torch.cat([noise(model, seed, batch.pictures[0].size) for seed in batch.others])
    x = model.schedule.noised(clean, fresh, model.schedule.timesteps(steps)[start])
    texts = model.condition([*batch.said, ""])
    wanted, unwanted = texts[: len(batch.said)], join([texts[len(batch.said) :]] * len(batch.said))
    return to_images(model.decode(sample(model, x, wanted, unwanted, steps=steps, guidance=guidance, start=start)))
