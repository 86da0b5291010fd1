"""A cache in memory that processes share: those that are forked from the one that made it."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import weakref
from threading import RLock
from typing import Self

import numpy as np

from augpipe.data.cache import Cache, Record
from augpipe.data.store import held_while_forking
from augpipe.errors import UsageError
from augpipe.types import Array

_ENTRY = struct.Struct("<QQQ")  # where the next entry and the pixels begin; the record's length
_ALIGN = 64
# Of Linux, where Python below 3.12 does not name it: memory counts as it is written to.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0


class SharedCache(Cache):
    """A cache that grows as one log, which each process reads on to find what others put there.

    The memory is taken as it is written to, and goes when the last of the processes does. What
    does not fit is not kept; nothing is dropped. A process that is killed while it adds an
    entry leaves the log as it was: where it ends is told last, in one word.
    """

    def __init__(self, where: str, prefix: str, max_gb: float) -> None:
        super().__init__(where, prefix, max_gb)
        size = int(min(max_gb, 1e9) * 1e9)  # more than that no address reaches
        self._size = size // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            self._log = mmap.mmap(-1, self._size, flags=flags)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cache.max_gb {max_gb:g}: no such room in memory ({error})") from None
        # Where the log ends, and whether something did not fit.
        self._told = np.frombuffer(self._log, np.uint64, 2)
        self._told[:] = _ALIGN, 0
        self._lock = _Lock()
        self._found: dict[bytes, tuple[Record, int]] = {}
        self._read_to = _ALIGN

    @property
    def full(self) -> bool:
        """Whether something was not kept for lack of room."""
        return bool(self._told[1])

    @full.setter
    def full(self, full: bool) -> None:
        if full:
            self._told[1] = 1

    @property
    def entries(self) -> int:  # noqa: D102
        self._read_on()
        return len(self._found)

    @property
    def nbytes(self) -> int:  # noqa: D102
        return int(self._told[0])

    def _read_on(self) -> None:
        """Finds what was put since the last time."""
        if self.nbytes == self._read_to:
            return
        with self._lock:  # what is told of is there by now, on any processor
            end = self.nbytes
            while self._read_to < end:
                following, pixels, length = _ENTRY.unpack_from(self._log, self._read_to)
                start = self._read_to + _ENTRY.size
                record = Record.unpack(self._log[start : start + length])
                assert record is not None
                self._found[record.path] = record, pixels
                self._read_to = following

    def _read(self, path: bytes) -> tuple[Record, Array] | None:
        self._read_on()
        found = self._found.get(path)
        if found is None:
            return None
        record, start = found
        height, width, channels = record.shape
        image = np.frombuffer(self._log, np.uint8, height * width * channels, start)
        image.flags.writeable = False
        return record, image.reshape(record.shape)

    def _write(self, path: bytes, record: Record, pixels: Array) -> bool:
        return self._append(record, pixels.reshape(-1))

    def _renew(self, path: bytes, old: Record, new: Record) -> None:
        with self._lock:
            self._read_on()
            record, start = self._found[path]
            if record == old:
                self._append(new, None, start)

    def _append(self, record: Record, pixels: Array | None, start: int = 0) -> bool:
        """Adds an entry, with pixels of its own or with those that begin at `start`."""
        packed = record.pack()
        with self._lock:
            at = self.nbytes
            end = _aligned(at + _ENTRY.size + len(packed))
            if pixels is not None:
                start, end = end, _aligned(end + pixels.size)
            if end > self._size:
                return False
            if pixels is not None:
                np.frombuffer(self._log, np.uint8, pixels.size, start)[:] = pixels
            _ENTRY.pack_into(self._log, at, end, start, len(packed))
            self._log[at + _ENTRY.size : at + _ENTRY.size + len(packed)] = packed
            self._told[0] = end
        return True


class _Lock:
    """A lock of forked processes and their threads; it opens when its holder is killed.

    A semaphore, as `multiprocessing.Lock` is one, would stay shut.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file).atexit = False
        self._threads = RLock()
        self._depth = 0
        held_while_forking(self)

    def __enter__(self) -> Self:
        import fcntl  # not everywhere, nor are forks

        self._threads.acquire()
        if not self._depth:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX)
            except BaseException:
                self._threads.release()
                raise
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        import fcntl

        self._depth -= 1
        if not self._depth:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()

    def hold(self) -> None:
        """Lets no thread be at work while the process forks."""
        self._threads.acquire()

    def resume(self, child: bool) -> None:
        """Ends `hold`, in the parent and in the child."""
        self._threads.release()


def _aligned(place: int) -> int:
    return -(-place // _ALIGN) * _ALIGN
