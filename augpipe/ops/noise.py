"""Noise: random fields applied to the pixels, alpha apart.

A field is Philox in integer arithmetic (augpipe/rng.py) with a key an image, in HWC order,
or HW where all channels share it: the same on every backend. Levels are rounded and clipped
once, after the noise. Shares of pixels are compared as integers with 32-bit words.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Meaning, Noise, NoiseKind
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.spec import Flag, Pair, Range
from augpipe.types import Floats, Frame

Share = Annotated[Pair, Range(0, 1, "of the pixels", neutral=0)]


class _Noise(Op):
    """An op that is a random field."""

    kind: ClassVar[type[Meaning] | None] = Noise

    @staticmethod
    def field(kind: NoiseKind, draw: Draws, amount: Floats, per_channel: bool) -> Noise:
        """Returns this noise with fresh keys, one an image."""
        key = draw.note("field", draw.key("field"))
        return Noise(np.ones(len(draw), bool), kind, amount, key, per_channel)


class GaussianNoise(_Noise):
    """Adds normal noise: out = in + sigma z, z standard normal.

    z is looked up in a table of 65,536 normal quantiles (|z| < 4.4). As torchvision's
    GaussianNoise, with sigma in grey levels.
    """

    main: ClassVar[str] = "sigma"

    sigma: Annotated[Pair, Range(0, 255, "grey levels", neutral=0)] = (0.0, 25.0)
    """Standard deviation of the noise."""
    per_channel: Annotated[bool, Flag()] = True
    """Whether each channel has its own noise; otherwise a pixel's channels share it."""

    def means(self, draw: Draws, frame: Frame) -> Noise:
        sigma = draw.uniform("sigma", *self.sigma)
        return self.field("gaussian", draw, sigma, self.per_channel)


class MultiplicativeNoise(_Noise):
    """Multiplies each pixel by a random gain: out = in (1 + sigma z), z standard normal.

    Speckle, as scikit-image's random_noise(mode="speckle"); albumentations' MultiplicativeNoise
    draws the gain uniformly instead.
    """

    main: ClassVar[str] = "sigma"

    sigma: Annotated[Pair, Range(0, 1, "of the level", neutral=0)] = (0.0, 0.1)
    """Standard deviation of the gain."""
    per_channel: Annotated[bool, Flag()] = True
    """Whether each channel has its own gain; otherwise a pixel's channels share it."""

    def means(self, draw: Draws, frame: Frame) -> Noise:
        sigma = draw.uniform("sigma", *self.sigma)
        return self.field("multiplicative", draw, sigma, self.per_channel)


class PoissonNoise(_Noise):
    """Counts photons: out = 255 / photons x a Poisson count of mean photons x in / 255.

    Each channel of each pixel counts for itself, exactly: the inverse of the Poisson
    distribution function, in steps of 2^-32, at one 32-bit word of the field. A float level
    counts at the rate of the nearest whole level and keeps the remainder: but for clipping its
    mean is exact, its variance that of the whole level. As scikit-image's poisson noise and
    albumentations' ShotNoise, with the photons stated.
    """

    main: ClassVar[str] = "photons"

    photons: Annotated[Pair, Range(0, 100_000, "photons at level 255", above=True)] = (50.0, 500.0)
    """Mean count at level 255, drawn uniformly: fewer photons, more noise."""

    def means(self, draw: Draws, frame: Frame) -> Noise:
        photons = draw.uniform("photons", *self.photons)
        return self.field("poisson", draw, photons, per_channel=True)


class SaltAndPepper(_Noise):
    """Turns a share of the pixels white or black, each with half the share's probability.

    With a pixel's 32-bit word w and half = round(amount x 2^31): 0 where w < half, 255 where
    half <= w < 2 half. As scikit-image's random_noise(mode="s&p").
    """

    main: ClassVar[str] = "amount"

    amount: Share = (0.0, 0.05)
    """Probability that a pixel turns, drawn uniformly for each image."""
    per_channel: Annotated[bool, Flag()] = False
    """Whether each channel turns for itself; otherwise a pixel turns white or black whole."""

    def means(self, draw: Draws, frame: Frame) -> Noise:
        amount = draw.uniform("amount", *self.amount)
        return self.field("salt_and_pepper", draw, amount, self.per_channel)


class PixelDropout(_Noise):
    """Turns a share of the pixels black.

    0 where the pixel's 32-bit word is below round(amount x 2^32). As albumentations'
    PixelDropout with drop_value 0.
    """

    main: ClassVar[str] = "amount"

    amount: Share = (0.0, 0.05)
    """Probability that a pixel is dropped, drawn uniformly for each image."""
    per_channel: Annotated[bool, Flag()] = False
    """Whether each channel drops for itself; otherwise a pixel drops whole."""

    def means(self, draw: Draws, frame: Frame) -> Noise:
        amount = draw.uniform("amount", *self.amount)
        return self.field("dropout", draw, amount, self.per_channel)
