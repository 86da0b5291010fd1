"""Filters: blurs and sharpening as kernels, the median, and the losses of storing and shrinking.

A kernel op returns arrays of odd sides, the side that its largest declared parameter needs,
so that it does not depend on which images share the batch; smaller kernels stand centred
among zeros. Beyond the border the image is mirrored about its edge pixels' centres
(REFLECT_101), but for the median, which repeats the edge pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from augpipe.ir import Codec, Kernel, Meaning, Median
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.spec import IntPair, Json, Number, Pair, Range
from augpipe.types import Floats, Frame, Ints


@dataclass(frozen=True)
class OddRange(Range):
    """A closed range [low, high] of odd integers."""

    integer: bool = True

    @property
    def number(self) -> Number:
        """The declaration of each end."""
        return Number(self.low, self.high, self.unit, integer=True, odd=True)

    def allowed(self) -> str:
        return f"a range [low, high] of odd integers {self.number.bounds()}".strip()

    def schema(self) -> Json:
        side = self.number.schema() | {"not": {"multipleOf": 2}}
        return {"type": "array", "items": side, "minItems": 2, "maxItems": 2}

    def bad_values(self) -> Iterable[Any]:
        yield from super().bad_values()
        low = int(self.low or 1)
        yield from ([low, low + 1], [low + 1, low + 2])


Side = Annotated[IntPair, OddRange(1, 99, "pixels")]


def draw_odd(draw: Draws, name: str, ends: IntPair) -> Ints:
    """Draws (n,) odd integers, uniform among those of the range."""
    halves = draw.integers(name, ends[0] // 2, ends[1] // 2)
    return np.asarray(draw.note(name, 2 * halves + 1), np.int64)


def normalised(weights: Floats) -> Floats:
    """Returns kernels (n, ...) whose weights sum to 1 each."""
    return np.asarray(weights / weights.sum(axis=tuple(range(1, weights.ndim)), keepdims=True))


def grid(radius: int) -> tuple[Floats, Floats]:
    """Returns (1, K, K) columns x and rows y of a kernel's taps, from its centre, K odd."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    return x[None], y[None]


def separable(weights: Floats, on: int) -> Kernel:
    """Returns the kernel that is `weights` (n, K) down and then across."""
    return Kernel(np.ones(on, bool), (weights[:, :, None], weights[:, None, :]))


class _Kernel(Op):
    """A filter that is a kernel."""

    kind: ClassVar[type[Meaning] | None] = Kernel


class GaussianBlur(_Kernel):
    """Blurs with a Gaussian of uniformly drawn sigma.

    Weights exp(-x^2 / (2 sigma^2)) on |x| <= ceil(3 sigma), normalised to sum 1, down and
    then across; sigma 0 changes nothing. Matches torchvision's gaussian_blur with
    kernel_size 2 ceil(3 sigma) + 1.
    """

    main: ClassVar[str] = "sigma"

    sigma: Annotated[Pair, Range(0, 100, "pixels", neutral=0)] = (0.1, 2.0)
    """Standard deviation of the Gaussian."""

    def means(self, draw: Draws, frame: Frame) -> Kernel:
        sigma = draw.uniform("sigma", *self.sigma)[:, None]
        reach = int(np.ceil(3.0 * self.sigma[1]))
        x = np.arange(-reach, reach + 1.0)
        weights = np.exp(-0.5 * (x / np.maximum(sigma, 1e-6)) ** 2)
        weights = np.where(abs(x) <= np.ceil(3.0 * sigma), weights, 0.0)
        return separable(normalised(weights), len(draw))


class BoxBlur(_Kernel):
    """Replaces each pixel by the mean of a square window about it.

    Weights 1 / size^2 on a size x size window; size is uniform among the odd integers of its
    range. Matches OpenCV's blur and SciPy's uniform_filter(mode="mirror").
    """

    main: ClassVar[str] = "size"

    size: Side = (3, 7)
    """Side of the window."""

    def means(self, draw: Draws, frame: Frame) -> Kernel:
        size = draw_odd(draw, "size", self.size)[:, None]
        reach = self.size[1] // 2
        inside = abs(np.arange(-reach, reach + 1)) <= size // 2
        return separable(normalised(inside.astype(np.float64)), len(draw))


