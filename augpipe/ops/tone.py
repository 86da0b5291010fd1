"""Tone: curves of the grey level, and equalization by the image's own histogram.

A curve is the same function for every channel and pixel. Curves that follow one another
compose in exact arithmetic: a uint8 image is rounded once, at their end.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Curve, Histogram, Meaning
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import IntPair, Number, Pair, Range
from augpipe.types import Floats, Frame


class _Toned(Op):
    """An op that is a curve."""

    kind: ClassVar[type[Meaning] | None] = Curve


class Gamma(_Toned):
    """Bends the levels by a power: out = 255 (in / 255) ** gamma.

    The exponent is uniform in its range, as in albumentations' RandomGamma. Matches
    torchvision's adjust_gamma.
    """

    main: ClassVar[str] = "gamma"

    gamma: Annotated[Pair, Range(0, None, above=True, neutral=1)] = (0.8, 1.2)
    """The exponent; below 1 brightens, 1 changes nothing, above 1 darkens."""

    def means(self, draw: Draws, frame: Frame) -> Curve:
        return Curve((("gamma", draw.uniform("gamma", *self.gamma)),))


class Solarize(_Toned):
    """Inverts what is bright: out = 255 - in where in >= threshold.

    Matches torchvision's and Pillow's solarize.
    """

    main: ClassVar[str] = "threshold"

    threshold: Annotated[Pair, Range(0, 256, "grey levels", neutral=256)] = (128.0, 128.0)
    """The lowest level that is inverted; 0 inverts all levels, 256 none."""

    def means(self, draw: Draws, frame: Frame) -> Curve:
        return Curve((("solarize", draw.uniform("threshold", *self.threshold)),))


class Posterize(_Toned):
    """Keeps the highest bits of each level: out = in - in mod 2 ** (8 - bits).

    Matches torchvision's and Pillow's posterize on uint8. On float levels it is the same
    function of 0..255 (torchvision scales those to 0..1 first and so differs by up to a step).
    """

    main: ClassVar[str] = "bits"

    bits: Annotated[IntPair, Range(1, 8, "bits", integer=True)] = (4, 4)
    """How many of the 8 bits are kept; 8 changes nothing in uint8."""

    def means(self, draw: Draws, frame: Frame) -> Curve:
        bits = draw.integers("bits", *self.bits)
        return Curve((("posterize", bits.astype(np.float64)),))


class _Leveled(Op):
    """An op that is decided by the image's histogram."""

    kind: ClassVar[type[Meaning] | None] = Histogram


def _always(draw: Draws) -> tuple[np.ndarray, Floats]:
    return np.ones(len(draw), np.bool_), np.zeros(len(draw))


class Autocontrast(_Leveled):
    """Stretches each channel to the full range: out = 255 (in - min) / (max - min).

    A constant channel stays. Matches torchvision's RandomAutocontrast, and Pillow's
    `autocontrast` at cutoff 0 (which rounds down; here to the nearest).
    """

    p: Probability = 0.5
    """Probability that the image is stretched."""

    def means(self, draw: Draws, frame: Frame) -> Histogram:
        on, nothing = _always(draw)
        return Histogram(on, "autocontrast", nothing)


class Equalize(_Leveled):
    """Flattens each channel's histogram, exactly as Pillow's `ImageOps.equalize`.

    Matches torchvision's RandomEqualize. Float levels are rounded to the 256 whole ones
    first, and whole levels come out.
    """

    p: Probability = 0.5
    """Probability that the image is equalized."""

    def means(self, draw: Draws, frame: Frame) -> Histogram:
        on, nothing = _always(draw)
        return Histogram(on, "equalize", nothing)


class Clahe(_Leveled):
    """Equalizes locally, with a limit on contrast (CLAHE), on the lightness of a colour image.

    Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994.
    Colour goes through 8-bit CIE Lab, which itself costs about half a grey level; float
    levels are rounded to whole ones first. Matches OpenCV's createCLAHE, and albumentations'
    CLAHE but for its Lab, OpenCV's, which is up to two units off (up to 40 levels after it).
    """

    main: ClassVar[str] = "clip_limit"

    clip_limit: Annotated[Pair, Range(0, None, "times a tile's mean bin", above=True)] = (1.0, 4.0)
    """Where histogram bins are clipped; smaller means less contrast."""
    tiles: Annotated[int, Number(1, 64, "tiles", integer=True)] = 8
    """Tiles a side; each is equalized by itself."""

    def means(self, draw: Draws, frame: Frame) -> Histogram:
        on, _ = _always(draw)
        return Histogram(on, "clahe", draw.uniform("clip_limit", *self.clip_limit), self.tiles)
