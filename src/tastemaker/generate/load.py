"""Load a model from a folder in diffusers' layout, a single safetensors checkpoint, or the embedded zoo.

Only safetensors are read: a pickled checkpoint can run code, so it is refused with the way to convert it. Nothing is
ever downloaded. Device and dtype are settled here and nowhere else: float32 on the CPU, float16 on a GPU, and a VAE
whose config asks for it (`force_upcast`, also the default) stays in float32 because it overflows in float16.

A single file holds weights only. Tokenizer, scheduler and sizes come from `config`, a diffusers folder of the same
family, or, if None, from the copy of the family's configs in the local Hugging Face cache.

LoRAs are put on by peft and stay unfused, so `wear` can swap them without loading the model again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tastemaker.errors import DataError, InvalidArgument, MissingExtra

try:
    import diffusers
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors import SafetensorError
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
except ImportError as error:
    raise MissingExtra(str(error.name), "generate") from error

from tastemaker.generate.denoiser import Schedule, StableDiffusion, StableDiffusionXL
from tastemaker.generate.embed import without_bars

Dtype = Literal["float32", "float16", "bfloat16"]
Lora = Sequence[tuple[str | Path, float]]
FAMILIES = {"StableDiffusionPipeline": StableDiffusion, "StableDiffusionXLPipeline": StableDiffusionXL}
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def load(
    source: str | Path,
    *,
    lora: Lora | None = None,
    device: str = "auto",
    dtype: Dtype | None = None,
    config: str | Path | None = None,
) -> StableDiffusion:
    """A model ready to draw.

    Args:
        source: a folder in diffusers' layout, a .safetensors checkpoint of SD 1.x, SD 2.x or SDXL, or 'zoo/NAME'.
        lora: (file or folder, scale) of LoRAs to put on, as `wear` does but for good.
        device: 'auto' takes a GPU if there is one.
        config: for a single file: a diffusers folder of the same family.

    Raises:
        DataError: a missing, pickled, truncated or foreign file; names the part.
        InvalidArgument: a device or dtype this machine does not have.
    """
    place, number = place_of(device), _number(dtype, device)
    path = _resolve(source)
    with quiet():
        if path.is_dir():
            model = _from_folder(path, str(source), place, number)
        else:
            model = _from_file(path, str(source), place, number, config)
        return _put_on(model, lora)[0] if lora else model


@contextlib.contextmanager
def wear(model: StableDiffusion, lora: Lora) -> Iterator[StableDiffusion]:
    """The model with more LoRAs on, until the end of the block; the same network, so use one of the two at a time."""
    _ = model.identity  # of the weights as they are now: it is kept
    with quiet():
        dressed, names = _put_on(model, lora)
    try:
        yield dressed
    finally:
        _take_off(model, names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of the libraries below, and no warning that a second LoRA is a second one."""
    with without_bars(transformers.utils.logging, diffusers.utils.logging), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        yield


