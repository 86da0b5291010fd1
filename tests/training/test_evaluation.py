"""What of a recipe validation and test see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import augpipe
from augpipe.pipeline import Pipeline
from augpipe.recipe import Recipe, load
from augpipe.training.evaluation import for_evaluation
from tests.harness import photo


def kept(sample: Any = (), batch: Any = ()) -> Recipe:
    made = load({"version": 1, "sample": list(sample), "batch": list(batch)})
    return for_evaluation(made)


def items(recipe: Recipe) -> list[Any]:
    assert recipe.batch == () and recipe.regularize == ()
    return [op.item() for op in recipe.sample]


def apply(recipe: Recipe, image: Any, epoch: int = 0) -> Any:
    return Pipeline(recipe)(image, index=1, epoch=epoch)


RANDOM: list[Any] = [
    "horizontal_flip",
    {"rotate": [-9, 9]},
    {"color_jitter": {"brightness": 0.4}},
    {"cutout": {"size": 0.3}},
    {"gaussian_noise": {"sigma": [5, 5]}},
    {"rand_augment": {}},
    {"one_of": ["horizontal_flip", "vertical_flip"]},
    {"horizontal_flip": {"p": 0.999}},
    {"grayscale": {"p": 0.5}},
]


@pytest.mark.parametrize("item", RANDOM, ids=str)
def test_what_is_drawn_is_left_out(item: Any) -> None:
    assert items(kept([item])) == []
    assert items(kept(batch=[item])) == []


def test_mixing_is_left_out() -> None:
    (left,) = kept(batch=["mixup", "cutmix", {"normalize": "half"}]).sample
    assert left.name() == "normalize"


@pytest.mark.parametrize(
    "item",
    [
        {"resize": 20},
        {"center_crop": 20},
        {"grayscale": {"p": 1.0}},
        {"normalize": "imagenet"},
        "to_float",
    ],
    ids=str,
)
@pytest.mark.parametrize("section", ["sample", "batch"])
def test_what_is_always_the_same_stays(item: Any, section: str) -> None:
    (op,) = kept(**{section: [item]}).sample
    (given,) = getattr(load({"version": 1, section: [item]}), section)
    assert op == given


def test_the_order_stays_and_batch_follows_sample() -> None:
    recipe = kept(
        [{"resize": 40}, "horizontal_flip", {"random_crop": 32}],
        ["mixup", {"grayscale": {"p": 1.0}}, {"normalize": "half"}],
    )
    names = [op.name() for op in recipe.sample]
    assert names == ["resize", "center_crop", "grayscale", "normalize"]


def test_a_random_crop_becomes_torchvisions_center_crop() -> None:
    image = photo(height=61, width=90)
    got = apply(kept([{"random_crop": {"size": [32, 40], "padding": 4}}]), image)
    expected = np.asarray(v2.CenterCrop((32, 40))(Image.fromarray(image)))
    assert np.array_equal(got, expected)


def waves(height: int, width: int) -> np.ndarray:
    """A picture so smooth that every filter gives about the same: what is left is the geometry."""
    y, x = np.mgrid[:height, :width]
    red = 128 + 100 * np.sin(x / 23) * np.cos(y / 31)
    return np.stack([red, 255 * x / width, 255 * y / height], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("size", [28, 56, [42, 56]])
def test_a_random_resized_crop_becomes_torchvisions_preset(size: Any) -> None:
    image = waves(120, 170)
    recipe = kept([{"random_resized_crop": size}])
    assert [op.name() for op in recipe.sample] == ["resize", "center_crop"]
    got = apply(recipe, image)
    # Torchvision's is of squares; a training crop of another shape is squeezed into it.
    to = round(size * 8 / 7) if isinstance(size, int) else [round(each * 8 / 7) for each in size]
    preset = v2.Compose([v2.Resize(to, antialias=True), v2.CenterCrop(size)])
    expected = preset(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert got.shape == expected.shape
    # Half a level of rounding in each, and half a level between a box and a triangle.
    assert np.abs(got.astype(float) - expected).max() <= 1.5
    # A pixel aside is 3 levels and more away.
    assert np.abs(np.roll(got, 1, axis=1).astype(float) - expected)[1:-1, 1:-1].max() > 3


def test_imagenets_sizes_are_the_presets() -> None:
    resize, crop = kept([{"random_resized_crop": 224}]).sample
    (expected,) = load({"version": 1, "sample": [{"resize": 256}]}).sample
    assert resize == expected
    (expected,) = load({"version": 1, "sample": [{"center_crop": 224}]}).sample
    assert crop == expected


def test_no_epoch_changes_it() -> None:
    recipe = kept(
        [{"random_resized_crop": 28}, *RANDOM[:4]], [{"mixup": {}}, {"normalize": "imagenet"}]
    )
    first, second = (apply(recipe, photo(), epoch) for epoch in (0, 7))
    assert np.array_equal(first, second)
    drawn = augpipe.load({"version": 1, "sample": [{"random_resized_crop": 28}]})
    assert not np.array_equal(drawn(photo(), index=1, epoch=0), drawn(photo(), index=1, epoch=7))


def test_no_black_bars_stand_beside_what_is_evaluated() -> None:
    white = np.full((28, 28, 3), 255, np.uint8)
    assert (apply(kept([{"random_resized_crop": [8, 24]}]), white) == 255).all()


ALIKE: list[Any] = [
    {"albumentations.Resize": {"height": 14, "width": 16}},
    {"albumentations.InvertImg": {"p": 1.0}},
    {"albumentations.ToGray": {"p": 1.0}},
    {"torchvision.Resize": {"size": 14}},
    {"torchvision.CenterCrop": {"size": 14}},
]


@pytest.mark.parametrize("item", ALIKE, ids=str)
def test_what_another_library_always_does_alike_stays(item: Any) -> None:
    recipe = kept([item])
    assert items(recipe) == [item]
    assert np.array_equal(
        apply(recipe, photo()), Pipeline(load({"version": 1, "sample": [item]}))(photo(), index=5)
    )


def test_what_takes_batches_alone_stays_in_the_batch_section() -> None:
    recipe = kept(["horizontal_flip", {"resize": 32}], [{"kornia.Resize": {"size": [14, 14]}}])
    assert [op.name() for op in recipe.sample] == ["resize"]
    assert [op.item() for op in recipe.batch] == [{"kornia.Resize": {"size": [14, 14]}}]


@pytest.mark.parametrize(
    "item",
    [
        "albumentations.InvertImg",
        "albumentations.RandomBrightnessContrast",
        "albumentations.CLAHE",
        {"albumentations.GridDropout": {"p": 1.0}},
        "torchvision.RandomGrayscale",
    ],
    ids=str,
)
def test_what_another_library_draws_is_left_out(item: Any) -> None:
    assert items(kept([item])) == []
    assert kept(batch=["kornia.RandomPlasmaShadow"]).batch == ()


@pytest.mark.parametrize(
    ("item", "resize"),
    [
        ({"albumentations.RandomCrop": {"height": 14, "width": 12}}, None),
        ({"torchvision.RandomCrop": {"size": [14, 12]}}, None),
        ({"torchvision.RandomResizedCrop": {"size": [14, 12]}}, [16, 14]),
        ({"albumentations.RandomResizedCrop": {"size": [14, 12]}}, [16, 14]),
    ],
    ids=str,
)
def test_another_librarys_random_crop_becomes_a_central_one(item: Any, resize: Any) -> None:
    crop = {"center_crop": {"size": [14, 12]}}
    assert items(kept([item])) == ([{"resize": {"size": resize}}] if resize else []) + [crop]
