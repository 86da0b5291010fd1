"""Histogram on a batch.

Counts are integers, and so are the tables made of them: no order of summation, and so no
device and no neighbour in the batch, changes a level.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.noise import half_even
from augpipe.backends.batched.pieces import Do, Own, Piece, Shape
from augpipe.backends.batched.reading import whole
from augpipe.backends.tables import fold
from augpipe.errors import DataError
from augpipe.ir import Histogram
from augpipe.types import Array


def lower_histogram(meaning: Histogram, shape: Shape) -> list[Piece]:
    """Makes an equalization ready.

    Raises:
        DataError: The images have neither grey levels nor three colours, for clahe.
    """
    rows = np.flatnonzero(meaning.on)
    if not len(rows) or not shape.height or not shape.width:
        return []
    colours = shape.channels == 4
    match meaning.kind:
        case "autocontrast":
            return [Piece(rows, _stretch, colours=colours)]
        case "equalize":
            return [Piece(rows, _equalize, colours=colours)]
        case "clahe":
            if shape.channels not in (1, 3, 4):
                have = f"the images have {shape.channels} channels"
                raise DataError("clahe", f"{have}: it takes grey or colour ones")
            do, shared, area = _clahe(meaning.tiles, shape)
            limit = np.maximum((meaning.amount[rows] * area / 256).astype(np.int64), 1)
            return [Piece(rows, do, (limit[:, None, None],), shared, colours)]
        case _:
            assert_never(meaning.kind)


def _stretch(images: Tensor, own: Own) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high  # a constant channel stays: (v - 0) 1 / 1
    low, gain = torch.where(flat, 0, low).float(), torch.where(flat, 1.0, 255.0)
    span = torch.where(flat, 1, high).float() - low
    # Of whole levels float32 gives the quotient nearest to the exact one, and halves exactly.
    out = (images - low) * gain / span
    return whole(out.clamp(0.0, 255.0), images.dtype)


def _levels(images: Tensor) -> Tensor:
    """Returns the nearest whole levels, as int64."""
    levels = images.detach().round().clamp(0.0, 255.0) if images.is_floating_point() else images
    return levels.to(torch.int64)


def _counts(bins: Tensor, count: int) -> Tensor:
    """Returns (..., count): how often each number stands in the last axis of `bins`, int64."""
    one = torch.ones((), dtype=torch.int64, device=bins.device).expand_as(bins)
    return one.new_zeros((*bins.shape[:-1], count)).scatter_add_(-1, bins, one)


def _equalize(images: Tensor, own: Own) -> Tensor:
    """Equalizes each channel as Pillow's `ImageOps.equalize`."""
    levels = _levels(images).flatten(2)
    counts = _counts(levels, 256)
    darker = counts.cumsum(2) - counts
    step = torch.where(counts > 0, darker, 0).amax(2, keepdim=True).div(255, rounding_mode="floor")
    equal = (step.div(2, rounding_mode="floor") + darker).div(
        step.clamp(min=1), rounding_mode="floor"
    )
    same = torch.arange(256, device=images.device)
    table = torch.where(step == 0, same, equal.clamp(max=255)).to(images.dtype)
    return table.gather(2, levels).view(images.shape)


