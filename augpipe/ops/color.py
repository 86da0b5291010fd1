"""Colour that is linear: each op is a 3 x 3 matrix, an offset, and a look at the mean.

Definitions are torchvision's (`torchvision.transforms.v2.functional.adjust_*`), with grey =
0.299 r + 0.587 g + 0.114 b (ITU-R BT.601); only hue differs (see Hue). torchvision writes
0.2989 for red, by which its grey of a grey pixel is 0.01 % too dark; here a grey pixel stays
the grey it was. Levels are clipped to 0..255 once, at the end of a run of colour ops, where
torchvision clips after each.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import LUMA, Color, Meaning
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import IntPair, Number, Pair, Range
from augpipe.types import Bools, Floats, Frame

Factor = Annotated[Pair, Range(0, 1000, "times", neutral=1)]
Levels = Annotated[Pair, Range(-255, 255, "grey levels", neutral=0)]

_GREY = np.tile(LUMA, (3, 1))
_EYE = np.eye(3)


class _Linear(Op):
    """A colour op that is a matrix."""

    kind: ClassVar[type[Meaning] | None] = Color


def _alike(matrix: Floats, draw: Draws) -> Floats:
    """Returns (n, 3, 3): one matrix for all images."""
    return np.broadcast_to(matrix, (len(draw), 3, 3))


def _diagonal(gains: Floats) -> Floats:
    """Returns (n, 3, 3) diagonal matrices from (n, 3)."""
    return np.asarray(gains[:, :, None] * _EYE)


def brighten(factor: Floats) -> Color:
    """Returns out = factor x in."""
    return Color.of(factor[:, None, None] * _EYE)


def contrast(factor: Floats) -> Color:
    """Returns out = factor x in + (1 - factor) x the image's mean grey."""
    f = factor[:, None, None]
    return Color.of(f * _EYE, mean=(1.0 - f) * _GREY)


def saturate(factor: Floats) -> Color:
    """Returns out = factor x in + (1 - factor) x the pixel's grey."""
    f = factor[:, None, None]
    return Color.of(f * _EYE + (1.0 - f) * _GREY)


_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
# YIQ^-1 R YIQ, for R that keeps Y and turns I and Q: what stays, and the parts along cos and sin.
_STAYS, _ALONG, _ACROSS = (
    np.linalg.inv(_YIQ) @ np.array(turn) @ _YIQ
    for turn in (
        [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]],
    )
)


def rotate_hue(turns: Floats) -> Color:
    """Returns the rotation of the chroma plane of YIQ by this share of a full turn.

    A positive shift goes from red to yellow to green, as a positive HSV shift does.
    """
    angle = 2.0 * np.pi * turns[:, None, None]
    matrix = _STAYS + np.cos(angle) * _ALONG + np.sin(angle) * _ACROSS
    # Rows sum to 1 but for the four digits of the constants: a grey stays the grey it was.
    return Color.of(matrix + (1.0 - matrix.sum(axis=2, keepdims=True)) / 3.0)


class Brightness(_Linear):
    """Scales all levels: out = factor x in. Matches torchvision's adjust_brightness."""

    main: ClassVar[str] = "factor"

    factor: Factor = (0.8, 1.2)
    """Brightness factor; 1 changes nothing, 0 is black."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return brighten(draw.uniform("factor", *self.factor))


class Contrast(_Linear):
    """Scales levels about the image's mean grey: out = factor x in + (1 - factor) x mean.

    Matches torchvision's adjust_contrast; the mean is not rounded (torchvision rounds each
    grey of a uint8 image down before the mean). In a fused run it is the mean of what the
    ops before it would give, unclipped.
    """

    main: ClassVar[str] = "factor"

    factor: Factor = (0.8, 1.2)
    """Contrast factor; 1 changes nothing, 0 is the mean grey everywhere."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return contrast(draw.uniform("factor", *self.factor))


