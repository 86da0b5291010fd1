"""Folders of images: which files there are, in which order, with which labels.

The order and the class indices are those of `torchvision.datasets.ImageFolder` on the same
folder, so that index i is the same image for both. What differs, on purpose: names that begin
with a dot are passed over, a link to a folder around it is not followed (ImageFolder would
follow it 40 times), a class without images keeps its index instead of being an error, and a
split that is kept for measuring is not touched unless asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from augpipe.data.address import Address, place_of
from augpipe.errors import DataError, UsageError, did_you_mean, reason

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Name endings of images, in any case: those of ImageFolder."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_NO_SPLITS = "none"

_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """One image file.

    Args:
        path: Where it is.
        relative: Its path from the listing's root, with "/" between the parts.
        label: Its class, or None where there are none.
        split: The name of the split folder it is in, or None.
    """

    path: Path
    relative: str
    label: str | None
    split: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a folder.

    Args:
        root: The folder that was asked for; a file's own folder.
        sources: The images. The position of each is its index.
        classes: The class names, sorted: the position of each is its index. Empty where the
            images have no labels.
        ignored: Files passed over because their name does not end as an image's, or because
            they lie beside the class folders. Hidden files are not counted.
        ignored_names: The first three of them, as paths from the root.
    """

    root: Path
    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    ignored: int
    ignored_names: tuple[str, ...] = ()


def scan(root: Path, split: str | None = None) -> Listing:
    """Lists the images of a folder of class folders, of a flat folder, or a single file.

    Sub-folders that hold an image, at any depth, make every sub-folder a class. A root with
    folders named train, val, valid, validation, test (and training, testing; in any case) is
    a dataset in splits, each a folder of classes or flat; only one split is listed.

    Args:
        root: The folder or the file.
        split: The split to list, by its folder's name. By default the train split, and never
            a validation or test split, not even where `root` is one itself. "none" says that
            there are no split folders: one named so is a class.

    Returns:
        The images in ImageFolder's order. A single file is listed whatever its name ends in.

    Raises:
        UsageError: If there is no such path, no such split, or the default would touch images
            that are kept for validation or test.
        DataError: If a folder cannot be read, a name is not UTF-8, or there is no image.
    """
    root = place_of(root)
    try:
        mode = root.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{root}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise DataError(root, _why(error)) from error
    if stat.S_ISREG(mode):
        if split is not None:
            raise UsageError(f"{root}: a single file has no split {split!r}")
        return Listing(root.parent, (Source(root, root.name, None, None),), (), 0)
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{root}: neither a file nor a folder")
    folder, name = _choose(root, split)
    return _listing(root, folder, name)


def _choose(root: Path, split: str | None) -> tuple[Path, str | None]:
    """Returns the folder to list and the split's name, if it is one."""
    folders = _visible(root)[0]
    # A link's own name counts as well as that of the folder it leads to.
    own = [name for name in dict.fromkeys((root.name, root.resolve().name)) if _kind(name)]
    if split is not None and split != _NO_SPLITS:
        return _named_split(root, split, [name for name in folders if _kind(name)], own)
    named = [name for name in folders if _kind(name)] if split is None else []
    if named:
        _check_unambiguous(root, folders, named)
        # "train" itself, where there is a "training" too.
        train = sorted((name for name in named if _kind(name) == "train"), key=len)
        if train:
            return root / train[0], train[0]
        raise UsageError(
            f"{root}: no train split, and a validation or test split is left alone "
            f"unless named: --split {named[0]} (available: {', '.join(named)})"
        )
    for name in own:
        if _kind(name) != "train":
            raise UsageError(
                f"{root}: a {_kind(name)} split is left alone unless named: --split {name}"
            )
    return root, own[0] if own else None


