"""The recipe that trains the embedded models, without its artwork: made-up drawings stand in for the packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from recipes.zoo import artwork, measure, models, scenes, ship, tint, train
from recipes.zoo.pool import Pool
from tastemaker.generate.inject import layer_map

NAMES = list(artwork.SUBJECTS)


def drawings(subjects: int = 6) -> dict[str, np.ndarray]:
    """Discs of as many colours, in every set."""
    y, x = np.mgrid[: artwork.SIDE, : artwork.SIDE] - artwork.SIDE / 2
    inside = (x**2 + y**2 < (artwork.SIDE / 2) ** 2).astype(np.uint8) * 255
    colours = np.random.default_rng(1).integers(256, size=(subjects, 3))
    art = np.zeros((subjects, artwork.SIDE, artwork.SIDE, 4), np.uint8)
    art[..., :3], art[..., 3] = colours[:, None, None], inside
    return dict.fromkeys(artwork.PACKAGES, art)


def test_every_word_of_the_captions_is_one_token(tmp_path: Path) -> None:
    tokenizer = models.tokenizer(NAMES)
    for word in [*NAMES, *map(scenes.plural, NAMES), *scenes.WORDS]:
        assert len(tokenizer.tokenize(word)) == 1, word
    assert tokenizer.eos_token_id != 2  # transformers would then look for the largest id
    tokenizer.save_pretrained(tmp_path)
    text = "two zebras left of an apple, riso style"
    assert type(tokenizer).from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_the_longest_caption_fits() -> None:
    tokenizer, rng = models.tokenizer(NAMES), np.random.default_rng(0)
    longest = max(len(tokenizer(f"{scenes.sample(NAMES, rng).caption}, sticker style").input_ids) for _ in range(500))
    assert longest <= models.TOKENS


def test_the_published_injection_map_applies() -> None:
    attention, convolution = layer_map(models.unet())
    assert len(attention) == 8
    assert list(convolution) == ["up_blocks.1.resnets.1"]


def test_text_encoder_starts_as_the_joint_encoders_tower() -> None:
    torch.manual_seed(0)
    tokenizer = models.tokenizer(NAMES[:5])
    joint = models.encoder(tokenizer).eval()
    ids = train.tokens(tokenizer, ["a dog", "two cats on a red background"])
    with torch.no_grad():
        alone = models.text_encoder(joint).eval()(ids).last_hidden_state
        torch.testing.assert_close(alone, joint.text_model(ids).last_hidden_state)


@pytest.mark.parametrize("style", scenes.STYLES)
def test_scenes_are_drawn_alike_from_one_seed(style: str) -> None:
    art, names = drawings(), NAMES[:6]
    first, again = (
        [scenes.render(scenes.sample(names, rng), style, art, rng) for _ in range(5)]
        for rng in (np.random.default_rng(4), np.random.default_rng(4))
    )
    assert all(picture.shape == (scenes.PICTURE, scenes.PICTURE, 3) for picture in first)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_relations_put_the_first_subject_where_they_say() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        scene = scenes.sample(NAMES, rng)
        for relation in scenes.RELATIONS:
            if f" {relation} " in scene.caption:
                seen.add(relation)
                (x0, y0, _), (x1, y1, _) = scene.boxes
                first, second = (x0, x1) if relation in ("left of", "right of") else (y0, y1)
                assert (first < 0.5 < second) if relation in ("left of", "above") else (second < 0.5 < first)
    assert seen == set(scenes.RELATIONS)


class Redness(nn.Module):
    """A reader that tells red, 0, from blue, 1, and is the surer the more of it it sees."""

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        red, _, blue = pictures.mean((2, 3)).T
        return (9 * torch.stack([red - blue, blue - red], 1),)


@pytest.mark.parametrize(
    ("relation", "red", "blue"),
    [("above", (20, 2), (8, 36)), ("right of", (36, 4), (4, 30)), ("left of", (4, 30), (38, 12))],
)
def test_two_subjects_are_read_each_in_its_half(relation: str, red: tuple[int, int], blue: tuple[int, int]) -> None:
    picture = np.full((scenes.PICTURE, scenes.PICTURE, 3), 128, np.uint8)
    for channel, (x, y) in ((0, red), (2, blue)):
        picture[y : y + 24, x : x + 24, channel] = 255
    assert measure.placed(Redness(), Image.fromarray(picture), relation) == [0, 1]  # type: ignore[arg-type]


class Asked(nn.Module):
    """A reader of colours that sees these classes in turn."""

    def __init__(self, tints: list[str], grounds: list[str]) -> None:
        super().__init__()
        names = (tints, list(tint.TINTS)), (grounds, [*scenes.GROUNDS, "own"])
        self.logits = tuple(
            torch.tensor([[float(name == other) for other in among] for name in seen]) for seen, among in names
        )

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        return self.logits


def test_a_bare_ground_is_read_as_its_style_paints_it() -> None:
    asked = [("red", None), ("blue", "green"), ("red", "white")]
    pictures = torch.zeros(3, 3, scenes.PICTURE, scenes.PICTURE)
    seen = Asked(["red", "blue", "blue"], ["white", "green", "white"])
    assert measure._coloured(seen, "base", pictures, asked) == pytest.approx((2 / 3, 1))  # type: ignore[arg-type]
    assert measure._coloured(seen, "clay", pictures, asked) == pytest.approx((2 / 3, 2 / 3))  # type: ignore[arg-type]
    assert measure._coloured(seen, "ink", pictures, asked) == (None, None)  # type: ignore[arg-type]


def test_readers_learn_what_is_shown(tmp_path: Path) -> None:
    art, rng = drawings(3), np.random.default_rng(0)
    drawn = [scenes.sample(NAMES[:3], rng) for _ in range(40)]
    shown = [
        Pool(np.stack([scenes.render(scene, style, art, rng) for scene in drawn]), drawn, style)
        for style in ("base", "neon")
    ]
    plan = train.Plan(tmp_path / "reader", steps=60, batch=16, rate=2e-3)
    reader = measure.teach(shown, 3, plan)
    colours = measure.teach_colours(shown, replace(plan, folder=tmp_path / "colours"))
    for found in shown:
        told = measure.ceiling(reader, colours, found, range(40))
        assert told.style > 0.9
        assert told.ground is not None
        assert told.ground > 0.3  # of ten


def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    def part() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    def loss_of(model: nn.Module, stop: int | None) -> object:
        def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
            if step == stop:
                raise KeyboardInterrupt
            return model(torch.randn(4, 3, generator=generator)).square().mean()

        return loss

    plan = train.Plan(tmp_path / "whole", steps=12, batch=4, rate=1e-2, warm=3, save_seconds=0)
    model = part()
    whole = train.Running(plan, {"part": model}).run(loss_of(model, None))
    broken = replace(plan, folder=tmp_path / "broken")
    model = part()
    with pytest.raises(KeyboardInterrupt):
        train.Running(broken, {"part": model}).run(loss_of(model, 7))
    model = part()
    running = train.Running(broken, {"part": model})
    assert running.step == 7
    resumed = running.run(loss_of(model, None))
    for name, value in whole["part"].items():
        assert torch.equal(value, resumed["part"][name])


def test_a_small_autoencoder_and_denoiser_learn(tmp_path: Path) -> None:
    """The whole chain at toy length: losses fall, and what comes out draws."""
    names, art, rng = NAMES[:3], drawings(3), np.random.default_rng(0)
    drawn = [scenes.sample(names, rng) for _ in range(24)]
    pictures = np.stack([scenes.render(scene, "base", art, rng) for scene in drawn])
    torch.manual_seed(0)
    vae, unet, tokenizer = models.vae(), models.unet(), models.tokenizer(names)
    before = _error(vae, pictures)
    train.train_vae(vae, pictures, train.Plan(tmp_path / "vae", steps=20, batch=8, rate=3e-3, warm=2, average=0.5))
    assert _error(vae, pictures) < before
    back = train.decoded(vae, pictures, "cpu", batch=10)
    assert (back.shape, back.dtype) == (pictures.shape, np.uint8)
    apart = [np.abs(pictures.astype(float) - np.roll(back, shift, 0)).mean() for shift in range(3)]
    assert np.argmin(apart) == 0  # its own picture, in its place
    text = models.text_encoder(models.encoder(tokenizer))
    captions = train.tokens(tokenizer, [scene.caption for scene in drawn])
    plan = train.Plan(tmp_path / "base", steps=2, batch=4, rate=1e-3, noisy=0.6)
    start = {name: value.clone() for name, value in unet.state_dict().items()}
    latents = train.encode(vae, pictures, "cpu")
    empty = train.tokens(tokenizer, [""])
    train.train_denoiser(
        unet, text, models.scheduler(), latents, captions, empty, lambda _: np.arange(4), plan, teach_text=True
    )
    assert any(not torch.equal(value, start[name]) for name, value in unet.state_dict().items())


def test_from_a_share_of_the_steps_on_every_kind_of_scene_has_its_part_of_a_batch(tmp_path: Path) -> None:
    plan, kinds = train.Plan(tmp_path, steps=10, batch=8, rate=1.0), (np.array([100, 200]), np.array([300]))
    early, late = (train.rows(plan, step, 50, kinds, 0.5) for step in (4, 5))
    assert early.max() < 50
    assert set(late[::3]) <= {100, 200}
    assert set(late[1::3]) == {300}
    assert late[2::3].max() < 50
    assert (train.rows(plan, 4, 50) == early).all()


def test_a_named_colour_is_the_subjects_and_leaves_the_ground_alone() -> None:
    art, rng, seen = drawings(), np.random.default_rng(2), 0
    for _ in range(60):
        scene = scenes.sample(NAMES[:6], rng)
        picture = scenes.render(scene, "base", art, rng).astype(float)
        ground = np.array(scenes.GROUNDS[scene.ground or "white"])
        assert np.abs(picture[0, 0] - ground).max() < 16
        if scene.tint and len(scene.subjects) == 1:
            assert scene.caption.startswith(scenes.article(f"{scene.tint} {NAMES[scene.subjects[0]]}"))
            x, y = (round(at * scenes.PICTURE) for at in scene.boxes[0][:2])
            assert np.abs(picture[y, x] - np.array(tint.TINTS[scene.tint])).max() < 40
            seen += 1
    assert seen > 5


def test_a_tinted_drawing_keeps_its_shape_its_shades_and_its_other_colours() -> None:
    drawing = np.zeros((30, 30, 4), np.uint8)
    drawing[5:25, 5:25] = (200, 30, 30, 255)
    drawing[15:25, 5:25, :3] = (120, 15, 15)  # in the shade
    drawing[5:8, 5:25, :3] = (30, 160, 40)  # a leaf
    blue = tint.tinted(drawing, "blue")
    assert (blue[..., 3] == drawing[..., 3]).all()
    assert (blue[5:8, 5:25] == drawing[5:8, 5:25]).all()
    light, shade = blue[10, 10, :3].astype(int), blue[20, 10, :3].astype(int)
    assert light[2] > shade[2]
    assert light.argmax() == shade.argmax() == 2


def test_what_has_no_hue_is_tinted_where_it_is_pale() -> None:
    drawing = np.zeros((30, 30, 4), np.uint8)
    drawing[5:25, 5:25] = (240, 240, 240, 255)
    drawing[10:14, 10:14, :3] = 10  # an eye
    red = tint.tinted(drawing, "red")
    assert red[20, 20, 0] > 2 * red[20, 20, 1]
    assert (red[10:14, 10:14] == drawing[10:14, 10:14]).all()


def test_relations_are_first_taught_one_way_round(tmp_path: Path) -> None:
    plan, forth, back = train.Plan(tmp_path, steps=10, batch=32, rate=1.0), np.array([100]), np.array([200])
    early, late = (train.relation_rows(plan, step, 50, forth, back, 0.5) for step in (4, 5))
    assert [(early == 100).sum(), (early == 200).sum()] == [21, 3]
    assert [(late == 100).sum(), (late == 200).sum()] == [14, 10]


def _error(vae: nn.Module, pictures: np.ndarray) -> float:
    real = train.to_unit(pictures, "cpu")
    with torch.no_grad():
        return float((vae.decode(vae.encode(real).latent_dist.mean).sample - real).abs().mean())


def test_processes_that_share_a_batch_learn_what_one_would(tmp_path: Path) -> None:
    def learned(folder: str, parts: int, hands: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)

        def loss(step: int, generator: torch.Generator, part: int) -> Tensor:
            return model(torch.randn(8, 3, generator=generator)[part::parts]).square().mean()

        plan = train.Plan(tmp_path / folder, steps=9, batch=8, rate=1e-2, warm=3, parts=parts, hands=hands)
        return train.Running(plan, {"part": model}).run(loss)["part"]

    alone, shared, again = learned("alone", 1, 1), learned("shared", 4, 2), learned("again", 4, 2)
    for name, value in alone.items():
        assert torch.allclose(value, shared[name], atol=1e-6)
        assert torch.equal(shared[name], again[name])


def test_what_ships_forgets_where_it_was_made(tmp_path: Path) -> None:
    unet = models.unet()
    unet.register_to_config(_name_or_path=str(tmp_path))
    unet.save_pretrained(tmp_path / "made" / "unet")
    ship.copy(tmp_path / "made", tmp_path / "shipped")
    assert str(tmp_path) in (tmp_path / "made" / "unet" / "config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "shipped" / "unet" / "config.json").read_text()
    assert type(unet).from_pretrained(tmp_path / "shipped" / "unet").config.block_out_channels
    for file in ship.ROOT.rglob("config.json"):
        assert "_name_or_path" not in file.read_text(), file


def test_what_ships_is_read_in_full_precision(tmp_path: Path) -> None:
    text = models.text_encoder(models.encoder(models.tokenizer(["cat"]))).half()
    text.save_pretrained(tmp_path / "made" / "text_encoder")
    ship.copy(tmp_path / "made", tmp_path / "shipped")
    read = type(text).from_pretrained(tmp_path / "shipped" / "text_encoder")
    assert {tensor.dtype for tensor in read.parameters()} == {torch.float32}
