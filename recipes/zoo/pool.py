"""Pools of rendered scenes on disk, made once in chunks: a run that is stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.zoo import scenes

CHUNK = 1000


@dataclass(frozen=True)
class Pool:
    """Pictures (n, P, P, 3) uint8, their scenes, and the names the scenes' subjects point to."""

    pictures: np.ndarray
    scenes: list[scenes.Scene]
    style: str

    @property
    def captions(self) -> list[str]:
        """Captions as training sees them: an adapter's style is called by its trigger words."""
        trigger = f", {self.style} style" if self.style in scenes.LORAS else ""
        return [scene.caption + trigger for scene in self.scenes]

    @property
    def pairs(self) -> np.ndarray:
        """Rows that show two subjects in a relation."""
        return np.flatnonzero([len(set(scene.subjects)) > 1 for scene in self.scenes])

    @property
    def tinted(self) -> np.ndarray:
        """Rows whose caption names the colour of what is drawn."""
        return np.flatnonzero([scene.tint is not None for scene in self.scenes])

    @property
    def orders(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of pairs whose first named subject is the left or upper one, and of those whose second is."""
        forth = np.array([" left of " in scene.caption or " above " in scene.caption for scene in self.scenes])
        return np.intersect1d(self.pairs, np.flatnonzero(forth)), np.intersect1d(self.pairs, np.flatnonzero(~forth))


def pool(
    folder: Path, style: str, count: int, names: list[str], art: Callable[[], dict[str, np.ndarray]], seed: int
) -> Pool:
    """The pool of `count` scenes in a style, rendered where it is not on disk yet. `art` is called only if needed."""
    folder = folder / f"{style}-{len(names)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pictures, found = [], []
    for chunk in range(-(-count // CHUNK)):
        bitmap, text = folder / f"{chunk:03d}.npy", folder / f"{chunk:03d}.json"
        if not text.exists():
            rng = np.random.default_rng([seed, scenes.STYLES.index(style), chunk])
            drawn = [scenes.sample(names, rng) for _ in range(CHUNK)]
            drawings = art()
            np.save(bitmap, np.stack([scenes.render(scene, style, drawings, rng) for scene in drawn]))
            text.write_text(json.dumps([(s.caption, s.subjects, s.boxes, s.ground, s.tint) for s in drawn]))
        pictures.append(np.load(bitmap))
        found += [
            scenes.Scene(caption, tuple(subjects), tuple(map(tuple, boxes)), ground, tint)
            for caption, subjects, boxes, ground, tint in json.loads(text.read_text())
        ]
    return Pool(np.concatenate(pictures)[:count], found[:count], style)
