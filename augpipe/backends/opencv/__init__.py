"""The meanings on one uint8 image (H, W, C), or float32 of grey levels, through OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import cv2
import numpy as np

from augpipe.backends import on_colours
from augpipe.backends.opencv import color, filter, flow, noise, warp
from augpipe.errors import DataError
from augpipe.ir import (
    Alone,
    Blend,
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
from augpipe.types import Array, Picture


def render(meaning: Alone, row: int, image: Array | Picture, into: Array | None = None) -> Array:
    """Does row `row` of a meaning to an image; may return the image itself, never changes it.

    Args:
        meaning: What to do.
        row: Which of its images this is.
        image: Levels, or a file of them.
        into: (C, H, W) float32, where values that are no longer levels may be put; what is
            returned is then a view of it.

    Raises:
        DataError: OpenCV cannot do it to an image of this size or this many channels.
    """
    try:
        if isinstance(meaning, Warp):
            return warp.warp(meaning, row, image)
        levels = image.pixels() if isinstance(image, Picture) else image
        return _render(meaning, row, levels, into)
    except cv2.error as error:
        what = "not enough memory" if error.code == cv2.Error.StsNoMem else str(error.err)
        size = " × ".join(str(side) for side in image.shape)
        raise DataError(type(meaning).__name__.lower(), f"{what}, on {size}") from error


def ending(
    meanings: Sequence[Meaning], row: int, image: Array | Picture, into: Array | None = None
) -> Array | None:
    """Does a curve and a normalization, and what is filled between them, in one pass.

    To the bit what `render` makes of them one after another: what is filled after the
    normalization has the value that the fill is normalized to.

    Args:
        meanings: All that is left to do.
        row: Which of their images this is.
        image: Levels, or a file of them.
        into: See `render`.

    Returns:
        The normalized image; None where it cannot be done so.
    """
    filled: Regions | None = None
    match meanings:
        case [Curve() as curve, Normalize() as norm]:
            pass
        case [Curve() as curve, Regions() as filled, Normalize() as norm]:
            if isinstance(filled.fill, str) and filled.on[row]:
                return None
        case _:
            return None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2] == 4:
        return None
    out = color.normalized_curve(curve, norm, row, image, into)
    if filled is not None and filled.on[row]:
        levels = np.broadcast_to(np.rint(filled.fill), image.shape[2:]).astype(np.uint8)
        values = color.normalize(norm, levels[None, None])[0, 0]
        for x0, y0, x1, y1 in filled.boxes[row].tolist():
            out[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = values
    return out


def store(image: Array, into: Array) -> None:
    """Puts an image (H, W, C) into planes (C, H, W) of its dtype, unless it lies there already."""
    if image.__array_interface__["data"] == into.__array_interface__["data"]:
        return
    if image.flags.c_contiguous and image.dtype in (np.uint8, np.float32):
        cv2.split(image, list(into))  # several times as fast as NumPy
    else:
        into[:] = image.transpose(2, 0, 1)


def _render(meaning: Alone, row: int, image: Array, into: Array | None = None) -> Array:
    if isinstance(meaning, Warp):
        return warp.warp(meaning, row, image)
    if isinstance(meaning, Flow):
        return flow.flow(meaning, row, image)
    if isinstance(meaning, Blend):
        return _blend(meaning, row, image)
    if isinstance(meaning, Normalize):  # alpha too: what leaves grey levels leaves them whole
        return color.normalize(meaning, image, into)
    if isinstance(meaning, (Color, Curve)) and meaning.norm and image.shape[2] == 4:
        levels = _render(replace(meaning, norm=None), row, image)
        return color.normalize(meaning.norm, levels, into)
    return on_colours(image, lambda colours: _pixels(meaning, row, colours, into))


def _blend(meaning: Blend, row: int, image: Array) -> Array:
    weights = meaning.weights[row].tolist()
    if weights[0] == 1.0:
        return image
    out = np.multiply(image, weights[0], dtype=np.float32)
    for weight, chain in zip(weights[1:], meaning.chains, strict=True):
        if weight:
            part = image
            for each in chain:
                part = _render(each, row, part)
            out += np.multiply(part, weight, dtype=np.float32)
    return out if image.dtype != np.uint8 else np.rint(out).clip(0, 255).astype(np.uint8)


def _pixels(
    meaning: Color | Curve | Histogram | Kernel | Median | Regions | Noise | Codec,
    row: int,
    image: Array,
    into: Array | None,
) -> Array:
    match meaning:
        case Color():
            return color.color(meaning, row, image, into)
        case Curve():
            return color.curve(meaning, row, image, into)
        case _ if not meaning.on[row]:
            return image
        case Histogram():
            return color.histogram(meaning, row, image)
        case Kernel():
            return filter.kernel(meaning, row, image)
        case Median():
            return filter.median(meaning, row, image)
        case Codec():
            return filter.codec(meaning, row, image)
        case Regions():
            return noise.regions(meaning, row, image)
        case Noise():
            return noise.noise(meaning, row, image)
        case _:
            assert_never(meaning)


def render_mask(meaning: Warp | Flow, row: int, mask: Array) -> Array:
    """Does row `row` of a warp or a flow to a mask (H, W, C)."""
    if isinstance(meaning, Warp):
        return warp.warp_mask(meaning, row, mask)
    return flow.flow_mask(meaning, row, mask)
