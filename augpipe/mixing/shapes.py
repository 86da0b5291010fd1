"""Rectangles, polygons and regions of whole pixels: what is left of one under another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from augpipe.ir import Warp, rect
from augpipe.polygons import padded
from augpipe.targets import Outlines, move_outlines
from augpipe.types import Array, Bools, Floats, Ints, Sampling

LEAST = 1e-6  # square pixels: what is seen of a box below this is nothing


def still(size: Ints, box: Floats | None = None) -> Warp:
    """Returns a map that moves nothing and shows a frame, or a box (1, 4) of it."""
    sizes = np.asarray(size, np.int64).reshape(1, 2)
    seen = rect(sizes) if box is None else box
    return Warp(np.eye(3)[None], sizes, sizes, seen, np.zeros((1, 0, 3)), Sampling())


def take(outlines: Outlines, rows: Ints) -> Outlines:
    """Returns some of the boxes."""
    return Outlines(outlines.whole[rows], outlines.seen[rows], outlines.oriented)


def narrowed(outlines: Outlines, before: Floats, after: Floats, size: Sequence[int]) -> Outlines:
    """Cuts each box to the rectangle that is left of its hull."""
    if (before == after).all():
        return outlines
    parts = []
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        part = take(outlines, np.array([k]))
        if (new != old).any():
            part = move_outlines(still(np.array(size), new[None]), 0, part)
        parts.append(part)
    return stack(parts)


def stack(parts: Sequence[Outlines]) -> Outlines:
    """Puts boxes of different corner counts together, padded by their last corners."""

    def joined(polygons: Sequence[Floats]) -> Floats:
        most = max(each.shape[1] for each in polygons)
        return np.concatenate([padded(each, most) for each in polygons])

    oriented = any(each.oriented for each in parts)
    return Outlines(joined([p.whole for p in parts]), joined([p.seen for p in parts]), oriented)


def extent(boxes: Floats) -> Floats:
    """Returns (N,) areas of (N, 4) boxes."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def meet(one: Floats, other: Floats) -> Floats:
    """Returns (N, 4): what boxes have in common; without extent where that is nothing."""
    low = np.maximum(one[:, :2], other[..., :2])
    high = np.minimum(one[:, 2:], other[..., 2:])
    return np.concatenate([low, np.maximum(low, high)], axis=1)


def without(boxes: Floats, cover: Floats) -> Floats:
    """Returns (N, 4): the hulls of what a rectangle leaves of boxes."""
    out = boxes.copy()
    for axis, across in ((0, 1), (1, 0)):
        spans = (cover[across] <= boxes[:, across]) & (cover[across + 2] >= boxes[:, across + 2])
        first, stop = boxes[:, axis], boxes[:, axis + 2]
        meets = spans & (cover[axis] < stop) & (cover[axis + 2] > first)
        starts = meets & (cover[axis] <= first)
        ends = meets & ~starts & (cover[axis + 2] >= stop)
        out[starts, axis] = np.minimum(cover[axis + 2], stop[starts])
        out[ends, axis + 2] = cover[axis]
    return out


def through(raster: Bools, boxes: Floats) -> tuple[Floats, Floats]:
    """Returns the share of boxes within a region of whole pixels, and the hulls of that."""
    total = np.zeros((raster.shape[0] + 1, raster.shape[1] + 1))
    total[1:, 1:] = raster.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    x0, y0, x1, y1 = boxes.T
    inside = _sums(total, x1, y1) + _sums(total, x0, y0)
    inside -= _sums(total, x0, y1) + _sums(total, x1, y0)
    out = boxes.copy()
    for k, (left, top, right, bottom) in enumerate(boxes.tolist()):
        left, top = int(left), int(top)
        part = raster[top : int(np.ceil(bottom)), left : int(np.ceil(right))]
        columns, rows = np.flatnonzero(part.any(axis=0)), np.flatnonzero(part.any(axis=1))
        if len(columns):
            held = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
            out[k] = meet(boxes[k : k + 1], np.array(held, np.float64))[0]
    return np.clip(inside / np.maximum(extent(boxes), LEAST), 0.0, 1.0), out


def _sums(total: Floats, x: Floats, y: Floats) -> Floats:
    """Returns (N,): running sums at positions between whole pixels, where they are bilinear."""
    height, width = total.shape
    j = np.clip(np.floor(x), 0, width - 2).astype(np.int64)
    i = np.clip(np.floor(y), 0, height - 2).astype(np.int64)
    u, v = x - j, y - i
    upper = total[i, j] * (1.0 - u) + total[i, j + 1] * u
    lower = total[i + 1, j] * (1.0 - u) + total[i + 1, j + 1] * u
    return np.asarray(upper * (1.0 - v) + lower * v)


def within(at: Floats, box: Array) -> Bools:
    """Returns (N,): whether points lie in a rectangle; NaN does not."""
    return np.asarray(((at >= box[:2]) & (at < box[2:])).all(axis=1))


def at_pixels(raster: Bools, at: Floats) -> Bools:
    """Returns (N,): whether points lie in a region of whole pixels."""
    height, width = raster.shape
    inside = within(at, np.array([0, 0, width, height]))
    x, y = np.floor(np.where(inside[:, None], at, 0.0)).astype(np.int64).T
    return np.asarray(raster[y, x] & inside)
