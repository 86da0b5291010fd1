"""Meanings applied to what is not pixels: boxes and keypoints; and what one sample holds.

A box is carried through a whole section as two polygons, all of it and what is still seen of
it; only `finish` takes the axis-aligned hull. So five rotations widen a box once, not five
times, and what an earlier op cut away stays away. Lines of sight are half-planes
(ir.Warp.box, ir.Warp.lines, the output frame, the horizon); a half-plane of the output is one
of the source too, so that everything is cut at once, in source coordinates, before it moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from augpipe.errors import DataError
from augpipe.ir import Basis, Flow, Warp, frame_lines, rect
from augpipe.types import Array, Bools, Floats, Ints

_SNAP = 1e-6  # pixels: a corner this far beyond a line still lies on it
_LEAST = 1e-6  # square pixels: what is seen of a box below this is nothing
_CLOSE = 1e-4  # pixels of the source: where the inverse of a flow is near enough
_TRIES = 60  # steps of Newton's method, those taken back included
_SHORTEST = 1e-3  # of a step of Newton's method: shorter ones are of no use
_CHUNK = 8192  # points that are solved together: what fits the cache
_NODES = 48  # a side, of the grid on which Newton's method starts anew
_BEYOND = 0.25  # of a frame: how far polynomials go on beyond it, and where solutions are sought
_RANKS = (1, 4, 2, 16, 8, 64)  # which of the nearest nodes, one after another
_CHORD = 0.03  # pixels: how far a side may bend away from its chord, about
_SHORT = 2.0  # pixels: no side is divided further


@dataclass(frozen=True, slots=True)
class Outlines:
    """N boxes as polygons in continuous coordinates, short ones padded by their last corner.

    Args:
        whole: (N, k, 2), where each box is, also beyond the frame.
        seen: (N, m, 2), the part that no crop or frame has cut away so far; all corners
            alike where nothing is left. The same array as `whole` until something is cut.
    """

    whole: Floats
    seen: Floats

    def __len__(self) -> int:
        return len(self.whole)


@dataclass(frozen=True, slots=True)
class Points:
    """N keypoints.

    Args:
        at: (N, 2), x and y in continuous coordinates; NaN where there is none.
        seen: (N,), false from where a crop or a frame first left the point out.
    """

    at: Floats
    seen: Bools

    def __len__(self) -> int:
        return len(self.at)


@dataclass(slots=True)
class Sample:
    """One image and what belongs to it, in the program's own forms.

    Args:
        image: (H, W, C), uint8, or float32 of grey levels 0..255 (see `normalized`).
        masks: Each (H, W, C); uint8, uint16, int16, float32 or float64.
        points: Sets of keypoints.
        boxes: Sets of boxes.
        normalized: Whether `image` has left grey levels for float32 values of its own.
    """

    image: Array
    masks: list[Array] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    boxes: list[Outlines] = field(default_factory=list)
    normalized: bool = False


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
            seen = points.seen & _holds(_sight(meaning, row, inverse), points.at)
            return Points(_project(inverse, points.at), seen)
        case Flow():
            edges = _frame(meaning.size[row])
            at, found = _displace(meaning, row, points.at)
            seen = points.seen & found & _holds(edges, points.at) & _holds(edges, at)
            return Points(at, seen)
    assert_never(meaning)


def finish(
    outlines: Outlines, size: Ints | tuple[int, int], min_area: float, min_visibility: float
) -> tuple[Floats, Ints]:
    """Takes the axis-aligned hull of what is seen of each box, and drops what is too little.

    Args:
        outlines: The boxes.
        size: (height, width) of the image they are on; they end there.
        min_area: A box stays with at least this area seen, in square pixels of the result.
        min_visibility: A box stays with at least this share of its own area seen.

    Returns:
        (K, 4) boxes x0, y0, x1, y1, and the K rows they had. A box without area is dropped.
    """
    if not len(outlines):
        return np.zeros((0, 4)), np.zeros(0, np.int64)
    seen = _clip(outlines.seen, _frame(size))
    area, whole = _area(seen), _area(outlines.whole)
    enough = (area >= min_area) & (area >= min_visibility * whole * (1.0 - 1e-9))
    kept = np.flatnonzero(enough & (area > _LEAST))
    hull = np.concatenate([seen[kept].min(axis=1), seen[kept].max(axis=1)], axis=1)
    height, width = size
    return np.clip(hull, 0.0, [width, height, width, height]), kept


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
    seen = _clip(outlines.seen, _sight(meaning, row, inverse))
    whole = _clip(outlines.whole, _horizon(inverse))
    moved = _project(inverse, whole)
    return Outlines(moved, moved if seen is whole else _project(inverse, seen))


def _flow_outlines(meaning: Flow, row: int, outlines: Outlines) -> Outlines:
    edges = _frame(meaning.size[row])
    fineness = _fineness(meaning, row)
    seen = _clip(outlines.seen, edges)
    whole, _ = _displace(meaning, row, _subdivide(outlines.whole, fineness))
    if seen is outlines.whole:
        return Outlines(whole, _clip(whole, edges))
    count = max(seen.shape[1], outlines.whole.shape[1])
    cut = (_padded(seen, count) != _padded(outlines.whole, count)).any(axis=(1, 2))
    part, _ = _displace(meaning, row, _subdivide(seen[cut], fineness))
    count = max(part.shape[1], whole.shape[1])
    left = _padded(whole, count)
    left[cut] = _padded(part, count)
    return Outlines(whole, _clip(left, edges))


def _fineness(meaning: Flow, row: int) -> float:
    """Returns how many points a pixel of a straight line keep it near what the flow makes of it.

    From second differences d of u over steps of c pixels: a chord of length s is d/8 (s/c)**2
    away from a smooth curve, and d/4 (s/c) from the kink of hat functions.
    """
    control = meaning.control[row]
    height, width = meaning.size[row].tolist()
    hat = meaning.basis == "hat"
    finest = 0.0
    counts = [max(2, count - 1) if hat else 2 * max(4, count - 3) for count in control.shape[:2]]
    y, x = (np.linspace(0.0, end, k + 1) for end, k in zip((height, width), counts, strict=True))
    u = _flow_at(meaning, row, (x + 1j * y[:, None]).ravel())[0].reshape(len(y), len(x))
    for axis, end in enumerate((height, width)):
        step = end / counts[axis]
        bend = float(abs(np.diff(u, 2, axis=axis)).max(initial=0.0))
        much = bend / (4.0 * _CHORD) if hat else (bend / (8.0 * _CHORD)) ** 0.5
        finest = max(finest, much / step)
    return min(finest, 1.0 / _SHORT)


def _subdivide(polygons: Floats, fineness: float) -> Floats:
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


def _displace(meaning: Flow, row: int, points: Floats) -> tuple[Floats, Bools]:
    """Returns (..., 2): the output positions p that read these points, p + u(p) = point.

    And (...): where there is such a p; elsewhere it is the nearest that was found. Beyond the
    frame u goes on as at the frame's edge, but polynomials, which have a value there, as
    themselves for a quarter of the frame. Where the flow folds, so that several p read a
    point, it is one of them, one within the frame if any was found.
    """
    if not meaning.control[row].any():
        return points, np.ones(points.shape[:-1], np.bool_)
    flat = np.ascontiguousarray(points, np.float64).view(np.complex128).ravel()
    new = np.append(True, flat[1:] != flat[:-1])[: len(flat)]  # padding is solved once
    source = flat[new]
    at, off = np.full_like(source, complex(np.nan, np.nan)), np.full(len(source), np.inf)
    finite = np.flatnonzero(np.isfinite(source))
    for first in range(0, len(finite), _CHUNK):
        some = finite[first : first + _CHUNK]
        at[some], off[some] = _newton(meaning, row, source[some], source[some])
    _again(meaning, row, source, at, off)
    back = np.cumsum(new) - 1
    out = at[back].view(np.float64).reshape(points.shape)
    return out, np.asarray(off[back] < _CLOSE).reshape(points.shape[:-1])


def _again(meaning: Flow, row: int, source: Array, at: Array, off: Floats) -> None:
    """Solves anew, in place, what is not solved or, where the flow folds, beyond the frame.

    Newton's method starts at nodes of a grid over the frame, those that read nearest to the
    point, one after another.
    """
    height, width = meaning.size[row].tolist()

    def within(z: Array) -> Bools:
        return (z.real >= 0) & (z.real <= width) & (z.imag >= 0) & (z.imag <= height)

    todo = np.flatnonzero(np.isfinite(source) & ~((off < _CLOSE) & within(at)))
    todo = todo[(off[todo] >= _CLOSE) | within(source[todo])]
    if not len(todo):
        return
    reach = np.linspace(-_BEYOND, 1.0 + _BEYOND, _NODES)
    nodes = (reach * width + 1j * reach[:, None] * height).ravel()
    u, by_x, by_y = _flow_at(meaning, row, nodes)
    if (_determinant(by_x, by_y) > 0).all():
        todo = todo[off[todo] >= _CLOSE]
    if not len(todo):
        return
    from scipy.spatial import cKDTree

    read = cKDTree(np.stack([(nodes + u).real, (nodes + u).imag], axis=1))
    for rank in _RANKS:
        if not len(todo):
            return
        goal = source[todo]
        near = read.query(np.stack([goal.real, goal.imag], axis=1), [rank])[1][:, 0]
        there, rest = _newton(meaning, row, goal, nodes[near])
        lost = off[todo] >= _CLOSE
        better = np.where(lost, rest < off[todo], (rest < _CLOSE) & within(there))
        at[todo[better]], off[todo[better]] = there[better], rest[better]
        todo = todo[~((off[todo] < _CLOSE) & within(at[todo]))]


def _newton(meaning: Flow, row: int, source: Array, start: Array) -> tuple[Array, Floats]:
    """Solves p + u(p) = source for complex points: p, and how far off what it reads is.

    By Newton's method; a step that comes no nearer is taken back and halved.
    """
    reach = 0.5 * float(meaning.size[row].max())
    out, off = start.copy(), np.full(len(source), np.inf)
    live, at, goal = np.arange(len(source)), start, source
    u, by_x, by_y = _flow_at(meaning, row, at)
    rest = at + u - goal
    share = np.ones(len(source))
    for _ in range(_TRIES):
        out[live], off[live] = at, abs(rest)
        keep = (abs(rest) >= _CLOSE) & (share >= _SHORTEST)
        if not keep.any():
            break
        if not keep.all():
            live, at, goal, share = live[keep], at[keep], goal[keep], share[keep]
            rest, by_x, by_y = rest[keep], by_x[keep], by_y[keep]
        step = _solved(by_x, by_y, rest)
        step *= np.minimum(share, reach / np.maximum(abs(step), 1e-9))
        trial = at - step
        u, its_x, its_y = _flow_at(meaning, row, trial)
        left = trial + u - goal
        good = abs(left) < abs(rest) * (1.0 - 1e-3 * share)
        at, rest = np.where(good, trial, at), np.where(good, left, rest)
        by_x, by_y = np.where(good, its_x, by_x), np.where(good, its_y, by_y)
        share = np.where(good, np.minimum(1.0, 4.0 * share), 0.5 * share)
    return out, off


def _determinant(by_x: Array, by_y: Array) -> Floats:
    """Returns (n,): that of the derivative of p + u(p); where it is below 0, the flow folds."""
    return np.asarray((1.0 + by_x.real) * (1.0 + by_y.imag) - by_x.imag * by_y.real)


def _solved(by_x: Array, by_y: Array, rest: Array) -> Array:
    """Returns Newton's step; where the derivative has no inverse, as if u were constant."""
    determinant = _determinant(by_x, by_y)
    flat = abs(determinant) < 1e-6
    x = (1.0 + by_y.imag) * rest.real - by_y.real * rest.imag
    y = (1.0 + by_x.real) * rest.imag - by_x.imag * rest.real
    return np.where(flat, rest, (x + 1j * y) / np.where(flat, 1.0, determinant))


