"""The elements of COCO json: images, objects and categories to values, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from augpipe.data.annotated import (
    AnnotatedImage,
    Annotation,
    Category,
    Id,
    Rle,
    box_of,
    number,
    span,
)
from augpipe.data.shapes import area_of, hull
from augpipe.errors import DataError, printable

OWN = "augpipe"
"""The key of what COCO has no key for."""

IMAGE = ("id", "file_name", "width", "height", "split", OWN)
"""The keys of an image that are not kept among the other ones."""

_CATEGORY = ("id", "name", "supercategory", "keypoints", "skeleton", OWN)
_OBJECT = (
    "id",
    "image_id",
    "category_id",
    "bbox",
    "segmentation",
    "keypoints",
    "num_keypoints",
    "iscrowd",
    "score",
    OWN,
)


def annotation_of(value: Any, known: frozenset[int], where: str) -> Annotation:
    """Returns the object that one element of `annotations` says.

    Args:
        value: The element.
        known: The ids of the categories.
        where: What errors call the image.

    Raises:
        DataError: If it cannot be used; it names the annotation.
    """
    where = f"{where}: annotation {value.get('id')!r}"
    category = value.get("category_id")
    if category not in known or isinstance(category, bool):
        raise DataError(where, f"unknown category id {printable(repr(category)[:60])}")
    own = own_of(value, where)
    polygons, rle = _segmentation(value.get("segmentation"), where)
    out = Annotation(
        category=category,
        box=None if own.get("bbox") == "hull" else _box(value.get("bbox"), where),
        polygons=polygons,
        rle=rle,
        oriented=_numbers(own["oriented"], where, "oriented", 8) if "oriented" in own else None,
        keypoints=_numbers(value.get("keypoints") or (), where, "keypoints", 3),
        crowd=bool(value.get("iscrowd")),
        score=None if value.get("score") is None else number(value["score"], where, "score"),
        id=None if value.get("id") is None else id_of(value["id"], where),
        source=own.get("source"),
        extra=others(value, _OBJECT, own),
    )
    if "area" in value:
        area = number(value["area"], where, "area")
        if area == area_of(out, where):  # said by the shape itself
            extra = {name: each for name, each in out.extra.items() if name != "area"}
            return replace(out, extra=extra)
    return out


def _box(value: Any, where: str) -> tuple[float, float, float, float] | None:
    if value is None or value == []:
        return None
    x, y, width, height = _numbers(value, where, "bbox", 4)
    return box_of(x, y, x + width, y + height, where)


def _segmentation(value: Any, where: str) -> tuple[tuple[tuple[float, ...], ...], Rle | None]:
    if not value:
        return (), None
    if isinstance(value, dict):
        try:
            (height, width), counts = value["size"], value["counts"]
            if not isinstance(counts, str):
                counts = tuple(int(each) for each in counts)
            return (), Rle((int(height), int(width)), counts)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                where, "a run-length mask needs size [height, width] and counts"
            ) from None
    if not isinstance(value, list):
        raise DataError(where, "segmentation must be a list of polygons, or run lengths")
    parts = tuple(_numbers(part, where, "a polygon", 2) for part in value)
    if any(len(part) < 6 for part in parts):
        raise DataError(where, "a polygon needs three points")
    return parts, None


def _numbers(value: Any, where: str, what: str, of: int) -> tuple[float, ...]:
    """Returns finite numbers: `of`, or for points (2 or 3) a multiple of that."""
    if not isinstance(value, list | tuple):
        raise DataError(where, f"{what} must be a list of numbers")
    out = tuple(number(each, where, what) for each in value)
    if (len(out) % of) if of < 4 else len(out) != of:
        raise DataError(where, f"{what} has {len(out)} numbers: {of} belong together")
    return out


def object_json(annotation: Annotation, image: Id | None, where: str) -> dict[str, Any]:
    """Returns an object as an element of `annotations`.

    Args:
        annotation: The object.
        image: The id of its image.
        where: What errors call it.
    """
    out: dict[str, Any] = {
        "id": annotation.id,
        "image_id": image,
        "category_id": annotation.category,
    }
    box = hull(annotation, where)
    if box is not None:
        out["bbox"] = [box[0], box[1], span(box[0], box[2]), span(box[1], box[3])]
    if annotation.polygons:
        out["segmentation"] = [list(part) for part in annotation.polygons]
    elif annotation.rle is not None:
        counts = annotation.rle.counts
        out["segmentation"] = {
            "size": list(annotation.rle.size),
            "counts": counts if isinstance(counts, str) else list(counts),
        }
    if annotation.keypoints:
        out["keypoints"] = list(annotation.keypoints)
        out["num_keypoints"] = sum(each > 0 for each in annotation.keypoints[2::3])
    out["area"] = area_of(annotation, where)
    out["iscrowd"] = int(annotation.crowd)
    if annotation.score is not None:
        out["score"] = annotation.score
    own: dict[str, Any] = {}
    if annotation.box is None and box is not None:
        own["bbox"] = "hull"
    if annotation.oriented is not None:
        own["oriented"] = list(annotation.oriented)
    if annotation.source is not None:
        own["source"] = annotation.source
    return with_extra(out, annotation.extra, _OBJECT, own)


def id_of(value: Any, where: object) -> Id:
    """Returns an id.

    Raises:
        DataError: If it is neither a whole number nor text.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise DataError(
            where, f"an id is a whole number or text, not {printable(repr(value)[:60])}"
        )
    return value


