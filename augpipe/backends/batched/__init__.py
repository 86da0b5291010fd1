"""The meanings on a batch (B, C, H, W) of uint8, or float32 of grey levels, on any torch device.

`lower` is the host's part, in NumPy, for all images at once; `run` is the device's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from torch import Tensor

from augpipe.backends.batched import blend, color, filter, flow, histogram, noise, warp
from augpipe.backends.batched.pieces import Piece, Shape, run, send
from augpipe.backends.batched.reading import comparable
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
    Median,
    Noise,
    Normalize,
    Regions,
    Warp,
    smooth,
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
            return [flow.lower_flow(meaning, shape)]
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
            return [blend.lower_blend(meaning, shape, lower)]
        case _:
            assert_never(meaning)


def shape_after(meaning: Alone, shape: Shape) -> Shape:
    """Returns what is known of the batch after a meaning."""
    if not isinstance(meaning, Warp) or not shape.count:
        return shape
    height, width = warp.one_size(meaning.size)
    return replace(shape, height=height, width=width)


def lower_all(
    meanings: Sequence[Alone], shape: Shape, names: Sequence[str] = ()
) -> list[list[Piece]]:
    """Makes a sequence of meanings ready.

    Args:
        meanings: Of n images.
        shape: What is known of the images.
        names: What errors call each meaning.

    Raises:
        DataError: The images would leave with different sizes, or cannot be done at all.
    """
    programs: list[list[Piece]] = []
    for k, meaning in enumerate(meanings):
        try:
            programs += lower(meaning, shape)
            shape = shape_after(meaning, shape)
        except DataError as error:
            raise DataError(names[k] if names else error.where, error.reason) from error
    return programs


def render(meanings: Sequence[Alone], images: Tensor) -> Tensor:
    """Does meanings of n images to a batch; float levels stay float, uint8 stays uint8."""
    return run(send(lower_all(meanings, Shape.of(images)), images.device), images)


def render_all(
    meanings: Sequence[Alone],
    images: Tensor,
    masks: Mapping[str, Tensor],
    gain: float = 1.0,
    leave: Callable[[Tensor], Tensor] = lambda part: part,
    look: Callable[[Tensor], None] = lambda part: None,
    names: Sequence[str] = (),
    heatmaps: Collection[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Does meanings to a batch and to its masks, all parameters sent in one copy.

    Args:
        meanings: Of n images.
        images: (n, C, H, W).
        masks: By name, each (n, m, H, W) of any dtype.
        gain: What takes the images to grey levels.
        leave: Takes what becomes of them to what is handed out.
        look: May refuse rows of the batch.
        names: What errors call each meaning.
        heatmaps: Which of the masks are heat maps, of float32.
    """
    moves = [meaning for meaning in meanings if isinstance(meaning, Warp | Flow)]
    whole = {name: comparable(each) for name, each in masks.items()}
    programs = [lower_all(meanings, Shape.of(images), names)]
    even = [replace(meaning, sampling=smooth(meaning.sampling)) for meaning in moves]
    for name, each in whole.items():
        smoothly = name in heatmaps
        programs.append(_lower_masks(even if smoothly else moves, Shape.of(each), not smoothly))
    sent = iter(send([program for group in programs for program in group], images.device))
    own, *others = [[next(sent) for _ in group] for group in programs]
    moved = {
        name: run(each, mask).to(masks[name].dtype)
        for each, (name, mask) in zip(others, whole.items(), strict=True)
    }
    return run(own, images, gain, leave, look), moved


def _lower_masks(moves: Sequence[Warp | Flow], shape: Shape, mask: bool) -> list[list[Piece]]:
    programs = []
    for meaning in moves:
        if isinstance(meaning, Warp):
            programs.append(warp.lower_warp(meaning, shape, mask=mask))
        else:
            programs.append(flow.lower_flow(meaning, shape, mask=mask))
        shape = shape_after(meaning, shape)
    return programs
