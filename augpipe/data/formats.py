"""The formats of datasets: which one a path is, by its content, and how it is opened.

Each is a module of this folder with `sniff`, `read`, `place`, `place_mask` and `write`.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from augpipe.data.address import Address, place_of
from augpipe.data.annotated import AnnotatedImage, Dataset, Entry, Meta, safe_name
from augpipe.data.encode import TEMPORARY_PREFIX
from augpipe.data.places import kind_of, visible
from augpipe.data.shapes import Notes
from augpipe.data.sidecar import format_said
from augpipe.errors import DataError, UsageError, did_you_mean, printable, reason

_MODULES = {
    "coco": "coco",
    "yolo": "yolo",
    "voc": "voc",
    "webdataset": "webdataset",
    "parquet": "parquet",
    "csv": "csv",
    "masks": "masks",
    "folder": "classfolders",
}
_RANKS = (("coco", "yolo", "voc", "webdataset", "parquet"), ("csv",), ("masks",))
"""Formats that are looked for side by side; a later group only where no earlier one is found.
Folders of images are looked for last."""

BY_STEM = frozenset(("yolo", "voc", "masks"))
"""Formats in which what belongs to an image has its name without the ending."""

AT_ADDRESSES = ("webdataset", "parquet", "folder")
"""Formats that are read and written at addresses too."""
SIZED = frozenset(("yolo", "masks"))
"""Formats that need to know how large an image is."""

_LABELLED = frozenset(("folder", "csv", "webdataset", "parquet"))
"""Formats in which an image has a class."""

_MASKED = frozenset(("masks", "voc", "csv", "webdataset", "parquet"))
"""Formats in which an image has a mask."""

APART = ("coco", "yolo", "voc", "csv")
"""Formats whose images may lie elsewhere than the file that describes them."""

_LISTED = frozenset((*BY_STEM, "folder"))
"""Formats whose images are those that lie in their folders."""

_OWN = TEMPORARY_PREFIX.rstrip("-")
_PACKS = (".tar", ".parquet")
_LONGEST = 255  # bytes in a name, on every common file system
_SPLIT = 200  # which files' names are made of

FORMATS = tuple(_MODULES)
"""The names of the formats."""


class Format(Protocol):
    """What a format's module has."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a constant of the module
        """Its name."""

    @property
    def LOOKS(self) -> str:  # noqa: N802
        """What a dataset of it looks like, for errors."""

    @property
    def PACKED(self) -> bool:  # noqa: N802
        """Whether the images' bytes lie in its own files."""

    def sniff(self, path: Path) -> bool:
        """Tells whether a path is of this format, by content."""

    def read(self, path: Path, images: Path | None = None) -> Dataset:
        """Opens a dataset; `images` says where its images are, if they are not beside it."""

    def place(self, image: AnnotatedImage) -> str:
        """Returns where an image lies in a dataset of this format."""

    def place_mask(self, image: AnnotatedImage) -> str:
        """Returns where an image's mask lies."""

    def write(self, out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
        """Writes what belongs to images that lie where `place` says; or them too, if packed."""


def format_of(name: str) -> Format:
    """Returns a format by its name.

    Raises:
        UsageError: If there is none of that name.
    """
    if name not in _MODULES:
        hint = did_you_mean(name, FORMATS) or f"known: {', '.join(FORMATS)}"
        raise UsageError(f"no format {name!r} ({hint})")
    return cast(Format, importlib.import_module(f"augpipe.data.{_MODULES[name]}"))


def layout_for(name: str, entries: Sequence[Entry]) -> Format:
    """Returns a format with the layout that some images need: where none of them clash.

    Raises:
        UsageError: If there is none of that name.
    """
    if name != "voc":
        return format_of(name)
    from augpipe.data import voc

    return voc.fitted(entries)


def check_reach(path: Path, name: str) -> None:
    """Refuses, at an address, a format that is not read and written there.

    Raises:
        UsageError: With the formats that are read and written there.
    """
    if isinstance(path, Address) and name not in AT_ADDRESSES:
        raise UsageError(
            f"{path}: {name} is read and written on disks only; at an address: "
            f"{', '.join(AT_ADDRESSES)}"
        )


def placed(target: Format, image: AnnotatedImage) -> str:
    """Returns where an image lies in a dataset, once it is sure that it may lie there.

    Raises:
        DataError: If it would lie outside, in a name that the dataset's own files have, or in one
            that is too long for a disk.
    """
    if image.split is not None and len(safe_name(image.split, image.name).encode()) > _SPLIT:
        raise DataError(image.name, f"its split's name is longer than {_SPLIT} bytes")
    safe_name(image.name, image.name)
    if image.label is not None and image.label != image.label.encode(errors="replace").decode():
        raise DataError(image.name, f"its class {image.label!r:.60} is not UTF-8")
    return _fit(target, target.place(image), image)


def placed_mask(target: Format, image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in a dataset; see `placed`."""
    return _fit(target, target.place_mask(image), image, own=True)


def _fit(target: Format, place: str, image: AnnotatedImage, own: bool = False) -> str:
    where = safe_name(place, image.name)
    if not own and target.NAME in _LISTED and re.search(r"(^|/)\.", where):
        raise DataError(
            image.name, f"{target.NAME} passes over what is hidden, as {printable(where)} is"
        )
    if not own and (where.startswith(_OWN) or where.endswith(_PACKS)):
        raise DataError(image.name, f"{printable(where)} is a name of the dataset's own files")
    if any(len(part.encode()) > _LONGEST for part in where.split("/")):
        raise DataError(image.name, f"its name would be longer than {_LONGEST} bytes: shorten it")
    return where


def note_unsaid(name: str, image: AnnotatedImage, notes: Notes) -> None:
    """Counts what of an image a format has no place for: other programs will not see it there."""
    if image.label is not None and name not in _LABELLED:
        notes.add("class of an image, which augpipe alone reads there", image.name)
    if image.mask is not None and name not in _MASKED:
        notes.add("mask of an image, which augpipe alone reads there", image.name)


def detect(path: Path) -> str:
    """Returns the name of the format that a path is, by its content.

    Raises:
        UsageError: If it is none, or more than one: with what was seen, and the remedy.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    found = detect_annotated(path)
    if found is not None:
        return found
    if format_of("folder").sniff(path):
        return "folder"
    expected = "; ".join(f"{name}: {format_of(name).LOOKS}" for name in FORMATS)
    raise UsageError(
        f"{path}: not a dataset of a known format: saw {_seen(path)}; known {expected}"
    )


def detect_annotated(path: Path) -> str | None:
    """Returns the name of the format that a path is; None if it is at most a folder of images.

    Raises:
        UsageError: If it may be read as more than one.
    """
    said = format_said(path) if path.is_dir() else None
    if said in _MODULES:
        return said
    for names in _RANKS:
        found = [name for name in names if format_of(name).sniff(path)]
        if len(found) == 1:
            check_reach(path, found[0])
            return found[0]
        if found:
            listed = " and ".join((", ".join(found[:-1]), found[-1]))
            raise UsageError(
                f"{path}: may be read as {listed}: name the file or the folder of one of them, or "
                f"say --from {found[0]}"
            )
    return None


def open_dataset(path: Path, format: str | None = None, images: Path | None = None) -> Dataset:
    """Opens a dataset.

    Args:
        path: The dataset's folder, or the file that describes it.
        format: The name of its format; by default it is found out.
        images: Where its images are; by default they are looked for.

    Raises:
        UsageError: If the format is not clear, or is not that of the path.
        DataError: If the dataset cannot be used as a whole; errors of one image come when that
            is read.
    """
    path = place_of(path)
    name = format or detect(path)
    chosen = format_of(name)
    check_reach(path, name)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if images is not None and name not in APART:
        raise UsageError(f"{path}: {name} has its images in it: leave out --images")
    if images is not None and not images.expanduser().is_dir():
        raise UsageError(f"{images}: no such folder of images")
    try:
        return chosen.read(path, images and images.expanduser())
    except OSError as error:  # a name in it that no disk can have, or a disk that fails
        where = path if error.filename is None else printable(str(error.filename)[:300])
        raise DataError(where, f"cannot be read ({reason(error)})") from error


def chosen(dataset: Dataset, split: str | None) -> Dataset:
    """Returns the part of a dataset that is worked on.

    Args:
        dataset: All of it.
        split: Which split; "none" is all of it. Without it the train split, if there are splits.

    Raises:
        UsageError: If there is no such split, or but splits that are kept for measuring.
    """
    if split == "none" or (split is None and not dataset.splits):
        return dataset
    if split is not None:
        return dataset.only(split)
    train = [name for name in dataset.splits if kind_of(name) == "train"]
    if train:
        return dataset.only(train[0])
    if gone := [words for name, words in dataset.missing.items() if kind_of(name) == "train"]:
        raise UsageError(f"{dataset.root}: {gone[0]}")
    kept = [name for name in dataset.splits if kind_of(name)]
    if not kept:
        return dataset
    raise UsageError(
        f"{dataset.root}: no train split, and a validation or test split is left alone unless "
        f"named: --split {kept[0]} (available: {', '.join(dataset.splits)})"
    )


def _seen(path: Path) -> str:
    if path.is_file():
        return f"a file {path.name!r}"
    folders, files = visible(path)
    endings = Counter(Path(name).suffix.lower() or "without an ending" for name in files)
    parts = [f"{count} files {ending}" for ending, count in endings.most_common(4)]
    if folders:
        parts.append(f"the folders {', '.join(folders[:4])}" + (", ..." if folders[4:] else ""))
    return ", ".join(parts) or "an empty folder"
