"""Geometry that turns, shifts, shears, scales or tilts: maps that land between pixels.

Matrices map output to source in continuous coordinates (types.py). Angles are in degrees,
positive is counter-clockwise as seen; shifts are positive to the right and downwards.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Warp
from augpipe.ops.geometry import _Filled, _Interpolated, about_center, affine, turn
from augpipe.rng import Draws
from augpipe.spec import Number, Pair, Range
from augpipe.types import Floats, Frame

Degrees = Annotated[Pair, Range(-360, 360, "degrees", neutral=0)]
Lean = Annotated[Pair, Range(-80, 80, "degrees", neutral=0)]
Fraction = Annotated[Pair, Range(-1, 1, "of the side", neutral=0)]
Factor = Annotated[Pair, Range(0.01, 100, "times", neutral=1)]

_SURE = 0.6  # below 2/3 every perspective's quadrilateral is convex


def _shift(share_x: Floats, share_y: Floats, frame: Frame) -> Floats:
    """Returns output-to-source shifts by a share of each side, rounded to whole pixels."""
    dx, dy = np.rint(share_x * frame.width), np.rint(share_y * frame.height)
    return affine(1, 0, -dx, 0, 1, -dy)


def _lean(x: Floats, y: Floats) -> Floats:
    """Returns output-to-source shears: along x first, then along y."""
    across, down = np.tan(np.deg2rad(x)), np.tan(np.deg2rad(y))
    return affine(1, -across, 0, 0, 1, 0) @ affine(1, 0, 0, down, 1, 0)


class Rotate(_Interpolated):
    """Turns the image about its centre by a uniformly drawn angle; the size is kept.

    Matches torchvision's RandomRotation(expand=False): positive is counter-clockwise.
    """

    main: ClassVar[str] = "degrees"

    degrees: Degrees = (-15.0, 15.0)
    """Angle of rotation, counter-clockwise."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        angle = draw.uniform("angle", *self.degrees)
        return self.warp(about_center(turn(angle), frame), frame)


class Translate(_Filled):
    """Shifts the image by whole pixels: out[y, x] = in[y - dy, x - dx].

    dx = round(U(x) W), dy = round(U(y) H), half to even, as torchvision's RandomAffine;
    pixels land on pixels, so that nothing is interpolated.
    """

    lattice: ClassVar[bool] = True

    x: Fraction = (-0.1, 0.1)
    """Shift to the right, as a fraction of the width."""
    y: Fraction = (-0.1, 0.1)
    """Shift downwards, as a fraction of the height."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        share = draw.uniform("x", *self.x), draw.uniform("y", *self.y)
        return self.warp(_shift(*share, frame), frame)


class Shear(_Interpolated):
    """Leans the image about its centre: by `x` along the rows, then by `y` along the columns.

    x' = X + tan(x) Y, y' = Y - tan(y) x', about the centre with Y downwards; that is
    torchvision's `affine(shear=[-x, y])`.
    """

    x: Lean = (-10.0, 10.0)
    """Angle by which upright lines lean, counter-clockwise."""
    y: Lean = (0.0, 0.0)
    """Angle by which level lines lean, counter-clockwise."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        lean = _lean(draw.uniform("x", *self.x), draw.uniform("y", *self.y))
        return self.warp(about_center(lean, frame), frame)


