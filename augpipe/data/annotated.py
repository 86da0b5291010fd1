"""What a dataset says of its images, whatever its files: the form that every format reads into.

Boxes are x0, y0, x1, y1 in pixels (continuous coordinates: a pixel in row i and column j covers
[j, j + 1) x [i, i + 1)); a keypoint at (j, i) is that pixel's centre. A format says what it does
to come from its own numbers to these, and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from augpipe.data.content import Content
from augpipe.errors import AugpipeError, DataError, UsageError, did_you_mean, in_a_line, printable

Json = Any
"""A value that JSON holds."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

Id = int | str

_MOST = 1e12  # of a coordinate, an area or a score: products of these are finite


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask as runs down its columns, of 0 and 1 in turn, as COCO writes it.

    Args:
        size: Height and width.
        counts: The runs' lengths, or COCO's text of them.
    """

    size: tuple[int, int]
    counts: str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Category:
    """A class of objects.

    Args:
        id: Its number.
        name: Its name.
        supercategory: What it is a kind of.
        keypoints: The names of its keypoints.
        skeleton: Pairs of keypoints that are joined, counted from 1 as COCO does.
        flip: For each keypoint, which one it becomes in a mirror, counted from 0.
        extra: What else its file says.
    """

    id: int
    name: str
    supercategory: str | None = None
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    flip: tuple[int, ...] = ()
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object in an image.

    Args:
        category: The id of its category.
        box: Where it is; None where only another shape says it.
        polygons: Its outline's parts, each x and y in turn.
        rle: Its mask.
        oriented: The four corners of a rotated box, x and y in turn.
        keypoints: x, y and COCO's visibility (0 not labelled, 1 hidden, 2 seen) in turn.
        crowd: Whether it stands for many that are not told apart.
        score: How sure a detector was of it.
        id: Its own number.
        source: Of an augmented object, the id of the one that it was.
        extra: What else its file says.
    """

    category: int
    box: Box | None = None
    polygons: tuple[tuple[float, ...], ...] = ()
    rle: Rle | None = None
    oriented: tuple[float, ...] | None = None
    keypoints: tuple[float, ...] = ()
    crowd: bool = False
    score: float | None = None
    id: Id | None = None
    source: Id | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image and all that is known of it.

    Args:
        name: Its path within its split, with "/" between the parts.
        content: Where its bytes are.
        split: The split it belongs to, or None where there are none.
        size: Height and width, upright, if the dataset says them.
        label: Its class, or None.
        annotations: The objects in it.
        mask: An image of class or object numbers, pixel by pixel, or None.
        id: Its own number.
        source: Of an augmented image, what it was made of: `id` (if it had one), `name`, `copy`.
        extra: What else its file says.
    """

    name: str
    content: Content
    split: str | None = None
    size: tuple[int, int] | None = None
    label: str | None = None
    annotations: tuple[Annotation, ...] = ()
    mask: Content | None = None
    id: Id | None = None
    source: Mapping[str, Json] | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Meta:
    """What a dataset says beside its images.

    Args:
        categories: The classes of its objects.
        classes: The classes of its images, in the order of their numbers.
        extra: What else its files say, such as COCO's `info` and `licenses`.
    """

    categories: tuple[Category, ...] = ()
    classes: tuple[str, ...] = ()
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of an image in memory.

    Args:
        name: See `AnnotatedImage`.
        split: See `AnnotatedImage`.
        id: See `AnnotatedImage`.
    """

    name: str
    split: str | None = None
    id: Id | None = None

    @property
    def relative(self) -> str:
        """Returns the split and the name, as a path."""
        return f"{self.split}/{self.name}" if self.split else self.name


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset on disk: an index in memory, from which one image at a time is read.

    Args:
        root: The path that was asked for.
        format: The name of its format.
        meta: What it says beside its images.
        entries: Its images.
        load: Reads image i. May be called from several threads.
        last: The highest whole number that is an image's id, and an annotation's; 0 if none is.
        notes: What was found and is no error, in words.
        missing: Of splits that it names and that are not there, what is missing.
    """

    root: Path
    format: str
    meta: Meta
    entries: Sequence[Entry]
    load: Callable[[int], AnnotatedImage]
    last: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    _known: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_known", frozenset(each.id for each in self.meta.categories))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> AnnotatedImage:
        """Reads an image's record; not its pixels.

        Raises:
            DataError: If the record cannot be used. Its `where` names it.
        """
        try:
            image = self.load(index)
        except AugpipeError:
            raise
        except Exception as error:  # its file is another one than when it was gone through
            where = f"{self.root}: {printable(self.entries[index].relative)}"
            raise DataError(where, f"cannot be read ({in_a_line(error)})") from error
        for each in image.annotations:
            if each.category not in self._known:
                raise DataError(image.name, f"an object of the unknown category {each.category!r}")
        return image

    def __iter__(self) -> Iterator[AnnotatedImage]:
        return (self[index] for index in range(len(self)))

    @property
    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits, in the order of their first image."""
        return tuple(dict.fromkeys(each.split for each in self.entries if each.split))

    def only(self, split: str) -> Dataset:
        """Returns one split of it.

        Raises:
            UsageError: If there is no such split.
        """
        if split not in self.splits:
            if split in self.missing:
                raise UsageError(f"{self.root}: {self.missing[split]}")
            known = f"available: {', '.join(self.splits)}" if self.splits else "it has none"
            hint = did_you_mean(split, self.splits)
            raise UsageError(f"{self.root}: no split {split!r} ({known}) {hint}".rstrip())
        chosen = [k for k, each in enumerate(self.entries) if each.split == split]
        entries = [self.entries[k] for k in chosen]
        return replace(self, entries=entries, load=lambda index: self.load(chosen[index]))


