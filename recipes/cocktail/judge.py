"""How much structure a picture keeps of its source, and whether it has the target's style.

Structure, higher keeps more:

- edges: correlation of smoothed outlines, without any network. A picture without any outline keeps none: 0.
- keys: -1000 times the structure distance of a transformer's last keys, by the vision side of an image-text encoder or
  by a ViT of one's own (the published figure with DINO ViT-B/8).

Style, higher reaches more:

- reader: probability of the target's style, by a reader of plain statistics that learned from pictures every model drew
  of the same prompts, with seeds that nothing is judged on. `accuracy` is its share of right answers on the sources.
- likeness: mean cosine of the encoder's vectors with the target's own pictures of the same prompts, other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recipes.cocktail.methods import Arm
from recipes.cocktail.study import Pictures, Study
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.evaluate.images.picture import Picture
from tastemaker.evaluate.images.structure import Keys, edge_structure, structure_distance
from tastemaker.evaluate.images.style import StyleReader, style_similarity
from tastemaker.evaluate.images.vit import ViT
from tastemaker.generate.embed import Encoder

STRUCTURES = {"edges": "structure kept: edges", "keys": "structure kept: keys (-1000 x distance)"}
STYLES = {"reader": "style reached: reader", "likeness": "style reached: encoder"}


@dataclass(frozen=True)
class EncoderKeys:
    """The vision side of an image-text encoder as a transformer that shows its last keys."""

    encoder: Encoder

    @property
    def name(self) -> str:
        return self.encoder.name

    def keys(self, picture: Picture) -> NDArray[np.floating]:
        """Shape (n_tokens, dim)."""
        caught: list[Any] = []
        projection = self.encoder.model.vision_model.encoder.layers[-1].self_attn.k_proj
        hook = projection.register_forward_hook(lambda module, given, out: caught.append(out))
        try:
            self.encoder.embed_pictures([picture])
        finally:
            hook.remove()
        return np.asarray(caught[0][0].float().cpu().numpy())


@dataclass(frozen=True, eq=False)
class Judged:
    """What was measured.

    Attributes:
        table: method, dial, arm, source, target, prompt, seed and one column a measure; a row a picture.
        trips: round-trip error by arm.
        accuracy: share of the sources whose model the reader names.
        measured_by: measure -> what measured it.
    """

    table: pl.DataFrame
    trips: dict[str, float]
    accuracy: dict[str, float]
    measured_by: dict[str, str]

    @property
    def axes(self) -> list[tuple[str, str]]:
        """Pairs of structure and style that were measured, the first the one that decides."""
        return [(a, b) for b in STYLES for a in STRUCTURES if {a, b} <= set(self.table.columns)]


def judge(study: Study, arms: Sequence[Arm], *, encoder: Encoder | None = None, vit: ViT | None = None) -> Judged:
    """Draw whatever is not drawn yet, and measure everything."""
    own = {name: list(study.own(name)) for name in study.models}
    samples = {name: list(study.learn(name)) for name in study.models}
    reader = StyleReader.fit(samples)
    right = {name: np.argmax(reader.probability(own[name]), 1) == at for at, name in enumerate(own)}
    vectors = {} if encoder is None else {name: encoder.embed_pictures(found) for name, found in samples.items()}
    keys = vit if vit is not None else None if encoder is None else EncoderKeys(encoder)
    measured_by = {"edges": "edge correlation", "reader": f"statistics of {len(next(iter(samples.values())))} pictures"}
    measured_by |= {} if keys is None else {"keys": keys.name}
    measured_by |= {} if encoder is None else {"likeness": encoder.name}
    seen = {} if keys is None else {name: _Seen.of(found, keys) for name, found in own.items()}

    rows, trips = [], dict[str, float]()
    cells = {"prompt": [at for at, _ in study.plan.cells], "seed": [seed for _, seed in study.plan.cells]}
    for source, arm in study.jobs(arms):
        brought, trip = study.brought(source, arm)
        if trip is not None:
            trips[arm.name] = trip
        study.say(f"{source}: judging {arm.name}")
        for target, pictures in brought.items():
            measures = _measured(own[source], pictures, target, reader, encoder, vectors, seen.get(source))
            facts = {"method": arm.method, "dial": arm.dial, "arm": arm.name, "source": source, "target": target}
            rows.append(pl.DataFrame(cells | measures).with_columns(**{k: pl.lit(v) for k, v in facts.items()}))
    return Judged(
        pl.concat(rows),
        trips,
        {name: float(found.mean()) for name, found in right.items()},
        measured_by,
    )


def _measured(
    sources: Sequence[Picture], pictures: Pictures, target: str, reader: StyleReader, encoder: Encoder | None,
    vectors: dict[str, Embeddings], seen: _Seen | None,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    results = list(pictures)
    measures = {
        "edges": np.nan_to_num(edge_structure(sources, results).values, nan=0.0),
        "reader": reader.reached(results, target).values,
    }
    if encoder is not None:
        measures["likeness"] = style_similarity(encoder.embed_pictures(results), vectors[target]).values
    if seen is not None:
        measures["keys"] = -1000 * structure_distance(sources, results, seen).values
    return measures


@dataclass(frozen=True)
class _Seen:
    """Keys that remember the sources, since every arm asks for them again."""

    inner: Keys
    known: dict[int, NDArray[np.floating]]

    @classmethod
    def of(cls, sources: Sequence[Picture], inner: Keys) -> _Seen:
        return cls(inner, {id(picture): inner.keys(picture) for picture in sources})

    @property
    def name(self) -> str:
        return self.inner.name

    def keys(self, picture: Picture) -> NDArray[np.floating]:
        found = self.known.get(id(picture))
        return self.inner.keys(picture) if found is None else found