class Scale(_Interpolated):
    """Zooms about the centre by a uniformly drawn factor; the size is kept.

    Above 1 things look larger. Matches the `scale` of torchvision's RandomAffine.
    """

    main: ClassVar[str] = "factor"

    factor: Factor = (0.8, 1.25)
    """Scale factor; 2 makes things twice as large."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        zoom = 1.0 / draw.uniform("factor", *self.factor)
        return self.warp(about_center(affine(zoom, 0, 0, 0, zoom, 0), frame), frame)


class Affine(_Interpolated):
    """Shears, turns, scales and shifts at once, about the centre; the size is kept.

    Output = shift x turn x scale x shear x input, torchvision's order (RandomAffine); the
    shift is rounded to whole pixels, as there. All are drawn uniformly.
    """

    degrees: Degrees = (-15.0, 15.0)
    """Angle of rotation, counter-clockwise."""
    translate_x: Fraction = (-0.1, 0.1)
    """Shift to the right, as a fraction of the width."""
    translate_y: Fraction = (-0.1, 0.1)
    """Shift downwards, as a fraction of the height."""
    scale: Factor = (0.9, 1.1)
    """Scale factor; 2 makes things twice as large."""
    shear_x: Lean = (-5.0, 5.0)
    """Angle by which upright lines lean, counter-clockwise."""
    shear_y: Lean = (0.0, 0.0)
    """Angle by which level lines lean, counter-clockwise."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        lean = _lean(draw.uniform("shear_x", *self.shear_x), draw.uniform("shear_y", *self.shear_y))
        zoom = 1.0 / draw.uniform("scale", *self.scale)
        linear = lean @ affine(zoom, 0, 0, 0, zoom, 0) @ turn(draw.uniform("angle", *self.degrees))
        x = draw.uniform("translate_x", *self.translate_x)
        y = draw.uniform("translate_y", *self.translate_y)
        return self.warp(about_center(linear, frame) @ _shift(x, y, frame), frame)


class Perspective(_Interpolated):
    """Moves the four corners inwards and maps the image onto their quadrilateral.

    Each corner moves by U(0, distortion) of half the width and of half the height, as
    torchvision's RandomPerspective, but not to whole pixels. A quadrilateral that is not
    convex (possible where distortion is above 2/3) has its moves shrunk to 0.6 of half
    a side at most. The homography is Heckbert's closed form ("Fundamentals of Texture
    Mapping and Image Warping", 1989, section 2.2.3).
    """

    main: ClassVar[str] = "distortion"

    distortion: Annotated[float, Number(0, 1, "of half a side", neutral=0)] = 0.5
    """How far corners may move inwards."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (self.distortion / 2.0)
        square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
        moves = draw.uniforms("corners", 8).reshape(-1, 4, 2) * inwards
        bad = ~_convex(square + moves)[:, None, None]
        moves = np.where(bad, moves * (_SURE / max(self.distortion, _SURE)), moves)
        corners = draw.note("corners", square + moves)
        wide = affine(frame.width, 0, 0, 0, frame.height, 0)
        narrow = affine(1.0 / frame.width, 0, 0, 0, 1.0 / frame.height, 0)
        return self.warp(wide @ np.linalg.inv(_onto(corners)) @ narrow, frame)


def _convex(corners: Floats) -> np.ndarray:
    """Returns (n,): whether (n, 4, 2) corners turn the same way at each of the four."""
    side = np.roll(corners, -1, axis=1) - corners
    following = np.roll(side, -1, axis=1)
    cross = side[..., 0] * following[..., 1] - side[..., 1] * following[..., 0]
    return np.asarray((cross > 1e-3).all(axis=1))


def _onto(corners: Floats) -> Floats:
    """Returns (n, 3, 3) homographies that take the unit square onto (n, 4, 2) corners."""
    p0, p1, p2, p3 = np.moveaxis(corners, 1, 0)
    (x1, y1), (x2, y2), (xs, ys) = (p1 - p2).T, (p3 - p2).T, (p0 - p1 + p2 - p3).T
    area = x1 * y2 - x2 * y1
    g, h = (xs * y2 - x2 * ys) / area, (x1 * ys - xs * y1) / area
    across, down = p1 - p0 + g[:, None] * p1, p3 - p0 + h[:, None] * p3
    out = affine(across[:, 0], down[:, 0], p0[:, 0], across[:, 1], down[:, 1], p0[:, 1])
    out[:, 2, 0], out[:, 2, 1] = g, h
    return out
