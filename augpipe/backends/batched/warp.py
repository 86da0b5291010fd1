"""Warp on a batch: what the host works out for each image, and how it is read.

As in the other backends: an image that shrinks by 2 or more is first averaged over blocks
that are counted from the start of its visible rectangle; it is then read within that
rectangle alone, and at last the fill is laid over what lies beyond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.backends.batched import sample
from augpipe.backends.batched.pieces import Own, Piece, Shape
from augpipe.backends.batched.reading import Reading, halves, joined, product, reading, whole
from augpipe.backends.tables import binding, cell_weights, distances, fold
from augpipe.errors import DataError
from augpipe.ir import Warp, frame_lines, keeps_axes
from augpipe.types import Array, Bools, Floats, Ints

_SNAP = 1e-6
_SMALL = 4096  # pixels, of which it takes longer to ask which lines they need than to use them all
_ALWAYS = (0.0, 0.0, 1e9)  # a half-plane that holds everything
_NEVER = (0.0, 0.0, -1e9)


Read = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Reads float images, given its arrays of their rows."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Rows of a warp, to be read alike.

    Args:
        rows: (m,) their numbers in the batch.
        matrix: (m, 3, 3), output to the images' pixels.
        box: (m, 4), the whole pixels that each may see.
        lines: (m, l, 3), the half-planes that cover something, as distances; NaN where fewer.
        size: (height, width) of the output.
        shape: What is known of the images.
        how: How pixels are read.
    """

    rows: Ints
    matrix: Floats
    box: Floats
    lines: Floats
    size: tuple[int, int]
    shape: Shape
    how: Reading

    def taking(self, own: Ints | Bools) -> _Job:
        """Returns the job for some of its rows."""
        return replace(
            self,
            rows=self.rows[own],
            matrix=self.matrix[own],
            box=self.box[own],
            lines=self.lines[own],
        )


def one_size(sizes: Ints) -> tuple[int, int]:
    """Returns the (height, width) that all images of a batch get.

    Raises:
        DataError: They get different ones.
    """
    height, width = sizes[0].tolist()
    other = np.flatnonzero((sizes != sizes[0]).any(axis=1))
    if len(other):
        one, two = (" × ".join(map(str, sizes[k].tolist())) for k in (0, other[0]))
        raise DataError(
            "batch",
            f"the images would leave with different sizes, {one} and {two}: resize first",
        )
    return height, width


def lower_warp(meaning: Warp, shape: Shape, mask: bool = False) -> list[Piece]:
    """Makes a warp ready.

    Raises:
        DataError: The images would leave with different sizes.
    """
    if not shape.count:
        return []
    size = one_size(meaning.size)
    how = reading(meaning.sampling, shape.channels, mask)
    left_top = np.maximum(np.floor(meaning.box[:, :2] + _SNAP), 0)
    right_bottom = np.minimum(np.ceil(meaning.box[:, 2:] - _SNAP), (shape.width, shape.height))
    box = np.concatenate([left_top, right_bottom], axis=1)
    blind = (right_bottom <= left_top).any(axis=1)  # the frames of the run do not meet
    blind |= ~np.isfinite(meaning.matrix).all(axis=(1, 2))
    matrix = np.where(blind[:, None, None], np.eye(3), meaning.matrix)
    box[blind] = (0, 0, 1, 1)
    lines = _lines(meaning, matrix, blind, size, how)
    plain = _plain(matrix, how, size)
    plain[blind] = True
    still = (matrix == np.eye(3)).all(axis=(1, 2)) & ~np.isfinite(lines).any(axis=(1, 2))
    still &= size == (shape.height, shape.width)
    still &= (box == (0, 0, shape.width, shape.height)).all(axis=1) & ~blind
    job = _Job(np.arange(shape.count), matrix, box, lines, size, shape, how)
    swapped = (matrix[:, 0, 1] != 0) & (matrix[:, 0, 0] == 0)
    pieces = []
    for turned in (False, True):
        own = plain & ~still & (swapped == turned)
        if own.any():
            pieces.append(_taken(job.taking(own), turned))
    own = ~plain & ~still
    return [*pieces, *_general(job.taking(own))] if own.any() else pieces


