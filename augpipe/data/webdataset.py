"""WebDataset: tar shards in which the members of one sample follow one another under one key.

Written as `[SPLIT-]000000.tar`: of each image `KEY.jpg` (or what it is), `KEY.json` (its record,
see `records`), `KEY.cls` (the number of its class) and `KEY.mask.png`. Keys are numbers, for a key
ends at its first dot. Members have no dates and no owners: equal images make equal shards. Archives
are never unpacked: a member is read where it lies.
Reference: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from augpipe.data.address import Address
from augpipe.data.annotated import (
    AnnotatedImage,
    Category,
    Dataset,
    Entry,
    Meta,
    safe_name,
    to_json,
)
from augpipe.data.coco_objects import OWN, own_of
from augpipe.data.content import Content, SliceContent
from augpipe.data.encode import unwritable
from augpipe.data.jsonscan import loads
from augpipe.data.places import is_image, mask_ending, split_in, visible
from augpipe.data.records import categories_in, from_record, to_record
from augpipe.data.shapes import Notes
from augpipe.data.sidecar import SidecarWriter, read_sidecar
from augpipe.data.splitfiles import Growing, dumped, file_part
from augpipe.errors import DataError, UsageError, printable, reason

NAME = "webdataset"
LOOKS = ".tar shards with an image and its members under one key"
PACKED = True

_IMAGES = (10_000, 500_000_000)
"""The most images in a shard, and the bytes after which it is closed."""

_TEXT = 1 << 24  # bytes of a member that is read as text
_SHARD = re.compile(r"(?:(.*)-)?\d{6}\.tar", re.DOTALL)


def sniff(path: Path) -> bool:
    """Tells whether a path is a shard, or a folder with one."""
    return any(_is_shard(each) for each in _shards(path)[:1])


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".tar" or _is_shard(path) else []
    if not path.is_dir():
        return []
    return [path / name for name in visible(path)[1] if name.lower().endswith(".tar")]


def _is_shard(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return False
    return head[257:262] == b"ustar" or (len(head) == 512 and not head.strip(b"\0"))


@dataclass(slots=True)
class _Sample:
    """The members of one sample: where each lies, by its ending; and where all of it does."""

    key: str
    start: int
    end: int = 0
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens shards.

    Their headers are gone through once, and each image's JSON; of a sample only places are kept.

    Args:
        path: A shard, or the folder of the shards.
        images: Not used.

    Raises:
        DataError: If a shard is truncated or compressed, holds a link or a name that leads out,
            or a JSON member is none.
        UsageError: If there are no shards.
    """
    shards = _shards(path)
    if not shards:
        raise UsageError(f"{path}: no shards ({LOOKS})")
    sidecar = read_sidecar(path if path.is_dir() else path.parent)
    entries: list[Entry] = []
    samples: list[tuple[int, int, int]] = []
    found: dict[int, Category] = {}
    classes: set[str] = set()
    highest = [0, 0]
    for number, shard in enumerate(shards):
        written = _SHARD.fullmatch(shard.name)
        split = written[1] if written else split_in(shard.stem)
        for sample in _samples(shard):
            record = _record(shard, sample)
            named = record.get("file_name")
            ending = _image_of(sample)
            if ending is None:
                continue
            where = f"{shard}: {sample.key}"
            name = safe_name(named if isinstance(named, str) else f"{sample.key}.{ending}", where)
            own = own_of(record, where)
            whole = own.get("split", split) if own else split
            if whole is not None:
                whole = safe_name(whole, where)
            entries.append(Entry(name, whole, record.get("image_id")))
            samples.append((number, sample.start, sample.end))
            found |= {each.id: each for each in categories_in(record)}
            if isinstance(record.get("label"), str):
                classes.add(record["label"])
            given = (
                [record.get("image_id")],
                [
                    each.get("id")
                    for each in record.get("annotations") or []
                    if isinstance(each, dict)
                ],
            )
            for k, some in enumerate(given):
                highest[k] = max([highest[k], *(each for each in some if isinstance(each, int))])
    if not entries:
        raise DataError(path, "has no images")
    meta = sidecar.meta or Meta(tuple(found[key] for key in sorted(found)), tuple(sorted(classes)))

    places = np.array(samples, np.int64)

    def load(index: int) -> AnnotatedImage:
        number, start, end = places[index].tolist()
        (sample,) = _samples(shards[number], start, end)
        return _load(shards[number], sample, entries[index], meta)

    return Dataset(path, NAME, meta, entries, load, (highest[0], highest[1]))


