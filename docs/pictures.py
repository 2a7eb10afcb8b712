"""Draw the sheets of the documentation anew, with the embedded models as they are: `python docs/pictures.py`.

The screenshots of the gallery are not made here.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tastemaker.cli import main

OUT = Path(__file__).parent / "img"
STYLES = ("zoo/ink", "zoo/neon", "zoo/clay", "zoo/pixel", "zoo/blueprint")


def run(*words: str | Path) -> None:
    """A command line; SystemExit where it is refused."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise


def draw(folder: Path) -> None:
    """Every sheet, by the commands that the pages show."""
    run("zoo", "--sheet", OUT / "zoo.png")

    prompts = folder / "prompts.txt"
    prompts.write_text("a cat\nan apple\na balloon\n", encoding="utf-8")
    run("grid", prompts, "--models", "zoo/base", "zoo/ink", "zoo/neon", "--out", folder / "book")
    shutil.copy(folder / "book" / "sheet.png", OUT / "tutorial_loop.png")

    prompts.write_text("a red apple\na blue apple\na green cat on a yellow background\n", encoding="utf-8")
    run("grid", prompts, "--models", "zoo/*", "--out", folder / "colours")
    shutil.copy(folder / "colours" / "sheet.png", OUT / "colours.png")

    cases = (
        ("a cat", "3", ("zoo/ink", "zoo/neon"), "tutorial_cocktail.png"),
        ("a panda on a red background", "3", STYLES, "mix.png"),
    )
    for prompt, seed, styles, name in cases:
        drawn, mixed = folder / f"drawn-{name}", folder / f"mixed-{name}"
        run("generate", prompt, "--models", "zoo/base", "--seed", seed, "-o", drawn)
        (source,) = (drawn / "base").glob("*.png")
        run("mix", source, "--content", "zoo/base", "--style", *styles, "--prompt", prompt, "--out", mixed)
        (sheet,) = mixed.glob("*-sheet-*.png")
        shutil.copy(sheet, OUT / name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name))
