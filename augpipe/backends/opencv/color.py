"""Color, Curve, Histogram and Normalize with OpenCV.

A function of one channel's level alone is a table of 256 entries for uint8, computed in
float64 and rounded once. Other colour maps are computed in float32 on coefficients for
which float32 is exact (see `_on_grid`): the result is the same on every machine and with
any order of summation, and a grey pixel stays grey.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from augpipe.backends.opencv import lab
from augpipe.backends.tables import curve_step, normal_scale
from augpipe.ir import Color, Curve, Histogram, Normalize
from augpipe.types import Array, Floats

_LEVELS = np.arange(256.0)
_STRIP = 2**15  # pixels in one pass: their float32 copy stays in the cache

_scratch = threading.local()  # memory that is new has to be cleared first, at the cost of a pass


def color(meaning: Color, row: int, image: Array, into: Array | None = None) -> Array:
    """Maps the colours of one image (H, W, 1 or 3)."""
    channels = image.shape[2]
    matrix, offset = meaning.matrix[row].round(12), meaning.offset[row]
    if meaning.mean[row].any():
        mean = np.asarray(cv2.mean(image)[:channels])
        mean = mean if channels == 3 else np.repeat(mean, 3)
        offset = (offset + meaning.mean[row] @ mean).round(9)
    _, b, c, d, _, f, g, h, _ = matrix.ravel().tolist()
    alone = not (b or c or d or f or g or h)
    if channels == 1:  # as a colour image with three equal channels, to the bit
        if not alone and image.dtype == np.uint8:
            whole = _on_grid(matrix, offset).astype(np.float64)
            matrix, offset = whole[:, :3], whole[:, 3]
        matrix, offset, alone = matrix[:1].sum(axis=1, keepdims=True), offset[:1], True
    norm = meaning.norm
    if alone:
        gain = np.diagonal(matrix)
        if (gain == 1.0).all() and not offset.any():
            return image if norm is None else normalize(norm, image, into)
        if image.dtype != np.uint8:
            out = np.clip(_affine(image, gain, offset), 0, 255)
            return out if norm is None else normalize(norm, out, into)
        same = (gain == gain[0]).all() and (offset == offset[0]).all()
        which = slice(1) if same else slice(None)
        return _look_up(image, _LEVELS[:, None] * gain[which] + offset[which], norm, into)
    if image.dtype != np.uint8:
        whole = np.concatenate([matrix, offset[:, None]], axis=1)
        out = np.clip(cv2.transform(image, whole.astype(np.float32)), 0, 255)
        return out if norm is None else normalize(norm, out, into)
    whole = _on_grid(matrix, offset)
    return _mix(image, whole) if norm is None else _mix_planes(image, whole, norm, into)


def _on_grid(matrix: Floats, offset: Floats) -> Array:
    """Returns (3, 4) coefficients, rounded so that float32 sums of them are exact.

    All are multiples of one power of two, so small that no sum needs more than the 24 bits
    of a float32, and rows of one sum keep one sum. What comes out is off by 3 x 255 / 2
    such units at most: 0.012 grey levels, or 0.023 where coefficients are large.
    """
    rows, shifts = matrix.tolist(), offset.tolist()  # NumPy takes longer over so few
    reach = 255.0 * max(sum(map(abs, row)) for row in rows) + max(map(abs, shifts))
    grid = 2.0 ** math.floor(math.log2((2**24 - 1024) / max(reach, 1.0)))
    out = []
    for row, total, shift in zip(rows, matrix.sum(axis=1).round(12).tolist(), shifts, strict=True):
        first, *others = (round(value * grid) for value in row)
        first += round(total * grid) - first - sum(others)
        out.append([whole / grid for whole in (first, *others, round(shift * grid))])
    return np.array(out, np.float32)


def _strips(image: Array) -> Iterator[tuple[slice, Array]]:
    """Yields the rows of a uint8 image, some at a time, with their float32 copy to write in."""
    height, width, channels = image.shape
    rows = max(1, _STRIP // width)
    room = getattr(_scratch, "room", None)
    if room is None or room.size < rows * width * channels:
        room = _scratch.room = np.empty(rows * width * channels, np.float32)
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        strip = room[: (part.stop - top) * width * channels].reshape(-1, width, channels)
        np.copyto(strip, image[part])
        yield part, strip


def _mix(image: Array, whole: Array) -> Array:
    """Returns a (3, 4) map of the colours of a uint8 image, rounded half to even."""
    out = np.empty(image.shape, np.uint8)
    for part, strip in _strips(image):
        cv2.transform(strip, whole, dst=strip)
        cv2.threshold(strip, 0.0, 0.0, cv2.THRESH_TOZERO, dst=strip)
        cv2.convertScaleAbs(strip, dst=out[part])
    return out


def _mix_planes(image: Array, whole: Array, norm: Normalize, into: Array | None) -> Array:
    """Returns a (3, 4) map of the colours of a uint8 image, normalized, in planes."""
    planes = _planes(image, into)
    scale, shift = _normal(norm, image.shape[2])
    for part, strip in _strips(image):
        for channel, plane in enumerate(planes[:, part]):
            cv2.transform(strip, whole[channel : channel + 1], dst=plane)
            cv2.threshold(plane, 0.0, 0.0, cv2.THRESH_TOZERO, dst=plane)
            cv2.threshold(plane, 255.0, 0.0, cv2.THRESH_TRUNC, dst=plane)
            plane *= scale[channel]
            plane += shift[channel]
    return planes.transpose(1, 2, 0)


def _planes(image: Array, into: Array | None) -> Array:
    """Returns (C, H, W) float32 to write an image's channels to."""
    height, width, channels = image.shape
    shape = (channels, height, width)
    return into if into is not None and into.shape == shape else np.empty(shape, np.float32)


