"""What policies draw from: named transforms, how strong each may be, and the learned tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from augpipe.types import Array, Floats

NAMES = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
)
"""The transforms, in torchvision's order; a drawn transform is a position in it."""
AT = {name: k for k, name in enumerate(NAMES)}
GEOMETRY = NAMES[1:6]
ENHANCED = NAMES[6:10]
"""What is scaled about the unchanged image, by 1 + magnitude."""
SIGNED = np.array([name in GEOMETRY + ENHANCED for name in NAMES])
"""(15,): whether a transform is as likely to go the other way."""


@dataclass(frozen=True, slots=True)
class Space:
    """How strong each transform is at level 1 (or, of posterize, at 0 and at 1).

    A magnitude is proportional to its level, but for posterize, which keeps
    bits[0] - round(level (bits[0] - bits[1])) bits, half to even, and for solarize, whose
    threshold is 255 (1 - level).

    Args:
        shear: Pixels across a pixel down (or down, a pixel across).
        translate: Pixels, or shares of the side.
        in_pixels: Whether it is pixels.
        rotate: Degrees.
        enhance: What is added to a factor of 1.
        bits: Bits kept at level 0 and at level 1.
    """

    shear: float
    translate: float
    in_pixels: bool
    rotate: float
    enhance: float
    bits: tuple[int, int]

    def magnitudes(self, op: Array, level: Floats) -> Floats:
        """Returns unsigned magnitudes, in each transform's own unit; 0 where it has none.

        Args:
            op: Positions in NAMES, of any shape.
            level: From 0 to 1, of that shape.
        """
        most = np.zeros(len(NAMES))
        most[AT["shear_x"] : AT["shear_y"] + 1] = self.shear
        most[AT["translate_x"] : AT["translate_y"] + 1] = self.translate
        most[AT["rotate"]] = self.rotate
        most[AT["brightness"] : AT["sharpness"] + 1] = self.enhance
        few = self.bits[0] - np.rint((self.bits[0] - self.bits[1]) * level)
        out = np.where(op == AT["posterize"], few, most[op] * level)
        # Off float noise: a threshold that is a whole level in exact arithmetic is that level.
        return np.where(op == AT["solarize"], (255.0 * (1.0 - level)).round(9), out)


STANDARD = Space(0.3, 150.0 / 331.0, False, 30.0, 0.9, (8, 4))
"""Of AutoAugment and RandAugment."""
WIDE = Space(0.99, 32.0, True, 135.0, 0.99, (8, 2))
"""Of TrivialAugment."""
MIXED = Space(0.3, 1.0 / 3.0, False, 30.0, 0.9, (4, 0))
"""Of AugMix."""

Rule = tuple[str, float, int]
"""A transform's name, its probability, and its bin of 10."""

_IMAGENET = """
posterize .4 8, rotate .6 9
solarize .6 5, autocontrast .6 0
equalize .8 0, equalize .6 0
posterize .6 7, posterize .6 6
equalize .4 0, solarize .2 4
equalize .4 0, rotate .8 8
solarize .6 3, equalize .6 0
posterize .8 5, equalize 1 0
rotate .2 3, solarize .6 8
equalize .6 0, posterize .4 6
rotate .8 8, color .4 0
rotate .4 9, equalize .6 0
equalize 0 0, equalize .8 0
invert .6 0, equalize 1 0
color .6 4, contrast 1 8
rotate .8 8, color 1 2
color .8 8, solarize .8 7
sharpness .4 7, invert .6 0
shear_x .6 5, equalize 1 0
color .4 0, equalize .6 0
equalize .4 0, solarize .2 4
solarize .6 5, autocontrast .6 0
invert .6 0, equalize 1 0
color .6 4, contrast 1 8
equalize .8 0, equalize .6 0
"""
_CIFAR10 = """
invert .1 0, contrast .2 6
rotate .7 2, translate_x .3 9
sharpness .8 1, sharpness .9 3
shear_y .5 8, translate_y .7 9
autocontrast .5 0, equalize .9 0
shear_y .2 7, posterize .3 7
color .4 3, brightness .6 7
sharpness .3 9, brightness .7 9
equalize .6 0, equalize .5 0
contrast .6 7, sharpness .6 5
color .7 7, translate_x .5 8
equalize .3 0, autocontrast .4 0
translate_y .4 3, sharpness .2 6
brightness .9 6, color .2 8
solarize .5 2, invert 0 0
equalize .2 0, autocontrast .6 0
equalize .2 0, equalize .6 0
color .9 9, equalize .6 0
autocontrast .8 0, solarize .2 8
brightness .1 3, color .7 0
solarize .4 5, autocontrast .9 0
translate_y .9 9, translate_y .7 9
autocontrast .9 0, solarize .8 3
equalize .8 0, invert .1 0
translate_y .7 9, autocontrast .9 0
"""
_SVHN = """
shear_x .9 4, invert .2 0
shear_y .9 8, invert .7 0
equalize .6 0, solarize .6 6
invert .9 0, equalize .6 0
equalize .6 0, rotate .9 3
shear_x .9 4, autocontrast .8 0
shear_y .9 8, invert .4 0
shear_y .9 5, solarize .2 6
invert .9 0, autocontrast .8 0
equalize .6 0, rotate .9 3
shear_x .9 4, solarize .3 3
shear_y .8 8, invert .7 0
equalize .9 0, translate_y .6 6
invert .9 0, equalize .6 0
contrast .3 3, rotate .8 4
invert .8 0, translate_y 0 2
shear_y .7 6, solarize .4 8
invert .6 0, rotate .8 4
shear_y .3 7, translate_x .9 3
shear_x .1 6, invert .6 0
solarize .7 2, translate_y .6 7
shear_y .8 4, invert .8 0
shear_x .7 9, translate_y .8 3
shear_y .8 5, autocontrast .7 0
shear_x .7 2, invert .1 0
"""


def _read(text: str) -> tuple[tuple[Rule, Rule], ...]:
    """Reads a table: a sub-policy a line, two rules each."""

    def rule(words: str) -> Rule:
        name, p, level = words.split()
        return name, float(p), int(level)

    pairs = (line.split(",") for line in text.strip().splitlines())
    return tuple((rule(first), rule(second)) for first, second in pairs)


Learned = Literal["imagenet", "cifar10", "svhn"]
TABLES: dict[Learned, tuple[tuple[Rule, Rule], ...]] = {
    "imagenet": _read(_IMAGENET),
    "cifar10": _read(_CIFAR10),
    "svhn": _read(_SVHN),
}
"""AutoAugment's sub-policies (arXiv 1805.09501, appendix A), as torchvision has them."""
