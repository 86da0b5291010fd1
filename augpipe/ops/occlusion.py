"""Occlusion: rectangles of the image are filled.

Only images change: masks, boxes and keypoints stay as they are, hidden or not, as in the
papers. Alpha stays too. Rectangles have whole pixels; overlapping ones fill their union.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np

from augpipe.ir import Meaning, Regions
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import IntPair, Number, Numbers, Pair, Range
from augpipe.types import Fill, Floats, Frame, Ints

Filling = Annotated[
    Fill | Literal["mean", "noise"],
    Numbers(0, 255, "grey levels", scalar=True, words=("mean", "noise")),
]


class _Occlusion(Op):
    """An op that fills rectangles."""

    kind: ClassVar[type[Meaning] | None] = Regions

    @staticmethod
    def fill_in(draw: Draws, boxes: Floats, filling: Fill | Literal["mean", "noise"]) -> Regions:
        """Returns the regions of whole-numbered (n, m, 4) boxes, with fresh keys."""
        key = draw.note("field", draw.key("field"))
        return Regions(np.ones(len(draw), bool), boxes.astype(np.int64), filling, key)


def clipped(x0: Floats, y0: Floats, x1: Floats, y1: Floats, frame: Frame) -> Floats:
    """Returns (n, m, 4): rectangles, from (n, m) edges, cut to each image's frame."""
    width, height = frame.width[:, None], frame.height[:, None]
    edges = np.broadcast_arrays(
        np.clip(x0, 0, width), np.clip(y0, 0, height), np.clip(x1, 0, width), np.clip(y1, 0, height)
    )
    return np.stack(edges, axis=-1)


def whole(draw: Draws, name: str, count: Floats, times: int = 1) -> Floats:
    """Draws (n, times) whole numbers, uniform in 0..count - 1, count (n, 1)."""
    return draw.note(name, np.floor(draw.uniforms(name, times) * count))


class Cutout(_Occlusion):
    """Fills squares whose centres are uniform in the image, cut at its border.

    side = round(size x the image's shorter side), at least 1; the centre (x, y) is a pixel
    drawn uniformly; the square covers x - floor(side / 2) to x - floor(side / 2) + side, and
    likewise in y. As the paper (DeVries and Taylor, arXiv 1708.04552) and its code, for one
    hole of even side; there 0 stands for the mean of normalised images.
    """

    holes: Annotated[int, Number(1, 100, "squares", integer=True)] = 1
    """How many squares; they may overlap."""
    size: Annotated[float, Number(0, 1, "of the shorter side", above=True, neutral=0)] = 0.25
    """Side of a square."""
    fill: Filling = 0.0
    """Grey level, one number or one a channel; or "mean" or "noise"."""

    def means(self, draw: Draws, frame: Frame) -> Regions:
        side = np.maximum(1.0, np.rint(self.size * np.minimum(frame.width, frame.height)))[:, None]
        x0 = whole(draw, "x", frame.width[:, None], self.holes) - np.floor(side / 2)
        y0 = whole(draw, "y", frame.height[:, None], self.holes) - np.floor(side / 2)
        return self.fill_in(draw, clipped(x0, y0, x0 + side, y0 + side, frame), self.fill)


class RandomErasing(_Occlusion):
    """Fills one rectangle of random area and aspect ratio, wholly inside the image.

    Up to ten tries at area = U(scale) x image area and log-uniform ratio (height over width):
    h = round(sqrt(area x ratio)), w = round(sqrt(area / ratio)); the first with h < H and
    w < W is placed uniformly. If none fits, nothing happens. Matches torchvision's
    RandomErasing (Zhong et al., arXiv 1708.04896), whose `value` is `fill` here, in grey levels.
    """

    p: Probability = 0.5
    """Probability that the op acts on an image."""
    scale: Annotated[Pair, Range(0, 1, "of the image's area", neutral=0)] = (0.02, 0.33)
    """Area of the rectangle."""
    ratio: Annotated[Pair, Range(0, 100, "height / width", above=True)] = (0.3, 3.3)
    """Aspect ratio of the rectangle, drawn log-uniformly."""
    fill: Filling = 0.0
    """Grey level, one number or one a channel; or "mean" or "noise"."""

    def means(self, draw: Draws, frame: Frame) -> Regions:
        n, tries = len(frame), 10
        width, height = frame.width[:, None], frame.height[:, None]
        share = self.scale[0] + (self.scale[1] - self.scale[0]) * draw.uniforms("area", tries)
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * draw.uniforms("ratio", tries))
        h = np.rint(np.sqrt(share * width * height * ratio))
        w = np.rint(np.sqrt(share * width * height / ratio))
        fits = (h < height) & (w < width)
        rows, first = np.arange(n), fits.argmax(axis=1)
        h, w = ((fits * side)[rows, first][:, None] for side in (h, w))
        x0, y0 = whole(draw, "x", width - w + 1), whole(draw, "y", height - h + 1)
        draw.note("size", np.concatenate([h, w], axis=1))
        return self.fill_in(draw, np.stack([x0, y0, x0 + w, y0 + h], axis=-1), self.fill)


