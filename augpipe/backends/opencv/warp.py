"""Warp with OpenCV: slices where pixels land on pixels, resize where axes are kept."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from augpipe.backends.opencv.source import (
    BORDERS,
    FLAGS,
    Entries,
    as_pixels,
    average,
    halvings,
    held,
    mirrorable,
    mirrored,
    on_channels,
    reduce,
    slopes,
)
from augpipe.backends.tables import binding, distances, fold
from augpipe.ir import Warp, frame_lines
from augpipe.types import Array, Floats, Picture, Sampling

_LEVELS = np.dtype(np.uint8)
_SNAP = 1e-6
_SMALL = 4096  # pixels, of which all are covered one by one
_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
_UNHALF = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])


def warp(meaning: Warp, row: int, image: Array | Picture) -> Array:
    """Warps one image (H, W, C), of which no more is decoded than is seen."""
    sampling = meaning.sampling
    out = _warp(meaning, row, image, sampling, sampling.interpolation, sampling.fill)
    return held(out, sampling)


def warp_mask(meaning: Warp, row: int, mask: Array) -> Array:
    """Warps one mask (H, W, C): no blending with the fill, never reduced before it is read."""
    sampling = meaning.sampling
    kind = sampling.mask_interpolation

    def move(part: Array, fill: float | tuple[float, ...]) -> Array:
        return _warp(meaning, row, part, sampling, kind, fill, mask=True)

    return as_pixels(mask, kind, sampling.mask_fill, move)


def _warp(
    meaning: Warp,
    row: int,
    image: Array | Picture,
    sampling: Sampling,
    interpolation: str,
    fill: float | tuple[float, ...],
    mask: bool = False,
) -> Array:
    height, width = size = tuple(meaning.size[row].tolist())
    shape, dtype = (*size, image.shape[2]), _LEVELS if isinstance(image, Picture) else image.dtype
    if not width or not height or 0 in image.shape:
        return np.zeros(shape, dtype)
    matrix: Entries = tuple(meaning.matrix[row].ravel().tolist())
    if not all(map(math.isfinite, matrix)):  # so many shrinkings that nothing is left
        return _filled(shape, dtype, fill)
    box = tuple(meaning.box[row].tolist())
    left, top, right, bottom = _pixels(box, image.shape)
    if right <= left or bottom <= top:  # the frames of the run do not meet: all is fill
        return _filled(shape, dtype, fill)
    hard = mask or interpolation == "nearest"
    boxes = not hard and sampling.antialias == "box"
    if isinstance(image, Picture):
        halved = 0
        if boxes and image.scaled:
            across, down = slopes(matrix, (width, height))
            halved = min(halvings(across, right - left), halvings(down, bottom - top), 3)
        if halved:
            source, moved = _reduced(image, halved, box, matrix)
        else:
            source, moved = image.part(top, bottom, left, right), _moved(matrix, left, top)
    else:
        source, moved = image[top:bottom, left:right], _moved(matrix, left, top)
    if boxes:
        source, moved = reduce(source, moved, (width, height))
    out = _axis_aligned(source, moved, (width, height), sampling, interpolation, fill, mask)
    lines = meaning.lines[row]
    if out is None:
        whole = np.array(moved).reshape(3, 3)
        if not hard and sampling.antialias == "full":
            source, whole = average(source, whole, (width, height), sampling.border)
        out = _general(source, whole, (width, height), sampling, interpolation)
        if out.dtype != dtype:  # averages are float32 until here
            out = np.rint(out.clip(0, 255)).astype(dtype)
        edges = frame_lines(meaning.box[row : row + 1])[0] @ meaning.matrix[row]
        lines = np.concatenate([lines, edges])
    if sampling.border == "constant" and len(lines):
        out = _cover(out, lines, fill, hard)
    return out


def _pixels(box: tuple[float, ...], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Returns the pixels that a rectangle touches, as left, top, right and bottom."""
    x0, y0, x1, y1 = box
    right, bottom = min(math.ceil(x1 - _SNAP), shape[1]), min(math.ceil(y1 - _SNAP), shape[0])
    return max(math.floor(x0 + _SNAP), 0), max(math.floor(y0 + _SNAP), 0), right, bottom


