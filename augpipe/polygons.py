"""Convex and other polygons in NumPy: cut by half-planes, measured, and the rectangles round them.

Sets of N polygons are (N, k, 2), short ones padded by their last corner. Half-planes are rows
(a, b, c): a point lies within where a x + b y + c >= 0.
"""

from __future__ import annotations

import numpy as np

from augpipe.types import Bools, Floats

_SNAP = 1e-6  # pixels: a corner this far beyond a line still lies on it


def rectangles_along(whole: Floats, seen: Floats) -> Floats:
    """Returns (K, 4, 2): the rectangles around `seen` that lie as (K, m, 2) `whole` does.

    The first side keeps its direction; corners run clockwise as seen, so that those of a
    mirrored box begin at its second, as in torchvision.
    """
    if not len(whole):
        return np.zeros((0, 4, 2))
    sides = np.roll(whole, -1, axis=1) - whole
    length = np.hypot(sides[..., 0], sides[..., 1])
    along = sides / np.where(length < _SNAP, 1.0, length)[..., None]
    across = np.stack([-along[..., 1], along[..., 0]], axis=2)
    extents = [np.ptp(np.einsum("kmc,knc->kmn", axis, whole), axis=2) for axis in (along, across)]
    area = np.where(length < _SNAP, np.inf, extents[0] * extents[1])
    # Of sides that do as well the first: rounding shall not decide.
    best = (area <= area.min(axis=1, keepdims=True) * (1.0 + 1e-9)).argmax(axis=1)
    rows = np.arange(len(whole))
    axis, first = along[rows, best], along[:, 0].copy()
    x, y = np.moveaxis(whole - whole[:, :1], 2, 0)
    mirrored = (x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(axis=1) < 0
    first[mirrored] *= -1.0
    # The direction nearest to that of the first side, of the four that the rectangle has.
    turned = np.stack([-axis[:, 1], axis[:, 0]], axis=1)
    near = np.einsum("kc,knc->kn", first, np.stack([axis, turned, -axis, -turned], axis=1))
    right = np.stack([axis, turned, -axis, -turned], axis=1)[rows, near.argmax(axis=1)]
    down = np.stack([-right[:, 1], right[:, 0]], axis=1)
    u, v = (np.einsum("kc,knc->kn", each, seen) for each in (right, down))
    ends = [(u.min(1), v.min(1)), (u.max(1), v.min(1)), (u.max(1), v.max(1)), (u.min(1), v.max(1))]
    return np.stack([a[:, None] * right + b[:, None] * down for a, b in ends], axis=1)


def subdivided(polygons: Floats, fineness: float) -> Floats:
    """Puts points on each side, `fineness` a pixel of the polygon's longest, 32 at most.

    Polygons that have many corners already get fewer. The polygons with fewer points are
    padded by their last one.
    """
    corners = polygons.shape[1]
    after = np.roll(polygons, -1, axis=1)
    longest = np.hypot(*np.moveaxis(after - polygons, 2, 0)).max(axis=1)
    most = max(1, min(32, 256 // corners))
    parts = np.clip(np.ceil(longest * fineness), 1, most).astype(np.int64)[:, None]
    each = np.minimum(np.arange(corners * int(parts.max(initial=1))), corners * parts - 1)
    side, t = each // parts, (each % parts / parts)[:, :, None]
    rows = np.arange(len(polygons))[:, None]
    return np.asarray(polygons[rows, side] * (1.0 - t) + after[rows, side] * t)


def within_lines(lines: Floats, points: Floats) -> Bools:
    """Returns (n,): whether (n, 2) points lie within all half-planes; NaN does not."""
    return np.asarray((distances(lines, points) >= -_SNAP).all(axis=-1))


def distances(lines: Floats, points: Floats) -> Floats:
    """Returns (..., m): how far (..., 2) points lie within each half-plane, in pixels."""
    length = np.hypot(lines[:, 0], lines[:, 1])
    lines = lines / np.where(length < 1e-12, 1.0, length)[:, None]
    return np.asarray(points @ lines[:, :2].T + lines[:, 2])


def clipped(polygons: Floats, lines: Floats) -> Floats:
    """Cuts (N, k, 2) polygons by half-planes; the same array where none is cut."""
    beyond = np.any(distances(lines, polygons) < -_SNAP, axis=1)
    rows = np.flatnonzero(beyond.any(axis=1))
    if not len(rows):
        return polygons
    part = polygons[rows]
    for line in lines[beyond.any(axis=0)]:
        part = _cut(part, line[None])
    count = max(polygons.shape[1], part.shape[1])
    out = padded(polygons, count)
    out[rows] = padded(part, count)
    return out


def _cut(polygons: Floats, line: Floats) -> Floats:
    """Cuts all polygons by one half-plane (Sutherland and Hodgman, 1974).

    Each side gives at most its crossing and its end. A polygon that lies beyond the line
    wholly becomes one point.
    """
    here = distances(line, polygons)[:, :, 0]
    after, there = np.roll(polygons, -1, axis=1), np.roll(here, -1, axis=1)
    crosses = (here >= -_SNAP) != (there >= -_SNAP)
    t = np.clip(here / np.where(crosses, here - there, 1.0), 0.0, 1.0)[:, :, None]
    ends = np.stack([polygons + t * (after - polygons), after], axis=2)
    stays = np.stack([crosses, there >= -_SNAP], axis=2).reshape(len(polygons), -1)
    count = stays.sum(axis=1, keepdims=True)
    order = np.argsort(~stays, axis=1, kind="stable")
    column = np.minimum(np.arange(max(int(count.max()), 1)), np.maximum(count - 1, 0))
    chosen = np.take_along_axis(order, column, axis=1)[:, :, None]
    return np.take_along_axis(ends.reshape(len(polygons), -1, 2), chosen, axis=1)


def padded(polygons: Floats, count: int) -> Floats:
    """Returns a copy with `count` corners each: the last one repeated."""
    more = np.repeat(polygons[:, -1:], count - polygons.shape[1], axis=1)
    return np.concatenate([polygons, more], axis=1)


def areas(polygons: Floats) -> Floats:
    """Returns (N,) areas, by the shoelace formula."""
    x, y = np.moveaxis(polygons - polygons[:, :1], 2, 0)
    return np.asarray(abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(axis=1)) / 2.0)