def safe_name(name: object, where: object) -> str:
    r"""Returns a file's path within a dataset, once it is sure that it stays there.

    "./a//b.jpg" becomes "a/b.jpg"; spaces and line breaks are letters as any other.

    Args:
        name: The path as a file gives it.
        where: What errors call that file.

    Raises:
        DataError: If it is no text, is empty or absolute, leads out by "..", holds a zero byte or
            a backslash (which separates folders elsewhere), or is not UTF-8.
    """
    if not isinstance(name, str):
        raise DataError(where, f"a file name must be text, not {type(name).__name__}")
    shown = printable(repr(name)[:200])
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(where, f"the file name {shown} is not UTF-8: rename it") from None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or (len(name) > 1 and name[1] == ":" and name[0].isalpha()):
        raise DataError(where, f"the file name {shown} is absolute: it must stay in the dataset")
    if ".." in parts:
        raise DataError(where, f"the file name {shown} leads out of the dataset by '..'")
    if "\0" in name or "\\" in name or not parts:
        raise DataError(where, f"{shown} is not usable as a file name")
    return "/".join(parts)


def stem_of(name: str) -> str:
    """Returns a path without its last ending."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def number(value: object, where: object, what: str) -> float:
    """Returns a finite number.

    Raises:
        DataError: If it is another thing, NaN or infinite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(where, f"{what} must be a number, not {printable(repr(value)[:60])}")
    try:
        out = float(value)
    except OverflowError:
        out = math.inf
    if not math.isfinite(out):
        raise DataError(where, f"{what} must be finite, not {out}")
    if abs(out) > _MOST:
        raise DataError(where, f"{what} is {out:g}: no image is that large")
    return out


def box_of(x0: float, y0: float, x1: float, y1: float, where: object) -> Box:
    """Returns a box; one without area may be.

    Raises:
        DataError: If x1 < x0 or y1 < y0.
    """
    if x1 < x0 or y1 < y0:
        raise DataError(where, f"a box of negative size: x {x0:g} to {x1:g}, y {y0:g} to {y1:g}")
    return x0, y0, x1, y1


def span(low: float, high: float) -> float:
    """Returns the shortest number that, added to `low`, gives `high`; else their difference."""
    for digits in range(16):
        short = round(high - low, digits)
        if low + short == high:
            return short
    return high - low


def to_json(value: AnnotatedImage | Annotation | Category | Meta | Rle) -> dict[str, Json]:
    """Returns a value as JSON holds it: what is not the default, without the file contents."""
    out: dict[str, Json] = {}
    for each in fields(value):
        held = getattr(value, each.name)
        if each.name in ("content", "mask") or _is_default(held):
            continue
        out[each.name] = _plain(held)
    return out


