"""Baseline JPEG, written and read back, on a batch: the pixels of libjpeg, to the bit.

Nothing that a file adds (Huffman codes, headers) changes a pixel, so that none of it is done:
colour conversion, 4:2:0 chroma, the transform of 8 x 8 blocks, quantisation, and all of them
backwards. Every step is integer arithmetic as libjpeg (6b and later, libjpeg-turbo) defines
it with its default settings: its accurate integer transform and its smooth upsampling.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.pieces import Own, Piece, Shape
from augpipe.errors import DataError
from augpipe.types import Array, Ints

_LONGEST = 65500  # pixels a side, libjpeg's limit

# ITU-T T.81, Annex K: the quantisation of lightness and of chroma that quality 50 has.
_LIGHTNESS = """
    16  11  10  16  24  40  51  61   12  12  14  19  26  58  60  55
    14  13  16  24  40  57  69  56   14  17  22  29  51  87  80  62
    18  22  37  56  68 109 103  77   24  35  55  64  81 104 113  92
    49  64  78  87 103 121 120 101   72  92  95  98 112 100 103  99"""
_CHROMA = """
    17  18  24  47  99  99  99  99   18  21  26  66  99  99  99  99
    24  26  56  99  99  99  99  99   47  66  99  99  99  99  99  99
    99  99  99  99  99  99  99  99   99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99   99  99  99  99  99  99  99  99"""
_TABLES = np.array([_LIGHTNESS.split(), _CHROMA.split()], np.int64).reshape(2, 8, 8)

# The transform of eight numbers splits into one of the sums and one of the differences of
# numbers at equal distances from the ends; both matrices are symmetric, so that they serve
# backwards too. In parts of 2^-13: sums of the rounded constants of the algorithm of Loeffler,
# Ligtenberg and Moschytz (1989), some of which differ by one from the rounded cosines.
_SUMS = ((10703, 4433), (4433, -10704))
_DIFFERENCES = (
    (11363, 9633, 6437, 2260),
    (9633, -2259, -11362, -6436),
    (6437, -11362, 2261, 9633),
    (2260, -6436, 9633, -11363),
)
_BITS = 13


def jpeg_piece(rows: Ints, quality: Ints, shape: Shape) -> Piece:
    """Returns the piece that stores images at (m,) qualities.

    Three channels are a colour image, of which chroma has half the size; any others are grey
    images each.

    Raises:
        DataError: A side is longer than JPEG's.
    """
    if max(shape.height, shape.width) > _LONGEST:
        raise DataError("jpeg_compression", f"a side of JPEG has at most {_LONGEST} pixels")
    return Piece(rows, _stored, (quantisation(quality),), colours=shape.channels == 4)


def quantisation(quality: Ints) -> Array:
    """Returns (n, 2, 8, 8) int32: the steps of lightness and chroma at qualities 1 to 100."""
    percent = np.where(quality < 50, 5000 // np.maximum(quality, 1), 200 - 2 * quality)
    scaled = (_TABLES * percent[:, None, None, None] + 50) // 100
    return scaled.clip(1, 255).astype(np.int32)


def _stored(images: Tensor, own: Own) -> Tensor:
    steps = own.arrays[0].permute(2, 3, 0, 1)
    levels = images.detach().round().clamp(0, 255) if images.is_floating_point() else images
    levels = levels.to(torch.int32)
    if images.shape[1] != 3:
        (out,) = _coded([levels], [steps[..., :1]])
        return out.to(images.dtype)
    lightness, chroma = _split(levels)
    lightness, small = _coded([lightness, _halved(chroma)], [steps[..., :1], steps[..., 1:]])
    height, width = images.shape[2:]
    large = _doubled(small[..., : -(-width // 2)])[:, :, :height, :width]
    return _joined(lightness, large).to(images.dtype)


def _split(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Y (k, 1, H, W) and Cb, Cr (k, 2, H, W) of RGB: BT.601, full range, 16 bits."""
    r, g, b = levels.unbind(1)
    y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    half = (128 << 16) + 32767
    cb = (32768 * b - 11059 * r - 21709 * g + half) >> 16
    cr = (32768 * r - 27439 * g - 5329 * b + half) >> 16
    return y[:, None], torch.stack([cb, cr], dim=1)


def _joined(y: Tensor, chroma: Tensor) -> Tensor:
    """Returns RGB of Y and chroma."""
    cb, cr = (chroma - 128).unbind(1)
    y = y[:, 0]
    r = y + ((91881 * cr + 32768) >> 16)
    g = y + ((32768 - 22554 * cb - 46802 * cr) >> 16)
    b = y + ((116130 * cb + 32768) >> 16)
    return torch.stack([r, g, b], dim=1).clamp(0, 255)


def _extended(planes: Tensor, height: int, width: int) -> Tensor:
    """Repeats the last row and the last column until planes have a size."""
    more = width - planes.shape[3]
    if more:
        planes = torch.cat([planes, planes[..., -1:].expand(-1, -1, -1, more)], dim=3)
    more = height - planes.shape[2]
    if more:
        planes = torch.cat([planes, planes[:, :, -1:].expand(-1, -1, more, -1)], dim=2)
    return planes


