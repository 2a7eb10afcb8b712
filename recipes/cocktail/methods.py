"""What is compared: ways to bring a picture into another model's style, each with a dial between structure and style.

- target alone: the target model draws the same prompt from other noise and never hears of the picture. What it keeps is
  what two drawings of one prompt share, so it is no rival but the floor. No dial but guidance.
- img2img: SDEdit (Meng et al. 2022, arXiv 2108.01073), noise added and taken off again; the dial is its strength.
- weights: (1 - gamma) source + gamma target draws the prompt from the source's own noise; the dial is gamma, and at 1
  the target draws. Only a picture whose seed is known has a noise of its own: not to be had for a photograph.
- inversion: the cocktail without injection or condition scaling; the dial is guidance, then strength.
- Plug-and-Play: the style model inverts and draws, and never hears of the content model; the dial is injection.
- cocktail, published: the settings of the published evaluation; the dial is injection.
- cocktail, our default: the dial is injection, then, with all of it, strength: what share of the steps is drawn, from
  the inverted latents on the way.

All draw with the same steps but for the published cocktail (50, unless quick). Our default has its own guidance, lower
than the one models draw pictures with; every baseline is given both, and what it keeps is the better of them. The
published negative prompt is left out: small models do not know its words, and no other method has one.
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
    "cocktail": ("default cocktail", "attention / residuals, strength"),
    "published": ("published cocktail", "attention / residuals"),
    "alone": ("target alone", "guidance"),
    "img2img": ("img2img", "strength"),
    "weights": ("mixed weights", "gamma"),
    "inversion": ("inversion without injection", "guidance, strength"),
    "pnp": ("Plug-and-Play on the target", "attention / residuals"),
}
ABLATIONS = {
    "alpha": ("condition scaling", "alpha"),
    "layers": ("what is injected", "attention / residuals, strength"),
    "guidance": ("guidance", "guidance"),
    "kind": ("kind of inversion", "kind"),
}
MIDDLE, WHOLE = Injection(0.5, 0.8), Injection(1.0, 1.0)


@dataclass(frozen=True)
class Arm:
    """A method or ablation at one setting.

    Attributes:
        method: a key of METHODS or ABLATIONS.
        dial: the setting in print.
        guidance: of drawing.
        value: strength or gamma, for methods that are no cocktail.
        settings: of a cocktail; None for the others.
    """

    method: str
    dial: str
    guidance: float
    value: float = 0.0
    settings: Settings | None = None

    @property
    def name(self) -> str:
        """As figures and files are called: method.dial, without dots or slashes in the dial."""
        plain = self.dial.replace(".", "_").replace(" / ", "-").replace(", ", "-").replace(" ", "_")
        return f"{self.method}.{plain}"

    @property
    def asks_source(self) -> bool:
        """Whether more of the source is asked for than its seeds: else it is the target that draws."""
        return self.method != "alone" and not (self.method == "weights" and self.value == 1)

    @property
    def job(self) -> str:
        """The same for arms whose pictures are the same, whatever they are called."""
        if self.settings is None:
            return self.name
        digest = hashlib.sha256(repr(self.settings).encode()).hexdigest()[:12]
        return f"{self.method if self.method in ('pnp', 'kind') else 'cocktail'}-{digest}"


def arms(steps: int, guidance: float, *, quick: bool) -> tuple[Arm, ...]:
    """Every method at every setting; `quick` has one or two settings a curve and no ablations."""
    default = replace(DEFAULT, steps=steps)
    plain = replace(default, alpha=1.0, beta=0.0)  # scaling the condition is the cocktail's own
    published = replace(SURFACES["batch"], steps=steps if quick else SURFACES["batch"].steps, negative="")
    low = default.guidance
    found = [Arm("alone", f"{w:g}", w) for w in (guidance, low)]
    # A curve runs along its dial at one guidance and comes back at the other, so that its neighbours are alike.
    strengths = (0.5, 0.75) if quick else (0.2, 0.35, 0.5, 0.65, 0.8)
    found += [Arm("img2img", f"{s:g}", guidance, s) for s in strengths]
    found += [] if quick else [Arm("img2img", f"{s:g} at {low:g}", low, s) for s in (0.65, 0.5, 0.35)]
    found += [Arm("weights", f"{g:g}", guidance, g) for g in ((0.5, 1) if quick else (0.25, 0.5, 0.75, 1))]
    found += [] if quick else [Arm("weights", f"{g:g} at {low:g}", low, g) for g in (1, 0.75, 0.5)]
    bare = replace(plain, injection=Injection(0, 0))
    parts = (0.5,) if quick else (0.65, 0.5, 0.35, 0.2)
    scales = (guidance, 1.0) if quick else (guidance, 1.0, low)
    found += [_mixed("inversion", f"{w:g}", replace(bare, guidance=w)) for w in scales]
    found += [_mixed("inversion", f"{low:g}, {s:g}", replace(bare, strength=s)) for s in parts]
    found += [_mixed("pnp", _ratio(one), replace(plain, guidance=guidance, injection=one)) for one in (MIDDLE, WHOLE)]
    found += [] if quick else [_mixed("pnp", f"{_ratio(WHOLE)} at {low:g}", replace(plain, injection=WHOLE))]
    inside = (MIDDLE, WHOLE) if quick else (MIDDLE, Injection(0.8, 0.9), WHOLE)
    found += [_mixed("cocktail", _ratio(one), replace(default, injection=one)) for one in inside]
    whole = replace(default, injection=WHOLE)
    found += [_mixed("cocktail", f"{_ratio(WHOLE)}, {s:g}", replace(whole, strength=s)) for s in parts]
    found.append(_mixed("published", _ratio(MIDDLE), replace(published, injection=MIDDLE)))
    return tuple(found if quick else [*found, *_ablations(replace(default, injection=MIDDLE), guidance)])


def _ablations(middle: Settings, guidance: float) -> list[Arm]:
    """One thing changed at a time, from our default; compared on the first model's pictures only."""
    alphas = [_mixed("alpha", f"{a:g}", replace(middle, alpha=a)) for a in (1.0, 2.0, 3.0, 5.0)]
    bare, half = Injection(0, 0), replace(middle, strength=0.5)
    layers = [_mixed("layers", _ratio(one), replace(middle, injection=one))
              for one in (bare, Injection(0.5, 0), Injection(0, 0.8), MIDDLE, WHOLE)]  # fmt: skip
    layers += [_mixed("layers", f"{_ratio(one)}, 0.5", replace(half, injection=one)) for one in (bare, WHOLE)]
    scales = sorted({1.0, middle.guidance, guidance, 2 * guidance})
    scaled = [_mixed("guidance", f"{w:g}", replace(middle, guidance=w)) for w in scales]
    kinds = [_mixed("kind", kind, replace(middle, inversion=Inversion(kind)))
             for kind in ("ddim", "fixed-point", "bdia", "edict")]  # fmt: skip
    return [*alphas, *layers, *scaled, *kinds]