def image_from(data: Json, content: Content, mask: Content | None) -> AnnotatedImage:
    """Returns the image that `to_json` wrote.

    Raises:
        DataError: If the name or the split leads out of the dataset.
        ValueError, TypeError, KeyError: If the data are not of this form.
    """
    known = {each.name for each in fields(AnnotatedImage)} - {"content", "mask"}
    values = {name: value for name, value in data.items() if name in known}
    for name in ("name", "split"):
        if values.get(name) is not None:
            values[name] = safe_name(values[name], "a record")
    values["annotations"] = tuple(map(annotation_from, values.get("annotations", ())))
    if values.get("size"):
        height, width = values["size"]
        values["size"] = _size(height, width)
    image = AnnotatedImage(content=content, mask=mask, **values)
    _demand(image.label is None or isinstance(image.label, str), "label")
    _demand(_is_id(image.id), "id")
    _demand(image.source is None or isinstance(image.source, Mapping), "source")
    _demand(isinstance(image.extra, Mapping), "extra")
    return image


def annotation_from(data: Json) -> Annotation:
    """Returns the annotation that `to_json` wrote; see `image_from`."""
    values = dict(data)
    for name in ("box", "oriented", "keypoints"):
        if name in values:
            values[name] = tuple(float(each) for each in values[name])
    if "polygons" in values:
        values["polygons"] = tuple(tuple(map(float, part)) for part in values["polygons"])
    if "rle" in values:
        (height, width), counts = values["rle"]["size"], values["rle"]["counts"]
        runs = counts if isinstance(counts, str) else tuple(map(int, counts))
        values["rle"] = Rle(_size(height, width), runs)
    out = Annotation(**values)
    shapes = [*out.polygons, *(each for each in (out.box, out.oriented) if each is not None)]
    numbers = [*out.keypoints, *(value for each in shapes for value in each)]
    numbers += [] if out.score is None else [out.score]
    _demand(isinstance(out.category, int), "category")
    _demand(all(abs(each) <= _MOST for each in numbers), "a number that is not finite")
    _demand(out.box is None or len(out.box) == 4, "box")
    if out.box is not None:
        box_of(*out.box, "a record")
    _demand(out.oriented is None or len(out.oriented) == 8, "oriented")
    _demand(all(len(each) > 5 and not len(each) % 2 for each in out.polygons), "polygons")
    _demand(not len(out.keypoints) % 3, "keypoints")
    _demand(isinstance(out.crowd, bool) and isinstance(out.extra, Mapping), "crowd or extra")
    _demand(_is_id(out.id) and _is_id(out.source), "id or source")
    return out


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _is_id(value: object) -> bool:
    return value is None or (isinstance(value, int | str) and not isinstance(value, bool))


def _size(height: object, width: object) -> tuple[int, int]:
    if (
        isinstance(height, int)
        and isinstance(width, int)
        and 0 < min(height, width) <= max(height, width) < 2**31
    ):
        return height, width
    raise ValueError("size")


def meta_from(data: Json) -> Meta:
    """Returns what `to_json` wrote; see `image_from`."""
    categories = []
    for each in data.get("categories", ()):
        values = dict(each)
        for name in ("keypoints", "flip"):
            values[name] = tuple(values.get(name, ()))
        values["skeleton"] = tuple((a, b) for a, b in values.get("skeleton", ()))
        made = Category(**values)
        _demand(isinstance(made.id, int) and isinstance(made.name, str), "id or name")
        _demand(all(isinstance(point, str) for point in made.keypoints), "keypoints")
        _demand(all(isinstance(point, int) for point in made.flip), "flip")
        _demand(isinstance(made.extra, Mapping), "extra")
        categories.append(made)
    classes, extra = tuple(data.get("classes", ())), data.get("extra", {})
    _demand(all(isinstance(each, str) for each in classes), "classes")
    _demand(isinstance(extra, Mapping), "extra")
    return Meta(tuple(categories), classes, extra)


def _is_default(value: object) -> bool:
    return value is None or value is False or value == () or value == {}


def _plain(value: Any) -> Json:
    if isinstance(value, Annotation | Category | Rle):
        return to_json(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