class MotionBlur(_Kernel):
    """Smears the image along a straight line, as a camera that moves during exposure.

    With t a tap's position along the line and d its distance from it, the weight is
    max(0, 1 - |d|) clip((size + 1) / 2 - |t|, 0, 1) (1 + direction t / r), r = (size - 1) / 2,
    within the size x size window, normalised to sum 1: at angle 0, a row of `size` taps.
    As albumentations' MotionBlur and Kornia's RandomMotionBlur, but antialiased: theirs
    rasterise or resample the line.
    """

    size: Side = (3, 15)
    """Length of the line; odd, and uniform among the odd integers of the range."""
    angle: Annotated[Pair, Range(-360, 360, "degrees")] = (0.0, 360.0)
    """Angle of the line, counter-clockwise from the x axis."""
    direction: Annotated[Pair, Range(-1, 1)] = (0.0, 0.0)
    """Slope of the weights along the line: 0 even, 1 fades to nothing at the line's start,
    -1 at its end. Other than 0, it shifts the image's content a little."""

    def means(self, draw: Draws, frame: Frame) -> Kernel:
        size = draw_odd(draw, "size", self.size)[:, None, None]
        radians = np.deg2rad(draw.uniform("angle", *self.angle))[:, None, None]
        direction = draw.uniform("direction", *self.direction)[:, None, None]
        x, y = grid(self.size[1] // 2)
        along = x * np.cos(radians) - y * np.sin(radians)
        across = x * np.sin(radians) + y * np.cos(radians)
        reach = size // 2
        weights = np.maximum(0.0, 1.0 - abs(across)) * np.clip(reach + 1 - abs(along), 0.0, 1.0)
        # A tap may lie up to a pixel beyond the line's end; no weight is negative there.
        weights = weights * np.maximum(0.0, 1.0 + direction * along / np.maximum(reach, 1))
        inside = np.maximum(abs(x), abs(y)) <= reach
        return Kernel(np.ones(len(draw), bool), (normalised(np.where(inside, weights, 0.0)),))


class Defocus(_Kernel):
    """Blurs with a disk, as a lens out of focus.

    Weights clip(radius + 1/2 - distance from the centre, 0, 1), normalised to sum 1: a disk
    whose edge is one pixel wide; radius 0 changes nothing. As albumentations' Defocus, which
    takes whole radii and softens its disk with a Gaussian.
    """

    main: ClassVar[str] = "radius"

    radius: Annotated[Pair, Range(0, 49, "pixels", neutral=0)] = (1.0, 4.0)
    """Radius of the disk."""

    def means(self, draw: Draws, frame: Frame) -> Kernel:
        radius = draw.uniform("radius", *self.radius)[:, None, None]
        x, y = grid(int(np.ceil(self.radius[1] + 0.5)) - 1)
        weights = np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0)
        return Kernel(np.ones(len(draw), bool), (normalised(weights),))


_SMOOTH = np.array([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
_SAME = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


class Sharpen(_Kernel):
    """Sharpens, or softens, by a factor away from a smoothed copy.

    out = factor x in + (1 - factor) x smoothed, with Pillow's SMOOTH kernel (5 in the centre
    of eight ones, over 13), in one 3 x 3 kernel. Matches torchvision's adjust_sharpness and
    Pillow's ImageEnhance.Sharpness, except that they leave the outermost row and column of
    pixels as they were (here they see the mirrored image) and round the smoothed copy.
    """

    main: ClassVar[str] = "factor"

    factor: Annotated[Pair, Range(0, 100, "times", neutral=1)] = (1.0, 2.0)
    """Sharpness factor: 0 smoothed, 1 unchanged, 2 twice as sharp."""

    def means(self, draw: Draws, frame: Frame) -> Kernel:
        factor = draw.uniform("factor", *self.factor)[:, None, None]
        return Kernel(np.ones(len(draw), bool), (factor * _SAME + (1.0 - factor) * _SMOOTH,))


class MedianBlur(Op):
    """Replaces each pixel by the median of a square window about it, channel by channel.

    Edge pixels are repeated beyond the border; a float image is rounded to whole levels first
    for windows of more than 5 x 5. Matches OpenCV's medianBlur and SciPy's
    median_filter(mode="nearest").
    """

    kind: ClassVar[type[Meaning] | None] = Median
    main: ClassVar[str] = "size"

    size: Side = (3, 5)
    """Side of the window; odd, and uniform among the odd integers of the range."""

    def means(self, draw: Draws, frame: Frame) -> Median:
        return Median(np.ones(len(draw), bool), draw_odd(draw, "size", self.size))


class JpegCompression(Op):
    """Writes the image as JPEG and reads it back.

    Baseline JPEG at libjpeg's quality with 4:2:0 chroma; a grey image is written grey, and
    with neither one nor three channels each channel is. Levels are rounded to whole ones
    first. Matches Pillow's save(quality=q, subsampling=2). A JPEG holds at most 65,500 pixels
    a side: a larger image is an error.
    """

    kind: ClassVar[type[Meaning] | None] = Codec
    main: ClassVar[str] = "quality"

    quality: Annotated[IntPair, Range(1, 100, integer=True)] = (30, 95)
    """JPEG quality, uniform among the integers of the range: 1 worst, 100 best."""

    def means(self, draw: Draws, frame: Frame) -> Codec:
        quality = draw.integers("quality", *self.quality)
        return Codec(np.ones(len(draw), bool), "jpeg", quality.astype(np.float64))


class Downscale(Op):
    """Loses resolution: shrinks the image and enlarges it again.

    Each side becomes max(1, round(scale x side)) pixels by exact area averages; each output
    pixel then takes the small pixel that holds its centre (nearest). As albumentations'
    Downscale with area and nearest interpolation.
    """

    kind: ClassVar[type[Meaning] | None] = Codec
    main: ClassVar[str] = "scale"

    scale: Annotated[Pair, Range(0, 1, "of the side", above=True, neutral=1)] = (0.25, 0.5)
    """Size of the small image, as a fraction of the image's."""

    def means(self, draw: Draws, frame: Frame) -> Codec:
        return Codec(np.ones(len(draw), bool), "downscale", draw.uniform("scale", *self.scale))
