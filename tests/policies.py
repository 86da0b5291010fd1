"""What a policy drew, done by torchvision: `transforms.autoaugment._apply_op` on tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode, autoaugment

from augpipe.ops.policy_tables import NAMES
from augpipe.rng import Draws
from augpipe.types import Array
from tests.harness import build

_TORCHVISION = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "autocontrast": "AutoContrast",
}


def torchvision_name(name: str) -> str:
    return _TORCHVISION.get(name, name.capitalize())


def apply(
    image: torch.Tensor,
    name: str,
    magnitude: float,
    share: bool = True,
    mode: InterpolationMode = InterpolationMode.NEAREST,
) -> torch.Tensor:
    """Does a transform to an image (C, H, W); shifts may be shares of the side."""
    if share and name.startswith("translate"):
        magnitude *= image.shape[2] if name == "translate_x" else image.shape[1]
        magnitude += np.sign(magnitude) * 1e-6  # cut to whole pixels by torchvision
    return autoaugment._apply_op(image, torchvision_name(name), magnitude, mode, None)


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


def found(item: Any, wanted: Any) -> list[int]:
    """The sample indices, of 4000, whose drawn names are wanted."""
    op = build(item)[0]
    ops, _ = op.drawn(Draws(7, np.arange(4000)).at(f"{op.name()}#0"))  # type: ignore[attr-defined]
    rows = ops.reshape(len(ops), -1)
    return [k for k, row in enumerate(rows.tolist()) if wanted([NAMES[op] for op in row])]
