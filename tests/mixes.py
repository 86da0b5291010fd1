"""What the tests of mixing share: every op in every mode, and batches whose pixels tell tales."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from augpipe.ir import Mix
from augpipe.ops import mix as ops
from augpipe.rng import Draws, Trace
from augpipe.targets import Batch, Boxes, Keypoints, Points, finish, origins, outline
from augpipe.types import Frame

MODES = ("batch", "pair", "element")
H, W = 37, 53
LAID = [
    *(ops.Cutmix(mode=mode) for mode in MODES),
    *(ops.Resizemix(mode=mode) for mode in MODES),
    *(ops.Fmix(mode=mode) for mode in MODES),
    ops.Mosaic(),
    ops.Mosaic(scale=(1.0, 2.0), center=(0.0, 1.0)),
    ops.CopyPaste(objects=0.7),
    ops.CopyPaste(objects=0.7, scale=(0.4, 1.7)),
]
THIN = [
    *(ops.Mixup(alpha=1.0, mode=mode) for mode in MODES),
    *(ops.MixupOrCutmix(mode=mode) for mode in MODES),
]


def name(value: Any) -> str:
    return repr(value).replace(" ", "")


def draws(op: ops._Mixing, indices: Any, seed: int = 3, trace: Trace | None = None) -> Draws:
    return Draws(seed, np.asarray(indices, np.int64), 0, f"{op.name()}#0", trace)


def means(op: Any, indices: Any, size: tuple[int, int] = (H, W), **more: Any) -> Mix:
    frame = Frame(np.array([size] * len(indices), np.int64).reshape(-1, 2))
    return op.means(draws(op, indices, **more), frame)


RECTANGLES = [(5, 4, 25, 20), (30, 10, 48, 33)]


def colours(n: int, height: int = H, width: int = W) -> Tensor:
    """Image k is of one level, 30 k, in two channels."""
    return torch.full((n, 2, height, width), 30, dtype=torch.uint8) * torch.arange(
        n, dtype=torch.uint8
    ).view(-1, 1, 1, 1)


def noise(n: int, height: int = H, width: int = W) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng(5).integers(0, 256, (n, 3, height, width), np.uint8)
    )


def batch(images: Tensor, *, boxes: bool = True, instances: bool = True, **more: Any) -> Batch:
    """A batch with a class, two boxes, their masks and centres, and a map of classes each."""
    n, _, height, width = images.shape
    drawn = torch.zeros(n, len(RECTANGLES), height, width, dtype=torch.uint8)
    for k, (x0, y0, x1, y1) in enumerate(RECTANGLES):
        drawn[:, k, y0:y1, x0:x1] = 1
    table = np.array(RECTANGLES, np.float64)
    centres = Points.of((table[:, :2] + table[:, 2:]) / 2)
    held: dict[str, Any] = {
        "labels": torch.arange(n),
        "classes": n,
        "masks": {"classes": torch.arange(n).view(-1, 1, 1, 1).expand(n, 1, height, width)},
    }
    if instances:
        held["masks"]["objects"] = drawn
        held["instances"] = {"objects": np.full(n, len(table))}
    if boxes:
        held["boxes"] = [Boxes.of(outline(table), i) for i in range(n)]
        held["points"] = [Keypoints(centres, origins(i, len(table))) for i in range(n)]
    return Batch(images, **(held | more))


def hull(out: Batch, row: int) -> np.ndarray:
    assert out.boxes is not None
    boxes, kept = finish(out.boxes[row].outlines, out.images.shape[2:], 0.0, 0.0)
    assert len(kept) == len(out.boxes[row].outlines)
    return boxes