def _lines(
    meaning: Warp, matrix: Floats, blind: Bools, size: tuple[int, int], how: Reading
) -> Floats:
    """Returns (n, m, 3): the half-planes that cover something, as distances; NaN where fewer."""
    found: list[Floats] = [np.zeros((0, 3))] * len(matrix)
    if how.sampling.border == "constant":
        all_lines = np.concatenate([meaning.lines, frame_lines(meaning.box) @ matrix], axis=1)
        height, width = size
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
        with np.errstate(invalid="ignore"):
            length = np.hypot(all_lines[..., 0], all_lines[..., 1])
            nearest = (all_lines @ corners.T).min(axis=2)
            cuts = ~(nearest >= (0.5 - _SNAP) * length)
        if height * width <= _SMALL:
            return _all_lines(all_lines, cuts, blind)
        for row in np.flatnonzero(cuts.any(axis=1)):
            found[row] = binding(all_lines[row], width, height)
    for row in np.flatnonzero(blind):
        found[row] = np.array([_NEVER])
    out = np.full((len(matrix), max(map(len, found), default=0), 3), np.nan)
    for k, own in enumerate(found):
        out[k, : len(own)] = own
    return out


def _all_lines(lines: Floats, cuts: Bools, blind: Bools) -> Floats:
    """Returns what `_lines` does, also those that others make superfluous: they cost less here."""
    cuts = cuts & ~blind[:, None]
    most = max(int(cuts.sum(axis=1).max(initial=0)), int(blind.any()))
    order = np.argsort(~cuts, axis=1, kind="stable")[:, :most]
    kept = np.take_along_axis(cuts, order, axis=1)
    own = np.take_along_axis(lines, order[:, :, None], axis=1)
    out = np.where(kept[:, :, None], distances(own), np.nan)
    out[blind, :1] = _NEVER
    return out


def _bounds(lines: Floats, how: Reading) -> tuple[Array, ...]:
    """Returns the half-planes as a piece's arrays: none where none is needed.

    Whether a pixel is seen whole or not at all is a matter of float64, see `halves`.
    """
    most = int(np.isfinite(lines[..., 0]).sum(axis=1).max(initial=0))
    if not most:
        return ()
    used = np.where(np.isfinite(lines), lines, _ALWAYS)[:, :most]
    return halves(used, how.hard)


def _covered(out: Tensor, lines: Sequence[Tensor], fill: Tensor, how: Reading) -> Tensor:
    """Lays the fill over what the half-planes leave out, if there are any."""
    if not lines:
        return out
    seen = sample.coverage(joined(*lines), out.shape[2], out.shape[3], how.hard)
    return sample.cover(out, seen, fill, how.hard)


def _plain(matrix: Floats, how: Reading, size: tuple[int, int]) -> Bools:
    """Returns (n,): where each output pixel is one pixel of the source, by row and by column."""
    straight = keeps_axes(matrix) & (matrix[:, 2, 2] == 1)
    if how.interpolation == "nearest":
        return straight
    scale = matrix[:, :2, :2].sum(axis=2)  # of each source axis, whichever it is read along
    start = matrix[:, :2, 2]
    whole = (abs(start - np.rint(start)) <= _SNAP).all(axis=1)
    along = np.where((matrix[:, 0, 0] != 0)[:, None], (size[1], size[0]), size)
    drift = abs(abs(scale) - 1.0) * along
    return np.asarray(straight & whole & (drift <= _SNAP).all(axis=1))


def _taken(job: _Job, turned: bool) -> Piece:
    """Takes whole pixels, whose rows and columns are counted on the host."""
    matrix, box, how = job.matrix, job.box, job.how
    height, width = job.size
    across, down = (height, width) if turned else (width, height)

    def count(axis: int, along: int) -> Array:
        scale, shift = matrix[:, axis, :2].sum(axis=1), matrix[:, axis, 2]
        at = scale[:, None] * (np.arange(along) + 0.5) + shift[:, None]
        first, stop = box[:, axis, None], box[:, axis + 2, None]
        index = np.floor(at + _SNAP) - first
        return np.asarray(first + fold(index, stop - first, how.sampling.border), np.int64)

    x, y = count(0, across), count(1, down)
    x, y = (x[:, :, None], y[:, None, :]) if turned else (x[:, None, :], y[:, :, None])

    def do(images: Tensor, own: Own) -> Tensor:
        x, y, *edges = own.arrays
        out = sample.take(images, y, x)
        out = out if own.gain == 1.0 else out * own.gain
        return _covered(out, edges, own.shared[0], how)

    return Piece(job.rows, do, (x, y, *_bounds(job.lines, how)), (how.fill,), linear=True)


