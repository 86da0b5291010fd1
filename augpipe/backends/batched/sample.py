"""Reading a batch between its pixels: positions, taps, borders, coverage; all on the device.

Positions are in pixels of the source, continuous coordinates (types.py). Every row has a
rectangle of its own, the part of the source that it may see; positions beyond it are read at
its edge or mirrored about its edge pixels' centres, and `cover` lays the fill over them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.types import Interpolation

_SNAP = 1e-6
_FLAT = 1e-12


def centres(length: int, like: Tensor) -> Tensor:
    """Returns (length,) the pixels' centres: 0.5, 1.5, ..."""
    return torch.arange(length, device=like.device, dtype=like.dtype) + 0.5


def positions(matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns x and y, each (k, height, width), that (k, 3, 3) matrices map output pixels to.

    What lies on the horizon of a projective map lands far away.
    """
    x, y = centres(width, matrix), centres(height, matrix)[:, None]
    u, v, w = (
        matrix[:, i, 0, None, None] * x
        + (matrix[:, i, 1, None, None] * y + matrix[:, i, 2, None, None])
        for i in range(3)
    )
    w = torch.where(w.abs() < _FLAT, _FLAT, w)
    return (u / w).clamp(-1e9, 1e9), (v / w).clamp(-1e9, 1e9)


def affine_grid(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns (k, height, width, 2) positions of (k, 3, 3) matrices whose last row is 0 0 1.

    In whatever unit the matrices have: `grid_sample`'s, for images. One sum a position: what
    depends on the column alone and on the row alone is worked out once.
    """
    x, y = centres(size[1], matrix), centres(size[0], matrix)
    across = x[:, None] * matrix[:, None, :2, 0] + matrix[:, None, :2, 2]
    down = y[:, None] * matrix[:, None, :2, 1]
    return across[:, None] + down[:, :, None]


def fold(at: Tensor, length: Tensor | int) -> Tensor:
    """Mirrors pixel positions (0 is a pixel's centre) about the first and the last pixel."""
    last = torch.as_tensor(length, device=at.device, dtype=at.dtype) - 1
    period = (2 * last).clamp(min=1)
    at = torch.remainder(at, period)
    return torch.minimum(at, 2 * last - at).clamp(min=0)


def nearest(images: Tensor, x: Tensor, y: Tensor, box: Tensor, reflect: bool) -> Tensor:
    """Reads the pixel that holds each position, within (k, 4) boxes of whole pixels."""
    x0, y0, x1, y1 = (box[:, i, None, None].to(torch.int64) for i in range(4))
    columns = _held(torch.floor(x + _SNAP).to(torch.int64), x0, x1, reflect)
    rows = _held(torch.floor(y + _SNAP).to(torch.int64), y0, y1, reflect)
    return take(images, rows, columns)


def _held(at: Tensor, first: Tensor, stop: Tensor, reflect: bool) -> Tensor:
    if reflect:
        return first + fold(at - first, stop - first)
    return torch.minimum(torch.maximum(at, first), stop - 1)


def take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Returns images[k, :, rows, columns]; rows and columns broadcast to (k, height, width)."""
    at = rows * images.shape[3] + columns
    flat = at.reshape(len(at), 1, -1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, flat).view(*images.shape[:2], *at.shape[1:])


def bilinear(images: Tensor, x: Tensor, y: Tensor, box: Tensor, reflect: bool) -> Tensor:
    """Reads float images between pixels, within (k, 4) boxes."""
    x0, y0, x1, y1 = (box[:, i, None, None] for i in range(4))
    if reflect:
        x = x0 + fold(x - x0 - 0.5, x1 - x0) + 0.5
        y = y0 + fold(y - y0 - 0.5, y1 - y0) + 0.5
    x = torch.minimum(torch.maximum(x, x0 + 0.5), x1 - 0.5)
    y = torch.minimum(torch.maximum(y, y0 + 0.5), y1 - 0.5)
    height, width = images.shape[2:]
    grid = torch.stack([x * (2.0 / width) - 1.0, y * (2.0 / height) - 1.0], dim=-1)
    return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)


def bicubic(images: Tensor, x: Tensor, y: Tensor, box: Tensor, reflect: bool) -> Tensor:
    """Reads float images by Keys's cubic convolution, a = -0.75, within (k, 4) boxes."""
    x0, y0, x1, y1 = (box[:, i, None, None].to(torch.int64) for i in range(4))
    left, top = torch.floor(x - 0.5), torch.floor(y - 0.5)
    across, down = _cubic(x - 0.5 - left), _cubic(y - 0.5 - top)
    left, top = left.to(torch.int64), top.to(torch.int64)
    columns = [_held(left + (j - 1), x0, x1, reflect) for j in range(4)]
    lines = []
    for i in range(4):
        rows = _held(top + (i - 1), y0, y1, reflect)
        taps = [across[j][:, None] * take(images, rows, columns[j]) for j in range(4)]
        lines.append(down[i][:, None] * (taps[0] + taps[1] + taps[2] + taps[3]))
    return lines[0] + lines[1] + lines[2] + lines[3]


def _cubic(t: Tensor, a: float = -0.75) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns Keys's weights of the pixels at -1, 0, 1 and 2 for positions t in 0..1."""

    def near(t: Tensor) -> Tensor:
        return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0

    def far(t: Tensor) -> Tensor:
        return ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a

    return far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)


READ = {"nearest": nearest, "bilinear": bilinear, "bicubic": bicubic}


def read(
    images: Tensor,
    at: tuple[Tensor, Tensor],
    box: Tensor,
    interpolation: Interpolation,
    reflect: bool,
) -> Tensor:
    """Reads float images (k, C, H, W) at positions x and y, each (k, height, width)."""
    return READ[interpolation](images, *at, box, reflect)


def coverage(lines: Tensor, height: int, width: int, hard: bool) -> Tensor:
    """Returns (k, 1, height, width): how much of each pixel (k, m, 3) half-planes leave.

    Their coefficients are distances in pixels: clip(min distance + 1/2, 0, 1), or with `hard`
    whether the centre is within.
    """
    x, y = centres(width, lines), centres(height, lines)[:, None]
    nearest: Tensor | None = None
    for k in range(lines.shape[1]):
        a, b, c = (lines[:, k, i, None, None] for i in range(3))
        distance = a * x + (b * y + c)
        nearest = distance if nearest is None else torch.minimum(nearest, distance)
    assert nearest is not None
    seen = (nearest >= -_SNAP).to(lines.dtype) if hard else (nearest + 0.5).clamp(0.0, 1.0)
    return seen[:, None]


def cover(images: Tensor, seen: Tensor, fill: Tensor, hard: bool) -> Tensor:
    """Lays the fill, (C,) or (1,), over what is not seen."""
    fill = fill[:, None, None].to(images.dtype)
    if hard or not images.dtype.is_floating_point:  # whole pixels are seen whole or not at all
        return torch.where(seen > 0.5, images, fill)
    return torch.lerp(fill.expand_as(images), images, seen)
