"""The probe that learned ops may ask: a classifier that keeps out what went too far."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import augpipe
from augpipe.errors import DataError
from augpipe.learned.probe import Probe
from augpipe.learned.weights import save_net
from augpipe.networks.building import build
from augpipe.pipeline import load
from augpipe.tensors import read_tensors, write_tensors
from augpipe.training.evaluation import seen
from tests.learned.gans import GARMENTS, bundled, garments, pipe

TURN = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


def probe_file(
    path: Path,
    always: int | None = None,
    channels: int = 1,
    size: Any = (28, 28),
    sharp: float = 20.0,
    **more: Any,
) -> str:
    """Writes a classifier of garments with fresh weights; `always` has it say one class only.

    Its classes are numbered otherwise than the generator's, by TURN.
    """
    _, about = bundled()
    torch.manual_seed(3)
    net = build("wrn_10_1", 10, channels)
    names = [about["classes"][k] for k in TURN]
    if always is not None:
        net.fc.bias.data[TURN.index(always)] += 1e6
    elif channels == 1:  # fresh weights see one class in all: let them see many
        with torch.no_grad():
            net.fc.bias -= net.eval()(2 * garments()[0] / 255.0 - 1).mean(dim=0)
            net.fc.weight *= sharp
            net.fc.bias *= sharp
    sees = {"size": list(size), "mean": [0.5], "std": [0.5], "after": [], **more}
    header = {
        "format": "augpipe model 1", "model": "wrn_10_1", "channels": str(channels),
        "classes": json.dumps(names), "sees": json.dumps(sees),
    }  # fmt: skip
    write_tensors(path, {k: v.clone() for k, v in net.state_dict().items()}, header)
    return str(path)


def test_generated_images_stay_out_where_the_probe_sees_another_class(tmp_path: Path) -> None:
    images, labels = garments()
    path = probe_file(tmp_path / "p.safetensors", always=3)
    own = pipe(p=1.0, probe=path, weight=0.5)
    out, rows = own.batch(images, labels, index=range(12))
    free, _ = pipe(p=1.0).batch(images, labels, index=range(12))
    three = labels == 3
    assert three.any()
    assert torch.equal(out[three], free[three]) and torch.equal(out[~three], images[~three])
    assert rows.sum(dim=1).tolist() == torch.where(three, 0.5, 1.0).tolist()
    tensors, header = read_tensors(Path(path))
    odds = torch.where(tensors["fc.bias"] > 1e5, math.log(9.0), 0.0)  # of one half, for one of ten
    half = {**tensors, "fc.weight": torch.zeros_like(tensors["fc.weight"]), "fc.bias": odds}
    write_tensors(tmp_path / "half.safetensors", half, header)
    for confidence, want in ((0.49, out), (0.51, images)):
        fields = {"p": 1.0, "probe": str(tmp_path / "half.safetensors"), "confidence": confidence}
        assert torch.equal(pipe(**fields).batch(images, labels, index=range(12))[0], want)


def surely_alike(judge: Probe, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    (first, _), (second, sure) = (judge(each / 255.0) for each in (before, after))
    return (first == second) & (sure >= 0.4)


@pytest.mark.parametrize("section", ["batch", "sample"])
def test_moved_images_stay_where_the_probe_sees_another_class(section: str, tmp_path: Path) -> None:
    images, _ = garments()
    path = probe_file(tmp_path / "p.safetensors")
    judge = Probe(path, "cpu")
    item = {"latent_noise": {"sigma": [1.5, 1.5]}}
    gated = {"latent_noise": {"sigma": [1.5, 1.5], "probe": path, "confidence": 0.4}}

    def run(what: Any) -> torch.Tensor:
        own = load({"version": 1, "seed": 4, section: [what]})
        if section == "batch":
            out: torch.Tensor = own.batch(images, index=range(12))
            return out
        made = [own(image, index=k) for k, image in enumerate(images[:, 0].numpy())]
        return torch.from_numpy(np.stack(made))[:, None]

    free, out = run(item), run(gated)
    agree = surely_alike(judge, images, free)
    assert 0 < agree.sum() < 12
    assert torch.equal(out[agree], free[agree]) and torch.equal(out[~agree], images[~agree])


def test_images_of_one_class_are_gated_too(tmp_path: Path) -> None:
    images, labels = garments()
    labels = labels % 2
    path = probe_file(tmp_path / "p.safetensors")
    judge = Probe(path, "cpu")
    runs = [
        load({"version": 1, "batch": [{"latent_extrapolate": {"lam": [1, 1], **more}}]})
        for more in ({}, {"probe": path, "confidence": 0.4})
    ]
    free, out = (own.batch(images, labels, index=range(12))[0] for own in runs)
    agree = surely_alike(judge, images, free)
    assert 0 < agree.sum() < 12
    assert torch.equal(out[agree], free[agree]) and torch.equal(out[~agree], images[~agree])


def test_a_probe_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    images = torch.rand(9, 3, 40, 33)
    path = probe_file(tmp_path / "p.safetensors", channels=3, size=(24, 24), mean=[0.2], std=[0.7])
    torch.manual_seed(3)
    net = build("wrn_10_1", 10, 3).eval()
    small = F.interpolate(images, (24, 24), mode="bilinear", antialias=True)
    logits = net((small - 0.2) / 0.7)
    want = logits.argmax(dim=1)
    judge = Probe(path, "cpu")
    assert torch.equal(judge(images)[0], want)
    torch.testing.assert_close(judge(images)[1], logits.softmax(dim=1).amax(dim=1))
    grey = images[:, :1]
    assert torch.equal(judge(grey)[0], judge(grey.expand(-1, 3, -1, -1))[0])
    one = Probe(probe_file(tmp_path / "one.safetensors", size=(40, 33)), "cpu")
    luma = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    assert torch.equal(one(images)[0], one(luma)[0])
    torch.testing.assert_close(one(images)[1], one(luma)[1])


def test_a_probe_tells_what_the_trained_network_does(tmp_path: Path) -> None:
    recipe = {
        "version": 1,
        "sample": [{"resize": [24, 24]}, "horizontal_flip", {"normalize": "fashion_mnist"}],
        "train": {"model": "wrn_10_1", "steps": 3, "batch_size": 16},
    }
    augpipe.train(recipe, GARMENTS, tmp_path / "run", workers=0)
    path = tmp_path / "run" / "model.safetensors"
    model, judge = augpipe.load_model(path), Probe(path, "cpu")
    images = garments(10)[0].expand(-1, 3, -1, -1) / 255.0
    small = F.interpolate(images, (24, 24), mode="bilinear", antialias=True)
    with torch.no_grad():
        want = model((small - 0.2860) / 0.3530).argmax(dim=1)
    assert torch.equal(judge(images)[0], want)
    assert judge.classes == model.classes


def test_a_probe_need_not_know_more_than_the_dataset(tmp_path: Path) -> None:
    some = ["ankle_boot", "bag", "coat"]
    for name in some:
        (tmp_path / "in" / name).mkdir(parents=True)
        for path in sorted((GARMENTS / name).iterdir())[:4]:
            shutil.copy(path, tmp_path / "in" / name)
    path = tmp_path / "p.safetensors"
    net = build("wrn_10_1", 3, 1)
    net.fc.bias.data[1] += 1e6
    sees = {"size": [28, 28], "mean": [0.5], "std": [0.5], "after": []}
    header = {"model": "wrn_10_1", "channels": "1", "classes": json.dumps(some)}
    tensors = {name: each.clone() for name, each in net.state_dict().items()}
    write_tensors(path, tensors, {**header, "sees": json.dumps(sees)})
    own = pipe(p=1.0, probe=str(path))
    options = {"batch_size": 12, "workers": 0, "shuffle": False}
    images, labels = next(iter(own.loader(tmp_path / "in", **options)))
    plain, _ = next(iter(load({"version": 1}).loader(tmp_path / "in", **options)))
    changed = (images != plain).flatten(1).any(dim=1)
    assert changed.tolist() == (labels == 1).tolist()


def test_probes_that_cannot_probe(tmp_path: Path) -> None:
    images, labels = garments(2)
    path = tmp_path / "p.safetensors"
    probe_file(path, after=["equalize", "torchvision.RandomInvert"])
    with pytest.raises(DataError, match=r"sees images after equalize, torchvision\.RandomInvert"):
        Probe(path, "cpu")
    odd: list[dict[str, Any]] = [
        {"size": (0, 0)}, {"size": (28, 10**6)}, {"mean": [0.1, 0.2, 0.3]}, {"std": [0.0]},
        {"mean": [float("nan")]}, {"channels": 2},
    ]  # fmt: skip
    for each in odd:
        with pytest.raises(DataError, match="is not a model of augpipe train that can probe"):
            Probe(probe_file(path, **each), "cpu")
    probe_file(path)
    tensors, header = read_tensors(path)
    write_tensors(path, {**tensors, "fc.bias": torch.full((10,), torch.nan)}, header)
    with pytest.raises(DataError, match="holds weights that are NaN or infinite"):
        Probe(path, "cpu")
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="is a pickle"):
        Probe(path, "cpu")
    save_net(path, "gan", *bundled())
    with pytest.raises(DataError, match="is not a model of augpipe train that can probe"):
        pipe(p=1.0, probe=str(path)).batch(images, labels, index=range(2))
    with pytest.raises(DataError, match=r"gone\.safetensors"):
        pipe(p=1.0, probe=str(tmp_path / "gone.safetensors")).batch(images, labels, index=range(2))


def test_what_a_test_sees_is_said() -> None:
    recipe = load(
        {
            "version": 1,
            "sample": [{"random_resized_crop": 24}, "rotate", {"equalize": {"p": 1}}],
            "batch": ["mixup", {"normalize": "cifar10"}],
        }
    ).recipe
    told = seen(recipe, (24, 24))
    assert told["after"] == ["equalize"] and told["size"] == [24, 24]
    assert told["mean"] == (0.4914, 0.4822, 0.4465)
    plain = seen(load({"version": 1, "sample": ["horizontal_flip"]}).recipe, (28, 28))
    assert plain == {"size": [28, 28], "mean": (0.0,), "std": (1.0,), "after": []}
