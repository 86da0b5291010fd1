"""The objects of an image through the pipeline: records to shapes that move, and back.

A box moves as its four corners and ends as the hull of what is seen of it (`targets.finish`):
whether an object stays is decided by its box. Outlines are cut at the frame and stay outlines;
rotated boxes end along their own sides; masks in run lengths move as masks. Where an op of
another library, which knows rectangles only, stands in the recipe, outlines move as masks too and
stay such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Meta
from augpipe.data.masks import fill
from augpipe.data.rle import decode_rle, encode_rle
from augpipe.data.shapes import hull, polygon_area
from augpipe.errors import DataError
from augpipe.polygons import areas
from augpipe.settings import BoxRules
from augpipe.targets import Outlines, Points, Sample, finish, oriented_outline, outline, visible
from augpipe.types import Array, Floats

_FINE = 6  # decimals of a pixel that are kept
_LEAST = 1e-6  # square pixels
_STALE = ("area", "part", "polygon", "robndbox", "point")
"""Fields that tell where an object was: what they say is not true of an augmented one."""


def flips(meta: Meta, pairs: Sequence[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    """Returns, for categories whose keypoints have sides, what each becomes in a mirror.

    That is what the category says; else what follows from names with "left" and "right"; else
    the recipe's pairs, where it has so many keypoints.
    """
    out = {}
    highest = max((k for pair in pairs for k in pair), default=0)
    swap = {k: other for a, b in pairs for k, other in ((a, b), (b, a))}
    for each in meta.categories:
        count = len(each.keypoints)
        flip = each.flip or _by_name(each)
        if list(flip) == list(range(count)) and highest < count:
            flip = tuple(swap.get(k, k) for k in range(count))
        if any(k != other for k, other in enumerate(flip)):
            out[each.id] = flip
    return out


def _by_name(category: Category) -> tuple[int, ...]:
    names = category.keypoints
    swap = {"left": "right", "right": "left"}

    def other(name: str) -> str:
        parts = name.replace("-", "_").split("_")
        return "_".join(swap.get(part.lower(), part) for part in parts)

    known = {name.replace("-", "_"): k for k, name in enumerate(names)}
    return tuple(known.get(other(name), k) for k, name in enumerate(names))


@dataclass(frozen=True, slots=True)
class Objects:
    """An image's objects, laid out for the pipeline; what comes back is put together again.

    Args:
        image: The record.
        flips: See `flips`.
        solid: Whether outlines move as masks.
        size: The image's height and width.
    """

    image: AnnotatedImage
    flips: Mapping[int, tuple[int, ...]]
    solid: bool
    size: tuple[int, int]

    def sample(self, pixels: Array, mask: Array | None) -> Sample:
        """Returns what moves.

        Args:
            pixels: The image.
            mask: Its own mask, (H, W, C), or None.

        Raises:
            DataError: If the mask, or that of an object, is of another size.
        """
        masks = [] if mask is None else [mask]
        if (stack := self._masks()) is not None:
            masks.append(stack)
        if any(each.shape[:2] != self.size for each in masks):
            raise DataError(self.image.name, f"a mask is of another size than {_by(self.size)}")
        points = [Points.of(at + 0.5)] if len(at := self._points()) else []
        boxes = [each for each in (self._upright(), self._rotated()) if len(each)]
        parts = self._parts()
        return Sample(pixels, masks, points, boxes, outlines=[_polygons(parts)] if parts else [])

    def _boxed(self) -> list[int]:
        """Returns the objects that have a place, and no rotated box that says it."""
        return [
            k
            for k, each in enumerate(self.image.annotations)
            if each.oriented is None and hull(each, self.image.name) is not None
        ]

    def _parts(self) -> list[tuple[int, tuple[float, ...]]]:
        objects = enumerate(self.image.annotations)
        return [] if self.solid else [(k, part) for k, each in objects for part in each.polygons]

    def _turned(self) -> list[int]:
        return [k for k, each in enumerate(self.image.annotations) if each.oriented is not None]

    def _solid(self) -> list[int]:
        objects = enumerate(self.image.annotations)
        return [k for k, each in objects if each.rle or (self.solid and each.polygons)]

    def _upright(self) -> Outlines:
        name = self.image.name
        boxes = [hull(self.image.annotations[k], name) for k in self._boxed()]
        return outline(np.array(boxes, np.float64).reshape(-1, 4), name)

    def _rotated(self) -> Outlines:
        corners = [self.image.annotations[k].oriented or () for k in self._turned()]
        return oriented_outline(np.array(corners, np.float64), self.image.name)

    def _masks(self) -> Array | None:
        objects, name = self.image.annotations, self.image.name
        layers = []
        for k in self._solid():
            rle = objects[k].rle
            layers.append(
                fill(objects[k].polygons, self.size) if rle is None else decode_rle(rle, name)
            )
        return np.stack(layers, axis=2) if layers else None

    def _points(self) -> Floats:
        flat = [value for each in self.image.annotations for value in each.keypoints]
        return np.array(flat, np.float64).reshape(-1, 3)[:, :2]

    def moved(self, sample: Sample, rules: BoxRules) -> tuple[Annotation, ...]:
        """Returns the objects of a transformed sample: those of which enough is seen.

        Args:
            sample: What became of `sample`.
            rules: What is enough.
        """
        size = sample.image.shape[0], sample.image.shape[1]
        found: dict[int, Floats] = {}  # boxes, and corners of rotated ones
        cut: set[int] = set()
        objects = filter(None, (self._boxed(), self._turned()))
        for own, moved in zip(objects, sample.boxes, strict=True):
            ends, kept = finish(moved, size, rules.min_area, rules.min_visibility)
            found |= {own[row]: end for row, end in zip(kept.tolist(), ends, strict=True)}
            less = areas(visible(moved, size)) < 0.999 * areas(moved.whole)
            cut |= {own[row] for row in np.flatnonzero(less)}
        polygons: dict[int, list[tuple[float, ...]]] = {}
        shapes = [polygon for each in sample.outlines for polygon in visible(each, size)]
        for (k, _), polygon in zip(self._parts(), shapes, strict=True):
            if (shape := _shape(polygon)) is not None:
                polygons.setdefault(k, []).append(shape)
        layers: dict[int, Array] = {}
        if solid := self._solid():
            layers = {k: sample.masks[-1][:, :, row] for row, k in enumerate(solid)}
        points = self._moved_points(sample)
        out = []
        for k, each in enumerate(self.image.annotations):
            place = found.get(k)
            if place is None and hull(each, self.image.name) is not None:
                continue
            made = replace(
                each,
                box=None if place is None or each.box is None else rounded(around(place, size)),
                polygons=tuple(polygons.get(k, ())),
                rle=encode_rle(layers[k]) if k in layers and layers[k].any() else None,
                oriented=None if place is None or each.oriented is None else _flat(place),
                keypoints=points[k],
                id=None,
                source=each.id,
                extra=_extra(each.extra, k in cut),
            )
            shaped = each.polygons or each.rle
            if not shaped or made.polygons or made.rle:
                out.append(made)
        return tuple(out)

    def _moved_points(self, sample: Sample) -> list[tuple[float, ...]]:
        """Returns each object's keypoints: those out of sight have visibility 0 and no place."""
        if not sample.points:
            return [() for _ in self.image.annotations]
        (points,) = sample.points
        at, seen = points.at - 0.5, points.seen
        out: list[tuple[float, ...]] = []
        first = 0
        for each in self.image.annotations:
            count = len(each.keypoints) // 3
            triples: list[tuple[float, float, float]] = []
            for k in range(count):
                shown = each.keypoints[3 * k + 2] if seen[first + k] else 0.0
                x, y = rounded(at[first + k])
                triples.append((x, y, shown) if shown else (0.0, 0.0, 0.0))
            flip = self.flips.get(each.category, ())
            if len(flip) == count and points.mirrored[first : first + count].any():
                triples = [triples[k] for k in flip]
            first += count
            out.append(tuple(value for triple in triples for value in triple))
        return out


