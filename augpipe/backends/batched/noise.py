"""Regions and Noise on a batch.

Fields are those of rng.py in HWC order, made on the device from keys (philox.py). What is
hidden or dropped is multiplied away: levels are whole or finite, so that this is exact, and
on the CPU it is ten times as fast as a choice by a mask that channels share.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.color import mean_levels
from augpipe.backends.batched.philox import field_words, level_field, normal_field, round_keys
from augpipe.backends.batched.pieces import Do, Own, Piece, Shape
from augpipe.backends.batched.reading import whole
from augpipe.backends.tables import poisson_guide, poisson_table, share
from augpipe.ir import Noise, Regions
from augpipe.rng import normal_table
from augpipe.types import Array, Floats, Ints


def lower_regions(meaning: Regions, shape: Shape) -> list[Piece]:
    """Makes rectangles ready; rows without any are left out."""
    x0, y0, x1, y1 = np.moveaxis(meaning.boxes.clip(0, 2**31 - 1), 2, 0)
    real = (np.minimum(x1, shape.width) > x0) & (np.minimum(y1, shape.height) > y0)
    rows = np.flatnonzero(meaning.on & real.any(axis=1))
    if not len(rows):
        return []
    boxes, colours = meaning.boxes[rows], shape.channels == 4
    if meaning.fill == "noise":
        top = np.where(real, y0, shape.height).min(axis=1)[rows]
        stop = np.where(real, np.minimum(y1, shape.height), 0).max(axis=1)[rows]
        keys = round_keys(meaning.key[rows])
        return [Piece(rows, _noise_filler(top, stop), (boxes, keys), colours=colours)]
    if meaning.fill == "mean":
        return [Piece(rows, _fill_with_mean, (boxes,), colours=colours)]
    fill = np.asarray(meaning.fill, np.float64).reshape(-1, 1, 1)
    return [Piece(rows, _fill, (boxes,), (fill, np.rint(fill)), colours=colours)]


def _hidden(boxes: Tensor, top: int, stop: int, width: int, like: Tensor) -> Tensor:
    """Returns (k, 1, stop - top, width) of `like`'s dtype: 1 within any of (k, m, 4) boxes."""
    x0, y0, x1, y1 = boxes[..., None].unbind(2)
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(top, stop, device=boxes.device)
    across, down = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    if boxes.shape[1] == 1:
        inside = down[:, 0, :, None] & across[:, 0, None, :]
    else:  # sums of ones: exact, whatever a device makes of float32 products
        inside = torch.matmul(down.float().transpose(1, 2), across.float()) > 0
    return inside[:, None].to(like.dtype)


def _laid(images: Tensor, fill: Tensor, hidden: Tensor) -> Tensor:
    return images * (1 - hidden) + fill.to(images.dtype) * hidden


def _fill(images: Tensor, own: Own) -> Tensor:
    (boxes,), (fill, rounded) = own.arrays, own.shared
    hidden = _hidden(boxes, 0, images.shape[2], images.shape[3], images)
    return _laid(images, fill if images.dtype.is_floating_point else rounded, hidden)


def _fill_with_mean(images: Tensor, own: Own) -> Tensor:
    hidden = _hidden(own.arrays[0], 0, images.shape[2], images.shape[3], images)
    return _laid(images, _mean_fill(images)[:, :, None, None], hidden)


def _mean_fill(images: Tensor) -> Tensor:
    """Returns (k, C): the mean colours, rounded half to even of uint8 images."""
    if images.dtype.is_floating_point:
        return mean_levels(images)
    return half_even(images.sum((2, 3), dtype=torch.int64), images.shape[2] * images.shape[3])


def half_even(total: Tensor, count: int) -> Tensor:
    """Returns total / count for integers, total 0 or more, rounded half to even."""
    low = total.div(count, rounding_mode="floor")
    twice = 2 * (total - low * count)
    return low + ((twice > count) | ((twice == count) & (low % 2 == 1)))


def _noise_filler(top: Ints, stop: Ints) -> Do:
    def do(images: Tensor, own: Own) -> Tensor:
        boxes, keys = own.arrays
        # No more of the field than the rectangles of these images span.
        first, last = int(top[own.at].min()), int(stop[own.at].max())
        channels, _, width = images.shape[1:]
        line = width * channels
        levels = level_field(keys, (last - first) * line, first * line) >> 8
        fill = _planes(levels, channels, width)
        hidden = _hidden(boxes, first, last, width, images)
        part = _laid(images[:, :, first:last], fill, hidden)
        return torch.cat([images[:, :, :first], part, images[:, :, last:]], dim=2)

    return do


def _planes(field: Tensor, channels: int, width: int) -> Tensor:
    """Returns (k, channels, height, width) of a field in HWC order."""
    return field.view(len(field), -1, width, channels).permute(0, 3, 1, 2)


