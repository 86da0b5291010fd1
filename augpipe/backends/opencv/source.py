"""What moves pixels has in common: sources beyond their edges and shrunk, masks of any dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from augpipe.backends.tables import cell_weights
from augpipe.types import Array, Border, Floats, Sampling

Entries = tuple[float, ...]
"""A (3, 3) matrix, row by row: NumPy takes longer over nine numbers than over a thousand."""

FLAGS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}
BORDERS = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
}
_SNAP = 1e-6


def on_channels(function: Callable[[Array], Array], image: Array) -> Array:
    """Calls OpenCV on a contiguous image and gives the channel axis back that it drops.

    Two channels are done one by one: of two together OpenCV 5 reads between pixels coarsely.
    """
    if image.shape[2] == 2:
        parts = [on_channels(function, image[:, :, k : k + 1]) for k in (0, 1)]
        return np.concatenate(parts, axis=2)
    width, pixel = image.shape[1], image.shape[2] * image.itemsize
    if image.strides[1:] != (pixel, image.itemsize) or image.strides[0] < width * pixel:
        image = np.ascontiguousarray(image)  # rows may lie apart, and nothing else
    out = function(image)
    return out if out.ndim == 3 else out[:, :, None]


def mirrorable(source: Array, border: str) -> Array:
    """Repeats the only pixel of an axis: OpenCV 5's bicubic hangs where it mirrors just one."""
    for axis in (0, 1):
        if border == "reflect" and source.shape[axis] == 1:
            source = np.repeat(source, 2, axis=axis)
    return source


def mirrored(image: Array, swapped: bool, left_right: bool, up_down: bool) -> Array:
    """Transposes and then flips; OpenCV copies several times as fast as NumPy.

    Its transpose knows pixels of up to 4 channels.
    """
    if image.shape[2] > 4:
        image = image.transpose(1, 0, 2) if swapped else image
        return image[:: -1 if up_down else 1, :: -1 if left_right else 1].copy()
    if swapped:
        image = on_channels(cv2.transpose, image)
    if left_right or up_down:
        code = -1 if left_right and up_down else int(left_right)
        image = on_channels(lambda part: cv2.flip(part, code), image)
    return image


def slopes(matrix: Entries, size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """Returns how the source's x, and its y, change along the output's axes, at its centre.

    Zero where the centre lies beyond the horizon of a projective map.
    """
    a, b, tx, c, d, ty, g, h, i = matrix
    if g == 0.0 == h and i == 1.0:
        return (a, b), (c, d)
    x, y = size[0] / 2.0, size[1] / 2.0
    w = g * x + h * y + i
    if w <= 0:
        return (0.0, 0.0), (0.0, 0.0)
    u, v = (a * x + b * y + tx) / w, (c * x + d * y + ty) / w
    return ((a - u * g) / w, (b - u * h) / w), ((c - v * g) / w, (d - v * h) / w)


def halvings(slope: tuple[float, float], length: int) -> int:
    """Returns how often a source axis may be halved before it is read, from its slopes.

    No more often than leaves one pixel of its length.
    """
    shrink = math.hypot(*slope) * (1 + 1e-9)
    return int(min(math.log2(shrink), (length - 1).bit_length())) if shrink >= 2 else 0


def reduce(source: Array, matrix: Entries, size: tuple[int, int]) -> tuple[Array, Entries]:
    """Averages blocks of 2**k pixels; the last block is completed with its edge pixels."""
    across, down = slopes(matrix, size)
    height, width = source.shape[:2]
    kx, ky = halvings(across, width), halvings(down, height)
    if not kx and not ky:
        return source, matrix
    right, bottom = -width % 2**kx, -height % 2**ky

    def shrink(part: Array) -> Array:
        if right or bottom:
            part = cv2.copyMakeBorder(part, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        small = (part.shape[1] >> kx, part.shape[0] >> ky)
        return cv2.resize(part, small, interpolation=cv2.INTER_AREA)

    x, y = 2.0**-kx, 2.0**-ky
    a, b, tx, c, d, ty, *last = matrix
    return on_channels(shrink, source), (a * x, b * x, tx * x, c * y, d * y, ty * y, *last)


def average(
    source: Array, matrix: Floats, size: tuple[int, int], border: Border
) -> tuple[Array, Floats]:
    """Averages, along each axis that shrinks, exactly what each output pixel covers.

    For maps that keep the axes. The axis then has a pixel for each of the output's.
    """
    matrix = matrix.copy()
    for axis in (0, 1):
        along = int(matrix[axis, 0] == 0)  # the output's axis that reads this one
        scale, count = matrix[axis, along], size[along]
        length = source.shape[1 - axis]
        if abs(scale) <= 1.0 + _SNAP:
            continue
        weights = cell_weights(scale, matrix[axis, 2], count, length, border)
        if axis == 0:
            source = np.einsum("xj,yjc->yxc", weights, source, optimize=True)
        else:
            source = np.tensordot(weights, source, 1)
        matrix[axis] = 0.0
        matrix[axis, along] = 1.0
    return source, matrix


def held(image: Array, sampling: Sampling) -> Array:
    """Holds float levels in 0..255, which bicubic weights leave."""
    overshoots = sampling.interpolation == "bicubic" and image.dtype != np.uint8
    return image.clip(0, 255) if overshoots else image


def as_pixels(
    mask: Array,
    interpolation: str,
    fill: float,
    move: Callable[[Array, float | tuple[float, ...]], Array],
) -> Array:
    """Moves a mask of any dtype as one that OpenCV has.

    Nearest pixels are moved whole, so 64-bit classes travel as pairs of 32-bit words; an
    interpolated mask is computed in float64.
    """
    dtype = mask.dtype
    if interpolation != "nearest":
        out = move(mask.astype(np.float64), fill)
        return np.rint(out).astype(dtype) if dtype.kind in "iub" else out.astype(dtype)
    if dtype.name in ("uint8", "int16", "uint16", "int32", "float32"):
        return move(mask, float(fill))
    word = np.dtype(np.uint8 if dtype.itemsize == 1 else np.int32 if dtype.itemsize > 2 else "f4")
    if dtype.itemsize == 2:  # float16
        return move(mask.astype(word), float(fill)).astype(dtype)
    value = np.broadcast_to(np.asarray(fill).astype(dtype), mask.shape[2:])
    words = np.ascontiguousarray(mask).view(word)
    out = move(words, tuple(np.ascontiguousarray(value).view(word).tolist()))
    return np.ascontiguousarray(out).view(dtype)
