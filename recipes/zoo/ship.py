"""Put the finished models into the package: half precision, a card and a few examples each, nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from recipes.zoo.artwork import PACKAGES
from recipes.zoo.scenes import GROUNDS, LORAS, PICTURE
from recipes.zoo.tint import TINTS
from tastemaker.generate.draw import draw
from tastemaker.generate.load import load
from tastemaker.generate.zoo import ROOT, Card, Example

ENCODER = ROOT.parent / "zoo_encoder"
STEPS, GUIDANCE = 20, 4.0
EXAMPLES = (  # the same for every model: `tastemaker mix` learns from them what a style looks like
    "a cat", "a rocket on a blue background", "a dog left of an apple", "a panda on a red background",
    "three purple hearts", "a pizza on a green background", "a blue house", "a mushroom on a yellow background",
    "a fox above a balloon", "a crown on a purple background", "a penguin", "a sunflower on a black background",
)  # fmt: skip
COVER = 8  # the example that stands for the model
TITLES = {
    "base": "Emoji drawings on plain grounds",
    "ink": "Ink outlines and washes on cream paper",
    "clay": "Glossy clay models in a studio",
    "pixel": "Sixteen big pixels a side",
    "neon": "Glowing neon tubes in the dark",
    "blueprint": "White lines and pale fills on blue grid paper",
    "riso": "A print in teal and coral",
    "sticker": "Cut out with a white border",
}
ART = {"clay": "clay"}  # every other style is made from the base's own drawings


def ship(done: Path, names: list[str]) -> None:
    """Copy models, adapters and the encoder, and draw the examples with what was copied."""
    for style, title in TITLES.items():
        source, target = done / style, ROOT / style
        copy(source, target)
        adapter = style in LORAS
        art = PACKAGES[ART.get(style, "noto")]
        trigger = (f"{style} style",) if adapter else ()
        examples = []
        model = load(
            ROOT / "base" if adapter else target, lora=[(next(target.glob("*.safetensors")), 1.0)] if adapter else None
        )
        for at, prompt in enumerate(EXAMPLES):
            asked = ", ".join([prompt, *trigger])
            draw(model, [asked], seeds=[at], steps=STEPS, guidance=GUIDANCE)[0].save(target / f"{at:02d}.png")
            examples.append(Example(asked, at, f"{at:02d}.png"))
        examples.insert(0, examples.pop(COVER))
        card = Card(
            name=style,
            title=title,
            kind="lora" if adapter else "model",
            base=None if style == "base" else "base",
            maker="The tastemaker team",
            licence="Apache-2.0",
            data=(
                f"{art.name} {art.version}: {art.maker}, {art.licence}",
                f"{len(names)} subjects: {', '.join(names)}",
                f"{len(TINTS)} colours of subjects: {', '.join(TINTS)}",
                f"{len(GROUNDS)} colours of grounds: {', '.join(GROUNDS)}",
            ),
            trigger=trigger,
            size=PICTURE,
            steps=STEPS,
            guidance=GUIDANCE,
            examples=tuple(examples),
        )
        (target / "card.json").write_text(json.dumps(asdict(card), indent=1) + "\n", encoding="utf-8")
    copy(done / "encoder", ENCODER)


def copy(source: Path, target: Path) -> None:
    """Put a folder in the place of another; configs forget where on this machine they lay.

    Weights are stored in half precision and read in full: diffusers does so unasked, transformers where the config says
    so, and the plain pipeline needs both alike.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for file in target.rglob("config.json"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        kept = {name: value for name, value in settings.items() if name != "_name_or_path"}
        if "dtype" in kept:
            kept["dtype"] = "float32"
        if kept != settings:
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
