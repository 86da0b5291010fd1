"""The meanings on one uint8 image (H, W, C), or float32 of grey levels, through OpenCV."""

from __future__ import annotations

from typing import assert_never

from augpipe.backends.opencv import color, warp
from augpipe.ir import (
    Codec,
    Color,
    Curve,
    Flow,
    Histogram,
    Kernel,
    Meaning,
    Median,
    Noise,
    Normalize,
    Regions,
    Warp,
)
from augpipe.types import Array


def render(meaning: Meaning, row: int, image: Array) -> Array:
    """Does row `row` of a meaning to an image; may return the image itself, never changes it."""
    match meaning:
        case Warp():
            return warp.warp(meaning, row, image)
        case Flow():
            return warp.flow(meaning, row, image)
        case Color():
            return color.color(meaning, row, image)
    raise NotImplementedError


def render_mask(meaning: Warp | Flow, row: int, mask: Array) -> Array:
    """Does row `row` of a warp or a flow to a mask (H, W, C)."""
    if isinstance(meaning, Warp):
        return warp.warp_mask(meaning, row, mask)
    return warp.flow_mask(meaning, row, mask)
