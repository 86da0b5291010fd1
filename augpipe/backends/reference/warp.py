"""Warp and Flow, plainly: every output pixel's position, one after another, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from augpipe.ir import Flow, Warp, basis, frame_lines
from augpipe.types import Array, Floats, Sampling

_SNAP = 1e-6


def warp(meaning: Warp, row: int, image: Floats) -> Floats:
    """Warps one image (H, W, C) of grey levels; bicubic overshoots are clipped."""
    return _warp(meaning, row, image, mask=False).clip(0, 255)


def warp_mask(meaning: Warp, row: int, mask: Floats) -> Floats:
    """Warps one mask (H, W, C)."""
    return _warp(meaning, row, mask, mask=True)


def _warp(meaning: Warp, row: int, image: Floats, mask: bool) -> Floats:
    sampling, matrix, box = meaning.sampling, meaning.matrix[row], meaning.box[row]
    height, width = (int(v) for v in meaning.size[row])
    fill = np.broadcast_to(
        np.asarray(sampling.mask_fill if mask else sampling.fill, np.float64), image.shape[2:]
    )
    x0, y0 = np.floor(box[:2] + _SNAP).astype(int)
    x1, y1 = np.ceil(box[2:] - _SNAP).astype(int)
    source = image[y0:y1, x0:x1]
    if not source.size:
        return np.broadcast_to(fill, (height, width, image.shape[2])).astype(np.float64)
    interpolation = sampling.mask_interpolation if mask else sampling.interpolation
    moved = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ matrix
    if not mask and interpolation != "nearest":
        if sampling.antialias == "full":
            source, moved = _area(source, moved, (width, height), sampling.border)
        source, moved = _shrink(source, moved, (width, height))
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    u, v = _positions(moved, x, y)
    inner = replace(sampling, border="edge") if sampling.border == "constant" else sampling
    out = sample(source, u, v, interpolation, inner, fill)
    if sampling.border == "constant":
        lines = np.concatenate([meaning.lines[row], frame_lines(box[None])[0] @ matrix])
        seen = coverage(lines, x, y)
        if mask or interpolation == "nearest":
            seen = (seen >= 0.5).astype(np.float64)
        out = fill + seen[:, :, None] * (out - fill)
    return out


def _positions(matrix: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Maps positions; those on the horizon of a projective map land far away."""
    u, v, w = np.einsum("ij,jyx->iyx", matrix, np.stack([x, y, np.ones_like(x)]))
    w = np.where(abs(w) < 1e-12, 1e-12, w)
    return np.clip(u / w, -1e9, 1e9), np.clip(v / w, -1e9, 1e9)


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


def _shrink(source: Floats, matrix: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Averages blocks of 2**k pixels along each axis that shrinks by 2 or more.

    The shrinking is the length of the gradient of the source coordinate at the output's
    centre; none where that lies beyond the horizon of a projective map. The last block is
    completed with edge pixels.
    """
    at = matrix @ (size[0] / 2, size[1] / 2, 1)
    if at[2] <= 0:
        return source, matrix
    for axis in (0, 1):
        gradient = matrix[axis, :2] / at[2] - at[axis] * matrix[2, :2] / at[2] ** 2
        halvings = int(np.log2(max(np.hypot(*gradient) * (1 + 1e-9), 1.0)))
        step = 2 ** min(halvings, (source.shape[1 - axis] - 1).bit_length())
        missing = -source.shape[1 - axis] % step
        along = source if axis == 1 else source.swapaxes(0, 1)
        along = np.pad(along, ((0, missing), (0, 0), (0, 0)), mode="edge")
        along = along.reshape(-1, step, *along.shape[1:]).mean(axis=1)
        source = along if axis == 1 else along.swapaxes(0, 1)
        matrix = matrix / np.where(np.arange(3) == axis, step, 1)[:, None]
    return source, matrix


def _area(
    source: Floats, matrix: Floats, size: tuple[int, int], border: str
) -> tuple[Floats, Floats]:
    """Averages, along each axis that shrinks, exactly what each output pixel covers.

    For maps that keep the axes. Of a cell that reaches beyond a constant border only the
    inside counts: the fill comes in by coverage.
    """
    matrix = matrix.copy()
    for axis in (0, 1):
        along = int(matrix[axis, 0] == 0)  # the output's axis that reads this one
        scale, shift = matrix[axis, along], matrix[axis, 2]
        if abs(scale) <= 1 + _SNAP:
            continue
        lines = source if axis == 1 else source.swapaxes(0, 1)
        ends = np.sort(shift + scale * (np.arange(size[along])[:, None] + (0, 1)), axis=1)
        cells = np.stack([_mean_between(lines, a, b, border) for a, b in ends])
        source = cells if axis == 1 else cells.swapaxes(0, 1)
        matrix[axis] = 0
        matrix[axis, along] = 1
    return source, matrix


def _mean_between(lines: Floats, start: float, stop: float, border: str) -> Floats:
    """Averages the lines (rows of an image) from position start to position stop."""
    count = len(lines)
    pixels = np.arange(int(np.floor(start + _SNAP)), int(np.ceil(stop - _SNAP)))
    share = np.minimum(pixels + 1, stop) - np.maximum(pixels, start)
    if border == "constant":
        inside = (pixels >= 0) & (pixels < count)
        if not inside.any():
            return lines[0]
        pixels, share = pixels[inside], share[inside]
    pixels = _mirror(pixels, count) if border == "reflect" else np.clip(pixels, 0, count - 1)
    return np.asarray(np.tensordot(share / share.sum(), lines[pixels], 1))


def flow(meaning: Flow, row: int, image: Floats) -> Floats:
    """Displaces one image (H, W, C) of grey levels."""
    return _flow(meaning, row, image, mask=False).clip(0, 255)


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
