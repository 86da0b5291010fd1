"""Kernel, Median and Codec, plainly: sums over taps, sorted windows, exact area averages."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from augpipe.ir import Codec, Kernel, Median
from augpipe.types import Floats


def kernel(meaning: Kernel, row: int, image: Floats) -> Floats:
    """Correlates one image (H, W, C) with its kernels, tap by tap."""
    if not image.size:
        return image
    for factor in meaning.factors:
        image = _correlate(image, factor[row])
    return np.clip(image, 0.0, 255.0)


def _correlate(image: Floats, weights: Floats) -> Floats:
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for i, j in np.argwhere(weights):
        rows = _mirror(np.arange(height) + i - weights.shape[0] // 2, height)
        columns = _mirror(np.arange(width) + j - weights.shape[1] // 2, width)
        out += weights[i, j] * image[rows][:, columns]
    return out


def _mirror(at: np.ndarray, length: int) -> np.ndarray:
    """Mirrors positions about the first and the last pixel, as often as it takes."""
    if length == 1:
        return np.zeros_like(at)
    at = np.mod(at, 2 * (length - 1))
    return np.where(at < length, at, 2 * (length - 1) - at)


def median(meaning: Median, row: int, image: Floats) -> Floats:
    """Takes the median of a window about each pixel of one image (H, W, C)."""
    size = int(meaning.size[row])
    if not image.size:
        return image
    if size > 5:
        image = np.rint(np.clip(image, 0.0, 255.0))
    reach = size // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    # A row at a time: all windows at once are size ** 2 images.
    return np.stack([np.median(line, axis=(-2, -1)) for line in windows])


def codec(meaning: Codec, row: int, image: Floats) -> Floats:
    """Stores one image (H, W, C) as JPEG, or shrinks and enlarges it."""
    if not image.size:
        return image
    amount = float(meaning.amount[row])
    if meaning.kind == "downscale":
        return _downscale(image, amount)
    whole = np.rint(image).clip(0, 255).astype(np.uint8)
    if image.shape[2] == 3:
        return _jpeg(Image.fromarray(whole), round(amount))
    planes = (Image.fromarray(np.ascontiguousarray(whole[:, :, k])) for k in range(image.shape[2]))
    return np.stack([_jpeg(plane, round(amount)) for plane in planes], axis=2)


def _jpeg(image: Image.Image, quality: int) -> Floats:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(data), np.float64)


def _downscale(image: Floats, scale: float) -> Floats:
    height, width = image.shape[:2]
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    small = np.einsum(
        "ri,ijc,sj->rsc", _cells(height, rows), image, _cells(width, columns), optimize=True
    )
    return np.asarray(small[_holders(height, rows)][:, _holders(width, columns)])


def _cells(length: int, count: int) -> Floats:
    """Returns (count, length): the share of each of `count` equal cells in each pixel."""
    edges = np.linspace(0, length, count + 1)
    low = np.maximum(edges[:-1, None], np.arange(length))
    high = np.minimum(edges[1:, None], np.arange(length) + 1)
    return np.asarray(np.maximum(high - low, 0.0) * count / length)


def _holders(length: int, count: int) -> np.ndarray:
    """Returns (length,): which of `count` equal cells holds each pixel's centre.

    In whole numbers: a centre on an edge belongs to the cell after it.
    """
    return (2 * np.arange(length) + 1) * count // (2 * length)
