"""How boxes are written: corners, sizes, centres and angles, to outlines and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from augpipe.errors import DataError
from augpipe.kinds.convert import kind
from augpipe.targets import Outlines, oriented_outline, outline
from augpipe.types import Bools, Floats, Ints

_UPRIGHT = ("XYXY", "XYWH", "CXCYWH")
_CORNERS = "XYXYXYXY"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the numbers of a row of boxes are.

    Args:
        name: As torchvision's BoundingBoxFormat has it: XYXY, XYWH or CXCYWH; of oriented boxes
            XYXYXYXY (corners, clockwise as seen), XYWHR or CXCYWHR (degrees, counter-clockwise
            as seen).
        row: The shape of a row.
    """

    name: str
    row: tuple[int, ...]

    @property
    def oriented(self) -> bool:
        """Whether boxes end as rectangles along their own sides."""
        return self.name not in _UPRIGHT

    def open(self, data: Floats, where: str, more: bool = False) -> Outlines:
        """Starts boxes on their way.

        Args:
            data: (N, ...) rows.
            where: What errors call them.
            more: Whether there may be more numbers after the first four of upright boxes.

        Raises:
            DataError: If they are no such boxes.
        """
        data = data.reshape(0, *self.row) if not data.size else data
        more = more and not self.oriented and data.ndim == 2 and data.shape[1] > 4
        if data.shape[1:] != self.row and not more:
            expected = "oriented boxes are (N, 4, 2), (N, 8) or (N, 5)"
            if not self.oriented:
                expected = "expected (N, 4), xyxy in pixels"
            raise DataError(where, f"boxes of shape {data.shape}: {expected}")
        if not self.oriented:
            return outline(_to_xyxy(data[:, :4], self.name), where)
        return oriented_outline(self._corners(data), where)

    def close(self, boxes: Floats, data: Floats, kept: Ints) -> Floats:
        """Returns what became of boxes, as rows.

        Args:
            boxes: (K, 4) x0, y0, x1, y1, or (K, 4, 2) corners.
            data: The rows before.
            kept: (K,), which of them these were.
        """
        if not self.oriented:
            out = data[kept] if data.size else np.zeros((0, *self.row))
            out[:, :4] = _from_xyxy(boxes, self.name)
            return out
        if self.name == _CORNERS:
            return boxes.reshape(-1, *self.row)
        right, down = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 0]
        sides = np.stack([np.hypot(*right.T), np.hypot(*down.T)], axis=1)
        degrees = np.rad2deg(np.arctan2(-right[:, 1], right[:, 0]))[:, None]
        at = boxes[:, 0] if self.name == "XYWHR" else boxes.mean(axis=1)
        return np.concatenate([at, sides, degrees], axis=1)

    def _corners(self, data: Floats) -> Floats:
        if self.name == _CORNERS:
            return data.reshape(-1, 4, 2)
        at, (width, height) = data[:, :2], (data[:, 2:3], data[:, 3:4])
        radians = np.deg2rad(data[:, 4:5])
        right = width * np.concatenate([np.cos(radians), -np.sin(radians)], axis=1)
        down = height * np.concatenate([np.sin(radians), np.cos(radians)], axis=1)
        first = at if self.name == "XYWHR" else at - (right + down) / 2.0
        return np.stack([first, first + right, first + right + down, first + down], axis=1)


def box_layout(value: Any, data: Floats, where: str, oriented: bool = False) -> Layout:
    """Returns how a set of boxes is written: as its tv_tensor says, else as its shape does.

    Args:
        value: The boxes as they came.
        data: Their numbers.
        where: What errors call them.
        oriented: Whether they are known to be oriented ones.

    Raises:
        DataError: Oriented boxes have none of their shapes.
    """
    if kind(value) == "boxes":
        name = str(value.format.name)
        return Layout(name, (4 if name in _UPRIGHT else 8 if name == _CORNERS else 5,))
    if not oriented:
        return Layout("XYXY", (4,))
    rows = {(5,): "CXCYWHR", (8,): _CORNERS, (4, 2): _CORNERS}
    row = data.shape[1:] if data.size or data.shape[1:] in rows else (8,)
    if row not in rows:
        expected = "expected (N, 4, 2) or (N, 8) corners, or (N, 5) cx, cy, w, h, degrees"
        raise DataError(where, f"oriented boxes of shape {data.shape}: {expected}")
    return Layout(rows[row], row)


def unmirrored(
    points: Floats, mirrored: Bools, pairs: Sequence[tuple[int, int]], where: str
) -> Floats:
    """Returns keypoints of which those that a mirror confuses have changed places.

    Args:
        points: (K, ...) of one object, or (N, K, ...) of N.
        mirrored: Whether each point, in their order, is seen as in a mirror.
        pairs: Which change places.
        where: What errors call them.

    Raises:
        DataError: A pair names a keypoint that is not there.
    """
    count = points.shape[-2]
    if not pairs or not mirrored.any():
        return points
    highest = max(max(pair) for pair in pairs)
    if highest >= count:
        have = f"an object has {count}: 0 to {count - 1}"
        raise DataError(where, f"flip_pairs speaks of keypoint {highest}, {have}")
    order = np.arange(count)
    for left, right in pairs:
        order[[left, right]] = right, left
    out = points.reshape(-1, *points.shape[-2:]).copy()
    turned = mirrored.reshape(-1, count).any(axis=1)
    out[turned] = out[turned][:, order]
    return out.reshape(points.shape)


def _to_xyxy(boxes: Floats, name: str) -> Floats:
    """Returns x0, y0, x1, y1 from (N, 4) of layout XYXY, XYWH or CXCYWH."""
    if name == "XYXY":
        return boxes
    start, size = boxes[:, :2], boxes[:, 2:]
    start = start - size / 2.0 if name == "CXCYWH" else start
    return np.concatenate([start, start + size], axis=1)


def _from_xyxy(boxes: Floats, name: str) -> Floats:
    """Returns (N, 4) of layout XYXY, XYWH or CXCYWH from x0, y0, x1, y1."""
    if name == "XYXY":
        return boxes
    start, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    start = start + size / 2.0 if name == "CXCYWH" else start
    return np.concatenate([start, size], axis=1)
