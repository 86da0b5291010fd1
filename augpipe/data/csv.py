"""CSV lists: a row an image, or a row an object where there are columns of a box.

The header names the columns: an image's path (`file_name`, `image`, `path`, ...), its class
(`label`, `class`), `split`, and `xmin`, `ymin`, `xmax`, `ymax` with the object's class (`category`,
or `label` if there is no other). Other columns are kept as text. Written as `annotations.csv`
beside `images/[SPLIT/]NAME`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from augpipe.data.annotated import (
    AnnotatedImage,
    Annotation,
    Category,
    Dataset,
    Entry,
    Meta,
    box_of,
    number,
    safe_name,
)
from augpipe.data.places import home_of, image_at, is_image, mask_ending, split_path, visible
from augpipe.data.shapes import Notes, hull, object_of
from augpipe.data.sidecar import Found, SidecarWriter, read_sidecar
from augpipe.data.splitfiles import Lines
from augpipe.errors import DataError, UsageError, printable, reason

NAME = "csv"
LOOKS = "a .csv file whose header has file_name, image or path"
PACKED = False

_FILE = ("file_name", "filename", "image_path", "filepath", "file_path", "image", "path", "file")
_LABEL = ("label", "class", "class_name", "category_name", "category")
_SPLIT = ("split", "subset", "set", "partition")
_BOXES = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
)
_HEADER = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class _Columns:
    """What stands in which column, by number; None where there is none."""

    names: tuple[str, ...]
    mark: str
    file: int
    split: int | None
    label: int | None
    category: int | None
    box: tuple[int, ...]

    def others(self) -> list[int]:
        """Returns the columns that mean nothing here."""
        known = {self.file, self.split, self.label, self.category, *self.box}
        return [k for k in range(len(self.names)) if k not in known and self.names[k]]


def sniff(path: Path) -> bool:
    """Tells whether a path is such a list, or a folder with one whose first image is there."""
    return _file_of(path) is not None


def _file_of(path: Path) -> Path | None:
    if path.is_file():
        return path if _columns(path) else None
    if not path.is_dir():
        return None
    for name in visible(path)[1]:
        file = path / name
        if name.lower().endswith((".csv", ".tsv")) and (columns := _columns(file)):
            rows = _rows(file, columns)
            next(rows, None)
            first = next(rows, None)
            if first and is_image(first[2][columns.file]):
                return file
    return None


def _columns(path: Path) -> _Columns | None:
    """Reads the header; None if it names no images."""
    try:
        with path.open("rb") as file:
            line = file.readline(_HEADER).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    mark = max(",;\t", key=line.count)
    try:
        fields = next(csv.reader([line.strip("\r\n")], delimiter=mark), [])
    except csv.Error:
        return None
    names = tuple(each.strip() for each in fields)
    low = [each.lower() for each in names]

    def at(options: Sequence[str]) -> int | None:
        return next((low.index(each) for each in options if each in low), None)

    own = at(_FILE)
    if own is None:
        return None
    box = next((tuple(map(low.index, each)) for each in _BOXES if set(each) <= set(low)), ())
    label, category = at(_LABEL), None
    if box:
        category = low.index("category") if "category" in low else label
        label = None if label == category else label
    return _Columns(names, mark, own, at(_SPLIT), label, category, box)


def _rows(path: Path, columns: _Columns, start: int = 0) -> Iterator[tuple[int, int, list[str]]]:
    """Yields where each row begins in the file, its line, and its fields; the header too."""
    place, line, end = start, 1, start
    try:
        with path.open("rb") as file:
            file.seek(start)

            def lines() -> Iterator[str]:
                nonlocal end
                for data in file:
                    end += len(data)
                    yield data.decode("utf-8-sig" if end == len(data) else "utf-8")

            reader = csv.reader(lines(), delimiter=columns.mark, strict=True)
            for fields in reader:
                if len(fields) == len(columns.names):
                    yield place, line, fields
                elif fields:
                    what = f"{len(fields)} fields for {len(columns.names)} columns"
                    raise DataError(f"{path}:{line}", what)
                place, line = end, reader.line_num + 1
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error
    except UnicodeDecodeError:
        raise DataError(f"{path}:{line}", "is not text in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:{line}", f"not CSV: {error}") from None


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a list.

    The file is gone through once; of each row only its place is kept.

    Args:
        path: The file, or its folder.
        images: The folder that file names count from; by default it is looked for.

    Raises:
        DataError: If a row has another number of fields, or a name leads out of the dataset.
        UsageError: If there is no such file.
    """
    file = _file_of(path)
    columns = None if file is None else _columns(file)
    if file is None or columns is None:
        raise UsageError(f"{path}: no CSV list of images ({LOOKS})")
    index: dict[Entry, int] = {}
    paths: list[str] = []
    labels: set[str] = set()
    categories: set[str] = set()
    starts: list[tuple[int, int, int]] = []
    rows = _rows(file, columns)
    next(rows, None)
    for start, line, fields in rows:
        name = safe_name(fields[columns.file], f"{file}:{line}")
        split = fields[columns.split].strip() if columns.split is not None else ""
        entry = Entry(_short(name, split), safe_name(split, f"{file}:{line}") if split else None)
        if entry not in index:
            index[entry] = len(paths)
            paths.append(name)
        starts.append((index[entry], start, line))
        if columns.label is not None and fields[columns.label]:
            labels.add(fields[columns.label])
        if columns.category is not None and fields[columns.category]:
            categories.add(fields[columns.category])
    if not paths:
        raise DataError(file, "has no rows")
    home = home_of([images or file.parent], paths[:20], [None], file)
    sidecar = read_sidecar(file.parent)
    meta = sidecar.by_name(_native(labels, categories))
    ids = {each.name: each.id for each in reversed(meta.categories)}
    table = np.array(starts, np.int64)[np.argsort([each[0] for each in starts], kind="stable")]
    bounds = np.searchsorted(table[:, 0], np.arange(len(paths) + 1))
    positions = {paths[k]: (k, entry) for entry, k in index.items()}
    if len(positions) < len(paths):
        again = next(name for name in paths if paths.count(name) > 1)
        raise DataError(file, f"{printable(again)} is in two splits")
    order = sidecar.arranged(Found(paths[k], entry) for entry, k in index.items())

    def load(index: int) -> AnnotatedImage:
        key = order[index].key
        k, entry = positions[key]
        own = [
            (int(line), next(_rows(file, columns, int(start)))[2])
            for _, start, line in table[bounds[k] : bounds[k + 1]]
        ]
        content = image_at(home, key, f"{file}:{own[0][0]}")
        kept = sidecar.image(key, _said([fields for _, fields in own], columns), content)
        return kept or _image(own, columns, entry, content, ids, file)

    return Dataset(path, NAME, meta, [each.entry for each in order], load, sidecar.last)


