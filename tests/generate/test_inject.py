"""What is injected, where and until when; hooks that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.testing import assert_close

from tastemaker.errors import InvalidArgument, UnknownName
from tastemaker.generate.denoiser import Condition, StableDiffusion
from tastemaker.generate.inject import Injection, capturing, copying, injecting, layer_map, mask_on, read

Models = Callable[[str], StableDiffusion]
SD1_ATTENTION = [
    f"up_blocks.{block}.attentions.{number}.transformer_blocks.0.attn1"
    for block, numbers in ((1, (1, 2)), (2, (0, 1, 2)), (3, (0, 1, 2)))
    for number in numbers
]
CONVOLUTION = "up_blocks.1.resnets.1"


@pytest.fixture(scope="module")
def model(models: Models) -> StableDiffusion:
    return models("sd1")


@pytest.fixture(scope="module")
def said(model: StableDiffusion) -> Condition:
    return model.condition(["", "a red apple", "blue"])


def batch(seed: int = 0, rows: int = 3, size: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.randn(rows, 4, *size, generator=torch.Generator().manual_seed(seed))


def values(model: StableDiffusion, run: Callable[[], object], projection: str = "to_v") -> dict[str, Tensor]:
    """What one projection of every injected attention puts out in a run."""
    seen: dict[str, Tensor] = {}
    handles = [
        getattr(model.unet.get_submodule(name), projection).register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.__setitem__(name, out)
        )
        for name in SD1_ATTENTION
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


# -- the map -----------------------------------------------------------------------------------------------------------


def test_the_map_of_sd1(model: StableDiffusion) -> None:
    attention, convolution = layer_map(model.unet)
    assert list(attention) == SD1_ATTENTION
    assert convolution == (CONVOLUTION,)


def test_the_map_of_sdxl(models: Models) -> None:
    attention, convolution = layer_map(models("sdxl").unet)
    assert convolution == ("up_blocks.0.resnets.1",)
    inner = [(f"0.attentions.{number}", 2) for number in (1, 2)] + [
        (f"1.attentions.{number}", 1) for number in range(3)
    ]
    assert list(attention) == [
        f"up_blocks.{place}.transformer_blocks.{k}.attn1" for place, blocks in inner for k in range(blocks)
    ]


def test_the_map_of_a_shallow_network_is_what_exists(models: Models) -> None:
    attention, convolution = layer_map(models("shallow").unet)
    assert convolution == (CONVOLUTION,)
    assert list(attention) == [name for name in SD1_ATTENTION if ".attentions.2." not in name]


def test_a_network_without_attention_is_refused() -> None:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=4,
        mid_block_type=None, cross_attention_dim=8,
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match="no attention"):
        layer_map(plain)


@pytest.mark.parametrize(("steps", "attention", "convolution"), [(50, 25, 40), (25, 12, 20), (7, 3, 5), (1, 0, 0)])
def test_shares_of_the_steps_are_floored(model: StableDiffusion, steps: int, attention: int, convolution: int) -> None:
    until = Injection().until(model.unet, steps)
    assert list(until) == [CONVOLUTION, *SD1_ATTENTION]
    assert until == {CONVOLUTION: convolution, **dict.fromkeys(SD1_ATTENTION, attention)}


def test_layer_by_layer(model: StableDiffusion) -> None:
    until = Injection(layers={SD1_ATTENTION[3]: 1.0, "up_blocks.2.resnets.0": 0.25}).until(model.unet, 10)
    assert until == {"up_blocks.2.resnets.0": 2, SD1_ATTENTION[3]: 10}
    with pytest.raises(UnknownName, match=r"did you mean 'up_blocks\.1\.resnets\.1'"):
        Injection(layers={"up_blocks.1.resnet.1": 1.0}).until(model.unet, 10)


def test_bad_shares_and_masks() -> None:
    for bad in ({"attention": -0.1}, {"convolution": 1.1}, {"attention": float("nan")}, {"layers": {"x": 2.0}}):
        with pytest.raises(InvalidArgument, match="expected a share"):
            Injection(**bad)
    for mask in (torch.ones(3), torch.full((2, 2), 1.5), torch.full((2, 2), float("nan"))):
        with pytest.raises(InvalidArgument, match="expected \\(height, width\\)"):
            Injection(mask=mask)
    with pytest.raises(UnknownName, match="did you mean 'left'"):
        Injection(mask="lefft")  # type: ignore[arg-type]


# -- what happens ------------------------------------------------------------------------------------------------------


def test_queries_keys_and_residuals_are_the_references_and_values_are_not(
    model: StableDiffusion, said: Condition
) -> None:
    """Read by a second, inner tap: what comes out of the injected network after injection."""
    layers = [CONVOLUTION, *SD1_ATTENTION]
    x = batch()
    residuals: list[Tensor] = []
    with copying(model.unet, layers, 3):
        resnet = model.unet.get_submodule(CONVOLUTION)
        after = resnet.conv2.register_forward_hook(lambda _m, _i, out: residuals.append(out))  # runs after ours
        own = values(model, lambda: model.predict(x, 500, said))
        after.remove()
    assert_close(residuals[0][1], residuals[0][0])
    assert_close(residuals[0][2], residuals[0][0])
    for name in SD1_ATTENTION:
        assert (own[name][1] - own[name][0]).abs().max() > 1e-4
        assert (own[name][1] - own[name][2]).abs().max() > 1e-6


@pytest.mark.parametrize("layers", [[CONVOLUTION], SD1_ATTENTION[:1], SD1_ATTENTION, [CONVOLUTION, *SD1_ATTENTION]])
def test_given_features_do_what_copying_does(model: StableDiffusion, said: Condition, layers: list[str]) -> None:
    x = batch()
    with copying(model.unet, layers, 3):
        together = model.predict(x, 500, said)
    features = read(model, x[:1], 500, said[:1], layers)
    assert list(features) == sorted(layers, key=[CONVOLUTION, *SD1_ATTENTION].index)
    with injecting(model.unet, features):
        alone = model.predict(x[1:], 500, said[1:])
    assert_close(alone, together[1:], atol=1e-5, rtol=1e-4)
    assert (alone - model.predict(x[1:], 500, said[1:])).abs().max() > 1e-4


def test_the_references_stream_is_left_alone(model: StableDiffusion, said: Condition) -> None:
    x = batch()
    with copying(model.unet, SD1_ATTENTION, 3):
        together = model.predict(x, 500, said)
    assert_close(together[:1], model.predict(x[:1], 500, said[:1]), atol=1e-5, rtol=1e-4)


def test_several_pictures_keep_their_own_reference(model: StableDiffusion, said: Condition) -> None:
    references, own = batch(1, 2), batch(2, 4)
    features = read(model, references, 300, said[[0, 0]], [CONVOLUTION, *SD1_ATTENTION])
    with injecting(model.unet, features):
        together = model.predict(own, 300, said[[1, 1, 2, 2]])
    for row in range(2):
        single = {name: tuple(part[row : row + 1] for part in parts) for name, parts in features.items()}
        with injecting(model.unet, single):
            assert_close(together[row::2], model.predict(own[row::2], 300, said[1:]), atol=1e-5, rtol=1e-4)


def test_reading_stops_at_the_last_layer(model: StableDiffusion, said: Condition) -> None:
    ran: list[str] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, _o, at=at: ran.append(at))
        for at, block in enumerate(model.unet.up_blocks)
    ]
    read(model, batch(rows=1), 500, said[:1], [CONVOLUTION])
    for handle in handles:
        handle.remove()
    assert ran == [0]


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (12, 5)])
def test_a_full_mask_is_no_mask_and_an_empty_one_no_injection(
    model: StableDiffusion, said: Condition, size: tuple[int, int]
) -> None:
    layers, x = [CONVOLUTION, *SD1_ATTENTION], batch(size=size)
    features = read(model, x[:1], 500, said[:1], layers)

    def drawn(mask: Tensor | None) -> Tensor:
        with injecting(model.unet, features, mask):
            return model.predict(x[1:], 500, said[1:])

    assert_close(drawn(torch.ones(5, 3)), drawn(None), atol=1e-5, rtol=1e-4)
    assert_close(drawn(torch.zeros(5, 3)), model.predict(x[1:], 500, said[1:]), atol=1e-5, rtol=1e-4)


def test_halves_split_at_the_floor() -> None:
    for width in (4, 5):
        left, right = mask_on("left", 2, width), mask_on("right", 2, width)
        assert left[0].tolist() == [1.0] * 2 + [0.0] * (width - 2)
        assert torch.equal(left + right, torch.ones(2, width))
    assert mask_on("top", 3, 2)[:, 0].tolist() == [1, 0, 0]
    assert mask_on("bottom", 3, 2)[:, 0].tolist() == [0, 1, 1]


def test_masks_take_each_layers_true_grid(
    model: StableDiffusion, said: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide picture whose tokens could also be a square one."""
    from tastemaker.generate import inject

    grids: list[tuple[int, int]] = []
    real = inject.mask_on
    monkeypatch.setattr(inject, "mask_on", lambda mask, h, w: grids.append((h, w)) or real(mask, h, w))
    x = batch(size=(4, 16))
    features = read(model, x[:1], 500, said[:1], [CONVOLUTION, *SD1_ATTENTION])
    with injecting(model.unet, features, "left"):
        model.predict(x[1:], 500, said[1:])
    assert set(grids) == {(1, 4), (2, 8), (4, 16)}


