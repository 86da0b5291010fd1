"""What is drawn of an annotated image: boxes, rotated ones too, outlines, masks, keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from augpipe.data.annotated import AnnotatedImage, Category
from augpipe.data.content import Content
from augpipe.data.masks import fill, open_mask
from augpipe.data.rle import decode_rle
from augpipe.data.shapes import hull
from augpipe.errors import DataError
from augpipe.kinds.convert import array_of
from augpipe.types import Array, Floats


def _none(*row: int) -> Floats:
    return np.zeros((0, *row))


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of one image besides its pixels.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        labels: (N + M,), the class of each box, then of each rotated one: numbers from 1.
        keypoints: (K, 3), x, y and COCO's visibility: 1 hidden, 2 seen.
        mask: (H, W) of class numbers, 0 for the background, or None.
        oriented: (M, 4, 2), corners of rotated boxes, one after another round each.
    """

    boxes: Floats = field(default_factory=lambda: _none(4))
    labels: tuple[int, ...] = ()
    keypoints: Floats = field(default_factory=lambda: _none(3))
    mask: Array | None = None
    oriented: Floats = field(default_factory=lambda: _none(4, 2))

    def corners(self) -> Floats:
        """Returns (N + M, 4, 2): the corners of all boxes, in the order of the labels."""
        upright = self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return np.concatenate([upright, self.oriented])

    def classes(self) -> set[int]:
        """Returns the class numbers that occur."""
        in_mask = set() if self.mask is None else set(np.unique(self.mask).tolist()) - {0}
        return in_mask | set(self.labels)


def marks_of(
    record: AnnotatedImage | None, image: Array, categories: Sequence[Category]
) -> Marks | None:
    """Returns what is drawn of an annotated image, or None where nothing is known of it.

    Later objects lie over earlier ones; a mask of the image's own takes the place of theirs.

    Args:
        record: The image's record, or None.
        image: (H, W, C), its pixels.
        categories: The classes of objects: the first is number 1, whatever its id.

    Raises:
        DataError: If the record is of an image of another size, or a mask cannot be used.
    """
    if record is None:
        return None
    size, name = (image.shape[0], image.shape[1]), record.name
    if record.size not in (None, size):
        raise DataError(name, f"is {_by(size)}, its annotations say {_by(record.size or ())}")
    numbers = {each.id: k for k, each in enumerate(categories, 1)}
    boxes, turned, points = [], [], [_none(3)]
    classes = np.zeros(size, np.int32)
    for each in record.annotations:
        number = numbers.get(each.category, 0)
        if each.oriented is not None:
            turned.append((each.oriented, number))
        elif (box := hull(each, name)) is not None:
            boxes.append((box, number))
        points.append(np.array(each.keypoints, np.float64).reshape(-1, 3))
        if each.polygons:
            classes[fill(each.polygons, size) > 0] = number
        elif each.rle is not None:
            classes[_sized(decode_rle(each.rle, name), size, name) > 0] = number
    if record.mask is not None:
        classes = _sized(_numbered(record.mask, numbers, name), size, name)
    keypoints = np.concatenate(points)
    return Marks(
        np.array([box for box, _ in boxes], np.float64).reshape(-1, 4),
        tuple(number for _, number in (*boxes, *turned)),
        keypoints[keypoints[:, 2] > 0],
        classes if classes.any() else None,
        np.array([corners for corners, _ in turned], np.float64).reshape(-1, 4, 2),
    )


def _numbered(mask: Content, numbers: dict[int, int], where: str) -> Array:
    """Returns a mask of ids as one of class numbers; what is no class's id has a number of its own.

    A colour counts as one id, from its three bytes; a grey one as its level.
    """
    held = array_of(open_mask(mask, where)).astype(np.int32)
    if held.ndim == 3:
        grey = (held == held[:, :, :1]).all(axis=2)
        held = np.where(grey, held[:, :, 0], held @ np.array([1, 256, 65536], np.int32))
    values, places = np.unique(held, return_inverse=True)
    own = [numbers.get(each, len(numbers) + each) if each else 0 for each in values.tolist()]
    return np.array(own, np.int32)[places].reshape(held.shape)


def _sized(mask: Array, size: tuple[int, int], where: str) -> Array:
    if mask.shape != size:
        raise DataError(where, f"has a mask of {_by(mask.shape)}, but is {_by(size)}")
    return mask


def _by(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))
