"""Where the images of a dataset are, beside the files that annotate them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from augpipe.data.address import Address
from augpipe.data.annotated import AnnotatedImage, stem_of
from augpipe.data.content import Content, FileContent
from augpipe.data.decode import MAX_PIXELS
from augpipe.data.folder import EXTENSIONS
from augpipe.data.header import Refused, orientation, parse
from augpipe.errors import DataError, printable, reason

_KINDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_WORD = re.compile(r"(?<![a-z])(training|train|validation|valid|val|testing|test|dev)(?![a-z])")


def kind_of(split: str) -> str | None:
    """Returns "train", "validation" or "test" for the usual names of a split; else None."""
    return _KINDS.get(split.lower())


def split_in(name: str) -> str | None:
    """Returns the split that a file's name speaks of: "train" for "instances_train2017"."""
    found = _WORD.search(name.lower())
    return found[1] if found else None


def is_image(name: str) -> bool:
    """Tells whether a name ends as an image's."""
    return name.lower().endswith(EXTENSIONS)


def visible(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the sorted names of a folder's folders and files, hidden ones left out.

    Pipes and devices are left out too: to open one might never end.

    Raises:
        DataError: If it cannot be read.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        if isinstance(folder, Address):
            return folder.listing()
        with os.scandir(folder) as entries:
            for each in entries:
                if not each.name.startswith("."):
                    if each.is_dir():
                        folders.append(each.name)
                    elif each.is_file() or not Path(each.path).exists():
                        files.append(each.name)  # a link to nothing is said when its turn comes
    except OSError as error:
        raise DataError(folder, f"cannot be read ({reason(error)})") from error
    return sorted(folders), sorted(files)


def walk(folder: Path, inner: str = "", depth: int = 8) -> Iterator[str]:
    """Yields the paths of all files below a folder, folder by folder, sorted; links to folders too.

    Raises:
        DataError: If a folder cannot be read, or lies more than 8 deep.
    """
    if not depth:
        raise DataError(folder / inner, "too many folders within one another")
    folders, files = visible(folder / inner)
    yield from (f"{inner}{name}" for name in files)
    for name in folders:
        yield from walk(folder, f"{inner}{name}/", depth - 1)


def is_there(path: Path) -> bool:
    """Tells whether there is such a file; of a name that no disk can have there is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def home_of(
    bases: Sequence[Path], names: Sequence[str], splits: Sequence[str | None], where: object
) -> Path:
    """Returns the folder that a dataset's image names count from.

    Args:
        bases: The folders to look in and below, the likeliest first.
        names: Some of the images.
        splits: The split of each.
        where: What the error calls the file that names them.

    Raises:
        DataError: If none of the images is found.
    """
    tried: list[Path] = []
    for base in bases:
        split = next(iter(splits), None)
        own = [base / "images" / split, base / split] if split else []
        likely = [*own, base / "images", base]
        others = [base / name for name in visible(base)[0]] if base.is_dir() else []
        nested = [each / split for each in others] if split else []
        for home in dict.fromkeys([*likely, *nested, *others]):
            if any(is_there(home / name) for name in names):
                return home
            tried.append(home)
    looked = ", ".join(str(each) for each in tried[:4]) + (", ..." if len(tried) > 4 else "")
    raise DataError(
        where, f"its images were not found: no {names[0]!r:.300} in {looked} (--images says where)"
    )


def image_at(home: Path, name: str, where: object) -> FileContent:
    """Returns an image's file.

    Raises:
        DataError: If it is not there.
    """
    path = home / name
    if not is_there(path):
        shown = printable(f"the image {name!r:.300} is missing: there is no {path!s:.300}")
        raise DataError(where, shown)
    return FileContent(path)


def size_of(content: Content, where: str) -> tuple[int, int]:
    """Returns an image's height and width, upright, from its header.

    Raises:
        DataError: If it is no image, or too large.
    """
    data: io.BufferedReader | io.BytesIO
    try:
        data = (
            content.path.open("rb")
            if isinstance(content, FileContent)
            else io.BytesIO(content.read())
        )
        with data as stream:
            image = parse(stream, MAX_PIXELS)
            width, height = image.size
            return (width, height) if orientation(image, stream) > 4 else (height, width)
    except DataError:
        raise
    except Refused as refusal:
        raise DataError(where, str(refusal)) from None
    except FileNotFoundError:
        raise DataError(where, "no such file") from None
    except Exception as error:  # Pillow raises a dozen types on broken headers
        raise DataError(where, f"its header cannot be read ({type(error).__name__})") from error


def check_size(said: tuple[int, int] | None, size: tuple[int, int], where: str) -> None:
    """Makes sure that an image's annotations are of its size.

    Args:
        said: The height and width that they say, if they do.
        size: Those that it has.
        where: What errors call it.

    Raises:
        DataError: If they say another.
    """
    if said not in (None, size):
        words = f"{said[0]} × {said[1]}" if said else ""
        raise DataError(where, f"is {size[0]} × {size[1]}, its annotations say {words}")


def split_path(folder: str, image: AnnotatedImage, ending: str | None = None) -> str:
    """Returns `folder/[split/]name`, the name's last ending exchanged if another is given."""
    name = image.name if ending is None else stem_of(image.name) + ending
    return "/".join(part for part in (folder, image.split, name) if part)


def mask_ending(image: AnnotatedImage) -> str:
    """Returns how the name of an image's mask ends."""
    own = "" if image.mask is None else PurePosixPath(image.mask.name).suffix
    return own or ".png"