def test_soft_masks_average_over_cells() -> None:
    mask = torch.zeros(4, 4)
    mask[0, 0] = 1
    assert mask_on(mask, 2, 2).tolist() == [[0.25, 0], [0, 0]]
    assert mask_on(torch.ones(1, 1), 3, 5).shape == (3, 5)


# -- nothing stays -----------------------------------------------------------------------------------------------------


def untouched(model: StableDiffusion) -> bool:
    processors = {type(processor) for processor in model.unet.attn_processors.values()}
    hooks = [hook for module in model.unet.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return processors == {AttnProcessor2_0} and not hooks


def test_everything_is_gone_on_exit(model: StableDiffusion, said: Condition) -> None:
    layers, x = [CONVOLUTION, *SD1_ATTENTION], batch()
    before = model.predict(x, 500, said)
    features = read(model, x[:1], 500, said[:1], layers)
    assert untouched(model)
    managers: list[AbstractContextManager[object]] = [
        copying(model.unet, layers, 3),
        capturing(model.unet, layers),
        injecting(model.unet, features),
        injecting(model.unet, features, "left"),
    ]
    for manager in managers:
        with pytest.raises(KeyboardInterrupt), manager:  # noqa: PT012
            model.predict(x, 500, said)
            raise KeyboardInterrupt
        assert untouched(model)
    assert torch.equal(model.predict(x, 500, said), before)


def test_everything_is_gone_when_the_network_itself_fails(model: StableDiffusion, said: Condition) -> None:
    with pytest.raises(RuntimeError), copying(model.unet, [CONVOLUTION, *SD1_ATTENTION], 3):
        model.predict(batch(), 500, Condition(said.tokens[..., :3]))
    assert untouched(model)


def test_everything_is_gone_when_a_layer_is_unknown(model: StableDiffusion) -> None:
    with pytest.raises(AttributeError), copying(model.unet, [*SD1_ATTENTION, "nowhere"], 3):
        pass
    assert untouched(model)