def place_of(device: str) -> torch.device:
    """The device of a name; 'auto' is a GPU if there is one. Raises InvalidArgument for one this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(f"device '{device}' cannot be used here ({error}); try 'auto' or 'cpu'") from error


def _number(dtype: Dtype | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.float32 if place_of(device).type == "cpu" else torch.float16
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise InvalidArgument(f"dtype {dtype!r}; expected one of {', '.join(known)}")
    return known[dtype]


def _resolve(source: str | Path) -> Path:
    if str(source).startswith("zoo/"):
        from tastemaker.generate import zoo

        return zoo.resolve(str(source))
    path = Path(source)
    if not path.exists():
        raise DataError("no such model; expected a diffusers folder, a .safetensors file or zoo/NAME", file=path)
    if path.is_file() and path.suffix in PICKLED:
        raise DataError(f"a pickled checkpoint: {_conversion(path)}", file=path)
    if path.is_file() and path.suffix != ".safetensors":
        raise DataError(f"a '{path.suffix}' file; expected a .safetensors checkpoint or a diffusers folder", file=path)
    return path


def _from_folder(path: Path, name: str, place: torch.device, dtype: torch.dtype) -> StableDiffusion:
    index = _json(path / "model_index.json", "every diffusers folder has one")
    family = FAMILIES.get(index.get("_class_name", ""))
    if family is None:
        raise DataError(
            f"a {index.get('_class_name')}; this reads {', '.join(FAMILIES)}", file=path / "model_index.json"
        )
    double = family is StableDiffusionXL
    try:
        unet = UNet2DConditionModel.from_pretrained(path, **_weights(path, "unet"), torch_dtype=dtype)
        vae = AutoencoderKL.from_pretrained(path, **_weights(path, "vae"), torch_dtype=dtype)
        encoders = [(_tokenizer(path, "tokenizer"), _encoder(path, "text_encoder", CLIPTextModel, dtype))]
        if double:
            second = _encoder(path, "text_encoder_2", CLIPTextModelWithProjection, dtype)
            encoders.append((_tokenizer(path, "tokenizer_2"), second))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot be read: {error}; fetch or export the model again", file=path) from error
    scheduler = _json(path / "scheduler" / "scheduler_config.json", "the noise schedule is read from it")
    zero = double and bool(index.get("force_zeros_for_empty_prompt", True))
    return _assemble(family, name, unet, vae, encoders, scheduler, zero, place)


def _from_file(
    path: Path, name: str, place: torch.device, dtype: torch.dtype, config: str | Path | None
) -> StableDiffusion:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.loaders.single_file_utils import (
        SingleFileComponentError,
        fetch_diffusers_config,
        load_single_file_checkpoint,
    )

    try:
        weights = load_single_file_checkpoint(str(path), local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"cannot be read: {error}; fetch the file again", file=path) from error
    if not any(key.startswith("model.diffusion_model.") for key in weights):
        raise DataError(
            "holds no diffusion model in the original layout; give a LoRA as one: lora=, or --lora", file=path
        )
    double = any(key.startswith("conditioner.embedders.1.") for key in weights)
    family = fetch_diffusers_config(weights)["pretrained_model_name_or_path"]
    folder = _cached(family) if config is None else Path(config)
    if folder is None or not (folder / "model_index.json").is_file():
        raise DataError(
            f"holds weights only; give a diffusers folder of the same family (such as {family}) for tokenizer and "
            "scheduler: config=, or --family on the command line",
            file=path,
        )
    pipeline = StableDiffusionXLPipeline if double else StableDiffusionPipeline
    extra = {} if double else {"safety_checker": None}
    try:
        parts = pipeline.from_single_file(
            str(path), config=str(folder), local_files_only=True, torch_dtype=dtype, **extra
        )
    except SingleFileComponentError as error:
        part = re.search(r"Failed to load (\w+)", str(error))
        raise DataError(
            f"holds no weights for its {part[1] if part else 'parts'}; expected UNet, VAE and text encoder in one: "
            "fetch the full checkpoint, or use the model's diffusers folder",
            file=path,
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"does not fit the configs in {folder}: {error}", file=path) from error
    encoders = [(parts.tokenizer, parts.text_encoder)]
    if double:
        encoders.append((parts.tokenizer_2, parts.text_encoder_2))
    kind = StableDiffusionXL if double else StableDiffusion
    zero = double and bool(parts.config.get("force_zeros_for_empty_prompt", True))
    return _assemble(kind, name, parts.unet, parts.vae, encoders, dict(parts.scheduler.config), zero, place)


def _assemble(
    family: type[StableDiffusion],
    name: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    encoders: list[tuple[Any, Any]],
    scheduler: dict[str, Any],
    zero_empty: bool,
    place: torch.device,
) -> StableDiffusion:
    if unet.dtype == torch.float16 and vae.config.get("force_upcast", True):
        vae = vae.float()
    for module in (unet, vae, *(encoder for _, encoder in encoders)):
        module.to(place).eval().requires_grad_(False)
    if unet.config["in_channels"] != vae.config["latent_channels"]:
        raise DataError(
            f"the UNet reads {unet.config['in_channels']} channels and the VAE writes {vae.config['latent_channels']}; "
            "inpainting and depth models are not read here",
            file=name,
        )
    return family(name, unet, vae, tuple(encoders), Schedule.of(scheduler), zero_empty)


def _weights(path: Path, part: str) -> dict[str, Any]:
    """Arguments that read one part of a folder, after a look that it is there and safe."""
    folder = path / part
    if not (folder / "config.json").is_file():
        raise DataError(f"the model has no '{part}/config.json'; this part is missing: fetch it too", file=path)
    files = [file.name for file in folder.glob("*.safetensors")]
    if not files:
        pickled = [file for file in folder.iterdir() if file.suffix in PICKLED]
        raise DataError(
            f"a pickled checkpoint: {_conversion(pickled[0])}"
            if pickled
            else f"no weights in '{part}': fetch its .safetensors file",
            file=pickled[0] if pickled else folder,
        )
    plain = [file for file in files if ".fp16." not in file]
    settings = {"subfolder": part, "local_files_only": True, "use_safetensors": True}
    return settings if plain else {**settings, "variant": "fp16"}


def _encoder(path: Path, part: str, kind: Any, dtype: torch.dtype) -> Any:
    return kind.from_pretrained(path, **_weights(path, part), dtype=dtype)


def _tokenizer(path: Path, part: str) -> Any:
    folder = path / part
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise DataError(f"the model has no '{part}' (tokenizer.json, or vocab.json and merges.txt)", file=path)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _cached(family: str) -> Path | None:
    """The family's folder in the local cache, or None."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(family, local_files_only=True))
    except (OSError, ValueError):
        return None


