import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ViTModel

from tastemaker.errors import DataError, InvalidArgument, UnknownName
from tastemaker.evaluate.images.structure import edge_structure, self_similarity, structure_distance
from tastemaker.evaluate.images.vit import ViT
from tests.evaluate.images.tiny import clip_folder, noise, scene


def test_equal_pictures_are_at_distance_zero_with_785_tokens(vit):
    pictures = noise(2)
    assert vit.keys(pictures[0]).shape == (785, 16)
    assert structure_distance(pictures, pictures, vit).values == pytest.approx(0, abs=1e-12)


def test_the_definition_head_by_head(vit, vit_folder):
    """Keys by the model's own parts, one head after the other, cosines by loops over a few tokens."""
    a, b = noise(2, height=224, width=224)  # no resize, so that only the transformer is tested
    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()

    def keys(pixels):
        x = torch.from_numpy(pixels / 255.0).permute(2, 0, 1)[None].float()
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        last = model.layers[-1]
        with torch.no_grad():
            before = model(x, output_hidden_states=True).hidden_states[-2]
            heads = last.attention.k_proj(last.layernorm_before(before)).view(785, 2, 8)
        return torch.cat([heads[:, 0], heads[:, 1]], 1).numpy().astype(float)

    similar = []
    for pixels in (a, b):
        assert vit.keys(pixels) == pytest.approx(keys(pixels), abs=1e-4)
        similar.append(self_similarity(keys(pixels)))
    k = keys(a)
    for i, j in ((0, 0), (0, 784), (17, 400)):
        assert similar[0][i, j] == pytest.approx(k[i] @ k[j] / np.sqrt((k[i] @ k[i]) * (k[j] @ k[j])))
    expected = ((similar[0] - similar[1]) ** 2).sum() / 785**2
    assert structure_distance([a], [b], vit).values[0] == pytest.approx(expected, rel=1e-3)


def test_moving_costs_more_than_a_little_noise(vit):
    pictures = [scene(seed) for seed in range(3)]
    shifted = [np.roll(picture, 20, axis=1) for picture in pictures]
    rng = np.random.default_rng(0)
    noisy = [np.clip(p + rng.normal(0, 2, p.shape), 0, 255).astype(np.uint8) for p in pictures]
    near, far = structure_distance(pictures, noisy, vit).values, structure_distance(pictures, shifted, vit).values
    assert (near < far).all()


def test_name_says_which_transformer(vit):
    assert "3 blocks, 16 dimensions, patch 8, 224 px" in structure_distance(noise(1), noise(1), vit).name


def test_folders_are_written_under_the_names_of_published_ones(vit_folder):
    """Published ViT folders call the key projection so; the loader must find it all the same."""
    assert "encoder.layer.2.attention.attention.key.weight" in load_file(vit_folder / "model.safetensors")


def test_the_short_side_way_keeps_the_aspect(vit_folder):
    by_side = ViT.load(vit_folder, resize="short side")
    wide = noise(1, height=60, width=90)[0]
    assert by_side.keys(wide).shape == (28 * 42 + 1, 16)  # 224 x 336
    assert by_side.keys(np.repeat(wide, 3, axis=1)).shape == (13 * 60 + 1, 16)  # 480 long, 480 * 224 // 1008 short
    assert by_side.keys(wide.transpose(1, 0, 2)).shape == (28 * 42 + 1, 16)
    with pytest.raises(InvalidArgument, match="tokens"):
        structure_distance([wide], noise(1), by_side)


def test_hooks_are_gone_also_after_an_error(vit):
    projection = vit.model.layers[-1].attention.k_proj
    vit.keys(noise(1)[0])
    with pytest.raises(DataError):
        vit.keys(np.zeros((2, 2)))
    assert not projection._forward_hooks


def test_bad_folders(tmp_path, vit_folder):
    with pytest.raises(DataError, match="no such folder"):
        ViT.load(tmp_path / "absent")
    with pytest.raises(UnknownName, match="squash"):
        ViT.load(vit_folder, resize="crop")
    with pytest.raises(DataError, match="expected 'vit'"):
        ViT.load(clip_folder(tmp_path / "clip"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((vit_folder / "config.json").read_text())
    with pytest.raises(DataError, match="no weights"):
        ViT.load(pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="convert"):
        ViT.load(pickled)
    tensors = load_file(vit_folder / "model.safetensors")
    tensors.pop("encoder.layer.2.attention.attention.key.weight")
    save_file(tensors, pickled / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="missing"):
        ViT.load(pickled)
    (pickled / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        ViT.load(pickled)


def test_edges_see_outlines_and_not_colours():
    pictures = [scene(seed) for seed in range(4)]
    assert edge_structure(pictures, pictures).values == pytest.approx(1)
    inverted = [255 - picture for picture in pictures]
    assert edge_structure(pictures, inverted).values == pytest.approx(1)
    inked = [scene(seed, "ink") for seed in range(4)]
    assert edge_structure(pictures, inked).values.mean() > edge_structure(pictures, inked[::-1]).values.mean() + 0.1


def test_edges_hardly_depend_on_the_number_of_pixels():
    pairs = [(scene(seed), scene(seed, "ink")) for seed in range(4)]
    large = [
        [np.asarray(Image.fromarray(p).resize((256, 256), Image.Resampling.LANCZOS)) for p in pair] for pair in pairs
    ]
    small, big = (edge_structure(*zip(*some, strict=True)).values for some in (pairs, large))
    assert small == pytest.approx(big, abs=0.08)


def test_edge_bad_input():
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert np.isnan(edge_structure([flat], [flat]).values[0])
    with pytest.raises(InvalidArgument, match="48 x 48 pixels, the result 96 x 48"):
        edge_structure(noise(1), noise(1, width=96))
    with pytest.raises(InvalidArgument, match="smoothing"):
        edge_structure([flat], [flat], smoothing=0)
    with pytest.raises(InvalidArgument, match="1 sources and 2 results"):
        edge_structure([flat], [flat, flat])
