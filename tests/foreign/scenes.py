"""What the walk shows each transform: an object on a ground, in image, mask, box and keypoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from augpipe.foreign import Adapter
from augpipe.targets import Points, Sample, outline
from augpipe.types import Array

SIZE = (32, 40)
OBJECT = (14, 9, 28, 21)  # x0, y0, x1, y1
MIDDLE = (18, 12, 24, 18)  # of the object, marked in a second mask


@dataclass(frozen=True)
class Look:
    """What is shown: which kind of image, and which targets with it."""

    channels: int = 3
    floats: bool = False
    masks: bool = False
    boxes: bool = False
    points: bool = False


def scene(look: Look, ground: int = 0) -> Sample:
    """Returns a noisy ground with a bright rectangle; `ground` picks another noise."""
    height, width = SIZE
    noise = np.random.default_rng(ground).integers(20, 90, (height, width, look.channels))
    image = noise.astype(np.uint8)
    x0, y0, x1, y1 = OBJECT
    image[y0:y1, x0:x1] += 140
    mask = np.zeros((height, width, 1), np.uint8)
    mask[y0:y1, x0:x1] = 1
    middle = np.zeros_like(mask)
    middle[MIDDLE[1] : MIDDLE[3], MIDDLE[0] : MIDDLE[2]] = 1
    centre = [(x0 + x1) / 2, (y0 + y1) / 2]
    return Sample(
        image.astype(np.float32) if look.floats else image,
        [mask, middle] if look.masks else [],
        [Points.of(np.array([centre]))] if look.points else [],
        [outline(np.array([OBJECT], np.float64))] if look.boxes else [],
    )


def copied(sample: Sample) -> Sample:
    return Sample(
        sample.image.copy(),
        [each.copy() for each in sample.masks],
        [Points(each.at.copy(), each.seen.copy(), each.mirrored.copy()) for each in sample.points],
        list(sample.boxes),
    )


def show(adapter: Adapter, sample: Sample, seed: int) -> Sample:
    """Shows one scene to a transform, whichever library's."""
    if not adapter.name.startswith("kornia."):
        return adapter.one(sample, seed)
    (out,) = show_batch(adapter, [sample], [seed])
    return out


def show_batch(adapter: Adapter, samples: list[Sample], seeds: list[int]) -> list[Sample]:
    """Shows scenes as one batch."""
    images = torch.stack([torch.from_numpy(each.image.transpose(2, 0, 1)) for each in samples])
    masks = {}
    for k in range(len(samples[0].masks)):
        parts = [torch.from_numpy(each.masks[k].transpose(2, 0, 1)) for each in samples]
        masks[f"mask{k}"] = torch.stack(parts)
    boxes = [each.boxes[0] for each in samples if each.boxes]
    points = [each.points[0] for each in samples if each.points]
    out = adapter.many(images, masks, boxes, points, np.array(seeds, np.uint64))
    return [
        Sample(
            hwc(out.images[k]),
            [hwc(each[k]) for each in out.masks.values()],
            [out.points[k]] if points else [],
            [out.boxes[k]] if boxes else [],
        )
        for k in range(len(samples))
    ]


def hwc(tensor: torch.Tensor) -> Array:
    return np.ascontiguousarray(tensor.numpy().transpose(1, 2, 0))


def everything(sample: Sample) -> bytes:
    """Returns all that a sample holds, as bytes to compare."""
    parts = [sample.image, *sample.masks]
    parts += [part for each in sample.boxes for part in (each.whole, each.seen)]
    parts += [part for each in sample.points for part in (each.at, each.seen)]
    return b"|".join(repr(part.shape).encode() + part.tobytes() for part in parts)