def _put_on(model: StableDiffusion, lora: Lora) -> tuple[StableDiffusion, list[str]]:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from diffusers.utils import set_weights_and_activate_adapters

    mixin = StableDiffusionXLLoraLoaderMixin if isinstance(model, StableDiffusionXL) else StableDiffusionLoraLoaderMixin
    texts = [encoder for _, encoder in model.encoders]
    names: list[str] = []
    worn = list(model.lora)
    try:
        for given, scale in lora:
            file = _lora_file(Path(given))
            worn.append((hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest(), float(scale)))
            names.append(f"worn_{len(worn)}")
            try:
                state, alphas = mixin.lora_state_dict(
                    str(file.parent), weight_name=file.name, unet_config=model.unet.config, use_safetensors=True,
                    local_files_only=True,
                )  # fmt: skip
                # One file may spell its matrices in two ways; the library then reads one of them and drops the other.
                state = {
                    key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): value
                    for key, value in state.items()
                }
                mixin.load_lora_into_unet(state, alphas, model.unet, adapter_name=names[-1])
                for prefix, text in zip(("text_encoder", "text_encoder_2"), texts, strict=False):
                    if any(key.startswith(f"{prefix}.") for key in state):
                        mixin.load_lora_into_text_encoder(state, alphas, text, prefix=prefix, adapter_name=names[-1])
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                raise DataError(f"this LoRA does not fit {model.name}: {error}", file=file) from error
            # The libraries leave out what they cannot place, with a warning at most.
            on = [p for net in (model.unet, *texts) for key, p in net.named_parameters() if f".{names[-1]}." in key]
            given_count, worn_count = (sum(bool(p.any()) for p in ps if p.ndim > 1) for ps in (state.values(), on))
            if worn_count != given_count:
                raise DataError(
                    f"only {worn_count} of this LoRA's {given_count} matrices fit {model.name}; expected a LoRA of the "
                    "same architecture, in diffusers', peft's or kohya's names",
                    file=file,
                )
        scales = {f"worn_{at}": scale for at, (_, scale) in enumerate(worn, 1)}
        for module in (model.unet, *texts):
            present = [name for name in scales if name in getattr(module, "peft_config", {})]
            if present:
                set_weights_and_activate_adapters(module, present, [scales[name] for name in present])
    except BaseException:
        _take_off(model, names)
        raise
    return dataclasses.replace(model, lora=tuple(worn)), names


def _take_off(model: StableDiffusion, names: list[str]) -> None:
    from diffusers.utils import delete_adapter_layers, recurse_remove_peft_layers, set_weights_and_activate_adapters

    on = {f"worn_{at}": scale for at, (_, scale) in enumerate(model.lora, 1)}
    for module in (model.unet, *(encoder for _, encoder in model.encoders)):
        for name in names:
            if name in getattr(module, "peft_config", {}):
                delete_adapter_layers(module, name)
        present = [name for name in on if name in getattr(module, "peft_config", {})]
        if present:
            set_weights_and_activate_adapters(module, present, [on[name] for name in present])
        else:
            recurse_remove_peft_layers(module)


def _conversion(file: Path) -> str:
    """How to convert a pickled file, as lines of Python that do it.

    Single checkpoints keep their weights under 'state_dict', files of a folder are the weights; weights that share
    memory or lie across it are refused by safetensors, so each becomes a copy of its own.
    """
    target = file.with_name("model.safetensors" if file.name == "pytorch_model.bin" else f"{file.stem}.safetensors")
    return (
        "it may run code when opened, so only safetensors are read; convert it where you trust it, in Python: "
        f"import torch; from safetensors.torch import save_file; "
        f"weights = torch.load({str(file)!r}, map_location='cpu', weights_only=True); "
        "weights = weights.get('state_dict', weights); "
        "weights = {name: one.clone().contiguous() for name, one in weights.items() if torch.is_tensor(one)}; "
        f"save_file(weights, {str(target)!r}, metadata={{'format': 'pt'}})"
    )


def _lora_file(path: Path) -> Path:
    if path.is_file() and path.suffix in PICKLED:
        raise DataError(f"a pickled LoRA: {_conversion(path)}", file=path)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1 or files[0].suffix != ".safetensors":
        raise DataError("expected a LoRA: one .safetensors file, or a folder with exactly one", file=path)
    return files[0]


def _json(path: Path, why: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"'{path.name}' is missing; {why}", file=path.parent) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", file=path) from error
    if not isinstance(content, dict):
        raise DataError("expected a JSON object", file=path)
    return content
