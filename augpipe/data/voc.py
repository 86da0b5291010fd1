"""Pascal VOC xml: an annotation file an image, lists of the splits, masks of classes.

Written as the challenge's own: `JPEGImages/NAME`, `Annotations/STEM.xml`,
`ImageSets/Main/SPLIT.txt` and `SegmentationClass/STEM.png`. Corners are taken as continuous pixels,
as most tools do, though the challenge counted pixels from 1. Elements that have no place elsewhere
are kept as they are.
Reference: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from augpipe.data.annotated import (
    AnnotatedImage,
    Annotation,
    Category,
    Dataset,
    Entry,
    FileContent,
    Meta,
    box_of,
    number,
    safe_name,
    stem_of,
)
from augpipe.data.claim import make_folder
from augpipe.data.encode import write_atomic
from augpipe.data.folder import EXTENSIONS
from augpipe.data.places import home_of, image_at, mask_ending, visible, walk
from augpipe.data.shapes import Notes, hull
from augpipe.data.sidecar import Found, Sidecar, SidecarWriter, read_sidecar
from augpipe.data.splitfiles import Lines
from augpipe.data.xmltree import Element, parse_xml
from augpipe.errors import DataError, UsageError, printable, reason

NAME = "voc"
LOOKS = "a folder Annotations of .xml files"
PACKED = False
FILES = ("Annotations", "ImageSets")

_TOP = ("filename", "size", "object")
_OBJECT = ("name", "bndbox")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TAG = re.compile(r"[A-Za-z_][\w.-]*")
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}


def sniff(path: Path) -> bool:
    """Tells whether a folder holds VOC annotations, or is the folder of them."""
    return _annotations(path) is not None


def _annotations(path: Path) -> Path | None:
    """Returns the folder of the annotation files."""
    if not path.is_dir():
        return None
    for folder in (path / "Annotations", path / "annotations", path):
        first = next(_xmls(folder), None) if folder.is_dir() else None
        if first is not None and _is_annotation(folder / first):
            return folder
    return None


def _xmls(folder: Path) -> Iterator[str]:
    names = walk(folder) if folder.name.lower() == "annotations" else iter(visible(folder)[1])
    return (name for name in names if name.lower().endswith(".xml"))


def _is_annotation(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(4096)
    except OSError:
        return False


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a dataset.

    Each file is read once now, for names and classes, and again when its image is.

    Args:
        path: The folder around Annotations, or the folder of .xml files.
        images: Where the images are; by default they are looked for.

    Raises:
        DataError: If no image is found, or one is in two splits.
    """
    folder = _annotations(path)
    if folder is None:
        raise UsageError(f"{path}: no VOC dataset ({LOOKS})")
    root = path if folder != path or path.name.lower() != "annotations" else path.parent
    sidecar = read_sidecar(root)
    files = sorted(_xmls(folder))
    heads = [_head(folder / name, name) for name in files]
    named = [name for name, _ in heads if name is not None]
    if images is None:
        given = (named or [f"{stem_of(files[0])}.jpg"])[:20]
        images = home_of([root / "JPEGImages", root, folder], given, [None], folder)
    splits = _splits(root)
    found = []
    for file, (name, _) in zip(files, heads, strict=True):
        own = _file_of(images, name, stem_of(file))
        found.append(Found(stem_of(file), Entry(own, splits.get(stem_of(file)))))
    names = sorted({each for _, classes in heads for each in classes})
    meta = Meta(tuple(Category(k, each) for k, each in enumerate(names, 1)))
    if sidecar.meta and set(names) <= {each.name for each in sidecar.meta.categories}:
        meta = sidecar.meta
    ids: dict[str, int] = {}
    for each in meta.categories:
        ids.setdefault(each.name, each.id)
    order = sidecar.arranged(found)
    native = {each.key: each.entry.name for each in found}
    home = images

    def load(index: int) -> AnnotatedImage:
        one = order[index]
        return _load(folder / f"{one.key}.xml", one, home, native[one.key], ids, root, sidecar)

    return Dataset(path, NAME, meta, [each.entry for each in order], load, sidecar.last)


def _file_of(home: Path, name: str | None, stem: str) -> str:
    """Returns an image's path: as it is said, else by the annotation file's name."""
    if name is not None and (home / name).is_file():
        return name
    guesses = (stem + end for end in (*EXTENSIONS, *(end.upper() for end in EXTENSIONS)))
    return next((each for each in guesses if (home / each).is_file()), name or f"{stem}.jpg")


