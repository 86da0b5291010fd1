"""Kernel, Median and Codec on a batch.

Sums over taps are made tap by tap, in one order, of shifted images: nothing that a device or
a library does to convolutions (TF32, blocking by batch size) reaches the levels, and on the
CPU shifted sums are as fast as convolutions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.backends.batched.jpeg import jpeg_piece
from augpipe.backends.batched.median import median_piece
from augpipe.backends.batched.pieces import Do, Own, Piece, Shape
from augpipe.backends.batched.reading import whole
from augpipe.backends.tables import fold
from augpipe.ir import Codec, Kernel, Median
from augpipe.types import Array, Bools, Floats, Ints


def lower_kernel(meaning: Kernel, shape: Shape) -> list[Piece]:
    """Makes kernels ready; rows alike in their kernels' extent make a piece."""
    if not shape.height or not shape.width:
        return []
    kinds = np.stack([_extent(factor) for factor in meaning.factors], axis=1)
    works = meaning.on & (kinds >= 0).any(axis=(1, 2))
    pieces = []
    for kind in np.unique(kinds[works], axis=0):
        rows = np.flatnonzero(works & (kinds == kind).all(axis=(1, 2)))
        factors = [
            _cut(factor[rows], reach)
            for factor, reach in zip(meaning.factors, kind.tolist(), strict=True)
            if reach[0] >= 0
        ]
        do, shared = _correlation(factors, shape)
        pieces.append(Piece(rows, do, tuple(factors), shared, shape.channels == 4))
    return pieces


