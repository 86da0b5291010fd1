"""Where weights lie, and whether they are still the same. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from augpipe.errors import DataError, printable, reason

BUNDLED = "bundled"
"""The name of the weights that come with the package."""
_FOLDER = Path(__file__).parent / "weights"


def path_of(source: str | Path, kind: str) -> Path:
    """Returns the file of weights: a path, or that of the bundled ones of a kind."""
    return _FOLDER / f"{kind}.safetensors" if source == BUNDLED else Path(source)


def stamp(source: str) -> tuple[int, int]:
    """Returns what changes with a file, so that one that was written anew is read anew."""
    try:
        found = Path(source).stat()
    except OSError:
        return 0, 0  # the bundled one; or reading it says what is wrong
    return found.st_mtime_ns, found.st_size


def digest_of(source: str | Path, kind: str) -> str:
    """Returns the SHA-256 of a file of weights, in hexadecimal.

    Raises:
        DataError: It cannot be read.
    """
    path = path_of(source, kind)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe might never end
            raise DataError(path, "is not a regular file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, reason(error)) from None
    except ValueError:  # a zero byte, or half a letter
        raise DataError(printable(str(path)), "is not usable as a file name") from None
