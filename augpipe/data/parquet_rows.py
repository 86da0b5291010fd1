"""Hugging Face's Parquet files: their rows, their features, and how they are opened and written."""

from __future__ import annotations

import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from augpipe.data.address import Address
from augpipe.data.annotated import AnnotatedImage, Meta, to_json
from augpipe.data.claim import make_folder
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable
from augpipe.data.places import mask_ending
from augpipe.data.records import to_record
from augpipe.data.shapes import area_of, hull
from augpipe.data.splitfiles import dumped
from augpipe.errors import AugpipeError, DataError, UsageError

META_KEY = b"augpipe"
"""The key of a file's metadata that holds what the dataset says beside its images."""

_ROWS, _FILE_ROWS = 100, 10_000
_GROUP_BYTES, _FILE_BYTES = 64_000_000, 500_000_000
_HELD = 2  # row groups in memory


def load_arrow() -> tuple[Any, Any]:
    """Returns pyarrow and pyarrow.parquet.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: pip install 'augpipe[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a Parquet file for the block.

    Raises:
        DataError: Whatever goes wrong with it there.
    """
    _, parquet = load_arrow()
    try:
        there = path.open("rb") if isinstance(path, Address) else path
        with parquet.ParquetFile(there) as file:
            if file.metadata.num_rows > path.stat().st_size:
                raise DataError(path, "a Parquet file that claims to have more rows than bytes")
            yield file
    except AugpipeError:
        raise
    except Exception as error:  # it raises half a dozen types on broken files
        words = (str(error).splitlines() or [type(error).__name__])[0][:120]
        cut = "footer" in words or "magic" in words or "EOF" in words
        what = "truncated or damaged" if cut else "unreadable"
        raise DataError(path, f"a Parquet file that is {what}: {words}") from None


