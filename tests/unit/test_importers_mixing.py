"""Importers: what mixes the images of a batch, and what stands beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

import augpipe
from augpipe.importers import import_recipe
from tests.imported import content, names, verdicts

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def compose(*transforms: Any) -> Any:
    return v2.Compose(list(transforms))


def test_mixing_stands_in_the_batch() -> None:
    imported = import_recipe(repr(compose(v2.ToImage(), v2.MixUp(alpha=0.3, num_classes=10))))
    assert content(imported)["batch"] == [{"mixup": {"alpha": 0.3}}]
    assert content(imported)["classes"] == 10
    assert verdicts(imported) == ["exact", "exact"]
    assert not import_recipe("MixUp(alpha=1.0, num_classes=x)").complete


def test_what_follows_a_mix_follows_it_in_the_batch() -> None:
    theirs = compose(
        v2.Resize((9, 9)),
        v2.MixUp(alpha=0.3, num_classes=10),
        v2.GaussianNoise(sigma=0.2),
        v2.Compose([v2.RandomHorizontalFlip(0.5), v2.GaussianBlur(3)]),
        v2.CutMix(num_classes=10),
        v2.Normalize(*IMAGENET),
    )
    imported = import_recipe(repr(theirs), "f")
    assert names(imported) == ["resize"]
    assert [next(iter(op)) for op in content(imported)["batch"]] == [
        "mixup",
        "gaussian_noise",
        "horizontal_flip",
        "torchvision.GaussianBlur",
        "cutmix",
        "normalize",
    ]
    # Ours draw for each image in a batch too.
    last = imported.notes[-1]
    assert (last.where, last.verdict) == ("f", "changed")
    assert last.text.startswith("horizontal_flip, torchvision.GaussianBlur beside what mixes")
    assert augpipe.load(content(imported))


def test_noise_after_a_mix_is_not_mixed_away() -> None:
    images = torch.full((64, 3, 16, 16), 128, dtype=torch.uint8)
    theirs = compose(v2.MixUp(alpha=100.0, num_classes=2), v2.GaussianNoise(sigma=0.1))
    pipe = augpipe.load(content(import_recipe(repr(theirs))))
    ours, _ = pipe.batch(images, torch.zeros(64, dtype=torch.long), index=range(64))
    want, _ = theirs(images / 255.0, torch.zeros(64, dtype=torch.long))  # no bytes there
    # Mixed with lam near 1/2 it would be 0.7 of it; 49,152 draws give it to 0.4 %.
    assert abs(ours.float().std() / (255 * want.std()) - 1) < 0.03


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (v2.RandomChoice([v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)]), "one_of"),
        (v2.RandomApply([v2.MixUp(num_classes=3)]), "mixup"),
        (v2.RandomOrder([v2.MixUp(num_classes=3), v2.RandomInvert()]), "shuffle"),
    ],
    ids=["choice", "apply", "order"],
)
def test_a_composition_of_mixes_stands_in_the_batch(theirs: Any, ours: str) -> None:
    imported = import_recipe(repr(compose(theirs)))
    (op,) = content(imported)["batch"]
    assert next(iter(op)) == ours
    assert "sample" not in content(imported)
    assert "there once for the batch" in imported.notes[0].text
    assert imported.notes[0].verdict == "changed"
    images = torch.zeros((4, 3, 8, 8), dtype=torch.uint8)
    _, soft = augpipe.load(content(imported)).batch(images, torch.arange(4) % 3, index=range(4))
    assert soft.shape == (4, 3)
