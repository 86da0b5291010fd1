"""Meanings applied to what is not pixels: boxes and keypoints; and what one sample holds.

A box is carried through a whole section as two polygons, all of it and what is still seen of
it; only `finish` takes the hull: the axis-aligned one, or of an oriented box the rectangle along
its own sides. So five rotations widen a box once, not five
times, and what an earlier op cut away stays away. Lines of sight are half-planes
(ir.Warp.box, ir.Warp.lines, the output frame, the horizon); a half-plane of the output is one
of the source too, so that everything is cut at once, in source coordinates, before it moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

import numpy as np

from augpipe.errors import DataError
from augpipe.flows import displace, fineness
from augpipe.ir import Flow, Warp, frame_lines, rect
from augpipe.polygons import areas, clipped, padded, rectangles_along, subdivided, within_lines
from augpipe.types import Array, Bools, Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-6  # square pixels: what is seen of a box below this is nothing


@dataclass(frozen=True, slots=True)
class Outlines:
    """N boxes as polygons in continuous coordinates, short ones padded by their last corner.

    Args:
        whole: (N, k, 2), where each box is, also beyond the frame.
        seen: (N, m, 2), the part that no crop or frame has cut away so far; all corners
            alike where nothing is left. The same array as `whole` until something is cut.
        oriented: Whether they end as rectangles along their own sides.
    """

    whole: Floats
    seen: Floats
    oriented: bool = False

    def __len__(self) -> int:
        return len(self.whole)


@dataclass(frozen=True, slots=True)
class Points:
    """N keypoints.

    Args:
        at: (N, 2), x and y in continuous coordinates; NaN where there is none.
        seen: (N,), false from where a crop or a frame first left the point out.
        mirrored: (N,), whether what lies around it is seen as in a mirror.
    """

    at: Floats
    seen: Bools
    mirrored: Bools

    @classmethod
    def of(cls, at: Floats) -> Points:
        """Starts keypoints on their way."""
        return cls(at, np.ones(len(at), np.bool_), np.zeros(len(at), np.bool_))

    def __len__(self) -> int:
        return len(self.at)


@dataclass(slots=True)
class Sample:
    """One image and what belongs to it, in the program's own forms.

    Args:
        image: (H, W, C), uint8, or float32 of grey levels 0..255 (see `normalized`). Until an op
            has looked at it, it may be a `types.Picture`.
        masks: Each (H, W, C); uint8, uint16, int16, float32 or float64.
        points: Sets of keypoints.
        boxes: Sets of boxes.
        normalized: Whether `image` has left grey levels for float32 values of its own.
        heatmaps: Which of the masks are heat maps: float32, and read as images are.
        outlines: Sets of polygons, which move as boxes do; no op and no constraint looks at them.
    """

    image: Array
    masks: list[Array] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    boxes: list[Outlines] = field(default_factory=list)
    normalized: bool = False
    heatmaps: frozenset[int] = frozenset()
    outlines: list[Outlines] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one image, its own and those that mixing laid over it.

    Args:
        outlines: N boxes.
        origin: (N, 3), the image of the batch that each came with, its row there, and the way
            that it came since: 0, or what `by_layer` makes of it.
        weight: (N,), the share of each that is seen: 1 until something is mixed.
    """

    outlines: Outlines
    origin: Ints
    weight: Floats

    @classmethod
    def of(cls, outlines: Outlines, image: int) -> Boxes:
        """Starts the boxes that came with an image."""
        return cls(outlines, origins(image, len(outlines)), np.ones(len(outlines)))


@dataclass(frozen=True, slots=True)
class Keypoints:
    """The keypoints of one image, its own and those that mixing laid over it.

    Args:
        points: N keypoints.
        origin: (N, 3), as of boxes.
    """

    points: Points
    origin: Ints


def origins(image: int, count: int) -> Ints:
    """Returns (count, 3) origins of what comes with an image of the batch."""
    rows = np.arange(count)
    return np.stack([np.full_like(rows, image), rows, np.zeros_like(rows)], axis=1)


def by_layer(origin: Ints, layer: int, layers: int) -> Ints:
    """Returns the origins of what came by a layer of a mix, from 1 on; by none (0), of what stayed.

    Of an object that comes to an image twice, by two mixes, the boxes and keypoints are told apart
    by their ways.
    """
    out = origin.copy()
    out[:, 2] = (layers + 1) * origin[:, 2] + layer
    return out


