"""Files of a dataset that grow image by image and take their names when they are whole."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from augpipe.data.address import Address
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable
from augpipe.errors import AugpipeError, DataError, printable


def dumped(value: Any) -> str:
    r"""Returns JSON in one line, the same text every time.

    Non-ASCII letters are as they are; but where half a letter is among them, which UTF-8 cannot
    hold, all are escaped (\ud800).
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def file_part(split: str | None, taken: dict[str, str | None], as_name: str, where: str) -> str:
    """Returns what a file of a split is called, once no other split's is.

    Args:
        split: The split.
        taken: Grows: the splits, by what their files are called.
        as_name: What it would be called; a "/" in it becomes "_".
        where: What the error calls the image.

    Raises:
        DataError: If another split's files are called so.
    """
    name = as_name.replace("/", "_")
    if taken.setdefault(name, split) != split:
        both = f"the splits {taken[name]} and {split}"
        raise DataError(where, f"{both} would share a file: convert one of them, by --split")
    return name


class Growing:
    """A file that takes its name at the end of a `with` block, if the block did not fail.

    What goes to an address grows among this machine's temporary files.

    Args:
        path: The file. Its folder is made.

    Raises:
        AugpipeError: If it cannot be written. Nothing is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts: list[tuple[Path, BinaryIO]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
                for _, file in self._parts:
                    file.close()
                if isinstance(self.path, Address):
                    self.path.put_file(self._parts[0][0])
                else:
                    self._parts[0][0].replace(self.path)
                    self._parts = self._parts[1:]
        except OSError as failure:
            raise unwritable(self.path, failure) from failure
        finally:
            for path, file in self._parts:
                with suppress(OSError):  # of a full disk, once more: what is given up may be lost
                    file.close()
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def part(self) -> BinaryIO:
        """Returns a new file to write in; the first is the one that takes the name."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = isinstance(self.path, Address)
            folder = Path(tempfile.gettempdir()) if there else self.path.parent
            path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            file = path.open("x+b")
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._parts.append((path, file))
        return file

    def put(self, file: BinaryIO, data: bytes) -> None:
        """Writes to a part."""
        try:
            file.write(data)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def finish(self) -> None:
        """Does what is left to do before the file takes its name."""


class Lines(Growing):
    """A file of lines.

    Args:
        path: See `Growing`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self.part()

    def add(self, line: str) -> None:
        """Adds a line.

        Raises:
            DataError: If UTF-8 cannot hold it.
        """
        try:
            data = line.encode()
        except UnicodeEncodeError:
            raise DataError(printable(line[:100]), "half a letter, which UTF-8 has not") from None
        self.put(self._file, data + b"\n")


class JsonLists(Growing):
    """A JSON object whose last keys hold long lists, filled side by side.

    Args:
        path: See `Growing`.
        head: The other keys.
        lists: The keys of the lists.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], lists: Sequence[str]) -> None:
        super().__init__(path)
        main = self.part()
        body = "".join(f"{dumped(key)}: {dumped(value)},\n" for key, value in head.items())
        self.put(main, f"{{{body}".encode())
        self._files = {name: main if k == 0 else self.part() for k, name in enumerate(lists)}
        self._empty = dict.fromkeys(lists, True)

    def add(self, name: str, value: Any) -> None:
        """Adds an element to a list."""
        start = f"{dumped(name)}: [\n" if self._empty[name] else ",\n"
        self._empty[name] = False
        try:
            data = (start + dumped(value)).encode()
        except (ValueError, UnicodeEncodeError) as error:
            raise AugpipeError(f"{self.path}: cannot hold {value!r:.200}: {error}") from error
        self.put(self._files[name], data)

    def finish(self) -> None:
        """Puts the lists behind one another."""
        main, *others = self._files.items()
        self._close(*main, main[1])
        for name, file in others:
            self.put(main[1], b",\n")
            self._close(name, file, main[1])
        self.put(main[1], b"}\n")

    def _close(self, name: str, file: BinaryIO, main: BinaryIO) -> None:
        self.put(file, f"{dumped(name)}: [".encode() if self._empty[name] else b"\n")
        if file is not main:
            file.seek(0)
            shutil.copyfileobj(file, main)
        self.put(main, b"]")