def _short(name: str, split: str) -> str:
    inner = name.removeprefix("images/")
    return inner.removeprefix(f"{split}/") if split and inner != name else inner


def _native(labels: Iterable[str], categories: Iterable[str]) -> Meta:
    numbered = tuple(Category(k, name) for k, name in enumerate(sorted(categories), 1))
    return Meta(numbered, tuple(sorted(labels)))


def _said(rows: Sequence[Sequence[str]], columns: _Columns) -> str:
    return repr([dict(zip(columns.names, fields, strict=True)) for fields in rows])


def _image(
    rows: Sequence[tuple[int, list[str]]],
    columns: _Columns,
    entry: Entry,
    content: object,
    ids: Mapping[str, int],
    file: Path,
) -> AnnotatedImage:
    label = None
    objects: list[Annotation] = []
    extra: dict[str, str] = {}
    for line, fields in rows:
        where = f"{file}:{line}"
        if columns.label is not None and fields[columns.label]:
            if label not in (None, fields[columns.label]):
                raise DataError(where, f"a second class of {entry.name}")
            label = fields[columns.label]
        others = {columns.names[k]: fields[k] for k in columns.others() if fields[k]}
        corners = [fields[k].strip() for k in columns.box]
        if not any(corners):
            extra |= others
            continue
        objects.append(_object(corners, columns, fields, ids, others, where))
    return AnnotatedImage(
        entry.name,
        content,  # type: ignore[arg-type]
        entry.split,
        label=label,
        annotations=tuple(objects),
        extra=extra,
    )


def _object(
    corners: Sequence[str],
    columns: _Columns,
    fields: Sequence[str],
    ids: Mapping[str, int],
    others: Mapping[str, str],
    where: str,
) -> Annotation:
    category = fields[columns.category] if columns.category is not None else ""
    if category not in ids:
        raise DataError(where, f"a box without a known class: {printable(category[:60])!r}")
    try:
        x0, y0, x1, y1 = (number(float(each), where, "a corner") for each in corners)
    except ValueError:
        raise DataError(
            where, f"a corner is not a number: {printable(repr(corners)[:60])}"
        ) from None
    return Annotation(ids[category], box_of(x0, y0, x1, y1, where), extra=dict(others))


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset."""
    return split_path("images", image)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return split_path("masks", image, mask_ending(image))


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes the list of images that lie where `place` says.

    Args:
        out: The dataset's folder.
        meta: Categories, classes and the rest. With categories there are columns of a box.
        images: They are not kept in memory.
        notes: Where objects without any place are counted.

    Raises:
        AugpipeError: If the file cannot be written.
    """
    names = {each.id: each.name for each in meta.categories}
    ids = {each.name: each.id for each in reversed(meta.categories)}
    box = ("category", *_BOXES[0]) if names else ()
    columns = _Columns(
        ("file_name", "split", "label", *box),
        ",",
        0,
        1,
        2,
        3 if box else None,
        (4, 5, 6, 7) if box else (),
    )
    labels: set[str] = set()
    used: set[str] = set()
    with Lines(out / "annotations.csv") as file, SidecarWriter(out, NAME, meta) as sidecar:
        file.add(_line(columns.names))
        for image in images:
            key = place(image)
            start = [key, image.split or "", image.label or ""]
            rows: list[list[str]] = []
            for position, each in enumerate(image.annotations):
                corners = hull(each, image.name)
                if corners is None:
                    notes.add("object without a box", object_of(image, position))
                else:
                    rows.append([*start, names[each.category], *map(_text, corners)])
                    used.add(names[each.category])
            labels |= {image.label} if image.label else set()
            rows = rows or [[*start, *[""] * len(box)]]
            for row in rows:
                file.add(_line(row))
            split = (image.split or "").strip()  # as it is read
            entry = Entry(_short(key, split), split or None)
            lines = [(0, row) for row in rows]
            restored = _image(lines, columns, entry, image.content, ids, out)
            mask = None if image.mask is None else place_mask(image)
            sidecar.add(key, _said(rows, columns), image, restored, mask)
        sidecar.native = _native(labels, used)


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _line(fields: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(fields)  # it quotes what stands in the end
    return out.getvalue()[:-2]
