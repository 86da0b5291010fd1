"""Color, Curve, Histogram and Normalize with OpenCV.

A function of one channel's level alone is a table of 256 entries for uint8, computed in
float64 and rounded once. Other colour maps are computed in float32 on coefficients for
which float32 is exact (see `_on_grid`): the result is the same on every machine and with
any order of summation, and a grey pixel stays grey.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from augpipe.backends.opencv import lab
from augpipe.backends.tables import curve_step, normal_scale
from augpipe.ir import Color, Curve, Histogram, Normalize
from augpipe.types import Array, Floats

_LEVELS = np.arange(256.0)
_STRIP = 8192  # pixels in one pass: their float32 copy stays in the cache and off the heap's top


def color(meaning: Color, row: int, image: Array) -> Array:
    """Maps the colours of one image (H, W, 1 or 3)."""
    channels = image.shape[2]
    matrix, offset = meaning.matrix[row].round(12), meaning.offset[row]
    if meaning.mean[row].any():
        mean = np.asarray(cv2.mean(image)[:channels])
        offset = (offset + meaning.mean[row] @ np.broadcast_to(mean, 3)).round(9)
    alone = not (matrix - np.diag(np.diagonal(matrix))).any()
    if channels == 1:  # as a colour image with three equal channels, to the bit
        if not alone and image.dtype == np.uint8:
            whole = _on_grid(matrix, offset).astype(np.float64)
            matrix, offset = whole[:, :3], whole[:, 3]
        matrix, offset, alone = matrix[:1].sum(axis=1, keepdims=True), offset[:1], True
    gain, norm = np.diagonal(matrix), meaning.norm
    if alone and (gain == 1.0).all() and not offset.any():
        return image if norm is None else normalize(norm, image)
    if image.dtype != np.uint8:
        if alone:
            out = np.clip(_affine(image, gain, offset), 0, 255)
        else:
            whole = np.concatenate([matrix, offset[:, None]], axis=1)
            out = np.clip(cv2.transform(image, whole.astype(np.float32)), 0, 255)
        return out if norm is None else normalize(norm, out)
    if alone:
        same = (gain == gain[0]).all() and (offset == offset[0]).all()
        which = slice(1) if same else slice(None)
        return _look_up(image, _LEVELS[:, None] * gain[which] + offset[which], norm)
    return _mix(image, _on_grid(matrix, offset), norm)


def _on_grid(matrix: Floats, offset: Floats) -> Array:
    """Returns (3, 4) coefficients, rounded so that float32 sums of them are exact.

    All are multiples of one power of two, so small that no sum needs more than the 24 bits
    of a float32, and rows of one sum keep one sum. What comes out is off by 3 x 255 / 2
    such units at most: 0.012 grey levels, or 0.023 where coefficients are large.
    """
    reach = 255.0 * abs(matrix).sum(axis=1).max() + abs(offset).max()
    grid = 2.0 ** np.floor(np.log2((2**24 - 1024) / max(reach, 1.0)))
    snapped = np.rint(matrix * grid)
    snapped[:, 0] += np.rint(matrix.sum(axis=1).round(12) * grid) - snapped.sum(axis=1)
    shift = np.rint(offset * grid)
    return np.asarray(np.concatenate([snapped, shift[:, None]], axis=1) / grid, np.float32)


def _mix(image: Array, whole: Array, norm: Normalize | None) -> Array:
    """Returns a (3, 4) map of the colours of a uint8 image, rounded half to even or normalized."""
    out = np.empty(image.shape, np.uint8 if norm is None else np.float32)
    rows = max(1, _STRIP // image.shape[1])
    if norm is not None:
        scale, shift = (np.tile(v, image.shape[1]) for v in _normal(norm, image.shape[2]))
    for top in range(0, len(image), rows):
        strip = image[top : top + rows].astype(np.float32)
        cv2.transform(strip, whole, dst=strip)
        cv2.threshold(strip, 0.0, 0.0, cv2.THRESH_TOZERO, dst=strip)
        if norm is None:
            cv2.convertScaleAbs(strip, dst=out[top : top + rows])
        else:
            cv2.threshold(strip, 255.0, 0.0, cv2.THRESH_TRUNC, dst=strip)
            flat, done = (v.reshape(len(strip), -1) for v in (strip, out[top : top + rows]))
            np.multiply(flat, scale, out=done)
            done += shift
    return out


def _look_up(image: Array, table: Floats, norm: Normalize | None = None) -> Array:
    """Looks uint8 levels up in a table (256, 1 or C) of levels, rounded half to even.

    With `norm`, the table's levels are normalized instead of rounded.
    """
    table = np.clip(table, 0, 255)
    if norm is None:
        table = np.rint(table).astype(np.uint8)
    else:
        scale, shift = _normal(norm, image.shape[2], np.float64)
        table = (table * scale + shift).astype(np.float32)
    return cv2.LUT(image, table.reshape(1, 256, -1)).reshape(image.shape)


def _affine(image: Array, gain: Floats, shift: Floats) -> Array:
    """Returns gain x image + shift as float32, one number a channel or one for all."""
    height, width, channels = image.shape
    scale, level = (
        np.tile(np.broadcast_to(v, channels).astype(np.float32), width) for v in (gain, shift)
    )
    out = image.reshape(height, -1) * scale  # whole rows: NumPy is slow on an axis of three
    out += level
    return np.asarray(out.reshape(image.shape), np.float32)


def curve(meaning: Curve, row: int, image: Array) -> Array:
    """Maps every level by the curve."""
    steps = [(kind, amount[row]) for kind, amount in meaning.steps if not np.isnan(amount[row])]
    norm = meaning.norm
    if not steps:
        return image if norm is None else normalize(norm, image)
    levels = _LEVELS[:, None] if image.dtype == np.uint8 else np.clip(image, 0, 255)
    for kind, amount in steps:
        levels = curve_step(kind, amount, levels)
    if image.dtype == np.uint8:
        return _look_up(image, levels, norm)
    levels = levels.astype(np.float32)
    return levels if norm is None else normalize(norm, levels)


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


def normalize(meaning: Normalize, image: Array) -> Array:
    """Returns float32 (v / 255 - mean) / std."""
    if image.dtype == np.uint8:
        return _look_up(image, _LEVELS[:, None], meaning)
    return _affine(image, *_normal(meaning, image.shape[2], np.float64))


def _normal(
    norm: Normalize, channels: int, dtype: type[np.floating[Any]] = np.float32
) -> tuple[Array, Array]:
    """Returns what a level is multiplied by and what is added then, a number a channel."""
    scale, shift = normal_scale(norm, channels)
    return scale.astype(dtype), shift.astype(dtype)
