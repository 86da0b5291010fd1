"""What generated images are judged by: classifiers, distances, the images themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.errors import UsageError
from augpipe.fitting import judging, labelled
from augpipe.fitting.judging import Judge, to_levels
from augpipe.fitting.labelled import open_labelled
from augpipe.fitting.pictures import grid
from augpipe.networks.building import build
from tests.harness import ROOT

GARMENTS = ROOT / "samples" / "garments"


def test_a_report_knows_good_images_from_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_FEWEST", 120)
    data = open_labelled(GARMENTS, None, None, 0)
    judge = Judge(data, tmp_path, 0)
    order = data.train.targets.argsort(stable=True)

    def copies(classes: torch.Tensor, seed: int) -> torch.Tensor:
        rows = [order[data.train.targets[order] == k] for k in classes.unique()]
        pools = {int(data.train.targets[each[0]]): list(each) for each in rows}
        picked = [pools[int(k)].pop(0) for k in classes]
        return data.train.images[torch.stack(picked)]

    def noise(classes: torch.Tensor, seed: int) -> torch.Tensor:
        shape = (len(classes), *data.train.images.shape[1:])
        own = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, shape, generator=own).to(torch.uint8)

    assert judge.memorisation(copies, 0) < 0.1 < 1 < judge.memorisation(noise, 0)
    good = judge.report(copies, steps=1, seconds=1.0, parameters=1)
    assert good.memorisation < 0.05 and good.memorisation_pixels < 0.05
    # The same images in the same order: the same classifier.
    assert good.synthetic == good.real and good.synthetic_by_class == good.real_by_class
    assert good.real > 0.5 and len(good.real_by_class) == 10
    assert good.frechet == pytest.approx(good.frechet_floor, rel=0.5)
    turned = Judge(data, tmp_path / "turned", 0)
    dull = build("wrn_10_1", 10, 1).eval()
    dull.fc.bias.data[0] += 1e6  # what it learned of generated images: that all are of one class
    monkeypatch.setattr(turned, "_classifier", lambda *_: dull)
    flipped = turned.report(
        lambda classes, seed: copies(classes, seed).flip(3), steps=1, seconds=1.0, parameters=1
    )
    assert flipped.memorisation_pixels < 0.05 < flipped.memorisation
    share = float((data.test.targets == 0).float().mean())
    assert flipped.synthetic == pytest.approx(share) and flipped.agreement > 0.5

    def few(classes: torch.Tensor, seed: int) -> torch.Tensor:
        return data.train.images[:1].expand(len(classes), -1, -1, -1)

    poor = turned.report(few, steps=1, seconds=1.0, parameters=1)
    assert poor.recall == 0 and poor.precision == 1
    bad = Judge(data, tmp_path / "other", 0).report(noise, steps=1, seconds=1.0, parameters=1)
    assert bad.synthetic < 0.35 < good.real
    assert bad.frechet > 10 * bad.frechet_floor
    assert bad.agreement < 0.35 and bad.memorisation > 1.5
    assert bad.real == good.real
    assert "ankle_boot" in str(bad) and "%" in str(bad)


def test_to_levels_and_the_grid() -> None:
    images = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    assert to_levels(images).flatten().tolist() == list(range(256))
    many = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2) * 10
    pixels = np.asarray(grid(many, 3))
    assert pixels.shape == (4, 6, 3)
    assert pixels[::2, ::2, 0].tolist() == [[0, 10, 20], [30, 40, 50]]


def test_sizes_grey_and_colour(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    assert data.train.images.shape[1:] == (1, 12, 12) and data.measured_on == "validation"
    assert len(data.train) + len(data.unseen) == 40
    Image.new("RGB", (30, 24), (255, 0, 0)).save(folder / "dark" / "red.png")
    with pytest.raises(UsageError, match=r"images differ in size \(12 × 12, 24 × 30\): side says"):
        open_labelled(folder, None, None, 0)
    mixed = open_labelled(folder, None, 16, 0)
    assert mixed.train.images.shape[1:] == (3, 16, 16)
    red = (mixed.train.images[:, 0] > mixed.train.images[:, 1]).flatten(1).all(dim=1)
    assert red.sum() + (mixed.unseen.images[:, 0] > 200).flatten(1).all(1).sum() >= 1
    some = open_labelled(folder, 10, 16, 0)
    assert len(some.train) == 10 and some.train.targets.bincount().tolist() in ([5, 5], [6, 4])


def test_large_images_are_refused_before_they_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).resize((120, 120)).save(path)
    with pytest.raises(UsageError, match="images are 120 × 120: side says"):
        open_labelled(folder, None, None, 0)
    assert open_labelled(folder, None, 120, 0).train.images.shape[2] == 120
    monkeypatch.setattr(labelled, "_MOST", 10_000)
    with pytest.raises(UsageError, match=r"images of 120 × 120 take .* GB: fewer"):
        open_labelled(folder, None, 120, 0)


def test_every_class_needs_an_image_among_those_chosen(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        for k in range(2):
            shutil.copy(folder / "dark" / f"{k}.png", folder / name)
    with pytest.raises(UsageError, match="no image of class a is among them: take more"):
        open_labelled(folder, 10, None, 0)
