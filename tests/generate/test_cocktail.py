"""The cocktail: faithful to what was published, the same when it is fast, and clear about what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tastemaker.errors import InvalidArgument
from tastemaker.generate import inject, mixer, zoo
from tastemaker.generate.cocktail import SURFACES, Cocktail, Settings, cocktail
from tastemaker.generate.denoiser import Condition, StableDiffusion, pairs
from tastemaker.generate.inject import Injection
from tastemaker.generate.invert import Cache, Inversion, invert
from tastemaker.generate.load import load, wear
from tastemaker.generate.picture import read_picture
from tests.generate import tiny
from tests.generate.tiny import photo

Models = Callable[[str], StableDiffusion]
FEW = Settings(steps=5)


def apart(ours: Cocktail, theirs: Cocktail) -> int:
    assert [len(row) for row in ours.pictures] == [len(row) for row in theirs.pictures]
    both = zip(sum(ours.pictures, ()), sum(theirs.pictures, ()), strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in both)


def mixed(models: Models, *, content: str = "sd1", style: str = "sd1-style", **more: Any) -> Cocktail:
    given = {"settings": FEW, "round_trip": False, "prompt": "a red apple", **more}
    return cocktail(photo(), content=models(content), style=models(style), **given)


# -- the fast path and the plain one -----------------------------------------------------------------------------------

WAYS = {
    "default": FEW,
    "odd steps": Settings(steps=7),
    "one step on": Settings(steps=3),
    "never injected": replace(FEW, injection=Injection(0, 0)),
    "always injected": replace(FEW, injection=Injection(1, 1)),
    "attention longer": replace(FEW, injection=Injection(0.8, 0.4)),
    "attention only": replace(FEW, injection=Injection(0.6, 0)),
    "a half": replace(FEW, injection=Injection(mask="left")),
    "a soft mask": replace(FEW, injection=Injection(mask=torch.linspace(0, 1, 35).reshape(5, 7))),
    "one layer": replace(FEW, injection=Injection(layers={"up_blocks.1.resnets.1": 0.6})),
    "no guidance": replace(FEW, guidance=1.0),
    "fewer steps": replace(FEW, steps=10, sampling_steps=5),
    "from half way": replace(FEW, strength=0.6),
    "bdia from half way": replace(FEW, strength=0.6, inversion=Inversion("bdia")),
    "edict": replace(FEW, inversion=Inversion("edict")),
    "bdia": replace(FEW, inversion=Inversion("bdia")),
    "published": replace(SURFACES["cli"], steps=5),
}


@pytest.mark.parametrize("way", WAYS)
def test_fast_is_plain(models: Models, way: str) -> None:
    fast, plain = (mixed(models, settings=WAYS[way], plain=plain) for plain in (False, True))
    assert apart(fast, plain) <= 1
    assert fast.record == plain.record


@pytest.mark.parametrize(("content", "style"), [("sd2", "sd2-style"), ("sdxl", "sdxl"), ("shallow", "shallow")])
def test_fast_is_plain_for_other_networks(models: Models, content: str, style: str) -> None:
    fast, plain = (mixed(models, content=content, style=style, plain=plain) for plain in (False, True))
    assert apart(fast, plain) <= 1


def test_several_pictures_and_styles_are_what_each_is_alone(models: Models) -> None:
    """Nine pictures are more rows than the reference stream takes at once."""
    pictures, prompts = [photo(seed) for seed in range(9)], ["a dog", "a red apple", "the cat"] * 3
    styles = [models("sd1-style"), models("sd1")]
    shared: dict[str, Any] = {"content": models("sd1"), "settings": FEW, "round_trip": False}
    together = cocktail(pictures, style=styles, prompt=prompts, **shared)
    assert [len(row) for row in together.pictures] == [9, 9]
    for number in (0, 8):
        alone = cocktail(pictures[number], style=styles, prompt=prompts[number], **shared)
        picked = replace(together, pictures=tuple((row[number],) for row in together.pictures))
        assert apart(picked, alone) <= 1


def test_the_cache_saves_calls_and_changes_nothing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = StableDiffusion.predict

    def counted(self: StableDiffusion, x: Tensor, t: int, said: Condition) -> Tensor:
        rows.append(len(x))
        return real(self, x, t, said)

    monkeypatch.setattr(StableDiffusion, "predict", counted)
    cache = Cache()
    fresh = mixed(models, prompt="a dog", inversion_prompt="a red apple")
    alone = sum(rows)
    mixed(models, cache=cache)
    rows.clear()
    cached = mixed(models, prompt="a dog", inversion_prompt="a red apple", cache=cache)
    assert apart(cached, fresh) == 0
    assert alone == 5 + 5 * 2 + 4  # inversion, two streams, references of the four steps that need them
    assert sum(rows) == 5 * 2


def test_the_plain_way_costs_what_was_published(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    real = StableDiffusion.predict
    monkeypatch.setattr(
        StableDiffusion, "predict", lambda self, x, t, said: rows.append(len(x)) or real(self, x, t, said)
    )
    mixed(models, plain=True)
    assert rows == [1] * 5 + [3] * 5


# -- faithful ----------------------------------------------------------------------------------------------------------


def test_the_published_loop_written_out(models: Models) -> None:
    """No code of ours but the network's hooks: order of streams, empty reference, start, guidance, step."""
    content, style = models("sd1"), models("sd1-style")
    how = replace(SURFACES["batch"], steps=4, guidance=7.5)
    result = cocktail(photo(), content=content, style=style, prompt="a red apple", settings=how, round_trip=False)
    said = content.condition(["a red apple", how.negative])
    c = Condition(3.0 * said.tokens[:1] - 1.0 * said.tokens[1:])
    pixels = torch.from_numpy(np.asarray(photo(), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    z = content.vae.encode(pixels).latent_dist.mean * content.vae.config["scaling_factor"]
    times = content.schedule.timesteps(4)
    stored = {}
    for t, s in reversed(pairs(times)):
        mu, sigma = content.schedule.alpha(t) ** 0.5, (1 - content.schedule.alpha(t)) ** 0.5
        below, under = content.schedule.alpha(s) ** 0.5, (1 - content.schedule.alpha(s)) ** 0.5
        noise = content.predict(z, t, c)
        z = mu * (z - under * noise) / below + sigma * noise
        stored[t] = z
    attention, convolution = inject.layer_map(style.unet)
    x, texts = stored[times[0]], style.condition(["", "a red apple", how.negative])
    for step, (t, s) in enumerate(pairs(times)):
        on = [*(attention if step < int(0.5 * 4) else ()), *(convolution if step < int(0.8 * 4) else ())]
        with inject.copying(style.unet, on, 3):
            _, wanted, unwanted = style.predict(torch.cat([stored[t], x, x]), t, texts).chunk(3)
        noise = unwanted + 7.5 * (wanted - unwanted)
        mu, sigma = style.schedule.alpha(t) ** 0.5, (1 - style.schedule.alpha(t)) ** 0.5
        below, under = style.schedule.alpha(s) ** 0.5, (1 - style.schedule.alpha(s)) ** 0.5
        x = below * (x - sigma * noise) / mu + under * noise
    drawn = style.decode(x)
    expected = ((drawn + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(result.picture, int) - expected.astype(int)).max() <= 1


def test_streams_share_queries_and_keys_until_the_ratio(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps: eight layers for five, the residual for eight. The values are always each stream's own."""
    seen: list[tuple[bool, bool, bool]] = []
    real = inject._written_out

    def spy(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        same = [bool(all(torch.equal(one[0], other) for other in one[1:])) for one in (query, key, value)]
        seen.append((same[0], same[1], same[2]))
        return real(query, key, value)

    monkeypatch.setattr(inject, "_written_out", spy)
    on: list[list[str]] = []
    copying = mixer.copying
    monkeypatch.setattr(
        mixer, "copying", lambda unet, names, *more: on.append(list(names)) or copying(unet, names, *more)
    )
    mixed(models, settings=Settings(steps=10), plain=True)
    assert [len(names) for names in on] == [9] * 5 + [1] * 3 + [0] * 2
    assert seen == [(True, True, False)] * (8 * 5)


def test_the_start_is_the_inverted_noise_and_nothing_is_random(models: Models) -> None:
    torch.manual_seed(1)
    first = mixed(models)
    torch.manual_seed(2)
    assert apart(first, mixed(models)) == 0


def test_floats_stay_floats(models: Models) -> None:
    base = mixed(models, settings=replace(FEW, guidance=7.0, beta=0.0))
    assert apart(base, mixed(models, settings=replace(FEW, guidance=7.5, beta=0.0))) > 0
    assert apart(base, mixed(models, settings=replace(FEW, guidance=7.0, beta=0.5))) > 0


def test_alpha_and_the_inversion_prompt_matter(models: Models) -> None:
    """They do not in an inversion that is the identity."""
    base = mixed(models)
    assert apart(base, mixed(models, settings=replace(FEW, alpha=3.0))) > 2
    assert apart(base, mixed(models, inversion_prompt="the blue dog")) > 2


def test_published_defaults() -> None:
    facts = {name: (how.steps, how.alpha, how.beta, how.guidance) for name, how in SURFACES.items()}
    assert facts == {
        "cli": (50, 2.0, 0.5, 15.0),
        "batch": (50, 3.0, 1.0, 7.5),
        "huggingface": (50, 3.0, 0.5, 15.0),
        "extension": (20, 5.0, 0.5, 7.0),
        "comfyui": (50, 2.0, 0.5, 15.0),
    }
    assert {name for name, how in SURFACES.items() if how.trigger_first} == {"huggingface"}
    assert {name for name, how in SURFACES.items() if how.lora_scale == 0.7} == {*SURFACES} - {"extension"}
    for how in SURFACES.values():
        assert (how.injection.attention, how.injection.convolution) == (0.5, 0.8)
        assert how.inversion.kind == "ddim"
        assert not how.even
    assert {name: how.prompt_by for name, how in SURFACES.items()} == {
        "cli": "content",
        "batch": "style",
        "huggingface": "content",
        "extension": "style",
        "comfyui": "content",
    }


def test_trigger_words(models: Models) -> None:
    ours = mixed(models, trigger="blue").record
    assert (ours["prompts"], ours["inversion_prompts"]) == (["a red apple, blue"], ["a red apple"])
    published = mixed(models, trigger="blue", settings=replace(SURFACES["batch"], steps=2)).record
    assert published["inversion_prompts"] == ["a red apple, blue"]
    demo = mixed(models, trigger="blue", settings=replace(SURFACES["huggingface"], steps=2)).record
    assert (demo["prompts"], demo["inversion_prompts"]) == (["blue, a red apple"], ["blue, a red apple"])


def test_sampling_steps_that_nest_and_that_do_not(models: Models) -> None:
    mixed(models, settings=replace(FEW, steps=10, sampling_steps=5))
    for steps, sampling in ((50, 40), (5, 10)):
        with pytest.raises(InvalidArgument, match="do not nest"):
            mixed(models, settings=replace(FEW, steps=steps, sampling_steps=sampling))
    with pytest.raises(InvalidArgument, match=r"3 sampling .* nest in 6 .* that nest: 1, 6$"):  # 3 divides 6
        mixed(models, settings=replace(FEW, steps=6, sampling_steps=3))


def test_less_strength_draws_the_last_steps_only(models: Models) -> None:
    cache = Cache()  # one for all: what is injected belongs to a time, not to the number of a step
    for strength, steps in ((0.01, 1), (0.4, 4), (0.7, 7), (1.0, 10)):
        told: list[tuple[str, int, int]] = []
        how = replace(FEW, steps=10, strength=strength)
        made = mixed(models, settings=how, cache=cache, on_step=lambda *step, told=told: told.append(step))
        assert told[-1] == ("drawing", steps, steps)
        assert apart(made, mixed(models, settings=how)) == 0
    for strength in (0, 1.1, float("nan")):
        with pytest.raises(InvalidArgument, match="strength"):
            replace(FEW, strength=strength)


def test_exact_inversion_without_injection_brings_the_picture_back(models: Models) -> None:
    """Same model, alpha 1, beta 0, guidance 1: drawing is the inversion backwards."""
    model = models("sd2")
    source = photo()
    how = Settings(steps=10, guidance=1.0, injection=Injection(0, 0), inversion=Inversion("edict"))
    back = cocktail(source, content=model, style=model, prompt="a red apple", settings=how, round_trip=True)
    latents = model.encode(torch.from_numpy(np.asarray(source, np.float32) / 127.5 - 1).permute(2, 0, 1)[None])
    decoded = ((model.decode(latents) + 1) * 127.5).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(back.picture, float) - decoded).max() <= 1
    assert back.round_trip is not None
    assert back.round_trip < 1e-3


def test_full_injection_into_the_same_model_brings_the_picture_back() -> None:
    """Same model, alpha 1, beta 0, guidance 1, all injected, and trained weights: 31.8 dB when this was written.

    The reference hears the empty prompt, so what is injected is not quite what was there: 35.8 dB without.
    """
    card = next(card for card in zoo.zoo() if card.source == "zoo/base")
    source = read_picture(card.folder / card.examples[0].file)
    model = load(card.folder, device="cpu")
    how = Settings(steps=50, guidance=1.0, injection=Injection(1, 1))
    back = cocktail(source, content=model, style=model, prompt=card.examples[0].prompt, settings=how, round_trip=False)
    error = np.square(np.asarray(back.picture, float) - np.asarray(back.sources[0], float)).mean()
    assert 10 * np.log10(255**2 / error) > 30


def test_injecting_what_is_there_changes_nothing(models: Models) -> None:
    """The reference is the own latent and the prompt is empty: drawn with and without injection alike."""
    model = models("sd1")
    said = model.condition(["", "", ""])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = invert(model, latents, said[:1], steps=4)
    for mask in (None, "left", torch.full((3, 3), 0.4)):
        one = mixer.Mixer(
            model, found, said, Settings(steps=4, injection=Injection(1, 1, mask=mask)), found.times, None, False
        )
        x = found.latents[found.times[0]]
        plain = model.predict(x, found.times[0], said[:1])
        assert (one.predict(x, found.times[0]) - plain).abs().max() < 1e-4


# -- regions -----------------------------------------------------------------------------------------------------------


def test_regions(models: Models) -> None:
    styles = [models("sd1-style"), models("sd1")]
    shared: dict[str, Any] = {"content": models("sd1"), "prompt": "a dog", "settings": FEW, "round_trip": False}
    alone = cocktail(photo(), style=styles[0], **shared)
    whole = cocktail(photo(), style=styles, regions=[None, torch.zeros(2, 2)], **shared)
    assert apart(whole, alone) <= 1
    halves = cocktail(photo(), style=styles, regions=["left", "right"], **shared)
    assert len(halves.pictures) == 1
    swapped = cocktail(photo(), style=styles, regions=["right", "left"], **shared)
    assert apart(halves, swapped) > 0
    masks = [torch.linspace(0.1, 0.9, 8).repeat(8, 1), torch.linspace(0.9, 0.1, 8).repeat(8, 1)]
    soft = [cocktail(photo(), style=styles, regions=order, **shared).record for order in (masks, masks[::-1])]
    records = [alone.record, halves.record, swapped.record, *soft]
    assert [record["regions"] for record in records[:3]] == [None, ["left", "right"], ["right", "left"]]
    assert soft[0]["regions"] == soft[1]["regions"][::-1]
    assert len({json.dumps(record) for record in records}) == 5
    plain = cocktail(photo(), style=styles, regions=["left", "right"], plain=True, **shared)
    assert apart(halves, plain) <= 1
    with pytest.raises(InvalidArgument, match="1 regions and 2 styles"):
        cocktail(photo(), style=styles, regions=["left"], **shared)
    with pytest.raises(InvalidArgument, match="to no style"):  # before the inversion
        cocktail(
            photo(), style=styles, regions=["left", "left"], **shared, on_step=lambda *_: pytest.fail("worked first")
        )


# -- results and refusals ----------------------------------------------------------------------------------------------


def test_the_result_tells_how_it_was_made(models: Models, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = mixed(
        models,
        round_trip=True,
        cache=Cache(tmp_path),
        on_step=lambda what, done, steps: told.append((what, done, steps)),
    )
    assert made.round_trip is not None
    assert made.seconds.keys() == {"inversion", "drawing"}
    assert told == [(what, step, 5) for what in ("inverting", "drawing") for step in range(1, 6)]
    record = json.loads(json.dumps(made.record))
    assert record["content"]["identity"] == models("sd1").identity
    assert record["injection"] == {"attention": 0.5, "convolution": 0.8, "layers": None, "mask": None}
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("size", "even", "fitted"), [((50, 40), True, (32, 32)), ((50, 40), False, (40, 32)), ((9, 90), True, (32, 320))]
)
def test_pictures_keep_their_aspect(models: Models, size: tuple[int, int], even: bool, fitted: tuple[int, int]) -> None:
    made = cocktail(
        photo(size=size), content=models("sd1"), style=models("sd1-style"), prompt="a dog",
        settings=Settings(steps=1, even=even), round_trip=False,
    )  # fmt: skip
    assert made.sources[0].size == fitted


def test_numbers_that_are_none_or_lead_nowhere(models: Models) -> None:
    for wrong in (
        {"guidance": float("inf")}, {"guidance": float("nan")}, {"alpha": float("nan")}, {"beta": float("inf")},
        {"lora_scale": float("nan")}, {"side": 0}, {"side": -5},
    ):  # fmt: skip
        (name,) = wrong
        with pytest.raises(InvalidArgument, match=f"{name} = .*; expected"):
            replace(FEW, **wrong)
    with pytest.raises(InvalidArgument, match=r"side = 5; .* sides of 32 pixels or more: take 32"):
        mixed(models, settings=replace(FEW, side=5))
    with pytest.raises(InvalidArgument, match=r"overflow with alpha 1e\+38"):
        mixed(models, settings=replace(FEW, alpha=1e38, guidance=1e38))
    with pytest.raises(InvalidArgument, match=r"steps = 1; .* take 2 or more"):
        mixed(models, content="sd2", style="sd2-style", settings=replace(FEW, steps=1))


def test_models_that_do_not_fit_are_refused_before_any_work(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("worked")

    for method in ("predict", "encode", "decode"):
        monkeypatch.setattr(StableDiffusion, method, no_work)
    with pytest.raises(InvalidArgument, match="do not share latents"):
        mixed(models, style="eight-channels")
    with pytest.raises(InvalidArgument, match="different noise schedules"):
        mixed(models, style="sd2")
    with pytest.raises(InvalidArgument, match="do not nest"):
        mixed(models, settings=Settings(steps=50, sampling_steps=40))
    for prompt in ("", "  "):
        with pytest.raises(InvalidArgument, match="blank"):
            mixed(models, prompt=prompt)
    with pytest.raises(InvalidArgument, match="1 pictures, 2 prompts"):
        mixed(models, prompt=["a", "b"])
    with pytest.raises(InvalidArgument, match="no style"):
        cocktail(photo(), content=models("sd1"), style=[], prompt="a dog")
    with pytest.raises(InvalidArgument, match="sizes"):
        cocktail([photo(), photo(size=(9, 9))], content=models("sd1"), style=models("sd1"), prompt="a dog")
    with pytest.raises(InvalidArgument, match="crop it"):
        cocktail(photo(size=(1, 3000)), content=models("sd1"), style=models("sd1"), prompt="a dog")
    for bad in ({"guidance": -1.0}, {"alpha": float("nan")}, {"beta": float("inf")}):
        with pytest.raises(InvalidArgument, match="expected"):
            Settings(**bad)


def test_a_lora_of_the_content_model_needs_a_network_of_its_own(models: Models, folder: Path) -> None:
    file = tiny.lora(folder / "lora")
    base = load(tiny.save("sd1", folder), device="cpu")
    with wear(base, [(file, 0.7)]) as dressed, pytest.raises(InvalidArgument, match="load the style"):
        cocktail(photo(), content=base, style=dressed, prompt="a dog", settings=FEW)
    style = load(tiny.save("sd1", folder), lora=[(file, 0.7)], device="cpu")
    made = cocktail(photo(), content=base, style=style, prompt="a dog", settings=FEW, round_trip=False)
    bare = cocktail(photo(), content=base, style=base, prompt="a dog", settings=FEW, round_trip=False)
    assert apart(made, bare) > 0
