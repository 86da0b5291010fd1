"""The augmentation network and the op `meta`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augpipe.errors import DataError, RecipeError
from augpipe.learned.augmentation import LATENTS, AugmentationNetwork, _folded
from augpipe.learned.weights import load_net, save_net
from augpipe.pipeline import Pipeline, load
from augpipe.tensors import read_tensors, write_tensors
from augpipe.training.comparing import _Job
from tests.learned.gans import garments
from tests.learned.test_probe import probe_file

NAMES = [f"class {k}" for k in range(4)]
ALWAYS, NEVER = 1 - 1e-6, 1e-6


def wild(channels: int = 3, seed: int = 0, **fields: int) -> AugmentationNetwork:
    """Returns a network whose last layers are no longer 0."""
    torch.manual_seed(seed)
    net = AugmentationNetwork(4, channels, **fields)
    for layer in (net.pixel3, net.tone2, net.move3, net.last):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return net.eval()


def given(count: int = 6, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    own = torch.Generator().manual_seed(5)
    images = torch.rand(count, channels, 20, 26, generator=own)
    return images, torch.arange(count) % 5, torch.randn(count, LATENTS, generator=own)


def saved(path: Path, net: AugmentationNetwork, names: Any = NAMES) -> str:
    save_net(path, "meta", net, {"classes": names})
    return str(path)


def pipe(**fields: Any) -> Pipeline:
    return load({"version": 1, "seed": 4, "batch": [{"meta": {"p": 1.0, **fields}}]})


@pytest.mark.parametrize("learns", [False, True])
def test_a_fresh_network_is_the_identity(learns: bool) -> None:
    images, classes, noise = given()
    with torch.set_grad_enabled(learns):
        out = AugmentationNetwork(4)(images, classes, noise, torch.full((6, 3), 0.7)).images
    # 1 - (1 - x) in float32; a grid of floats that is read between pixels
    assert (out - images).abs().max() < (1e-4 if learns else 1e-6)
    levels = (255 * images).round() / 255
    fresh = AugmentationNetwork(4)(levels, classes, noise, torch.full((6, 3), 0.7)).images
    assert torch.equal((255 * fresh).round(), (255 * levels).round())


def test_every_part_of_a_fresh_network_can_learn() -> None:
    net = AugmentationNetwork(4)
    images, classes, noise = given()
    gates = torch.full((6, 3), 0.5)  # where the gates' slope is
    made = net(images, classes, noise, gates).images
    (made * torch.rand(made.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for layer in (net.pixel3, net.tone2, net.move3, net.last):
        assert layer.weight.grad is not None and layer.weight.grad.abs().max() > 0


def test_levels_fold_as_a_triangle_wave() -> None:
    x = torch.tensor([-1.25, -0.5, 0.0, 0.25, 1.0, 1.25, 2.0, 2.5])
    torch.testing.assert_close(
        _folded(x), torch.tensor([0.75, 0.5, 0.0, 0.25, 1.0, 0.75, 0.0, 0.5])
    )


def test_colours_are_the_equation() -> None:
    """With the pixels' own part silent, s and b are those of the noise and the class alone."""
    net = wild()
    torch.nn.init.zeros_(net.pixel3.weight)
    images, classes, noise = given()
    gates = torch.tensor([[ALWAYS, NEVER, NEVER]]).expand(6, 3)
    told = torch.cat([noise, net.embedding(classes)], dim=1)
    with torch.no_grad():
        made = net(images, classes, noise, gates)
        a, c = net.tone2(F.relu(net.tone1(told)))[:, :, None, None].chunk(2, dim=1)
    s, b = (each.double().numpy() for each in (1 + 0.8 * (a.sigmoid() - 0.5), c.sigmoid() - 0.5))
    line = s * images.numpy() + b
    want = np.arccos(np.cos(np.pi * line)) / np.pi  # the triangle wave, another way
    np.testing.assert_allclose(made.images.numpy(), want, atol=1e-5)
    assert torch.equal(made.images, made.coloured)