def _general(job: _Job) -> list[Piece]:
    """Reads between pixels, those alike that shrink alike."""
    matrix, how = job.matrix, job.how
    times, shrinks = np.zeros((2, len(job.rows), 2), np.int64)
    if not how.hard and how.sampling.antialias == "box":
        times = _halvings(_from_corner(job), job.box, job.size)
    if not how.hard and how.sampling.antialias == "full":
        scale = np.where(matrix[:, :2, 0] != 0, matrix[:, :2, 0], matrix[:, :2, 1])
        shrinks = (abs(scale) > 1.0 + _SNAP).astype(np.int64)
    turn = np.select([keeps_axes(matrix) & (matrix[:, 0, 0] != 0), keeps_axes(matrix)], [0, 1], 2)
    tilted = (matrix[:, 2, :2] != 0).any(axis=1) | (matrix[:, 2, 2] != 1)
    turn = np.where(tilted, 3, turn)[:, None]  # straight, turned by quarters, affine, projective
    kinds = np.concatenate([times, shrinks, turn], axis=1)
    pieces = []
    for kind in np.unique(kinds, axis=0):
        own = job.taking((kinds == kind).all(axis=1))
        kx, ky, across, down, _ = kind.tolist()
        if across or down:
            pieces.append(_averaged(own, kind[2:4].astype(bool)))
        elif kx or ky:
            pieces.append(_halved(own, kx, ky))
        else:
            pieces.append(_piece(own))
    return pieces


def _from_corner(job: _Job) -> Floats:
    """Returns the matrices to the pixels of each row's rectangle, counted from its corner."""
    start = np.tile(np.eye(3), (len(job.rows), 1, 1))
    start[:, :2, 2] = -job.box[:, :2]
    return np.asarray(start @ job.matrix)


def _halvings(matrix: Floats, box: Floats, size: tuple[int, int]) -> Ints:
    """Returns (n, 2): how often x and y may be halved before they are read (see opencv)."""
    at = matrix @ (size[1] / 2.0, size[0] / 2.0, 1.0)
    ahead = at[:, 2] > 0
    w = np.where(ahead, at[:, 2], 1.0)[:, None, None]
    place = (at[:, :2] / w[:, :, 0])[:, :, None]
    slopes = (matrix[:, :2, :2] - place * matrix[:, 2, None, :2]) / w
    shrink = np.hypot(slopes[..., 0], slopes[..., 1]) * (1 + 1e-9) * ahead[:, None]
    most = np.ceil(np.log2(box[:, 2:] - box[:, :2]))
    return np.minimum(np.log2(np.maximum(shrink, 1.0)), most).astype(np.int64)


def _reader(job: _Job) -> tuple[Read, tuple[Array, ...]]:
    """Returns what reads float images, and the arrays it needs of each row."""
    matrix, box, shape, how = job.matrix, job.box, job.shape, job.how
    size = height, width = job.size
    straight = bool((matrix[:, 2] == (0, 0, 1)).all())
    aligned = straight and bool(keeps_axes(matrix).all())
    if how.interpolation == "bilinear" and aligned and not how.reflect:
        return _along(job)
    if how.interpolation == "bilinear" and straight and not how.reflect:
        scale = np.array([2.0 / shape.width, 2.0 / shape.height])
        grid = np.diag([*scale, 1.0]) @ matrix
        grid[:, :2, 2] -= 1.0
        low = (box[:, :2] + 0.5) * scale - 1.0
        high = (box[:, 2:] - 0.5) * scale - 1.0

        def quick(images: Tensor, arrays: Sequence[Tensor]) -> Tensor:
            matrix, low, high = arrays
            at = sample.affine_grid(matrix, size)
            at = at.clamp_(low[:, None, None], high[:, None, None])
            return F.grid_sample(images, at, "bilinear", "border", align_corners=False)

        return quick, (grid, low, high)

    def read(images: Tensor, arrays: Sequence[Tensor]) -> Tensor:
        box, *halves = arrays
        at = sample.positions(joined(*halves), height, width)
        return sample.read(images, at, box, how.interpolation, how.reflect)

    # Which pixel is nearest is a matter of float64.
    return read, (box, *halves(matrix, how.interpolation == "nearest"))


