"""Meanings that change levels and leave pixels where they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from augpipe.ir.gating import Gated, pick
from augpipe.types import Bools, Fill, Floats, Ints, Words

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601; sums to 1, so grey stays grey


@dataclass(frozen=True, slots=True)
class Color:
    """A linear map of colours that may look at the image's mean colour.

    out = matrix @ rgb + mean @ m + offset, in grey levels, where m is the mean colour of
    the image before the run; clipped to 0..255 once, at the end of a run. A grey image is
    taken as r = g = b and gives the first row.

    Args:
        matrix: (n, 3, 3).
        mean: (n, 3, 3).
        offset: (n, 3).
        norm: What is done to the clipped levels in the same pass, for all images.
    """

    matrix: Floats
    mean: Floats
    offset: Floats
    norm: Normalize | None = None

    @classmethod
    def of(
        cls, matrix: Floats, *, mean: Floats | None = None, offset: Floats | None = None
    ) -> Color:
        """Builds a colour map; what is left out is zero."""
        n = len(matrix)
        mean = np.zeros((n, 3, 3)) if mean is None else mean
        return cls(matrix, mean, np.zeros((n, 3)) if offset is None else offset)

    def gate(self, on: Bools) -> Color:
        """Returns this where `on`, the identity elsewhere."""
        zero = np.zeros(())
        return Color(
            pick(on, self.matrix, np.eye(3)),
            pick(on, self.mean, zero),
            pick(on, self.offset, zero),
            self.norm,
        )

    def then(self, later: Color | Normalize) -> Color:
        """Composes; a later colour map's mean is that of this one's output, known from its own."""
        if isinstance(later, Normalize):
            return replace(self, norm=later)
        return Color(
            later.matrix @ self.matrix,
            later.matrix @ self.mean + later.mean @ (self.matrix + self.mean),
            np.einsum("nij,nj->ni", later.matrix + later.mean, self.offset) + later.offset,
        )


CurveKind = Literal["gamma", "solarize", "posterize"]


@dataclass(frozen=True, slots=True)
class Curve:
    """The same function of the grey level for every channel; steps one after another.

    gamma: 255 (v / 255) ** amount. solarize: 255 - v where v >= amount. posterize: keeps the
    `amount` highest of 8 bits, v - v mod 2 ** (8 - amount).

    Args:
        steps: Pairs of a kind and its (n,) amounts; NaN is "not this image".
        norm: What is done to the levels in the same pass, for all images.
    """

    steps: tuple[tuple[CurveKind, Floats], ...]
    norm: Normalize | None = None

    def gate(self, on: Bools) -> Curve:
        """Returns this where `on`, the identity elsewhere."""
        steps = tuple((kind, np.where(on, amount, np.nan)) for kind, amount in self.steps)
        return Curve(steps, self.norm)

    def then(self, later: Curve | Normalize) -> Curve:
        """Composes, in exact arithmetic: nothing is rounded between the steps."""
        if isinstance(later, Normalize):
            return replace(self, norm=later)
        return Curve(self.steps + later.steps)


@dataclass(frozen=True, slots=True)
class Histogram(Gated):
    """A curve that each channel's own histogram decides.

    autocontrast: stretches the darkest level to 0 and the brightest to 255 (a constant
    channel stays). equalize: Pillow's `ImageOps.equalize`. clahe: contrast-limited adaptive
    equalization on a `tiles` x `tiles` grid (Zuiderveld 1994, as OpenCV), on the lightness
    of CIE Lab for colour.

    Args:
        kind: Which of the three.
        amount: (n,), clahe's clip limit.
        tiles: Clahe's tiles a side.
    """

    kind: Literal["autocontrast", "equalize", "clahe"]
    amount: Floats
    tiles: int = 8


@dataclass(frozen=True, slots=True)
class Kernel(Gated):
    """Correlation with small kernels, one after another, borders reflected (REFLECT_101).

    Args:
        factors: Arrays (n, rows, columns) of odd sides; a separable filter has two of them.
            A smaller kernel stands centred among zeros.
    """

    factors: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class Median(Gated):
    """The median of a square window, edge pixels repeated beyond the border.

    Windows of more than 5 x 5 are taken of whole levels: of a float image, rounded ones.

    Args:
        size: (n,), odd sides of the window.
    """

    size: Ints


@dataclass(frozen=True, slots=True)
class Regions(Gated):
    """Rectangles that are filled, one over another in their order.

    Args:
        boxes: (n, m, 4), x0, y0, x1, y1 in whole pixels; empty where x1 <= x0 or y1 <= y0.
        fill: Grey levels, one or one a channel; "mean": the image's mean colour; "noise":
            uniform levels, each pixel and channel its own.
        key: (n,), keys of the noise.
    """

    boxes: Ints
    fill: Fill | Literal["mean", "noise"]
    key: Words


NoiseKind = Literal["gaussian", "multiplicative", "poisson", "salt_and_pepper", "dropout"]


@dataclass(frozen=True, slots=True)
class Noise(Gated):
    """A random field applied to the pixels. Fields are those of rng.py, in HWC order.

    gaussian: v + amount z. multiplicative: v (1 + amount z). poisson: v is the mean of a
    Poisson count at `amount` photons for level 255; the count is scaled back.
    salt_and_pepper: a share `amount` of pixels becomes 0 or 255, equally likely. dropout: a
    share `amount` of pixels becomes 0.

    Args:
        kind: Which of the five.
        amount: (n,).
        key: (n,), keys of the fields.
        per_channel: Whether each channel has its own field.
    """

    kind: NoiseKind
    amount: Floats
    key: Words
    per_channel: bool = False


@dataclass(frozen=True, slots=True)
class Codec(Gated):
    """Loss of detail as storing or shrinking causes it.

    jpeg: written at quality `amount` (1 to 100) with 4:2:0 chroma and read back. downscale:
    shrunk to `amount` times its size by the area filter, enlarged again by nearest pixels.

    Args:
        kind: Which of the two.
        amount: (n,).
    """

    kind: Literal["jpeg", "downscale"]
    amount: Floats


@dataclass(frozen=True, slots=True)
class Normalize(Gated):
    """Leaves grey levels for float32: (v / 255 - mean) / std, a channel at a time.

    Args:
        mean: One number a channel, or one for all.
        std: As `mean`, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