@dataclass(slots=True)
class Batch:
    """n images and what belongs to them.

    Args:
        images: (n, C, H, W), uint8, or float32 of grey levels 0..255.
        labels: (n,) int64 classes, or (n, K) floats in 0..1; None where there are none.
        masks: By name, (n, m, H, W) of any dtype; images with fewer masks are padded.
        instances: By the name of masks that are one an object: (n,) how many each image has.
        boxes: One set an image; None where there are none.
        points: One set an image; None where there are none.
        classes: How many classes there are, where it is known.
        names: What they are called, where it is known.
        heatmaps: Which of the masks are heat maps, read as images are.
    """

    images: Tensor
    labels: Tensor | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    instances: dict[str, Ints] = field(default_factory=dict)
    boxes: list[Boxes] | None = None
    points: list[Keypoints] | None = None
    classes: int | None = None
    names: Sequence[str] | None = None
    heatmaps: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ending:
    """How targets end.

    Args:
        min_area: A box stays with at least this area seen, in square pixels of the result.
        min_visibility: A box stays with at least this share of its own area seen.
        flip_pairs: Keypoints of an object that change places in a mirror.
    """

    min_area: float = 0.0
    min_visibility: float = 0.0
    flip_pairs: tuple[tuple[int, int], ...] = ()


