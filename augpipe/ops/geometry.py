"""Geometry that is a projective map: crops, flips, resizes, rotations, perspective.

Matrices map output to source in continuous coordinates (types.py). Angles are in degrees,
positive is counter-clockwise as seen.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np

from augpipe.ir import Meaning, Warp
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import Choice, IntPair, Number, Numbers, Pair, Range, Size
from augpipe.types import Antialias, Border, Fill, Floats, Frame, Interpolation, Ints, Sampling

Degrees = Annotated[Pair, Range(-360, 360, "degrees")]


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


def affine(a: object, b: object, tx: object, c: object, d: object, ty: object) -> Floats:
    """Returns (n, 3, 3) matrices [[a, b, tx], [c, d, ty], [0, 0, 1]] from numbers or (n,)."""
    rows = np.broadcast_arrays(a, b, tx, c, d, ty, 0.0, 0.0, 1.0)
    return np.stack(rows, axis=-1).reshape(-1, 3, 3).astype(np.float64)


def about_center(linear: Floats, frame: Frame) -> Floats:
    """Returns the (n, 3, 3) matrices that do `linear` about each image's centre."""
    x, y = frame.width / 2.0, frame.height / 2.0
    return affine(1, 0, x, 0, 1, y) @ linear @ affine(1, 0, -x, 0, 1, -y)


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


class RandomResizedCrop(_Geometry):
    """Cuts a rectangle of random area and aspect ratio and resizes it.

    Up to ten tries at area = U(scale) x image area and log-uniform aspect ratio (width over
    height); the first that fits is placed uniformly, at whole pixels. If none fits: the
    largest central rectangle whose ratio is the nearest allowed one. As torchvision's
    RandomResizedCrop (Szegedy et al., 2014, arXiv 1409.4842).
    """

    inside: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[IntPair, Size()]
    """Size of the result: [height, width], or one number for a square."""
    scale: Annotated[Pair, Range(0, 1, "of the image's area", above=True)] = (0.08, 1.0)
    """Area of the rectangle, as a fraction of the image's."""
    ratio: Annotated[Pair, Range(0, 100, "width / height", above=True)] = (3 / 4, 4 / 3)
    """Aspect ratio of the rectangle, drawn log-uniformly."""
    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    antialias: Annotated[Antialias, Choice(("box", "full"))] = "box"
    """How shrinking by 2 or more is kept from aliasing."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.interpolation, border="edge", antialias=self.antialias)

    def means(self, draw: Draws, frame: Frame) -> Warp:
        n, tries = len(frame), 10
        width, height = frame.width[:, None], frame.height[:, None]
        low, high = np.log(self.ratio)
        area = width * height * (
            self.scale[0] + (self.scale[1] - self.scale[0]) * draw.uniforms("area", tries)
        )
        aspect = np.exp(low + (high - low) * draw.uniforms("aspect", tries))
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        # The fallback stands as an eleventh try that always fits.
        whole = width / height
        w = np.concatenate([w, np.where(whole > self.ratio[1], np.rint(height * self.ratio[1]),
                                        width)], axis=1)
        h = np.concatenate([h, np.where(whole < self.ratio[0], np.rint(width / self.ratio[0]),
                                        height)], axis=1)
        fits = np.concatenate([fits, np.ones((n, 1), bool)], axis=1)
        first = fits.argmax(axis=1)
        w, h = w[np.arange(n), first], h[np.arange(n), first]
        w, h = np.maximum(w, 1), np.maximum(h, 1)
        at = draw.uniforms("position", 2)
        x = np.floor(at[:, 0] * (frame.width - w + 1))
        y = np.floor(at[:, 1] * (frame.height - h + 1))
        x = np.where(first == tries, np.floor((frame.width - w) / 2), x)
        y = np.where(first == tries, np.floor((frame.height - h) / 2), y)
        return crop_resize(self, frame, np.stack([x, y, x + w, y + h], axis=1), self.size)


def crop_resize(op: _Geometry, frame: Frame, box: Floats, size: IntPair | Ints) -> Warp:
    """Returns the warp that cuts out `box` (n, 4) and resizes it to `size`.

    What lies outside the box is not seen: the result is that of a crop and then a resize.
    """
    sizes = np.broadcast_to(np.asarray(size, np.int64), (len(frame), 2))
    sx = (box[:, 2] - box[:, 0]) / sizes[:, 1]
    sy = (box[:, 3] - box[:, 1]) / sizes[:, 0]
    matrix = affine(sx, 0, box[:, 0], 0, sy, box[:, 1])
    return Warp(
        matrix, frame.sizes, sizes, box, np.zeros((len(frame), 0, 3)), op.sampling
    )
