"""Meanings that move pixels: projective maps and displacement fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from augpipe.ir.gating import pick
from augpipe.types import Bools, Floats, Frame, Ints, Sampling

_SNAP = 1e-6  # pixels: float noise on what is a whole number in exact arithmetic
_ALWAYS = np.array([0.0, 0.0, 1.0])  # the half-plane that holds everything


def rect(sizes: Ints) -> Floats:
    """Returns (n, 4): the frames of these sizes as x0, y0, x1, y1."""
    height, width = sizes[:, 0], sizes[:, 1]
    zero = np.zeros_like(height)
    return np.stack([zero, zero, width, height], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Warp:
    """A projective map with what may be seen through it.

    Output pixel p reads the source at `matrix @ p` (continuous coordinates, see types.py),
    within the source rectangle `box`: beyond it is the border. Where a half-plane
    a x + b y + c >= 0 of `lines` does not hold at p, p is fill: earlier frames of a fused
    run bound what later ops can see. Such an edge is one output pixel wide:
    coverage = clip(min over lines of signed distance + 1/2, 0, 1).

    Args:
        matrix: (n, 3, 3), output to source.
        source: (n, 2), sizes of the input.
        size: (n, 2), sizes of the output.
        box: (n, 4), the visible rectangle of the source: x0, y0, x1, y1.
        lines: (n, m, 3), half-planes in output coordinates.
        sampling: How pixels are read.
    """

    matrix: Floats
    source: Ints
    size: Ints
    box: Floats
    lines: Floats
    sampling: Sampling

    @classmethod
    def of(cls, matrix: Floats, frame: Frame, size: Ints | None, sampling: Sampling) -> Warp:
        """Builds the warp of one op, which sees the whole frame."""
        size = frame.sizes if size is None else size
        lines = np.zeros((len(frame), 0, 3))
        return cls(matrix, frame.sizes, size, rect(frame.sizes), lines, sampling)

    def gate(self, on: Bools) -> Warp:
        """Returns this where `on`, the identity elsewhere."""
        return replace(
            self,
            matrix=pick(on, self.matrix, np.eye(3)),
            size=pick(on, self.size, self.source),
            box=pick(on, self.box, rect(self.source)),
            lines=pick(on, self.lines, _ALWAYS),
        )

    def then(self, later: Warp) -> Warp:
        """Composes: `later` reads this warp's output, of which it sees its own `box`.

        Where this warp keeps the axes, that box is a rectangle of the source too and narrows
        this one's; elsewhere its four edges become lines. The sampling is
        for the caller to settle (plan/rules.py): this one's is kept.
        """
        matrix = self.matrix @ later.matrix
        corners = later.box
        low = _apply(self.matrix, corners[:, :2])
        high = _apply(self.matrix, corners[:, 2:])
        seen = np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)
        seen = np.where(abs(seen - np.rint(seen)) < _SNAP, np.rint(seen), seen)
        box = np.concatenate(
            [np.maximum(self.box[:, :2], seen[:, :2]), np.minimum(self.box[:, 2:], seen[:, 2:])],
            axis=1,
        )
        keeps = keeps_axes(self.matrix)
        edges = pick(~keeps, frame_lines(corners), _ALWAYS) if not keeps.all() else None
        lines = self.lines if edges is None else np.concatenate([self.lines, edges], axis=1)
        return replace(
            self,
            matrix=matrix,
            size=later.size,
            box=pick(keeps, box, self.box),
            lines=np.concatenate([lines @ later.matrix, later.lines], axis=1),
        )


def _apply(matrix: Floats, points: Floats) -> Floats:
    """Maps (n, 2) points by (n, 3, 3) matrices."""
    out = np.einsum("nij,nj->ni", matrix, np.concatenate([points, np.ones((len(points), 1))], 1))
    return np.asarray(out[:, :2] / out[:, 2:])


def keeps_axes(matrix: Floats) -> Bools:
    """Returns (n,): whether a matrix maps horizontal and vertical lines to such lines."""
    diagonal = (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)
    swapped = (matrix[:, 0, 0] == 0) & (matrix[:, 1, 1] == 0)
    affine = (matrix[:, 2, :2] == 0).all(axis=1)
    return np.asarray((diagonal | swapped) & affine)


def frame_lines(box: Floats) -> Floats:
    """Returns (n, 4, 3): the half-planes whose intersection is each rectangle."""
    lines = np.zeros((len(box), 4, 3))
    lines[:, 0, 0] = lines[:, 1, 1] = 1.0
    lines[:, 2, 0] = lines[:, 3, 1] = -1.0
    lines[:, :2, 2] = -box[:, :2]
    lines[:, 2:, 2] = box[:, 2:]
    return lines


Basis = Literal["spline", "hat", "polynomial"]


@dataclass(frozen=True, slots=True)
class Flow:
    """A smooth displacement field: output pixel p reads the input at p + u(p).

    u is a separable sum over a small grid of coefficients,
    u(x, y) = sum_ij control[i, j] B_i(y) B_j(x), in pixels, with B by `basis` (see `basis`).

    Args:
        control: (n, rows, columns, 2), coefficients of (dx, dy).
        basis: Uniform cubic B-splines, hat functions, or monomials.
        size: (n, 2), sizes of input and output.
        sampling: How pixels are read.
    """

    control: Floats
    basis: Basis
    size: Ints
    sampling: Sampling

    def gate(self, on: Bools) -> Flow:
        """Returns this where `on`, no displacement elsewhere."""
        return replace(self, control=pick(on, self.control, np.zeros(())))


def smooth(sampling: Sampling) -> Sampling:
    """Returns how heat maps are read: between pixels, and 0 outside."""
    return replace(sampling, interpolation="bilinear", fill=0.0)


def basis(kind: Basis, at: Floats, count: int, length: float) -> Floats:
    """Evaluates `count` basis functions along an axis.

    Args:
        kind: "spline": uniform cubic B-splines whose interior knots divide the axis into
            count - 3 parts; "hat": linear interpolation between `count` nodes from one end
            to the other; "polynomial": the powers 0..count-1 of (2 at - length) / length.
        at: (m,) positions on the axis, continuous coordinates.
        count: How many functions.
        length: Length of the axis in pixels.

    Returns:
        (m, count) values.
    """
    if kind == "polynomial":
        return np.asarray((2.0 * at / length - 1.0)[:, None] ** np.arange(count))
    if kind == "hat":
        distance = at[:, None] / length * (count - 1) - np.arange(count)
        return np.asarray(np.maximum(0.0, 1.0 - abs(distance)))
    t = abs(at[:, None] / length * (count - 3) + 1.0 - np.arange(count))
    inner = 2.0 / 3.0 - t**2 + t**3 / 2.0
    return np.asarray(np.where(t < 1, inner, np.maximum(0.0, 2.0 - t) ** 3 / 6.0))