def test_geometry_is_affine_about_the_centre() -> None:
    """m = (0, 0, t; 0, 0, 0): everything moves by t / 2 of half the width, black comes in."""
    net = wild()
    torch.nn.init.zeros_(net.move3.weight)
    images, classes, noise = given()
    share = 2 * 3 / 26 / 0.5  # three pixels of 26, of the most that it can move
    net.move3.bias.data[2] = float(torch.logit(torch.tensor(0.5 + share)))
    with torch.no_grad():
        out = net(
            images, classes, noise, torch.tensor([[NEVER, ALWAYS, NEVER]]).expand(6, 3)
        ).images
    want = F.pad(images, (0, 3))[..., 3:]
    torch.testing.assert_close(out, want, atol=1e-4, rtol=0)


def test_a_residual_is_small_and_has_no_fine_patterns() -> None:
    images, classes, noise = given()
    gates = torch.tensor([[NEVER, NEVER, ALWAYS]]).expand(6, 3)
    checks = torch.ones(20, 26)
    checks[::2] *= -1
    checks[:, ::2] *= -1
    fine: dict[int, float] = {}
    for lowpass in (0, 1):
        net = wild(lowpass=lowpass)
        grey = torch.full_like(images, 0.5)
        with torch.no_grad():
            change = net(grey, classes, noise, gates).images - grey
            # What the network itself makes of noise: all frequencies alike.
            told = torch.cat([noise, net.embedding(classes)], dim=1)
            change = net._residual(images, told)
        assert 0 < change.abs().max() <= 0.3  # 0.15 either way, less the mean
        inner = (change * checks)[..., 4:-4, 4:-4].mean(dim=(2, 3)).abs().max()
        fine[lowpass] = float(inner / change.abs().mean())
    assert fine[1] < 0.05 * fine[0]  # what the cut at the border leaves


def test_gates_act_by_their_probability() -> None:
    net = wild()
    net.gates.weight.data[1] = torch.tensor([-30.0, 0.0, 30.0])
    images = given(1)[0].expand(400, -1, -1, -1)
    classes, noise = torch.ones(400, dtype=torch.int64), torch.zeros(400, LATENTS)
    own = torch.Generator().manual_seed(0)
    with torch.no_grad():
        acts = net._acts(classes, torch.rand(400, 3, generator=own))[:, :, 0, 0, 0]
    assert acts[:, 0].sum() == 0 and acts[:, 2].sum() == 400
    assert abs(float(acts[:, 1].mean()) - 0.5) < 4 * (0.25 / 400) ** 0.5  # 4 sigma
    relaxed = net._acts(classes, torch.rand(400, 3, generator=own))
    assert relaxed.requires_grad and ((relaxed > 0.01) & (relaxed < 0.99))[:, 1].any()
    assert len(net(images, classes, noise, torch.full((400, 3), 0.5)).images) == 400


def test_an_image_is_the_same_whoever_is_beside_it(tmp_path: Path) -> None:
    images, labels = garments(12)
    images, labels = images.expand(-1, 3, -1, -1).contiguous(), labels % 4
    own = pipe(model=saved(tmp_path / "m.safetensors", wild()))
    out, kept = own.batch(images, labels, index=range(12), epoch=3)
    assert torch.equal(kept, labels) and out.dtype == torch.uint8
    assert (out != images).flatten(1).any(dim=1).all()
    for row in (0, 7):
        one, _ = own.batch(images[row : row + 1], labels[row : row + 1], index=[row], epoch=3)
        assert (one[0].int() - out[row].int()).abs().max() <= 1  # convolutions sum otherwise
    other, _ = own.batch(images, labels, index=range(12), epoch=4)
    assert (other != out).flatten(1).any(dim=1).all()
    alpha = torch.cat([images, torch.full_like(images[:, :1], 77)], dim=1)
    assert torch.equal(own.batch(alpha, index=range(12))[:, 3], alpha[:, 3])


