"""Importers: what torchvision's reprs become, compared with torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from augpipe.importers import import_recipe
from tests.imported import difference, names, photo, run, sample, verdicts

BILINEAR = v1.InterpolationMode.BILINEAR
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return photo()


def chw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def compose(module: Any, *transforms: Any) -> Any:
    return module.Compose(list(transforms))


# ------------------------------------------------------------ torchvision

EXACT: dict[str, Callable[[Any], Any]] = {
    "horizontal_flip": lambda m: m.RandomHorizontalFlip(1),
    "vertical_flip": lambda m: m.RandomVerticalFlip(1),
    "center_crop": lambda m: m.CenterCrop(101),
    "center_crop larger": lambda m: m.CenterCrop((300, 111)),
    "pad": lambda m: m.Pad((1, 2, 3, 4), fill=7),
    "pad reflect": lambda m: m.Pad((5, 6), padding_mode="reflect"),
    "pad edge": lambda m: m.Pad(3, padding_mode="edge"),
    "random_crop": lambda m: m.RandomCrop((246, 326), padding=3),
    "random_crop two": lambda m: m.RandomCrop((248, 324), padding=(2, 4)),
    "random_crop four": lambda m: m.RandomCrop((246, 324), padding=(1, 2, 3, 4)),
    "rotate": lambda m: m.RandomRotation((30, 30), fill=9),
    "affine": lambda m: m.RandomAffine((20, 20), shear=(10, 10, 5, 5), scale=(0.8, 0.8)),
    "affine shear": lambda m: m.RandomAffine(0, shear=(10, 10)),
    "solarize": lambda m: m.RandomSolarize(100, p=1),
    "posterize": lambda m: m.RandomPosterize(3, p=1),
    "invert": lambda m: m.RandomInvert(1),
    "equalize": lambda m: m.RandomEqualize(1),
    "random_erasing nothing fits": lambda m: m.RandomErasing(1, (0.9, 0.9), (50, 60)),
}


@pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", EXACT)
def test_torchvision_gives_the_same_pixels(name: str, module: Any, image: np.ndarray) -> None:
    theirs = compose(module, EXACT[name](module))
    imported = import_recipe(repr(theirs))
    want = theirs(chw(image)).permute(1, 2, 0).numpy()
    assert difference(run(imported, image), want).max() == 0
    # v1's RandomCrop does not print all its arguments, and that is told.
    silent = module is v1 and "random_crop" in name
    assert verdicts(imported) == ["changed" if silent else "exact"]


# Mean and largest difference in grey levels, and where it comes from.
CLOSE: dict[str, tuple[Callable[[Any], Any], float, float]] = {
    # torchvision rounds down, and writes 0.2989 for red.
    "grayscale": (lambda m: m.Grayscale(3), 0.6, 1),
    "autocontrast": (lambda m: m.RandomAutocontrast(1), 0.5, 1),
    "brightness": (lambda m: m.ColorJitter((1.3, 1.3)), 0.5, 1),
    "contrast": (lambda m: m.ColorJitter(0, (1.3, 1.3)), 0.5, 1),
    "saturation": (lambda m: m.ColorJitter(0, 0, (0.3, 0.3)), 1, 2),
    # Four roundings and clippings there, in random order; one here.
    "jitter": (lambda m: m.ColorJitter((1.2, 1.2), (0.8, 0.8), (0.3, 0.3)), 2.5, 6),
    # Weights beyond 3 sigma.
    "gaussian_blur": (lambda m: m.GaussianBlur(23, sigma=(1.5, 1.5)), 0.01, 1),
    # The outermost ring of pixels.
    "sharpen": (lambda m: m.RandomAdjustSharpness(2, p=1), 0.1, 40),
    # A box and then bilinear, or bilinear alone below a factor of 2, in place of a triangle.
    "resize short side": (lambda m: m.Resize(150), 2, 30),
    "resize": (lambda m: m.Resize((70, 60)), 2, 30),
    "resized crop": (lambda m: m.RandomResizedCrop(100, (1, 1), (4 / 3, 4 / 3)), 2, 30),
    "bicubic": (lambda m: m.Resize((300, 400), v1.InterpolationMode.BICUBIC), 0.6, 12),
    # A rim of one pixel (0.6 % of the pixels), which torchvision weighs twice.
    "rotate smooth": (lambda m: m.RandomRotation((30, 30), BILINEAR), 0.2, 60),
    "affine smooth": (lambda m: m.RandomAffine((20, 20), interpolation=BILINEAR), 0.2, 60),
}


@pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("name", CLOSE)
def test_torchvision_is_as_close_as_told(name: str, module: Any, image: np.ndarray) -> None:
    make, mean, most = CLOSE[name]
    theirs = compose(module, make(module))
    imported = import_recipe(repr(theirs))
    off = difference(run(imported, image), theirs(chw(image)).permute(1, 2, 0).numpy())
    assert off.mean() <= mean
    assert off.max() <= most
    assert verdicts(imported) == ["exact" if name in ("grayscale", "autocontrast") else "changed"]


@pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])
def test_tensors_and_normalize_end_the_recipe(module: Any, image: np.ndarray) -> None:
    if module is v1:
        to_float = [v1.ToTensor()]
    else:
        to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    theirs = compose(module, module.CenterCrop(99), *to_float, module.Normalize(*IMAGENET))
    imported = import_recipe(repr(theirs))
    assert sample(imported)[-1] == {"normalize": {"stats": "imagenet"}}
    want = theirs(Image.fromarray(image)).permute(1, 2, 0).numpy()
    # Two float32 divisions there, one multiplication here.
    np.testing.assert_allclose(run(imported, image), want, atol=1e-6)
    assert imported.complete


def test_two_normalizes_are_one(image: np.ndarray) -> None:
    twice = compose(v1, v1.ToTensor(), v1.Normalize([0.2], [0.5]), v1.Normalize([0.1], [2.0]))
    want = twice(Image.fromarray(image)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(run(import_recipe(repr(twice)), image), want, atol=1e-6)


def test_an_erasing_after_normalize_fills_with_the_mean() -> None:
    end = [v1.ToTensor(), v1.Normalize(*IMAGENET), v1.RandomErasing(value=0)]
    (erasing, _) = sample(import_recipe(repr(compose(v1, *end))))
    assert erasing["random_erasing"]["fill"] == [round(255 * each, 3) for each in IMAGENET[0]]
    assert verdicts(import_recipe(repr(compose(v1, *end)))) == ["exact"] * 3
    (erasing, _) = sample(
        import_recipe(repr(compose(v1, v1.ToTensor(), v1.RandomErasing(value=1))))
    )
    assert erasing["random_erasing"]["fill"] == 255
    for module, to in ((v1, v1.ToTensor()), (v2, v2.ToImage())):
        noisy = compose(module, to, module.RandomErasing(value="random"))
        assert sample(import_recipe(repr(noisy)))[0]["random_erasing"]["fill"] == "noise"


ERASING = "RandomErasing(p=1.0, scale=(0.3, 0.3), ratio=(0.3, 300.0), value={}, inplace=False)"
NORMALIZE = "Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])"


def test_an_erasing_that_is_left_to_torchvision_says_what_changes(image: np.ndarray) -> None:
    imported = import_recipe(f"Compose({NORMALIZE} {ERASING.format([0.0])})")
    erasing = sample(imported)[0]["torchvision.RandomErasing"]
    assert abs(erasing["value"] - 255 * np.mean(IMAGENET[0])) < 1e-9
    assert verdicts(imported) == ["exact", "foreign", "changed", "changed"]
    assert "fills with 114.495 in all channels, there with [123.675" in imported.notes[2].text
    assert "follows Normalize" in imported.notes[3].text
    grey = run(imported, image)[..., 0]
    # The library takes whole levels of bytes: half a level of 255 x 0.229.
    assert (abs(grey - (114.495 / 255 - 0.485) / 0.229) < 0.01).mean() > 0.25
    plain = import_recipe(f"Compose({ERASING.format(3)})")
    assert verdicts(plain) == ["foreign"]
    assert sample(plain)[0]["torchvision.RandomErasing"]["value"] == 3
    # v2 does not print "random", which no number is.
    assert not import_recipe(ERASING.replace("value={}, ", "")).complete


def test_an_erasing_beyond_white_is_cut_and_told() -> None:
    theirs = [v1.ToTensor(), v1.Normalize(*IMAGENET), v1.RandomErasing(value=5)]
    imported = import_recipe(repr(compose(v1, *theirs)))
    assert sample(imported)[0]["random_erasing"]["fill"] == 255
    assert "beyond black or white" in imported.notes[-1].text


RANGES: list[tuple[Any, dict[str, Any]]] = [
    (v1.RandomHorizontalFlip(0.3), {"horizontal_flip": {"p": 0.3}}),
    (
        v2.RandomResizedCrop((5, 6), scale=(0.2, 0.9), ratio=(0.5, 2.0)),
        {
            "random_resized_crop": {
                "size": [5, 6],
                "scale": [0.2, 0.9],
                "ratio": [0.5, 2.0],
                "interpolation": "bilinear",
            }
        },
    ),
    (
        v1.RandomResizedCrop(9),
        {
            "random_resized_crop": {
                "size": [9, 9],
                "scale": [0.08, 1.0],
                "ratio": [0.75, 4 / 3],
                "interpolation": "bilinear",
            }
        },
    ),
    # All of these are our defaults, and stand there all the same.
    (
        v1.RandomRotation(15),
        {"rotate": {"degrees": [-15.0, 15.0], "interpolation": "nearest", "fill": 0.0}},
    ),
    (
        v2.RandomAffine((-4, 9), (0.3, 0.2), (0.8, 1.1), (-3, 5, -2, 1), fill=3),
        {
            "affine": {
                "degrees": [-9.0, 4.0],
                "translate_x": [-0.3, 0.3],
                "translate_y": [-0.2, 0.2],
                "scale": [0.8, 1.1],
                "shear_x": [-5.0, 3.0],
                "shear_y": [-2.0, 1.0],
                "fill": 3.0,
                "interpolation": "nearest",
            }
        },
    ),
    (
        v1.ColorJitter(0.4, 0.3, 0.2, 0.1),
        {"color_jitter": {"brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1}},
    ),
    (v2.ColorJitter(1.5), {"color_jitter": {"brightness": 1.5}}),
    (v2.GaussianNoise(sigma=0.2), {"gaussian_noise": {"sigma": [51.0, 51.0]}}),
    (v2.JPEG((50, 70)), {"jpeg_compression": {"quality": [50, 70]}}),
    (v2.RandomChannelPermutation(), "channel_shuffle"),
    (
        v2.RandomPerspective(0.3, p=0.2),
        {"perspective": {"distortion": 0.3, "p": 0.2, "fill": 0.0, "interpolation": "bilinear"}},
    ),
    (
        v2.RandAugment(3, 7, 21),
        {
            "rand_augment": {
                "num_ops": 3,
                "magnitude": 7.0,
                "num_magnitude_bins": 21,
                "interpolation": "nearest",
                "fill": 0.0,
            }
        },
    ),
    (
        v1.TrivialAugmentWide(),
        {"trivial_augment": {"num_magnitude_bins": 31, "interpolation": "nearest"}},
    ),
    (
        v1.AutoAugment(v1.AutoAugmentPolicy.CIFAR10),
        {"auto_augment": {"policy": "cifar10", "interpolation": "nearest"}},
    ),
    (
        v2.AugMix(4, 2, 3, all_ops=False),
        {
            "augmix": {
                "severity": 4,
                "width": 2,
                "depth": [3, 3],
                "alpha": 1.0,
                "all_ops": False,
                "interpolation": "bilinear",
                "fill": 0.0,
            }
        },
    ),
]


@pytest.mark.parametrize(("theirs", "ours"), RANGES, ids=lambda each: type(each).__name__)
def test_random_transforms_keep_their_ranges(theirs: Any, ours: dict[str, Any]) -> None:
    imported = import_recipe(f"Compose(\n    {theirs}\n)")
    assert sample(imported) == [ours]
    assert imported.complete


def test_a_jitter_with_lopsided_ranges_is_one_op_each() -> None:
    (jitter,) = sample(import_recipe("Compose(ColorJitter(contrast=(0.5, 0.9), hue=(0.0, 0.2)))"))
    assert jitter["sequence"]["ops"] == [
        {"hue": {"shift": [0.0, 0.2]}},
        {"contrast": {"factor": [0.5, 0.9]}},
    ]


@pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])
def test_compositions_nest(module: Any) -> None:
    theirs = compose(
        module,
        module.Compose([module.RandomInvert(0.5)]),
        module.RandomApply([module.RandomInvert(0.5)], p=0.4),
        module.RandomApply([module.RandomInvert(), module.RandomEqualize()], p=0.4),
        module.RandomChoice([module.RandomInvert(1), module.Pad(3)], p=[0.2, 0.8]),
        module.RandomOrder([module.RandomInvert(1), module.RandomGrayscale(0.2)]),
    )
    imported = import_recipe(repr(theirs))
    _, applied, both, choice, order = sample(imported)
    p = 0.4 if module is v1 else 0.5  # v2 does not print it
    assert applied == {"invert": {"p": 0.5 * p}}
    assert both["sequence"]["p"] == p
    assert choice["one_of"]["weights"] == [0.2, 0.8]
    assert [next(iter(op)) for op in order["shuffle"]["ops"]] == ["invert", "grayscale"]
    told = [str(note) for note in imported.notes if "does not tell p" in note.text]
    assert len(told) == (0 if module is v1 else 2)


def test_a_branch_that_does_nothing_keeps_its_share() -> None:
    (choice,) = sample(import_recipe("Compose(RandomChoice(Identity() Pad(padding=3)))"))
    pad = {"pad": {"padding": 3, "border": "constant", "fill": 0.0}}
    assert choice["one_of"]["ops"] == [{"horizontal_flip": {"p": 0.0}}, pad]


def test_every_line_is_told_in_its_order() -> None:
    class Own:
        pass

    theirs = compose(v1, v1.Lambda(Own), Own(), v1.FiveCrop(3), v1.RandomApply([v1.Pad(1)]))
    imported = import_recipe(repr(theirs), "file.txt")
    places = [note.where for note in imported.notes]
    assert places == [f"file.txt:{line}" for line in (2, 3, 4, 5, 7)]
    assert verdicts(imported) == ["dropped", "dropped", "dropped", "exact", "exact"]
    assert not imported.complete


def test_a_sequential_is_read_too() -> None:
    module = torch.nn.Sequential(v2.CenterCrop(3), v2.RandomHorizontalFlip())
    assert sample(import_recipe(repr(module)))[0] == {"center_crop": {"size": [3, 3]}}


LIBRARY = {
    "expand": v2.RandomRotation(30, expand=True),
    "max_size": v2.Resize(100, max_size=120),
    "short kernel": v2.GaussianBlur(3),
    "symmetric": v2.Pad(3, padding_mode="symmetric"),
    "zoom": v2.RandomZoomOut(),
    "crop by IoU": v2.RandomIoUCrop(),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_what_no_native_op_says_is_left_to_torchvision(name: str, image: np.ndarray) -> None:
    theirs = LIBRARY[name]
    imported = import_recipe(repr(compose(v2, theirs)))
    assert verdicts(imported) == ["foreign"]
    assert names(imported) == [f"torchvision.{type(theirs).__name__}"]
    assert "not arguments" not in imported.notes[0].text
    if name in ("max_size", "symmetric"):
        want = theirs(chw(image)).permute(1, 2, 0).numpy()
        # The library gets a tensor or a PIL image; those resize alike to a level.
        assert difference(run(imported, image), want).max() <= 1


@pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])
def test_a_threshold_after_to_tensor_is_in_grey_levels(module: Any, image: np.ndarray) -> None:
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    to_float = [v1.ToTensor()] if module is v1 else to_float
    theirs = compose(module, *to_float, module.RandomSolarize(0.4, p=1))
    imported = import_recipe(repr(theirs))
    assert sample(imported)[0] == {"solarize": {"threshold": [102.0, 102.0], "p": 1.0}}
    want = theirs(Image.fromarray(image)).permute(1, 2, 0).numpy()
    # 102 / 255 is 0.4 in float32, or a bit less: levels there may stay on either side.
    off = difference(run(imported, image), want)[image != 102]
    assert off.max() < 1e-6


def test_a_fill_after_to_tensor_is_in_grey_levels() -> None:
    pad = "Pad(padding=3, fill=0.4{})"
    text = f"Compose(ToTensor() {pad.format('')} {pad.format(', padding_mode=symmetric')})"
    native, library, _ = sample(import_recipe(text))
    assert native["pad"]["fill"] == 102.0
    assert library["torchvision.Pad"]["fill"] == 102.0