class Saturation(_Linear):
    """Scales each pixel's distance from its grey: out = factor x in + (1 - factor) x grey.

    Matches torchvision's adjust_saturation; the identity on grey images.
    """

    main: ClassVar[str] = "factor"

    factor: Factor = (0.8, 1.2)
    """Saturation factor; 1 changes nothing, 0 is grey, above 1 is more colourful."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return saturate(draw.uniform("factor", *self.factor))


class Hue(_Linear):
    """Turns all hues about the grey axis, by a rotation of the chroma plane (I, Q) of YIQ.

    It keeps luma Y and the length of (I, Q), where torchvision's HSV rotation keeps the
    largest and the smallest of r, g and b: half a turn takes red (255, 0, 0) to the dark
    cyan (0, 152, 152) here and to the bright (0, 255, 255) there. Directions agree: a
    positive shift goes from red to yellow to green. What leaves 0..255 is clipped. Being
    linear it fuses and costs no conversion; NTSC's own hue knob does the same. The identity
    on grey images.
    """

    main: ClassVar[str] = "shift"

    shift: Annotated[Pair, Range(-0.5, 0.5, "turns", neutral=0)] = (-0.05, 0.05)
    """Shift in full turns of the colour wheel; -0.5 and 0.5 are the same."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return rotate_hue(draw.uniform("shift", *self.shift))


class ColorJitter(_Linear):
    """Changes brightness, contrast, saturation and hue, each by a strength of its own.

    Each factor is uniform in [max(0, 1 - x), 1 + x], the hue shift in [-x, x] turns. As
    torchvision's ColorJitter, but for the hue (YIQ, see Hue) and for clipping once instead of
    four times. No order is drawn: all four are scalings and turns about the grey axis that
    keep each other's greys, so they commute, and in torchvision too the order tells only
    where levels are clipped in between.
    """

    brightness: Annotated[float, Number(0, 1000, "strength", neutral=0)] = 0.0
    """Strength of the brightness factor's range."""
    contrast: Annotated[float, Number(0, 1000, "strength", neutral=0)] = 0.0
    """Strength of the contrast factor's range."""
    saturation: Annotated[float, Number(0, 1000, "strength", neutral=0)] = 0.0
    """Strength of the saturation factor's range."""
    hue: Annotated[float, Number(0, 0.5, "turns", neutral=0)] = 0.0
    """Largest hue shift, in full turns of the colour wheel."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        def factor(name: str, strength: float) -> Floats:
            return draw.uniform(name, max(0.0, 1.0 - strength), 1.0 + strength)

        whole = rotate_hue(draw.uniform("hue", -self.hue, self.hue))
        whole = whole.then(saturate(factor("saturation", self.saturation)))
        whole = whole.then(contrast(factor("contrast", self.contrast)))
        return whole.then(brighten(factor("brightness", self.brightness)))


class Invert(_Linear):
    """Makes a negative: out = 255 - in. Matches torchvision's RandomInvert."""

    p: Probability = 0.5
    """Probability that the image is inverted."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return Color.of(_alike(-_EYE, draw), offset=np.full((len(draw), 3), 255.0))


class Grayscale(_Linear):
    """Takes the colour away: all three channels become 0.299 r + 0.587 g + 0.114 b.

    Matches torchvision's RandomGrayscale, which keeps three channels too. The identity on
    grey images.
    """

    p: Probability = 0.1
    """Probability that the image becomes grey."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return Color.of(_alike(_GREY, draw))


class ChannelShuffle(_Linear):
    """Puts the channels in a random order: out[c] = in[order[c]], all six equally likely.

    Matches torchvision's RandomChannelPermutation and albumentations' ChannelShuffle. Needs
    three channels.
    """

    rgb_only: ClassVar[bool] = True

    def means(self, draw: Draws, frame: Frame) -> Color:
        return Color.of(_EYE[draw.permutation("order", 3)])


