"""Geometry that bends: smooth displacement fields over a small grid of coefficients.

Output pixel p reads the input at p + u(p). A field is drawn on the unit square and stretched
with the image, so that it looks the same at every resolution.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Flow, Meaning
from augpipe.ops.base import Op
from augpipe.ops.geometry import _Interpolated
from augpipe.rng import Draws
from augpipe.spec import Choice, Number, Pair, Range
from augpipe.types import Floats, Frame, Interpolation, Sampling

_SPLINE_RMS = 151.0 / 315.0  # of sum_ij c_ij B_i B_j for unit normal c: the integral of B**2

Cells = Annotated[int, Number(1, 64, "cells", integer=True)]
Bend = Annotated[Pair, Range(-0.3, 1, "of the radius", neutral=0)]


class Elastic(_Interpolated):
    """Bends the image like rubber: a random smooth displacement of every pixel.

    u = amplitude x side x 315/151 x sum_ij c_ij B_i(y) B_j(x), with c standard normal and B
    the cubic B-splines over cells x cells: u's root mean square is amplitude x side. It is
    correlated like white noise smoothed by a Gaussian of sigma = side / (cells sqrt(3)), as
    in Simard et al. ("Best practices for convolutional neural networks", ICDAR 2003), whose
    amplitude is alpha / (2 sigma sqrt(3 pi)) pixels, and in torchvision's ElasticTransform,
    whose is half of that. The image folds where amplitude x cells is much above 0.25.
    """

    kind: ClassVar[type[Meaning] | None] = Flow

    amplitude: Annotated[Pair, Range(0, 0.5, "of the side", neutral=0)] = (0.01, 0.03)
    """Standard deviation of the displacement, as a fraction of each side; drawn per image."""
    cells: Cells = 5
    """Cells of the control grid along each side; fewer bend more smoothly."""

    def means(self, draw: Draws, frame: Frame) -> Flow:
        n, count = len(frame), self.cells + 3
        amplitude = draw.uniform("amplitude", *self.amplitude) / _SPLINE_RMS
        field = draw.normals("field", 2 * count**2).reshape(n, count, count, 2)
        sides = np.stack([frame.width, frame.height], axis=1)
        control = field * (amplitude[:, None] * sides)[:, None, None]
        return Flow(control, "spline", frame.sizes, self.sampling)


class GridDistortion(Op):
    """Stretches and squeezes the columns and the rows of a grid.

    Each axis is cut into `cells` equal steps; a step reads 1 + U(limit) times its share of
    the input, scaled so that the whole axis is read: nothing outside is ever seen. Matches
    albumentations' GridDistortion(normalized=True), which adds rounding to whole pixels.
    """

    kind: ClassVar[type[Meaning] | None] = Flow

    cells: Cells = 5
    """Steps along each side."""
    limit: Annotated[Pair, Range(-0.9, 0.9, "times", neutral=0)] = (-0.3, 0.3)
    """Relative change of a step's length."""
    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    mask_interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear"))] = "nearest"
    """How masks are read between pixel centres."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.interpolation, self.mask_interpolation, border="edge")

    def means(self, draw: Draws, frame: Frame) -> Flow:
        low, high = self.limit
        steps = 1.0 + low + (high - low) * draw.uniforms("steps", 2 * self.cells)
        steps = draw.note("steps", steps.reshape(len(frame), 2, self.cells))
        read = np.zeros((len(frame), 2, self.cells + 1))
        read[:, :, 1:] = np.cumsum(steps, axis=2) / steps.sum(axis=2, keepdims=True)
        moved = read - np.linspace(0.0, 1.0, self.cells + 1)
        control = np.zeros((len(frame), self.cells + 1, self.cells + 1, 2))
        control[..., 0] = (moved[:, 0] * frame.width[:, None])[:, None, :]
        control[..., 1] = (moved[:, 1] * frame.height[:, None])[:, :, None]
        return Flow(control, "hat", frame.sizes, self.sampling)


class OpticalDistortion(_Interpolated):
    """Bends straight lines as a lens does: barrel (k above 0) or pincushion (below 0).

    u = (p - c) (k1 r**2 + k2 r**4), with c the centre and r the distance from it, 1 at the
    corners: the map of OpenCV's `undistort` with a focal length of half the diagonal (Brown,
    1966). Lines stay simple where 1 + 3 k1 r**2 + 5 k2 r**4 is above 0.
    """

    kind: ClassVar[type[Meaning] | None] = Flow

    k1: Bend = (-0.2, 0.2)
    """Displacement at the corners that grows with the third power of the distance."""
    k2: Bend = (0.0, 0.0)
    """Displacement at the corners that grows with the fifth power of the distance."""

    def means(self, draw: Draws, frame: Frame) -> Flow:
        k1, k2 = draw.uniform("k1", *self.k1), draw.uniform("k2", *self.k2)
        half = np.stack([frame.width, frame.height], axis=1) / 2.0
        a, b = (half**2 / (half**2).sum(axis=1, keepdims=True)).T
        control = np.zeros((len(frame), 6, 6, 2))  # [power of y, power of x, axis]
        for axis, (own, other) in enumerate(((a, b), (b, a))):
            terms: dict[tuple[int, int], Floats] = {
                (3, 0): k1 * own,
                (1, 2): k1 * other,
                (5, 0): k2 * own**2,
                (3, 2): 2.0 * k2 * own * other,
                (1, 4): k2 * other**2,
            }
            for (power, across), value in terms.items():
                at = (across, power) if axis == 0 else (power, across)
                control[:, at[0], at[1], axis] = half[:, axis] * value
        return Flow(control, "polynomial", frame.sizes, self.sampling)
