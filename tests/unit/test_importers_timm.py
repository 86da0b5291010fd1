"""Importers: what timm's own transforms print, as `create_transform` makes them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import augpipe
from augpipe.importers import import_recipe
from tests.imported import content, difference, names, photo, run, sample, verdicts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations of timm's own, at its import
    from timm.data import auto_augment, create_transform
    from timm.data.random_erasing import RandomErasing
    from timm.data.transforms import CenterCropOrPad, RandomResizedCropAndInterpolation, ToNumpy


def policy_of(text: str) -> Any:
    """Returns timm's own policy of a string."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if text.startswith("rand"):
            return auto_augment.rand_augment_transform(text, {})
        if text.startswith("augmix"):
            return auto_augment.augment_and_mix_transform(text, {})
        return auto_augment.auto_augment_transform(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "rand-m9-mstd0.5-inc1",
        "rand-m9-mstd0.5",
        "rand-m7-n3-p0.8-inc1",
        "rand-m8-mstd101-inc1",
        "rand-m15-mmax20-inc1",
        "rand-m7-n3-t3a",
        "rand-m9-inc1-tweights",
        "augmix-m5-w4-d2",
        "augmix-m4-a0.5-mstd0.5",
        "original",
        "originalr",
        "original-mstd0.5",
        "3a",
    ],
)
def test_a_printed_policy_is_what_its_string_is(text: str) -> None:
    printed = import_recipe(f"Compose(\n    {policy_of(text)}\n)", "f")
    assert sample(printed) == sample(import_recipe(text))
    assert printed.library == "timm"
    assert printed.complete is import_recipe(text).complete
    assert f"timm's {type(policy_of(text)).__name__}, " in printed.notes[-1].text
    assert printed.notes[-1].where == "f:2"


def test_a_whole_pipeline_of_training() -> None:
    theirs = create_transform(
        224,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="random",
        re_prob=0.25,
        re_mode="pixel",
    )
    imported = import_recipe(repr(theirs))
    assert imported.complete
    assert imported.library == "timm"
    assert names(imported) == [
        "random_resized_crop",
        "horizontal_flip",
        "rand_augment",
        "rand_augment",
        "random_erasing",
        "normalize",
    ]
    crop = sample(imported)[0]["random_resized_crop"]
    assert (crop["size"], crop["ratio"]) == ([224, 224], [0.75, 4 / 3])
    assert "timm draws bilinear or bicubic" in imported.notes[0].text
    out = augpipe.load(content(imported))(photo(), index=0)
    assert (out.shape, out.dtype) == ((224, 224, 3), np.float32)


@pytest.mark.parametrize("prefetched", [False, True])
def test_a_whole_pipeline_of_evaluation(prefetched: bool) -> None:
    theirs = create_transform(144, use_prefetcher=prefetched, crop_pct=0.96)
    imported = import_recipe(repr(theirs))
    assert imported.complete
    want = theirs(Image.fromarray(photo())).permute(1, 2, 0).numpy()
    ours = run(imported, photo())
    assert ours.dtype == want.dtype
    # Shrunk by a box and then bilinear there by a triangle: 2 levels of 255 x 0.22 on average.
    assert difference(ours, want).mean() < (2 if prefetched else 2 / 255 / 0.22)
    if prefetched:
        assert "levels stay 0..255" in imported.notes[-1].text


def test_its_crop_gives_the_same_pixels_as_told() -> None:
    crop = RandomResizedCropAndInterpolation((100, 100), (1, 1), (4 / 3, 4 / 3))
    imported = import_recipe(f"Compose({crop})")
    want = np.asarray(crop(Image.fromarray(photo())))
    assert difference(run(imported, photo()), want).mean() < 2  # as torchvision's
    assert verdicts(imported) == ["changed"]
    for size in ((101, 98), (301, 98)):
        center = CenterCropOrPad(size)
        want = np.asarray(center(Image.fromarray(photo())))
        assert (run(import_recipe(f"Compose({center})"), photo()) == want).all()


def test_its_array_without_a_repr_is_known() -> None:
    imported = import_recipe(f"Compose(\n    RandomInvert(p=1)\n    {ToNumpy()}\n)")
    assert verdicts(imported) == ["exact", "exact"]
    assert not import_recipe("Compose(<other.Thing object at 0x7f>)").complete


@pytest.mark.parametrize(
    ("mode", "fill"), [("const", [123.675, 116.28, 103.53]), ("rand", "noise")]
)
def test_its_erasing_after_normalize(mode: str, fill: Any) -> None:
    erasing = RandomErasing(probability=1.0, mode=mode, max_count=3, device="cpu")
    end = "Normalize(mean=tensor([0.485, 0.456, 0.406]), std=tensor([0.229, 0.224, 0.225]))"
    imported = import_recipe(f"Compose(MaybeToTensor() {end} {erasing})")
    assert verdicts(imported) == ["exact", "exact", "changed"]
    assert "one block; there 1 to 3" in imported.notes[-1].text
    assert sample(imported)[0]["random_erasing"]["fill"] == fill
    if mode == "const":
        tensor = erasing(torch.ones(3, 240, 320))
        assert set(tensor.unique().tolist()) == {0.0, 1.0}
        ours = run(imported, np.full((240, 320, 3), 255, np.uint8))
        # 123.675 is 124 in bytes: half a level of 255 x 0.22.
        assert (abs(ours) < 0.01).any()


UNKNOWN = {
    "v0": (policy_of("v0"), "its table is not AutoAugment's of ImageNet"),
    "3aw": (policy_of("rand-m9-t3aw"), "its transforms are not the usual 15; give its string"),
    "keep ratio": ("ResizeKeepRatio(size=(9, 9))", "ResizeKeepRatio is timm's own, and no op"),
    "odd ops": ("RandAugment(n=2, ops=3)", "its ops cannot be read; give its string"),
    "odd p": ("RandAugment(n=2, ops=AugmentOp(p=-1))", "-1 is not a number of its strings"),
    "apart": ("RandAugment(n=2, ops=AugmentOp(p=1) AugmentOp(p=0))", "its ops differ"),
    "no ops": ("AugMixAugment(alpha=1.0)", "its ops cannot be read"),
    "odd table": ("AutoAugment(policy=[] 3)", "its table cannot be read"),
    "odd erasing": ("RandomErasing(p=0.5, mode=3, count=(1, 1))", "mode=3"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_timms_and_no_op_does_is_told(name: str) -> None:
    text, words = UNKNOWN[name]
    imported = import_recipe(f"Compose({text})")
    assert verdicts(imported) == ["dropped"]
    assert words in imported.notes[0].text
    assert imported.empty


def test_torchvisions_policies_of_the_same_name_stay_its_own() -> None:
    from torchvision.transforms import v2

    for theirs in (v2.RandAugment(), v2.AutoAugment()):
        imported = import_recipe(f"Compose({theirs})")
        assert imported.library == "torchvision"
        assert "timm" not in imported.notes[0].text
