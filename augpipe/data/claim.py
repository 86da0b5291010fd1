"""A folder that one process at a time writes in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.encode import unwritable
from augpipe.errors import UsageError

if sys.platform != "win32":
    import fcntl


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Makes the output folder, and keeps other processes out of it for the block.

    The lock is on the folder itself and ends with the process, however that ends. Where a
    file system cannot lock a folder, and at an address, there is none.

    Raises:
        UsageError: If it is a file, or another process is at work in it.
        AugpipeError: If it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lockable = sys.platform != "win32" and not isinstance(out, Address)
        handle = os.open(out, os.O_RDONLY) if lockable else None
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{out}: the output folder is a file: choose another") from None
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        if handle is not None:
            _lock(handle, out)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, out: Path) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{out}: another process is at work in this folder") from None
        except OSError:  # NFS and its like
            return


def make_folder(folder: Path) -> None:
    """Makes a folder and those around it, if they are not there.

    Raises:
        AugpipeError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
