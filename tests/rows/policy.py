"""Policies: what was drawn, done by torchvision's `autoaugment._apply_op` on uint8.

torchvision cuts levels off where they are rounded here, and a level that differs by one may
be a whole step apart after a posterize or an equalize: so rows of several transforms take
those that agree exactly, and each transform has a row alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode

from augpipe.ops.policy_tables import GEOMETRY, NAMES
from augpipe.types import Array
from tests.cases import Case
from tests.policies import apply, chain, found

Draw = dict[str, Any]

EXACT = {*GEOMETRY, "identity", "posterize", "solarize", "equalize", "invert"}
NEAREST = {"interpolation": "nearest"}


def policy(share: bool = True) -> Any:
    return lambda image, drawn: chain(image, drawn["op"], drawn["magnitude"], share)


def sharp(image: Array, drawn: Draw) -> Array:
    """torchvision leaves the outermost pixels as they were."""
    out = chain(image, drawn["op"], drawn["magnitude"])
    inside = np.full(out.shape, np.nan)
    inside[1:-1, 1:-1] = out[1:-1, 1:-1]
    return inside


def turned(image: Array, drawn: Draw) -> Array:
    """A rotation, read bilinearly."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    (magnitude,) = drawn["magnitude"].tolist()
    return apply(tensor, "rotate", magnitude, mode=InterpolationMode.BILINEAR).permute(1, 2, 0)


def augmix(image: Array, drawn: Draw) -> Array:
    out = drawn["weights"][0] * image
    for k, weight in enumerate(drawn["weights"][1:]):
        out = out + weight * chain(image, drawn["op"][k], drawn["magnitude"][k])
    return out


TIES = {"parity": (255.0, 0.6), "parity_cause": "nearest pixels at a tie, and what follows them"}


def row(item: Any, index: int, oracle: Any, **options: Any) -> Case:
    cause = "a level that is rounded the other way may be a step of a later equalize"
    parity = {"parity": (2.0, 0.02), "parity_cause": cause}
    oracle_name = "torchvision.autoaugment._apply_op"
    return Case(item, oracle, oracle_name, index=index, **{**parity, **options})


def single(name: str, image: str = "rgb") -> Case:
    """TrivialAugment where it draws this transform."""
    item = {"trivial_augment": NEAREST}
    index = found(item, lambda names: names == [name])[1]
    if name in EXACT:
        ties = TIES if name.startswith("shear") else {}
        return row(item, index, policy(share=False), image=image, **ties)
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
        row({"augmix": item}, k, augmix, tolerance=(0.501, 0.3), cause=cause, image=image, **TIES)
        for k in indices
    ]


ROWS = [
    *(single(name) for name in NAMES if name != "invert"),
    *(single(name, "grey") for name in ("shear_x", "color", "contrast", "equalize")),
    row(
        "trivial_augment",
        found("trivial_augment", lambda names: names == ["rotate"])[0],
        turned,
        tolerance=(1.0, 0.02),
        cause="rounding to whole levels",
    ),
    *several({"rand_augment": {**NEAREST, "num_ops": 3, "magnitude": 15}}, 3),
    *several({"rand_augment": {**NEAREST, "magnitude_std": 5, "num_magnitude_bins": 11}}, 2),
    *several({"rand_augment": NEAREST}, 2, "grey"),
    *several({"auto_augment": NEAREST}, 3),
    *several({"auto_augment": {**NEAREST, "policy": "cifar10"}}, 2),
    *several({"auto_augment": {**NEAREST, "policy": "svhn"}}, 4),
    *mixed({**NEAREST, "all_ops": False, "severity": 10}, 4),
    *mixed({"all_ops": False, "geometry": False, "depth": [2, 4], "width": 2}, 2, "grey"),
]
