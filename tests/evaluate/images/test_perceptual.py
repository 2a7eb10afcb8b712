import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from tastemaker.errors import DataError, InvalidArgument
from tastemaker.evaluate.images.perceptual import Squeeze, _shapes, lpips
from tests.evaluate.images.tiny import noise


class Fire(nn.Module):
    def __init__(self, given, squeezed, wide):
        super().__init__()
        self.squeeze = nn.Conv2d(given, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, wide, 1)
        self.expand3x3 = nn.Conv2d(squeezed, wide, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


def squeezenet():
    """SqueezeNet 1.1's features as modules, in the published order."""

    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )
    for weight in network.parameters():  # so that the picture, not the biases, decides deep inside
        (nn.init.kaiming_normal_ if weight.ndim > 1 else nn.init.zeros_)(weight)
    return network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    state = {f"features.{name}": value.numpy() for name, value in squeezenet().state_dict().items()}
    save_file(state, folder / "squeeze.safetensors")
    rng = np.random.default_rng(0)
    sizes = (64, 128, 256, 384, 384, 512, 512)
    learned = {f"lin{k}.model.1.weight": rng.random((1, n, 1, 1), np.float32) for k, n in enumerate(sizes)}
    save_file(learned, folder / "linear.safetensors")
    return folder


def test_the_definition_with_the_networks_own_modules(files):
    a, b = noise(2, height=40, width=56)
    backbone = Squeeze.load(files / "squeeze.safetensors", files / "linear.safetensors")
    network = squeezenet()
    ends = (2, 5, 8, 10, 11, 12, 13)

    def layers(pixels):
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
        with torch.no_grad():
            return [network[:end](x)[0].numpy() for end in ends]

    for found, expected in zip(backbone.layers(a), layers(a), strict=True):
        assert found.shape == expected.shape
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    total = 0.0
    for p, q, weight in zip(layers(a), layers(b), backbone.weights(), strict=True):
        places = []
        for y in range(p.shape[1]):
            for x in range(p.shape[2]):
                u, v = p[:, y, x].astype(float), q[:, y, x].astype(float)
                u, v = u / (np.sqrt(u @ u) + 1e-10), v / (np.sqrt(v @ v) + 1e-10)
                places.append(weight @ (u - v) ** 2)
        total += np.mean(places)
    found = lpips([a], [b], backbone)
    assert found.values[0] == pytest.approx(total, rel=1e-4)
    assert found.name == "lpips by SqueezeNet 1.1"


def test_equal_pictures_and_equal_regions_are_at_zero(files):
    backbone = Squeeze.load(files / "squeeze.safetensors", files / "linear.safetensors")
    a = noise(1)[0]
    b = a.copy()
    b[:, 24:] = 0
    kept = np.zeros((48, 48), bool)
    kept[:, :24] = True
    assert lpips([a], [a], backbone).values[0] == 0
    assert lpips([a], [b], backbone, masks=[kept]).values[0] == 0
    assert lpips([a], [b], backbone).values[0] > 0.01
    assert np.isnan(lpips([a], [b], backbone, masks=[np.zeros((48, 48), bool)]).values[0])


def test_without_learned_weights_the_name_says_so(files):
    backbone = Squeeze.load(files / "squeeze.safetensors")
    assert "not LPIPS" in lpips(noise(1), noise(1, seed=1), backbone).name


def test_bad_files_and_pictures(files, tmp_path):
    backbone = Squeeze.load(files / "squeeze.safetensors")
    with pytest.raises(InvalidArgument, match="17 x 17"):
        lpips(noise(1, height=16), noise(1, height=16), backbone)
    with pytest.raises(DataError, match="no such file"):
        Squeeze.load(tmp_path / "absent.safetensors")
    with pytest.raises(DataError, match="pickled"):
        Squeeze.load(tmp_path / "squeeze.pth")
    (tmp_path / "cut.safetensors").write_bytes((files / "squeeze.safetensors").read_bytes()[:1000])
    with pytest.raises(DataError, match="whole"):
        Squeeze.load(tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match=r"features.0.weight.*absent"):
        Squeeze.load(files / "linear.safetensors")
    with pytest.raises(DataError, match="lin0"):
        Squeeze.load(files / "squeeze.safetensors", files / "squeeze.safetensors")
    wrong = {name: np.zeros(shape, np.float32) for name, shape in _shapes().items()}
    wrong["features.12.squeeze.weight"] = np.zeros((64, 512, 3, 3), np.float32)
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match=r"features.12.squeeze.weight"):
        Squeeze.load(tmp_path / "wrong.safetensors")
