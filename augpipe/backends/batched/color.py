"""Color, Curve and Normalize on a batch.

Colour coefficients are multiples of a power of two for which float32 sums of whole levels
are exact (as in the opencv backend): any device and any order of summation give the same
bits. A curve of whole levels is one table a row, computed on the host in float64.
"""

from __future__ import annotations

import functools
from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.pieces import Own, Piece, Shape
from augpipe.backends.tables import curve_table, normal_scale
from augpipe.ir import Color, Curve, CurveKind, Normalize
from augpipe.types import Array

_FINEST = 2.0**15  # steps a level: all that float32 has of a level above 128
_GRID = 2.0**16  # a level's parts that a float's mean is counted in: sums of them are exact


def lower_color(meaning: Color, shape: Shape) -> list[Piece]:
    """Makes a colour map ready; the identity is left out."""
    n = shape.count
    norm = normal_arrays(meaning.norm, shape.channels, n)
    still = (meaning.matrix == np.eye(3)).all(axis=(1, 2)) & ~meaning.offset.any(axis=1)
    still &= ~meaning.mean.any(axis=(1, 2))
    rows = np.arange(n) if norm else np.flatnonzero(~still)
    if not len(rows):
        return []
    grey = shape.channels == 1
    # On the coarsest grid that the largest mean could ask for.
    reach = 255.0 * (abs(meaning.matrix) + abs(meaning.mean)).sum(axis=2).max(axis=1)
    reach = reach + abs(meaning.offset).max(axis=1)
    grid = 2.0 ** np.floor(np.log2((2**24 - 1024) / np.maximum(reach, 1.0)))[:, None, None]
    matrix = np.rint(meaning.matrix.round(12) * grid)
    sums = np.rint(meaning.matrix.sum(axis=2, keepdims=True).round(12) * grid)
    matrix[:, :, :1] += sums - matrix.sum(axis=2, keepdims=True)  # rows of one sum keep one sum
    matrix /= grid
    raw, mean = meaning.matrix, meaning.mean
    alone = (raw == raw * np.eye(3)).all(axis=(1, 2))  # one product and one sum: no grid needed
    matrix[alone], grid[alone] = raw[alone], _FINEST
    if grey:  # as a colour image with three equal channels, to the bit
        matrix, raw = (each.sum(axis=2)[:, :1, None] for each in (matrix, raw))
        mean = mean.sum(axis=2)[:, :1, None]
    channels = 1 if grey else 3
    offset = meaning.offset[:, :channels, None, None]
    looks = bool(mean.any())
    arrays: tuple[Array, ...] = (matrix, raw, offset, mean, grid[:, :, :, None])

    def do(images: Tensor, own: Own) -> Tensor:
        matrix, raw, offset, mean, grid, *norm = own.arrays
        levels = images.float()
        if looks:
            at = mean_levels(images)[:, None, :]
            offset = offset + (mean * at).sum(dim=2)[:, :, None, None]
        if images.dtype == torch.uint8:
            offset = torch.round(offset * grid) / grid
        else:
            matrix = raw
        out = offset
        for k in range(channels):
            out = torch.addcmul(out, levels[:, k : k + 1], matrix[:, :, k, None, None])
        return _left(out.clamp(0.0, 255.0), images, norm)

    own = tuple(each[rows] for each in arrays) + norm
    return [Piece(rows, do, own, colours=shape.channels == 4)]


def mean_levels(images: Tensor) -> Tensor:
    """Returns (k, C) float32: the mean colours, of exact sums whatever the order of summation."""
    count = max(images.shape[2] * images.shape[3], 1)
    if images.dtype == torch.uint8:
        return images.sum((2, 3), dtype=torch.int64).to(torch.float32) / count
    parts = (images.float() * _GRID).round().to(torch.int64)
    return parts.sum((2, 3)).to(torch.float32) / (_GRID * count)


def normal_arrays(norm: Normalize | None, channels: int, count: int) -> tuple[Array, ...]:
    """Returns what a level is multiplied by and what is added then, as arrays of a piece."""
    if norm is None:
        return ()
    both = normal_scale(norm, channels)
    return tuple(np.tile(each[:, None, None], (count, 1, 1, 1)) for each in both)


def _left(levels: Tensor, images: Tensor, norm: list[Tensor]) -> Tensor:
    """Returns float levels as they leave a pass: normalized, or as what `images` are."""
    if norm:
        scale, shift = norm
        return torch.addcmul(shift, levels, scale)
    return levels if images.dtype != torch.uint8 else levels.round().to(torch.uint8)


def lower_curve(meaning: Curve, shape: Shape) -> list[Piece]:
    """Makes a curve ready; rows that none of its steps touches are left out."""
    acts = np.array([~np.isnan(amount) for _, amount in meaning.steps])
    acts = acts.reshape(len(meaning.steps), shape.count)
    rows = np.arange(shape.count) if meaning.norm else np.flatnonzero(acts.any(axis=0))
    if not len(rows):
        return []
    norm = normal_arrays(meaning.norm, shape.channels, len(rows))
    amounts = tuple(amount[rows] for _, amount in meaning.steps)
    colours = shape.channels == 4
    if shape.whole:
        tables = np.stack([curve_table(meaning, int(row)) for row in rows])
        return [Piece(rows, _tabulated, (tables, *norm), colours=colours)]
    pieces = []
    for pattern in np.unique(acts[:, rows], axis=1).T:  # images that the same steps touch
        own = np.flatnonzero((pattern == acts[:, rows].T).all(axis=1))
        used = np.flatnonzero(pattern)
        arrays = tuple(each[own] for each in (*(amounts[k] for k in used), *norm))
        do = functools.partial(_stepped, tuple(meaning.steps[k][0] for k in used))
        pieces.append(Piece(rows[own], do, arrays, colours=colours))
    return pieces


def _tabulated(images: Tensor, own: Own) -> Tensor:
    table, *norm = own.arrays
    return _left(_look_up(images, table if norm else table.round()), images, norm)


def _stepped(kinds: tuple[CurveKind, ...], images: Tensor, own: Own) -> Tensor:
    amounts, norm = own.arrays[: len(kinds)], list(own.arrays[len(kinds) :])
    levels = images.clamp(0.0, 255.0) if kinds else images
    for kind, amount in zip(kinds, amounts, strict=True):
        levels = _step(kind, amount[:, None, None, None], levels)
    return _left(levels, images, norm)


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Looks uint8 images (k, C, H, W) up in their rows of a table (k, 256)."""
    first = torch.arange(len(images), device=images.device, dtype=torch.int32) * 256
    at = images.to(torch.int32) + first[:, None, None, None]
    return table.reshape(-1).index_select(0, at.reshape(-1)).view(images.shape)


def _step(kind: CurveKind, amount: Tensor, levels: Tensor) -> Tensor:
    match kind:
        case "gamma":
            return 255.0 * (levels / 255.0) ** amount
        case "solarize":
            return torch.where(levels >= amount, 255.0 - levels, levels)
        case "posterize":
            step = 2.0 ** (8.0 - amount)  # a power of two: dividing by it is exact
            return torch.floor(levels / step) * step
        case _:
            assert_never(kind)


def lower_normalize(meaning: Normalize, shape: Shape) -> list[Piece]:
    """Makes a normalization ready, of all channels."""
    arrays = normal_arrays(meaning, shape.channels, shape.count)

    def do(images: Tensor, own: Own) -> Tensor:
        return _left(images.float(), images, list(own.arrays))

    return [Piece(np.arange(shape.count), do, arrays)]
