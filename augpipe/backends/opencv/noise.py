"""Regions and Noise with OpenCV."""

from __future__ import annotations

from typing import assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from augpipe.backends.tables import poisson_guide, poisson_table, share
from augpipe.ir import Noise, Regions
from augpipe.rng import field_words, level_field, normal_table
from augpipe.types import Array, Floats


def regions(meaning: Regions, row: int, image: Array) -> Array:
    """Fills rectangles of one image (H, W, C)."""
    boxes = meaning.boxes[row]
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if not len(boxes):
        return image
    out = image.copy()
    if meaning.fill == "noise":
        # No more of the field than the lowest rectangle needs: it starts at the top row.
        rows = int(boxes[:, 3].max())
        levels = level_field(int(meaning.key[row]), rows * image[0].size) >> 8
        noise = levels.astype(image.dtype).reshape(rows, *image.shape[1:])
        for x0, y0, x1, y1 in boxes.tolist():
            out[y0:y1, x0:x1] = noise[y0:y1, x0:x1]
        return out
    fill = _mean(image) if meaning.fill == "mean" else np.asarray(meaning.fill)
    fill = np.rint(fill) if image.dtype == np.uint8 else fill
    for x0, y0, x1, y1 in boxes.tolist():
        out[y0:y1, x0:x1] = fill
    return out


def _mean(image: Array) -> Floats:
    """Returns the mean colour (C,); OpenCV's, a hundred times as fast, takes four channels."""
    channels = image.shape[2]
    return np.asarray(cv2.mean(image)[:channels] if channels <= 4 else image.mean(axis=(0, 1)))


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
            words, half = field_words(key, int(np.prod(shape))), share(amount, 31)
            out = image.copy()
            cells = out.reshape(len(words), -1)  # a pixel each, or a channel of one
            cells[words < half] = 0
            cells[(words >= half) & (words < 2 * half)] = 255
            return out
        case "dropout":
            words = field_words(key, int(np.prod(shape)))
            out = image.copy()
            out.reshape(len(words), -1)[words < share(amount, 32)] = 0
            return out
        case _:
            assert_never(meaning.kind)


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
        return np.asarray(np.clip(image + field, 0.0, 255.0))
    return cv2.add(*_flat(image, field), dtype=cv2.CV_8U).reshape(image.shape)


def _multiply(image: Array, field: Array) -> Array:
    if image.dtype != np.uint8:
        return np.asarray(np.clip(image * field, 0.0, 255.0))
    return cv2.multiply(*_flat(image, field), dtype=cv2.CV_8U).reshape(image.shape)


def _poisson(image: Array, key: int, photons: float) -> Array:
    words = field_words(key, image.size)
    if image.dtype == np.uint8:
        cells, levels = poisson_cells(image.reshape(-1), words, photons)
        return np.rint(levels).clip(0, 255).astype(np.uint8)[cells].reshape(image.shape)
    whole = np.rint(image).clip(0, 255).astype(np.uint8)
    cells, levels = poisson_cells(whole.reshape(-1), words, photons)
    counted = levels.astype(image.dtype)[cells].reshape(image.shape)
    return np.clip(counted + (image - whole), 0, 255)


def poisson_cells(
    image: NDArray[np.uint8], words: NDArray[np.uint32], photons: float
) -> tuple[NDArray[np.int32], Floats]:
    """Inverts the Poisson distribution function at each pixel's word.

    The count is the smallest k with (word + 1/2) 2^-32 <= P(count <= k), P rounded to
    2^-32. A guide gives a first k from the word's top 8 bits (Chen and Asau, 1974); most
    words need at most one step from there.

    Args:
        image: (m,) whole levels.
        words: (m,) uniform 32-bit words.
        photons: Mean count at level 255.

    Returns:
        (m,) positions in a table, and the table of levels that counts mean.
    """
    first, edges = poisson_table(photons)
    width = edges.shape[1]
    guide, _ = poisson_guide(edges)
    # An edge 0 is below every guide entry, so that its wrapping round is never read.
    last = (edges - 1).astype(np.uint32).reshape(-1)
    at = guide.reshape(-1)[image.astype(np.int32) << 8 | words >> 24]
    above = np.flatnonzero(last[at] < words)
    while len(above):
        at[above] += 1
        above = above[last[at[above]] < words[above]]
    return at, (first[:, None] + np.arange(width)).reshape(-1) * (255.0 / photons)
