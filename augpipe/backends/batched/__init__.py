"""The meanings on a batch (B, C, H, W) of uint8, or float32 of grey levels, on any torch device.

`lower` is the host's part, in NumPy, for all images at once; `run` is the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from augpipe.backends.batched import color, filter, histogram, noise, warp
from augpipe.backends.batched.pieces import Piece, Shape, run, send
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


def lower(meaning: Alone, shape: Shape) -> list[list[Piece]]:
    """Makes a meaning of n images ready: runs of pieces, to be done one after another.

    Raises:
        DataError: The images would leave with different sizes.
    """
    match meaning:
        case Warp():
            return [warp.lower_warp(meaning, shape)]
        case Flow():
            return [warp.lower_flow(meaning, shape)]
        case Color() | Curve() if meaning.norm and shape.channels == 4:
            # Alpha is not coloured, but what leaves grey levels leaves them whole.
            levels = lower(replace(meaning, norm=None), shape)
            return [*levels, color.lower_normalize(meaning.norm, shape)]
        case Color():
            return [color.lower_color(meaning, shape)]
        case Curve():
            return [color.lower_curve(meaning, shape)]
        case Normalize():
            return [color.lower_normalize(meaning, shape)]
        case Histogram():
            return [histogram.lower_histogram(meaning, shape)]
        case Kernel():
            return [filter.lower_kernel(meaning, shape)]
        case Median():
            return [filter.lower_median(meaning, shape)]
        case Codec():
            return [filter.lower_codec(meaning, shape)]
        case Regions():
            return [noise.lower_regions(meaning, shape)]
        case Noise():
            return [noise.lower_noise(meaning, shape)]
        case Blend():
            raise NotImplementedError
        case _:
            assert_never(meaning)


def shape_after(meaning: Alone, shape: Shape) -> Shape:
    """Returns what is known of the batch after a meaning."""
    if not isinstance(meaning, Warp) or not shape.count:
        return shape
    height, width = warp.one_size(meaning.size)
    return replace(shape, height=height, width=width)


def lower_all(meanings: Sequence[Alone], shape: Shape) -> list[list[Piece]]:
    """Makes a sequence of meanings ready."""
    programs: list[list[Piece]] = []
    for meaning in meanings:
        programs += lower(meaning, shape)
        shape = shape_after(meaning, shape)
    return programs


def render(meanings: Sequence[Alone], images: Tensor) -> Tensor:
    """Does meanings of n images to a batch; float levels stay float, uint8 stays uint8."""
    programs = lower_all(meanings, Shape(*images.shape))
    out = run(send(programs, images.device), images)
    return out.float() if any(map(leaves_levels, meanings)) else out


def render_masks(meanings: Sequence[Warp | Flow], masks: Tensor) -> Tensor:
    """Does warps and flows to masks (B, N, H, W) of any dtype."""
    programs, shape = [], Shape(*masks.shape)
    for meaning in meanings:
        lower_one = warp.lower_warp if isinstance(meaning, Warp) else warp.lower_flow
        programs.append(lower_one(meaning, shape, True))  # type: ignore[arg-type]
        shape = shape_after(meaning, shape)
    moved = masks.to(torch.uint8) if masks.dtype == torch.bool else masks
    return run(send(programs, masks.device), moved).to(masks.dtype)
