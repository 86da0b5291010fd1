"""Every op on drawn shapes: boxes, oriented boxes and keypoints where the warped mask shows them.

In both sections, for what is one op as for policies. Shapes are drawn with pixel centres, masks
are read at them: a box and the hull of its mask may differ by half a pixel of the source at each
side and half one of the result.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import augpipe
from augpipe.ir import WHOLE
from augpipe.plan.nodes import steps
from tests.cases import CASES, Case
from tests.harness import build

H, W = 160, 200
BOXES = np.array([[70.0, 56, 118, 100], [20, 20, 64, 50], [130, 90, 190, 150]])
TURNED = np.array(
    [[[90.0, 50], [150, 80], [135, 110], [75, 80]], [[30, 60], [60, 60], [60, 140], [30, 140]]]
)
ITEMS = {repr(case.item): case for case in CASES if case.section == "sample"}
INDICES = (0, 1, 2)


def straight(case: Case) -> bool:
    """Whether right angles stay."""
    (op,) = build(case.item)
    return all(step.op.name() not in BENT for step in steps([op], Counter()))


def moves(case: Case) -> bool:
    """Whether an op stands for itself, and in both sections."""
    (op,) = build(case.item)
    kinds = {step.op.kind for step in steps([op], Counter())}
    return "batch" in op.sections and not kinds & set(WHOLE) and not op.misplaced and not op.last


MOVED = [case for case in ITEMS.values() if moves(case)]
OFTEN = Counter[str]()
MOVED = [case for case in MOVED if OFTEN.update([case.op]) or OFTEN[case.op] <= 2]
BENT = ("elastic", "grid_distortion", "optical_distortion", "perspective", "shear", "affine")
"""What leaves no right angles, or no straight sides."""


def drawn(polygons: Any) -> np.ndarray:
    """Masks of the pixels whose centres lie in a polygon."""
    out = []
    for polygon in polygons:
        mask = np.zeros((H, W), np.uint8)
        at = np.round((np.asarray(polygon) - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(mask, [at], 1, shift=4)
        out.append(mask)
    return np.stack(out)


def rectangles() -> np.ndarray:
    masks = np.zeros((len(BOXES), H, W), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES.astype(int), strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks


UPRIGHT = {
    "boxes": BOXES,
    "masks": rectangles(),
    "labels": np.arange(len(BOXES)),
    "keypoints": (BOXES.reshape(-1, 2, 2).mean(axis=1, keepdims=True) - 0.5).repeat(1, axis=1),
}
UPRIGHT["keypoints"] = np.concatenate([UPRIGHT["keypoints"], np.full((3, 1, 1), 2.0)], axis=2)
LYING = {"oriented_boxes": TURNED, "masks": drawn(TURNED), "labels": np.arange(len(TURNED))}


def through(item: Any, section: str, targets: dict[str, Any], indices: Any) -> list[dict[str, Any]]:
    """The targets of each index, as arrays."""
    pipe = augpipe.load({"version": 1, "seed": 11, section: [item], "boxes": {"min_area": 0.0}})
    image = np.zeros((H, W, 3), np.uint8)
    if section == "sample":
        return [pipe({"image": image, **targets}, index=k) for k in indices]
    out = []
    for k in indices:  # one by one: some ops give each image another size
        given = {name: [torch.from_numpy(each)] for name, each in targets.items()}
        images = torch.zeros((1, 3, H, W), dtype=torch.uint8)
        made, moved = pipe.batch(images, given, index=[k], epoch=0)
        own = {name: each[0].numpy() for name, each in moved.items()}
        out.append({"image": made[0].permute(1, 2, 0).numpy(), **own})
    return out


def hull(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("section", ["sample", "batch"])
@pytest.mark.parametrize("case", MOVED, ids=lambda case: case.id)
def test_boxes_are_where_masks_are(case: Case, section: str) -> None:
    for out in through(case.item, section, UPRIGHT, INDICES):
        assert len(out["boxes"]) == len(out["masks"]) == len(out["labels"])
        grain = grain_of(out)
        for box, mask, point in zip(out["boxes"], out["masks"], out["keypoints"], strict=True):
            if not mask.any():  # a sliver that holds no pixel's centre
                assert (box[2:] - box[:2]).min() <= 2 * grain
                continue
            assert abs(hull(mask) - box).max() <= grain, f"mask at {hull(mask)}, box at {box}"
            x, y, seen = point[0]
            if seen:
                at = np.minimum(np.round([y, x]).astype(int), np.array(mask.shape) - 1)
                assert mask[tuple(at)] or mask.sum() < 60


@pytest.mark.parametrize("section", ["sample", "batch"])
@pytest.mark.parametrize("case", MOVED, ids=lambda case: case.id)
def test_oriented_boxes_are_where_masks_are(case: Case, section: str) -> None:
    """All of a mask lies within its box, and reaches its sides."""
    for out in through(case.item, section, LYING, INDICES):
        grain = 2 * grain_of(out) + 0.5  # how a slanted side is drawn
        for box, mask in zip(out["oriented_boxes"], out["masks"], strict=True):
            if mask.sum() < 30:
                continue
            y, x = np.nonzero(mask)
            at = np.stack([x, y], axis=1) + 0.5
            for side in (box[1] - box[0], box[3] - box[0]):
                axis = side / max(np.hypot(*side), 1e-9)
                ends, found = box @ axis, at @ axis
                assert found.min() >= ends.min() - grain and found.max() <= ends.max() + grain
                if straight(case):
                    assert found.min() <= ends.min() + grain + 1
                    assert found.max() >= ends.max() - grain - 1


@pytest.mark.parametrize("case", MOVED, ids=lambda case: case.id)
def test_both_sections_move_them_alike(case: Case) -> None:
    for targets in (UPRIGHT, LYING):
        pairs = zip(
            *(through(case.item, s, targets, INDICES) for s in ("sample", "batch")), strict=True
        )
        for one, other in pairs:
            for name in targets:
                assert one[name].shape == other[name].shape, name
                if name == "masks":
                    assert (
                        not one[name].size or (one[name] != other[name]).mean() < 2e-3
                    )  # ties of the nearest pixel
                else:
                    assert np.allclose(one[name], other[name], atol=1e-6), name


def grain_of(out: dict[str, Any]) -> float:
    """Half a pixel of the source as it is after the op, and half of the result's."""
    height, width = out["image"].shape[:2]
    return 0.5 + 0.6 * max(1.0, 2 * max(height / H, width / W))


def test_nothing_is_left_out() -> None:
    """Every op that is a warp or a flow, and every policy, is here."""
    here = {case.op for case in MOVED}
    for name in ("rotate", "affine", "perspective", "elastic", "grid_distortion", "box_safe_crop"):
        assert name in here
    for name in ("trivial_augment", "rand_augment", "auto_augment", "augmix", "one_of", "some_of"):
        assert name in here, name