def _along(job: _Job) -> tuple[Read, tuple[Array, ...]]:
    """Reads where each row and each column of the output reads a line of the source."""
    matrix, box, size, shape = job.matrix, job.box, job.size, job.shape
    turned = bool((matrix[:, 0, 0] == 0).all())

    def at(axis: int, along: int, length: int) -> Floats:
        steps = np.arange(size[along]) + 0.5
        place = matrix[:, axis, :2].sum(axis=1)[:, None] * steps + matrix[:, axis, 2, None]
        held = place.clip(box[:, axis, None] + 0.5, box[:, axis + 2, None] - 0.5)
        return np.asarray(held * (2.0 / length) - 1.0)

    x, y = at(0, 0 if turned else 1, shape.width), at(1, 1 if turned else 0, shape.height)
    x, y = (x[:, :, None], y[:, None]) if turned else (x[:, None], y[:, :, None])

    def read(images: Tensor, arrays: Sequence[Tensor]) -> Tensor:
        x, y = arrays
        grid = x.new_empty((len(x), *size, 2))
        grid[..., 0], grid[..., 1] = x, y
        return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)

    return read, (x, y)


def _piece(
    job: _Job,
    before: Callable[[Tensor, Own], Tensor] = lambda images, own: images,
    arrays: tuple[Array, ...] = (),
) -> Piece:
    """Builds the piece that reads what `before`, which has the first arrays, makes of images."""
    how = job.how
    read, own_arrays = _reader(job)
    count, skip = len(own_arrays), len(arrays)

    def do(images: Tensor, own: Own) -> Tensor:
        source = before(images if how.interpolation == "nearest" else images.float(), own)
        needed, edges = own.arrays[skip : skip + count], own.arrays[skip + count :]
        out = read(source, needed)
        out = out if own.gain == 1.0 else out * own.gain
        if how.interpolation == "bicubic" and not how.mask:
            out = out.clamp(0.0, 255.0)
        return whole(_covered(out, edges, own.shared[0], how), images.dtype)

    arrays = (*arrays, *own_arrays, *_bounds(job.lines, how))
    return Piece(job.rows, do, arrays, (how.fill,), linear=True)


def _halved(job: _Job, kx: int, ky: int) -> Piece:
    """Averages blocks of 2**kx by 2**ky pixels first, counted from each row's rectangle."""
    box, shape = job.box, job.shape
    height, width = -(-shape.height // 2**ky), -(-shape.width // 2**kx)
    room = replace(shape, height=height, width=width)
    cuts = box.astype(np.int64)

    def before(images: Tensor, own: Own) -> Tensor:
        parts = []
        for k, (x0, y0, x1, y1) in enumerate(cuts[own.at].tolist()):
            part = images[k : k + 1, :, y0:y1, x0:x1]
            right, bottom = -(x1 - x0) % 2**kx, -(y1 - y0) % 2**ky
            if right or bottom:
                part = F.pad(part, (0, right, 0, bottom), mode="replicate")
            part = F.avg_pool2d(part, (2**ky, 2**kx))
            parts.append(F.pad(part, (0, width - part.shape[3], 0, height - part.shape[2])))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    small = np.diag([2.0**-kx, 2.0**-ky, 1.0]) @ _from_corner(job)
    sides = np.ceil((box[:, 2:] - box[:, :2]) / (2**kx, 2**ky))
    seen = np.concatenate([np.zeros_like(sides), sides], axis=1)
    return _piece(replace(job, matrix=small, box=seen, shape=room), before)


def _averaged(job: _Job, shrinks: Bools) -> Piece:
    """Averages first, along each axis that shrinks, exactly what each output pixel covers."""
    box, size, shape, border = job.box, job.size, job.shape, job.how.sampling.border
    moved = job.matrix.copy()
    weights: list[Array] = []
    seen, sides = box.copy(), [shape.width, shape.height]
    for axis in np.flatnonzero(shrinks):
        along = int(moved[0, axis, 0] == 0)
        count = (size[1], size[0])[along]
        dense = np.zeros((len(moved), count, sides[axis]), np.float32)
        for k, (first, stop) in enumerate(box[:, [axis, axis + 2]].astype(np.int64).tolist()):
            scale, shift = moved[k, axis, along], moved[k, axis, 2] - first
            dense[k, :, first:stop] = cell_weights(scale, shift, count, stop - first, border)
        weights.append(dense)
        moved[:, axis] = 0.0
        moved[:, axis, along] = 1.0
        sides[axis] = count
        seen[:, axis], seen[:, axis + 2] = 0, count

    def before(images: Tensor, own: Own) -> Tensor:
        each = iter(own.arrays)
        if shrinks[0]:
            images = product(images, next(each).transpose(1, 2)[:, None])
        if shrinks[1]:
            images = product(next(each)[:, None], images)
        return images

    room = replace(shape, height=sides[1], width=sides[0])
    return _piece(replace(job, matrix=moved, box=seen, shape=room), before, tuple(weights))
