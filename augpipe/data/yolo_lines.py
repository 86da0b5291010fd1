"""The lines of YOLO's label files, one an object: text to annotations, and back.

A line is the number of the class and, in shares of the image's width and height: a box (centre x,
y, width, height); an outline (x and y in turn); the four corners of a rotated box; or a box and
its keypoints (x, y, or x, y, visibility). Reference: https://docs.ultralytics.com/datasets/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from augpipe.data.annotated import Annotation, Box, box_of
from augpipe.data.shapes import clipped, hull
from augpipe.errors import DataError, printable
from augpipe.types import Floats

Task = Literal["detect", "segment", "obb", "pose"]
"""What a dataset's lines say, in Ultralytics' words."""

_FINE = 6  # decimals of a pixel: shares cannot say more, and whole pixels stay whole
_AT_ONCE = 200_000  # pairs of points
_MOST_PAIRS = 20_000_000  # of an outline's parts that are joined: a second, and no more
_SLACK = 0.01  # how far beyond the image a share may lie


@dataclass(frozen=True, slots=True)
class Labels:
    """How a dataset's lines are to be read and written.

    Args:
        task: What they say.
        ids: The id of each class, in the order of their numbers.
        points: How many keypoints an object has.
        width: How many numbers a keypoint has, 2 or 3.
    """

    task: Task
    ids: tuple[int, ...]
    points: int = 0
    width: int = 3

    def parse(self, text: str, size: tuple[int, int], where: str) -> tuple[Annotation, ...]:
        """Returns the objects of one file.

        Args:
            text: Its content.
            size: The image's height and width.
            where: The file, for errors, which add the line.

        Raises:
            DataError: If a line is none, has a class that there is not, or lies outside.
        """
        return tuple(
            self._parse(line.split(), size, f"{where}:{number}")
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        )

    def _parse(self, words: Sequence[str], size: tuple[int, int], where: str) -> Annotation:
        try:
            values = [float(word) for word in words]
        except ValueError:
            shown = printable(" ".join(words)[:60])
            raise DataError(where, f"not a line of numbers: {shown!r}") from None
        if not all(map(math.isfinite, values)):
            raise DataError(where, "a number is not finite")
        kind, *shares = values
        if kind != int(kind) or not 0 <= kind < len(self.ids):
            raise DataError(where, f"unknown class {words[0]}: there are {len(self.ids)}")
        category = self.ids[int(kind)]
        flat = shares[:4] if self.task == "pose" else shares
        if any(not -_SLACK <= share <= 1 + _SLACK for share in flat):
            raise DataError(where, "a coordinate is not a share of the image, from 0 to 1")
        height, width = size
        if self.task == "pose" and len(shares) == 4 + self.points * self.width:
            points: list[float] = []
            for k in range(4, len(shares), self.width):
                x, y = _pixels(shares[k : k + 2], size)
                seen = shares[k + 2] if self.width == 3 else 2.0
                # A keypoint at (j, i) is that pixel's centre.
                points += (0.0, 0.0, 0.0) if not seen else (x - 0.5, y - 0.5, seen)
            return Annotation(category, _box(shares, height, width, where), keypoints=tuple(points))
        if len(shares) == 4:
            return Annotation(category, _box(shares, height, width, where))
        if self.task == "obb" and len(shares) == 8:
            return Annotation(category, oriented=_pixels(shares, size))
        if len(shares) >= 6 and len(shares) % 2 == 0 and self.task in ("segment", "detect"):
            return Annotation(category, polygons=(_pixels(shares, size),))
        raise DataError(where, f"{len(words)} numbers are no object of the task {self.task}")

    def lines(
        self, annotations: Sequence[Annotation], size: tuple[int, int], where: str
    ) -> list[str | None]:
        """Returns the line of each object; None for one that no line can say.

        A box without area or outside the image, a crowd, a mask in run lengths, and an outline of
        too many parts to be joined have none.
        What reaches beyond the image ends at its edge.
        """
        return [self._line(each, size, where) for each in annotations]

    def _line(self, each: Annotation, size: tuple[int, int], where: str) -> str | None:
        if each.category not in self.ids or each.crowd:
            return None
        kind = str(self.ids.index(each.category))
        box = hull(each, where)
        if box is None:
            return None
        inside = clipped(box, size)
        if inside is None:
            return None
        match self.task:
            case "segment":
                if each.rle or _pairs(each.polygons) > _MOST_PAIRS:
                    return None
                shape = joined(each.polygons) if each.polygons else _corners(inside)
                return " ".join((kind, *_shares(shape, size)))
            case "obb":
                shape = each.oriented or _corners(inside)
                return " ".join((kind, *_shares(shape, size)))
            case "pose":
                words = [kind, *_box_words(inside, size)]
                points = each.keypoints or (0.0, 0.0, 0.0) * self.points
                if len(points) != 3 * self.points:
                    return None
                for k in range(0, len(points), 3):
                    x, y, seen = points[k : k + 3]
                    at = (x + 0.5, y + 0.5) if seen else (0.0, 0.0)
                    words += [*_shares(at, size), *([f"{seen:g}"] if self.width == 3 else [])]
                return " ".join(words)
        return " ".join((kind, *_box_words(inside, size)))


def joined(parts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Returns one outline of several: each is joined to the rest where they are nearest.

    The way there and back is the same line, so that the area is that of the parts.
    """
    out = np.array(parts[0]).reshape(-1, 2)
    for part in parts[1:]:
        more = np.array(part).reshape(-1, 2)
        i, j = _nearest(out, more)
        out = np.concatenate([out[: i + 1], more[j:], more[: j + 1], out[i:]])
    return tuple(out.reshape(-1).tolist())


