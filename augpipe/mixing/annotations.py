"""Boxes and keypoints under a mix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from augpipe.ir import Cloud
from augpipe.mixing.scene import Scene
from augpipe.mixing.shapes import (
    LEAST,
    at_pixels,
    extent,
    meet,
    narrowed,
    stack,
    take,
    through,
    within,
    without,
)
from augpipe.polygons import areas
from augpipe.targets import (
    Boxes,
    Keypoints,
    Points,
    by_layer,
    hulls,
    move_outlines,
    move_points,
)
from augpipe.types import Floats, Ints


@dataclass(frozen=True, slots=True)
class _Seen:
    """Boxes that one image gives to another, or to itself, and their rows there."""

    boxes: Boxes
    rows: Ints


def mix_boxes(scene: Scene) -> tuple[list[Boxes] | None, list[list[Ints]] | None]:
    """Returns all boxes, and for each mixed row the rows they had: its own, each layer's."""
    if scene.batch.boxes is None:
        return None, None
    out, slots = list(scene.batch.boxes), []
    for k, row in enumerate(scene.rows.tolist()):
        parts = [_left(scene, k)]
        parts += [_laid(scene, k, layer) for layer in range(len(scene.views))]
        out[row] = _joined([part.boxes for part in parts])
        slots.append([part.rows for part in parts])
    return out, slots


def _left(scene: Scene, k: int) -> _Seen:
    """Returns what is left of an image's own boxes."""
    assert scene.framed is not None
    own = scene.framed[scene.rows[k]]
    before: Floats = hulls(own.outlines)
    after: Floats = before
    opacity = scene.meaning.opacity[k]
    if scene.remains is not None:
        pixels = scene.remains[k, : len(before)]
        left: Floats = pixels[:, 1] / np.maximum(pixels[:, 0], 1.0)
        share: Floats = np.where(pixels[:, 0] > 0, left, 1.0)  # an empty mask says nothing
        whole = (share == 1.0)[:, None]
        after = meet(before, np.where(whole, before, pixels[:, 2:]))
        faint = np.ones(len(before))
    elif scene.raster is not None:
        share, after = through(~scene.raster[k], before)
        faint = np.ones(len(before))
    else:
        area = np.maximum(extent(before), LEAST)
        boxes = scene.meaning.box[k].astype(np.float64)
        covered = np.stack([extent(meet(before, box)) / area for box in boxes], axis=1)
        opaque = scene.opaque(k)
        share = 1.0 - covered[:, opaque].sum(axis=1)
        for layer in opaque:
            after = without(after, boxes[layer])
        # What is left to see, seen through the layers that are not opaque.
        thin = np.setdiff1d(np.arange(len(boxes)), opaque)
        rest = share - covered[:, thin] @ opacity[thin]
        faint = rest / np.maximum(share, LEAST)
    seen = areas(own.outlines.seen) * np.maximum(share, 0.0)
    stays = np.flatnonzero(scene.enough(seen, areas(own.outlines.whole)) & (faint > 0))
    outlines = narrowed(take(own.outlines, stays), before[stays], after[stays], scene.size)
    weight = own.weight[stays] * share[stays] * faint[stays]
    origin = by_layer(own.origin[stays], 0, len(scene.views))
    return _Seen(Boxes(outlines, origin, weight), stays)


def _laid(scene: Scene, k: int, layer: int) -> _Seen:
    """Returns the boxes that a layer brings."""
    assert scene.framed is not None
    theirs = scene.framed[scene.meaning.partner[k, layer]]
    opacity = float(scene.meaning.opacity[k, layer])
    rows = np.arange(len(theirs.outlines)) if scene.chosen is None else scene.chosen[k]
    rows = rows if opacity > 0 else rows[:0]
    if not len(rows):
        return _Seen(Boxes(take(theirs.outlines, rows), theirs.origin[rows], np.ones(0)), rows)
    start = take(theirs.outlines, rows)
    moved = move_outlines(scene.views[layer], k, start)
    scale = abs(np.linalg.det(scene.meaning.matrix[k, layer, :2, :2]))
    share = areas(moved.seen) * scale / np.maximum(areas(start.seen), LEAST)
    before = after = hulls(moved)
    seen = areas(moved.seen)
    if isinstance(scene.meaning.region, Cloud):
        assert scene.raster is not None
        part, after = through(scene.raster[k], before)
        share, seen = share * part, seen * part
    stays = np.flatnonzero(scene.enough(seen, areas(moved.whole)))
    outlines = narrowed(take(moved, stays), before[stays], after[stays], scene.size)
    weight = theirs.weight[rows[stays]] * np.minimum(share[stays], 1.0) * opacity
    origin = by_layer(theirs.origin[rows[stays]], layer + 1, len(scene.views))
    return _Seen(Boxes(outlines, origin, weight), rows[stays])


def _joined(parts: Sequence[Boxes]) -> Boxes:
    return Boxes(
        stack([part.outlines for part in parts]),
        np.concatenate([part.origin for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def mix_points(scene: Scene) -> list[Keypoints] | None:
    """Returns all keypoints."""
    if scene.batch.points is None:
        return None
    height, width = scene.size
    out = list(scene.batch.points)
    for k, row in enumerate(scene.rows.tolist()):
        own = scene.batch.points[row]
        covered = np.zeros((len(own.points), len(scene.views)), bool)
        area = 0
        for layer in scene.opaque(k).tolist():
            box = scene.meaning.box[k, layer]
            covered[:, layer] = within(own.points.at, box)
            area += int((box[2] - box[0]) * (box[3] - box[1]))
        if scene.raster is not None:
            area = int(scene.raster[k].sum())
            covered &= at_pixels(scene.raster[k], own.points.at)[:, None]
        seen = own.points.seen & ~covered.any(axis=1)
        parts = []
        if area < height * width:
            origin = by_layer(own.origin, 0, len(scene.views))
            parts.append(Keypoints(replace(own.points, seen=seen), origin))
        for layer in np.flatnonzero(scene.meaning.opacity[k] > 0).tolist():
            theirs = scene.batch.points[scene.meaning.partner[k, layer]]
            moved = move_points(scene.views[layer], k, theirs.points)
            shown = moved.seen
            if scene.raster is not None:
                shown = shown & at_pixels(scene.raster[k], moved.at)
            origin = by_layer(theirs.origin, layer + 1, len(scene.views))
            parts.append(Keypoints(replace(moved, seen=shown), origin))
        at = np.concatenate([part.points.at for part in parts])
        shown = np.concatenate([part.points.seen for part in parts])
        mirrored = np.concatenate([part.points.mirrored for part in parts])
        origin = np.concatenate([part.origin for part in parts])
        out[row] = Keypoints(Points(at, shown, mirrored), origin)
    return out