def _extra(extra: Mapping[str, Any], cut: bool) -> dict[str, Any]:
    """Returns what else is said of an object, as of one that was moved, and perhaps cut."""
    out = {name: value for name, value in extra.items() if name not in _STALE}
    if cut and "truncated" in out:
        out["truncated"] = type(out["truncated"])(1)
    return out


def around(place: Floats, size: tuple[int, int]) -> Floats:
    """Returns the box of a box, or of a rotated one's corners, on an image of a size."""
    if place.ndim == 1:
        return place
    hull = np.concatenate([place.min(axis=0), place.max(axis=0)])
    return np.clip(hull, 0.0, [size[1], size[0], size[1], size[0]])


def _polygons(parts: Sequence[tuple[int, Sequence[float]]]) -> Outlines:
    """Returns outlines of objects' parts; short ones are padded by their last corner."""
    most = max((len(part) // 2 for _, part in parts), default=4)
    padded = [[*part, *(tuple(part[-2:]) * (most - len(part) // 2))] for _, part in parts]
    corners = np.array(padded, np.float64).reshape(-1, most, 2)
    return Outlines(corners, corners)


def _shape(polygon: Floats) -> tuple[float, ...] | None:
    """Returns a polygon without corners that stand twice; None if it has no area."""
    rounded = np.round(polygon, _FINE)
    apart = (rounded != np.roll(rounded, 1, axis=0)).any(axis=1)
    flat = _flat(rounded[apart])
    return flat if len(flat) >= 6 and polygon_area(flat) > _LEAST else None


def _flat(points: Floats) -> tuple[float, ...]:
    return rounded(points.reshape(-1))


def rounded(values: Floats) -> Any:
    """Returns numbers as a record has them."""
    return tuple((np.round(values, _FINE) + 0.0).tolist())


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
