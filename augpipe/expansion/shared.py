"""Objects of annotated images that share a batch: laid out for it, and put together again.

What goes in are images with the sample section behind them, as the training loop's batches have.
An object moves as its box, with its mask and keypoints beside it; where images are mixed, those of
others come with their objects. Outlines become masks, since a mix may cut them anywhere. Where one
of a batch's boxes is rotated all move as rotated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from augpipe.data.annotated import AnnotatedImage, Annotation
from augpipe.data.masks import fill
from augpipe.data.rle import decode_rle, encode_rle
from augpipe.data.shapes import hull
from augpipe.errors import DataError
from augpipe.expansion.objects import around, rounded
from augpipe.types import Array, Floats

if TYPE_CHECKING:
    from torch import Tensor

_PROBE = np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 1.0, 2.0]])
"""Points beside an object's own, by which it is seen whether it was mirrored."""


@dataclass(frozen=True, slots=True)
class Shared:
    """The objects of images that share a batch.

    Args:
        images: The images, their objects moved by the sample section.
        masks: The images' own masks, (H, W, 1) each; empty where there are none.
        size: Height and width of the images.
        flips: See `augpipe.expansion.objects.flips`.
    """

    images: Sequence[AnnotatedImage]
    masks: Sequence[Array]
    size: tuple[int, int]
    flips: Mapping[int, tuple[int, ...]]

    def targets(self) -> dict[str, Any]:
        """Returns what moves with the images, as `open_batch` takes it."""
        import torch

        own = [self._boxed(image) for image in self.images]
        turned = any(each.oriented is not None for some in own for each in some)
        out: dict[str, Any] = {
            "oriented_boxes" if turned else "boxes": [
                _boxes(some, image.name, turned)
                for image, some in zip(self.images, own, strict=True)
            ],
            "box_origin": [
                torch.tensor([(k, row) for row in range(len(some))]).reshape(-1, 2)
                for k, some in enumerate(own)
            ],
        }
        if any(_shaped(each) for some in own for each in some):
            out["masks"] = [self._layers(some) for some in own]
        if most := max((len(each.keypoints) // 3 for some in own for each in some), default=0):
            out["keypoints"] = [_points(some, most) for some in own]
        if self.masks:
            stacked = np.stack([mask[:, :, 0] for mask in self.masks])
            out["mask"] = torch.from_numpy(stacked.astype(np.int32))
        return out

    def _boxed(self, image: AnnotatedImage) -> list[Annotation]:
        """Returns the objects of an image that have a place."""
        return [each for each in image.annotations if hull(each, image.name) is not None]

    def _layers(self, objects: Sequence[Annotation]) -> Tensor:
        """Returns (n, H, W) masks; that of an object without one is its box."""
        import torch

        layers = np.zeros((len(objects), *self.size), np.uint8)
        for layer, each in zip(layers, objects, strict=True):
            if each.polygons:
                layer[:] = fill(each.polygons, self.size)
            elif each.rle is not None:
                layer[:] = decode_rle(each.rle, "a mask")
            elif (box := hull(each, "an object")) is not None:
                x0, y0, x1, y1 = box
                layer[:] = fill([(x0, y0, x1, y0, x1, y1, x0, y1)], self.size)
        return torch.from_numpy(layers)

    def objects(
        self, targets: Mapping[str, Any], k: int, size: tuple[int, int]
    ) -> tuple[Annotation, ...]:
        """Returns the objects of image k of a transformed batch.

        Args:
            targets: What became of `targets`.
            k: Which image.
            size: The height and width that it has now.
        """
        out = [each for each in self.images[k].annotations if hull(each, "") is None]
        boxes = targets.get("boxes", targets.get("oriented_boxes"))[k]
        weights = targets.get("box_weights")
        for row, (image, at) in enumerate(targets["box_origin"][k].tolist()):
            each = self._boxed(self.images[image])[at]
            place = np.asarray(boxes[row], np.float64)
            made = replace(
                each,
                box=rounded(around(place, size)) if each.box is not None else None,
                polygons=(),
                rle=None,
                oriented=rounded(place.reshape(-1)) if each.oriented is not None else None,
            )
            if _shaped(each):
                layer = targets["masks"][k][row].numpy()
                if not layer.any():
                    continue
                made = replace(made, rle=encode_rle(layer))
            if each.keypoints:
                moved = np.asarray(targets["keypoints"][k][row], np.float64)
                made = replace(made, keypoints=self._keypoints(each, moved))
            if weights is not None and float(weights[k][row]) < 1.0:
                made = replace(made, extra={**each.extra, "weight": _short(weights[k][row])})
            out.append(made)
        return tuple(out)

    def _keypoints(self, each: Annotation, moved: Floats) -> tuple[float, ...]:
        """Returns an object's keypoints: those out of sight have visibility 0 and no place."""
        count = len(each.keypoints) // 3
        own = moved[:count]
        own = np.where(own[:, 2:] > 0, own, 0.0)
        flip = self.flips.get(each.category, ())
        if len(flip) == count and _is_mirrored(moved[-3:, :2]):
            own = own[list(flip)]
        flat: tuple[float, ...] = rounded(own.reshape(-1))
        return flat


def check_shareable(image: AnnotatedImage, mask: Array | None) -> None:
    """Refuses what does not move in batches.

    Raises:
        DataError: If there is such a thing.
    """
    if mask is not None and mask.shape[2] != 1:
        raise DataError(image.name, "has a coloured mask, which does not move in batches")


def _shaped(each: Annotation) -> bool:
    return bool(each.polygons) or each.rle is not None


def _boxes(objects: Sequence[Annotation], where: str, turned: bool) -> Floats:
    """Returns (n, 4) boxes, or (n, 4, 2) corners."""
    hulls = np.array([hull(each, where) for each in objects], np.float64).reshape(-1, 4)
    if not turned:
        return hulls
    corners = hulls[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    for row, each in enumerate(objects):
        if each.oriented is not None:
            corners[row] = each.oriented
    return corners.reshape(-1, 4, 2)


def _points(objects: Sequence[Annotation], most: int) -> Floats:
    """Returns (n, most + 3, 3): each object's keypoints, as many empty ones, and the probe."""
    out = np.zeros((len(objects), most + 3, 3))
    for row, each in enumerate(objects):
        own = np.array(each.keypoints, np.float64).reshape(-1, 3)
        out[row, : len(own)] = own
        out[row, most:] = _PROBE
    return out


def _is_mirrored(probe: Floats) -> bool:
    (ax, ay), (bx, by) = probe[1] - probe[0], probe[2] - probe[0]
    return bool(ax * by - ay * bx < 0)


def _short(weight: Any) -> float:
    return round(float(weight), 6)
