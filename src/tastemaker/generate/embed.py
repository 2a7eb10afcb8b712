"""Texts and pictures into one space, by a CLIP model from a local folder: the zoo's small one, or any CLIPModel.

Nothing is fetched and only safetensors are opened. All sizes come from the folder: how many tokens a text may have from
its tokenizer, how pictures are prepared from its preprocessor.

Facts that are easy to get wrong:
- A text longer than the tokenizer's limit (77 in CLIP, less in the zoo) is cut, as every CLIP does, and a warning says
  how many texts lost their end.
- Pictures are prepared here, with Pillow and numpy: CLIP's own "crop" (short side to the model's size, then the middle)
  or the "squash" of Diffusion Cocktail, which keeps all of the picture and none of its aspect.
- Vectors of two models have nothing to do with each other, whatever their width. `name` says which model it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.errors import DataError, InvalidArgument, MissingExtra
from tastemaker.evaluate.images.embedding import Embeddings, Vectors
from tastemaker.evaluate.images.folder import Preprocessing, config, preprocessing, safe_weights
from tastemaker.evaluate.images.picture import Fit, Picture, Pixels, content_hash, fitted, rgbs

try:
    import torch
    import transformers
    from transformers import CLIPModel, CLIPTokenizer
except ImportError as error:
    raise MissingExtra("torch and transformers", "generate") from error

#: Vectors already computed, by a key of model, preparation and content; any mapping will do, a dict or one on disk.
Cache = MutableMapping[str, Vectors]


@contextlib.contextmanager
def without_bars(*loggers: Any) -> Iterator[None]:
    """No progress bars of libraries, by their logging modules: a line of ours says what is being read."""
    bars = [logger for logger in loggers if logger.is_progress_bar_enabled()]
    for logger in bars:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in bars:
            logger.enable_progress_bar()


@dataclass(frozen=True, eq=False)
class Encoder:
    """A CLIP model that returns unit vectors.

    Attributes:
        name: of the folder, with its sizes.
        dim: of the vectors.
        max_length: tokens of a text, begin and end included.
        prepared: size, mean and deviation of the pictures it sees.
        scale: its learned temperature; a logit is scale times the cosine.
        digest: hash of its weights, 16 hexadecimal digits.
    """

    name: str
    dim: int
    max_length: int
    prepared: Preprocessing
    scale: float
    digest: str
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Encoder:
        """Read a CLIPModel folder: config.json, safetensors, tokenizer, preprocessor_config.json.

        Args:
            dtype: of the weights in memory; vectors are float32 in any case.

        Raises DataError for a folder that is not one, with pickled weights only, with weights missing, without a
        preprocessor, or whose tokenizer and text encoder disagree.
        """
        folder = Path(folder)
        config(folder, "clip")
        files = safe_weights(folder)
        prepared = preprocessing(folder)
        if prepared is None:
            raise DataError("no preprocessor_config.json; without it nobody knows how its pictures look", file=folder)
        try:
            with without_bars(transformers.utils.logging):
                loaded: Any = CLIPModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=dtype
                )
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise DataError(f"cannot be read ({error}); expected a folder by save_pretrained", file=folder) from error
        model, report = loaded
        if report["missing_keys"]:
            raise DataError(f"weights missing: {sorted(report['missing_keys'])[:3]}; expected a CLIPModel", file=folder)
        text, vision = model.config.text_config, model.config.vision_config
        if vision.image_size != prepared.size:
            raise DataError(
                f"prepares pictures of {prepared.size} pixels for a model of {vision.image_size}; expected one size",
                file=folder,
            )
        # A tokenizer saved without a limit says 1e30.
        limit = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else text.max_position_embeddings
        if limit > text.max_position_embeddings or len(tokenizer) > text.vocab_size:
            raise DataError(
                f"a tokenizer of {len(tokenizer)} tokens, {limit} a text, for an encoder of {text.vocab_size} and "
                f"{text.max_position_embeddings}; take both from one model",
                file=folder,
            )
        dim, scale = int(model.config.projection_dim), float(model.logit_scale.detach().float().exp())
        name = f"{folder.name} (CLIP, {dim} dimensions, {prepared.size} px)"
        model = model.eval().to(device)
        return cls(name, dim, int(limit), prepared, scale, _digest(files), model, tokenizer)

    def embed_texts(self, texts: Sequence[str], *, batch: int = 64, cache: Cache | None = None) -> Embeddings:
        """One unit vector a text, ids = the texts. Warns where texts are longer than `max_length` tokens."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InvalidArgument(f"texts {texts!r:.60}; expected a list of texts: ['a red apple']")
        cut = [
            text for text in texts if len(text.encode()) > self.max_length - 2 and self._length(text) > self.max_length
        ]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts have more than {self.max_length} tokens and lose their end, "
                f"the first: '{cut[0]:.40}...'",
                stacklevel=2,
            )
        keys = [f"{self.digest}/text/{hashlib.sha256(text.encode()).hexdigest()[:32]}" for text in texts]

        def compute(places: list[int]) -> torch.Tensor:
            tokens = self.tokenizer(
                [texts[place] for place in places],
                padding="max_length",
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self.model.device)
            given = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
            out: torch.Tensor = self.model.get_text_features(**given).pooler_output
            return out

        return Embeddings.of(self._rows(keys, compute, batch, cache), list(texts))

    def embed_pictures(
        self,
        pictures: Sequence[Picture],
        *,
        fit: Fit = "crop",
        ids: Sequence[str] | None = None,
        batch: int = 32,
        cache: Cache | None = None,
    ) -> Embeddings:
        """One unit vector a picture.

        Args:
            fit: "crop" as CLIP was trained, "squash" as Diffusion Cocktail measures.
            ids: one a picture; by default a hash of what it shows.
        """
        pixels = rgbs(pictures)
        hashes = [content_hash(picture) for picture in pixels]
        if ids is not None and len(ids) != len(pixels):
            raise InvalidArgument(f"{len(ids)} ids for {len(pixels)} pictures; expected one each")

        def compute(places: list[int]) -> torch.Tensor:
            inputs = torch.from_numpy(np.stack([self.prepare(pixels[place], fit) for place in places]))
            out: torch.Tensor = self.model.get_image_features(
                pixel_values=inputs.to(self.model.device, self.model.dtype)
            ).pooler_output
            return out

        rows = self._rows([f"{self.digest}/{fit}/{key}" for key in hashes], compute, batch, cache)
        return Embeddings.of(rows, list(ids) if ids is not None else hashes)

    def features(self, pictures: Sequence[Picture]) -> Vectors:
        """For FID and KID: unit vectors times sqrt(dim), so that <x, y> / dim in KID's kernel is the cosine."""
        return self.embed_pictures(pictures).vectors * np.float32(self.dim**0.5)

    def prepare(self, pixels: Pixels, fit: Fit) -> Vectors:
        """What the model sees of one picture, shape (3, size, size) float32."""
        square = fitted(pixels, self.prepared.size, fit).astype(np.float32) / 255
        mean, std = (np.array(part, np.float32) for part in (self.prepared.mean, self.prepared.std))
        return np.ascontiguousarray(((square - mean) / std).transpose(2, 0, 1))

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _rows(self, keys: list[str], compute: Any, batch: int, cache: Cache | None) -> Vectors:
        """Unit vectors by key, each key computed once."""
        known: Cache = {} if cache is None else cache
        todo = list({key: place for place, key in enumerate(keys) if key not in known}.values())
        with torch.inference_mode():
            for places in _chunks(todo, batch):
                raw = compute(places).float().cpu().numpy()
                for place, row in zip(places, raw / np.linalg.norm(raw, axis=1, keepdims=True), strict=True):
                    known[keys[place]] = row
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, self.dim), np.float32)


def _chunks(places: list[int], batch: int) -> Iterator[list[int]]:
    if batch < 1:
        raise InvalidArgument(f"batch={batch}; expected at least 1")
    for start in range(0, len(places), batch):
        yield places[start : start + batch]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
