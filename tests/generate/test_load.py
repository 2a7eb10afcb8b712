"""Loading: folders, single files, LoRAs, and everything that is wrong with them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.generate.denoiser import StableDiffusion, StableDiffusionXL
from tastemaker.generate.draw import draw
from tastemaker.generate.load import load, wear
from tests.generate import tiny

Models = Callable[[str], StableDiffusion]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A model to spoil."""
    return Path(shutil.copytree(tiny.save("sd1", folder), tmp_path / "model"))


def look(model: StableDiffusion, seed: int = 3) -> np.ndarray:
    return np.asarray(draw(model, ["a red apple"], seeds=[seed], steps=3)[0], int)


def test_families_and_places(models: Models) -> None:
    assert type(models("sd1")) is StableDiffusion
    assert type(models("sdxl")) is StableDiffusionXL
    for name in ("sd1", "sd2", "sdxl"):
        model = models(name)
        assert (model.unet.dtype, model.vae.dtype, model.device.type) == (torch.float32, torch.float32, "cpu")
        assert not any(parameter.requires_grad for parameter in model.unet.parameters())
        assert not model.unet.training


def test_half_precision_keeps_the_vae_that_overflows(folder: Path) -> None:
    model = load(tiny.save("sd1", folder), device="cpu", dtype="float16")
    assert (model.unet.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    assert load(tiny.save("sd1", folder), device="cpu", dtype="bfloat16").vae.dtype == torch.bfloat16


def test_half_precision_draws_about_the_same(models: Models, folder: Path) -> None:
    half = load(tiny.save("sd1", folder), device="cpu", dtype="bfloat16")
    assert np.abs(look(half) - look(models("sd1"))).mean() < 8


def test_files_of_half_precision_are_found(folder: Path, tmp_path: Path) -> None:
    pipeline = tiny.sd()
    pipeline.save_pretrained(tmp_path / "half", variant="fp16", safe_serialization=True)
    assert load(tmp_path / "half", device="cpu").identity == load(tiny.save("sd1", folder), device="cpu").identity


def test_identity_is_of_the_weights(models: Models, copy: Path) -> None:
    assert load(copy, device="cpu").identity == models("sd1").identity
    assert len({models(name).identity for name in ("sd1", "sd1-style", "sd2", "sdxl")}) == 4


# -- LoRAs -------------------------------------------------------------------------------------------------------------


def test_a_lora_draws_what_diffusers_draws_with_it(folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    file = tiny.lora(folder / "lora")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny.save("sd1", folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora(lora_scale=0.7)
    theirs = pipeline(
        "a red apple", generator=torch.Generator().manual_seed(3), num_inference_steps=3, guidance_scale=5.0
    ).images[0]
    for given in (file, file.parent):
        model = load(tiny.save("sd1", folder), lora=[(given, 0.7)], device="cpu")
        assert np.abs(look(model) - np.asarray(theirs, int)).max() <= 1


def test_a_file_that_spells_its_matrices_in_two_ways(folder: Path, tmp_path: Path) -> None:
    file = tiny.lora(folder / "lora")
    mixed = {
        key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.") if at < 4 else key: value
        for at, (key, value) in enumerate(sorted(load_file(file).items()))
    }
    assert any(".lora_A." in key for key in mixed)
    assert any(".lora.down." in key for key in mixed)
    save_file(mixed, tmp_path / "mixed.safetensors")
    model = load(tiny.save("sd1", folder), device="cpu")
    looks = []
    for given in (file, tmp_path / "mixed.safetensors"):
        with wear(model, [(given, 1.0)]) as dressed:
            looks.append(look(dressed))
    assert np.array_equal(*looks)


def test_matrices_that_find_no_layer(folder: Path, tmp_path: Path) -> None:
    model = load(tiny.save("sd1", folder), device="cpu")
    bare, whole = look(model), load_file(tiny.lora(folder / "lora"))
    extra = {f"unet.elsewhere.lora.{way}.weight": torch.ones(2, 2) for way in ("down", "up")}
    bad = {"extra": whole | extra, "stranger": whole | {"transformer.to_q.lora_A.weight": torch.ones(2, 2)}}
    for name, state in bad.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        with (
            pytest.raises(DataError, match=r"this LoRA"),
            wear(model, [(tmp_path / f"{name}.safetensors", 1.0)]),
        ):
            pass
        assert np.array_equal(look(model), bare)


def test_loras_are_swapped_and_leave_nothing(folder: Path) -> None:
    first, second = tiny.lora(folder / "lora"), tiny.lora(folder / "lora-2", seed=1)
    model = load(tiny.save("sd1", folder), device="cpu")
    bare, identity = look(model), model.identity
    looks = []
    for worn in ([(first, 0.7)], [(first, 1.5)], [(second, 0.7)], [(first, 0.7), (second, 0.7)]):
        with wear(model, worn) as dressed:
            looks.append((dressed.identity, look(dressed)))
        assert np.array_equal(look(model), bare)
    assert len({name for name, _ in looks} | {identity}) == 5
    assert all(np.abs(one - bare).max() > 0 for _, one in looks)
    assert not [key for key in model.unet.state_dict() if "lora" in key or "base_layer" in key]
    with pytest.raises(KeyboardInterrupt), wear(model, [(first, 1.0)]):
        raise KeyboardInterrupt
    assert np.array_equal(look(model), bare)


def test_one_lora_over_another(folder: Path) -> None:
    first, second = tiny.lora(folder / "lora"), tiny.lora(folder / "lora-2", seed=1)
    model = load(tiny.save("sd1", folder), lora=[(first, 0.7)], device="cpu")
    before = look(model)
    with wear(model, [(second, 1.0)]) as dressed:
        assert np.abs(look(dressed) - before).max() > 0
    assert np.array_equal(look(model), before)


def test_loras_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    file = tiny.lora(folder / "lora")
    model = load(tiny.save("sd1", folder), device="cpu")
    bare = look(model)
    save_file(
        {"unet.nowhere.lora_A.weight": torch.zeros(2, 2), "unet.nowhere.lora_B.weight": torch.zeros(2, 2)},
        tmp_path / "odd.safetensors",
    )
    (tmp_path / "torn.safetensors").write_bytes(file.read_bytes()[:200])
    (tmp_path / "old.bin").write_bytes(b"\x80\x02")
    (tmp_path / "empty").mkdir()
    cases = {
        "odd.safetensors": "does not fit",
        "torn.safetensors": "does not fit",
        "old.bin": "pickled",
        "empty": "exactly one",
        "none": "exactly one",
    }
    for name, problem in cases.items():
        with pytest.raises(DataError, match=problem), wear(model, [(tmp_path / name, 1.0)]):
            pass
        assert np.array_equal(look(model), bare)


# -- single files ------------------------------------------------------------------------------------------------------

BLOCK = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
         "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip


def original_unet(key: str) -> str:
    """The name a UNet's weight has in checkpoints of the original code (two layers a level, four levels)."""
    part = key.split(".")
    place, rest = ".".join(part[:2]), part[2:]
    heads = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    if place in heads:
        return ".".join([heads[place], *rest])
    for name, where in {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}.items():
        if part[0] == name:
            return ".".join([where, *part[1:]])
    if part[0] == "mid_block":
        where = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}[
            ".".join(part[1:3])
        ]
        inner = part[3:]
    else:
        level, kind, number, inner = int(part[1]), part[2], int(part[3]), part[4:]
        down = part[0] == "down_blocks"
        at = 3 * level + number + 1 if down else 3 * level + number
        if kind == "downsamplers":
            return ".".join(["input_blocks", str(3 * (level + 1)), "0", "op", *inner[1:]])
        if kind == "upsamplers":
            return ".".join(["output_blocks", str(3 * level + 2), "1" if level == 0 else "2", *inner])
        where = f"{'input' if down else 'output'}_blocks.{at}.{0 if kind == 'resnets' else 1}"
    if inner[0] in BLOCK and "transformer_blocks" not in inner:
        inner = [BLOCK[inner[0]], *inner[1:]] if "attentions" not in key else inner
    return ".".join([where, *inner])


def original_vae(key: str, levels: int) -> str:
    for old, new in {
        "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm",
        "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "downsamplers.0": "downsample",
        "upsamplers.0": "upsample", ".resnets.": ".block.", "down_blocks": "down",
    }.items():  # fmt: skip
        key = key.replace(old, new)
    return re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", key)


def single_file(path: Path) -> Path:
    pipeline = tiny.sd()
    weights: dict[str, Tensor] = {}
    for key, value in pipeline.unet.state_dict().items():
        weights[f"model.diffusion_model.{original_unet(key)}"] = value
    for key, value in pipeline.vae.state_dict().items():
        square = "attentions" in key and value.ndim == 2
        weights[f"first_stage_model.{original_vae(key, 3)}"] = value[..., None, None] if square else value
    for key, value in pipeline.text_encoder.state_dict().items():
        inner = key if key.startswith("text_model.") else f"text_model.{key}"
        weights[f"cond_stage_model.transformer.{inner}"] = value
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return path


def test_a_single_file_without_a_part(folder: Path, tmp_path: Path) -> None:
    whole = load_file(single_file(tmp_path / "model.safetensors"))
    for prefix, part in (("cond_stage_model.", "CLIPTextModel"), ("first_stage_model.", "AutoencoderKL")):
        file = tmp_path / f"no-{part}.safetensors"
        save_file({key: value for key, value in whole.items() if not key.startswith(prefix)}, file)
        with pytest.raises(DataError, match=rf"no weights for its {part}; .* the full checkpoint"):
            load(file, config=tiny.save("sd1", folder), device="cpu")


def test_a_single_file_is_the_folder(models: Models, folder: Path, tmp_path: Path) -> None:
    file = single_file(tmp_path / "model.safetensors")
    model = load(file, config=tiny.save("sd1", folder), device="cpu")
    assert np.abs(look(model) - look(models("sd1"))).max() <= 1


def test_a_single_file_needs_configs(folder: Path, tmp_path: Path) -> None:
    file = single_file(tmp_path / "model.safetensors")
    for config in (None, tmp_path):
        with pytest.raises(DataError, match="config=, or --family"):
            load(file, config=config, device="cpu")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="fetch the file again"):
        load(torn, config=folder / "sd1", device="cpu")
    with pytest.raises(DataError, match="a LoRA as one: lora=, or --lora"):
        load(tiny.lora(folder / "lora"), config=folder / "sd1", device="cpu")


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth"])
def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    with pytest.raises(DataError, match=r"pickled.*weights_only=True.*save_file"):
        load(tmp_path / name)


def advised(error: pytest.ExceptionInfo[DataError]) -> str:
    """The lines of Python in a refusal of pickles."""
    found = re.search(r"in Python: (import .*)", error.value.problem)
    assert found
    return found[1]


def test_the_advice_converts_every_part_of_a_folder(models: Models, copy: Path) -> None:
    names = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "pytorch_model"}
    for part, name in names.items():
        file = next((copy / part).glob("*.safetensors"))
        weights = load_file(file)
        if part == "unet":  # safetensors takes neither
            key = next(key for key, value in weights.items() if value.ndim == 2)
            weights[key] = weights[key].t().contiguous().t()
            pair = [f"mid_block.resnets.{at}.norm1.bias" for at in (0, 1)]
            weights |= zip(pair, torch.stack([weights[key] for key in pair]), strict=True)
        torch.save(weights, copy / part / f"{name}.bin")
        file.unlink()
    for _ in names:
        with pytest.raises(DataError, match="pickled") as refused:
            load(copy, device="cpu")
        subprocess.run([sys.executable, "-c", advised(refused)], check=True)
    assert np.array_equal(look(load(copy, device="cpu")), look(models("sd1")))


