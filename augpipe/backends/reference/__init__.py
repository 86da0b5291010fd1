"""The meanings plainly, in NumPy float64: slow, and what the other backends are held to."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import numpy as np

from augpipe.backends import on_colours
from augpipe.backends.reference import color, filter, noise, warp
from augpipe.ir import (
    Alone,
    Blend,
    Codec,
    Color,
    Curve,
    Flow,
    Histogram,
    Kernel,
    Median,
    Noise,
    Normalize,
    Regions,
    Warp,
    leaves_levels,
)
from augpipe.types import Array, Floats


def render(meaning: Alone, row: int, image: Array) -> Array:
    """Does row `row` of a meaning to an image (H, W, C), uint8 or float grey levels.

    A uint8 image comes back rounded, half to even; a float image as float32.
    """
    if isinstance(meaning, Blend):
        return _blend(meaning, row, image)
    out = exact(meaning, row, image.astype(np.float64))
    if leaves_levels(meaning):
        return out.astype(np.float32)
    if image.dtype == np.uint8:
        return np.rint(out.clip(0, 255)).astype(np.uint8)
    return out.astype(image.dtype)


def render_mask(meaning: Warp | Flow, row: int, mask: Array) -> Array:
    """Does row `row` of a warp or a flow to a mask (H, W, C)."""
    function = warp.warp_mask if isinstance(meaning, Warp) else warp.flow_mask
    out = function(meaning, row, mask.astype(np.float64))  # type: ignore[arg-type]
    return np.rint(out).astype(mask.dtype) if mask.dtype.kind in "uib" else out.astype(mask.dtype)


def exact(meaning: Alone, row: int, image: Floats) -> Floats:
    """Does row `row` of a meaning to float64 grey levels, without rounding."""
    if isinstance(meaning, Warp):
        return warp.warp(meaning, row, image)
    if isinstance(meaning, Flow):
        return warp.flow(meaning, row, image)
    if isinstance(meaning, Blend):
        return _blend(meaning, row, image)
    if isinstance(meaning, Normalize):  # alpha too: what leaves grey levels leaves them whole
        return color.normalize(meaning, image)
    if isinstance(meaning, (Color, Curve)) and meaning.norm and image.shape[2] == 4:
        levels = exact(replace(meaning, norm=None), row, image)
        return color.normalize(meaning.norm, levels)
    return on_colours(image, lambda colours: _pixels(meaning, row, colours))


def _blend(meaning: Blend, row: int, image: Array) -> Array:
    """Blends chains whose steps are each rounded as when it stands alone."""
    out = meaning.weights[row, 0] * image.astype(np.float64)
    for weight, chain in zip(meaning.weights[row, 1:], meaning.chains, strict=True):
        part = image
        for each in chain:
            part = render(each, row, part)
        out = out + weight * part.astype(np.float64)
    return np.rint(out).astype(np.uint8) if image.dtype == np.uint8 else out.astype(image.dtype)


def _pixels(
    meaning: Color | Curve | Histogram | Kernel | Median | Regions | Noise | Codec,
    row: int,
    image: Floats,
) -> Floats:
    match meaning:
        case Color():
            return color.color(meaning, row, image)
        case Curve():
            return color.curve(meaning, row, image)
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
