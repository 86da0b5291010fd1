"""What a format cannot hold, kept beside it, so that going back brings everything again.

`.augpipe.jsonl` in the dataset's folder has a line for the dataset, and one for each image of
which the format's own files do not tell all: its whole record, and the hash of what the format's
own files said when it was written. Where those were edited since, they are believed, and the line
is passed over. The last line counts the images': a file that was cut is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from augpipe.data.annotated import (
    AnnotatedImage,
    Entry,
    Json,
    Meta,
    image_from,
    meta_from,
    safe_name,
    to_json,
)
from augpipe.data.content import Content, FileContent
from augpipe.data.encode import unwritable
from augpipe.data.jsonscan import loads
from augpipe.data.splitfiles import Lines, dumped
from augpipe.errors import DataError, reason

SIDECAR = ".augpipe.jsonl"
"""The file's name, in the dataset's folder."""

_LONGEST = 1 << 28
_END = "end"  # the key of the last line, which counts the images' lines


@dataclass(frozen=True, slots=True)
class Found:
    """An image that a format's own files tell of.

    Args:
        key: Its path from the dataset's folder: what the sidecar knows it by.
        entry: What those files say of it.
    """

    key: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The index of a sidecar.

    Args:
        root: The dataset's folder.
        meta: What it says of the dataset, or None.
        lines: By key, where a line lies, and what the index keeps of its image.
        last: See `Dataset`.
    """

    root: Path
    meta: Meta | None = None
    lines: Mapping[str, tuple[int, int, Entry]] = field(default_factory=dict)
    last: tuple[int, int] = (0, 0)

    def by_name(self, native: Meta) -> Meta:
        """Returns the whole of what is known of a dataset that knows its classes by their names.

        Args:
            native: What the format's own files say; what the sidecar does not know, since it was
                added to them, comes behind.
        """
        return native if self.meta is None else _extended(self.meta, native)

    def by_number(self, native: Meta) -> tuple[Sidecar, Meta]:
        """Returns what there is to go by where classes are known by their numbers.

        Where those were given other names, or another order, since, the sidecar's records speak of
        classes that are no more, and there are none; names may be added at the end.

        Args:
            native: What the format's own files say.
        """
        if self.meta is None:
            return self, native
        names = [each.name for each in self.meta.categories]
        if [each.name for each in native.categories[: len(names)]] != names:
            return replace(self, meta=None, lines={}), native
        added = replace(native, categories=native.categories[len(names) :])
        return self, _extended(self.meta, added, again=True)

    def arranged(self, found: Iterable[Found]) -> list[Found]:
        """Returns images as the sidecar has them; in its order, if it has all of them."""
        own = {each.key: each for each in found}
        if own.keys() <= self.lines.keys():
            own = {key: own[key] for key in self.lines if key in own}
        return [
            Found(key, self.lines[key][2]) if key in self.lines else each
            for key, each in own.items()
        ]

    def image(self, key: str, native: str, content: Content) -> AnnotatedImage | None:
        """Returns an image's record; None if there is none, or the format's files are others now.

        Args:
            key: See `Found`.
            native: What the format's own files say of it.
            content: Where its bytes are.

        Raises:
            DataError: If the record cannot be used.
        """
        if key not in self.lines:
            return None
        start, size, _ = self.lines[key]
        path = self.root / SIDECAR
        with path.open("rb") as file:
            file.seek(start)
            line = loads(file.read(size))
        if line.get("native") != _hash(native):
            return None
        where = f"{path}: {key}"
        mask = None
        if line.get("mask"):
            mask = FileContent(self.root / safe_name(line["mask"], where))
        try:
            return image_from(line["image"], content, mask)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(where, f"not a record of this version ({error})") from None


