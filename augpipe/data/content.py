"""Where the bytes of one file lie: on disk, or within an archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from augpipe.data.address import Address
from augpipe.data.decode import read
from augpipe.errors import DataError, reason


class Content(Protocol):
    """Where the bytes of one file lie: on disk, or within an archive."""

    @property
    def name(self) -> str:
        """What the file is called there; "" where it has no name."""

    def read(self) -> bytes:
        """Returns all of them.

        Raises:
            DataError: If they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file on disk.

    Args:
        path: Where it is.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.path.name

    def read(self) -> bytes:
        """Returns its bytes."""
        return read(self.path)


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Bytes that were read already.

    Args:
        data: They.
        name: What the file was called.
    """

    data: bytes
    name: str = ""

    def read(self) -> bytes:
        """Returns them."""
        return self.data


@dataclass(frozen=True, slots=True)
class SliceContent:
    """A part of a file, as a member of an uncompressed archive is.

    Args:
        path: The file.
        start: Where the part begins, in bytes.
        size: Its length in bytes.
        name: What errors call it.
    """

    path: Path
    start: int
    size: int
    name: str

    def read(self) -> bytes:
        """Returns its bytes."""
        where = f"{self.path}: {self.name}"
        try:
            if isinstance(self.path, Address):
                data = self.path.part(self.start, self.start + self.size)
            else:
                with self.path.open("rb") as file:
                    file.seek(self.start)
                    data = file.read(self.size)
        except OSError as error:
            raise DataError(where, f"cannot be read ({reason(error)})") from error
        if len(data) != self.size:
            raise DataError(where, f"is truncated: {len(data)} of {self.size} bytes")
        return data


def bytes_of(path: Path, most: int) -> bytes:
    """Returns the content of a file that is to be small.

    Raises:
        DataError: If it cannot be read, or is larger than `most` megabytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most * 1_000_000 + 1)
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error
    if len(data) > most * 1_000_000:
        raise DataError(path, f"is larger than {most} MB")
    return data


def text_of(path: Path, most: int = 4) -> str:
    """Returns the content of a small text file.

    Raises:
        DataError: If it cannot be read, is larger than `most` megabytes, or is not UTF-8.
    """
    try:
        return bytes_of(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(path, "is not text in UTF-8") from None
