"""A vision transformer from a local folder, for structure distance and as features.

Diffusion Cocktail and PIE-Bench use DINO ViT-B/8: 12 blocks, 768 dimensions, patches of 8, 224 pixels, 785 tokens. Any
folder in the ViTModel format works, and `name` says which it was: figures of two transformers cannot be compared.

Facts that are easy to get wrong:
- Keys are what the key projection returns, bias included, before any scaling, after the block's first layer norm.
- The resize works on the tensor of colours in 0..1 and does not clip what bicubic interpolation overshoots.
- The papers differ in it: Diffusion Cocktail squashes to 224 x 224 (bicubic), PIE-Bench brings the short side to 224
  and the long one to at most 480 (bilinear). `resize` chooses; they agree on square pictures but for the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import DataError, MissingExtra, UnknownName
from tastemaker.evaluate.images.folder import Preprocessing, config, preprocessing, safe_weights
from tastemaker.evaluate.images.picture import Picture, rgb

if TYPE_CHECKING:
    import torch

Resize = Literal["squash", "short side"]

_LONGEST = 480  # of the long side, PIE-Bench
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class ViT:
    """Keys and features of pictures.

    Attributes:
        name: folder, blocks, dimensions, patch, pixels.
        size: side the picture is brought to.
        mean, std: of the colours, from the folder's preprocessor, else ImageNet's.
        resize: "squash" (Diffusion Cocktail) or "short side" (PIE-Bench).
        antialias: widen the filter when shrinking; old versions of the papers' libraries did not.
    """

    name: str
    size: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize
    antialias: bool
    model: Any

    @classmethod
    def load(cls, folder: str | Path, *, resize: Resize = "squash", antialias: bool = True, device: str = "cpu") -> ViT:
        """Read config.json and safetensors of a ViTModel folder; nothing is downloaded.

        Raises DataError for a folder that is not one, with pickled weights only, or with weights missing.
        """
        if resize not in ("squash", "short side"):
            raise UnknownName("resize", resize, ["squash", "short side"])
        try:
            from transformers import ViTModel
        except ImportError as error:
            raise MissingExtra("transformers", "generate") from error
        folder = Path(folder)
        facts = config(folder, "vit")
        safe_weights(folder)
        loaded: Any = ViTModel.from_pretrained(
            folder, add_pooling_layer=False, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model, report = loaded
        if report["missing_keys"]:
            raise DataError(f"weights missing: {sorted(report['missing_keys'])[:3]}; expected a ViTModel", file=folder)
        size, patch = int(facts["image_size"]), int(facts["patch_size"])
        prepared = preprocessing(folder) or Preprocessing(size, *_IMAGENET)
        name = f"{folder.name} (ViT, {facts['num_hidden_layers']} blocks, {facts['hidden_size']} dimensions, "
        name += f"patch {patch}, {size} px)"
        return cls(name, size, patch, prepared.mean, prepared.std, resize, antialias, model.eval().to(device))

    def keys(self, picture: Picture) -> NDArray[np.float32]:
        """Keys of the last block, class token first, heads side by side, shape (n_tokens, dim)."""
        import torch

        caught: list[torch.Tensor] = []
        projection = self.model.layers[-1].attention.k_proj
        hook = projection.register_forward_hook(lambda module, given, out: caught.append(out))
        try:
            with torch.inference_mode():
                self.model(self._tensor(picture), interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return np.asarray(caught[0][0].float().cpu().numpy())

    def features(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """The class token after the last norm, shape (n, dim)."""
        import torch

        with torch.inference_mode():
            rows = [
                self.model(self._tensor(picture), interpolate_pos_encoding=True).last_hidden_state[0, 0]
                for picture in pictures
            ]
        return np.asarray(torch.stack(rows).float().cpu().numpy())

    def _tensor(self, picture: Picture) -> torch.Tensor:
        """(1, 3, height, width), normalised."""
        import torch

        pixels = torch.from_numpy(rgb(picture).copy()).permute(2, 0, 1)[None].float() / 255
        height, width = self._target(pixels.shape[2], pixels.shape[3])
        mode = "bicubic" if self.resize == "squash" else "bilinear"
        small = torch.nn.functional.interpolate(
            pixels, (height, width), mode=mode, align_corners=False, antialias=self.antialias
        )
        mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (self.mean, self.std))
        return ((small - mean) / std).to(self.model.device, self.model.dtype)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize == "squash":
            return self.size, self.size
        short, long = self.size, self.size * max(height, width) // min(height, width)
        if long > _LONGEST:
            short, long = _LONGEST * short // long, _LONGEST
        return (short, long) if height <= width else (long, short)
