"""Color, Curve, Histogram and Normalize with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np

from augpipe.ir import Color, Curve, Histogram, Normalize
from augpipe.types import Array


def color(meaning: Color, row: int, image: Array) -> Array:
    """Maps the colours of one image (H, W, 1 or 3)."""
    matrix, offset = meaning.matrix[row], meaning.offset[row]
    if meaning.mean[row].any():
        mean = np.asarray(cv2.mean(image)[: image.shape[2]])
        offset = offset + meaning.mean[row] @ np.broadcast_to(mean, 3)
    if image.shape[2] == 1:
        gain, shift = matrix[0].sum(), offset[0]
        if gain == 1.0 and shift == 0.0:
            return image
        out = np.rint(image * gain + shift) if image.dtype == np.uint8 else image * gain + shift
        return np.clip(out, 0, 255).astype(image.dtype)
    whole = np.concatenate([matrix, offset[:, None]], axis=1)
    if (whole == np.eye(3, 4)).all():
        return image
    out = cv2.transform(image, whole.astype(np.float32))
    return out if image.dtype == np.uint8 else np.clip(out, 0, 255)


def curve(meaning: Curve, row: int, image: Array) -> Array:
    """To be written."""
    raise NotImplementedError


def histogram(meaning: Histogram, row: int, image: Array) -> Array:
    """To be written."""
    raise NotImplementedError


def normalize(meaning: Normalize, row: int, image: Array) -> Array:
    """To be written."""
    raise NotImplementedError
