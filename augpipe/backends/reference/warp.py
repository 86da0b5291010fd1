"""Warp and Flow, plainly: every output pixel's position, one after another, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from augpipe.ir import Flow, Warp, basis, frame_lines
from augpipe.types import Array, Floats, Sampling

_SNAP = 1e-6


def warp(meaning: Warp, row: int, image: Floats) -> Floats:
    """Warps one image (H, W, C) of grey levels."""
    return _warp(meaning, row, image, mask=False)


def warp_mask(meaning: Warp, row: int, mask: Floats) -> Floats:
    """Warps one mask (H, W, C)."""
    return _warp(meaning, row, mask, mask=True)


def _warp(meaning: Warp, row: int, image: Floats, mask: bool) -> Floats:
    sampling, matrix, box = meaning.sampling, meaning.matrix[row], meaning.box[row]
    height, width = (int(v) for v in meaning.size[row])
    fill = np.broadcast_to(
        np.asarray(sampling.mask_fill if mask else sampling.fill, np.float64), image.shape[2:]
    )
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    u, v, w = np.einsum("ij,jyx->iyx", matrix, np.stack([x, y, np.ones_like(x)]))
    u, v = u / w, v / w

    x0, y0 = np.floor(box[:2] + _SNAP).astype(int)
    x1, y1 = np.ceil(box[2:] - _SNAP).astype(int)
    source = image[y0:y1, x0:x1]
    if not source.size:
        return np.broadcast_to(fill, (height, width, image.shape[2])).astype(np.float64)
    u, v = u - x0, v - y0
    interpolation = sampling.mask_interpolation if mask else sampling.interpolation
    if not mask and interpolation != "nearest":
        if sampling.antialias == "full":
            source, u, v = _area(source, u, v)
        kx, ky = _halvings(u, v, width, height)
        source = _blocks(source, 2**kx, 2**ky)
        u, v = u / 2**kx, v / 2**ky
    inner = replace(sampling, border="edge") if sampling.border == "constant" else sampling
    out = sample(source, u, v, interpolation, inner, fill)
    if sampling.border == "constant":
        lines = np.concatenate([meaning.lines[row], frame_lines(box[None])[0] @ matrix])
        seen = coverage(lines, x, y)
        if mask or interpolation == "nearest":
            seen = (seen >= 0.5).astype(np.float64)
        out = fill + seen[:, :, None] * (out - fill)
    return out


def coverage(lines: Floats, x: Floats, y: Floats) -> Floats:
    """Returns how much of each pixel is seen: clip(min signed distance + 1/2, 0, 1)."""
    nearest = np.full(x.shape, np.inf)
    for a, b, c in lines:
        length = np.hypot(a, b)
        distance = (a * x + b * y + c) / length if length > 1e-12 else np.full(x.shape, c * np.inf)
        nearest = np.minimum(nearest, distance)
    return np.clip(nearest + 0.5, 0.0, 1.0)


def sample(
    source: Floats, u: Floats, v: Floats, interpolation: str, sampling: Sampling, fill: Floats
) -> Floats:
    """Reads (H, W, C) `source` at continuous positions.

    Nearest reads the pixel that holds the position; bilinear and bicubic (a = -0.75, as
    OpenCV and torch) weigh the 2 x 2 or 4 x 4 pixels about it. Beyond the edge each tap reads
    the fill, the edge pixel or the mirrored pixel.
    """
    if interpolation == "nearest":
        taps_x = [(np.floor(u + _SNAP), np.ones_like(u))]
        taps_y = [(np.floor(v + _SNAP), np.ones_like(v))]
    else:
        taps_x, taps_y = _taps(u - 0.5, interpolation), _taps(v - 0.5, interpolation)
    out = np.zeros((*u.shape, source.shape[2]))
    for j, weight_x in taps_x:
        for i, weight_y in taps_y:
            value = _read(source, i.astype(int), j.astype(int), sampling.border, fill)
            out += (weight_x * weight_y)[:, :, None] * value
    return out


def _taps(at: Floats, interpolation: str) -> list[tuple[Floats, Floats]]:
    """Returns the pixels about each position on an axis, with their weights."""
    first = np.floor(at)
    t = at - first
    if interpolation == "bilinear":
        return [(first, 1.0 - t), (first + 1.0, t)]
    return [(first + k, _cubic(abs(t - k))) for k in (-1.0, 0.0, 1.0, 2.0)]


def _cubic(t: Floats, a: float = -0.75) -> Floats:
    """Returns Keys's cubic convolution kernel (1981)."""
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _read(source: Floats, i: Array, j: Array, border: str, fill: Floats) -> Floats:
    height, width = source.shape[:2]
    outside = (i < 0) | (i >= height) | (j < 0) | (j >= width)
    if border == "reflect":
        i, j = _mirror(i, height), _mirror(j, width)
    value = source[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)]
    return np.where(outside[:, :, None], fill, value) if border == "constant" else value


