"""Plug points for models of what people like: a protocol, and two kinds that load from a local folder.

- `Preference`: a CLIP model tuned on people's choices, score = scale * cos(text, picture). PickScore (Kirstain et al.
  2023) and HPSv2 (Wu et al. 2023) are of this form, given as a CLIPModel folder.
- `Aesthetic`: a head on a CLIP embedding that knows no prompt, such as LAION's. Its published "MLP" has no activation
  between its layers, so it is one linear map.
- ImageReward and HPSv3 have other architectures; wrap them in a class with `name` and `score`.

Facts that are easy to get wrong:
- Scores of one scorer order pictures of *one* prompt. Across prompts they are not on one scale: standardise first.
- CLIP's cosine is close to the weakest judge of what people prefer; see it as a check of content.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.evaluate.images.alignment import matched
from tastemaker.evaluate.images.embedding import Encoder
from tastemaker.evaluate.images.folder import read_tensors
from tastemaker.evaluate.images.measured import require_pairs
from tastemaker.evaluate.images.picture import Fit, Picture

Floats = NDArray[np.float64]


class Scorer(Protocol):
    """How much people would like a picture for a prompt; only the order within a prompt matters."""

    @property
    def name(self) -> str: ...

    def score(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> Floats:
        """One number a picture with its own prompt, higher is better, shape (n,)."""
        ...


@dataclass(frozen=True, eq=False)
class Preference:
    """scale * cos(text, picture) of a tuned CLIP.

    Attributes:
        encoder: the tuned model.
        scale: its learned temperature, `encoder.scale` of the model's own folder; 100 for most.
        fit: how pictures become square; these models were tuned on crops.
    """

    encoder: Encoder
    scale: float = 100.0
    fit: Fit = "crop"

    @property
    def name(self) -> str:
        return f"preference by {self.encoder.name}"

    def score(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> Floats:
        require_pairs(prompts, pictures, ("prompts", "pictures"))
        texts, seen = self.encoder.embed_texts(prompts), self.encoder.embed_pictures(pictures, fit=self.fit)
        return self.scale * matched(texts.vectors, seen.vectors).values


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """A linear head on unit picture embeddings; prompts are not looked at.

    Attributes:
        encoder: the CLIP model the head was trained on; another one of the same width gives nonsense unnoticed.
        weight: shape (dim,).
        bias: one number.
    """

    encoder: Encoder
    weight: Floats
    bias: float
    fit: Fit = "crop"

    @property
    def name(self) -> str:
        return f"aesthetic head on {self.encoder.name}"

    @classmethod
    def load(cls, file: str | Path, encoder: Encoder) -> Aesthetic:
        """From safetensors: `weight` and `bias`, or a chain of linear layers such as `layers.0.weight`, ....

        The layers are taken in the order of the numbers in their names and multiplied out.

        Raises DataError for pickled files, no layer, missing biases, or layers that do not chain to one number.
        """
        tensors = read_tensors(file)
        layers = sorted((name for name in tensors if name.endswith("weight")), key=_number)
        if not layers:
            raise DataError(f"no '...weight' among {sorted(tensors)[:8]}; expected linear layers", file=file)
        weight, bias = np.eye(tensors[layers[0]].shape[-1]), np.zeros(tensors[layers[0]].shape[-1])
        for name in layers:
            matrix = np.atleast_2d(tensors[name].astype(np.float64))
            partner = f"{name.removesuffix('weight')}bias"
            if partner not in tensors or matrix.shape[1] != len(weight):
                raise DataError(
                    f"'{name}' of shape {matrix.shape} after {len(weight)} values, bias "
                    f"{'found' if partner in tensors else 'absent'}; expected linear layers that fit together",
                    file=file,
                )
            weight, bias = matrix @ weight, matrix @ bias + tensors[partner].astype(np.float64)
        if len(weight) != 1:
            raise DataError(f"the last layer gives {len(weight)} numbers; expected one, the score", file=file)
        return cls(encoder, weight[0], float(bias[0]))

    def score(self, pictures: Sequence[Picture], prompts: Sequence[str]) -> Floats:
        require_pairs(prompts, pictures, ("prompts", "pictures"))
        seen = self.encoder.embed_pictures(pictures, fit=self.fit).vectors
        if seen.shape[1] != len(self.weight):
            raise InvalidArgument(
                f"embeddings of {seen.shape[1]} dimensions, a head for {len(self.weight)}; load the head's own encoder"
            )
        return np.asarray(seen @ self.weight + self.bias)


def _number(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", name))