def _named_split(root: Path, split: str, named: list[str], own: list[str]) -> tuple[Path, str]:
    """Returns the split asked for by name: a folder in the root, or the root itself."""
    found = [name for name in named if name == split]
    found = found or [name for name in named if name.lower() == split.lower()]
    if len(found) == 1:
        return root / found[0], found[0]
    if found:
        raise UsageError(f"{root}: more than one folder fits: {', '.join(found)}")
    for name in own:
        if name.lower() == split.lower():
            return root, name
    hint = did_you_mean(split, named + own)
    available = f"available: {', '.join(named + own)}" if named + own else "it has none"
    raise UsageError(f"{root}: no split {split!r} ({available}) {hint}".rstrip())


def _kind(name: str) -> str | None:
    return _SPLITS.get(name.lower())


def _check_unambiguous(root: Path, folders: list[str], named: list[str]) -> None:
    """Refuses a lone folder such as "train" among others, which may well be a class."""
    others = [name for name in folders if name not in named]
    around = _around(root)
    if len({_kind(name) for name in named}) == 1 and any(
        _is_image(file)
        for other in others
        for _, files in _walk(root / other, around)
        for file in files
    ):
        raise UsageError(
            f"{root}: {named[0]} may be a split or a class beside {others[0]}: "
            f"--split {named[0]} for the split, --split {_NO_SPLITS} for the classes"
        )


def _listing(root: Path, folder: Path, split: str | None) -> Listing:
    folders, files = _visible(folder)
    prefix = f"{folder.name}/" if folder != root else ""
    around = _around(folder)
    sources: list[Source] = []
    ignored: list[str] = []
    for label in folders:
        top = folder / label
        # The strings sort as ImageFolder sorts them: "a-b" before "a/b".
        for inner, names in sorted(_walk(top, around)):
            for name in names:
                relative = f"{prefix}{label}{inner}/{name}"
                if _is_image(name):
                    sources.append(_source(root, relative, label, split))
                else:
                    ignored.append(relative)
    beside = [f"{prefix}{name}" for name in files]
    classes = tuple(folders) if sources else ()
    if not sources:
        sources = [_source(root, name, None, split) for name in beside if _is_image(name)]
        beside = [name for name in beside if not _is_image(name)]
    ignored += beside
    if not sources:
        count = len(ignored)
        raise DataError(
            folder, f"no image in it ({count} other files; images end in {', '.join(EXTENSIONS)})"
        )
    return Listing(root, tuple(sources), classes, len(ignored), tuple(ignored[:3]))


def _source(root: Path, relative: str, label: str | None, split: str | None) -> Source:
    try:
        relative.encode()
    except UnicodeEncodeError:
        # It could be opened, but not be named in a manifest.
        shown = os.fsencode(relative)
        raise DataError(root, f"the name {shown!r} is not UTF-8: rename it") from None
    return Source(root / relative, relative, label, split)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _walk(top: Path, around: frozenset[_Identity]) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder from `top` down, as its path from there and its file names.

    Links to folders are followed, save those to a folder on the way here.
    """
    waiting = [("", around)]
    while waiting:
        inner, above = waiting.pop()
        here = top / inner[1:]
        identity = _identity(here)
        if identity in above:
            continue
        folders, files = _visible(here)
        yield inner, files
        waiting += [(f"{inner}/{name}", above | {identity}) for name in folders]


def _around(folder: Path) -> frozenset[_Identity]:
    """Returns the identities of a folder and of all folders around it."""
    if isinstance(folder, Address):  # no links, so none that lead around it
        return frozenset()
    real = folder.resolve()
    return frozenset(_identity(each) for each in (real, *real.parents))


def _identity(folder: Path) -> _Identity:
    try:
        status = folder.stat()
    except OSError as error:
        raise DataError(folder, _why(error)) from error
    return status.st_dev, status.st_ino


def _visible(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the sorted names of a folder's sub-folders and of its other entries."""
    folders: list[str] = []
    files: list[str] = []
    try:
        if isinstance(folder, Address):
            return folder.listing()
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise DataError(folder, _why(error)) from error
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _why(error: OSError | ValueError) -> str:
    match error:
        case PermissionError():
            return "no permission to read"
        case OSError():
            return f"cannot be read ({reason(error)})"
        case _:
            return "not a usable path"
