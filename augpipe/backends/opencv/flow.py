"""Flow with OpenCV: every pixel's source is computed, and read."""

from __future__ import annotations

import cv2
import numpy as np

from augpipe.backends.opencv.source import BORDERS, FLAGS, as_pixels, held, mirrorable
from augpipe.ir import Flow, basis
from augpipe.types import Array


def flow(meaning: Flow, row: int, image: Array) -> Array:
    """Displaces one image (H, W, C)."""
    sampling = meaning.sampling
    return held(_flow(meaning, row, image, sampling.interpolation, sampling.fill), sampling)


def flow_mask(meaning: Flow, row: int, mask: Array) -> Array:
    """Displaces one mask (H, W, C)."""
    sampling = meaning.sampling
    kind = sampling.mask_interpolation
    return as_pixels(
        mask, kind, sampling.mask_fill, lambda part, fill: _flow(meaning, row, part, kind, fill)
    )


def _flow(
    meaning: Flow, row: int, image: Array, interpolation: str, fill: float | tuple[float, ...]
) -> Array:
    control = meaning.control[row]
    if not control.any() or not image.size:
        return image
    height, width = image.shape[:2]
    down = basis(meaning.basis, np.arange(height) + 0.5, control.shape[0], height)
    across = basis(meaning.basis, np.arange(width) + 0.5, control.shape[1], width)
    x = (down @ control[:, :, 0] @ across.T + np.arange(width)).astype(np.float32)
    y = (down @ control[:, :, 1] @ across.T + np.arange(height)[:, None]).astype(np.float32)
    image = mirrorable(image, meaning.sampling.border)
    flag, border = FLAGS[interpolation], BORDERS[meaning.sampling.border]
    values = np.broadcast_to(np.asarray(fill, np.float64), image.shape[2:]).tolist()

    def sample(first: int, stop: int) -> Array:
        if stop - first == 2:  # see on_channels
            return np.concatenate([sample(k, k + 1) for k in (first, first + 1)], axis=2)
        part, fills = np.ascontiguousarray(image[:, :, first:stop]), values[first:stop]
        out = cv2.remap(part, x, y, flag, borderMode=border, borderValue=fills)
        return out if out.ndim == 3 else out[:, :, None]

    channels = image.shape[2]
    parts = [sample(k, min(k + 4, channels)) for k in range(0, channels, 4)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