def _clahe(tiles: int, shape: Shape) -> tuple[Do, tuple[Array, ...], int]:
    """Returns what equalizes tile by tile, what it needs, and a tile's pixels.

    Zuiderveld (1994), as OpenCV does it: mirrored to a multiple of the tiles, and by a whole
    round more along a side that needs none if the other does; the counts clipped once; the
    tables of the four nearest tiles interpolated, edge tiles repeated.
    """
    sides = (shape.height, shape.width)
    pads = [-side % tiles for side in sides]
    if any(pads):
        pads = [pad or tiles for pad in pads]
    cells = [(side + pad) // tiles for side, pad in zip(sides, pads, strict=True)]
    area = cells[0] * cells[1]
    shared: list[Array] = []
    for side, pad, cell, step in zip(sides, pads, cells, (256 * tiles, 256), strict=True):
        at = np.arange(side) / cell - 0.5
        first = np.floor(at)
        low, high = (fold(each.astype(np.int64), tiles, "edge") for each in (first, first + 1))
        mirrored = fold(np.arange(side + pad), side, "reflect")
        tile = np.arange(side + pad) // cell
        shared += [mirrored, tile * step, low * step, high * step, at - first]
    shared += [_LINEAR, _TO_XYZ, _FROM_XYZ]

    def equalize(levels: Tensor, limit: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        rows, down, top, bottom, y = shared[:5]
        columns, across, left, right, x = shared[5:10]
        padded = levels.index_select(1, rows).index_select(2, columns)
        bins = padded + (down[:, None] + across)
        counts = _counts(bins.flatten(1), 256 * tiles**2).view(len(levels), -1, 256)
        table = _limited(counts, limit, area).flatten(1)

        def read(row: Tensor, column: Tensor) -> Tensor:
            at = levels + (row[:, None] + column)
            return table.gather(1, at.flatten(1)).view(levels.shape)

        y = y[:, None]
        upper = read(top, left) * (1.0 - x) + read(top, right) * x
        lower = read(bottom, left) * (1.0 - x) + read(bottom, right) * x
        return (upper * (1.0 - y) + lower * y).round()

    def do(images: Tensor, own: Own) -> Tensor:
        (limit,), levels = own.arrays, _levels(images)
        if images.shape[1] == 1:
            return equalize(levels[:, 0], limit, own.shared)[:, None].to(images.dtype)
        linear, to_xyz, from_xyz = own.shared[10:]
        light, a, b = _to_lab(levels, linear, to_xyz)
        light = equalize(light.to(torch.int64), limit, own.shared)
        return _from_lab(light, a, b, from_xyz).to(images.dtype)

    return do, tuple(shared), area


def _limited(counts: Tensor, limit: Tensor, area: int) -> Tensor:
    """Returns (k, t, 256) float tables of tiles whose counts are clipped and spread evenly."""
    excess = (counts - limit).clamp(min=0).sum(2, keepdim=True)
    rest = excess % 256
    stride = torch.div(256, rest.clamp(min=1), rounding_mode="floor").clamp(min=1)
    level = torch.arange(256, device=counts.device)
    extra = (level % stride == 0) & (level < rest * stride)
    counts = torch.minimum(counts, limit) + excess.div(256, rounding_mode="floor") + extra
    return half_even(counts.cumsum(2) * 255, area).clamp(max=255).float()


# CIE 1931 XYZ from linear sRGB (IEC 61966-2-1), in units of its white, D65; and CIE Lab in the
# units of OpenCV's 8-bit Lab: L x 255 / 100, a + 128, b + 128, all rounded.
_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
) / np.array([[0.950456], [1.0], [1.088754]])
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_ENCODED = np.arange(256) / 255.0
_LINEAR = np.where(
    _ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4
)  # the light of each whole level
_KNEE = 6.0 / 29.0


def _mixed(planes: Tensor, matrix: Tensor) -> list[Tensor]:
    """Returns three sums of the three planes of (k, 3, H, W), each (k, H, W)."""
    r, g, b = planes.unbind(1)
    return [r * row[0] + g * row[1] + b * row[2] for row in matrix]


def _to_lab(levels: Tensor, linear: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the rounded L, a and b, each (k, H, W), of whole levels."""
    light = linear.index_select(0, levels.reshape(-1)).view(levels.shape)
    t = torch.stack(_mixed(light, matrix), dim=1)
    f = torch.where(t > _KNEE**3, t ** (1.0 / 3.0), t / (3.0 * _KNEE**2) + 4.0 / 29.0)
    x, y, z = f.unbind(1)
    lightness = (116.0 * y - 16.0) * 2.55
    return lightness.round(), (500.0 * (x - y) + 128.0).round(), (200.0 * (y - z) + 128.0).round()


def _from_lab(lightness: Tensor, a: Tensor, b: Tensor, matrix: Tensor) -> Tensor:
    """Returns the rounded levels (k, 3, H, W) of L, a and b."""
    y = (lightness / 2.55 + 16.0) / 116.0
    f = torch.stack([y + (a - 128.0) / 500.0, y, y - (b - 128.0) / 200.0], dim=1)
    t = torch.where(f > _KNEE, f * f * f, 3.0 * _KNEE**2 * (f - 4.0 / 29.0))
    light = torch.stack(_mixed(t, matrix), dim=1).clamp(0.0, 1.0)
    encoded = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1.0 / 2.4) - 0.055)
    return (255.0 * encoded).round()
