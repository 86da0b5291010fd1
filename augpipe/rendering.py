"""Meanings done to samples: their pixels by the OpenCV backend, and all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from augpipe.backends import opencv
from augpipe.ir import (
    Alone,
    Curve,
    Flow,
    Foreign,
    Generated,
    Latent,
    Meaning,
    Mix,
    Taught,
    Warp,
    leaves_levels,
    smooth,
)
from augpipe.plan.nodes import Node
from augpipe.targets import Sample, move_outlines, move_points
from augpipe.types import Array, Picture


def ready(nodes: Sequence[Node]) -> None:
    """Imports what nodes need: threads that come to it at once would find torch half imported."""
    if any(node.kind is Latent for node in nodes):
        import augpipe.learned.latent  # noqa: F401


def render(
    meanings: Sequence[Meaning], node: Node | None, samples: Sequence[Sample]
) -> list[Sample]:
    """Does meanings to samples and to all that belongs to them.

    Args:
        meanings: Of as many images; another library's stands alone.
        node: The node whose meaning it is, for errors to name its op.
        samples: They are not changed.
    """
    return [render_row(meanings, node, row, sample) for row, sample in enumerate(samples)]


def render_row(
    meanings: Sequence[Meaning],
    node: Node | None,
    row: int,
    sample: Sample,
    into: Array | None = None,
) -> Sample:
    """Does row `row` of all meanings to one sample: what is in the cache is used again.

    Args:
        meanings: See `render`.
        node: See `render`.
        row: Which of their images this is.
        sample: It is not changed.
        into: (C, H, W) float32, where what is no longer levels may be put.
    """
    for done, meaning in enumerate(meanings):
        match meaning:
            case Curve():
                image = opencv.ending(meanings[done:], row, sample.image, into)
                if image is not None:
                    return replace(sample, image=image, normalized=True)
                sample = _one(meaning, row, sample, into)
            case Foreign():
                assert node is not None
                if meaning.on[row]:
                    key = node.steps[0].key
                    sample = meaning.transform.on_sample(
                        decoded(sample), int(meaning.key[row]), key
                    )
            case Latent():
                from augpipe.learned.latent import move_one  # torch

                sample = decoded(sample)
                if meaning.on[row]:
                    sample = replace(sample, image=move_one(meaning, row, sample.image))
            case Mix() | Generated() | Taught():
                raise TypeError("one image has nothing to be mixed with, and no class")
            case _:
                sample = _one(meaning, row, sample, into)
    return decoded(sample)


def decoded(sample: Sample) -> Sample:
    """Returns a sample whose image is pixels."""
    image = sample.image
    if not isinstance(image, Picture):
        return sample
    return replace(sample, image=image.pixels())


def _one(meaning: Alone, row: int, sample: Sample, into: Array | None) -> Sample:
    """Does row `row` of a meaning to a sample and to all that belongs to it."""
    masks, points, boxes, outlines = sample.masks, sample.points, sample.boxes, sample.outlines
    if isinstance(meaning, Warp | Flow):
        even = replace(meaning, sampling=smooth(meaning.sampling))
        masks = [
            opencv.render(even, row, mask)
            if k in sample.heatmaps
            else opencv.render_mask(meaning, row, mask)
            for k, mask in enumerate(masks)
        ]
        points = [move_points(meaning, row, each) for each in points]
        boxes, outlines = (
            [move_outlines(meaning, row, each) for each in sets] for sets in (boxes, outlines)
        )
    normalized = sample.normalized or leaves_levels(meaning)
    image = opencv.render(meaning, row, sample.image, into)
    return Sample(image, masks, points, boxes, normalized, sample.heatmaps, outlines)


def plain_planes(items: Sequence[Any]) -> list[Array]:
    """Returns the images (C, H, W) of pairs of uint8 arrays and classes, if all are of one shape.

    With nothing to be done to them, taking each apart would be most of the work.
    """
    found: list[Array] = []
    for item in items:
        if type(item) is not tuple or len(item) != 2 or not isinstance(item[1], int | np.integer):
            return []
        image = item[0]
        if type(image) is not np.ndarray or image.dtype != np.uint8 or image.ndim not in (2, 3):
            return []
        if image.shape != items[0][0].shape or 0 in image.shape or image.shape[2:] > (4,):
            return []
        found.append(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    return found