class ChannelDropout(_Linear):
    """Replaces whole channels by a constant level, in all sets of a size equally likely.

    As albumentations' ChannelDropout. Needs three channels.
    """

    rgb_only: ClassVar[bool] = True
    main: ClassVar[str] = "channels"

    channels: Annotated[IntPair, Range(1, 2, "channels", integer=True)] = (1, 1)
    """How many channels are dropped."""
    fill: Annotated[float, Number(0, 255, "grey levels")] = 0.0
    """The level that takes their place."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        count = draw.integers("channels", *self.channels)
        rank = np.argsort(draw.permutation("order", 3), axis=1)
        dropped: Bools = rank < count[:, None]
        return Color.of(_diagonal(1.0 - dropped), offset=self.fill * dropped)


class RgbShift(_Linear):
    """Adds a level of its own to each channel: out[c] = in[c] + shift[c].

    As albumentations' RGBShift. Needs three channels.
    """

    rgb_only: ClassVar[bool] = True

    red: Levels = (-20.0, 20.0)
    """Added to red."""
    green: Levels = (-20.0, 20.0)
    """Added to green."""
    blue: Levels = (-20.0, 20.0)
    """Added to blue."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        names = ("red", "green", "blue")
        shifts = [draw.uniform(name, *getattr(self, name)) for name in names]
        return Color.of(_alike(_EYE, draw), offset=np.stack(shifts, axis=1))


_DAYLIGHT = 6500.0
_SRGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
"""Linear sRGB from CIE 1931 XYZ (IEC 61966-2-1)."""


def _black_body(kelvin: Floats) -> Floats:
    """Returns (n, 3): linear sRGB of the black body's light, at luminance 1."""
    t = kelvin
    u = 0.860117757 + 1.54118254e-4 * t + 1.28641212e-7 * t**2
    u = u / (1.0 + 8.42420235e-4 * t + 7.08145163e-7 * t**2)
    v = 0.317398726 + 4.22806245e-5 * t + 4.20481691e-8 * t**2
    v = v / (1.0 - 2.89741816e-5 * t + 1.61456053e-7 * t**2)
    # CIE 1960 (u, v) to x = 3 u / d and y = 2 v / d, and those to XYZ at Y = 1.
    d = 2.0 * u - 8.0 * v + 4.0
    xyz = np.stack([1.5 * u / v, np.ones_like(u), (d - 3.0 * u - 2.0 * v) / (2.0 * v)], axis=1)
    return np.asarray((xyz[:, None, :] * _SRGB).sum(axis=2))  # row by row: the same for any n


class ColorTemperature(_Linear):
    """Lights the scene by a black body of another temperature than daylight's 6500 K.

    out[c] = gain[c] x in[c], with gain = (light(kelvin) / light(6500)) ** (1 / 2.2), scaled
    to 1 in green. light is the black body's colour in linear sRGB: chromaticity by Krystek
    ("An algorithm to calculate correlated colour temperature", Color Research & Application
    10, 1985), accurate to 1e-4 in (u, v). The power turns a gain on light into the gain on
    gamma-coded levels, exactly so for a pure power law. Low temperatures are warm (red), high
    ones cold (blue); the reciprocal of the temperature is drawn uniformly (mired), since
    equal steps of it look equal. The idea is Planckian jitter (Zini et al., 2022, arXiv
    2202.07993), whose published code puts gains on light to gamma-coded levels and so is
    about twice as strong. Needs three channels.
    """

    rgb_only: ClassVar[bool] = True
    main: ClassVar[str] = "kelvin"

    kelvin: Annotated[Pair, Range(2000, 15000, "kelvin", neutral=6500)] = (4000.0, 12000.0)
    """Temperature of the light; 6500 changes nothing."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        low, high = self.kelvin
        kelvin = draw.note("kelvin", 1e6 / draw.uniform("mired", 1e6 / high, 1e6 / low))
        light = _black_body(kelvin) / _black_body(np.array([_DAYLIGHT]))
        return Color.of(_diagonal((light / light[:, 1:2]) ** (1.0 / 2.2)))


_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


class Sepia(_Linear):
    """Tints like an old photograph, by the sepia matrix that Microsoft published.

    out = [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]] @ in. Matches
    albumentations' ToSepia. Needs three channels.
    """

    rgb_only: ClassVar[bool] = True

    p: Probability = 0.5
    """Probability that the image is tinted."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return Color.of(_alike(_SEPIA, draw))
