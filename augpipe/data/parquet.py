"""Parquet files in the layout of Hugging Face's image datasets.

Written as `data/SPLIT-00000-of-0000N.parquet` with the columns `image` (bytes and path), `label`,
`objects` (`id`, `bbox` as x, y, width, height, `category`, `area`), `mask`, `image_id`, `width`,
`height`, and `augpipe`, each image's record in JSON (see `records`); the features stand in the
file's metadata, so that `datasets.load_dataset` opens images and class names. Needs pyarrow.
Reference: https://huggingface.co/docs/datasets/image_dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augpipe.data.annotated import (
    AnnotatedImage,
    Annotation,
    Category,
    Dataset,
    Entry,
    Meta,
    box_of,
    meta_from,
    number,
    safe_name,
)
from augpipe.data.coco_objects import own_of
from augpipe.data.jsonscan import loads
from augpipe.data.parquet_rows import META_KEY, Groups, RowContent, SplitFiles, load_arrow, opened
from augpipe.data.places import kind_of, mask_ending, split_in, visible
from augpipe.data.records import from_record
from augpipe.data.shapes import Notes
from augpipe.data.splitfiles import file_part
from augpipe.errors import DataError, UsageError

NAME = "parquet"
LOOKS = ".parquet files with a column of images"
PACKED = True

_IMAGE_ID = ("image_id", "id")


def sniff(path: Path) -> bool:
    """Tells whether a path is a Parquet file, or a folder with one."""
    return any(_is_parquet(each) for each in _files(path)[:1])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _is_parquet(path) else []
    if not path.is_dir():
        return []
    homes = [path, *(path / name for name in visible(path)[0])]
    found = [home / name for home in homes for name in visible(home)[1]]
    return sorted(each for each in found if each.name.lower().endswith(".parquet"))


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column holds what, and the names of classes."""

    image: str
    label: str | None
    objects: str | None
    mask: str | None
    classes: tuple[str, ...]
    categories: tuple[str, ...]
    others: tuple[str, ...]
    own: bool
    meta: Meta | None


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens Parquet files.

    All columns but those with bytes are gone through once, row group by row group; of a row its
    place, its name and its id are kept.

    Args:
        path: A file, or the folder around them.
        images: Not used.

    Raises:
        DataError: If a file is truncated, or has no column of images.
        UsageError: If there are no files, or pyarrow is not installed.
    """
    load_arrow()
    files = _files(path)
    if not files:
        raise UsageError(f"{path}: no Parquet files ({LOOKS})")
    layouts: list[_Layout] = []
    entries: list[Entry] = []
    places: list[tuple[int, int, int]] = []
    highest = [0, 0]
    kinds: set[int | str] = set()
    labels: set[str] = set()
    for position, each in enumerate(files):
        with opened(each) as file:
            layout = _layout(each, file.schema_arrow)
            layouts.append(layout)
            split = _split_of(each)
            for group in range(file.num_row_groups):
                for row, values in enumerate(_light(file, group, layout)):
                    where = f"{each}: row {row} of group {group}"
                    entries.append(_entry(values, layout, split, len(entries), where))
                    places.append((position, group, row))
                    _raise(highest, values, entries[-1])
                    kinds.update(_kinds(_columns(values.get("objects")), where))
                    if isinstance(values.get(layout.label or ""), str):
                        labels.add(values[layout.label or ""])
    if not entries:
        raise DataError(path, "has no rows")
    meta = layouts[0].meta or Meta(
        _categories(layouts[0].categories, kinds), layouts[0].classes or tuple(sorted(labels))
    )
    groups = Groups()

    def load(index: int) -> AnnotatedImage:
        position, group, row = places[index]
        return _load(groups, files[position], group, row, layouts[position], entries[index], meta)

    return Dataset(path, NAME, meta, entries, load, (highest[0], highest[1]))


def _layout(path: Path, schema: Any) -> _Layout:
    metadata = schema.metadata or {}
    try:
        features = loads(metadata.get(b"huggingface", b"{}"))
        features = features.get("info", {}).get("features", {})
        own = loads(metadata[META_KEY]) if META_KEY in metadata else None
        meta = None if own is None else meta_from(own)
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise DataError(path, "its metadata is not what Hugging Face's or augpipe's is") from None
    arrow, _ = load_arrow()

    def pictured(name: str) -> bool:
        kind = schema.field(name).type
        fields = {kind.field(k).name for k in range(kind.num_fields)}
        said = isinstance(features.get(name), dict) and features[name].get("_type") == "Image"
        return said or (arrow.types.is_struct(kind) and fields == {"bytes", "path"})

    found = [name for name in schema.names if pictured(name)]
    masks = [n for n in found if n in ("mask", "label_mask", "annotation", "segmentation")]
    pictures = [name for name in found if name not in masks]
    if not pictures:
        raise DataError(path, f"has no column of images, only {', '.join(schema.names)[:120]}")
    label = next((n for n in ("label", "labels", "class") if n in schema.names), None)
    objects = "objects" if "objects" in schema.names else None
    inner = features.get("objects") if isinstance(features.get("objects"), dict) else {}
    inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
    category = inner.get("category") or inner.get("label") or inner.get("categories")
    used = {pictures[0], label, objects, *masks}
    return _Layout(
        pictures[0],
        label,
        objects,
        masks[0] if masks else None,
        _class_names(features.get(label)),
        _class_names(category),
        tuple(name for name in schema.names if name not in used and name not in found),
        own is not None,
        meta,
    )


def _class_names(feature: Any) -> tuple[str, ...]:
    """Returns the names that a feature of classes gives, also one in a list."""
    while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _light(file: Any, group: int, layout: _Layout) -> Iterator[dict[str, Any]]:
    """Yields a row group's rows without any bytes of images."""
    wanted = [*layout.others, f"{layout.image}.path"]
    wanted += [name for name in (layout.objects, layout.label) if name]
    known = [name for name in wanted if name.partition(".")[0] in file.schema_arrow.names]
    yield from file.read_row_group(group, columns=known).to_pylist()