def _extent(weights: Floats) -> Ints:
    """Returns (n, 2): how far kernels reach down and across; -1 for those that change nothing.

    A kernel that reaches both ways is taken as square, so that there are few extents.
    """
    reach = np.zeros((len(weights), 2), np.int64)
    for axis in (0, 1):
        used = weights.any(axis=2 - axis)
        away = abs(np.arange(used.shape[1]) - used.shape[1] // 2)
        reach[:, axis] = (used * away).max(axis=1, initial=0)
    flat = reach.min(axis=1) == 0
    centre = weights[:, weights.shape[1] // 2, weights.shape[2] // 2]
    most = np.array(weights.shape[1:]) // 2
    reach[~flat] = np.minimum(reach[~flat].max(axis=1, keepdims=True), most)
    reach[(reach == 0).all(axis=1) & (centre == 1.0)] = -1
    return reach


def _cut(weights: Floats, reach: list[int]) -> Floats:
    """Returns the middle of kernels, as far as they reach."""
    (down, across), (top, left) = reach, (side // 2 for side in weights.shape[1:])
    return weights[:, top - down : top + down + 1, left - across : left + across + 1]


def _correlation(factors: list[Floats], shape: Shape) -> tuple[Do, tuple[Array, ...]]:
    """Returns what correlates images with kernels, one after another, and what it shares."""
    used: list[Bools] = [factor != 0 for factor in factors]
    shared = tuple(
        fold(np.arange(-reach, side + reach), side, "reflect")
        for factor in factors
        for side, reach in zip(
            (shape.height, shape.width), (size // 2 for size in factor.shape[1:]), strict=True
        )
    )

    def do(images: Tensor, own: Own) -> Tensor:
        out = images.float()
        for k, (weights, taps) in enumerate(zip(own.arrays, used, strict=True)):
            at = np.argwhere(taps[own.at].any(axis=0)).tolist()
            framed = _mirrored(out, own.shared[2 * k], own.shared[2 * k + 1])
            out = _summed(framed, weights, at, out.shape[2:])
        return whole(out.clamp(0.0, 255.0), images.dtype)

    return do, shared


def _mirrored(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Frames float images by their mirror image; `rows` and `columns` say where each is read."""
    sides = images.shape[2:]
    down, across = ((len(at) - side) // 2 for at, side in zip((rows, columns), sides, strict=True))
    if down < sides[0] and across < sides[1]:
        return F.pad(images, (across, across, down, down), mode="reflect")
    return images.index_select(2, rows).index_select(3, columns)


def _summed(framed: Tensor, weights: Tensor, at: list[list[int]], size: torch.Size) -> Tensor:
    """Returns the sum over taps (i, j) of weights[:, i, j] times the image that begins there."""
    height, width = size
    out: Tensor | None = None
    for i, j in at:
        part, weight = (
            framed[:, :, i : i + height, j : j + width],
            weights[:, i, j, None, None, None],
        )
        out = part * weight if out is None else out.addcmul_(part, weight)
    return torch.zeros_like(framed[:, :, :height, :width]) if out is None else out


def lower_median(meaning: Median, shape: Shape) -> list[Piece]:
    """Makes a median ready; rows of one window make a piece."""
    if not shape.height or not shape.width:
        return []
    sizes = np.where(meaning.on, meaning.size, 1)
    return [
        median_piece(np.flatnonzero(sizes == size), size, shape)
        for size in np.unique(sizes[sizes > 1]).tolist()
    ]


def lower_codec(meaning: Codec, shape: Shape) -> list[Piece]:
    """Makes a codec ready.

    Raises:
        DataError: A side is longer than JPEG's.
    """
    rows = np.flatnonzero(meaning.on)
    if not len(rows) or not shape.height or not shape.width:
        return []
    if meaning.kind == "jpeg":
        return [jpeg_piece(rows, np.rint(meaning.amount[rows]).astype(np.int64), shape)]
    return _downscale(rows, meaning.amount[rows], shape)


def _downscale(rows: Ints, scale: Floats, shape: Shape) -> list[Piece]:
    """Shrinks and enlarges; rows whose cells touch as many pixels make a piece."""
    sides = (shape.height, shape.width)
    counts = np.stack([np.maximum(1, np.rint(scale * side)) for side in sides], axis=1)
    counts = counts.astype(np.int64)
    taps = np.stack([_taps(counts[:, axis], side) for axis, side in enumerate(sides)], axis=1)
    shrinks = (counts != sides).any(axis=1)
    area = np.full((1, 1, 1), float(shape.height * shape.width))
    pieces = []
    for kind in np.unique(taps[shrinks], axis=0):
        own = np.flatnonzero(shrinks & (taps == kind).all(axis=1))
        down = _cells(counts[own, 0], shape.height, int(kind[0]))
        across = _cells(counts[own, 1], shape.width, int(kind[1]))
        colours = shape.channels == 4
        pieces.append(Piece(rows[own], _shrunk, (*down, *across), (area,), colours))
    return pieces


def _taps(count: Ints, length: int) -> Ints:
    """Returns (n,): the most pixels that any of `count` equal cells touches.

    Cells start at multiples of gcd / count of a pixel: at most one such step before the next.
    """
    return -(-(length + count - np.gcd(count, length)) // count)


def _cells(count: Ints, length: int, taps: int) -> tuple[Array, ...]:
    """Returns the pixels of each cell, their weights, and the cell that holds each pixel.

    Lengths are counted in parts of a pixel, `count` to each: cell r is r x length to
    (r + 1) x length of them, and weights are whole numbers.

    Returns:
        (n, cells, taps) pixels and weights, (n, length) cells.
    """
    count = count[:, None]
    start = np.arange(count.max()) * length
    first = start // count
    pixel = first[:, :, None] + np.arange(taps)
    low = np.maximum(pixel * count[:, :, None], start[:, None])
    high = np.minimum((pixel + 1) * count[:, :, None], (start + length)[:, None])
    weight = np.maximum(high - low, 0).astype(np.float64)
    holder = (2 * np.arange(length) + 1) * count // (2 * length)
    return pixel.clip(0, length - 1), weight, holder


def _shrunk(images: Tensor, own: Own) -> Tensor:
    rows, down, row, columns, across, column = own.arrays
    out = _gathered(images.float(), rows, down, 2)
    out = whole(_gathered(out, columns, across, 3) / own.shared[0], images.dtype)
    return _taken(_taken(out, column, 3), row, 2)


def _gathered(images: Tensor, at: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Returns the weighted sums, along an axis, of the (k, cells, taps) pixels `at`."""
    out: Tensor | None = None
    for pixel, weight in zip(at.unbind(2), weights.unbind(2), strict=True):
        weight = weight[:, None, :, None] if axis == 2 else weight[:, None, None, :]
        part = _taken(images, pixel, axis) * weight
        out = part if out is None else out + part
    assert out is not None
    return out


def _taken(images: Tensor, at: Tensor, axis: int) -> Tensor:
    """Returns the rows (axis 2) or columns (axis 3) `at`, (k, m), of each image."""
    k, channels, height, width = images.shape
    if axis == 2:
        return images.gather(2, at[:, None, :, None].expand(k, channels, at.shape[1], width))
    return images.gather(3, at[:, None, None, :].expand(k, channels, height, at.shape[1]))
