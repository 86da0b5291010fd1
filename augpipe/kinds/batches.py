"""A batch of images and what belongs to them, in the program's own forms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from augpipe.targets import Outlines, Points
from augpipe.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of one image, its own and those that mixing laid over it.

    Args:
        outlines: N boxes.
        origin: (N, 2), the image of the batch that each came with, and its row there.
        weight: (N,), the share of each that is seen: 1 until something is mixed.
    """

    outlines: Outlines
    origin: Ints
    weight: Floats

    @classmethod
    def of(cls, outlines: Outlines, image: int) -> Boxes:
        """Starts the boxes that came with an image."""
        rows = np.arange(len(outlines))
        origin = np.stack([np.full_like(rows, image), rows], axis=1)
        return cls(outlines, origin, np.ones(len(rows)))


@dataclass(frozen=True, slots=True)
class Marks:
    """The keypoints of one image, its own and those that mixing laid over it.

    Args:
        points: N keypoints.
        origin: (N, 2), the image of the batch that each came with, and its row there.
    """

    points: Points
    origin: Ints


@dataclass(slots=True)
class Batch:
    """n images and what belongs to them.

    Args:
        images: (n, C, H, W), uint8, or float32 of grey levels 0..255.
        labels: (n,) int64 classes, or (n, K) floats in 0..1; None where there are none.
        masks: By name, (n, m, H, W) of any dtype; images with fewer masks are padded.
        instances: By the name of masks that are one an object: (n,) how many each image has.
        boxes: One set an image; None where there are none.
        points: One set an image; None where there are none.
        classes: How many classes there are, where it is known.
    """

    images: Tensor
    labels: Tensor | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    instances: dict[str, Ints] = field(default_factory=dict)
    boxes: list[Boxes] | None = None
    points: list[Marks] | None = None
    classes: int | None = None
