"""Crops: rectangles of fixed size, of random area, around the boxes."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Warp
from augpipe.ops.geometry import Margins, _Filled, _Geometry, affine, crop_resize, margins, sizes_of
from augpipe.rng import Draws
from augpipe.spec import Choice, Flag, IntPair, Number, Pair, Range, Size
from augpipe.targets import Outlines, hulls
from augpipe.types import Antialias, Bools, Floats, Frame, Interpolation, Sampling

_SNAP = 1e-6  # pixels


class CenterCrop(_Filled):
    """Cuts out the central rectangle; a smaller image is padded on both sides.

    The first row is round((H - h) / 2), half to even; of an odd number of padded rows the
    larger part is below; columns likewise. Matches torchvision's CenterCrop.
    """

    resizes: ClassVar[bool] = True
    lattice: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[IntPair, Size()]
    """Size of the result: [height, width], or one number for a square."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        size = sizes_of(self.size, frame)
        excess = frame.sizes - size
        first = np.where(excess < 0, -(-excess // 2), np.rint(excess / 2.0))
        return self.warp(affine(1, 0, first[:, 1], 0, 1, first[:, 0]), frame, size)


class RandomCrop(_Filled):
    """Cuts a rectangle of fixed size out at a random place, after padding.

    The place is uniform over all whole pixels. Matches torchvision's RandomCrop: with
    `pad_if_needed`, a side that is too short is padded at both ends by all that it lacks.
    """

    resizes: ClassVar[bool] = True
    lattice: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[IntPair, Size()]
    """Size of the result: [height, width], or one number for a square."""
    padding: Annotated[int | tuple[int, ...], Margins()] = 0
    """Pixels added first: one number, or [left, top, right, bottom]."""
    pad_if_needed: Annotated[bool, Flag()] = False
    """Whether an image smaller than `size` is padded; otherwise it is an error."""

    @property
    def inside(self) -> bool:  # type: ignore[override]
        """Whether nothing is ever padded."""
        return not np.any(self.padding) and not self.pad_if_needed

    def means(self, draw: Draws, frame: Frame) -> Warp:
        size = sizes_of(self.size, frame)
        before, after = margins(self.padding)
        lack = np.maximum(size - frame.sizes - before - after, 0)
        free = frame.sizes + before + after + 2 * lack - size
        at = np.floor(draw.uniforms("position", 2) * (free + 1)) - before - lack
        draw.note("offset", at)
        return self.warp(affine(1, 0, at[:, 1], 0, 1, at[:, 0]), frame, size)

    def unfit(self, frame: Frame) -> Bools | None:
        if self.pad_if_needed:
            return None
        before, after = margins(self.padding)
        return np.asarray((self.size > frame.sizes + before + after).any(axis=1))

    def needs(self) -> str:
        height, width = self.size
        return f"cuts {height} × {width} out of more, or set pad_if_needed: true"


class RandomResizedCrop(_Geometry):
    """Cuts a rectangle of random area and aspect ratio and resizes it.

    Up to ten tries at area = U(scale) x image area and log-uniform aspect ratio (width over
    height); the first that fits is placed uniformly, at whole pixels. If none fits: the
    largest central rectangle whose ratio is the nearest allowed one. As torchvision's
    RandomResizedCrop (Szegedy et al., 2014, arXiv 1409.4842).
    """

    resizes: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[IntPair, Size()]
    """Size of the result: [height, width], or one number for a square."""
    scale: Annotated[Pair, Range(0, 1, "of the image's area", above=True, neutral=1)] = (0.08, 1.0)
    """Area of the rectangle, as a fraction of the image's."""
    ratio: Annotated[Pair, Range(0, 100, "width / height", above=True, neutral=1)] = (3 / 4, 4 / 3)
    """Aspect ratio of the rectangle, drawn log-uniformly."""
    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    antialias: Annotated[Antialias, Choice(("box", "full"))] = "box"
    """How shrinking by 2 or more is kept from aliasing."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.interpolation, border="edge", antialias=self.antialias)

    def means(self, draw: Draws, frame: Frame) -> Warp:
        box = draw.note("box", self.box(draw, frame))
        return crop_resize(self, frame, box, sizes_of(self.size, frame))

    def box(self, draw: Draws, frame: Frame, tries: int = 10) -> Floats:
        """Returns (n, 4): the rectangles that are cut out."""
        height, width = frame.height, frame.width
        (least, most), (narrow, wide) = self.scale, self.ratio
        shares = least + (most - least) * draw.uniforms("area", tries)
        area = (width * height)[:, None] * shares
        low, high = np.log(self.ratio)
        aspect = np.exp(low + (high - low) * draw.uniforms("aspect", tries))
        sides = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=2)))
        # The fallback stands as an eleventh try, which always fits.
        ratio = width / height
        last_width = np.where(ratio > wide, np.rint(height * wide), width)
        last_height = np.where(ratio < narrow, np.rint(width / narrow), height)
        last = np.maximum(np.stack([last_width, last_height], axis=1), 1)
        sides = np.concatenate([sides, last[:, None]], axis=1)

        room = np.stack([width, height], axis=1)
        fits = np.asarray(((sides > 0) & (sides <= room[:, None])).all(axis=2))
        fits[:, tries] = True
        first = fits.argmax(axis=1)
        side = sides[np.arange(len(frame)), first]
        place = np.floor(draw.uniforms("position", 2) * (room - side + 1))
        place = np.where((first == tries)[:, None], np.floor((room - side) / 2), place)
        return np.concatenate([place, place + side], axis=1)


class BoxSafeCrop(_Geometry):
    """Cuts a random rectangle out that holds every box, and resizes it.

    Each box is shrunk about its centre by `erosion` of its sides; each edge of the rectangle is
    uniform over the whole pixels between the image's edge and the hull of what is left. An image
    without boxes keeps one pixel, drawn uniformly, in their place. As albumentations'
    RandomSizedBBoxSafeCrop, whose rectangle ends between pixels.
    """

    resizes: ClassVar[bool] = True
    inside: ClassVar[bool] = True
    sees_boxes: ClassVar[bool] = True
    main: ClassVar[str] = "size"

    size: Annotated[IntPair, Size()]
    """Size of the result: [height, width], or one number for a square."""
    erosion: Annotated[float, Number(0, 1, "of a box's sides")] = 0.0
    """By how much boxes are shrunk first: how much of them may be cut away."""
    interpolation: Annotated[Interpolation, Choice(("nearest", "bilinear", "bicubic"))] = "bilinear"
    """How images are read between pixel centres."""
    antialias: Annotated[Antialias, Choice(("box", "full"))] = "box"
    """How shrinking by 2 or more is kept from aliasing."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.interpolation, border="edge", antialias=self.antialias)

    def means(self, draw: Draws, frame: Frame) -> Warp:
        room = frame.sizes[:, ::-1]
        pixel = np.floor(draw.uniforms("pixel", 2) * room)
        held = np.concatenate([pixel, pixel + 1], axis=1)
        for row, sets in enumerate(frame.outlines or ()):
            boxes = np.concatenate([_seen(each) for each in sets] or [np.zeros((0, 4))])
            if len(boxes):
                shrunk = self.erosion * (boxes[:, 2:] - boxes[:, :2]) / 2.0
                low = np.floor((boxes[:, :2] + shrunk).min(axis=0) + _SNAP)
                high = np.ceil((boxes[:, 2:] - shrunk).max(axis=0) - _SNAP)
                low = np.clip(low, 0, room[row] - 1)
                held[row] = (*low, *np.clip(high, low + 1, room[row]))
        edge = draw.uniforms("edges", 4)
        first = np.floor(edge[:, :2] * (held[:, :2] + 1))
        last = room - np.floor(edge[:, 2:] * (room - held[:, 2:] + 1))
        box = draw.note("box", np.concatenate([first, last], axis=1))
        return crop_resize(self, frame, box, sizes_of(self.size, frame))


def _seen(outlines: Outlines) -> Floats:
    """Returns the hulls of the boxes of which anything is seen."""
    boxes = hulls(outlines)
    return np.asarray(boxes[(boxes[:, 2:] - boxes[:, :2] > _SNAP).all(axis=1)])