def _look_up(
    image: Array, table: Floats, norm: Normalize | None = None, into: Array | None = None
) -> Array:
    """Looks uint8 levels up in a table (256, 1 or C) of levels, rounded half to even.

    With `norm`, the table's levels are normalized instead of rounded, in planes.
    """
    table = np.clip(table, 0, 255)
    if norm is None:
        table = np.rint(table).astype(np.uint8)
        return cv2.LUT(image, table.reshape(1, 256, -1)).reshape(image.shape)
    scale, shift = _normal(norm, image.shape[2], np.float64)
    tables = np.ascontiguousarray((table * scale + shift).T, np.float32)[:, None]
    planes = _planes(image, into)
    for plane, levels, own in zip(planes, cv2.split(image), tables, strict=True):
        cv2.LUT(levels, own, dst=plane)
    return planes.transpose(1, 2, 0)


def normalized_curve(
    meaning: Curve, norm: Normalize, row: int, image: Array, into: Array | None
) -> Array:
    """Does a curve to a uint8 image, rounds it and normalizes it, by one table."""
    levels = _LEVELS[:, None]
    for kind, amount in meaning.steps:
        if not np.isnan(amount[row]):
            levels = curve_step(kind, amount[row], levels)
    return _look_up(image, np.rint(np.clip(levels, 0, 255)), norm, into)


def _affine(image: Array, gain: Floats, shift: Floats) -> Array:
    """Returns gain x image + shift as float32, one number a channel or one for all."""
    height, width, channels = image.shape
    scale, level = (
        np.tile(np.broadcast_to(v, channels).astype(np.float32), width) for v in (gain, shift)
    )
    out = image.reshape(height, -1) * scale  # whole rows: NumPy is slow on an axis of three
    out += level
    return np.asarray(out.reshape(image.shape), np.float32)


def curve(meaning: Curve, row: int, image: Array, into: Array | None = None) -> Array:
    """Maps every level by the curve."""
    steps = [(kind, amount[row]) for kind, amount in meaning.steps if not np.isnan(amount[row])]
    norm = meaning.norm
    if not steps:
        return image if norm is None else normalize(norm, image, into)
    levels = _LEVELS[:, None] if image.dtype == np.uint8 else np.clip(image, 0, 255)
    for kind, amount in steps:
        levels = curve_step(kind, amount, levels)
    if image.dtype == np.uint8:
        return _look_up(image, levels, norm, into)
    levels = levels.astype(np.float32)
    return levels if norm is None else normalize(norm, levels, into)


def histogram(meaning: Histogram, row: int, image: Array) -> Array:
    """Maps the levels of each channel by what its histogram says."""
    if meaning.kind == "autocontrast":
        return _autocontrast(image)
    levels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    if meaning.kind == "equalize":
        out = _look_up(levels, np.stack([_equal(p) for p in cv2.split(levels)], axis=1))
    else:
        out = _clahe(levels, float(meaning.amount[row]), meaning.tiles)
    return out.astype(image.dtype, copy=False)


def _autocontrast(image: Array) -> Array:
    ends = np.array([cv2.minMaxLoc(plane)[:2] for plane in cv2.split(image)])
    low, span = ends[:, 0], ends[:, 1] - ends[:, 0]
    gain = np.where(span > 0, 255.0 / np.where(span > 0, span, 1.0), 1.0)
    low = np.where(span > 0, low, 0.0)
    if image.dtype == np.uint8:
        return _look_up(image, (_LEVELS[:, None] - low) * gain)
    return np.clip(_affine(image, gain, -low * gain), 0, 255)


def _equal(plane: Array) -> Floats:
    """Returns Pillow's equalizing table of one channel."""
    counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    present = counts[counts > 0]
    step = int(plane.size - present[-1]) // 255
    if len(present) <= 1 or step == 0:
        return _LEVELS
    before = np.cumsum(counts) - counts
    return ((step // 2 + before) // step).astype(np.float64)


def _clahe(image: Array, clip_limit: float, tiles: int) -> Array:
    clahe = cv2.createCLAHE(clip_limit, (tiles, tiles))
    if image.shape[2] == 1:
        return clahe.apply(image).reshape(image.shape)
    whole = lab.to_lab(image)
    whole[:, :, 0] = clahe.apply(np.ascontiguousarray(whole[:, :, 0]))
    return lab.from_lab(whole)


def normalize(meaning: Normalize, image: Array, into: Array | None = None) -> Array:
    """Returns float32 (v / 255 - mean) / std."""
    if image.dtype == np.uint8:
        return _look_up(image, _LEVELS[:, None], meaning, into)
    return _affine(image, *_normal(meaning, image.shape[2], np.float64))


def _normal(
    norm: Normalize, channels: int, dtype: type[np.floating[Any]] = np.float32
) -> tuple[Array, Array]:
    """Returns what a level is multiplied by and what is added then, a number a channel."""
    scale, shift = normal_scale(norm, channels)
    return scale.astype(dtype), shift.astype(dtype)