def _head(path: Path, name: str) -> tuple[str | None, list[str]]:
    """Returns what a file calls its image, and the classes in it; nothing if it cannot be read."""
    try:
        tree = _parse(path)
        file = tree.find("filename")
        safe_name(name, path)
        classes = [_text(each, "name", path) for each in tree.children if each.tag == "object"]
        return (safe_name(file.text, path) if file is not None and file.text else None), classes
    except DataError:  # said when the image's turn comes
        safe_name(name, path.parent)
        return None, []


def _parse(path: Path) -> Element:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error
    tree = parse_xml(data, path)
    if tree.tag != "annotation":
        raise DataError(path, f"its root is <{printable(tree.tag[:60])}>, not <annotation>")
    return tree


def _splits(root: Path) -> dict[str, str]:
    """Returns each image's split, by its path without ending."""
    folder = root / "ImageSets" / "Main"
    out: dict[str, str] = {}
    if not folder.is_dir():
        return out
    for file in (each for each in walk(folder) if each.endswith(".txt")):
        split = file[: -len(".txt")]
        try:
            lines = (folder / file).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            raise DataError(folder / file, "cannot be read as text") from None
        stems = [line.strip() for line in lines if line.strip()]
        listed = split == "trainval" or any(re.search(r"\s-?[01]$", line) for line in stems)
        if listed:  # of two splits together, or whether a class occurs
            continue
        for stem in stems:
            if out.setdefault(stem, split) != split:
                raise DataError(folder / file, f"{stem!r} is in the split {out[stem]} as well")
    return out


def _load(
    path: Path,
    found: Found,
    home: Path,
    file: str,
    ids: Mapping[str, int],
    root: Path,
    sidecar: Sidecar,
) -> AnnotatedImage:
    tree = _parse(path)
    named = tree.find("filename")
    if named is not None and named.text:
        safe_name(named.text, f"{path}:{named.line}")
    content = image_at(home, file, path)
    kept = sidecar.image(found.key, _fingerprint(tree), content)
    if kept is not None:
        return kept
    return _image(tree, path, content, found, ids, _mask(root, found.key))


def _mask(root: Path, stem: str) -> FileContent | None:
    found = (root / "SegmentationClass" / f"{stem}{end}" for end in (".png", ".bmp", ".tif"))
    return next((FileContent(each) for each in found if each.is_file()), None)


def _fingerprint(tree: Element) -> str:
    return repr(tree.plain())


