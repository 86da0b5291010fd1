"""Geometry that keeps the axes: flips, quarter turns, padding, resizes; crops are in crops.py.

Matrices map output to source in continuous coordinates (types.py). Angles are in degrees,
positive is counter-clockwise as seen. What turns, shears or bends is in affine.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from augpipe.ir import Meaning, Warp, rect
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import Choice, IntPair, Number, Numbers, Range, Size
from augpipe.types import (
    Antialias,
    Border,
    Fill,
    Floats,
    Frame,
    Interpolation,
    Ints,
    Sampling,
)


@dataclass(frozen=True)
class Margins(Numbers):
    """Whole pixels on every side: one number, or [left, top, right, bottom]."""

    count: int | None = 4
    scalar: bool = True

    @property
    def number(self) -> Number:
        """The declaration of each number."""
        return Number(0, 65535, "pixels", integer=True)

    def allowed(self) -> str:
        return f"an integer or [left, top, right, bottom], integers {self.number.bounds()}"


def margins(padding: int | tuple[int, ...]) -> tuple[Ints, Ints]:
    """Returns the rows and columns added before the image, and those added after it."""
    left, top, right, bottom = np.broadcast_to(np.asarray(padding, np.int64), 4)
    return np.array([top, left]), np.array([bottom, right])


class _Geometry(Op):
    """An op that is a warp."""

    kind: ClassVar[type[Meaning] | None] = Warp

    @property
    def sampling(self) -> Sampling:
        return Sampling(border="edge")

    def warp(self, matrix: Floats, frame: Frame, size: Ints | None = None) -> Warp:
        """Builds this op's warp from its output-to-source matrix."""
        return Warp.of(matrix, frame, size, self.sampling)


class _Filled(_Geometry):
    """A warp that may look beyond the image."""

    border: Annotated[Border, Choice(("constant", "edge", "reflect"))] = "constant"
    """What lies outside: the fill, the nearest edge pixel, or the mirror image."""
    fill: Annotated[Fill, Numbers(0, 255, "grey levels", scalar=True)] = 0.0
    """Grey level outside: one number, or one a channel."""
    mask_fill: Annotated[float, Number(0, 65535, "class", integer=True)] = 0
    """Class outside, for masks."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(border=self.border, fill=self.fill, mask_fill=self.mask_fill)


class _Interpolated(_Filled):
    """A filled warp that lands between pixels."""

    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    mask_interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear"))] = "nearest"
    """How masks are read between pixel centres."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            self.interpolation, self.mask_interpolation, self.border, self.fill, self.mask_fill
        )


def affine(
    a: ArrayLike, b: ArrayLike, tx: ArrayLike, c: ArrayLike, d: ArrayLike, ty: ArrayLike
) -> Floats:
    """Returns (n, 3, 3) matrices [[a, b, tx], [c, d, ty], [0, 0, 1]] from numbers or (n,)."""
    count = max(np.size(value) for value in (a, b, tx, c, d, ty))
    empty = any(np.size(value) == 0 for value in (a, b, tx, c, d, ty))
    out = np.zeros((0 if empty else count, 9))
    out[:, 0], out[:, 1], out[:, 2], out[:, 3], out[:, 4], out[:, 5] = a, b, tx, c, d, ty
    out[:, 8] = 1.0
    return out.reshape(-1, 3, 3)


def about_center(linear: Floats, frame: Frame, size: Ints | None = None) -> Floats:
    """Returns the (n, 3, 3) matrices that do `linear` from centre to centre.

    Args:
        linear: (n, 3, 3), output to source about the origin.
        frame: The sources.
        size: (n, 2), sizes of the outputs; those of the sources when left out.
    """
    out = frame if size is None else Frame(size)
    there = affine(1, 0, frame.width / 2.0, 0, 1, frame.height / 2.0)
    return there @ linear @ affine(1, 0, -out.width / 2.0, 0, 1, -out.height / 2.0)


def turn(degrees: Floats) -> Floats:
    """Returns output-to-source rotations, counter-clockwise as seen; exact at right angles."""
    radians = np.deg2rad(degrees)
    cos, sin = np.cos(radians), np.sin(radians)
    cos, sin = (np.where(abs(v - np.rint(v)) < 1e-15, np.rint(v), v) for v in (cos, sin))
    return affine(cos, -sin, 0, sin, cos, 0)


