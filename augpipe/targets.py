"""Meanings applied to what is not pixels: boxes and keypoints; and what one sample holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from augpipe.types import Array, Floats


@dataclass(slots=True)
class Sample:
    """One image and what belongs to it, in the program's own forms.

    Args:
        image: (H, W, C), uint8, or float32 of grey levels 0..255.
        masks: Each (H, W, C), any integer or float dtype.
        points: Each (N, 2): x, y in continuous coordinates.
    """

    image: Array
    masks: list[Array] = field(default_factory=list)
    points: list[Floats] = field(default_factory=list)
