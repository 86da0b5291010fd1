"""Policies: what was drawn, done by torchvision's `autoaugment._apply_op` on uint8.

torchvision cuts levels off where they are rounded here, and a level that differs by one may
be a whole step apart after a posterize or an equalize: so rows of several transforms take
those that agree exactly, and each transform has a row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode, autoaugment

from augpipe.ops.policy_tables import GEOMETRY, NAMES
from augpipe.rng import Draws
from augpipe.types import Array
from tests.cases import Case
from tests.harness import build

Draw = dict[str, Any]

EXACT = {*GEOMETRY, "identity", "posterize", "solarize", "equalize", "invert"}
_TORCHVISION = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "autocontrast": "AutoContrast",
}
NEAREST = {"interpolation": "nearest"}


def torchvision_name(name: str) -> str:
    return _TORCHVISION.get(name, name.capitalize())


def apply(image: torch.Tensor, name: str, magnitude: float, share: bool = True) -> torch.Tensor:
    """Does a transform to a uint8 image (C, H, W); shifts may be shares of the side."""
    if share and name.startswith("translate"):
        magnitude *= image.shape[2] if name == "translate_x" else image.shape[1]
        magnitude += np.sign(magnitude) * 1e-6  # cut to whole pixels by torchvision
    return autoaugment._apply_op(
        image, torchvision_name(name), magnitude, InterpolationMode.NEAREST, None
    )


def chain(image: Array, ops: Array, magnitudes: Array, share: bool = True) -> Array:
    """Does transforms one after another; NaN where the nearest pixel is not quite certain."""
    out = []
    for factor in (1.0, 1.0 - 1e-4, 1.0 + 1e-4):
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        for op, magnitude in zip(ops.tolist(), magnitudes.tolist(), strict=True):
            slanted = NAMES[op] in ("shear_x", "shear_y", "rotate")
            tensor = apply(tensor, NAMES[op], magnitude * (factor if slanted else 1.0), share)
        out.append(tensor.permute(1, 2, 0).numpy().astype(np.float64))
    return np.where((out[0] == out[1]) & (out[0] == out[2]), out[0], np.nan)


def policy(share: bool = True) -> Any:
    return lambda image, drawn: chain(image, drawn["op"], drawn["magnitude"], share)


def sharp(image: Array, drawn: Draw) -> Array:
    """torchvision leaves the outermost pixels as they were."""
    out = chain(image, drawn["op"], drawn["magnitude"])
    inside = np.full(out.shape, np.nan)
    inside[1:-1, 1:-1] = out[1:-1, 1:-1]
    return inside


def augmix(image: Array, drawn: Draw) -> Array:
    out = drawn["weights"][0] * image
    for k, weight in enumerate(drawn["weights"][1:]):
        out = out + weight * chain(image, drawn["op"][k], drawn["magnitude"][k])
    return out


def found(item: Any, wanted: Any) -> list[int]:
    """The sample indices, of 4000, whose drawn names are wanted."""
    op = build(item)[0]
    ops, _ = op.drawn(Draws(7, np.arange(4000)).at(f"{op.name()}#0"))  # type: ignore[attr-defined]
    rows = ops.reshape(len(ops), -1)
    return [k for k, row in enumerate(rows.tolist()) if wanted([NAMES[op] for op in row])]


PARITY = (255.0, 0.5)
PARITY_CAUSE = (
    "nearest pixels at a tie; a level that is rounded the other way may be a step of a later "
    "posterize or equalize"
)


def row(item: Any, index: int, oracle: Any, **options: Any) -> Case:
    return Case(
        item,
        oracle,
        "torchvision.autoaugment._apply_op",
        index=index,
        parity=PARITY,
        parity_cause=PARITY_CAUSE,
        **options,
    )


def single(name: str, image: str = "rgb") -> Case:
    """TrivialAugment where it draws this transform."""
    item = {"trivial_augment": NEAREST}
    index = found(item, lambda names: names == [name])[1]
    if name in EXACT:
        return row(item, index, policy(share=False), image=image)
    cause = "torchvision cuts off where we round, its grey and its mean grey too"
    oracle = sharp if name == "sharpness" else policy(share=False)
    return row(item, index, oracle, tolerance=(2.0, 1.1), cause=cause, image=image)


def several(item: Any, count: int, image: str = "rgb") -> list[Case]:
    """A policy where it draws several transforms, all of which are exact."""

    def exact(names: list[str]) -> bool:
        return EXACT.issuperset(names) and "identity" not in names and len(set(names)) > 1

    return [row(item, k, policy(), image=image) for k in found(item, exact)[:count]]


def mixed(item: dict[str, Any], count: int, image: str = "rgb") -> list[Case]:
    cause = "rounding to whole levels"
    indices = found({"augmix": item}, EXACT.issuperset)[:count]
    return [
        row({"augmix": item}, k, augmix, tolerance=(0.501, 0.3), cause=cause, image=image)
        for k in indices
    ]


ROWS = [
    *(single(name) for name in NAMES if name != "invert"),
    *(single(name, "grey") for name in ("shear_x", "color", "contrast", "equalize")),
    *several({"rand_augment": {**NEAREST, "num_ops": 3, "magnitude": 15}}, 3),
    *several({"rand_augment": {**NEAREST, "magnitude_std": 5, "num_magnitude_bins": 11}}, 2),
    *several({"rand_augment": NEAREST}, 2, "grey"),
    *several({"auto_augment": NEAREST}, 3),
    *several({"auto_augment": {**NEAREST, "policy": "cifar10"}}, 2),
    *several({"auto_augment": {**NEAREST, "policy": "svhn"}}, 4),
    *mixed({**NEAREST, "all_ops": False, "severity": 10}, 4),
    *mixed({"all_ops": False, "geometry": False, "depth": [2, 4], "width": 2}, 2, "grey"),
]