def outline(boxes: Array, where: str = "boxes") -> Outlines:
    """Starts boxes on their way.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels, continuous coordinates.
        where: What errors call them.

    Raises:
        DataError: If a coordinate is not finite, or x1 < x0 or y1 < y0, with the row.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    ordered = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
    for row in np.flatnonzero(~(finite & ordered))[:1]:
        what = "x1 < x0 or y1 < y0" if finite[row] else "coordinates must be finite"
        raise DataError(f"{where}[{row}]", f"{what} in [x0, y0, x1, y1] = {boxes[row].tolist()}")
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return Outlines(corners, corners)


def oriented_outline(corners: Array, where: str = "oriented_boxes") -> Outlines:
    """Starts oriented boxes on their way.

    Args:
        corners: (N, 4, 2), one after another round each box, in pixels, continuous coordinates.
        where: What errors call them.

    Raises:
        DataError: If a coordinate is not finite, with the row.
    """
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 2)
    for row in np.flatnonzero(~np.isfinite(corners).all(axis=(1, 2)))[:1]:
        raise DataError(
            f"{where}[{row}]", f"coordinates must be finite, in {corners[row].tolist()}"
        )
    return Outlines(corners, corners, oriented=True)


def move_outlines(meaning: Warp | Flow, row: int, outlines: Outlines) -> Outlines:
    """Carries boxes through row `row` of a warp or a flow.

    Mirrored copies beyond an edge (border "edge" or "reflect") are pixels, not objects: what
    is seen ends at the frame whatever the border shows.
    """
    if not len(outlines):
        return outlines
    match meaning:
        case Warp():
            return _warp_outlines(meaning, row, outlines)
        case Flow():
            return _flow_outlines(meaning, row, outlines)
    assert_never(meaning)


def move_points(meaning: Warp | Flow, row: int, points: Points) -> Points:
    """Carries keypoints through row `row` of a warp or a flow; none is dropped.

    A point behind the horizon of a perspective map keeps the place that the formula gives.
    """
    if not len(points):
        return points
    match meaning:
        case Warp():
            inverse = _inverse(meaning.matrix[row])
            seen = points.seen & within_lines(_sight(meaning, row, inverse), points.at)
            mirrored = points.mirrored ^ bool(np.linalg.det(inverse) < 0)
            return Points(_project(inverse, points.at), seen, mirrored)
        case Flow():
            edges = _frame(meaning.size[row])
            at, found = displace(meaning, row, points.at)
            seen = points.seen & found & within_lines(edges, points.at) & within_lines(edges, at)
            return Points(at, seen, points.mirrored)
    assert_never(meaning)


def finish(
    outlines: Outlines, size: Ints | tuple[int, int], min_area: float, min_visibility: float
) -> tuple[Floats, Ints]:
    """Takes the hull of what is seen of each box, and drops what is too little.

    The hull is axis-aligned; that of an oriented box is the rectangle along its own sides. Where
    a map has left it no right angles, of the rectangles along a side of what it became, the
    smallest that holds all of it says how it lies.

    Args:
        outlines: The boxes.
        size: (height, width) of the image they are on; they end there.
        min_area: A box stays with at least this area seen, in square pixels of the result.
        min_visibility: A box stays with at least this share of its own area seen.

    Returns:
        (K, 4) boxes x0, y0, x1, y1, or (K, 4, 2) corners of oriented ones, clockwise as seen;
        and the K rows they had. A box without area is dropped.
    """
    if not len(outlines):
        return np.zeros((0, 4, 2) if outlines.oriented else (0, 4)), np.zeros(0, np.int64)
    seen = visible(outlines, size)
    area, whole = areas(seen), areas(outlines.whole)
    enough = (area >= min_area) & (area >= min_visibility * whole * (1.0 - 1e-9))
    kept = np.flatnonzero(enough & (area > _LEAST))
    if outlines.oriented:
        return rectangles_along(outlines.whole[kept], seen[kept]), kept
    hull = np.concatenate([seen[kept].min(axis=1), seen[kept].max(axis=1)], axis=1)
    height, width = size
    return np.clip(hull, 0.0, [width, height, width, height]), kept


def visible(outlines: Outlines, size: Ints | tuple[int, int]) -> Floats:
    """Returns (N, k, 2): what is seen of each polygon on an image of this (height, width)."""
    return clipped(outlines.seen, _frame(size)) if len(outlines) else outlines.seen


def _frame(size: Ints | tuple[int, int]) -> Floats:
    """Returns (4, 3): the half-planes of a frame of this (height, width)."""
    return np.asarray(frame_lines(rect(np.asarray(size).reshape(1, 2)))[0])


def _inverse(matrix: Floats) -> Floats:
    """Returns source to output; where there is none, a map that has all behind its horizon."""
    try:
        return np.asarray(np.linalg.inv(matrix))
    except np.linalg.LinAlgError:
        return np.diag([0.0, 0.0, -1.0])


def _sight(meaning: Warp, row: int, inverse: Floats) -> Floats:
    """Returns (m, 3): the half-planes, in source coordinates, that bound what is seen.

    Nothing behind the horizon is: where w < 0, no x has both 0 <= x and x <= width * w.
    """
    ahead = np.concatenate([meaning.lines[row], _frame(meaning.size[row])]) @ inverse
    return np.concatenate([frame_lines(meaning.box[row][None])[0], ahead])


def _horizon(inverse: Floats) -> Floats:
    """Returns (1, 3): the half-plane of the source that lies before the viewer, w > 0."""
    nearly = 1e-6 * abs(inverse[2]).max(initial=1e-6)
    return np.asarray(inverse[2:] - [0.0, 0.0, nearly])


def _project(inverse: Floats, points: Floats) -> Floats:
    """Maps (..., 2) points."""
    out = points @ inverse[:2, :2].T + inverse[:2, 2]
    if inverse[2, :2].any() or inverse[2, 2] != 1.0:
        w = points @ inverse[2, :2] + inverse[2, 2]
        out /= np.where(abs(w) < 1e-12, 1e-12, w)[..., None]
    return np.asarray(out)


def _warp_outlines(meaning: Warp, row: int, outlines: Outlines) -> Outlines:
    inverse = _inverse(meaning.matrix[row])
    seen = clipped(outlines.seen, _sight(meaning, row, inverse))
    whole = clipped(outlines.whole, _horizon(inverse))
    moved = _project(inverse, whole)
    left = moved if seen is whole else _project(inverse, seen)
    return replace(outlines, whole=moved, seen=left)


def _flow_outlines(meaning: Flow, row: int, outlines: Outlines) -> Outlines:
    edges = _frame(meaning.size[row])
    fine = fineness(meaning, row)
    seen = clipped(outlines.seen, edges)
    whole, _ = displace(meaning, row, subdivided(outlines.whole, fine))
    if seen is outlines.whole:
        return replace(outlines, whole=whole, seen=clipped(whole, edges))
    count = max(seen.shape[1], outlines.whole.shape[1])
    cut = (padded(seen, count) != padded(outlines.whole, count)).any(axis=(1, 2))
    part, _ = displace(meaning, row, subdivided(seen[cut], fine))
    count = max(part.shape[1], whole.shape[1])
    left = padded(whole, count)
    left[cut] = padded(part, count)
    return replace(outlines, whole=whole, seen=clipped(left, edges))


def hulls(outlines: Outlines) -> Floats:
    """Returns (N, 4): the axis-aligned hull of what is seen of each box."""
    if not len(outlines):
        return np.zeros((0, 4))
    return np.concatenate([outlines.seen.min(axis=1), outlines.seen.max(axis=1)], axis=1)
