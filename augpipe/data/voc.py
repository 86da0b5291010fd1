"""Pascal VOC xml: an annotation file an image, lists of the splits, masks of classes.

Written as the challenge's own: `JPEGImages/NAME`, `Annotations/STEM.xml`,
`ImageSets/Main/SPLIT.txt` and `SegmentationClass/STEM.png`. Corners are taken as continuous pixels,
as most tools do, though the challenge counted pixels from 1. Elements that have no place elsewhere
are kept as they are.
Reference: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

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
from augpipe.data.content import FileContent, text_of
from augpipe.data.encode import write_atomic
from augpipe.data.folder import EXTENSIONS
from augpipe.data.places import home_of, image_at, is_there, mask_ending, visible, walk
from augpipe.data.shapes import Notes, hull, object_of
from augpipe.data.sidecar import Found, Sidecar, SidecarWriter, read_sidecar
from augpipe.data.splitfiles import Lines
from augpipe.data.voc_xml import UNFIT, dump_xml, image_of, parse_file, said_by, text_in
from augpipe.data.xmltree import parse_xml
from augpipe.errors import DataError, UsageError, printable

NAME = "voc"
LOOKS = "a folder Annotations of .xml files"
PACKED = False

_MASKS = (".png", ".bmp", ".tif")


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
            return b"<annotation" in file.read(4096).replace(b"\0", b"")  # UTF-16 too
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
        stems = [stem_of(file) for file in files[:20]]
        given = [*named[:20], *(f"{stem}{end}" for end in EXTENSIONS for stem in stems)]
        images = home_of([root / "JPEGImages", root, folder], given, [None], folder)
    splits = _splits(root, {stem_of(file) for file in files})
    found = []
    for file, (name, _) in zip(files, heads, strict=True):
        own = _file_of(images, name, stem_of(file))
        found.append(Found(stem_of(file), Entry(own, splits.get(stem_of(file)))))
    names = sorted({each for _, classes in heads for each in classes})
    meta = sidecar.by_name(Meta(tuple(Category(k, each) for k, each in enumerate(names, 1))))
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
    if name is not None and is_there(home / name):
        return name
    guesses = (stem + end for end in (*EXTENSIONS, *(end.upper() for end in EXTENSIONS)))
    return next((each for each in guesses if is_there(home / each)), name or f"{stem}.jpg")


def _head(path: Path, name: str) -> tuple[str | None, list[str]]:
    """Returns what a file calls its image, and the classes in it; nothing if it cannot be read."""
    try:
        tree = parse_file(path)
        file = tree.find("filename")
        safe_name(name, path)
        classes = [text_in(each, "name", path) for each in tree.children if each.tag == "object"]
        return (safe_name(file.text, path) if file is not None and file.text else None), classes
    except DataError:  # said when the image's turn comes
        safe_name(name, path.parent)
        return None, []


def _splits(root: Path, known: Set[str]) -> dict[str, str]:
    """Returns each image's split, by its path without ending; these are known."""
    folder = root / "ImageSets" / "Main"
    out: dict[str, str] = {}
    if not folder.is_dir():
        return out
    for file in (each for each in walk(folder) if each.endswith(".txt")):
        split = file[: -len(".txt")]
        lines = text_of(folder / file, 256).split("\n")  # a name of each image
        # A name may end in a space, or in what else says whether a class occurs: "photo 1".
        stems = [line if line in known else line.strip() for line in lines if line.strip()]
        others = (line for line in stems if line not in known)
        listed = split == "trainval" or any(re.search(r"\s-?[01]$", line) for line in others)
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
    tree = parse_file(path)
    named = tree.find("filename")
    if named is not None and named.text:
        safe_name(named.text, f"{path}:{named.line}")
    content = image_at(home, file, path)
    kept = sidecar.image(found.key, said_by(tree), content)
    mask = _mask(root, found.key)
    if kept is not None:  # but a mask that was put there since is an edit too
        return kept if kept.mask is not None else replace(kept, mask=mask)
    return image_of(tree, path, content, found, ids, mask)


