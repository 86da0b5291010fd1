"""Conventions that every module shares.

Sizes are (height, width). Coordinates are (x, y). A pixel in row i and column j covers
[j, j + 1) x [i, i + 1): matrices, boxes and windows speak these *continuous* coordinates,
in which the pixel's centre is (j + 0.5, i + 0.5); a keypoint at (j, i) is that pixel's
centre, as in torchvision and albumentations. The half pixel between the two is added in
one place a use: where a sampler or a keypoint meets a matrix. Grey levels run from 0 to 255.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Array = NDArray[Any]

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Border = Literal["constant", "edge", "reflect"]
Antialias = Literal["box", "full"]
Fill = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pixels are read between and beyond their centres.

    Args:
        interpolation: For images.
        mask_interpolation: For masks.
        border: What lies outside the image: `fill`, its nearest edge pixel, or its mirror
            image about the edge pixel's centre (NumPy's "reflect", OpenCV's REFLECT_101).
        fill: Grey level outside, one number or one a channel.
        mask_fill: Class outside, for masks.
        antialias: What shrinking by 2 or more does first: an exact box reduction by a power
            of two, or the exact area filter throughout.
    """

    interpolation: Interpolation = "bilinear"
    mask_interpolation: Interpolation = "nearest"
    border: Border = "constant"
    fill: Fill = 0.0
    mask_fill: float = 0.0
    antialias: Antialias = "box"


@dataclass(frozen=True, slots=True)
class Frame:
    """What an op may know of the n images it will act on.

    Args:
        sizes: (n, 2), height and width of each at this point of the pipeline.
        outlines: The sets of boxes (`targets.Outlines`) of each, as they lie there; None where
            nobody asks, or there are none.
    """

    sizes: Ints
    outlines: Sequence[Sequence[Any]] | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def height(self) -> Floats:
        """Returns (n,) heights."""
        return self.sizes[:, 0].astype(np.float64)

    @property
    def width(self) -> Floats:
        """Returns (n,) widths."""
        return self.sizes[:, 1].astype(np.float64)


class Picture(ABC):
    """An image file that is decoded as far as it is looked at, in place of its pixels."""

    scaled: bool
    """Whether `reduced` may be used."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""

    @abstractmethod
    def part(self, top: int, bottom: int, left: int, right: int) -> Array:
        """Returns a rectangle of its pixels, uint8 (H, W, C)."""

    @abstractmethod
    def reduced(
        self, halvings: int, box: tuple[float, float, float, float]
    ) -> tuple[Array, Floats]:
        """Returns pixels that are means of 2**halvings squared, down to the end of a box.

        With the (3, 3) matrix that takes positions in the image to positions in them.
        """

    def pixels(self) -> Array:
        """Returns all of its pixels."""
        height, width, _ = self.shape
        return self.part(0, height, 0, width)
