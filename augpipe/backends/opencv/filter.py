"""Kernel, Median and Codec with OpenCV."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from augpipe.errors import DataError
from augpipe.ir import Codec, Kernel, Median
from augpipe.types import Array, Floats

_BORDER = cv2.BORDER_REFLECT_101
_DIRECT = 121  # taps: OpenCV transforms for more of them, 2.5 times as fast in float32
_JPEG_SIDE = 65500  # libjpeg's limit


def kernel(meaning: Kernel, row: int, image: Array) -> Array:
    """Correlates one image (H, W, C) with its kernels."""
    factors = [_trim(factor[row]) for factor in meaning.factors]
    factors = [each for each in factors if each.size > 1 or each[0, 0] != 1.0]
    if not image.size or not factors:
        return image
    out = _by_fours(lambda part: _correlate(part, factors), image)
    if image.dtype == np.uint8 or all((each >= 0).all() for each in factors):
        return out  # a mean stays within the levels of the image
    return np.clip(out, 0.0, 255.0)


def _correlate(image: Array, factors: list[Floats]) -> Array:
    """Correlates (H, W, up to 4) with kernels; OpenCV sums in float32 and rounds once."""
    match factors:
        case [one] if image.dtype != np.uint8 or one.size <= _DIRECT:
            return cv2.filter2D(image, -1, one, borderType=_BORDER)
        case [down, across] if down.shape[1] == across.shape[0] == 1:
            return cv2.sepFilter2D(image, -1, across[0], down[:, 0], borderType=_BORDER)
    out: Array = image.astype(np.float32)
    for each in factors:
        out = cv2.filter2D(out, -1, each, borderType=_BORDER)
    return out if image.dtype != np.uint8 else np.rint(out).clip(0, 255).astype(np.uint8)


def _trim(weights: Floats) -> Floats:
    """Cuts the rows and columns of zeros around a kernel, keeping its centre."""
    for axis in (0, 1):
        reach = weights.shape[axis] // 2
        used = np.flatnonzero(weights.any(axis=1 - axis))
        need = abs(used - reach).max(initial=0)
        weights = weights.take(range(reach - need, reach + need + 1), axis)
    return np.ascontiguousarray(weights, np.float32)


def _by_fours(function: Callable[[Array], Array], image: Array, limit: int = 4) -> Array:
    """Calls an OpenCV function on at most `limit` channels at a time, keeping three axes."""
    parts = [
        function(np.ascontiguousarray(image[:, :, k : k + limit]))
        for k in range(0, image.shape[2], limit)
    ]
    parts = [part.reshape(*part.shape[:2], -1) for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def median(meaning: Median, row: int, image: Array) -> Array:
    """Takes the median of a window about each pixel of one image (H, W, C)."""
    size = int(meaning.size[row])
    if size == 1 or not image.size:
        return image
    if image.dtype != np.uint8 and size > 5:  # OpenCV's float median ends there
        levels = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
        return median(meaning, row, levels).astype(image.dtype)
    # OpenCV takes 1, 3 or 4 channels.
    limit = 4 if image.shape[2] in (1, 3, 4) else 1
    return _by_fours(lambda part: cv2.medianBlur(part, size), image, limit)


def codec(meaning: Codec, row: int, image: Array) -> Array:
    """Stores one image (H, W, C) as JPEG, or shrinks and enlarges it."""
    if not image.size:
        return image
    amount = float(meaning.amount[row])
    if meaning.kind == "downscale":
        return _downscale(image, amount)
    if image.dtype == np.uint8:
        return _jpeg(image, round(amount))
    whole = np.rint(image).clip(0, 255).astype(np.uint8)
    return _jpeg(whole, round(amount)).astype(image.dtype)


def _jpeg(image: Array, quality: int) -> Array:
    if image.shape[2] not in (1, 3):
        parts = [_jpeg(image[:, :, k : k + 1], quality) for k in range(image.shape[2])]
        return np.concatenate(parts, axis=2)
    if max(image.shape) > _JPEG_SIDE:
        raise DataError("jpeg_compression", f"a side of JPEG has at most {_JPEG_SIDE} pixels")
    colour = image.shape[2] == 3
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else np.ascontiguousarray(image)
    _, data = cv2.imencode(".jpg", bgr, options)
    out = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE)
    assert out is not None
    return out.reshape(image.shape)


def _downscale(image: Array, scale: float) -> Array:
    height, width = image.shape[:2]
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    if (rows, columns) == (height, width):
        return image
    size, area = (columns, rows), cv2.INTER_AREA
    small = _by_fours(lambda part: cv2.resize(part, size, interpolation=area), image)
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    across = (2 * np.arange(width) + 1) * columns // (2 * width)
    return np.asarray(small.take(across, 1).take(down, 0))
