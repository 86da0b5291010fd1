"""Importers: what albumentations saves, compared with albumentations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augpipe.importers import import_recipe
from tests.imported import content, difference, names, photo, run, sample, verdicts

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the package index at its import otherwise
import albumentations as A


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return photo()


ALBUMENTATIONS: dict[str, tuple[Any, float, float]] = {
    "HorizontalFlip": (A.HorizontalFlip(p=1), 0, 0),
    "VerticalFlip": (A.VerticalFlip(p=1), 0, 0),
    "Transpose": (A.Transpose(p=1), 0, 0),
    "Pad two": (A.Pad((1, 2)), 0, 0),
    "Pad four": (A.Pad((1, 2, 3, 4), fill=9), 0, 0),
    "Pad reflect": (A.Pad(3, border_mode=4), 0, 0),
    "RandomCrop": (A.RandomCrop(240, 320), 0, 0),
    "CenterCrop": (A.CenterCrop(100, 98), 0, 0),
    "Resize up": (A.Resize(300, 400, interpolation=2), 0, 0),
    "Resize": (A.Resize(150, 160), 0.5, 1),  # width by exactly 2: averaged here and there
    "Rotate": (A.Rotate((30, 30), p=1), 0.01, 1),  # OpenCV's fixed-point weights
    "Rotate edge": (A.Rotate((30, 30), border_mode=1, p=1), 0.01, 1),
    "Affine": (A.Affine(scale=(0.8, 0.8), rotate=(20, 20), p=1), 0.1, 30),  # a rim of one pixel
    "Affine shift": (A.Affine(translate_percent={"x": 0.1, "y": 0.2}, p=1), 0, 0),
    "RGBShift": (A.RGBShift((20, 20), (10, 10), (-30, -30), p=1), 0, 0),
    "ToGray": (A.ToGray(p=1), 0, 0),
    "ToSepia": (A.ToSepia(p=1), 0.2, 1),  # rounds down
    "InvertImg": (A.InvertImg(p=1), 0, 0),
    "Solarize": (A.Solarize((0.4, 0.4), p=1), 0, 0),
    "Posterize": (A.Posterize((3, 3), p=1), 0, 0),
    "AutoContrast": (A.AutoContrast(method="pil", p=1), 0.5, 1),  # rounds down
    # OpenCV's Lab is up to two units off, of which equalizing makes more.
    "CLAHE": (A.CLAHE((2, 2), p=1), 1.5, 40),
    "RandomGamma": (A.RandomGamma((150, 150), p=1), 0.5, 1),  # rounds down
    "ColorJitter": (A.ColorJitter((1.3, 1.3), (1, 1), (1, 1), (0, 0), p=1), 0.5, 1),
    "GaussianBlur": (A.GaussianBlur(sigma_limit=(1.5, 1.5), p=1), 0.01, 1),
    "Blur": (A.Blur((5, 5), p=1), 0, 0),
    "MedianBlur": (A.MedianBlur((5, 5), p=1), 0, 0),
    "PixelDropout": (A.PixelDropout(1.0, p=1), 0, 0),
    "Normalize": (A.Normalize(), 1e-6, 1e-6),
    "ToFloat": (A.ToFloat(), 0, 0),
}


@pytest.mark.parametrize("name", ALBUMENTATIONS)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_albumentations_gives_the_same_pixels(
    name: str, form: str, image: np.ndarray, tmp_path: Path
) -> None:
    transform, mean, most = ALBUMENTATIONS[name]
    theirs = A.Compose([transform])
    A.save(theirs, tmp_path / "saved", data_format=form)
    imported = import_recipe((tmp_path / "saved").read_text())
    assert imported.library == "albumentations"
    off = difference(run(imported, image), theirs(image=image)["image"])
    assert off.mean() <= mean
    assert off.max() <= most
    assert imported.complete


def test_albumentations_transform_alone() -> None:
    imported = import_recipe(json.dumps(A.to_dict(A.HorizontalFlip(p=0.3))))
    assert sample(imported) == [{"horizontal_flip": {"p": 0.3}}]


def test_albumentations_keeps_ranges_and_p() -> None:
    theirs = A.Compose(
        [
            A.RandomResizedCrop((30, 40), scale=(0.2, 0.9), p=1),
            A.Rotate(20, border_mode=4, p=0.7),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=0.8),
            A.GaussNoise((0.1, 0.2), per_channel=False, p=0.25),
            A.RandomRotate90(p=0.5),
        ]
    )
    assert sample(import_recipe(json.dumps(A.to_dict(theirs)))) == [
        {
            "random_resized_crop": {
                "size": [30, 40],
                "scale": [0.2, 0.9],
                "ratio": [0.75, 4 / 3],
                "interpolation": "bilinear",
                "p": 1.0,
            }
        },
        {
            "rotate": {
                "degrees": [-20.0, 20.0],
                "border": "reflect",
                "fill": 0.0,
                "mask_fill": 0,
                "interpolation": "bilinear",
                "mask_interpolation": "nearest",
                "p": 0.7,
            }
        },
        {
            "color_jitter": {
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.4,
                "hue": 0.1,
                "p": 0.8,
            }
        },
        {"gaussian_noise": {"sigma": [25.5, 51.0], "per_channel": False, "p": 0.25}},
        {"rotate90": {"times": [0, 3], "p": 0.5}},
    ]


def test_albumentations_compositions() -> None:
    flip, invert, gray = A.HorizontalFlip(p=0.2), A.InvertImg(p=0.6), A.ToGray(p=0.5)
    theirs = A.Compose(
        [
            A.OneOf([flip, A.Sequential([invert, gray], p=0.6)], p=0.9),
            A.OneOrOther(flip, invert, p=0.3),
            A.SomeOf([flip, invert, gray], n=2, p=0.5),
            A.RandomOrder([flip, invert], n=2),
            A.Sequential([flip, gray], p=0.5),
        ],
        p=0.5,
    )
    (whole,) = sample(import_recipe(json.dumps(A.to_dict(theirs))))
    assert whole["sequence"]["p"] == 0.5
    first, either, some, order, both = whole["sequence"]["ops"]
    # OneOf's transforms act always: their p are its weights. Inside a chosen Sequential p counts.
    inner = [{"invert": {"p": 0.6}}, {"grayscale": {"p": 0.5}}]
    assert first["one_of"] == {
        "p": 0.9,
        "weights": [0.2, 0.6],
        "ops": [{"horizontal_flip": {"p": 1.0}}, {"sequence": {"ops": inner, "p": 1.0}}],
    }
    assert either["one_of"]["weights"] == [0.3, 0.7]
    assert [op["p"] for each in either["one_of"]["ops"] for op in each.values()] == [1.0, 1.0]
    assert (some["some_of"]["count"], some["some_of"]["p"]) == ([2, 2], 0.5)
    assert order["shuffle"]["ops"] == [{"horizontal_flip": {"p": 0.2}}, {"invert": {"p": 0.6}}]
    assert both["sequence"]["p"] == 0.5


def test_albumentations_boxes_and_targets() -> None:
    boxes = A.BboxParams("coco", label_fields=["l"], min_area=9, min_visibility=0.3, min_width=2)
    theirs = A.Compose([A.HorizontalFlip()], bbox_params=boxes, additional_targets={"b": "image"})
    imported = import_recipe(json.dumps(A.to_dict(theirs)))
    assert content(imported)["boxes"] == {"min_area": 9.0, "min_visibility": 0.3}
    dropped = [str(note) for note in imported.notes if note.verdict == "dropped"]
    assert len(dropped) == 2
    assert "min_width=2" in dropped[0]
    assert "transform.additional_targets.b" in dropped[1]


def test_aliases_in_yaml_are_read() -> None:
    text = (
        "__version__: 2.0.8\ntransform:\n  __class_fullname__: Compose\n  transforms:\n"
        "  - &flip {__class_fullname__: HorizontalFlip, p: 0.2}\n  - *flip\n"
    )
    assert sample(import_recipe(text)) == [{"horizontal_flip": {"p": 0.2}}] * 2


def test_an_unknown_class_and_version_are_told() -> None:
    flip = {"__class_fullname__": "HorizontalFlipp", "p": 1.0}
    saved = {
        "__version__": "1.3.1",
        "transform": {"__class_fullname__": "Compose", "transforms": [flip]},
    }
    imported = import_recipe(json.dumps(saved))
    assert verdicts(imported) == ["changed", "dropped"]
    assert "transform.transforms[0]" in imported.notes[1].where
    assert imported.empty
    assert sample(imported) == []


def test_what_no_native_op_says_is_left_to_albumentations(image: np.ndarray) -> None:
    transforms = [
        A.MotionBlur((5, 5), p=0.4),
        A.Affine(shear=5, p=1),
        A.Equalize(p=1),
        A.AdvancedBlur(p=0.5),  # saved with floats for integers
        A.SafeRotate(p=0.2),  # saved with arguments that are not its constructor's
        A.PadIfNeeded(300, 300, border_mode=2),
    ]
    imported = import_recipe(json.dumps(A.to_dict(A.Compose(transforms))))
    assert set(verdicts(imported)) == {"foreign"}
    assert names(imported) == [f"albumentations.{type(each).__name__}" for each in transforms]
    assert sample(imported)[0]["albumentations.MotionBlur"]["p"] == 0.4
    for one in (A.Equalize(p=1), A.PadIfNeeded(300, 300, border_mode=2), A.Resize(99, 98, 4)):
        theirs = A.Compose([one])
        ours = import_recipe(json.dumps(A.to_dict(theirs)))
        assert difference(run(ours, image), theirs(image=image)["image"]).max() == 0


def test_what_is_saved_beside_the_arguments_is_told_where_it_need_not_follow_from_them() -> None:
    # 2.0.8 saves `padding` of PadIfNeeded, which its constructor works out itself.
    saved = A.to_dict(A.Compose([A.PadIfNeeded(300, 300, border_mode=2)]))
    assert "padding" in saved["transform"]["transforms"][0]
    (note,) = import_recipe(json.dumps(saved)).notes
    assert note.text == "PadIfNeeded -> albumentations.PadIfNeeded"
    saved["__version__"] = "1.4.0"
    assert (
        import_recipe(json.dumps(saved))
        .notes[-1]
        .text.endswith("; left out, no argument of it in version 2.0.8: padding")
    )