def _halved(planes: Tensor) -> Tensor:
    """Averages 2 x 2 pixels; halves are rounded down and up in turn along a row."""
    height, width = planes.shape[2:]
    # Across, what completes the last block is the full-size edge repeated, before averaging.
    planes = _extended(planes, height + height % 2, -(-width // 16) * 16)
    rows = planes[:, :, 0::2] + planes[:, :, 1::2]
    turns = 1 + torch.arange(rows.shape[3] // 2, device=planes.device, dtype=torch.int32) % 2
    return (rows[..., 0::2] + rows[..., 1::2] + turns) >> 2


def _doubled(planes: Tensor) -> Tensor:
    """Enlarges twice: each pixel has weights 3/4, 1/4 of the nearest two, down and across."""
    if planes.shape[3] <= 2:  # libjpeg repeats pixels of so narrow an image
        return planes.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    above = torch.cat([planes[:, :, :1], planes[:, :, :-1]], dim=2)
    below = torch.cat([planes[:, :, 1:], planes[:, :, -1:]], dim=2)
    rows = torch.stack([3 * planes + above, 3 * planes + below], dim=3).flatten(2, 3)
    left = torch.cat([rows[..., :1], rows[..., :-1]], dim=3)
    right = torch.cat([rows[..., 1:], rows[..., -1:]], dim=3)
    return torch.stack([(3 * rows + left + 8) >> 4, (3 * rows + right + 7) >> 4], dim=4).flatten(3)


def _coded(planes: list[Tensor], steps: list[Tensor]) -> list[Tensor]:
    """Transforms, quantises and transforms back planes (k, p, H, W) of one or more sizes.

    Args:
        planes: int32 levels.
        steps: (8, 8, k, 1), the quantisation of each.
    """
    blocks = [_blocks(each) for each in planes]
    step = torch.cat(
        [each.expand(-1, -1, -1, own.shape[3]) for each, own in zip(steps, blocks, strict=True)],
        dim=3,
    )
    coefficients = _forward(torch.cat(blocks, dim=3) - 128)
    # Coefficients are 8 times the transform's; halves are rounded away from zero.
    nearest = coefficients + coefficients.sign() * (4 * step)
    kept = torch.div(nearest, 8 * step, rounding_mode="trunc") * step
    levels = (_backward(kept) + 128).clamp(0, 255)
    out, first = [], 0
    for own, like in zip(blocks, planes, strict=True):
        out.append(_plane(levels.narrow(3, first, own.shape[3]), like))
        first += own.shape[3]
    return out


def _blocks(planes: Tensor) -> Tensor:
    """Returns (8, 8, k, blocks): rows and columns of the blocks of all planes of each image."""
    k, p, *sides = planes.shape
    down, across = (-(-side // 8) for side in sides)
    tiles = _extended(planes, 8 * down, 8 * across).reshape(k, p, down, 8, across, 8)
    return tiles.permute(3, 5, 0, 1, 2, 4).flatten(3)


def _plane(blocks: Tensor, like: Tensor) -> Tensor:
    """Returns the planes that blocks came from, of the shape of `like`."""
    k, p, height, width = like.shape
    tiles = blocks.reshape(8, 8, k, p, -(-height // 8), -(-width // 8))
    return tiles.permute(2, 3, 4, 0, 5, 1).flatten(4).flatten(2, 3)[:, :, :height, :width]


def _forward(blocks: Tensor) -> Tensor:
    """Transforms rows, and then columns."""
    return _analysed(_analysed(blocks, 1, _BITS - 2), 0, _BITS + 2)


def _backward(blocks: Tensor) -> Tensor:
    """Transforms columns, and then rows."""
    return _composed(_composed(blocks, 0, _BITS - 2), 1, _BITS + 5)


def _analysed(blocks: Tensor, axis: int, shift: int) -> Tensor:
    """Returns the eight frequencies along an axis, in parts of 2^(shift - 13)."""
    x = blocks.unbind(axis)
    sums = [x[i] + x[7 - i] for i in range(4)]
    differences = [x[i] - x[7 - i] for i in range(4)]
    ends, middle = sums[0] + sums[3], sums[1] + sums[2]
    pair = (sums[0] - sums[3], sums[1] - sums[2])
    out = [blocks] * 8
    out[0], out[4] = (ends + middle) << _BITS, (ends - middle) << _BITS
    out[2], out[6] = (_weighed(pair, row) for row in _SUMS)
    out[1::2] = [_weighed(differences, row) for row in _DIFFERENCES]
    return _descaled(out, axis, shift)


def _composed(blocks: Tensor, axis: int, shift: int) -> Tensor:
    """Returns the eight numbers along an axis whose frequencies these are."""
    x = blocks.unbind(axis)
    a, b = (_weighed((x[2], x[6]), row) for row in _SUMS)
    ends, middle = (x[0] + x[4]) << _BITS, (x[0] - x[4]) << _BITS
    sums = [ends + a, middle + b, middle - b, ends - a]
    differences = [_weighed(x[1::2], row) for row in _DIFFERENCES]
    out = [s + d for s, d in zip(sums, differences, strict=True)]
    out += [s - d for s, d in zip(reversed(sums), reversed(differences), strict=True)]
    return _descaled(out, axis, shift)


def _weighed(numbers: list[Tensor] | tuple[Tensor, ...], weights: tuple[int, ...]) -> Tensor:
    out = numbers[0] * weights[0]
    for each, weight in zip(numbers[1:], weights[1:], strict=True):
        out = torch.add(out, each, alpha=weight)
    return out


def _descaled(numbers: list[Tensor], axis: int, shift: int) -> Tensor:
    """Returns numbers divided by 2^shift, halves rounded up, side by side along an axis."""
    return (torch.stack(numbers, dim=axis) + (1 << (shift - 1))) >> shift
