"""torchvision's v2 transforms, image by image, on the device where the image is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from augpipe.foreign.adapter import Adapter, Many, Unfit, failed
from augpipe.foreign.boxes import points_of, sets_of
from augpipe.foreign.seeding import Seeded
from augpipe.targets import Outlines, Points, Sample, hulls
from augpipe.types import Words

_PASSED = {"RandomErasing"}  # masks, boxes and keypoints stay, which it warns of each time


class Torchvision(Adapter):
    """A transform of torchvision."""

    levels = frozenset({"fill", "value", "threshold"})

    def native(self, unit: bool = False) -> dict[str, Any]:
        """Returns the arguments; the fill is the image's, beyond it a mask is 0."""
        out = super().native(unit)
        if "fill" in out:
            out["fill"] = {tv_tensors.Image: out["fill"], "others": 0}
        return out

    def one(self, sample: Sample, seed: int) -> Sample:
        """Does the transform to one image and what belongs to it; see `Adapter`."""
        image = torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))
        masks = [torch.from_numpy(_carried(each).transpose(2, 0, 1)) for each in sample.masks]
        out, moved, boxes, points = self._one(image, masks, sample.boxes, sample.points, seed)
        return Sample(
            np.ascontiguousarray(out.numpy().transpose(1, 2, 0)),
            [
                np.ascontiguousarray(each.numpy().transpose(1, 2, 0).astype(before.dtype))
                for each, before in zip(moved, sample.masks, strict=True)
            ],
            points,
            boxes,
            sample.normalized,
            sample.heatmaps,
        )

    def many(
        self,
        images: Tensor,
        masks: dict[str, Tensor],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        seeds: Words,
    ) -> Many:
        """Does the transform to each image of a batch; see `Adapter`."""
        rows: list[Any] = []
        for k, seed in enumerate(seeds):
            own = [boxes[k]] if boxes else [], [points[k]] if points else []
            parts = [_carrier(each[k]) for each in masks.values()]
            rows.append(self._one(images[k], parts, *own, int(seed)))
        if len({row[0].shape for row in rows}) > 1:
            sizes = sorted({" × ".join(map(str, row[0].shape[1:])) for row in rows})
            raise Unfit(f"gives the images of a batch different sizes: {', '.join(sizes)}")
        moved = {
            name: torch.stack([row[1][i] for row in rows]).to(each.dtype)
            for i, (name, each) in enumerate(masks.items())
        }
        out = torch.stack([row[0] for row in rows])
        sets = [each for row in rows for each in row[2]], [each for row in rows for each in row[3]]
        return Many(out, moved, *sets)

    def _one(
        self,
        image: Tensor,
        masks: Sequence[Tensor],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        seed: int,
    ) -> tuple[Tensor, list[Tensor], list[Outlines], list[Points]]:
        """Does the transform to an image (C, H, W) and what belongs to it."""
        canvas = (image.shape[1], image.shape[2])
        alpha = None
        if image.shape[0] == 4 and self.spares_alpha:
            image, alpha = image[:3], image[3:]
        unit = image.dtype != torch.uint8
        self.check_image(image.shape[0], unit)
        passed = self.own in _PASSED
        given: dict[str, Any] = {
            "image": tv_tensors.Image(image / 255.0 if unit else image.clone()),
        }
        if masks and not passed:
            given["masks"] = [tv_tensors.Mask(each.clone()) for each in masks]
        # The policies refuse a set of none too; RandomIoUCrop wants one.
        if boxes and not passed and (any(map(len, boxes)) or self.limited("needs boxes")):
            rows = torch.from_numpy(np.concatenate([hulls(each) for each in boxes]))
            given["boxes"] = tv_tensors.BoundingBoxes(
                rows, format="XYXY", canvas_size=canvas, clamping_mode=None
            )
        if any(map(len, points)) and not passed:
            at = torch.from_numpy(np.concatenate([each.at for each in points]) - 0.5)
            given["points"] = tv_tensors.KeyPoints(at, canvas_size=canvas)
        out = self._call(given, unit, seed)
        changed: Tensor = out["image"].as_subclass(Tensor)
        self.check_channels(image.shape[0], changed.shape[0])
        if changed.dtype != image.dtype:
            raise Unfit(f"makes {changed.dtype} of {image.dtype}; an image stays what it is")
        changed = changed.clamp(0.0, 1.0) * 255.0 if unit else changed
        if alpha is not None:
            changed = torch.cat([changed, alpha])
        size = (changed.shape[1], changed.shape[2])
        return (
            changed,
            [each.as_subclass(Tensor) for each in out.get("masks", masks)],
            _boxes_out(boxes, out["boxes"], size) if "boxes" in given else list(boxes),
            _points_out(points, out["points"], size) if "points" in given else list(points),
        )

    def _call(self, given: dict[str, Any], unit: bool, seed: int) -> Any:
        try:
            # Whatever precision a training step runs in, pixels are computed in float32.
            device = given["image"].device.type if "image" in given else "cpu"
            with Seeded(seed), torch.no_grad(), torch.autocast(device, enabled=False):
                return self.instance(unit)(given)
        except MemoryError:
            raise
        except Exception as error:
            raise failed(error) from error


def _carried(mask: Any) -> Any:
    """Returns a mask (H, W, C) in a dtype that torch can warp."""
    exact = mask.dtype in (np.uint8, np.float32, np.float64)
    wide = np.float64 if mask.dtype.itemsize > 2 else np.float32
    return np.ascontiguousarray(mask if exact else mask.astype(wide))


def _carrier(mask: Tensor) -> Tensor:
    """Returns a mask in a dtype that torch can warp."""
    if mask.dtype == torch.uint8 or mask.dtype in (torch.float32, torch.float64):
        return mask
    wide = torch.float64 if mask.dtype.itemsize > 2 else torch.float32
    return mask.to(torch.uint8 if mask.dtype == torch.bool else wide)


def _boxes_out(boxes: Sequence[Outlines], out: Tensor, size: tuple[int, int]) -> list[Outlines]:
    rows = out.as_subclass(Tensor).cpu().numpy().astype(np.float64).reshape(-1, 4)
    gone = (rows[:, 2] <= rows[:, 0]) | (rows[:, 3] <= rows[:, 1])
    rows = np.where(gone[:, None], np.nan, rows)  # how RandomIoUCrop says that a box is out
    return sets_of(rows, boxes, size)


def _points_out(points: Sequence[Points], out: Tensor, size: tuple[int, int]) -> list[Points]:
    at = out.as_subclass(Tensor).cpu().numpy().astype(np.float64).reshape(-1, 2) + 0.5
    return points_of(at, points, size)
