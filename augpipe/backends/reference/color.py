"""Color, Curve, Histogram and Normalize, plainly, in float64."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from augpipe.errors import DataError
from augpipe.ir import Color, Curve, CurveKind, Histogram, Normalize
from augpipe.types import Array, Floats


def color(meaning: Color, row: int, image: Floats) -> Floats:
    """Maps the colours of one image (H, W, 1 or 3) of grey levels.

    Written as a function of red and of the differences from it, M (r, r, r) + M (0, g - r,
    b - r): these are exactly 0 in a grey pixel, which therefore stays grey.
    """
    channels = image.shape[2]
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    mean = rgb.reshape(-1, 3).mean(axis=0) if rgb.size else np.zeros(3)
    matrix, offset = meaning.matrix[row], meaning.mean[row] @ mean + meaning.offset[row]
    red = rgb[:, :, :1]
    # Rounded so that sums which are equal in exact arithmetic are equal, and halves are halves.
    out = red * matrix.sum(axis=1).round(12) + (rgb - red) @ matrix.T + offset.round(9)
    out = np.clip(out, 0.0, 255.0)[:, :, :channels]
    return out if meaning.norm is None else normalize(meaning.norm, out)


def curve(meaning: Curve, row: int, image: Floats) -> Floats:
    """Maps every level by the curve's steps, one after another."""
    out = np.clip(image, 0.0, 255.0)
    for kind, amounts in meaning.steps:
        if not np.isnan(amounts[row]):
            out = _step(kind, float(amounts[row]), out)
    return out if meaning.norm is None else normalize(meaning.norm, out)


def _step(kind: CurveKind, amount: float, levels: Floats) -> Floats:
    match kind:
        case "gamma":
            return np.asarray(255.0 * np.power(levels / 255.0, amount))
        case "solarize":
            return np.where(levels < amount, levels, 255.0 - levels)
        case "posterize":
            step = 2.0 ** (8.0 - amount)
            return np.asarray(np.floor(levels / step) * step)
        case _:
            assert_never(kind)


def histogram(meaning: Histogram, row: int, image: Floats) -> Floats:
    """Maps the levels of each channel by what its histogram says.

    equalize and clahe first round the levels to whole ones; autocontrast does not.
    """
    if meaning.kind == "autocontrast":
        return np.stack([_stretch(image[:, :, c]) for c in range(image.shape[2])], axis=2)
    levels = np.rint(np.clip(image, 0.0, 255.0)).astype(np.int64)
    if meaning.kind == "equalize":
        return np.stack([_equalize(levels[:, :, c]) for c in range(image.shape[2])], axis=2)
    limit = float(meaning.amount[row])
    if image.shape[2] == 1:
        return _clahe(levels[:, :, 0], limit, meaning.tiles)[:, :, None]
    lab = np.rint(_to_lab(levels))
    lab[:, :, 0] = _clahe(lab[:, :, 0].astype(np.int64), limit, meaning.tiles)
    return np.rint(_from_lab(lab))


def _stretch(levels: Floats) -> Floats:
    low, high = levels.min(), levels.max()
    return levels if low == high else (levels - low) * 255.0 / (high - low)


def _equalize(levels: Array) -> Floats:
    """Equalizes one channel as Pillow does.

    A level goes to (h / 2 + how many pixels are darker) / h, in whole numbers, where h is a
    255th of the pixels that are not of the brightest level.
    """
    step = int((levels < levels.max()).sum()) // 255
    if step == 0:
        return levels.astype(np.float64)
    darker = np.array([(levels < level).sum() for level in range(256)])
    table = np.minimum((step // 2 + darker) // step, 255)
    return table[levels].astype(np.float64)


def _clahe(levels: Array, clip_limit: float, tiles: int) -> Floats:
    """Contrast-limited adaptive equalization of (H, W) whole levels.

    Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV (1994),
    as OpenCV does it: the image is first mirrored to a multiple of the tiles; the clip limit
    is in units of a tile's mean bin; what is clipped goes back to all bins evenly, once; the
    tables of the four nearest tiles are interpolated, edge tiles repeated.
    """
    height, width = levels.shape
    pads = [(0, -side % tiles) for side in levels.shape]
    if any(after for _, after in pads):  # then OpenCV pads by a whole round where none is needed
        pads = [(0, after or tiles) for _, after in pads]
    padded = np.pad(levels, pads, mode="reflect")
    rows, columns = padded.shape[0] // tiles, padded.shape[1] // tiles
    tables = np.empty((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            tile = padded[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            tables[i, j] = _tile_table(tile, clip_limit)
    y, x = np.arange(height) / rows - 0.5, np.arange(width) / columns - 0.5
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = (y - top)[:, None], (x - left)[None, :]

    def at(i: Array, j: Array) -> Floats:
        i, j = np.clip(i, 0, tiles - 1), np.clip(j, 0, tiles - 1)
        return np.asarray(tables[i[:, None], j[None, :], levels])

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return np.rint(upper * (1 - down) + lower * down)


def _tile_table(tile: Array, clip_limit: float) -> Floats:
    counts = np.bincount(tile.ravel(), minlength=256)
    limit = max(int(clip_limit * tile.size / 256), 1)
    excess = int(np.maximum(counts - limit, 0).sum())
    counts = np.minimum(counts, limit) + excess // 256
    if rest := excess % 256:
        stride = max(256 // rest, 1)
        counts[: rest * stride : stride] += 1
    return np.rint(np.cumsum(counts) * 255.0 / tile.size).clip(0, 255)


# CIE 1931 XYZ from linear sRGB (IEC 61966-2-1), and CIE Lab under its white, D65, in the
# units of OpenCV's 8-bit Lab: L x 255 / 100, a + 128, b + 128.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.950456, 1.0, 1.088754])
_OPPONENT = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_KNEE = 6.0 / 29.0


def _to_lab(rgb: Array) -> Floats:
    v = rgb / 255.0
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    t = linear @ _XYZ.T / _WHITE
    f = np.where(t > _KNEE**3, np.cbrt(t), t / (3.0 * _KNEE**2) + 4.0 / 29.0)
    lab = f @ _OPPONENT.T - [16.0, 0.0, 0.0]
    return np.asarray(lab * [2.55, 1.0, 1.0] + [0.0, 128.0, 128.0])


def _from_lab(lab: Floats) -> Floats:
    shifted = (lab - [0.0, 128.0, 128.0]) / [2.55, 1.0, 1.0] + [16.0, 0.0, 0.0]
    f = shifted @ np.linalg.inv(_OPPONENT).T
    t = np.where(f > _KNEE, f**3, 3.0 * _KNEE**2 * (f - 4.0 / 29.0))
    linear = np.clip(t * _WHITE @ np.linalg.inv(_XYZ).T, 0.0, 1.0)
    v = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255.0 * v)


def normalize(meaning: Normalize, image: Floats) -> Floats:
    """Returns (v / 255 - mean) / std."""
    channels = image.shape[2]
    if len(meaning.mean) not in (1, channels):
        have = f"the image has {channels} channel{'s' * (channels > 1)}"
        need = f"its mean and std have {len(meaning.mean)} numbers"
        raise DataError("normalize", f"{have}, {need}: give one number, or one a channel")
    return np.asarray((image / 255.0 - np.array(meaning.mean)) / np.array(meaning.std))