def _moved(matrix: Entries, left: float, top: float) -> Entries:
    """Returns the matrix for a source whose corner is cut off."""
    a, b, tx, c, d, ty, g, h, i = matrix
    if g == 0.0 == h and i == 1.0:
        return a, b, tx - left, c, d, ty - top, g, h, i
    rows = (a - left * g, b - left * h, tx - left * i, c - top * g, d - top * h, ty - top * i)
    return *rows, g, h, i


def _reduced(
    picture: Picture, halved: int, box: tuple[float, ...], matrix: Entries
) -> tuple[Array, Entries]:
    """Reads a picture at a fraction of its size, and the pixels alone that a rectangle touches.

    What touches the rectangle's edge is read as a whole.
    """
    x0, y0, x1, y1 = box
    source, there = picture.reduced(halved, (x0, y0, x1, y1))
    ends = (there @ ((x0, x1), (y0, y1), (1.0, 1.0)))[:2]
    near = (*ends.min(axis=1).tolist(), *ends.max(axis=1).tolist())
    left, top, right, bottom = _pixels(near, source.shape)
    entries = (there @ np.array(matrix).reshape(3, 3)).ravel().tolist()
    return source[top:bottom, left:right], _moved(tuple(entries), left, top)


def _filled(shape: tuple[int, ...], dtype: np.dtype, fill: float | tuple[float, ...]) -> Array:
    out = np.empty(shape, dtype)
    out[:] = np.rint(fill) if dtype.kind in "ui" else fill
    return out


def _axis_aligned(
    source: Array,
    matrix: Entries,
    size: tuple[int, int],
    sampling: Sampling,
    interpolation: str,
    fill: float | tuple[float, ...],
    mask: bool,
) -> Array | None:
    """Does a warp that keeps the axes by slicing or resizing; None where it cannot."""
    a, b, tx, c, d, ty, g, h, _ = matrix
    if g or h or ((b or c) and (a or d)):
        return None
    image, (width, height), swapped = source, size, bool(b or c)
    if swapped:  # x and y change places: so do the source's
        source, a, tx, d, ty = source.transpose(1, 0, 2), c, ty, b, tx
    if not a or not d:
        return None
    read, flips = (source, (a, tx, width), (d, ty, height)), (a < 0, d < 0)
    if a < 0:
        source, a, tx = source[:, ::-1], -a, source.shape[1] - tx
    if d < 0:
        source, d, ty = source[::-1], -d, source.shape[0] - ty
    across, down = _span(a, tx, width), _span(d, ty, height)
    if across and down and (across[1] - across[0], down[1] - down[0]) == (width, height):
        return _cut(source, across, down, sampling, fill, (swapped, *flips))
    if interpolation == "nearest":
        return _pick_nearest(*read, sampling, fill)
    if across != (0, source.shape[1]) or down != (0, source.shape[0]):
        return None
    out = _resize(image, size[::-1] if swapped else size, sampling, interpolation, mask)
    return mirrored(out, swapped, *flips)


def _span(scale: float, shift: float, length: int) -> tuple[int, int] | None:
    """Returns the whole pixels that an output axis covers in the source, if they are whole."""
    start, stop = round(shift), round(shift + scale * length)
    if abs(start - shift) > _SNAP or abs(stop - shift - scale * length) > _SNAP:
        return None
    return start, stop