def _mask(root: Path, stem: str) -> FileContent | None:
    found = (root / "SegmentationClass" / f"{stem}{end}" for end in _MASKS)
    return next((FileContent(each) for each in found if each.is_file()), None)


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset: splits are lists, not folders.

    Raises:
        DataError: If XML or a list cannot hold its name: one with a line break.
    """
    return _FLAT.place(image)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return _FLAT.place_mask(image)


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes annotation files and lists of images that lie where `place` says.

    Args:
        out: The dataset's folder.
        meta: Categories and the rest.
        images: They are not kept in memory.
        notes: Where objects without any place are counted.

    Raises:
        DataError: If two images would share an annotation file.
        AugpipeError: If a file cannot be written.
    """
    _FLAT.write(out, meta, images, notes)


def fitted(entries: Sequence[Entry]) -> _Layout:
    """Returns the layout for some images: in folders by split where names would clash."""
    stems = {stem_of(each.name) for each in entries}
    return _Layout(len(stems) < len(entries))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where files lie, and how they are written.

    Args:
        folders: Whether each split has a folder of its own.
    """

    folders: bool
    NAME: ClassVar[str] = NAME
    LOOKS: ClassVar[str] = LOOKS
    PACKED: ClassVar[bool] = PACKED

    def sniff(self, path: Path) -> bool:
        return sniff(path)

    def read(self, path: Path, images: Path | None = None) -> Dataset:
        return read(path, images)

    def _stem(self, image: AnnotatedImage) -> str:
        inner = f"{image.split}/" if self.folders and image.split else ""
        return inner + stem_of(image.name)

    def place(self, image: AnnotatedImage) -> str:
        if UNFIT.search(image.name) or "\n" in image.name or "\r" in image.name:
            raise DataError(
                printable(image.name), "VOC's lists and XML cannot hold this name: rename it"
            )
        return f"JPEGImages/{self._stem(image)}{image.name[len(stem_of(image.name)) :]}"

    def place_mask(self, image: AnnotatedImage) -> str:
        return f"SegmentationClass/{self._stem(image)}{mask_ending(image)}"

    def write(self, out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
        names = sorted({each.name for each in meta.categories})
        native = Meta(tuple(Category(k, each) for k, each in enumerate(names, 1)))
        taken: set[str] = set()
        lists: dict[str, Lines] = {}
        with ExitStack() as stack:
            sidecar = stack.enter_context(SidecarWriter(out, NAME, meta, native))
            for image in images:
                stem = self._stem(image)
                if stem in taken:
                    raise DataError(image.name, "a second image of this name but for its ending")
                taken.add(stem)
                self._write_one(out, meta, image, sidecar, notes)
                if image.split is not None:
                    if image.split not in lists:
                        path = out / "ImageSets" / "Main" / f"{image.split}.txt"
                        lists[image.split] = stack.enter_context(Lines(path))
                    lists[image.split].add(stem)

    def _write_one(
        self,
        out: Path,
        meta: Meta,
        image: AnnotatedImage,
        sidecar: SidecarWriter,
        notes: Notes,
    ) -> None:
        for position, each in enumerate(image.annotations):
            if hull(each, image.name) is None:
                notes.add("object without a box", object_of(image, position))
        stem = self._stem(image)
        inner = self.place(image).removeprefix("JPEGImages/")
        text = dump_xml(image, inner, meta)
        path = out / "Annotations" / f"{stem}.xml"
        make_folder(path.parent)
        write_atomic(path, text.encode())
        tree = parse_xml(text.encode(), image.name)
        ids: dict[str, int] = {}
        for category in meta.categories:
            ids.setdefault(category.name, category.id)
        found = Found(stem, Entry(inner, image.split))
        mask, where = None, None
        if image.mask is not None:
            where = self.place_mask(image)
            mask = FileContent(out / where) if mask_ending(image) in _MASKS else None
        try:
            restored = image_of(tree, image.name, image.content, found, ids, mask)
        except DataError:  # the name of a class that XML cannot hold
            restored = AnnotatedImage("", image.content)
        sidecar.add(stem, said_by(tree), image, restored, where)


_FLAT = _Layout(False)
