"""Color, Curve, Histogram and Normalize, plainly, in float64."""

from __future__ import annotations

import numpy as np

from augpipe.ir import Color, Curve, Histogram, Normalize
from augpipe.types import Floats


def color(meaning: Color, row: int, image: Floats) -> Floats:
    """Maps the colours of one image (H, W, 1 or 3) of grey levels."""
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    mean = rgb.reshape(-1, 3).mean(axis=0) if rgb.size else np.zeros(3)
    out = rgb @ meaning.matrix[row].T + (meaning.mean[row] @ mean + meaning.offset[row])
    return np.clip(out, 0.0, 255.0)[:, :, : image.shape[2]]


def curve(meaning: Curve, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError


def histogram(meaning: Histogram, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError


def normalize(meaning: Normalize, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError
