"""The median of a square window on a batch, edge pixels repeated.

Windows up to 5 x 5 go through a sorting network of which only what the middle needs is
kept: minima and maxima of shifted images. Larger ones are of whole levels, of which the
median is the largest that more than half of the window reaches: found bit by bit from
counts over the window, or where the window is so large that counting it pixel by pixel costs
more, level by level from sums that double their length.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from augpipe.backends.batched.pieces import Own, Piece, Shape
from augpipe.types import Ints

_SORTED = 5  # largest side that is sorted
_BYTES = 15  # largest side whose pixels' count is a byte


def median_piece(rows: Ints, size: int, shape: Shape) -> Piece:
    """Returns the piece that takes the median of size x size pixels."""

    def do(images: Tensor, own: Own) -> Tensor:
        if size <= _SORTED:
            return _sorted(_framed(images, size // 2), size)
        levels = images
        if images.dtype != torch.uint8:
            levels = images.detach().clamp(0.0, 255.0).round().to(torch.uint8)
        framed = _framed(levels, size // 2)
        return (_bit_by_bit if size <= _BYTES else _level_by_level)(framed, size).to(images.dtype)

    return Piece(rows, do, colours=shape.channels == 4)


def _framed(images: Tensor, reach: int) -> Tensor:
    """Repeats edge pixels."""
    for axis in (2, 3):
        first, last = images.narrow(axis, 0, 1), images.narrow(axis, images.shape[axis] - 1, 1)
        ends = [reach if each == axis else -1 for each in range(4)]
        images = torch.cat([first.expand(ends), images, last.expand(ends)], dim=axis)
    return images


def _window(framed: Tensor, size: int) -> list[Tensor]:
    """Returns the shifted images whose pixels make each pixel's window."""
    height, width = (side - size + 1 for side in framed.shape[2:])
    return [framed[:, :, i : i + height, j : j + width] for i in range(size) for j in range(size)]


def _sorted(framed: Tensor, size: int) -> Tensor:
    wires = _window(framed, size)
    for i, j, low, high in middle_network(size * size):
        a, b = wires[i], wires[j]
        if low:
            wires[i] = torch.minimum(a, b)
        if high:
            wires[j] = torch.maximum(a, b)
    return wires[size * size // 2]


@functools.cache
def middle_network(count: int) -> tuple[tuple[int, int, bool, bool], ...]:
    """Returns what brings the median of `count` numbers, an odd one, to the middle wire.

    Batcher's merge exchange (1968; Knuth, TAOCP 5.2.2, algorithm M), of which each exchange
    keeps what a later one that matters reads.

    Returns:
        Exchanges in order: the wire of the minimum, that of the maximum, and which of the
        two are needed.
    """
    exchanges = []
    top = 1 << ((count - 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            exchanges += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    needed, kept = {count // 2}, []
    for i, j in reversed(exchanges):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def _bit_by_bit(framed: Tensor, size: int) -> Tensor:
    window = _window(framed, size)
    out = torch.zeros_like(window[0])
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        level = out + bit
        count = torch.zeros_like(out)
        for each in window:
            count += (each >= level).view(torch.uint8)
        out += bit * (count > size * size // 2).view(torch.uint8)
    return out


def _level_by_level(framed: Tensor, size: int) -> Tensor:
    k, channels, _, width = framed.shape
    height, half = framed.shape[2] - size + 1, size * size // 2
    # Lines hang together, so that sums run on over their ends; what is summed there is cut off.
    long = height * width - size + 1
    out = framed.new_zeros((k, channels, height * width), dtype=torch.int16)
    level = torch.ones_like(framed)  # on the CPU, comparing with one number is far slower
    for _ in range(255):
        reached = (framed >= level).view(torch.uint8)
        lines = _box_sum(reached, size, 2)  # at most `size`: still a byte
        count = _box_sum(lines.flatten(2).to(torch.int16), size, 2)
        out[:, :, :long] -= (half - count) >> 15  # -1 where more than half reach the level
        level += 1
    return out.view(k, channels, height, width)[..., : width - size + 1]


def _box_sum(numbers: Tensor, size: int, axis: int) -> Tensor:
    """Returns the sums of `size` numbers in a row, along an axis."""
    length = numbers.shape[axis] - size + 1
    total: Tensor | None = None
    first, step = 0, 1
    while True:
        if size & step:
            part = numbers.narrow(axis, first, length)
            total = part if total is None else total + part
            first += step
        if 2 * step > size:
            break
        rest = numbers.shape[axis] - step
        numbers = numbers.narrow(axis, 0, rest) + numbers.narrow(axis, step, rest)
        step *= 2
    assert total is not None
    return total
