"""Annotations to draw on a preview: a COCO file, or a folder of class masks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from augpipe.data.decode import decode
from augpipe.errors import DataError, UsageError, reason
from augpipe.types import Array, Floats


def _none(width: int) -> Floats:
    return np.zeros((0, width))


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of one image besides its pixels.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        labels: (N,), the class of each box.
        keypoints: (M, 3), x, y and COCO's visibility: 1 hidden, 2 seen.
        mask: (H, W) of class numbers, 0 for the background, or None.
    """

    boxes: Floats = field(default_factory=lambda: _none(4))
    labels: tuple[int, ...] = ()
    keypoints: Floats = field(default_factory=lambda: _none(3))
    mask: Array | None = None

    def classes(self) -> set[int]:
        """Returns the class numbers that occur."""
        in_mask = set() if self.mask is None else set(np.unique(self.mask).tolist()) - {0}
        return in_mask | set(self.labels)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a COCO file, as it stands there, checked but not drawn.

    Args:
        size: Height and width.
        marks: Boxes, labels and keypoints.
        polygons: Outlines, x and y in turn, with their class.
    """

    size: tuple[int, int]
    marks: Marks
    polygons: tuple[tuple[list[float], int], ...]


@dataclass(frozen=True, slots=True)
class Annotations:
    """The marks of many images.

    Args:
        names: The name of each class.
        entries: By file name, or by path within the dataset, as the file gives it.
        masks: A folder with a mask `NAME.png` for an image `NAME.*`, or None.
    """

    names: dict[int, str] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    masks: Path | None = None

    def has(self, relative: str) -> bool:
        """Tells whether anything is known of an image by its path within the folder."""
        return self._entry(relative) is not None or self._mask(relative) is not None

    def find(self, relative: str, size: tuple[int, int]) -> Marks | None:
        """Returns the marks of an image by its path within the folder, or None.

        Raises:
            DataError: If they are of an image of another (height, width).
        """
        entry, path = self._entry(relative), self._mask(relative)
        if entry is None and path is None:
            return None
        marks = entry.marks if entry else Marks()
        if entry and entry.size != size:
            raise DataError(
                relative, f"is {_words(size)}, its annotations say {_words(entry.size)}"
            )
        mask = _outlines(entry) if entry else None
        if path is not None:
            mask = decode(path)[:, :, 0]
            if mask.shape != size:
                raise DataError(path, f"a mask of {_words(mask.shape)} for {_words(size)}")
        return replace(marks, mask=mask)

    def _entry(self, relative: str) -> Entry | None:
        return self.entries.get(relative) or self.entries.get(relative.rpartition("/")[2])

    def _mask(self, relative: str) -> Path | None:
        path = self.masks / f"{Path(relative).stem}.png" if self.masks else None
        return path if path and path.is_file() else None


def read_annotations(coco: Path | None, masks: Path | None) -> Annotations:
    """Reads a COCO file and notes a folder of masks.

    Polygons become a mask of category numbers, later objects over earlier ones; masks in
    run-length form are left out. A folder of masks takes the place of the polygons.

    Args:
        coco: A COCO annotation file, or None.
        masks: A folder of single-channel PNG masks, or None.

    Raises:
        UsageError: If one is not there.
        DataError: If the file is not COCO.
    """
    if masks is not None and not masks.is_dir():
        raise UsageError(f"{masks}: no such folder of masks")
    if coco is None:
        return Annotations(masks=masks)
    try:
        return _coco(json.loads(coco.read_text(encoding="utf-8")), masks)
    except FileNotFoundError:
        raise UsageError(f"{coco}: no such annotation file") from None
    except OSError as error:
        raise DataError(coco, reason(error)) from None
    except KeyError as error:
        raise DataError(coco, f"not a COCO annotation file: no {error} where one belongs") from None
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise DataError(coco, "not a COCO annotation file (JSON of objects)") from None


def _coco(content: Any, masks: Path | None) -> Annotations:
    names = {int(each["id"]): str(each["name"]) for each in content["categories"]}
    own: dict[int, list[Any]] = {}
    for each in content["annotations"]:
        own.setdefault(each["image_id"], []).append(each)
    entries = {str(im["file_name"]): _read(im, own.get(im["id"], [])) for im in content["images"]}
    return Annotations(names, entries, masks)


def _read(image: Any, annotations: list[Any]) -> Entry:
    boxes, labels, points, polygons = [], [], [_none(3)], []
    for each in annotations:
        x, y, width, height = each["bbox"]
        label = int(each["category_id"])
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
        points.append(np.asarray(each.get("keypoints", []), np.float64).reshape(-1, 3))
        outline = each.get("segmentation")
        polygons += [(polygon, label) for polygon in outline] if isinstance(outline, list) else []
    keypoints = np.concatenate(points)
    return Entry(
        (int(image["height"]), int(image["width"])),
        Marks(
            np.asarray(boxes, np.float64).reshape(-1, 4),
            tuple(labels),
            keypoints[keypoints[:, 2] > 0],
        ),
        tuple(polygons),
    )


def _outlines(entry: Entry) -> Array | None:
    """Draws the polygons as class numbers."""
    if not entry.polygons:
        return None
    deep = max(label for _, label in entry.polygons) > 255
    canvas = Image.new("I;16" if deep else "L", entry.size[::-1])
    pen = ImageDraw.Draw(canvas)
    for polygon, label in entry.polygons:
        # Pillow counts from pixel centres, COCO from pixel corners.
        pen.polygon([value - 0.5 for value in polygon], fill=label)
    return np.asarray(canvas)


def _words(size: tuple[int, ...]) -> str:
    return f"{size[0]} × {size[1]}"
