"""Boxes to and from libraries that know rectangles only, and keypoints back from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from augpipe.polygons import areas
from augpipe.targets import Outlines, Points
from augpipe.types import Floats


def sets_of(boxes: Floats, before: Sequence[Outlines], size: tuple[int, int]) -> list[Outlines]:
    """Returns the sets of boxes that went in together; see `outlines_of`."""
    parts = np.split(boxes, np.cumsum([len(each) for each in before])[:-1])
    return [outlines_of(part, each, size) for part, each in zip(parts, before, strict=True)]


def points_of(at: Floats, before: Sequence[Points], size: tuple[int, int]) -> list[Points]:
    """Returns the sets of keypoints that went in together.

    Args:
        at: (N, 2), continuous coordinates; NaN where the library dropped one.
        before: What went in.
        size: (height, width) after the transform: beyond it nothing is seen.
    """
    inside = ((at >= 0) & (at <= (size[1], size[0]))).all(axis=1)
    cuts = np.cumsum([len(each) for each in before])[:-1]
    parts = zip(np.split(at, cuts), np.split(inside, cuts), before, strict=True)
    return [Points(part, each.seen & seen, each.mirrored) for part, seen, each in parts]


def probed(points: Points, size: tuple[int, int]) -> Points:
    """Returns keypoints with three more at the end, in whose turn a mirror shows."""
    if not len(points):
        return points
    centre = np.array(size[::-1]) / 2.0
    probe = Points.of(centre + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) * centre / 4.0)
    return Points(
        np.concatenate([points.at, probe.at]),
        np.concatenate([points.seen, probe.seen]),
        np.concatenate([points.mirrored, probe.mirrored]),
    )


def unprobed(points: Points, before: Points) -> Points:
    """Returns keypoints without their probe; where it was dropped nothing is known of a mirror.

    Args:
        points: What became of `probed(before, ...)`.
        before: What it was.
    """
    if not len(before):
        return points
    origin, right, down = points.at[-3:]
    (ax, ay), (bx, by) = right - origin, down - origin
    turn = ax * by - ay * bx
    return Points(points.at[:-3], points.seen[:-3], before.mirrored ^ bool(turn < 0))


def outlines_of(boxes: Floats, before: Outlines, size: tuple[int, int]) -> Outlines:
    """Returns outlines of the boxes that came back.

    What had been cut away before stays counted: `whole` is as much larger than the box as the
    whole was than what was seen, so that `min_visibility` means the same after the transform.

    Args:
        boxes: (N, 4), in pixels, not clipped; NaN where the library dropped one.
        before: What went in.
        size: (height, width) after the transform.
    """
    if not len(before):
        return before
    there = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(there[:, None], boxes, 0.0)
    low, high = boxes[:, :2], boxes[:, 2:]
    centre, half = (low + high) / 2.0, (high - low) / 2.0
    seen_before, whole_before = areas(before.seen), areas(before.whole)
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = np.sqrt(np.where(seen_before > 0, whole_before / seen_before, 1.0))
    grown = np.maximum(grown, 1.0)[:, None]
    whole = _corners(centre - half * grown, centre + half * grown)
    frame = np.array([size[1], size[0]], np.float64)
    seen = _corners(np.clip(low, 0.0, frame), np.clip(high, 0.0, frame))
    return Outlines(whole, seen)


def _corners(low: Floats, high: Floats) -> Floats:
    """Returns (N, 4, 2): the corners of rectangles."""
    both = np.concatenate([low, high], axis=1)
    return np.asarray(both[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))