def read_sidecar(root: Path) -> Sidecar:
    """Goes through a dataset's sidecar, if it has one.

    Raises:
        DataError: If it cannot be read, or a line is none of its.
    """
    path = root / SIDECAR
    if not path.is_file():
        return Sidecar(root)
    meta: Meta | None = None
    lines: dict[str, tuple[int, int, Entry]] = {}
    highest = [0, 0]
    start = number = 0
    whole = False
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                number += 1
                value = loads(line)
                if "dataset" in value:
                    meta = meta_from(value["dataset"])
                elif _END in value:
                    whole = value[_END] == len(lines)
                else:
                    key, image = str(value["key"]), value["image"]
                    where = f"{path}:{number}"
                    split = image.get("split")
                    entry = Entry(
                        safe_name(image["name"], where),
                        None if split is None else safe_name(split, where),
                        image.get("id"),
                    )
                    lines[key] = (start, len(line), entry)
                    _raise(highest, image)
                start += len(line)
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}:{number}", f"not a line of a sidecar ({type(error).__name__})"
        ) from None
    if not whole:
        raise DataError(path, "is cut short: its last lines are missing; bring the whole file back")
    return Sidecar(root, meta, lines, (highest[0], highest[1]))


def _raise(highest: list[int], image: Json) -> None:
    ids = [image.get("id")], [each.get("id") for each in image.get("annotations", ())]
    for k, some in enumerate(ids):
        highest[k] = max([highest[k], *(each for each in some if isinstance(each, int))])


def format_said(root: Path) -> str | None:
    """Returns the name of the format that a sidecar stands beside; None if there is none."""
    if not (root / SIDECAR).is_file():
        return None
    try:
        with (root / SIDECAR).open("rb") as file:
            said = json.loads(file.readline(_LONGEST)).get("format")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return said if isinstance(said, str) else None


class SidecarWriter:
    """Writes a sidecar, if there is anything to write.

    Args:
        out: The dataset's folder.
        format: The format's name.
        meta: What the dataset says.
        native: What the format's own files will say in its place; may be set until the end.
    """

    def __init__(self, out: Path, format: str, meta: Meta, native: Meta | None = None) -> None:
        self.native = native
        self._path = out / SIDECAR
        self._format = format
        self._meta = meta
        self._lines: Lines | None = None
        self._count = 0

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._meta != self.native:
            self._open()
        if self._lines is not None:
            if error is None:
                self._lines.add(dumped({_END: self._count}))
            self._lines.__exit__(kind, error, trace)
        elif error is None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as failure:
                raise unwritable(self._path, failure) from failure

    def add(
        self,
        key: str,
        native: str,
        image: AnnotatedImage,
        restored: AnnotatedImage,
        mask: str | None,
    ) -> None:
        """Adds an image's line, if it needs one.

        Args:
            key: See `Found`.
            native: What the format's own files say of it.
            image: Its record.
            restored: The record that comes of `native`.
            mask: Where its mask lies in the dataset, if it has one.
        """
        if _alike(image, restored):
            return
        line: dict[str, Any] = {"key": key, "native": _hash(native)}
        if mask is not None:
            line["mask"] = mask
        self._open().add(dumped({**line, "image": to_json(image)}))
        self._count += 1

    def _open(self) -> Lines:
        if self._lines is None:
            self._lines = Lines(self._path)
            self._lines.add(dumped({"format": self._format, "dataset": to_json(self._meta)}))
        return self._lines


def _alike(image: AnnotatedImage, restored: AnnotatedImage) -> bool:
    """Tells whether two records of one image say the same."""
    same = replace(image, content=restored.content, mask=restored.mask)
    return same == restored and (image.mask is None) == (restored.mask is None)


def _extended(kept: Meta, native: Meta, again: bool = False) -> Meta:
    """Returns a dataset's meta with what another adds: of names it has already `again` or not."""
    known = {each.name for each in kept.categories}
    first = max((each.id for each in kept.categories), default=-1) + 1
    added = [each for each in native.categories if again or each.name not in known]
    numbered = (replace(each, id=first + k) for k, each in enumerate(added))
    classes = (each for each in native.classes if each not in kept.classes)
    return replace(
        kept,
        categories=(*kept.categories, *numbered),
        classes=(*kept.classes, *classes),
    )


def _hash(native: str) -> str:
    return hashlib.sha256(native.encode(errors="surrogatepass")).hexdigest()[:16]
