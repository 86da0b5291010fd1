"""Flow on a batch: the field is a product of three small matrices, made on the device."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from augpipe.backends.batched import sample
from augpipe.backends.batched.pieces import Own, Piece, Shape
from augpipe.backends.batched.reading import Reading, product, reading, whole
from augpipe.ir import Flow, basis


def lower_flow(meaning: Flow, shape: Shape, mask: bool = False) -> list[Piece]:
    """Makes a flow ready; rows that it leaves alone are left out."""
    rows = np.flatnonzero(meaning.control.any(axis=(1, 2, 3)))
    if not len(rows) or not shape.height or not shape.width:
        return []
    how = reading(meaning.sampling, shape.channels, mask)
    control = np.moveaxis(meaning.control[rows], 3, 1)
    sides = (shape.height, shape.width)
    down, across = (
        basis(meaning.basis, np.arange(side) + 0.5, count, side)
        for side, count in zip(sides, control.shape[2:], strict=True)
    )

    frame = 4 if meaning.sampling.border == "constant" else 0  # see _displaced
    box = np.array([[0, 0, shape.width + frame, shape.height + frame]], np.float64)

    def do(images: Tensor, own: Own) -> Tensor:
        (control,), (fill, down, across, box) = own.arrays, own.shared
        many = (len(control), 1, -1, -1)
        u = product(product(down.expand(many), control), across.T.expand(many))
        x = u[:, 0] + sample.centres(shape.width, u)
        y = u[:, 1] + sample.centres(shape.height, u)[:, None]
        return _displaced(images, x, y, box, fill, how)

    return [Piece(rows, do, (control,), (how.fill, down, across, box))]


def _displaced(
    images: Tensor, x: Tensor, y: Tensor, box: Tensor, fill: Tensor, how: Reading
) -> Tensor:
    """Reads images at positions; beyond a constant border each tap reads the fill."""
    height, width = images.shape[2:]
    source = images if how.interpolation == "nearest" else images.float()
    if how.sampling.border == "constant":  # as a frame of fill two pixels wide, all a tap can tell
        level = fill[:, None, None].to(source.dtype)
        framed = level.expand(len(images), -1, height + 4, width + 4).clone()
        framed[:, :, 2:-2, 2:-2] = source
        source, x, y = framed, x + 2.0, y + 2.0
    box = box.expand(len(images), 4)
    out = sample.read(source, (x, y), box, how.interpolation, how.reflect)
    if how.interpolation == "bicubic" and not how.mask:
        out = out.clamp(0.0, 255.0)
    return whole(out, images.dtype)
