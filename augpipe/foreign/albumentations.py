"""albumentations on one image: uint8, or float32 from 0 to 1.

A transform is called by itself, not through `Compose`, which drops boxes and keypoints it finds
invisible. Rows carry their number in a column of their own; what does not come back is unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from augpipe.foreign.adapter import Adapter, Many, Unfit, failed
from augpipe.foreign.boxes import points_of, sets_of
from augpipe.foreign.libraries import transform_class
from augpipe.targets import Outlines, Points, Sample, hulls
from augpipe.types import Array, Floats, Words

if TYPE_CHECKING:
    from torch import Tensor


class Albumentations(Adapter):
    """A transform of albumentations."""

    levels = frozenset({"fill", "drop_value"})

    def native(self, unit: bool = False) -> dict[str, Any]:
        """Returns the arguments; what is wrong with them is to be an error, not a warning."""
        out = super().native(unit)
        # Where a class has no schema of its own, its parent's constructor checks, or nothing to.
        return {**out, "strict": True} if "InitSchema" in vars(transform_class(self.name)) else out

    def build(self, unit: bool = False) -> Any:
        """Returns a transform that filters neither boxes nor keypoints."""
        from albumentations.core.bbox_utils import BboxParams, BboxProcessor
        from albumentations.core.keypoints_utils import KeypointParams, KeypointsProcessor

        built = super().build(unit)
        built.set_processors(
            {
                "bboxes": BboxProcessor(BboxParams("pascal_voc")),
                "keypoints": KeypointsProcessor(KeypointParams("xy", remove_invisible=False)),
            }
        )
        return built

    def one(self, sample: Sample, seed: int) -> Sample:
        """Does the transform to one image and what belongs to it; see `Adapter`."""
        image, alpha = sample.image, None
        if image.shape[2] == 4 and self.spares_alpha:
            image, alpha = image[:, :, :3], image[:, :, 3:]
        unit = image.dtype != np.uint8
        self.check_image(image.shape[2], unit)
        # The library may write to what it is given.
        given: dict[str, Any] = {"image": image / np.float32(255) if unit else image.copy()}
        names = [f"mask{k}" if k else "mask" for k in range(len(sample.masks))]
        for name, mask in zip(names, sample.masks, strict=True):
            given[name] = (mask[:, :, 0] if mask.shape[2] == 1 else mask).copy()
        if sample.boxes:
            given["bboxes"] = _boxes_in(sample.boxes, image.shape)
        if sample.points:
            given["keypoints"] = _points_in(sample.points)
        out = self._call(given, names, unit, seed)
        changed = self._image_out(out["image"], image, unit)
        if alpha is not None:
            changed = np.concatenate([changed, alpha], axis=2)
        size = changed.shape[:2]
        masks = [
            np.ascontiguousarray(out[name]).reshape(*out[name].shape[:2], -1).astype(before.dtype)
            for name, before in zip(names, sample.masks, strict=True)
        ]
        boxes = _boxes_out(sample.boxes, out["bboxes"], size) if sample.boxes else []
        points = _points_out(sample.points, out["keypoints"], size) if sample.points else []
        return Sample(changed, masks, points, boxes, sample.normalized, sample.heatmaps)

    def many(
        self,
        images: Tensor,
        masks: dict[str, Tensor],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        seeds: Words,
    ) -> Many:
        """Refuses: albumentations takes single NumPy images."""
        raise Unfit("works on single images: it stands in 'sample:'")

    def _call(self, given: dict[str, Any], masks: list[str], unit: bool, seed: int) -> Any:
        transform = self.instance(unit)
        transform.add_targets({name: "mask" for name in masks if name != "mask"})
        # All that a transform draws comes from these two generators of its own.
        transform.set_random_seed(int(seed))
        try:
            with np.errstate(all="ignore"):
                return transform(**given)
        except MemoryError:
            raise
        except Exception as error:
            raise failed(error) from error

    def _image_out(self, out: Array, image: Array, unit: bool) -> Array:
        out = out.reshape(*out.shape[:2], -1)
        self.check_channels(image.shape[2], out.shape[2])
        if out.dtype != (np.float32 if unit else np.uint8):
            raise Unfit(f"makes {out.dtype} of {image.dtype}; an image stays what it is")
        if not unit:
            return np.ascontiguousarray(out)
        return np.multiply(out.clip(0.0, 1.0), 255.0, dtype=np.float32)


def _boxes_in(boxes: Sequence[Outlines], shape: tuple[int, ...]) -> Floats:
    """Returns (K, 5): the hulls of what is seen, as shares of the image, and row numbers."""
    rows = np.concatenate([hulls(each) for each in boxes])
    scale = np.array([shape[1], shape[0], shape[1], shape[0]], np.float64)
    numbered = np.concatenate([rows / scale, np.arange(len(rows))[:, None]], axis=1)
    area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    return np.asarray(numbered[area > 0])


def _boxes_out(boxes: Sequence[Outlines], out: Array, size: tuple[int, int]) -> list[Outlines]:
    count = sum(map(len, boxes))
    rows = np.full((count, 4), np.nan)
    if len(out):
        scale = np.array([size[1], size[0], size[1], size[0]], np.float64)
        number = out[:, 4].astype(np.int64)
        low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
        np.minimum.at(low, number, out[:, :2])  # one box may come back in parts
        np.maximum.at(high, number, out[:, 2:4])
        there = np.isfinite(low[:, 0])
        rows[there] = np.concatenate([low, high], axis=1)[there] * scale
    return sets_of(rows, boxes, size)


def _points_in(points: Sequence[Points]) -> Floats:
    """Returns (K, 6): x, y of the pixels' centres, nothing for z, angle and scale, row numbers."""
    at = np.concatenate([each.at for each in points]) - 0.5
    rows = np.concatenate([at, np.zeros((len(at), 3)), np.arange(len(at))[:, None]], axis=1)
    return np.asarray(rows[np.isfinite(at).all(axis=1)])


def _points_out(points: Sequence[Points], out: Array, size: tuple[int, int]) -> list[Points]:
    at = np.full((sum(map(len, points)), 2), np.nan)
    if len(out):
        at[out[:, 5].astype(np.int64)] = out[:, :2] + 0.5
    return points_of(at, points, size)