def test_the_advice_converts_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    weights = load_file(single_file(tmp_path / "whole.safetensors"))
    torch.save({"state_dict": weights, "global_step": 7}, tmp_path / "model.ckpt")
    with pytest.raises(DataError, match="pickled") as refused:
        load(tmp_path / "model.ckpt")
    subprocess.run([sys.executable, "-c", advised(refused)], check=True)
    mine, theirs = (
        load(tmp_path / f"{name}.safetensors", config=tiny.save("sd1", folder), device="cpu")
        for name in ("model", "whole")
    )
    assert mine.identity == theirs.identity


def test_a_folder_of_pickles_is_refused(copy: Path) -> None:
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.rename(copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="pickled"):
        load(copy, device="cpu")


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("unet", "no 'unet/config.json'"),
        ("vae", "no 'vae/config.json'"),
        ("text_encoder", "no 'text_encoder/config.json'"),
        ("tokenizer", "no 'tokenizer'"),
        ("scheduler", "'scheduler_config.json' is missing"),
        ("model_index.json", "'model_index.json' is missing"),
        ("unet/diffusion_pytorch_model.safetensors", "no weights in 'unet'"),
        ("text_encoder/model.safetensors", "no weights in 'text_encoder'"),
    ],
)
def test_a_missing_part_is_named(copy: Path, part: str, problem: str) -> None:
    path = copy / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=problem):
        load(copy, device="cpu")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("length", [0, 5, 3000])
def test_truncated_weights(copy: Path, part: str, length: int) -> None:
    path = copy / part
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="again"):
        load(copy, device="cpu")


def test_broken_and_foreign_configs(copy: Path) -> None:
    index = copy / "model_index.json"
    good = index.read_text()
    for text, problem in [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        (json.dumps({"_class_name": "FluxPipeline"}), "a FluxPipeline; this reads StableDiffusionPipeline"),
        ("{}", "a None"),
    ]:
        index.write_text(text)
        with pytest.raises(DataError, match=problem):
            load(copy, device="cpu")
    index.write_text(good)
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [8, 8, 8, 8]}))
    with pytest.raises(DataError, match="cannot be read"):
        load(copy, device="cpu")


def test_nothing_there_and_nothing_known(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no such model"):
        load(tmp_path / "none")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (2, 2)).save(picture)
    with pytest.raises(DataError, match=r"expected a \.safetensors"):
        load(picture)
    with pytest.raises(InvalidArgument, match="device 'tpu'"):
        load(tiny.save("sd1", folder), device="tpu")
    with pytest.raises(InvalidArgument, match="expected one of float32"):
        load(tiny.save("sd1", folder), device="cpu", dtype="int8")  # type: ignore[arg-type]
