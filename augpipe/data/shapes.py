"""The shapes of objects: their hulls and areas, and what is wrong with some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from augpipe.data.annotated import AnnotatedImage, Annotation, Box
from augpipe.data.rle import decode_rle, rle_area

_SHOWN = 3
_SLACK = 0.01  # pixels: what formats round to six decimals reaches this far beyond
_MANY = {
    "box without area": "boxes without area",
    "box outside its image": "boxes outside their images",
    "box that reaches beyond its image": "boxes that reach beyond their images",
    "object that no line can say": "objects that no line can say",
    "object without a box": "objects without a box",
    "object without an outline": "objects without an outline",
    "class of an image, which augpipe alone reads there": (
        "classes of images, which augpipe alone reads there"
    ),
    "mask of an image, which augpipe alone reads there": (
        "masks of images, which augpipe alone reads there"
    ),
}
"""What is said of more than one."""


def hull(annotation: Annotation, where: object) -> Box | None:
    """Returns an object's box; without one, that of its outline or mask; None if it has neither.

    Raises:
        DataError: If its mask cannot be read.
    """
    if annotation.box is not None:
        return annotation.box
    parts = annotation.polygons or ((annotation.oriented,) if annotation.oriented else ())
    if parts:
        x = [each for part in parts for each in part[0::2]]
        y = [each for part in parts for each in part[1::2]]
        return min(x), min(y), max(x), max(y)
    if annotation.rle is not None:
        mask = decode_rle(annotation.rle, where)
        rows = np.flatnonzero(mask.any(axis=1))
        columns = np.flatnonzero(mask.any(axis=0))
        if len(rows):
            return (
                float(columns[0]),
                float(rows[0]),
                float(columns[-1] + 1),
                float(rows[-1] + 1),
            )
    return None


def area_of(annotation: Annotation, where: object) -> float:
    """Returns an object's area in square pixels: of its mask or outline, else of its box."""
    if annotation.rle is not None:
        return float(rle_area(annotation.rle, where))
    if annotation.polygons:
        return sum(polygon_area(part) for part in annotation.polygons)
    if annotation.oriented is not None:
        return polygon_area(annotation.oriented)
    box = hull(annotation, where)
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def check_shapes(image: AnnotatedImage) -> None:
    """Reads the masks of an image's objects.

    Raises:
        DataError: If one cannot be read.
    """
    for each in image.annotations:
        if each.rle is not None:
            area_of(each, image.name)
            hull(each, image.name)


def polygon_area(points: Sequence[float]) -> float:
    """Returns the area of a polygon (x and y in turn), by the shoelace formula."""
    x, y = points[0::2], points[1::2]
    total = sum(x[k - 1] * y[k] - x[k] * y[k - 1] for k in range(len(x)))
    return abs(total) / 2.0


def clipped(box: Box, size: tuple[int, int]) -> Box | None:
    """Returns what of a box lies in an image of this (height, width); None if no area does."""
    height, width = size
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(width)), min(box[3], float(height))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _beyond(box: Box, size: tuple[int, int]) -> float:
    """Returns by how many pixels a box reaches beyond an image of this (height, width)."""
    return max(-box[0], -box[1], box[2] - size[1], box[3] - size[0])


def object_of(image: AnnotatedImage, position: int) -> str:
    """Returns what notes call an object: by its id, or the place that it has in its image."""
    own = image.annotations[position].id
    return f"{image.name}, object {position if own is None else own}"


@dataclass(slots=True)
class Notes:
    """What was found and is no error, counted by kind, with the first places."""

    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Counts one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        shown = self.places.setdefault(kind, [])
        if len(shown) < _SHOWN:
            shown.append(where)

    def check(self, image: AnnotatedImage) -> None:
        """Counts an image's boxes without area, and those that reach beyond it."""
        for position, each in enumerate(image.annotations):
            if each.box is None:
                continue
            x0, y0, x1, y1 = each.box
            where = object_of(image, position)
            if x1 <= x0 or y1 <= y0:
                self.add("box without area", where)
            elif image.size and clipped(each.box, image.size) is None:
                self.add("box outside its image", where)
            elif image.size and _beyond(each.box, image.size) > _SLACK:
                self.add("box that reaches beyond its image", where)

    def __str__(self) -> str:
        lines = []
        for kind, count in self.counts.items():
            more = ", ..." if count > _SHOWN else ""
            words = kind if count == 1 else _MANY.get(kind, f"{kind}s")
            lines.append(f"{count} {words}: {'; '.join(self.places[kind])}{more}")
        return "\n".join(lines)