def _flow_at(meaning: Flow, row: int, at: Array) -> tuple[Array, Array, Array]:
    """Returns u and its derivatives by x and by y at (n,) positions, all complex: x + i y."""
    control = meaning.control[row]
    rows, columns = control.shape[:2]
    height, width = meaning.size[row].tolist()
    left, across, slope_x = _support(meaning.basis, at.real, columns, width)
    top, down, slope_y = _support(meaning.basis, at.imag, rows, height)
    flat = np.ascontiguousarray(control, np.float64).view(np.complex128).ravel()
    here = top * columns + left
    u, by_x, by_y = np.zeros((3, len(at)), np.complex128)
    for i in range(len(down)):
        line, bend = np.zeros((2, len(at)), np.complex128)
        for j in range(len(across)):
            value = flat[here + (i * columns + j)]
            line += across[j] * value
            bend += slope_x[j] * value
        u += down[i] * line
        by_x += down[i] * bend
        by_y += slope_y[i] * line
    return u, by_x, by_y


def _support(kind: Basis, at: Floats, count: int, length: float) -> tuple[Ints, Floats, Floats]:
    """Evaluates those functions of `ir.basis` that are not zero.

    Returns:
        (m,), the first of them; (k, m), its value and those of the next ones; (k, m), their
        derivatives. The axis ends as `_displace` says; beyond its end the derivative is zero.
    """
    beyond = _BEYOND * length if kind == "polynomial" else 0.0
    inside = np.clip(at, -beyond, length + beyond)
    if kind == "polynomial":
        scale, t = 2.0 / length, 2.0 * inside / length - 1.0
        first = np.zeros(len(at), np.int64)
        values, slopes = np.ones((count, len(at))), np.zeros((count, len(at)))
        for k in range(1, count):
            values[k] = values[k - 1] * t
            slopes[k] = k * values[k - 1]
    else:
        cells = count - (1 if kind == "hat" else 3)
        scale = cells / length
        t = inside * scale
        first = np.clip(t.astype(np.int64), 0, cells - 1)
        t = t - first
        rest = 1.0 - t
        if kind == "hat":
            values, one = np.stack([rest, t]), np.ones(len(at))
            slopes = np.stack([-one, one])
        else:
            a, b = t * t, rest * rest
            third, fourth = b * rest / 6.0, a * t / 6.0
            second = 2.0 / 3.0 - a + 3.0 * fourth
            values = np.stack([third, second, 1.0 - third - second - fourth, fourth])
            inner = 1.5 * a - 2.0 * t
            slopes = np.stack([-0.5 * b, inner, 0.5 * b - inner - 0.5 * a, 0.5 * a])
    return first, values, slopes * (scale * (inside == at))


