"""The manifest: one row an output, enough to make the same file again."""

from __future__ import annotations

import math
import os
import platform
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO

import cv2
import numpy as np
import PIL
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

import augpipe
from augpipe.data.encode import replacing, unwritable
from augpipe.errors import DataError, UsageError, in_a_line, reason
from augpipe.recipe import Recipe
from augpipe.rng import Trace

_MOST_NUMBERS = 64  # of one parameter in a row; a larger field says nothing to a reader

Parameters = dict[str, dict[str, JsonValue]]
Key = tuple[int, int]
_Index = Annotated[int, Field(ge=0, lt=2**63)]  # what the draws can be keyed by
_Epoch = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True, slots=True)
class Extra:
    """A file that belongs to an output: its mask.

    Args:
        path: Its path from the output folder.
        sha256: Of its content.
        bytes: Its size.
    """

    path: str
    sha256: str
    bytes: Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Row:
    """One output.

    Args:
        output: Its path from the output folder.
        sha256: Of its content.
        bytes: Its size.
        source: The source's path from the input folder.
        source_sha256: Of the source's content.
        label: The source's class, or None.
        index: The source's index, which keys the draws.
        copy: Which copy it is; None for the original.
        seed: The recipe's seed.
        epoch: The epoch that keys the draws: the copy's number; None for the original.
        parameters: What was drawn, by op and name. It follows from seed, epoch and index.
        versions: The versions of the libraries that made it.
        batch: Where the recipe's batch section needs a batch: the indices that shared it.
        shares: Where images were mixed, or weigh less: the share of each class that has one.
        generated: Whether the source is no image of the input, but one of `gan_generate`;
            `source_sha256` is then that of the generator's weights.
        record: Of an annotated image, all that is known of it (see `augpipe.data.annotated`);
            `source_sha256` is then of the source's content and its record.
        mask: The mask of an annotated image.
    """

    output: str
    sha256: str
    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    source: str
    source_sha256: str
    label: str | None
    index: _Index
    copy: _Epoch | None
    seed: int
    epoch: _Epoch | None
    parameters: Parameters
    versions: dict[str, str]
    batch: tuple[_Index, ...] = ()
    shares: dict[str, float] | None = None
    generated: bool = False
    record: dict[str, JsonValue] | None = None
    mask: Extra | None = None

    @property
    def key(self) -> Key:
        """Returns where the row stands: the source's index, then -1 (the original) or copy."""
        return self.index, -1 if self.copy is None else self.copy


_ROW = TypeAdapter(Row)


def parse_row(line: bytes) -> Row | None:
    """Returns the row of one line, or None if it is not a whole row."""
    try:
        return _ROW.validate_json(line) if line.endswith(b"\n") else None
    except (ValidationError, RecursionError):
        return None


def is_pipe(path: Path) -> bool:
    """Tells whether something that is no file has a file's name: opening it might never end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def rows_of(path: Path) -> Iterator[tuple[bytes, Row | None]]:
    """Yields each line of a manifest and its row; nothing if there is no such file.

    Raises:
        UsageError: If it is no regular file.
        DataError: If it cannot be read.
    """
    if is_pipe(path):
        raise UsageError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            for line in file:
                yield line, parse_row(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error


def line_of(row: Row) -> bytes:
    r"""Returns a row's line.

    Raises:
        DataError: If the record in it cannot be written: it holds half a letter, as in "\ud800".
    """
    try:
        return _ROW.dump_json(row, exclude_defaults=True) + b"\n"
    except PydanticSerializationError as error:
        raise DataError(row.source, f"its record cannot be written: {in_a_line(error)}") from None


class Manifest:
    """A manifest being written: rows are appended as outputs are made, and sorted at the end.

    A killed run leaves at most one torn line, at the end, which `load` passes over.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = LineFile(path)
        self._places: dict[Key, tuple[int, int]] = {}
        self._last: Key = (-1, -1)
        self._sorted = True

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def load(self, trusted: Callable[[Row], bool]) -> None:
        """Takes over the rows of an earlier run.

        Args:
            trusted: Whether a row may be kept. Its output is made again if not.
        """
        start = 0
        for line, row in rows_of(self.path):
            if not line.endswith(b"\n"):
                break
            if row is not None and trusted(row):
                self._note(row.key, start, len(line))
            else:
                self._sorted = False
            start += len(line)
        self._lines.size = start

    def drop(self, key: Key) -> None:
        """Gives up a row that was loaded."""
        if self._places.pop(key, None):
            self._sorted = False

    def append(self, lines: Sequence[tuple[Key, bytes]]) -> None:
        """Adds the rows of a source or of a batch, each by its key.

        Raises:
            AugpipeError: If they cannot be written.
        """
        start = self._lines.size
        self._lines.append(b"".join(line for _, line in lines))
        for key, line in lines:
            self._note(key, start, len(line))
            start += len(line)

    def _note(self, key: Key, start: int, length: int) -> None:
        self._sorted = self._sorted and key > self._last
        self._last = key
        self._places[key] = (start, length)

    def settle(self) -> None:
        """Brings the file into its final form: each row once, in the order of its key.

        Without a row there is no file.

        Raises:
            AugpipeError: If it cannot be written; then the file is as it was.
        """
        if self._sorted and self._places:
            self._lines.trim()
            return
        self._lines.close()
        if self._places:
            with replacing(self.path) as new, self.path.open("rb") as old:
                self._copy(old, new)
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _copy(self, old: BinaryIO, new: BinaryIO) -> None:
        for key in sorted(self._places):
            start, length = self._places[key]
            old.seek(start)
            new.write(old.read(length))


