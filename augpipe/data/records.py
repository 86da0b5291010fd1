"""One image's record as a JSON object, for formats that keep a record beside the image's bytes.

The keys that other tools read are COCO's (`file_name`, `width`, `height`, `annotations`); what they
do not tell stands under `augpipe`, whole, where they do not tell all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from augpipe.data.annotated import AnnotatedImage, Category, Meta, image_from, safe_name, to_json
from augpipe.data.coco_objects import OWN, annotation_of, object_json
from augpipe.data.content import Content
from augpipe.errors import DataError

_KEYS = ("file_name", "image_id", "width", "height", "label", "annotations", OWN)


def to_record(image: AnnotatedImage, meta: Meta) -> dict[str, Any]:
    """Returns an image's record.

    Args:
        image: The image.
        meta: Whose categories' names are added to the objects.
    """
    names = {each.id: each.name for each in meta.categories}
    out: dict[str, Any] = {"file_name": image.name}
    if image.id is not None:
        out["image_id"] = image.id
    if image.size is not None:
        out |= {"width": image.size[1], "height": image.size[0]}
    if image.label is not None:
        out["label"] = image.label
    if image.annotations:
        out["annotations"] = [
            {**object_json(each, image.id, image.name), "category": names.get(each.category)}
            for each in image.annotations
        ]
    out |= {name: value for name, value in image.extra.items() if name not in _KEYS}
    restored = from_record(out, image.content, image.split, image.mask, meta, image.name)
    return out if restored == image else {**out, OWN: to_json(image)}


def from_record(
    record: Mapping[str, Any],
    content: Content,
    split: str | None,
    mask: Content | None,
    meta: Meta,
    where: str,
) -> AnnotatedImage:
    """Returns the image of a record.

    Args:
        record: The JSON object.
        content: Where the image's bytes are.
        split: The split it was found in.
        mask: Where its mask's bytes are, or None.
        meta: Whose categories the objects have.
        where: What errors call it.

    Raises:
        DataError: If it cannot be used.
    """
    try:
        if OWN in record:
            return replace(image_from(record[OWN], content, mask))
        name = safe_name(record["file_name"], where)
        known = frozenset(each.id for each in meta.categories)
        given = record.get("annotations", [])
        objects = []
        for each in given:
            one = annotation_of({k: v for k, v in each.items() if k != "category"}, known, where)
            objects.append(replace(one, id=each.get("id")))
        size = None
        if record.get("width") and record.get("height"):
            size = int(record["height"]), int(record["width"])
        if size is not None and not 1 <= min(size) <= max(size) < 2**31:
            raise ValueError("its width and height")
        label, own_id = record.get("label"), record.get("image_id")
        if isinstance(label, list | dict | float) or isinstance(own_id, list | dict | float):
            raise ValueError("its label or image_id")
        extra = {k: v for k, v in record.items() if k not in _KEYS}
        return AnnotatedImage(
            name,
            content,
            split,
            size,
            None if label is None else str(label),
            tuple(objects),
            mask,
            own_id,
            None,
            extra,
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(where, f"not a record of an image ({error})") from None


def categories_in(record: Mapping[str, Any]) -> list[Category]:
    """Returns the categories that a record's objects name; those of a stranger's are none."""
    found = record.get("annotations")
    return [
        Category(each["category_id"], each["category"])
        for each in (found if isinstance(found, list) else [])
        if isinstance(each, dict)
        and isinstance(each.get("category_id"), int)
        and isinstance(each.get("category"), str)
    ]