class GridMask(_Occlusion):
    """Fills a regular grid of squares.

    The grid repeats every d = ceil(unit x the image's longer side) pixels, at least 2, from
    an offset uniform in 0..d - 1 along each axis; each unit has one square of side
    round((1 - ratio) x d), from 1 to d - 1. As the paper (Chen et al., arXiv 2001.04086)
    without its rotation: `ratio` is its r, the share of the unit's side that stays visible
    (albumentations' GridDropout gives 1 - r).
    """

    unit: Annotated[Pair, Range(0.02, 1, "of the longer side")] = (0.4, 1.0)
    """Period of the grid."""
    ratio: Annotated[float, Number(0, 1, "of the unit's side")] = 0.6
    """Share of a unit's side that stays visible: 1 - (1 - ratio)^2 of the image does."""
    fill: Filling = 0.0
    """Grey level, one number or one a channel; or "mean" or "noise"."""

    def means(self, draw: Draws, frame: Frame) -> Regions:
        longer = np.maximum(frame.width, frame.height)
        unit = np.maximum(2.0, np.ceil(draw.uniform("unit", *self.unit) * longer))[:, None]
        side = np.clip(np.rint((1.0 - self.ratio) * unit), 1, unit - 1)
        # The units that the smallest period needs: the shape depends on no image and no draw.
        count = int(np.ceil(1.0 / self.unit[0])) + 1
        steps = (np.arange(count) - 1) * unit
        x0 = np.tile(whole(draw, "x", unit) + steps, count)
        y0 = np.repeat(whole(draw, "y", unit) + steps, count, axis=1)
        return self.fill_in(draw, clipped(x0, y0, x0 + side, y0 + side, frame), self.fill)


class HideAndSeek(_Occlusion):
    """Divides the image into a grid of S x S patches and hides each with a probability.

    S is uniform among the integers of `grid`; patch (i, j) covers the columns
    floor(j W / S) to floor((j + 1) W / S) and likewise the rows. As the paper (Singh and Lee,
    arXiv 1704.04232; Singh et al., arXiv 1811.02545), which fills with the mean colour of the
    dataset; here the default is that of the image.
    """

    grid: Annotated[IntPair, Range(1, 64, "patches a side", integer=True)] = (4, 14)
    """Patches along each side."""
    hide: Annotated[float, Number(0, 1, "probability", neutral=0)] = 0.5
    """Probability that a patch is hidden."""
    fill: Filling = "mean"
    """Grey level, one number or one a channel; or "mean" or "noise"."""

    def means(self, draw: Draws, frame: Frame) -> Regions:
        most = self.grid[1]
        count: Ints = draw.integers("grid", *self.grid)[:, None]
        hidden = draw.note("hidden", draw.uniforms("hidden", most * most) < self.hide)
        # A patch beyond the image's own grid has no area.
        at = np.minimum(np.arange(most + 1), count)
        x, y = (at * side[:, None] // count for side in (frame.sizes[:, 1], frame.sizes[:, 0]))
        x0, x1 = np.tile(x[:, :-1], most), np.tile(x[:, 1:], most)
        y0, y1 = np.repeat(y[:, :-1], most, axis=1), np.repeat(y[:, 1:], most, axis=1)
        boxes = np.stack([x0, y0, x1, y1], axis=-1) * hidden[:, :, None]
        return self.fill_in(draw, boxes.astype(np.float64), self.fill)