def _samples(shard: Path, start: int = 0, end: int | None = None) -> Iterator[_Sample]:
    """Yields the samples of a shard: members that follow one another under one key."""
    sample: _Sample | None = None
    for member in _members(shard, start, end):
        name = safe_name(member.name, shard)
        folder, slash, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        key = folder + slash + stem
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key, member.offset)
        if ending.lower() in sample.members:
            raise DataError(f"{shard}: {printable(name)}", "a second member of this name")
        sample.members[ending.lower()] = (member.offset_data, member.size)
        sample.end = member.offset_data + member.size
    if sample is not None:
        yield sample


def _members(shard: Path, start: int, end: int | None) -> Iterator[tarfile.TarInfo]:
    """Yields the files of a shard; between two places in it, or all."""
    try:
        length = shard.stat().st_size
        # At an address, where each request takes its time, all that is asked for comes in one.
        part = shard.part(start, end) if isinstance(shard, Address) and end else None
        shift = start if part is not None else 0
        with shard.open("rb") if part is None else io.BytesIO(part) as file:
            if end is None:
                _check_whole(shard, file, length)
            file.seek(start - shift)
            tar = tarfile.open(  # noqa: SIM115 - holds nothing but the file
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            )
            while shift + tar.offset < (end or length) and (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                member.offset += shift
                member.offset_data += shift
                if member.isdir():
                    continue
                where = f"{shard}: {printable(member.name)}"
                if not member.isreg():
                    raise DataError(where, "a link or a device, not a file")
                if member.size < 0 or member.offset_data + member.size > length:
                    raise DataError(where, "a truncated shard")
                yield member
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(shard, f"not a whole tar file ({error})") from None
    except OSError as error:
        raise DataError(shard, f"cannot be read ({reason(error)})") from error


def _check_whole(shard: Path, file: IO[bytes], length: int) -> None:
    if file.read(2) == b"\x1f\x8b":
        raise DataError(shard, "a compressed shard: unpack it with gunzip")
    file.seek(max(0, length - 1024))
    if length < 1024 or file.read().strip(b"\0"):
        raise DataError(shard, "a truncated shard: its end is missing")


def _image_of(sample: _Sample) -> str | None:
    usual = (end for end in sample.members if "." not in end)
    return next((end for end in usual if is_image(f"x.{end}")), None)


def _record(shard: Path, sample: _Sample) -> dict[str, Any]:
    if "json" not in sample.members:
        return {}
    where = f"{shard}: {sample.key}.json"
    try:
        value = loads(_text(shard, sample, "json"))
    except (ValueError, RecursionError):
        raise DataError(where, "not JSON") from None
    if not isinstance(value, dict):
        raise DataError(where, "not a JSON object")
    return value


def _text(shard: Path, sample: _Sample, ending: str) -> str:
    where = f"{sample.key}.{ending}"
    start, size = sample.members[ending]
    if size > _TEXT:
        raise DataError(f"{shard}: {where}", "a text of more than 16 MB")
    try:
        return SliceContent(shard, start, size, where).read().decode()
    except UnicodeDecodeError:
        raise DataError(f"{shard}: {where}", "is not text in UTF-8") from None


def _load(shard: Path, sample: _Sample, entry: Entry, meta: Meta) -> AnnotatedImage:
    where = f"{shard}: {sample.key}"

    def part(ending: str | None) -> Content | None:
        if ending is None:
            return None
        return SliceContent(shard, *sample.members[ending], f"{sample.key}.{ending}")

    content = part(_image_of(sample))
    assert content is not None
    masks = (end for end in sample.members if end.startswith("mask.") or end == "seg.png")
    mask = part(next(masks, None))
    record = _record(shard, sample)
    if isinstance(record.get("file_name"), str):
        return from_record(record, content, entry.split, mask, meta, where)
    extra: dict[str, Any] = dict(record)
    for ending in ("txt", "cls", "caption"):
        if ending in sample.members:
            extra[ending] = _text(shard, sample, ending).strip()
    label = extra.pop("cls", None)
    numbered = label is not None and label.isascii() and label.isdigit() and len(label) < 10
    if numbered and int(label) < len(meta.classes):
        label = meta.classes[int(label)]
    return AnnotatedImage(entry.name, content, entry.split, label=label, mask=mask, extra=extra)


def place(image: AnnotatedImage) -> str:
    """Returns what an image's file is called while there are no shards yet."""
    return Entry(image.name, image.split).relative


def place_mask(image: AnnotatedImage) -> str:
    """Returns what a mask's file is called while there are no shards yet."""
    return f"{place(image)}.mask{mask_ending(image)}"


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes shards with the images in them, split by split apart.

    Args:
        out: The folder.
        meta: Categories, classes and the rest; kept in the sidecar.
        images: Their bytes are read one by one.
        notes: Unused: the records hold everything.

    Raises:
        DataError: If an image cannot be read.
        AugpipeError: If a shard cannot be written.
    """
    numbers = {name: k for k, name in enumerate(meta.classes)}
    shards: dict[str | None, _Shards] = {}
    taken: dict[str, str | None] = {}
    with SidecarWriter(out, NAME, meta):  # first: when all shards are there, all is there
        pass
    with ExitStack() as stack:
        for image in images:
            if image.split not in shards:
                prefix = "" if image.split is None else f"{image.split}-"
                prefix = file_part(image.split, taken, prefix, image.name)
                shards[image.split] = _Shards(out, prefix)
                stack.push(shards[image.split].close)
            shards[image.split].add(image, meta, numbers)


class _Shards:
    """The shards of one split, each of which takes its name when it is full."""

    def __init__(self, out: Path, prefix: str) -> None:
        self._out = out
        self._prefix = prefix
        self._count = 0
        self._number = 0
        self._file: Growing | None = None
        self._tar: tarfile.TarFile | None = None
        self._size = self._held = 0

    def add(self, image: AnnotatedImage, meta: Meta, numbers: Mapping[str, int]) -> None:
        if self._held >= _IMAGES[0] or self._size >= _IMAGES[1]:
            self.close(None, None, None)
        key = f"{self._count:08d}"
        data = image.content.read()
        ending = image.name.rpartition(".")[2].lower() if is_image(image.name) else "jpg"
        self._put(f"{key}.{ending}", data)
        if image.label is not None and image.label in numbers:
            self._put(f"{key}.cls", str(numbers[image.label]).encode())
        record = to_record(image, meta)
        if image.split is not None and "/" in image.split:  # which the shard's name does not tell
            record[OWN] = to_json(image)
        self._put(f"{key}.json", dumped(record).encode())
        if image.mask is not None:
            self._put(f"{key}.mask{mask_ending(image)}", image.mask.read())
        self._count += 1
        self._held += 1
        self._size += len(data)

    def _put(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        try:
            if self._tar is None:
                self._file = Growing(self._out / f"{self._prefix}{self._number:06d}.tar")
                self._tar = tarfile.open(  # noqa: SIM115 - closed with the shard
                    fileobj=self._file.part(), mode="w", format=tarfile.USTAR_FORMAT
                )
            self._tar.addfile(info, io.BytesIO(data))
        except OSError as error:
            raise unwritable(self._out, error) from error
        self._tar.members = []  # type: ignore[attr-defined]

    def close(self, kind: Any, error: Any, trace: Any) -> None:
        """Ends the shard that is open, and begins another with the next image."""
        tar, file = self._tar, self._file
        self._file = self._tar = None
        self._size = self._held = 0
        if tar is None or file is None:
            return
        if error is not None:
            file.__exit__(kind, error, trace)
            return
        with file:
            try:
                tar.close()
            except OSError as failure:
                raise unwritable(self._out, failure) from failure
        self._number += 1
