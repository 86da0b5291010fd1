"""YOLO txt: a label file an image, and a data.yaml that names splits and classes.

Written as Ultralytics documents it: `images/SPLIT/NAME`, `labels/SPLIT/NAME.txt`, `data.yaml`.
Which kind of line a dataset has (boxes, outlines, rotated boxes, keypoints) is one for all of it:
that of its first object when it is written. When it is read, lines of eight numbers behind the
class are rotated boxes if all lines are such, or data.yaml says `task: obb`; else outlines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from augpipe.data.annotated import (
    AnnotatedImage,
    Category,
    Dataset,
    Entry,
    Meta,
    safe_name,
    stem_of,
)
from augpipe.data.claim import make_folder
from augpipe.data.content import text_of
from augpipe.data.encode import write_atomic
from augpipe.data.places import (
    home_of,
    image_at,
    is_image,
    kind_of,
    mask_ending,
    size_of,
    split_path,
    visible,
    walk,
)
from augpipe.data.shapes import Notes, object_of
from augpipe.data.sidecar import Found, Sidecar, SidecarWriter, read_sidecar
from augpipe.data.yolo_config import (
    config_in,
    dump_config,
    is_config,
    keypoints_of,
    names_of,
    native_meta,
    others_of,
    read_config,
)
from augpipe.data.yolo_lines import Labels, Task
from augpipe.errors import DataError, UsageError

NAME = "yolo"
LOOKS = "a data.yaml with names and train, or label .txt files with a classes.txt"
PACKED = False

_CLASSES = ("classes.txt", "obj.names")
_TURNED = (
    "label lines of eight numbers are taken for rotated boxes: `task: segment` in data.yaml makes "
    "outlines of them"
)
_LOOKED = 50  # label files that are looked into for the kind of their lines


def sniff(path: Path) -> bool:
    """Tells whether a path is a data.yaml, a folder with one, or one of labelled txt files."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml") and is_config(path)
    return path.is_dir() and (config_in(path) is not None or _classes_of(path) is not None)