def _pairs(parts: Sequence[tuple[float, ...]]) -> int:
    """Returns how many pairs of points `joined` looks at."""
    pairs = held = 0
    for part in parts:
        pairs += held * len(part) // 4
        held += len(part)
    return pairs


def _nearest(points: Floats, others: Floats) -> tuple[int, int]:
    """Returns the first two that are nearest to one another."""
    best = (math.inf, 0, 0)
    rows = max(1, _AT_ONCE // len(others))
    for start in range(0, len(points), rows):
        some = points[start : start + rows, None, :] - others[None, :, :]
        distances = (some**2).sum(axis=2)
        i, j = divmod(int(distances.argmin()), len(others))
        best = min(best, (float(distances[i, j]), start + i, j))
    return best[1:]


def _pixels(shares: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    height, width = size
    return tuple(
        round(share * (height if k % 2 else width), _FINE) for k, share in enumerate(shares)
    )


def _box(shares: Sequence[float], height: int, width: int, where: str) -> Box:
    x, y, w, h = shares[:4]
    return box_of(
        round((x - w / 2) * width, _FINE),
        round((y - h / 2) * height, _FINE),
        round((x + w / 2) * width, _FINE),
        round((y + h / 2) * height, _FINE),
        where,
    )


def _corners(box: Box) -> tuple[float, ...]:
    x0, y0, x1, y1 = box
    return x0, y0, x1, y0, x1, y1, x0, y1


def _shares(points: Sequence[float], size: tuple[int, int]) -> list[str]:
    """Returns pixels as shares, within the image, with as many decimals as bring them back."""
    return [_share(each, size[0] if k % 2 else size[1]) for k, each in enumerate(points)]


def _share(value: float, side: int) -> str:
    share = min(max(value / side, 0.0), 1.0)
    for digits in range(_FINE, 13):
        text = f"{share:.{digits}f}"
        if round(float(text) * side, _FINE) == value:
            return text
    return f"{share:.{_FINE}f}"


def _box_words(box: Box, size: tuple[int, int]) -> list[str]:
    """Returns centre, width and height as shares, with as many decimals as bring the box back."""
    height, width = size
    x0, y0, x1, y1 = box
    shares = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    for digits in range(_FINE, 13):
        words = [f"{share:.{digits}f}" for share in shares]
        if _box([float(word) for word in words], height, width, "") == box:
            return words
    return [f"{share:.{_FINE}f}" for share in shares]
