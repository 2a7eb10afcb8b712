import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tastemaker.errors import DataError
from tastemaker.evaluate.images.distribution import features, fid
from tastemaker.evaluate.images.inception import Inception, _run


def shapes():
    """Of every tensor, by name."""
    found = {}

    def noted(x, name, channels, kernel, stride=1, same=True):
        found[f"{name}.conv.weight"] = (channels, x.shape[1], *kernel)
        found.update({f"{name}.bn.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        return torch.nn.functional.conv2d(x, x.new_empty(found[f"{name}.conv.weight"]), stride=stride, padding=padding)

    last = _run(torch.empty((1, 3, 299, 299), device="meta"), noted)
    assert last.shape == (1, 2048, 8, 8)
    return found


def seeded():
    """Weights from a seed, tensors in the order of their names."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in sorted(shapes().items()):
        if name.endswith("conv.weight"):
            value = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith(("running_var", "bn.weight")):
            value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            value = 0.1 * rng.standard_normal(shape, np.float32)
        found[name] = value.astype(np.float32)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(seeded() | {"fc.weight": np.zeros((4, 2048), np.float32)}, path)  # what comes later is left
    return path


def pictures():
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(2))
    return [first, second // 2]


def test_the_network_has_inception_s_21_785_568_parameters():
    assert sum(np.prod(shape) for name, shape in shapes().items() if "running" not in name) == 21_785_568


def test_features_are_those_of_an_independent_network(file):
    """torch-fidelity 0.4.0's, given the same weights and, in place of its own resizing, the same input."""
    found = Inception.load(file).features(pictures())
    assert found.shape == (2, 2048)
    np.testing.assert_allclose(found.mean(1), [5.890692, 3.945934], rtol=1e-4)
    np.testing.assert_allclose(found.std(1), [8.520572, 5.691633], rtol=1e-4)
    some = found[:, [0, 500, 1000, 1500, 2047]]
    expected = [
        [0.26418465, 0.07729734, 11.980045, 1.3433757, 0.54236925],
        [0.39945745, 0, 7.646298, 0.7699375, 0.2522198],
    ]
    np.testing.assert_allclose(some, expected, rtol=1e-3, atol=1e-4)


def test_fid_by_inception_is_zero_for_equal_sets_and_resamples_as_the_paper_when_asked(file):
    extractor = Inception.load(file)
    plain, published = (features(pictures(), extractor, paper=paper) for paper in (False, True))
    assert fid(plain, plain[::-1]) < 1e-3
    assert fid(plain, published) > 1  # two resamplings are not one


def test_no_pictures_have_no_features(file):
    assert Inception.load(file).features([]).shape == (0, 2048)


def test_a_missing_or_wrong_tensor_is_named(file, tmp_path):
    weights = seeded()
    wrong = tmp_path / "wrong.safetensors"
    save_file({name: value for name, value in weights.items() if name != "Mixed_7c.branch_pool.bn.bias"}, wrong)
    with pytest.raises(DataError, match=r"'Mixed_7c.branch_pool.bn.bias' is absent; expected \(192,\)"):
        Inception.load(wrong)
    save_file(weights | {"Mixed_6b.branch7x7_2.conv.weight": np.zeros((128, 128, 7, 1), np.float32)}, wrong)
    with pytest.raises(DataError, match=r"\(128, 128, 7, 1\); expected \(128, 128, 1, 7\)"):
        Inception.load(wrong)
    with pytest.raises(DataError, match="pickled weights can run code"):
        Inception.load(tmp_path / "pt_inception-2015-12-05.pth")