class LineFile:
    """A file that lines are appended to, each append in one piece.

    Args:
        path: The file. It is made at the first append.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Up to where the file holds whole lines: what lies behind is cut off."""
        self._file: FileIO | None = None

    def append(self, data: bytes) -> None:
        """Writes at the end.

        Raises:
            AugpipeError: If it cannot be written.
        """
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
                self._file.truncate(self.size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.size += len(data)

    def trim(self) -> None:
        """Cuts off what lies behind the last whole line, and closes the file.

        Raises:
            AugpipeError: If it cannot be done.
        """
        self.close()
        try:
            if self.path.exists() and self.path.stat().st_size > self.size:
                os.truncate(self.path, self.size)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Closes the file; it may be appended to again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def versions_for(recipe: Recipe, to: str | None = None) -> dict[str, str]:
    """Returns the versions of what decides an output's bytes, in a format of datasets or alone."""
    learned = recipe.gan_generate or any(op.files for op in recipe.sample)
    computed = {"torch": metadata.version("torch")} if recipe.batch or learned else {}
    packed = {"pyarrow": metadata.version("pyarrow")} if to == "parquet" else {}
    return {
        **computed,
        **packed,
        "augpipe": augpipe.__version__,
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": metadata.version("simplejpeg"),
    }


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Returns which libraries have another version: "opencv 5.0.0 is now 5.0.1", or ""."""
    return ", ".join(
        f"{name} {old.get(name, 'none')} is now {new.get(name, 'none')}"
        for name in sorted(old.keys() | new.keys())
        if name != "python" and old.get(name) != new.get(name)
    )


def parameters(trace: Trace, count: int) -> list[Parameters]:
    """Returns, for each of `count` samples, what the ops that acted on it drew, as JSON holds it.

    64-bit keys are written in hexadecimal (a JSON number would lose digits), numbers that are
    not finite as null; fields of more than 64 numbers are left out.
    """
    found: list[Parameters] = [{} for _ in range(count)]
    for op, draws in trace.items():
        names = [
            (name, _plain(values))
            for name, values in draws.items()
            if name != "on" and values[:1].size <= _MOST_NUMBERS
        ]
        on = draws["on"].tolist() if "on" in draws else [True] * count
        for row, acts in enumerate(on):
            if acts:
                found[row][op] = {name: values[row] for name, values in names}
    return found


def _plain(values: np.ndarray[Any, Any]) -> list[JsonValue]:
    match values.dtype.kind:
        case "u" if values.dtype.itemsize == 8:
            return _each(values.tolist(), "{:016x}".format)
        case "f" if not np.isfinite(values).all():
            return _each(values.tolist(), lambda value: value if math.isfinite(value) else None)
    plain: list[JsonValue] = values.tolist()
    return plain


def _each(values: list[Any], change: Callable[[Any], JsonValue]) -> list[JsonValue]:
    return [_each(v, change) if isinstance(v, list) else change(v) for v in values]