def own_of(value: Mapping[str, Any], where: object) -> Mapping[str, Any]:
    """Returns what stands under `augpipe`.

    Raises:
        DataError: If that is no object, or what it says is not of the kind that stands there.
    """
    own = value.get(OWN) or {}
    if not isinstance(own, dict) or not isinstance(own.get("extra", {}), dict):
        raise DataError(where, f"what stands under {OWN} is no object")
    for name in ("label", "split", "mask"):
        if not isinstance(own.get(name), str | None):
            raise DataError(where, f"{OWN}: {name} must be text")
    if not isinstance(own.get("source"), dict | int | str | None):
        raise DataError(where, f"{OWN}: source is none")
    return own


def others(
    value: Mapping[str, Any], known: Sequence[str], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields whose names are not known, and those that stood under `augpipe`."""
    return {**{k: v for k, v in value.items() if k not in known}, **own.get("extra", {})}


def apart(extra: Mapping[str, Any], known: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns fields that may stand among COCO's own, and those whose names COCO has taken."""
    hidden = {name: value for name, value in extra.items() if name in known}
    plain = {name: value for name, value in extra.items() if name not in known}
    return plain, {"extra": hidden} if hidden else {}


def with_extra(
    out: dict[str, Any], extra: Mapping[str, Any], known: Sequence[str], own: dict[str, Any]
) -> dict[str, Any]:
    """Returns an element with its other fields; those of COCO's names stand under `augpipe`."""
    plain, hidden = apart(extra, known)
    own = own | hidden
    return {**out, **plain, **({OWN: own} if own else {})}


def category_of(value: Any, path: Path) -> Category:
    """Returns the category that one element of `categories` says.

    Raises:
        DataError: If it is none; it names the category.
    """
    if not isinstance(value, dict) or "id" not in value or not isinstance(value.get("name"), str):
        raise DataError(path, "a category needs id and name")
    where = f"{path}: category {value['name']!r}"
    if isinstance(value["id"], bool) or not isinstance(value["id"], int):
        raise DataError(where, "its id must be a whole number")
    own = own_of(value, where)
    try:
        skeleton = tuple((int(a), int(b)) for a, b in value.get("skeleton") or ())
        points = tuple(map(str, value.get("keypoints") or ()))
        flip = tuple(map(int, own.get("flip", ())))
    except (TypeError, ValueError, OverflowError):
        raise DataError(where, "its keypoints or skeleton are not lists as COCO's") from None
    return Category(
        value["id"],
        value["name"],
        value.get("supercategory"),
        points,
        skeleton,
        flip,
        others(value, _CATEGORY, own),
    )


def category_json(category: Category) -> dict[str, Any]:
    """Returns a category as an element of `categories`."""
    out: dict[str, Any] = {"id": category.id, "name": category.name}
    if category.supercategory is not None:
        out["supercategory"] = category.supercategory
    if category.keypoints:
        out["keypoints"] = list(category.keypoints)
        out["skeleton"] = [list(pair) for pair in category.skeleton]
    own: dict[str, Any] = {"flip": list(category.flip)} if category.flip else {}
    return with_extra(out, category.extra, _CATEGORY, own)


def image_json(image: AnnotatedImage, mask: str | None) -> dict[str, Any]:
    """Returns an image as an element of `images`.

    Args:
        image: The image.
        mask: Where its mask lies in the dataset, if it has one.
    """
    out: dict[str, Any] = {"id": image.id, "file_name": image.name}
    if image.size:
        out |= {"width": image.size[1], "height": image.size[0]}
    own: dict[str, Any] = {}
    if image.label is not None:
        own["label"] = image.label
    if mask is not None:
        own["mask"] = mask
    if image.source is not None:
        own["source"] = dict(image.source)
    return with_extra(out, image.extra, IMAGE, own)
