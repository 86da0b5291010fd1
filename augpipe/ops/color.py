"""Colour that is linear: each op is a 3 x 3 matrix, an offset, and a look at the mean.

Definitions are torchvision's (`torchvision.transforms.v2.functional.adjust_*`), with grey =
0.2989 r + 0.587 g + 0.114 b; only hue differs (see Hue). Levels are clipped to 0..255 once,
at the end of a run of colour ops, where torchvision clips after each.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import LUMA, Color, Meaning
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.spec import Number, Pair, Range
from augpipe.types import Floats, Frame

Factor = Annotated[Pair, Range(0, None, "times")]

_GREY = np.tile(LUMA, (3, 1))
_EYE = np.eye(3)


class _Linear(Op):
    """A colour op that is a matrix."""

    kind: ClassVar[type[Meaning] | None] = Color


def _blend(factor: Floats, other: Floats) -> Floats:
    """Returns (n, 3, 3): factor x identity + (1 - factor) x other."""
    f = factor[:, None, None]
    return np.asarray(f * _EYE + (1.0 - f) * other)


def brighten(factor: Floats) -> Color:
    """Returns out = factor x in."""
    return Color.of(factor[:, None, None] * _EYE)


def contrast(factor: Floats) -> Color:
    """Returns out = factor x in + (1 - factor) x the image's mean grey."""
    f = factor[:, None, None]
    return Color.of(f * _EYE, mean=(1.0 - f) * _GREY)


def saturate(factor: Floats) -> Color:
    """Returns out = factor x in + (1 - factor) x the pixel's grey."""
    return Color.of(_blend(factor, _GREY))


_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def rotate_hue(turns: Floats) -> Color:
    """Returns the rotation of the chroma plane of YIQ by this share of a full turn.

    A positive shift goes from red to yellow to green, as a positive HSV shift does.
    """
    angle = 2.0 * np.pi * turns
    cos, sin = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    rows = [one, zero, zero, zero, cos, sin, zero, -sin, cos]
    spin = np.stack(rows, axis=-1).reshape(-1, 3, 3)
    matrix = np.linalg.inv(_YIQ) @ spin @ _YIQ
    # Rows sum to 1 but for rounding: a grey stays exactly the grey it was.
    return Color.of(matrix + (1.0 - matrix.sum(axis=2, keepdims=True)) / 3.0)


class Brightness(_Linear):
    """Scales all levels: out = factor x in. Matches torchvision's adjust_brightness."""

    main: ClassVar[str] = "factor"

    factor: Factor = (0.8, 1.2)
    """Brightness factor; 1 changes nothing, 0 is black."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return brighten(draw.uniform("factor", *self.factor))


class ColorJitter(_Linear):
    """Changes brightness, contrast, saturation and hue, in an order drawn for each image.

    Each factor is uniform in [max(0, 1 - x), 1 + x], the hue shift in [-x, x] turns; the four
    are applied in a uniformly random order. As torchvision's ColorJitter, but for the hue
    (YIQ, see Hue) and for clipping once instead of four times.
    """

    brightness: Annotated[float, Number(0, None, "strength")] = 0.0
    """Strength of the brightness factor's range."""
    contrast: Annotated[float, Number(0, None, "strength")] = 0.0
    """Strength of the contrast factor's range."""
    saturation: Annotated[float, Number(0, None, "strength")] = 0.0
    """Strength of the saturation factor's range."""
    hue: Annotated[float, Number(0, 0.5, "turns")] = 0.0
    """Largest hue shift, in full turns of the colour wheel."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        def factor(name: str, strength: float) -> Floats:
            return draw.uniform(name, max(0.0, 1.0 - strength), 1.0 + strength)

        parts = (
            brighten(factor("brightness", self.brightness)),
            contrast(factor("contrast", self.contrast)),
            saturate(factor("saturation", self.saturation)),
            rotate_hue(draw.uniform("hue", -self.hue, self.hue)),
        )
        order = draw.permutation("order", 4)
        whole = Color.of(np.broadcast_to(_EYE, (len(draw), 3, 3)))
        for slot in range(4):
            for which, part in enumerate(parts):
                whole = whole.then(part.gate(order[:, slot] == which))
        return whole
