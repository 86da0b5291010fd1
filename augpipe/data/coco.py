"""COCO json: boxes, outlines, masks and keypoints of a million objects in one file a split.

Written as `annotations/instances[_SPLIT].json` beside `images/[SPLIT/]NAME`. What COCO has no key
for (a split, an image's class, rotated boxes, where an augmented image came from) stands under a
key `augpipe` of the same object; every key that is not COCO's is kept as it is.

COCO's `bbox` is x, y, width, height in continuous pixels; its keypoints count from pixel 0.
Reference: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from augpipe.data.annotated import AnnotatedImage, Dataset, Entry, Id, Meta, number, safe_name
from augpipe.data.coco_objects import (
    IMAGE,
    OWN,
    annotation_of,
    apart,
    category_json,
    category_of,
    id_of,
    image_json,
    object_json,
    others,
    own_of,
)
from augpipe.data.content import FileContent
from augpipe.data.jsonscan import Element, first_keys, scan
from augpipe.data.places import home_of, image_at, mask_ending, split_in, split_path, visible
from augpipe.data.shapes import Notes
from augpipe.data.splitfiles import JsonLists, file_part
from augpipe.errors import DataError, UsageError
from augpipe.types import Ints

NAME = "coco"
LOOKS = "a .json file with images, annotations and categories"
PACKED = False

_SPLITS = "by_split"
_TOP = ("images", "annotations", "categories", OWN)


def sniff(path: Path) -> bool:
    """Tells whether a path is a COCO file, or a folder with one in a usual place."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_coco(path) else []
    if not path.is_dir():
        return []
    folders, _ = visible(path)
    found: list[Path] = []
    for folder in (path, *(path / name for name in folders)):
        names = [name for name in visible(folder)[1] if name.lower().endswith(".json")]
        found += [folder / name for name in names if _is_coco(folder / name)]
    return found


