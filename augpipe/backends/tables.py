"""What backends work out in NumPy before they touch pixels: weights, borders, tables."""

from __future__ import annotations

import functools
import math
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from augpipe.errors import DataError
from augpipe.ir import Curve, CurveKind, Normalize
from augpipe.types import Array, Border, Floats, Ints

_SNAP = 1e-6


def fold(at: Array, length: Array | int, border: Border) -> Array:
    """Returns the pixel that stands for each position beyond the edge."""
    last = np.asarray(length) - 1
    if border != "reflect":
        return np.clip(at, 0, last)
    at = np.mod(at, np.maximum(2 * last, 1))
    return np.maximum(np.minimum(at, 2 * last - at), 0)


def cell_weights(scale: float, shift: float, count: int, length: int, border: Border) -> Array:
    """Returns (count, length): how much of each pixel lies in each output pixel's cell.

    Of a cell that reaches beyond a constant border only the inside counts: the fill comes in
    later, by coverage.
    """
    start = shift + scale * np.arange(count) + min(scale, 0.0)
    stop = start + abs(scale)
    pixel = np.floor(start + _SNAP)[:, None] + np.arange(math.ceil(abs(scale)) + 1)
    low, high = np.maximum(pixel, start[:, None]), np.minimum(pixel + 1, stop[:, None])
    share = np.maximum(high - low, 0.0)
    if border == "constant":
        share *= (pixel >= 0) & (pixel < length)
        share[share.sum(axis=1) == 0, 0] = 1.0
    out = np.zeros((count, length), np.float32)
    rows = np.broadcast_to(np.arange(count)[:, None], pixel.shape)
    np.add.at(out, (rows, fold(pixel.astype(np.int64), length, border)), share)
    return out / out.sum(axis=1, keepdims=True)


def binding(lines: Floats, width: int, height: int) -> Floats:
    """Returns the half-planes that matter in a frame, scaled to distances in pixels.

    The frame is clipped by one after another; one that leaves what the others leave by half
    a pixel and more covers nothing that the others do not.
    """
    lines = distances(lines)
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    lowest = (lines @ corners.T).min(axis=1)
    order = np.argsort(lowest, kind="stable")
    polygon = [(0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height))]
    kept: list[tuple[float, float, float]] = []
    for k in order[: np.searchsorted(lowest[order], 0.5 - _SNAP)].tolist():
        a, b, c = lines[k].tolist()
        apart = [a * x + b * y + c for x, y in polygon]
        if not polygon or min(apart) >= 0.5:
            continue
        kept.append((a, b, c))
        polygon = _clip(polygon, apart)
    return np.array(kept).reshape(-1, 3)


def distances(lines: Floats) -> Floats:
    """Returns half-planes (..., 3), scaled so that they give distances in pixels."""
    length = np.hypot(lines[..., 0], lines[..., 1])[..., None]
    return np.where(length < 1e-12, np.sign(lines) * 1e9, lines / np.maximum(length, 1e-12))


def _clip(polygon: list[tuple[float, float]], distances: list[float]) -> list[tuple[float, float]]:
    """Cuts a convex polygon where its corners' distances become negative."""
    out = []
    for k, ((x, y), d) in enumerate(zip(polygon, distances, strict=True)):
        (px, py), pd = polygon[k - 1], distances[k - 1]
        if (d < 0) != (pd < 0):
            t = pd / (pd - d)
            out.append((px + t * (x - px), py + t * (y - py)))
        if d >= 0:
            out.append((x, y))
    return out


def curve_table(meaning: Curve, row: int) -> Floats:
    """Returns (256,): the levels that the whole levels become, in 0..255."""
    levels = np.arange(256.0)
    for kind, amount in meaning.steps:
        if not np.isnan(amount[row]):
            levels = curve_step(kind, float(amount[row]), levels)
    return levels.clip(0.0, 255.0)


def curve_step(kind: CurveKind, amount: float, levels: Array) -> Array:
    """Does one step of a curve to levels."""
    match kind:
        case "gamma":
            return np.asarray(255.0 * (levels / 255.0) ** amount)
        case "solarize":
            return np.where(levels >= amount, 255.0 - levels, levels)
        case "posterize":
            return levels - levels % 2.0 ** (8.0 - amount)
        case _:
            assert_never(kind)


def normal_scale(norm: Normalize, channels: int) -> tuple[Floats, Floats]:
    """Returns what a level is multiplied by and what is added then, a number a channel.

    Raises:
        DataError: The statistics are of another number of channels.
    """
    return _normal_scale(norm.mean, norm.std, channels)


@functools.lru_cache(maxsize=64)
def _normal_scale(
    means: tuple[float, ...], stds: tuple[float, ...], channels: int
) -> tuple[Floats, Floats]:
    if len(means) not in (1, channels):
        have = f"the image has {channels} channel{'s' * (channels > 1)}"
        need = f"its mean and std have {len(means)} numbers"
        raise DataError("normalize", f"{have}, {need}: give one number, or one a channel")
    mean, std = np.broadcast_to([means, stds], (2, channels))
    scale, shift = 1.0 / (255.0 * std), -mean / std
    scale.flags.writeable = shift.flags.writeable = False
    return scale, shift


def share(amount: float, bits: int) -> int:
    """Returns the whole number of 2^-bits nearest to a share of 0 to 1."""
    return round(amount * float(2**bits))


def poisson_table(photons: float) -> tuple[Ints, Ints]:
    """Returns the Poisson distribution function of each of the 256 whole levels.

    Returns:
        (256,) the first count of each level's row; (256, width) round(2^32 P(count <= k))
        for the counts k from there. What lies outside a row has a chance of about 10^-15.
    """
    rate = np.arange(256) * (photons / 255.0)
    spread = 8.0 * np.sqrt(rate)
    first = np.floor(np.maximum(rate - spread, 0.0)).astype(np.int64)
    k = first[:, None] + np.arange(int(2.0 * spread[-1]) + 18)
    factorial = gammaln(np.arange(k[-1, -1] + 2.0))  # of every count once, not of every entry
    log = xlogy(k, rate[:, None]) - rate[:, None] - factorial[k + 1]
    total = np.exp(log).cumsum(axis=1)
    return first, np.rint(total / total[:, -1:] * 2.0**32).astype(np.int64)


def poisson_guide(edges: Ints) -> tuple[NDArray[np.int32], int]:
    """Returns where the search for a word in a Poisson table begins (Chen and Asau, 1974).

    Args:
        edges: (256, width), as `poisson_table` returns it.

    Returns:
        (256, 256) positions in the flat table: of each level, the number of edges, earlier
        levels' with them, at or below the least word with each top byte; and the most edges
        that any search may have to pass from there.
    """
    bucket = -(-edges // 2**24) + 257 * np.arange(256)[:, None]
    counts = np.bincount(bucket.reshape(-1), minlength=256 * 257).reshape(256, 257)
    guide = counts[:, :256].cumsum(axis=1) + edges.shape[1] * np.arange(256)[:, None]
    counts[:, 256] -= (edges == 2**32).sum(axis=1)  # which no word reaches
    return guide.astype(np.int32), int(counts[:, 1:].max())