def _mirror(at: Array, length: int) -> Array:
    """Mirrors positions about the centres of the first and the last pixel, again and again."""
    if length == 1:
        return np.zeros_like(at)
    period = 2 * (length - 1)
    at = np.mod(at, period)
    return np.where(at < length, at, period - at)


def _halvings(matrix: Floats, width: int, height: int) -> tuple[int, int]:
    """Returns floor(log2) of the shrinking along each source axis at the output's centre.

    The shrinking is the length of the gradient of the source coordinate there; none where the
    centre lies beyond the horizon of a projective map.
    """
    u, v, w = matrix @ (width / 2, height / 2, 1)
    if w <= 0:
        return 0, 0
    out = []
    for at, gradient in ((u, matrix[0, :2]), (v, matrix[1, :2])):
        shrink = float(np.hypot(*(gradient / w - at * matrix[2, :2] / w**2))) * (1 + 1e-9)
        out.append(int(np.log2(shrink)) if shrink >= 2 else 0)
    return out[0], out[1]


def _blocks(source: Floats, across: int, down: int) -> Floats:
    """Averages blocks of pixels; the last ones are completed with their edge pixels."""
    height, width = source.shape[:2]
    pad = ((0, -height % down), (0, -width % across), (0, 0))
    padded = np.pad(source, pad, mode="edge")
    rows, columns = padded.shape[0] // down, padded.shape[1] // across
    return np.asarray(padded.reshape(rows, down, columns, across, -1).mean(axis=(1, 3)))


def _area(source: Floats, u: Floats, v: Floats) -> tuple[Floats, Floats, Floats]:
    """Averages the source over cells as large as an output pixel, for maps that keep the axes.

    Along a source axis that shrinks, the image becomes its exact averages over as many equal
    cells as pixels are read there; positions are rescaled to the cells.
    """
    height, width = source.shape[:2]
    down = max(abs(np.diff(v, axis=0)).max(initial=0), abs(np.diff(v, axis=1)).max(initial=0))
    across = max(abs(np.diff(u, axis=0)).max(initial=0), abs(np.diff(u, axis=1)).max(initial=0))
    rows = min(height, int(np.rint(height / down))) if down else 1
    columns = min(width, int(np.rint(width / across))) if across else 1
    source = np.einsum(
        "ri,ijc,sj->rsc", _cells(height, rows), source, _cells(width, columns), optimize=True
    )
    return source, u * columns / width, v * rows / height


def _cells(length: int, count: int) -> Floats:
    """Returns (count, length): how much of each pixel lies in each of `count` equal cells."""
    edges = np.linspace(0, length, count + 1)
    low = np.maximum(edges[:-1, None], np.arange(length))
    high = np.minimum(edges[1:, None], np.arange(length) + 1)
    return np.maximum(high - low, 0) * count / length


def flow(meaning: Flow, row: int, image: Floats) -> Floats:
    """Displaces one image (H, W, C) of grey levels."""
    return _flow(meaning, row, image, mask=False)


def flow_mask(meaning: Flow, row: int, mask: Floats) -> Floats:
    """Displaces one mask (H, W, C)."""
    return _flow(meaning, row, mask, mask=True)


def _flow(meaning: Flow, row: int, image: Floats, mask: bool) -> Floats:
    sampling, control = meaning.sampling, meaning.control[row]
    height, width = image.shape[:2]
    down = basis(meaning.basis, np.arange(height) + 0.5, control.shape[0], height)
    across = basis(meaning.basis, np.arange(width) + 0.5, control.shape[1], width)
    u = np.einsum("yi,ij,xj->yx", down, control[:, :, 0], across) + np.arange(width) + 0.5
    v = np.einsum("yi,ij,xj->yx", down, control[:, :, 1], across) + np.arange(height)[:, None] + 0.5
    fill = np.broadcast_to(
        np.asarray(sampling.mask_fill if mask else sampling.fill, np.float64), image.shape[2:]
    )
    interpolation = sampling.mask_interpolation if mask else sampling.interpolation
    return sample(image, u, v, interpolation, sampling, fill)