@dataclass(slots=True)
class Groups:
    """Row groups that were read last, for rows are asked for one after another.

    Another process begins with none.
    """

    _held: OrderedDict[tuple[Path, int, tuple[str, ...]], Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[type[Groups], tuple[()]]:
        return Groups, ()

    def row(self, path: Path, group: int, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Returns some columns of one row.

        Raises:
            DataError: If they cannot be read.
        """
        key = (path, group, tuple(columns))
        with self._lock:
            table = self._held.get(key)
            if table is None:
                with opened(path) as file:
                    table = file.read_row_group(group, columns=list(columns))
                self._held[key] = table
                while len(self._held) > 2 * _HELD:
                    self._held.popitem(last=False)
        (out,) = table.slice(row, 1).to_pylist()
        return dict(out)


@dataclass(frozen=True, slots=True)
class RowContent:
    """The bytes in one row of a Parquet file.

    Args:
        path: The file.
        group: The row group.
        row: The row in it.
        column: The column, a struct with `bytes` and `path`.
        groups: What reads it.
    """

    path: Path
    group: int
    row: int
    column: str
    groups: Groups = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """The file's name, if the row has it."""
        value = self.groups.row(self.path, self.group, self.row, (self.column,))[self.column]
        path = value.get("path") if isinstance(value, dict) else None
        return str(path or "").rpartition("/")[2]

    def read(self) -> bytes:
        """Returns them.

        Raises:
            DataError: If there are none.
        """
        value = self.groups.row(self.path, self.group, self.row, (self.column,))[self.column]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            where = f"{self.path}: row {self.row} of group {self.group}"
            raise DataError(where, f"no bytes in the column {self.column}")
        return data


class SplitFiles:
    """The files of one split; they get their names when it is known how many there are.

    Args:
        folder: Where they lie.
        name: How their names begin.
        meta: What the dataset says beside its images.
    """

    def __init__(self, folder: Path, name: str, meta: Meta) -> None:
        self._folder = folder
        self._name = name
        self._meta = meta
        self._schema = _schema(meta)
        self._rows: list[dict[str, Any]] = []
        self._parts: list[Path] = []
        self._writer: Any = None
        self._held = self._size = self._waiting = 0
        make_folder(folder)

    def add(self, image: AnnotatedImage) -> None:
        """Adds an image.

        Raises:
            DataError: If it cannot be read.
            AugpipeError: If a file cannot be written.
        """
        data = image.content.read()
        self._rows.append(_row(image, data, self._meta))
        self._held += 1
        self._size += len(data)
        self._waiting += len(data)
        if len(self._rows) >= _ROWS or self._waiting >= _GROUP_BYTES:
            self._flush()
        if self._held >= _FILE_ROWS or self._size >= _FILE_BYTES:
            self._close()

    def _flush(self) -> None:
        arrow, parquet = load_arrow()
        if not self._rows:
            return
        try:
            if self._writer is None:
                name = f"{TEMPORARY_PREFIX}{self._name}-{len(self._parts):05d}.parquet"
                if isinstance(self._folder, Address):
                    self._parts.append(Path(tempfile.gettempdir()) / f"{name}-{token_hex(8)}")
                else:
                    self._parts.append(self._folder / name)
                self._writer = parquet.ParquetWriter(self._parts[-1], self._schema)
            table = arrow.Table.from_pylist(self._rows, schema=self._schema)
            self._writer.write_table(table, row_group_size=_ROWS)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._rows, self._waiting = [], 0

    def _close(self) -> None:
        self._flush()
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._writer, self._held, self._size = None, 0, 0

    def finish(self) -> None:
        """Gives the files their names."""
        self._close()
        count = len(self._parts)
        names = re.compile(re.escape(self._name) + r"-\d{5}-of-(\d{5})\.parquet")
        try:
            for each in list(self._folder.iterdir()):  # of an earlier run that had fewer images
                found = names.fullmatch(each.name)
                if found and int(found[1]) != count:
                    each.unlink()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        for position, path in enumerate(self._parts):
            target = self._folder / f"{self._name}-{position:05d}-of-{count:05d}.parquet"
            try:
                if isinstance(target, Address):
                    target.put_file(path)
                    path.unlink()
                else:
                    path.replace(target)
            except OSError as error:
                raise unwritable(target, error) from error
        self._parts = []

    def clear(self) -> None:
        """Removes files that have no names yet."""
        with suppress(OSError):  # of a full disk, once more: what is given up may be lost
            if self._writer is not None:
                self._writer.close()
        for path in self._parts:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _schema(meta: Meta) -> Any:
    arrow, _ = load_arrow()
    picture = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    columns: list[tuple[str, Any]] = [("image", picture)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}

    def value(dtype: str) -> dict[str, str]:
        return {"dtype": dtype, "_type": "Value"}

    if meta.classes:
        columns.append(("label", arrow.int64()))
        features["label"] = {"names": list(meta.classes), "_type": "ClassLabel"}
    if meta.categories:
        kinds = {"id": arrow.int64(), "bbox": arrow.list_(arrow.float64(), 4)}
        kinds |= {"category": arrow.int64(), "area": arrow.float64()}
        columns.append(
            ("objects", arrow.struct([(k, arrow.list_(each)) for k, each in kinds.items()]))
        )
        names = [each.name for each in meta.categories]
        inner: dict[str, Any] = {
            "id": value("int64"),
            "bbox": {"feature": value("float64"), "length": 4, "_type": "List"},
            "category": {"names": names, "_type": "ClassLabel"}
            if len(set(names)) == len(names)
            else value("int64"),
            "area": value("float64"),
        }
        features["objects"] = {k: {"feature": each, "_type": "List"} for k, each in inner.items()}
    columns.append(("mask", picture))
    features["mask"] = {"_type": "Image"}
    for name, kind in (("image_id", "string"), ("width", "int64"), ("height", "int64")):
        columns.append((name, arrow.string() if kind == "string" else arrow.int64()))
        features[name] = value(kind)
    columns.append(("augpipe", arrow.string()))
    features["augpipe"] = value("string")
    return arrow.schema(columns).with_metadata(
        {
            b"huggingface": dumped({"info": {"features": features}}).encode(),
            META_KEY: dumped(to_json(meta)).encode(),
        }
    )


def _row(image: AnnotatedImage, data: bytes, meta: Meta) -> dict[str, Any]:
    record = to_record(image, meta)
    if image.mask is not None:
        record["mask"] = True
    if image.split is not None:
        record["split"] = image.split
    out: dict[str, Any] = {
        "image": {"bytes": data, "path": image.name},
        "image_id": None if image.id is None else str(image.id),
        "augpipe": dumped(record),
    }
    if image.size is not None:
        out |= {"height": image.size[0], "width": image.size[1]}
    if image.label is not None and image.label in meta.classes:
        out["label"] = meta.classes.index(image.label)
    if image.mask is not None:
        out["mask"] = {"bytes": image.mask.read(), "path": f"{image.name}{mask_ending(image)}"}
    if meta.categories:
        out["objects"] = _columns_of(image, meta)
    return out


def _columns_of(image: AnnotatedImage, meta: Meta) -> dict[str, list[Any]]:
    numbers = {each.id: k for k, each in enumerate(meta.categories)}
    out: dict[str, list[Any]] = {"id": [], "bbox": [], "category": [], "area": []}
    for each in image.annotations:
        box = hull(each, image.name)
        if box is not None:
            fits = isinstance(each.id, int) and abs(each.id) < 2**63
            out["id"].append(each.id if fits else None)
            out["bbox"].append([box[0], box[1], box[2] - box[0], box[3] - box[1]])
            out["category"].append(numbers[each.category])
            out["area"].append(area_of(each, image.name))
    return out