def test_classes_count_by_their_names(tmp_path: Path) -> None:
    net = wild()
    net.gates.weight.data[:] = 30.0
    net.gates.weight.data[2] = -30.0  # nothing is done to class 2
    images, _ = garments(12)
    images = images.expand(-1, 3, -1, -1).contiguous()
    own = pipe(model=saved(tmp_path / "m.safetensors", net))
    labels = torch.arange(12) % 4
    out, _ = own.batch(images, labels, index=range(12))
    still = (out == images).flatten(1).all(dim=1)
    assert still.tolist() == (labels == 2).tolist()
    turned = pipe(model=saved(tmp_path / "turned.safetensors", net, NAMES[::-1]))
    section = turned.batch
    section._names = NAMES
    out, _ = section(images, labels, index=range(12))
    assert (out == images).flatten(1).all(dim=1).tolist() == (labels == 1).tolist()
    assert (own.batch(images, index=range(12)) != images).flatten(1).any(dim=1).all()  # of none
    rows = F.one_hot(labels, 4).float()
    assert torch.equal(
        own.batch(images, rows, index=range(12))[0][labels == 2], images[labels == 2]
    )


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    images, labels = garments(12)
    own = pipe(model=saved(tmp_path / "m.safetensors", wild()))
    out, _ = own.batch(images, labels % 4, index=range(12))
    assert out.shape == images.shape
    grey = pipe(model=saved(tmp_path / "g.safetensors", wild(1)))
    assert (grey.batch(images, index=range(12)) != images).any()
    with pytest.raises(DataError, match=r"meta#0: .*g\.safetensors was fitted to grey images"):
        grey.batch(images.expand(-1, 3, -1, -1), index=range(12))


def test_bad_weights_and_targets_are_named(tmp_path: Path) -> None:
    images, labels = garments(4)
    path = tmp_path / "m.safetensors"
    save_net(path, "gan", wild(), {})
    with pytest.raises(DataError, match="these are not the weights of an augpipe meta"):
        pipe(model=str(path)).batch(images, index=range(4))
    saved(path, wild(), NAMES[:2])
    with pytest.raises(DataError, match="does not say what each of its classes is called"):
        pipe(model=str(path)).batch(images, index=range(4))
    saved(path, wild())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not a whole safetensors file"):
        pipe(model=str(path)).batch(images, index=range(4))
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="is a pickle"):
        pipe(model=str(path)).batch(images, index=range(4))
    broken = wild()
    broken.tone1.weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="holds weights that are NaN or infinite"):
        pipe(model=saved(path, broken)).batch(images, index=range(4))
    two = saved(path, wild(2))
    with pytest.raises(DataError, match="takes images of 2 channels, not grey or RGB"):
        pipe(model=two).batch(images, index=range(4))
    boxes = [np.array([[1.0, 2.0, 9.0, 8.0]])] * 4
    with pytest.raises(DataError, match="meta#0: moves what is seen, and no mask"):
        pipe().batch(images, {"boxes": boxes, "label": labels}, index=range(4))
    with pytest.raises(RecipeError, match="meta cannot stand in 'sample:'"):
        load({"version": 1, "sample": ["meta"]})


def test_the_bundled_network_is_small_and_says_what_it_is() -> None:
    net, about = load_net("bundled", "meta", AugmentationNetwork)
    assert net.channels == 3 and len(about["classes"]) == net.classes == 10


def test_runs_with_other_weights_are_other_runs(tmp_path: Path) -> None:
    """A comparison keeps its runs: a file that was written anew must not be taken for the old."""
    path = saved(tmp_path / "m.safetensors", wild())
    recipe = pipe(model=path).recipe

    def named() -> str:
        return _Job("meta", recipe, str(tmp_path), "images", None, "test").digest

    before = named()
    assert named() == before
    saved(tmp_path / "m.safetensors", wild(seed=1))
    assert named() != before


def test_an_image_stays_where_the_probe_is_not_sure(tmp_path: Path) -> None:
    images, labels = garments(12)
    model = saved(tmp_path / "m.safetensors", wild())
    tensors, header = read_tensors(Path(probe_file(tmp_path / "p.safetensors", always=3)))
    odds = torch.where(tensors["fc.bias"] > 1e5, math.log(9.0), 0.0)  # of one half, for one of ten
    half = {**tensors, "fc.weight": torch.zeros_like(tensors["fc.weight"]), "fc.bias": odds}
    write_tensors(tmp_path / "half.safetensors", half, header)
    free, _ = pipe(model=model).batch(images, labels % 4, index=range(12))
    assert not torch.equal(free, images)
    for confidence, want in ((0.49, free), (0.51, images)):
        own = pipe(model=model, probe=str(tmp_path / "half.safetensors"), confidence=confidence)
        assert torch.equal(own.batch(images, labels % 4, index=range(12))[0], want)
