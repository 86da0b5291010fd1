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

    def read(self) -> bytes:
        """Returns its bytes."""
        return read(self.path)


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Bytes that were read already.

    Args:
        data: They.
    """

    data: bytes

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
