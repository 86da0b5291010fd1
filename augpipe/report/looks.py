"""What the images of an expansion look like beside one another: near duplicates, idle copies."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from augpipe.data.content import Content, FileContent
from augpipe.data.decode import decode
from augpipe.data.jpeg import Jpeg, open_jpeg
from augpipe.data.places import kind_of
from augpipe.data.threads import ordered
from augpipe.errors import DataError
from augpipe.expansion.manifest import rows_of
from augpipe.expansion.progress import Meter, Progress
from augpipe.plan.explain import plural
from augpipe.report.similar import Look, groups_of, look_at
from augpipe.report.sources import Source, Sources
from augpipe.types import Array

IDLE = 2.0
"""Grey levels, on average, up to which a copy hardly differs from its source."""

_ENOUGH = 64  # pixels of the shorter side that a look needs


@dataclass(frozen=True, slots=True)
class Group:
    """Images of the input that are near duplicates of one another.

    Args:
        sources: The images.
    """

    sources: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Returns the classes that they have."""
        return tuple(dict.fromkeys(each.label for each in self.sources if each.label is not None))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Returns what their splits are for: "train", "validation", "test"."""
        found = (kind_of(each.split) or each.split for each in self.sources if each.split)
        return tuple(dict.fromkeys(found))


class Idle(NamedTuple):
    """A copy that hardly differs from its source.

    Args:
        output: Its path from the output folder.
        source: The source's path.
        levels: How far they are apart: grey levels, on average.
    """

    output: str
    source: str
    levels: float


@dataclass(slots=True)
class Looks:
    """What was found.

    Args:
        groups: Near duplicates.
        idle: Copies that hardly differ from their source.
        images: How many images of the input were looked at.
        copies: How many copies.
    """

    groups: tuple[Group, ...] = ()
    idle: list[Idle] = field(default_factory=list)
    images: int = 0
    copies: int = 0

    def __str__(self) -> str:
        lines = []
        if self.groups:
            classes, splits = across(self.groups)
            spans = [f"{classes} span classes"] * bool(classes)
            spans += [f"{splits} span splits, which is leakage"] * bool(splits)
            what = plural(len(self.groups), "group")
            of = ": " + ", ".join(spans) if spans else ""
            lines.append(f"{what} of near duplicates in the input{of}")
        if self.idle:
            lines.append(
                f"{len(self.idle)} of {self.copies} copies hardly differ from their source"
            )
        return "\n".join(lines)


def compare_looks(
    sources: Sources,
    manifest: Path,
    outputs: Mapping[str, Content],
    out: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> Looks:
    """Looks at every image of an input and every copy made of it.

    Args:
        sources: The input.
        manifest: The manifest.
        outputs: Where outputs are that are no files of their own, by their path.
        out: The output folder.
        workers: Threads; 0 works in the caller's.
        progress: Called at most ten times a second, and at the end.
    """
    found = Looks()
    names: list[int] = []
    looks: list[Look] = []
    eye = _Eye(sources, outputs, out)
    meter = Meter(progress, len(sources))
    tasks = _tasks(manifest, len(sources))
    with closing(ordered(eye, tasks, workers, threading.Event())) as results:
        for index, look, idle, copies in results:
            if look is not None:
                names.append(index)
                looks.append(look)
            found.idle += idle
            found.copies += copies
            meter(index, 0)
    meter(len(sources), 0, last=True)
    found.images = len(looks)
    if looks:
        hashes = np.array([each.hash for each in looks], np.uint64)
        parts = groups_of(hashes, np.stack([each.small for each in looks]))
        found.groups = tuple(
            Group(tuple(sources[names[k]] for k in part.tolist())) for part in parts
        )
    return found


def _tasks(manifest: Path, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yields each image's index and the outputs of its copies, in order."""
    rows = (row for _, row in rows_of(manifest) if row is not None)
    index = 0
    for at, own in groupby(rows, key=lambda row: row.index):
        copies = [row.output for row in own if row.copy is not None]
        if index <= at < count:
            yield from ((k, []) for k in range(index, at))
            yield at, copies
            index = at + 1
    yield from ((k, []) for k in range(index, count))


@dataclass(frozen=True, slots=True)
class _Eye:
    """Looks at one image and its copies. Runs in the workers."""

    sources: Sources
    outputs: Mapping[str, Content]
    out: Path

    def __call__(self, task: tuple[int, list[str]]) -> tuple[int, Look | None, list[Idle], int]:
        index, copies = task
        try:
            source = self.sources[index]
            image = pixels_of(source, whole=bool(copies))
        except DataError:  # the expansion has listed it
            return index, None, [], 0
        idle = []
        for output in copies:
            try:
                content = self.outputs.get(output) or FileContent(self.out / output)
                levels = apart(image, decode(content.read()))
            except DataError:  # `verify` says so
                continue
            if levels <= IDLE:
                idle.append(Idle(output, source.name, levels))
        return index, look_at(image), idle, len(copies)


def pixels_of(source: Source, whole: bool = True) -> Array:
    """Returns the pixels of an image.

    Args:
        source: The image.
        whole: Whether all are needed; else a large JPEG is decoded at a fraction of its size.

    Raises:
        DataError: It cannot be decoded.
    """
    data = source.content.read()
    picture = None if whole else open_jpeg(data, source.name, scaled=True)
    if isinstance(picture, Jpeg) and picture.turn == 1:
        height, width, _ = picture.shape
        halvings = min(3, int(np.log2(max(min(height, width) / _ENOUGH, 1.0))))
        if halvings:
            return picture.reduced(halvings, (0.0, 0.0, width, height))[0]
    return decode(data, name=source.name)


def apart(source: Array, copy: Array) -> float:
    """Returns the mean distance of two images in grey levels, the first at the second's size."""
    height, width = copy.shape[:2]
    if source.shape[:2] != (height, width):
        small = height * width < source.shape[0] * source.shape[1]
        how = cv2.INTER_AREA if small else cv2.INTER_LINEAR
        source = cv2.resize(source, (width, height), interpolation=how).reshape(height, width, -1)
    one, other = _rgb(source), _rgb(copy)
    return float(np.abs(one.astype(np.int16) - other).mean())


def _rgb(image: Array) -> Array:
    return image[:, :, :3] if image.shape[2] > 2 else image[:, :, [0, 0, 0]]


def across(groups: Sequence[Group]) -> tuple[int, int]:
    """Returns how many groups span classes, and how many span kinds of splits."""
    return (
        sum(len(each.classes) > 1 for each in groups),
        sum(len(each.kinds) > 1 for each in groups),
    )