def _is_coco(path: Path) -> bool:
    keys = first_keys(path)
    return bool(keys & {"images", "annotations"}) and bool(
        keys & {"categories", "category_id", "file_name"}
    )


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a COCO file, or those of a folder, a split each.

    The files are gone through once; of each image and object only its place is kept.

    Args:
        path: The file or the folder.
        images: The folder that file names count from; by default it is looked for.

    Raises:
        DataError: If a file is no COCO, or has an id twice.
        UsageError: If two files are of one split.
    """
    parts = [_open(each, path, images, len(_files(path))) for each in _files(path)]
    if not parts:
        raise UsageError(f"{path}: no COCO file ({LOOKS})")
    seen: dict[str | None, Path] = {}
    for part in parts:
        for split in dict.fromkeys(each.split for each in part.entries):
            if split in seen and seen[split] != part.path:
                raise UsageError(
                    f"{path}: {seen[split].name} and {part.path.name} are both of the split "
                    f"{split}: name the file"
                )
            seen[split] = part.path
        if part.meta.categories != parts[0].meta.categories:
            raise DataError(part.path, f"has other categories than {parts[0].path.name}")
    places = [(part, k) for part in parts for k in range(len(part.entries))]

    def load(index: int) -> AnnotatedImage:
        part, k = places[index]
        return part.load(k)

    meta = _joined(parts)
    last = (max(part.last[0] for part in parts), max(part.last[1] for part in parts))
    entries = [each for part in parts for each in part.entries]
    notes = tuple(note for part in parts for note in part.notes)
    return Dataset(path, NAME, meta, entries, load, last, notes)


def _joined(parts: Sequence[_Part]) -> Meta:
    """Returns what all files say; what only some do stands under its split."""
    first = parts[0].meta
    others = {
        part.entries[0].split: dict(part.meta.extra)
        for part in parts
        if part.meta.extra != first.extra
    }
    return replace(first, extra={**first.extra, _SPLITS: others}) if others else first


@dataclass(frozen=True, slots=True)
class _Part:
    """One file."""

    path: Path
    root: Path
    home: Callable[[str | None], Path]
    meta: Meta
    entries: Sequence[Entry]
    images: Sequence[tuple[int, int]]
    starts: Ints
    sizes: Ints
    bounds: Ints
    known: frozenset[int]
    last: tuple[int, int]
    notes: tuple[str, ...]

    def load(self, index: int) -> AnnotatedImage:
        entry, where = self.entries[index], f"{self.path}: {self.entries[index].name}"
        with self.path.open("rb") as file:

            def at(start: int, size: int) -> Any:
                file.seek(start)
                return json.loads(file.read(size))

            image = at(*self.images[index])
            rows = range(int(self.bounds[index]), int(self.bounds[index + 1]))
            objects = [at(int(self.starts[row]), int(self.sizes[row])) for row in rows]
        own = own_of(image, where)
        mask = safe_name(own["mask"], where) if "mask" in own else None
        return AnnotatedImage(
            name=entry.name,
            content=image_at(self.home(entry.split), entry.name, where),
            split=entry.split,
            size=_size(image, where),
            label=own.get("label"),
            annotations=tuple(annotation_of(each, self.known, where) for each in objects),
            mask=FileContent(self.root / mask) if mask else None,
            id=entry.id,
            source=own.get("source"),
            extra=others(image, IMAGE, own),
        )


def _open(path: Path, root: Path, images: Path | None, of: int) -> _Part:
    entries: list[Entry] = []
    places: list[tuple[int, int]] = []
    rows: dict[Id, int] = {}
    owners: list[Id] = []
    ids: list[Any] = []
    starts, sizes = array("q"), array("q")
    top: dict[str, Any] = {}
    for each in scan(path, ("images", "annotations")):
        if each.key == "images":
            entry = _entry(each, path)
            if entry.id in rows:
                raise DataError(path, f"two images have the id {entry.id!r}")
            rows[entry.id] = len(entries)  # type: ignore[index]
            entries.append(entry)
            places.append((each.start, each.size))
        elif each.key == "annotations":
            if not isinstance(each.value, dict) or "image_id" not in each.value:
                raise DataError(path, f"an annotation without image_id at byte {each.start}")
            owners.append(id_of(each.value["image_id"], path))
            own_id = each.value.get("id")
            ids.append(None if own_id is None else id_of(own_id, path))
            starts.append(each.start)
            sizes.append(each.size)
        else:
            top[each.key] = each.value
    if not entries:
        raise DataError(path, "has no images")
    _check_ids(ids, path)
    order = np.zeros(len(owners), np.int64)
    for k, image in enumerate(owners):
        order[k] = rows.get(image, -1)
    by_image = np.argsort(order, kind="stable")
    lost = np.flatnonzero(order == -1)
    by_image = by_image[len(lost) :]
    notes: tuple[str, ...] = ()
    if len(lost):
        first = f"{ids[lost[0]]!r} of image {owners[lost[0]]!r}"
        notes = (f"{path}: left out {len(lost)} annotations of images that it lacks: {first}",)
    own = own_of(top, path)
    named = own.get("split") or (
        split_in(path.stem) or split_in(path.parent.name) if of > 1 else None
    )
    named = None if named is None else safe_name(named, path)
    entries = [replace(each, split=each.split or named) for each in entries]
    meta = _meta(top, path)
    return _Part(
        path,
        root if root.is_dir() else path.parent,
        _homes(path, root, images, entries),
        meta,
        entries,
        places,
        np.array(starts, np.int64)[by_image],
        np.array(sizes, np.int64)[by_image],
        np.searchsorted(order[by_image], np.arange(len(entries) + 1)),
        frozenset(each.id for each in meta.categories),
        (_highest(rows), _highest(ids)),
        notes,
    )


def _homes(
    path: Path, root: Path, images: Path | None, entries: Sequence[Entry]
) -> Callable[[str | None], Path]:
    """Returns what tells, for each split, where its images are."""
    bases = [images] if images else [path.parent]
    if not images and (path.parent.name.lower().startswith("annotation") or root.is_dir()):
        bases.append(path.parent.parent if path.parent != root else path.parent)
    found: dict[str | None, Path] = {}
    for split in dict.fromkeys(each.split for each in entries):
        names = [each.name for each in entries if each.split == split][:20]
        found[split] = home_of(bases, names, [split], path)
    return found.__getitem__


def _entry(element: Element, path: Path) -> Entry:
    value = element.value
    where = f"{path}: the image at byte {element.start}"
    if not isinstance(value, dict) or "id" not in value or "file_name" not in value:
        raise DataError(where, "an image needs id and file_name")
    try:  # texts of an element come as letters for bytes, but for those that JSON escapes
        name = value["file_name"]
        name = (
            name.encode("latin-1").decode()
            if isinstance(name, str) and not name.isascii()
            else name
        )
    except UnicodeError:
        with path.open("rb") as file:
            file.seek(element.start)
            name = _decoded(file.read(element.size), where)["file_name"]
    split = value.get("split")
    named = split if isinstance(split, str) and split else None
    if named is not None:
        named = safe_name(named, where)
    return Entry(safe_name(name, where), named, id_of(value["id"], where))


def _decoded(data: bytes, where: object) -> Any:
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        raise DataError(where, "its text is not UTF-8") from None


def _check_ids(ids: Sequence[Any], path: Path) -> None:
    given = [each for each in ids if each is not None]
    if len(set(given)) < len(given):
        seen: set[Any] = set()
        again = next(each for each in given if each in seen or seen.add(each))  # type: ignore[func-returns-value]
        raise DataError(path, f"two annotations have the id {again!r}")


def _highest(ids: Iterable[Any]) -> int:
    return max((each for each in ids if isinstance(each, int)), default=0)


def _size(image: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if image.get("width") is None or image.get("height") is None:
        return None
    sides = number(image["height"], where, "height"), number(image["width"], where, "width")
    if min(sides) < 1:
        raise DataError(where, f"an image of {sides[0]:g} x {sides[1]:g} pixels")
    return int(sides[0]), int(sides[1])


def _meta(top: Mapping[str, Any], path: Path) -> Meta:
    given = top.get("categories", [])
    if not isinstance(given, list):
        raise DataError(path, "categories must be a list")
    categories = [category_of(each, path) for each in given]
    if len({each.id for each in categories}) < len(categories):
        raise DataError(path, "two categories have the same id")
    own = own_of(top, path)
    classes = own.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise DataError(path, f"{OWN}: classes must be a list of names")
    return Meta(tuple(categories), tuple(classes), others(top, _TOP, own))


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset."""
    return split_path("images", image)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return split_path("masks", image, mask_ending(image))


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes the annotation files of images that lie where `place` says.

    An image or an object without an id gets the next number. An object without a box gets that of
    its shape; `area` is computed where it is not given.

    Args:
        out: The dataset's folder.
        meta: Categories and the rest.
        images: In the order they are to stand in. They are not kept in memory.
        notes: Unused: COCO holds everything.

    Raises:
        DataError: If two images, or two objects, of a split have one id.
        AugpipeError: If a file cannot be written.
    """
    with ExitStack() as stack:
        files: dict[str | None, _Numbered] = {}
        taken: dict[str, str | None] = {}
        for image in images:
            if image.split not in files:
                name = "_".join(filter(None, ("instances", image.split)))
                path = (
                    out / "annotations" / f"{file_part(image.split, taken, name, image.name)}.json"
                )
                lists = JsonLists(path, _head(meta, image.split), ("images", "annotations"))
                files[image.split] = _Numbered(stack.enter_context(lists))
            files[image.split].add(image)


class _Numbered:
    """Gives numbers to what has none, and refuses a number that is there already."""

    def __init__(self, lists: JsonLists) -> None:
        self._lists = lists
        self._ids: dict[str, tuple[set[Id], int]] = {"image": (set(), 0), "annotation": (set(), 0)}

    def add(self, image: AnnotatedImage) -> None:
        own = self._number("image", image.id, image.name)
        mask = None if image.mask is None else place_mask(image)
        self._lists.add("images", image_json(replace(image, id=own), mask))
        for each in image.annotations:
            number = self._number("annotation", each.id, image.name)
            value = object_json(replace(each, id=number), own, f"{image.name}: object {number}")
            self._lists.add("annotations", value)

    def _number(self, kind: str, given: Id | None, where: str) -> Id:
        seen, last = self._ids[kind]
        own = last + 1 if given is None else given
        if own in seen:
            raise DataError(where, f"a second {kind} has the id {own!r}")
        seen.add(own)
        self._ids[kind] = (seen, max(last, own) if isinstance(own, int) else last)
        return own


def _head(meta: Meta, split: str | None) -> dict[str, Any]:
    own: dict[str, Any] = {"split": split} if split else {}
    if meta.classes:
        own["classes"] = list(meta.classes)
    others = {name: each for name, each in meta.extra.items() if name != _SPLITS}
    extra = meta.extra.get(_SPLITS, {}).get(split, others)
    top, hidden = apart(extra, _TOP)
    own |= hidden
    return {
        **top,
        **({OWN: own} if own else {}),
        "categories": list(map(category_json, meta.categories)),
    }
