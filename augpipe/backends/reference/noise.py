"""Regions and Noise, plainly, in float64."""

from __future__ import annotations

from typing import assert_never

import numpy as np
from scipy import stats

from augpipe.ir import Noise, Regions
from augpipe.rng import field_words, level_field, normal_field
from augpipe.types import Floats


def regions(meaning: Regions, row: int, image: Floats) -> Floats:
    """Fills rectangles of one image (H, W, C)."""
    if not image.size:
        return image
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    hidden = np.zeros(image.shape[:2], bool)
    for x0, y0, x1, y1 in meaning.boxes[row]:
        hidden |= (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    match meaning.fill:
        case "noise":
            fill = (level_field(int(meaning.key[row]), image.size) >> 8).reshape(image.shape)
        case "mean":
            fill = image.mean(axis=(0, 1))
        case level:
            fill = np.asarray(level)
    return np.where(hidden[:, :, None], fill, image).astype(np.float64)


def noise(meaning: Noise, row: int, image: Floats) -> Floats:
    """Applies a random field to one image (H, W, C); levels are clipped to 0..255."""
    if not image.size:
        return image
    amount, key = float(meaning.amount[row]), int(meaning.key[row])
    shape = image.shape if meaning.per_channel else (*image.shape[:2], 1)
    count = int(np.prod(shape))
    match meaning.kind:
        case "gaussian":
            out = image + amount * normal_field(key, count).reshape(shape).astype(np.float64)
        case "multiplicative":
            z = normal_field(key, count).reshape(shape).astype(np.float64)
            out = image * (1.0 + amount * z)
        case "poisson":
            # Whole levels count; what a float level has beyond its nearest one is kept.
            whole = np.rint(image)
            u = (field_words(key, count).reshape(shape) + 0.5) / 2.0**32
            photons = stats.poisson.ppf(u, whole * amount / 255.0)
            out = photons * 255.0 / amount + (image - whole)
        case "salt_and_pepper":
            words, half = field_words(key, count).reshape(shape), round(amount * 2**31)
            salt, pepper = (words >= half) & (words < 2 * half), words < half
            out = np.where(pepper, 0.0, np.where(salt, 255.0, image))
        case "dropout":
            words = field_words(key, count).reshape(shape)
            out = np.where(words < round(amount * 2**32), 0.0, image)
        case _:
            assert_never(meaning.kind)
    return np.clip(out, 0.0, 255.0)
