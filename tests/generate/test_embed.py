import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.evaluate.images.picture import content_hash
from tastemaker.generate.embed import Encoder
from tests.evaluate.images import tiny

TEXTS = ["a red apple", "the blue cat", "", "a dog on the left"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.load(folder)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_everything_comes_from_the_folder(encoder):
    assert (encoder.dim, encoder.max_length, encoder.prepared.size) == (12, 16, 32)
    assert encoder.prepared.mean == (0.4, 0.5, 0.6)
    assert encoder.scale == pytest.approx(np.exp(2.6592))
    assert encoder.name == "clip (CLIP, 12 dimensions, 32 px)"


def test_texts_are_what_the_model_says(encoder, folder):
    found = encoder.embed_texts(TEXTS, batch=3)
    assert found.vectors.dtype == np.float32
    assert found.ids == tuple(TEXTS)
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")  # the padding must not matter
    with torch.no_grad():
        raw = CLIPModel.from_pretrained(folder).get_text_features(input_ids=tokens["input_ids"]).pooler_output.numpy()
    assert found.vectors == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (50, 70), (70, 50), (33, 100), (20, 25)])
def test_a_crop_is_prepared_as_the_models_own_processor_does(encoder, folder, shape):
    """The reference rounds nothing differently: all values agree to float precision."""
    (pixels,) = tiny.noise(1, height=shape[0], width=shape[1])
    reference = CLIPImageProcessorPil.from_pretrained(folder)(Image.fromarray(pixels), return_tensors="np")
    assert encoder.prepare(pixels, "crop") == pytest.approx(np.asarray(reference["pixel_values"])[0], abs=1e-5)


def test_a_squash_is_pillows_bicubic(encoder):
    (pixels,) = tiny.noise(1, height=50, width=90)
    square = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    expected = (square - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    assert encoder.prepare(pixels, "squash") == pytest.approx(expected.transpose(2, 0, 1), abs=1e-5)


def test_batches_do_not_matter_and_ids_are_content(encoder):
    pictures = tiny.noise(5, width=70)
    one, all_ = (encoder.embed_pictures(pictures, batch=batch) for batch in (1, 32))
    assert one.vectors == pytest.approx(all_.vectors, abs=1e-5)
    assert one.ids == tuple(content_hash(picture) for picture in pictures)
    assert np.linalg.norm(one.vectors, axis=1) == pytest.approx(1)
    named = encoder.embed_pictures([Image.fromarray(p) for p in pictures], ids=list("abcde"))
    assert named.at(["c"])[0] == pytest.approx(one.vectors[2], abs=1e-5)


def test_a_cache_knows_content_preparation_and_model(encoder, tmp_path):
    pictures = tiny.noise(3, width=70)
    cache = {}
    first = encoder.embed_pictures(pictures, cache=cache)
    assert len(cache) == 3
    marked = {key: np.roll(row, 1) for key, row in cache.items()}
    again = encoder.embed_pictures(pictures[::-1], cache=marked)  # nothing is computed again
    assert again.vectors == pytest.approx(np.roll(first.vectors[::-1], 1, axis=1))
    assert encoder.embed_pictures(pictures, fit="squash", cache=cache).vectors != pytest.approx(first.vectors)
    encoder.embed_texts(TEXTS, cache=cache)
    assert len(cache) == 10
    other = Encoder.load(tiny.clip_folder(tmp_path / "other", seed=1))
    other.embed_pictures(pictures, cache=cache)
    assert len(cache) == 13


def test_the_same_picture_twice_is_computed_once(encoder):
    (pixels,) = tiny.noise(1)
    cache = {}
    found = encoder.embed_pictures([pixels, pixels.copy()], cache=cache)
    assert len(cache) == 1
    assert (found.vectors[0] == found.vectors[1]).all()


def test_nothing_gives_nothing(encoder):
    assert encoder.embed_pictures([]).vectors.shape == (0, 12)
    assert encoder.embed_texts([]).vectors.shape == (0, 12)


def test_long_texts_lose_their_end_with_a_warning(encoder):
    start = "a red apple on the left of a blue cat on a dog of"  # 14 tokens, begin and end make 16
    assert len(encoder.tokenizer(start)["input_ids"]) == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = encoder.embed_texts([start])
    with pytest.warns(UserWarning, match="1 of 2 texts have more than 16 tokens"):
        long = encoder.embed_texts(["a cat", start + " red apple" * 2000])
    assert long.vectors[1] == pytest.approx(short.vectors[0], abs=1e-5)


def test_a_tokenizer_without_a_limit_gets_the_encoders(copy):
    path = copy / "tokenizer_config.json"
    facts = json.loads(path.read_text())
    facts.pop("model_max_length")
    path.write_text(json.dumps(facts))
    assert Encoder.load(copy).max_length == 16


def test_a_processor_config_will_do(copy):
    facts = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": facts}))
    assert Encoder.load(copy).prepared.std == (0.2, 0.25, 0.3)


def test_bad_folders(copy, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Encoder.load(tmp_path / "absent")
    with pytest.raises(DataError, match="expected 'clip'"):
        Encoder.load(tiny.vit_folder(tmp_path / "vit", size=32))
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").rename(tmp_path / "kept")
    (copy / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"pytorch_model.bin.*can run code"):
        Encoder.load(copy)
    (copy / "model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:5000])
    with pytest.raises(DataError):
        Encoder.load(copy)
    tensors.pop("visual_projection.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"missing.*visual_projection"):
        Encoder.load(copy)


def test_parts_that_do_not_fit(copy):
    path = copy / "preprocessor_config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"crop_size": {"height": 48, "width": 48}}))
    with pytest.raises(DataError, match="48 pixels for a model of 32"):
        Encoder.load(copy)
    path.write_text(json.dumps({"size": 32}))
    with pytest.raises(DataError, match="image_mean"):
        Encoder.load(copy)
    path.unlink()
    with pytest.raises(DataError, match="no preprocessor_config"):
        Encoder.load(copy)
    path.write_text(json.dumps(facts))
    words = copy / "tokenizer_config.json"
    words.write_text(json.dumps(json.loads(words.read_text()) | {"model_max_length": 77}))
    with pytest.raises(DataError, match="77 a text"):
        Encoder.load(copy)


def test_bad_input(encoder):
    with pytest.raises(InvalidArgument, match="list of texts"):
        encoder.embed_texts("a cat")
    with pytest.raises(InvalidArgument, match="list of texts"):
        encoder.embed_texts(["a cat", None])
    with pytest.raises(InvalidArgument, match="list of pictures"):
        encoder.embed_pictures(tiny.noise(1)[0])
    with pytest.raises(InvalidArgument, match="2 ids for 1"):
        encoder.embed_pictures(tiny.noise(1), ids=["a", "b"])
    with pytest.raises(InvalidArgument, match="batch=0"):
        encoder.embed_pictures(tiny.noise(1), batch=0)
    with pytest.raises(DataError, match="read the file first"):
        encoder.embed_pictures(["apple.png"])