class HorizontalFlip(_Geometry):
    """Mirrors left and right: out[y, x] = in[y, W - 1 - x].

    Matches torchvision's RandomHorizontalFlip.
    """

    inside: ClassVar[bool] = True
    lattice: ClassVar[bool] = True

    p: Probability = 0.5
    """Probability that the image is mirrored."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        return self.warp(affine(-1, 0, frame.width, 0, 1, 0), frame)


class VerticalFlip(_Geometry):
    """Mirrors top and bottom: out[y, x] = in[H - 1 - y, x].

    Matches torchvision's RandomVerticalFlip.
    """

    inside: ClassVar[bool] = True
    lattice: ClassVar[bool] = True

    p: Probability = 0.5
    """Probability that the image is mirrored."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        return self.warp(affine(1, 0, 0, 0, -1, frame.height), frame)


class Transpose(_Geometry):
    """Mirrors about the main diagonal: out[y, x] = in[x, y]; height and width change places.

    Matches albumentations' Transpose.
    """

    resizes: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    lattice: ClassVar[bool] = True

    p: Probability = 0.5
    """Probability that the image is mirrored."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        matrix = affine(0, 1, np.zeros(len(frame)), 1, 0, 0)
        return self.warp(matrix, frame, frame.sizes[:, ::-1])


class Rotate90(_Geometry):
    """Turns by a random number of quarter turns, counter-clockwise; no pixel is interpolated.

    out = np.rot90(in, times); height and width change places where `times` is odd. Matches
    albumentations' RandomRotate90.
    """

    resizes: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    lattice: ClassVar[bool] = True
    main: ClassVar[str] = "times"

    times: Annotated[IntPair, Range(0, 3, "quarter turns", integer=True)] = (0, 3)
    """Quarter turns, each number of them equally likely."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        times = draw.integers("times", *self.times)
        odd = (times % 2 == 1)[:, None]
        size = np.where(odd, frame.sizes[:, ::-1], frame.sizes)
        return self.warp(about_center(turn(90.0 * times), frame, size), frame, size)


class Pad(_Filled):
    """Adds a border around the image. Matches torchvision's Pad."""

    resizes: ClassVar[bool] = True
    lattice: ClassVar[bool] = True
    main: ClassVar[str] = "padding"

    padding: Annotated[int | tuple[int, ...], Margins()]
    """Pixels added: one number for every side, or [left, top, right, bottom]."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        before, after = margins(self.padding)
        top, left = np.broadcast_to(before, (len(frame), 2)).T
        return self.warp(affine(1, 0, -left, 0, 1, -top), frame, frame.sizes + before + after)


class Resize(_Geometry):
    """Resizes the image.

    One number is the shorter side; the longer one is then floor(size x long / short), as
    torchvision's Resize.
    """

    resizes: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[int | IntPair, Size(short_side=True)]
    """Length of the shorter side (the ratio is kept), or [height, width]."""
    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    antialias: Annotated[Antialias, Choice(("box", "full"))] = "box"
    """How shrinking by 2 or more is kept from aliasing."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.interpolation, border="edge", antialias=self.antialias)

    def means(self, draw: Draws, frame: Frame) -> Warp:
        size = sizes_of(self.size, frame)
        if isinstance(self.size, int):
            short = frame.sizes.min(axis=1, keepdims=True)
            size = self.size * frame.sizes // np.maximum(short, 1)
        return crop_resize(self, frame, rect(frame.sizes), size)


def sizes_of(size: int | IntPair, frame: Frame) -> Ints:
    """Returns (n, 2): one size for every image."""
    return np.broadcast_to(np.asarray(size, np.int64), (len(frame), 2))


def crop_resize(op: _Geometry, frame: Frame, box: Floats, size: Ints) -> Warp:
    """Returns the warp that cuts out `box` (n, 4) and resizes it to `size` (n, 2).

    What lies outside the box is not seen: the result is that of a crop and then a resize.
    """
    sx = (box[:, 2] - box[:, 0]) / size[:, 1]
    sy = (box[:, 3] - box[:, 1]) / size[:, 0]
    matrix = affine(sx, 0, box[:, 0], 0, sy, box[:, 1])
    return Warp(matrix, frame.sizes, size, box, np.zeros((len(frame), 0, 3)), op.sampling)