def _split_of(path: Path) -> str | None:
    stem = path.stem.partition("-")[0]
    parent = path.parent.name
    return stem if kind_of(stem) else (parent if kind_of(parent) else split_in(stem))


def _entry(
    values: Mapping[str, Any], layout: _Layout, split: str | None, count: int, where: str
) -> Entry:
    if layout.own:
        record = _record(values, where)
        own = own_of(record, where)
        named = own.get("split") if own else record.get("split")
        return Entry(
            safe_name(record.get("file_name"), where),
            named if named is None else safe_name(named, where),
            record.get("image_id"),
        )
    picture = values.get(layout.image)
    name = picture.get("path") if isinstance(picture, dict) else None
    own_id = next((values[key] for key in _IMAGE_ID if values.get(key) is not None), None)
    short = safe_name(name, where) if name else f"{count:08d}.jpg"
    return Entry(short, split, own_id if isinstance(own_id, int | str) else None)


def _record(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        record = loads(values["augpipe"])
        if isinstance(record, dict):
            return record
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    raise DataError(where, "its column augpipe holds no record")


def _raise(highest: list[int], values: Mapping[str, Any], entry: Entry) -> None:
    objects = values.get("objects")
    ids = objects.get("id") if isinstance(objects, dict) else None
    some = [each for each in (ids or []) if isinstance(each, int)]
    highest[0] = max(highest[0], entry.id if isinstance(entry.id, int) else 0)
    highest[1] = max([highest[1], *some])


def _load(
    groups: Groups, path: Path, group: int, row: int, layout: _Layout, entry: Entry, meta: Meta
) -> AnnotatedImage:
    where = f"{path}: row {row} of group {group}"
    extra_columns = [layout.label, layout.objects, *layout.others]
    values = groups.row(path, group, row, [name for name in extra_columns if name])
    content = RowContent(path, group, row, layout.image, groups)
    mask = RowContent(path, group, row, layout.mask, groups) if layout.mask else None
    if layout.own:
        record = _record(values, where)
        own = mask if record.pop("mask", False) else None
        split = record.pop("split", None)
        return from_record(record, content, split, own, meta, where)
    label = values.get(layout.label) if layout.label else None
    if isinstance(label, int) and 0 <= label < len(layout.classes):
        label = layout.classes[label]
    objects = values.get(layout.objects) if layout.objects else None
    known = (*_IMAGE_ID, "width", "height")
    extra = {k: v for k in layout.others if k not in known and _is_plain(v := values.get(k))}
    size = None
    if isinstance(values.get("width"), int) and isinstance(values.get("height"), int):
        size = (values["height"], values["width"])
    return AnnotatedImage(
        entry.name,
        content,
        entry.split,
        size,
        None if label is None else str(label),
        _objects(_columns(objects), meta, where),
        mask,
        entry.id,
        extra=extra,
    )


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return value is not None


def _categories(names: Sequence[str], kinds: set[int | str]) -> tuple[Category, ...]:
    """Returns the categories: by the features' names, else as the objects name or number them."""
    if names:
        return tuple(Category(k, name) for k, name in enumerate(names))
    words = sorted(each for each in kinds if isinstance(each, str))
    numbers = sorted(each for each in kinds if isinstance(each, int))
    known = [Category(k, str(k)) for k in numbers]
    first = numbers[-1] + 1 if numbers else 0
    return (*known, *(Category(k, name) for k, name in enumerate(words, first)))


def _columns(objects: Any) -> dict[str, list[Any]]:
    """Returns the objects of a row as lists side by side; a list of objects too."""
    if isinstance(objects, list):
        names = {name for each in objects if isinstance(each, dict) for name in each}
        rows = [each if isinstance(each, dict) else {} for each in objects]
        return {name: [row.get(name) for row in rows] for name in sorted(names)}
    given = objects.items() if isinstance(objects, dict) else ()
    return {name: list(each) for name, each in given if isinstance(each, list | tuple)}


def _kinds(objects: Mapping[str, list[Any]], where: str) -> list[int | str]:
    """Returns the class of each object, by number or by name."""
    boxes = objects.get("bbox", [])
    given = next((objects[k] for k in ("category", "label", "categories") if k in objects), None)
    kinds = [0] * len(boxes) if given is None else given
    if len(kinds) != len(boxes) or any(not isinstance(each, int | str) for each in kinds):
        raise DataError(where, f"{len(boxes)} boxes, and not as many categories")
    return kinds


def _objects(objects: Mapping[str, list[Any]], meta: Meta, where: str) -> tuple[Annotation, ...]:
    known: dict[int | str, int] = {each.name: each.id for each in reversed(meta.categories)}
    known |= {each.id: each.id for each in meta.categories}
    boxes = objects.get("bbox", [])
    others = {k: v for k, v in objects.items() if k not in ("bbox", "category", "label", "id")}
    out = []
    for k, (box, kind) in enumerate(zip(boxes, _kinds(objects, where), strict=True)):
        if not isinstance(box, list | tuple) or len(box) != 4:
            raise DataError(where, f"the bbox of object {k} is not x, y, width, height")
        x, y, width, height = (number(each, where, "bbox") for each in box)
        if kind not in known:
            raise DataError(where, f"unknown category id {kind!r} of object {k}")
        extra = {
            name: value[k]
            for name, value in others.items()
            if len(value) == len(boxes) and _is_plain(value[k])
        }
        ids = objects.get("id", [])
        own = ids[k] if len(ids) == len(boxes) and isinstance(ids[k], int | str) else None
        corners = box_of(x, y, x + width, y + height, where)
        out.append(Annotation(known[kind], corners, id=own, extra=extra))
    return tuple(out)


def place(image: AnnotatedImage) -> str:
    """Returns what an image's file is called while there are no Parquet files yet."""
    return Entry(image.name, image.split).relative


def place_mask(image: AnnotatedImage) -> str:
    """Returns what a mask's file is called while there are no Parquet files yet."""
    return f"{place(image)}.mask{mask_ending(image)}"


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes Parquet files with the images in them, split by split apart.

    Args:
        out: The folder.
        meta: Categories, classes and the rest; kept in each file's metadata.
        images: Their bytes are held for a hundred at a time.
        notes: Unused: the records hold everything.

    Raises:
        DataError: If an image cannot be read.
        AugpipeError: If a file cannot be written.
    """
    splits: dict[str | None, SplitFiles] = {}
    taken: dict[str, str | None] = {}
    try:
        for image in images:
            split = image.split
            if split not in splits:
                # The names that `datasets` knows splits by.
                kind = "train" if split is None else kind_of(split) or split
                name = file_part(split, taken, kind, image.name)
                splits[split] = SplitFiles(out / "data", name, meta)
            splits[image.split].add(image)
        for each in splits.values():
            each.finish()
    finally:
        for each in splits.values():
            each.clear()