def _classes_of(folder: Path) -> Path | None:
    """Returns the list of classes of a folder that holds label files, if it is one."""
    texts = [n for n in visible(folder)[1] if n.endswith(".txt") and n not in _CLASSES]
    homes = (folder, folder.parent) if texts else ()
    found = (home / name for home in homes for name in _CLASSES)
    listed = next((each for each in found if each.is_file()), None)
    first = text_of(folder / texts[0]).split() if listed else []
    try:
        return listed if all(float(word) is not None for word in first) else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Image:
    """Where an image and its labels are; by default these are where its path says."""

    home: Path
    file: str
    own: Path | None = None

    @property
    def labels(self) -> Path:
        return self.own or _labels_of(self.home / self.file)


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a dataset by its data.yaml, or a folder of label files by its list of classes.

    Args:
        path: The data.yaml, its folder, or the folder of label files.
        images: Where the images of a folder of label files are; by default it is looked for.

    Raises:
        DataError: If classes have no names, or a split's folder is not there.
    """
    config = path if path.is_file() else config_in(path)
    missing: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    if config is not None:
        given = read_config(config)
        root = config.parent
        found = list(_listed(config, given, missing))
        if not found and missing:
            raise DataError(config, next(iter(missing.values())))
        names, points, flip, task = names_of(config, given), *keypoints_of(config, given)
        extra = {"yolo": rest} if (rest := others_of(given)) else {}
    else:
        listed = _classes_of(path)
        if listed is None:
            raise UsageError(f"{path}: no YOLO dataset ({LOOKS})")
        root, extra, points, flip, task = path, {}, (0, 3), (), None
        names = [line.strip() for line in text_of(listed).splitlines() if line.strip()]
        found = list(_beside(path, images))
    if not found:
        raise DataError(path, "has no images")
    shape = tuple(f"{k}" for k in range(points[0]))
    native = Meta(
        tuple(Category(k, name, None, shape, (), flip) for k, name in enumerate(names)), (), extra
    )
    sidecar, meta = read_sidecar(root).by_number(native)
    places = {key: place for key, _, place in found}
    if task is None:
        task = "pose" if points[0] else _task(place.labels for place in places.values())
        notes = (_TURNED,) if task == "obb" else ()
    labels = Labels(task, tuple(each.id for each in meta.categories), *points)
    order = sidecar.arranged(Found(key, entry) for key, entry, _ in found)

    def load(index: int) -> AnnotatedImage:
        one = order[index]
        return _load(one, places[one.key], labels, sidecar)

    entries = [each.entry for each in order]
    return Dataset(path, NAME, meta, entries, load, sidecar.last, notes, missing)


def _load(found: Found, place: _Image, labels: Labels, sidecar: Sidecar) -> AnnotatedImage:
    text = text_of(place.labels) if place.labels.is_file() else ""
    content = image_at(place.home, place.file, place.labels)
    kept = sidecar.image(found.key, text, content)
    if kept is not None:
        return kept
    size = size_of(content, str(content.path))
    annotations = labels.parse(text, size, str(place.labels))
    return AnnotatedImage(
        found.entry.name, content, found.entry.split, size, annotations=annotations
    )


def _listed(
    config: Path, given: Mapping[str, Any], missing: dict[str, str]
) -> Iterable[tuple[str, Entry, _Image]]:
    """Yields each image of each split: its key, its entry and where it is.

    Args:
        config: The data.yaml.
        given: What it says.
        missing: Grows: of splits that are not there, what is missing.
    """
    root = config.parent
    base = root / given["path"] if isinstance(given.get("path"), str) else root
    base = base if base.is_dir() else root
    splits = [k for k, each in given.items() if each and (kind_of(k) or each == f"images/{k}")]
    if not splits:
        raise DataError(config, "names no split: train: images/train")
    whole = {str(given[name]) for name in splits} == {"images"}
    for name in splits[:1] if whole else splits:
        values = given[name] if isinstance(given[name], list) else [given[name]]
        for value in values:
            if not isinstance(value, str):
                raise DataError(config, f"{name} must be a folder or a .txt list of images")
            where = _existing(base, root, value)
            if where is None:
                missing[name] = f"{name}: there is no {base / value}"
                continue
            if where.is_file():
                files = [
                    safe_name(line.strip(), where)
                    for line in text_of(where).splitlines()
                    if line.strip()
                ]
                pairs = [(where.parent, each) for each in files]
                split = name
            else:
                pairs = [(where, each) for each in walk(where) if is_image(each)]
                split = _split_of(where, name)
            for home, file in pairs:
                image = home / file
                short = file.rpartition("images/")[2] if where.is_file() else file
                key = (
                    image.relative_to(root).as_posix() if image.is_relative_to(root) else str(image)
                )
                entry = Entry(safe_name(short, where), None if whole else split)
                yield key, entry, _Image(home, file)
            if where.is_dir():
                yield from _orphans(where, name, pairs)


def _split_of(folder: Path, name: str) -> str:
    parts = [part for part in folder.parts[-2:] if part != "images"]
    return parts[-1] if parts and kind_of(parts[-1]) == kind_of(name) else name


def _existing(base: Path, root: Path, value: str) -> Path | None:
    plain = value
    while plain.startswith("../"):  # as some exporters write what lies beside data.yaml
        plain = plain[3:]
    for each in (base / value, root / value, root / plain):
        if each.exists():
            return each
    return None


def _labels_of(image: Path) -> Path:
    before, found, after = str(image).rpartition("/images/")
    return Path(f"{before}/labels/{after}" if found else str(image)).with_suffix(".txt")


def _orphans(
    folder: Path, split: str, pairs: Sequence[tuple[Path, str]]
) -> Iterable[tuple[str, Entry, _Image]]:
    """Yields the label files of a split that have no image: each is an error of its own."""
    labels = _labels_of(folder / "x.jpg").parent
    known = {stem_of(file) for _, file in pairs}
    if labels != folder and labels.is_dir():
        for file in walk(labels):
            if file.endswith(".txt") and stem_of(file) not in known:
                missing = f"{stem_of(file)}.jpg"
                yield (
                    f"{labels}/{file}",
                    Entry(missing, split),
                    _Image(folder, missing, labels / file),
                )


def _beside(labels: Path, images: Path | None) -> Iterable[tuple[str, Entry, _Image]]:
    texts = [name for name in walk(labels) if name.endswith(".txt") and name not in _CLASSES]
    bases = [images] if images else [labels, labels.parent]
    endings = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
    first = [stem_of(texts[0]) + end for end in (*endings, *(e.upper() for e in endings))]
    home = home_of(bases, first, [None], labels)
    found = {stem_of(name): name for name in walk(home) if is_image(name)}
    for name in texts:
        file = found.get(stem_of(name), f"{stem_of(name)}.jpg")
        yield name, Entry(safe_name(file, labels)), _Image(home, file, labels / name)


def _task(labels: Iterable[Path]) -> Task:
    """Returns what lines say, by the counts of their numbers."""
    counts: set[int] = set()
    looked = 0
    for path in labels:
        if looked >= _LOOKED:
            break
        if path.is_file():
            lines = text_of(path).splitlines()
            counts |= {len(line.split()) for line in lines if line.strip()}
            looked += bool(lines)
    if counts == {9}:
        return "obb"
    return "segment" if counts - {5} else "detect"


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset."""
    return split_path("images", image)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return split_path("masks", image, mask_ending(image))


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes label files and data.yaml for images that lie where `place` says.

    An image without objects gets no label file: it is background. What a line cannot say is kept
    in the sidecar and counted.

    Args:
        out: The dataset's folder.
        meta: Categories and the rest.
        images: They are not kept in memory.
        notes: Where objects that no line can say are counted.

    Raises:
        DataError: If an image's size is not known and cannot be read, or two images would share a
            label file.
        AugpipeError: If a file cannot be written.
    """
    waiting = iter(images)
    before: list[AnnotatedImage] = []
    for image in waiting:
        before.append(image)
        if image.annotations or len(before) > 10_000:
            break
    labels = _labels_for(meta, before)
    native = native_meta(meta, labels)
    splits: dict[str | None, None] = {}
    seen: set[str] = set()
    with SidecarWriter(out, NAME, meta, native) as sidecar:
        for image in chain(before, waiting):
            splits[image.split] = None
            path = split_path("labels", image, ".txt")
            if path in seen:
                raise DataError(
                    image.name, f"a second image for {path}: they differ in ending only"
                )
            seen.add(path)
            _write_one(out, path, image, labels, sidecar, notes)
    write_atomic(out / "data.yaml", dump_config(meta, labels, list(splits)).encode())


def _write_one(
    out: Path,
    path: str,
    image: AnnotatedImage,
    labels: Labels,
    sidecar: SidecarWriter,
    notes: Notes,
) -> None:
    size = image.size or size_of(image.content, image.name)
    lines = labels.lines(image.annotations, size, image.name)
    for position, line in enumerate(lines):
        if line is None:
            notes.add("object that no line can say", object_of(image, position))
    text = "".join(f"{line}\n" for line in lines if line is not None)
    if text:
        target = out / path
        make_folder(target.parent)
        write_atomic(target, text.encode())
    restored = AnnotatedImage(
        image.name,
        image.content,
        image.split,
        size,
        annotations=labels.parse(text, size, image.name),
    )
    mask = None if image.mask is None else place_mask(image)
    whole = replace(image, size=image.size or size)
    sidecar.add(place(image), text, whole, restored, mask)


def _labels_for(meta: Meta, images: Sequence[AnnotatedImage]) -> Labels:
    """Returns the kind of lines that a dataset's first object asks for."""
    ids = tuple(each.id for each in meta.categories)
    first = next((each for image in images for each in image.annotations), None)
    counts = {len(each.keypoints) for each in meta.categories if each.keypoints}
    if first is not None and first.oriented is not None:
        return Labels("obb", ids)
    if first is not None and first.keypoints and len(counts) <= 1:
        return Labels("pose", ids, len(first.keypoints) // 3, 3)
    if first is not None and first.polygons:
        return Labels("segment", ids)
    return Labels("detect", ids)