def lower_noise(meaning: Noise, shape: Shape) -> list[Piece]:
    """Makes a random field ready."""
    rows = np.flatnonzero(meaning.on)
    if not len(rows) or not shape.height or not shape.width:
        return []
    colours = shape.channels == 4
    channels = (3 if colours else shape.channels) if meaning.per_channel else 1
    keys, amount = round_keys(meaning.key[rows]), meaning.amount[rows]

    def words(keys: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return _planes(field_words(keys, height * width * channels), channels, width)

    def normals(images: Tensor, own: Own) -> Tensor:
        (keys, amount), (table,) = own.arrays, own.shared
        height, width = images.shape[2:]
        z = normal_field(keys, height * width * channels, table)
        return _planes(z, channels, width) * amount

    def gaussian(images: Tensor, own: Own) -> Tensor:
        levels = images + normals(images, own)
        return whole(levels.clamp(0.0, 255.0), images.dtype)

    def multiplicative(images: Tensor, own: Own) -> Tensor:
        levels = images * (normals(images, own) + 1.0)
        return whole(levels.clamp(0.0, 255.0), images.dtype)

    def salt_and_pepper(images: Tensor, own: Own) -> Tensor:
        keys, half = own.arrays
        field = words(keys, images)
        turned, pepper = ((field < level).to(images.dtype) for level in (2 * half, half))
        return images * (1 - turned) + (turned - pepper) * 255

    def dropout(images: Tensor, own: Own) -> Tensor:
        keys, limit = own.arrays
        return images * (words(keys, images) >= limit).to(images.dtype)

    def shares(bits: int) -> Ints:
        return np.array([share(each, bits) for each in amount.tolist()], np.int64)

    def piece(do: Do, numbers: Array, *shared: Array) -> list[Piece]:
        return [Piece(rows, do, (keys, numbers[:, None, None, None]), shared, colours)]

    match meaning.kind:
        case "gaussian":
            return piece(gaussian, amount, normal_table())
        case "multiplicative":
            return piece(multiplicative, amount, normal_table())
        case "salt_and_pepper":
            return piece(salt_and_pepper, shares(31))
        case "dropout":
            return piece(dropout, shares(32))
        case "poisson":
            do, arrays = _counter(amount, channels)
            return [Piece(rows, do, (keys, *arrays), colours=colours)]
        case _:
            assert_never(meaning.kind)


def _counter(photons: Floats, channels: int) -> tuple[Do, tuple[Array, ...]]:
    """Returns what inverts the Poisson distribution function, and its tables of each row.

    A row's 256 tables, one a level, lie in one ascending line: an edge of level v is
    v 2^32 + round(2^32 P(count <= k)), and the number of edges at or below v 2^32 + word,
    less those of darker levels, is the count. The guide knows that number but for at most
    `most` edges, through which a binary search goes in as many steps as that has bits.
    """
    tables = [poisson_table(each) for each in photons.tolist()]
    width = max(edges.shape[1] for _, edges in tables)
    levels = np.arange(256)
    pairs = [
        poisson_guide(np.pad(edges, ((0, 0), (0, width - edges.shape[1])), constant_values=2**32))
        for _, edges in tables
    ]
    bits = max(most for _, most in pairs).bit_length()
    lines = np.full((len(tables), 256 * width + 2**bits), 2**63 - 1, np.int64)
    for line, (_, edges) in zip(lines, tables, strict=True):
        own = line[: 256 * width].reshape(256, width)
        own[:] = 2**32
        own[:, : edges.shape[1]] = edges
        own += levels[:, None] << 32
    guide = np.stack([own.reshape(-1) for own, _ in pairs])
    shift = np.stack([first - levels * width for first, _ in tables])

    def do(images: Tensor, own: Own) -> Tensor:
        keys, lines, guide, shift, scale = own.arrays
        height, size = images.shape[2:]
        words = _planes(field_words(keys, height * size * channels), channels, size)
        nearest = images if images.dtype == torch.uint8 else images.detach().round()
        level = nearest.clamp(0, 255).to(torch.int64).flatten(1)
        word = words.expand(images.shape).flatten(1)
        key = (level << 32) | word
        at = guide.gather(1, (level << 8) | (word >> 24)).to(torch.int64)
        for step in (1 << bit for bit in reversed(range(bits))):
            at += step * (lines.gather(1, at + (step - 1)) <= key)
        counts = (at + shift.gather(1, level)).view(images.shape)
        levels = counts * scale
        if images.dtype != torch.uint8:  # what a float level has beyond its nearest one is kept
            levels = levels + (images - nearest)
        return whole(levels.clamp(0.0, 255.0), images.dtype)

    return do, (lines, guide, shift, (255.0 / photons)[:, None, None, None])
