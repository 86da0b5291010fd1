"""Where weights lie, and whether they are still the same. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from augpipe.errors import DataError, reason

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
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(path, reason(error)) from None