def _holds(lines: Floats, points: Floats) -> Bools:
    """Returns (n,): whether (n, 2) points lie within all half-planes; NaN does not."""
    return np.asarray((_distances(lines, points) >= -_SNAP).all(axis=-1))


def _distances(lines: Floats, points: Floats) -> Floats:
    """Returns (..., m): how far (..., 2) points lie within each half-plane, in pixels."""
    length = np.hypot(lines[:, 0], lines[:, 1])
    lines = lines / np.where(length < 1e-12, 1.0, length)[:, None]
    return np.asarray(points @ lines[:, :2].T + lines[:, 2])


def _clip(polygons: Floats, lines: Floats) -> Floats:
    """Cuts (N, k, 2) polygons by half-planes; the same array where none is cut."""
    beyond = np.any(_distances(lines, polygons) < -_SNAP, axis=1)
    rows = np.flatnonzero(beyond.any(axis=1))
    if not len(rows):
        return polygons
    part = polygons[rows]
    for line in lines[beyond.any(axis=0)]:
        part = _cut(part, line[None])
    count = max(polygons.shape[1], part.shape[1])
    out = _padded(polygons, count)
    out[rows] = _padded(part, count)
    return out


def _cut(polygons: Floats, line: Floats) -> Floats:
    """Cuts all polygons by one half-plane (Sutherland and Hodgman, 1974).

    Each side gives at most its crossing and its end. A polygon that lies beyond the line
    wholly becomes one point.
    """
    here = _distances(line, polygons)[:, :, 0]
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


def _padded(polygons: Floats, count: int) -> Floats:
    """Returns a copy with `count` corners each: the last one repeated."""
    more = np.repeat(polygons[:, -1:], count - polygons.shape[1], axis=1)
    return np.concatenate([polygons, more], axis=1)


def _area(polygons: Floats) -> Floats:
    """Returns (N,) areas, by the shoelace formula."""
    x, y = np.moveaxis(polygons - polygons[:, :1], 2, 0)
    return np.asarray(abs((x * np.roll(y, -1, 1) - np.roll(x, -1, 1) * y).sum(axis=1)) / 2.0)
