"""Regions and Noise with OpenCV, and the Poisson tables."""

from __future__ import annotations

import functools
from typing import Any, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from augpipe.ir import Noise, Regions
from augpipe.rng import field_words, level_field, normal_table
from augpipe.types import Array


def regions(meaning: Regions, row: int, image: Array) -> Array:
    """Fills rectangles of one image (H, W, C)."""
    boxes = meaning.boxes[row]
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if not image.size or not len(boxes):
        return image
    out = image.copy()
    if meaning.fill == "noise":
        # No more of the field than the lowest rectangle needs: it starts at the top row.
        rows = min(int(boxes[:, 3].max()), len(image))
        levels = level_field(int(meaning.key[row]), rows * image[0].size) >> 8
        noise = levels.astype(image.dtype).reshape(rows, *image.shape[1:])
        for x0, y0, x1, y1 in boxes.tolist():
            out[y0:y1, x0:x1] = noise[y0:y1, x0:x1]
        return out
    fill = image.mean(axis=(0, 1)) if meaning.fill == "mean" else np.asarray(meaning.fill)
    fill = np.rint(fill) if image.dtype == np.uint8 else fill
    for x0, y0, x1, y1 in boxes.tolist():
        out[y0:y1, x0:x1] = fill
    return out


def noise(meaning: Noise, row: int, image: Array) -> Array:
    """Applies a random field to one image (H, W, C)."""
    if not image.size:
        return image
    amount, key = float(meaning.amount[row]), int(meaning.key[row])
    shape = image.shape if meaning.per_channel else (*image.shape[:2], 1)
    match meaning.kind:
        case "gaussian":
            return _add(image, _normal(key, shape, amount, 0.0))
        case "multiplicative":
            return _multiply(image, _normal(key, shape, amount, 1.0))
        case "poisson":
            return _poisson(image, key, amount)
        case "salt_and_pepper":
            words, half = field_words(key, int(np.prod(shape))).reshape(shape), share(amount, 31)
            out = np.where(words < 2 * half, image.dtype.type(255), image)
            return np.where(words < half, image.dtype.type(0), out)
        case "dropout":
            words = field_words(key, int(np.prod(shape))).reshape(shape)
            return np.where(words < share(amount, 32), image.dtype.type(0), image)
        case _:
            assert_never(meaning.kind)


def share(amount: float, bits: int) -> int:
    """Returns the whole number of 2^-bits nearest to a share of 0 to 1."""
    return round(amount * 2**bits)


def _normal(key: int, shape: tuple[int, ...], scale: float, shift: float) -> NDArray[np.float32]:
    """Returns shift + scale x the normal field, scaling the table instead of the field."""
    table = (normal_table() * np.float64(scale) + shift).astype(np.float32)
    return table[level_field(key, int(np.prod(shape)))].reshape(shape)


def _flat(image: Array, field: Array) -> tuple[Array, Array]:
    """Returns both as (H, W * C), so that OpenCV takes any number of channels."""
    height = len(image)
    field = np.ascontiguousarray(np.broadcast_to(field, image.shape))
    return np.ascontiguousarray(image).reshape(height, -1), field.reshape(height, -1)


def _add(image: Array, field: Array) -> Array:
    if image.dtype != np.uint8:
        return np.clip(image + field, 0.0, 255.0)
    return cv2.add(*_flat(image, field), dtype=cv2.CV_8U).reshape(image.shape)


def _multiply(image: Array, field: Array) -> Array:
    if image.dtype != np.uint8:
        return np.clip(image * field, 0.0, 255.0)
    return cv2.multiply(*_flat(image, field), dtype=cv2.CV_8U).reshape(image.shape)


def _poisson(image: Array, key: int, photons: float) -> Array:
    words = field_words(key, image.size).reshape(image.shape)
    if image.dtype == np.uint8:
        counts = poisson_counts(image, words, photons)
        ...