def _image(
    tree: Element,
    where: object,
    content: Any,
    found: Found,
    ids: Mapping[str, int],
    mask: FileContent | None,
) -> AnnotatedImage:
    size, extra = None, {}
    for each in tree.children:
        if each.tag == "size":
            sides = [_number(each, side, where) for side in ("height", "width")]
            size = (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
            rest = {k: v for k, v in each.plain().items() if k not in ("height", "width")}
            if rest:
                extra["size"] = rest
    plain = tree.plain()
    others = plain.items() if isinstance(plain, dict) else ()
    extra |= {name: value for name, value in others if name not in _TOP}
    objects = tuple(_object(o, where, ids) for o in tree.children if o.tag == "object")
    entry = found.entry
    return AnnotatedImage(
        entry.name, content, entry.split, size, annotations=objects, mask=mask, extra=extra
    )


def _object(element: Element, where: object, ids: Mapping[str, int]) -> Annotation:
    name = _text(element, "name", where)
    place = f"{where}:{element.line}"
    if name not in ids:
        raise DataError(place, f"unknown class {printable(name[:60])!r}")
    corners = element.find("bndbox")
    box = None
    extra = {each: value for each, value in element.plain().items() if each not in _OBJECT}
    if corners is not None:
        x0, y0, x1, y1 = (_number(corners, each, where) for each in _CORNERS)
        box = box_of(x0, y0, x1, y1, f"{where}:{corners.line}")
    return Annotation(ids[name], box, extra=extra)


def _text(element: Element, tag: str, where: object) -> str:
    found = element.find(tag)
    if found is None:
        raise DataError(f"{where}:{element.line}", f"<{element.tag}> has no <{tag}>")
    return found.text


def _number(element: Element, tag: str, where: object) -> float:
    text = _text(element, tag, where)
    place = f"{where}:{element.line}"
    try:
        return number(float(text), place, tag)
    except ValueError:
        raise DataError(place, f"{tag} is not a number: {printable(text[:60])!r}") from None


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset: splits are lists, not folders."""
    return f"JPEGImages/{image.name}"


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return f"SegmentationClass/{stem_of(image.name)}{mask_ending(image)}"


@dataclass(slots=True)
class _Written:
    """What was written so far: names that are taken, and the lists of the splits."""

    names: set[str]
    lists: dict[str, Lines]


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes annotation files and lists of images that lie where `place` says.

    Args:
        out: The dataset's folder.
        meta: Categories and the rest.
        images: They are not kept in memory.
        notes: Where objects without any place are counted.

    Raises:
        DataError: If two images would share an annotation file, or XML or a list cannot hold a
            name: one with a line break.
        AugpipeError: If a file cannot be written.
    """
    names = sorted({each.name for each in meta.categories})
    native = Meta(tuple(Category(k, each) for k, each in enumerate(names, 1)))
    done = _Written(set(), {})
    with ExitStack() as stack:
        sidecar = stack.enter_context(SidecarWriter(out, NAME, meta, native))
        for image in images:
            stem = stem_of(image.name)
            if stem in done.names:
                raise DataError(image.name, "a second image of this name but for its ending")
            done.names.add(stem)
            if _UNFIT.search(image.name) or "\n" in image.name or "\r" in image.name:
                raise DataError(
                    printable(image.name), "VOC's lists and XML cannot hold this name: rename it"
                )
            _write_one(out, meta, image, sidecar, notes)
            if image.split is not None:
                if image.split not in done.lists:
                    path = out / "ImageSets" / "Main" / f"{image.split}.txt"
                    done.lists[image.split] = stack.enter_context(Lines(path))
                done.lists[image.split].add(stem)


def _write_one(
    out: Path, meta: Meta, image: AnnotatedImage, sidecar: SidecarWriter, notes: Notes
) -> None:
    stem = stem_of(image.name)
    for each in image.annotations:
        if hull(each, image.name) is None:
            notes.add("object without a box", f"{image.name}, object {each.id}")
    text = dump_xml(image, meta)
    path = out / "Annotations" / f"{stem}.xml"
    make_folder(path.parent)
    write_atomic(path, text.encode())
    tree = parse_xml(text.encode(), image.name)
    ids: dict[str, int] = {}
    for category in meta.categories:
        ids.setdefault(category.name, category.id)
    split = image.split
    found = Found(stem, Entry(image.name, split))
    mask = FileContent(out / place_mask(image)) if image.mask is not None else None
    restored = _image(tree, image.name, image.content, found, ids, mask)
    known = mask is not None and mask.path.suffix not in (".png", ".bmp", ".tif")
    sidecar.add(stem, _fingerprint(tree), image, restored, place_mask(image) if known else None)


def dump_xml(image: AnnotatedImage, meta: Meta) -> str:
    """Returns the content of an image's annotation file."""
    names = {each.id: each.name for each in meta.categories}
    extra = {k: v for k, v in image.extra.items() if k[:1] != "@"}
    lines = [f"<annotation{_attributes(image.extra)}>"]
    size = extra.pop("size", {})
    first = {"folder": extra.pop("folder")} if "folder" in extra else {}
    lines += _elements({**first, "filename": image.name}, 1)
    sides = {}
    if image.size is not None:
        sides = {"width": image.size[1], "height": image.size[0]}
    segmented = {"segmented": extra.pop("segmented", None)}
    lines += _elements(extra, 1)
    if sides:
        depth = size if isinstance(size, dict) and size else {"depth": 3}
        lines += _elements({"size": {**sides, **depth}}, 1)
    lines += _elements(segmented, 1)
    for each in image.annotations:
        box = hull(each, image.name)
        if box is None:
            continue
        own: dict[str, Any] = {"name": names.get(each.category, str(each.category))}
        own |= {name: each.extra.get(name, default) for name, default in _DEFAULTS.items()}
        own |= {k: v for k, v in each.extra.items() if k not in (*_DEFAULTS, *_OBJECT)}
        own["bndbox"] = dict(zip(_CORNERS, map(_short, box), strict=True))
        lines += _elements({"object": own}, 1)
    return "\n".join([*lines, "</annotation>", ""])


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _elements(values: Mapping[str, Any], depth: int) -> list[str]:
    """Returns the lines of elements; what XML cannot hold is left out."""
    out: list[str] = []
    for tag, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if not _TAG.fullmatch(tag) or each is None:
                continue
            indent, own = "\t" * depth, ""
            if isinstance(each, dict):
                own, text = _attributes(each), each.get("#text")
                inner = {k: v for k, v in each.items() if k[:1] not in ("@", "#")}
                if inner or text is None:
                    lines = _elements(inner, depth + 1)
                    out += [f"{indent}<{tag}{own}>", *lines, f"{indent}</{tag}>"]
                    continue
                each = text
            out.append(f"{indent}<{tag}{own}>{escape(_UNFIT.sub('', str(each)))}</{tag}>")
    return out


def _attributes(values: Mapping[str, Any]) -> str:
    """Returns what of an element stands in its tag: the keys that begin with "@"."""
    return "".join(
        f" {name[1:]}={quoteattr(_UNFIT.sub('', str(value)))}"
        for name, value in values.items()
        if name[:1] == "@" and _TAG.fullmatch(name[1:])
    )
