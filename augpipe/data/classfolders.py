"""Folders of classes, and flat folders of images: every split of them.

Written as `[SPLIT/]CLASS/NAME`, or where images have no class as `[SPLIT/]NAME`. What
`augpipe.data.folder` says of names, links and order holds here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from augpipe.data.annotated import AnnotatedImage, Dataset, Entry, Meta, safe_name
from augpipe.data.content import FileContent
from augpipe.data.folder import scan
from augpipe.data.places import kind_of, mask_ending, split_path, visible
from augpipe.data.shapes import Notes
from augpipe.data.sidecar import Found, SidecarWriter, read_sidecar
from augpipe.errors import DataError, UsageError

NAME = "folder"
LOOKS = "folders of classes, or a folder of images"
PACKED = False


def sniff(path: Path) -> bool:
    """Tells whether a path is a folder that holds images, or an image."""
    if not path.is_dir():
        return path.is_file() and kind_of(path.name) is None and _scans(path)
    return _scans(path)


def _scans(path: Path) -> bool:
    try:
        return bool(_listings(path))
    except (DataError, UsageError):
        return False


def _listings(path: Path) -> list[tuple[str | None, list[tuple[str, str | None]], tuple[str, ...]]]:
    """Returns each split, its images (path from there, class), and its classes."""
    names = visible(path)[0] if path.is_dir() else []
    named = [name for name in names if kind_of(name)]
    if named and len(named) < len(names):
        scan(path)  # refuses a folder that may be a split or a class
    out: list[tuple[str | None, list[tuple[str, str | None]], tuple[str, ...]]] = []
    splits: list[str | None] = [*named] or [None]
    for split in splits:
        listing = scan(path, split or ("none" if path.is_dir() else None))
        start = len(f"{split}/") if split else 0
        images = [(each.relative[start:], each.label) for each in listing.sources]
        out.append((split, images, listing.classes))
    return out


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a folder, with all its splits.

    Args:
        path: The folder, or one image.
        images: Not used.

    Raises:
        DataError: If there is no image, or a name is not UTF-8.
        UsageError: If a folder may be a split or a class.
    """
    root = path if path.is_dir() else path.parent
    sidecar = read_sidecar(root)
    found: list[Found] = []
    labels: dict[str, str | None] = {}
    files: dict[str, Path] = {}
    classes: set[str] = set()
    for split, listed, own in _listings(path):
        classes |= set(own)
        for name, label in listed:
            entry = Entry(name, split)
            found.append(Found(entry.relative, entry))
            labels[entry.relative] = label
            files[entry.relative] = root / entry.relative
    meta = sidecar.by_name(Meta(classes=tuple(sorted(classes))))
    order = sidecar.arranged(found)

    def load(index: int) -> AnnotatedImage:
        one = order[index]
        content = FileContent(files[one.key])
        kept = sidecar.image(one.key, labels[one.key] or "", content)
        return kept or AnnotatedImage(
            one.entry.name, content, one.entry.split, label=labels[one.key]
        )

    return Dataset(path, NAME, meta, [each.entry for each in order], load, sidecar.last)


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset.

    Raises:
        DataError: If its class is no name of a folder.
    """
    if image.label is not None and safe_name(image.label, image.name) != image.label:
        raise DataError(image.name, f"its class {image.label!r:.60} is no name of a folder")
    own = image.label is None or image.name.startswith(f"{image.label}/")
    parts = (image.split, None if own else image.label, image.name)
    return "/".join(part for part in parts if part)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies: hidden, for it is no image of a class."""
    return split_path(".augpipe-masks", image, mask_ending(image))


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes what folders do not say, for images that lie where `place` says.

    Args:
        out: The dataset's folder.
        meta: The classes and the rest.
        images: They are not kept in memory.
        notes: Unused: the sidecar holds the rest.

    Raises:
        DataError: If some images have a class and others none.
        AugpipeError: If the sidecar cannot be written.
    """
    seen: set[str] = set()
    without = False
    with SidecarWriter(out, NAME, meta) as sidecar:
        for image in images:
            key = place(image)
            if (image.label is None and seen) or (image.label is not None and without):
                raise DataError(image.name, "some images have a class and others none: choose --to")
            without = without or image.label is None
            seen |= {image.label} if image.label is not None else set()
            entry = key.removeprefix(f"{image.split}/") if image.split else key
            restored = AnnotatedImage(entry, image.content, image.split, label=image.label)
            mask = None if image.mask is None else place_mask(image)
            sidecar.add(key, image.label or "", image, restored, mask)
        sidecar.native = Meta(classes=tuple(sorted(seen)))
