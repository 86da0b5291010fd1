"""The autoencoder: its linear path against scikit-learn, any size, weights from strangers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import Tensor

from augpipe.errors import DataError
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.weights import load_net, save_net
from augpipe.tensors import read_tensors


def patches(count: int = 600) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(count, 6, generator=generator) @ torch.randn(6, 48, generator=generator)
    return low + 0.3 * torch.randn(count, 48, generator=generator)


def shaken(seed: int = 0, **settings: int) -> Autoencoder:
    """A network none of whose paths is silent."""
    torch.manual_seed(seed)
    net = Autoencoder(**settings)
    net.start(patches())
    with torch.no_grad():
        for each in net.parameters():
            each.add_(torch.randn_like(each), alpha=0.05)
    return net.eval()


def test_it_starts_as_the_principal_components() -> None:
    net = Autoencoder()
    rows = patches()
    net.start(rows)
    images = F.pixel_shuffle(rows[:100, :, None, None], 4)
    oracle = PCA(8).fit(rows.double().numpy())
    expected = oracle.inverse_transform(oracle.transform(rows[:100].double().numpy()))
    found = F.pixel_unshuffle(net(images), 4)[..., 0, 0]
    assert torch.allclose(found, torch.from_numpy(expected).float(), atol=1e-5)  # float32


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 4), (28, 28), (31, 46)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_comes_back_in_it(size: tuple[int, int], channels: int) -> None:
    net, images = shaken(), torch.rand(2, channels, *size)
    latents = net.encode(images)
    assert latents.shape == (2, 8, -(-size[0] // 4), -(-size[1] // 4))
    assert net(images).shape == images.shape


def test_grey_is_colour_with_equal_channels() -> None:
    net, grey = shaken(), torch.rand(2, 1, 16, 16)
    colour = net(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(net(grey), colour.mean(dim=1, keepdim=True), atol=1e-6)  # order of sums


def test_what_becomes_of_a_place_depends_on_its_surroundings_alone() -> None:
    net, images = shaken(), torch.rand(1, 3, 160, 160)
    # 13 convolutions of 3 x 3 at a quarter of the resolution reach 52 pixels.
    part = net(images[:, :, 8:-8, 8:-8])[:, :, 56:-56, 56:-56]
    assert torch.allclose(part, net(images)[:, :, 64:-64, 64:-64], atol=1e-5)  # order of sums


def test_moments_are_those_of_all_latents() -> None:
    net = shaken()
    batches = [torch.rand(5, 3, 12, 12), torch.rand(2, 3, 16, 16)]
    net.measure(batches)
    rows = torch.cat([net.encode(each).movedim(1, 0).flatten(1) for each in batches], dim=1)
    assert torch.allclose(net.mean, rows.mean(dim=1), atol=1e-5)
    assert torch.allclose(net.std, rows.std(dim=1, correction=0), rtol=1e-4)


def test_weights_come_back(tmp_path: Path) -> None:
    net, path = shaken(width=16), tmp_path / "new" / "ae.safetensors"
    save_net(path, "autoencoder", net, {"fitted": "on noise"})
    back, about = load_net(path, "autoencoder", Autoencoder)
    images = torch.rand(1, 3, 8, 8)
    assert back.settings == net.settings
    assert torch.equal(back(images), net(images))
    assert about["fitted"] == "on noise"
    assert not back.training
    assert not any(each.requires_grad for each in back.parameters())


def _rewritten(path: Path, name: str) -> Path:
    tensors, (_, header) = load_file(path), read_tensors(path)
    match name:
        case "of another op":
            header["format"] = "augpipe gan 1"
        case "of nothing":
            del header["format"]
        case "of no settings":
            del header["settings"]
        case "settings too large":
            header["settings"] = json.dumps({"width": 10**9})
        case "settings of another network":
            header["settings"] = json.dumps({"depth": 3})
        case "another width":
            header["settings"] = json.dumps({"latents": 8, "width": 32})
        case "a tensor missing":
            del tensors["mean"]
        case "NaN":
            tensors["std"][2] = float("nan")
    changed = path.with_name("changed.safetensors")
    save_file(tensors, changed, header)
    return changed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("of another op", "says it is 'augpipe gan 1': these are not the weights of"),
        ("of nothing", "does not say what it is"),
        ("of no settings", "does not hold a whole autoencoder"),
        ("settings too large", "width: 1000000000 is not from 0 to 4096"),
        ("settings of another network", "does not hold a whole autoencoder"),
        ("another width", "does not hold a whole autoencoder"),
        ("a tensor missing", "does not hold a whole autoencoder"),
        ("NaN", "holds weights that are NaN or infinite"),
    ],
)
def test_weights_that_are_not_its_own_are_refused(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "ae.safetensors"
    save_net(path, "autoencoder", shaken(width=16), {})
    with pytest.raises(DataError, match=words):
        load_net(_rewritten(path, name), "autoencoder", Autoencoder)


def test_files_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ae.safetensors"
    save_net(path, "autoencoder", shaken(width=16), {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="is not a whole safetensors file"):
        load_net(path, "autoencoder", Autoencoder)
    path.write_bytes(whole + b"more")
    with pytest.raises(DataError, match="is not a whole safetensors file"):
        load_net(path, "autoencoder", Autoencoder)
    torch.save({"mean": torch.zeros(8)}, path)
    with pytest.raises(DataError, match="is a pickle"):
        load_net(path, "autoencoder", Autoencoder)
    with pytest.raises(DataError, match="no such file"):
        load_net(tmp_path / "none.safetensors", "autoencoder", Autoencoder)