def _mixed(method: str, dial: str, settings: Settings) -> Arm:
    return Arm(method, dial, settings.guidance, settings=settings)


def _ratio(injection: Injection) -> str:
    return f"{injection.attention:g} / {injection.convolution:g}"


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
    arm: Arm, source: StableDiffusion, target: StableDiffusion, batch: Batch, *, steps: int, cache: Cache | None
) -> tuple[list[Image.Image], float | None]:
    """The batch in the target's style, and the round-trip error where the arm compares kinds of inversion.

    Not for arms that ask nothing of the source.
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
        return img2img(target, batch, arm.value, steps=steps, guidance=arm.guidance), None
    between = mix_weights([source, target], [1 - arm.value, arm.value])
    return draw(between, batch.said, seeds=batch.seeds, steps=steps, guidance=arm.guidance), None


def img2img(model: StableDiffusion, batch: Batch, strength: float, *, steps: int, guidance: float) -> list[Image.Image]:
    """Noise for this share of the steps, at least one, and the model draws on from there."""
    start = steps - max(1, round(strength * steps))
    clean = model.encode(torch.cat([to_tensor(picture) for picture in batch.pictures]).to(model.device))
    fresh = torch.cat([noise(model, seed, batch.pictures[0].size) for seed in batch.others])
    x = model.schedule.noised(clean, fresh, model.schedule.timesteps(steps)[start])
    texts = model.condition([*batch.said, ""])
    wanted, unwanted = texts[: len(batch.said)], join([texts[len(batch.said) :]] * len(batch.said))
    return to_images(model.decode(sample(model, x, wanted, unwanted, steps=steps, guidance=guidance, start=start)))