def _cut(
    source: Array,
    across: tuple[int, int],
    down: tuple[int, int],
    sampling: Sampling,
    fill: float | tuple[float, ...],
    turns: tuple[bool, bool, bool],
) -> Array:
    """Cuts whole pixels out, with a border where the cut reaches beyond the image.

    `turns` says how the view `source` came from the image: by `mirrored`.
    """
    (x0, x1), (y0, y1) = across, down
    height, width = source.shape[:2]
    inner = source[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        swapped, left_right, up_down = turns
        inner = inner[:: -1 if up_down else 1, :: -1 if left_right else 1]
        inner = inner.transpose(1, 0, 2) if swapped else inner
        return mirrored(np.ascontiguousarray(inner), *turns)
    if sampling.border == "constant":
        out = _filled((y1 - y0, x1 - x0, source.shape[2]), source.dtype, fill)
        top, left = max(-y0, 0), max(-x0, 0)
        if inner.size and top < len(out) and left < out.shape[1]:
            out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return out
    rows = fold(np.arange(y0, y1), height, sampling.border)
    columns = fold(np.arange(x0, x1), width, sampling.border)
    return np.ascontiguousarray(source[rows[:, None], columns])


def _pick_nearest(
    source: Array,
    across: tuple[float, float, int],
    down: tuple[float, float, int],
    sampling: Sampling,
    fill: float | tuple[float, ...],
) -> Array:
    """Reads the pixel that holds each position: exact, where cv2's own nearest is not."""
    (a, tx, width), (d, ty, height) = across, down
    columns = np.floor(a * (np.arange(width) + 0.5) + tx + _SNAP).astype(np.int64)
    rows = np.floor(d * (np.arange(height) + 0.5) + ty + _SNAP).astype(np.int64)
    border = "edge" if sampling.border == "constant" else sampling.border
    out = source[
        fold(rows, source.shape[0], border)[:, None], fold(columns, source.shape[1], border)
    ]
    if sampling.border == "constant":
        value = np.rint(fill) if out.dtype.kind in "ui" else fill
        out[(rows < 0) | (rows >= source.shape[0])] = value
        out[:, (columns < 0) | (columns >= source.shape[1])] = value
    return out


def _resize(
    source: Array, size: tuple[int, int], sampling: Sampling, interpolation: str, mask: bool
) -> Array:
    """Resizes the whole source, which is reduced already if it must be."""
    if mask:
        return _cv_resize(source, size, cv2.INTER_LINEAR)
    if sampling.antialias == "full":
        small = (min(size[0], source.shape[1]), min(size[1], source.shape[0]))
        source = _cv_resize(source, small, cv2.INTER_AREA)
    return _cv_resize(source, size, FLAGS[interpolation])


def _cv_resize(source: Array, size: tuple[int, int], flag: int) -> Array:
    if source.shape[1::-1] == size:
        return np.ascontiguousarray(source)
    parts = [  # the area filter takes four channels at most
        on_channels(
            lambda part: cv2.resize(part, size, interpolation=flag), source[:, :, k : k + 4]
        )
        for k in range(0, source.shape[2], 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def _general(
    source: Array,
    matrix: Floats,
    size: tuple[int, int],
    sampling: Sampling,
    interpolation: str,
) -> Array:
    """Warps by OpenCV's samplers, which speak of pixel centres; the fill comes in `_cover`."""
    source = mirrorable(source, sampling.border)
    centred = _UNHALF @ matrix @ _HALF
    flags = FLAGS[interpolation] | cv2.WARP_INVERSE_MAP
    border = BORDERS["reflect" if sampling.border == "reflect" else "edge"]

    def sample(part: Array) -> Array:
        if centred[2, :2].any():
            return cv2.warpPerspective(part, centred, size, flags=flags, borderMode=border)
        return cv2.warpAffine(part, centred[:2], size, flags=flags, borderMode=border)

    if source.shape[2] == 3 and source.dtype == np.uint8:
        # Of pixels of four bytes OpenCV reads the same numbers, in two thirds of the time.
        wide = cv2.cvtColor(source, cv2.COLOR_RGB2RGBA)
        return cv2.cvtColor(sample(wide), cv2.COLOR_RGBA2RGB)
    if source.shape[2] <= 4:
        return on_channels(sample, source)
    parts = [on_channels(sample, source[:, :, k : k + 4]) for k in range(0, source.shape[2], 4)]
    return np.concatenate(parts, axis=2)


def _cover(out: Array, lines: Floats, fill: float | tuple[float, ...], hard: bool) -> Array:
    """Fills what lies beyond the half-planes (see ir.Warp).

    The visible part is convex: each row sees one span of it. What it does not see is filled
    at once; only the pixels at the spans' ends are looked at one by one.
    """
    height, width = out.shape[:2]
    if height * width <= _SMALL and not hard:
        return _cover_small(out, distances(lines), fill)
    lines = binding(lines, width, height)
    if not len(lines):
        return out
    first, stop, inner, outer = _spans(lines, width, height, 0.0 if hard else -0.5)
    narrow: Any = np.uint16 if width < 65536 else np.int64  # 16-bit comparisons are 3 times as fast
    columns, low, high = (v.astype(narrow) for v in (np.arange(width), first, stop))
    seen = (columns >= low[:, None]) & (columns < high[:, None])
    whole = _filled(out.shape, out.dtype, fill)
    if out.dtype.itemsize < 8 and out.shape[2] <= 4:
        out = cv2.copyTo(out, seen.view(np.uint8), whole).reshape(out.shape)
    else:
        whole[seen] = out[seen]
        out = whole
    if hard:
        return out
    starts, counts = np.concatenate([first, outer]), np.concatenate([inner - first, stop - outer])
    ends = counts.cumsum()
    each = np.arange(ends[-1])
    y = np.repeat(np.tile(np.arange(height), 2), counts)
    x = each + np.repeat(starts - ends + counts, counts)
    near = (lines[:, :1] * (x + 0.5) + lines[:, 1:2] * (y + 0.5) + lines[:, 2:]).min(axis=0)
    pixels, at = out.reshape(-1, out.shape[2]), y * width + x
    pixels[at] = _blended(pixels.take(at, axis=0), near[:, None], fill)
    return out


def _cover_small(out: Array, lines: Floats, fill: float | tuple[float, ...]) -> Array:
    """Does what `_cover` does, to every pixel: for few of them that takes less time."""
    height, width = out.shape[:2]
    a, b, c = (lines[:, k, None, None] for k in range(3))
    y = b * (np.arange(height) + 0.5)[:, None] + c
    near = (a * (np.arange(width) + 0.5) + y).min(axis=0)
    return out if near.min() >= 0.5 else _blended(out, near[:, :, None], fill)


def _blended(pixels: Array, near: Floats, fill: float | tuple[float, ...]) -> Array:
    """Returns pixels (..., C) over the fill, by their distances (..., 1) from the nearest edge."""
    share = np.minimum(np.maximum(near + 0.5, 0.0), 1.0)
    fills = np.asarray(fill, np.float64)
    out = fills + share * (pixels - fills)
    return (
        np.rint(out, out=out).astype(pixels.dtype)
        if pixels.dtype.kind in "ui"
        else out.astype(pixels.dtype, copy=False)
    )


def _spans(lines: Floats, width: int, height: int, least: float) -> tuple[Array, ...]:
    """Returns, for each row, the columns from first to stop whose distances are `least` or more.

    And those whose distances are -`least` or more, an empty span at the end where there are
    none.
    """
    a, rest = lines[:, :1], lines[:, 1:2] * (np.arange(height) + 0.5) + lines[:, 2:]
    bounds = np.array([least, -least])[:, None, None]
    level = a == 0
    at = (bounds - rest) / np.where(level, 1.0, a) - 0.5
    first = np.where(a > 0, at, -1.0).max(axis=1)
    stop = np.where(a < 0, at, width).min(axis=1)
    first = np.ceil(np.minimum(np.maximum(first - _SNAP, 0), width)).astype(np.int64)
    stop = np.floor(np.minimum(np.maximum(stop + _SNAP, -1), width - 1)).astype(np.int64) + 1
    if level.any():
        stop[(rest[level[:, 0]] < bounds).any(axis=1)] = 0
    stop = np.maximum(stop, first)
    empty = first[1] >= stop[1]
    inner, outer = np.where(empty, stop[0], first[1]), np.where(empty, stop[0], stop[1])
    return first[0], stop[0], inner, outer
