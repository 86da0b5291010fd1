"""What a recipe does first and always alike, kept: decoded images, in memory or in a folder.

An entry belongs to a source file and to a prefix, the text that says what was done to it. It is
served while the file is what it was: by its stat, and where that differs, by its content's hash.

No wrong pixels: each image's checksum is compared when a process first reads it from a folder,
and damage is a miss.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from augpipe.data.store import Store, held_while_forking
from augpipe.errors import UsageError

if TYPE_CHECKING:
    import lmdb

Array = NDArray[np.uint8]
_OVERHEAD = 600  # bytes that Python's objects take for an entry in memory
_TICK = 2_000_000_000  # ns; no file system counts time in larger steps


class Stamp(NamedTuple):
    """A file as its stat shows it.

    Args:
        size: In bytes.
        modified: Time of its last change, in ns, which anyone may set.
        changed: Time of its last change or of its entry's, in ns, set by the system alone.
        inode: Which file the path leads to.
        settled: Whether that change is so long ago that a later one must have another time.
    """

    size: int
    modified: int
    changed: int
    inode: int
    settled: bool

    @classmethod
    def of(cls, source: Path) -> Stamp | None:
        """Returns a file's stamp, or None where there is none. Links are followed."""
        try:
            status = os.stat(source)  # noqa: PTH116 - Path.stat takes twice as long
        except (OSError, ValueError):
            return None
        modified = status.st_mtime_ns
        settled = abs(time.time_ns() - modified) > _TICK
        return cls(status.st_size, modified, status.st_ctime_ns, status.st_ino, settled)

    def same(self, other: Stamp) -> bool:
        """Returns whether the file is the one that had this stamp, for certain."""
        return self.settled and self[:4] == other[:4]


class Record(NamedTuple):
    """What is known of an entry beside its pixels; packed with its own checksum."""

    stamp: Stamp
    content: bytes
    shape: tuple[int, int, int]
    checksum: int
    path: bytes

    def pack(self) -> bytes:
        """Returns the record as bytes, its checksum behind it."""
        head = _HEAD.pack(*self.stamp, self.content, *self.shape, self.checksum) + self.path
        return head + zlib.crc32(head).to_bytes(4, "little")

    @classmethod
    def unpack(cls, packed: bytes) -> Record | None:
        """Returns the record, or None where this is none."""
        head, check = packed[:-4], packed[-4:]
        if len(head) < _HEAD.size or zlib.crc32(head).to_bytes(4, "little") != check:
            return None
        *stamp, content, height, width, channels, checksum = _HEAD.unpack_from(head)
        shape = (height, width, channels)
        return cls(Stamp(*stamp), content, shape, checksum, head[_HEAD.size :])


_HEAD = struct.Struct("<QqqQ?16sIIII")


class Cache(ABC):
    """Decoded images by their source file.

    A copy in another process (unpickled) opens the same folder; in memory it begins empty. A
    forked process goes on with what there was in memory, and opens the folder anew.

    Args:
        where: "memory" or a folder.
        prefix: What was done to the images, with the versions that decide on pixels. Entries
            of another are never served.
        max_gb: The most to keep, in 10⁹ bytes.

    Attributes:
        full: Whether the image put last was not kept for lack of room.
    """

    def __init__(self, where: str, prefix: str, max_gb: float) -> None:
        if not (math.isfinite(max_gb) and max_gb > 0):
            raise UsageError(f"max_gb {max_gb}: more than 0")
        self._arguments = (where, prefix, max_gb)
        self.full = False

    def __reduce__(self) -> tuple[Callable[..., Cache], tuple[str, str, float]]:
        return open_cache, self._arguments

    def get(self, source: Path) -> Array | None:
        """Returns the image of a file, or None where it is not kept or the file has changed.

        The stat decides first. Where it differs, or the file had been changed in the 2 s
        before the stat was taken, so that a further change may not show, the content's hash
        does, and the stat on record is renewed. Not seen is a change that leaves the size,
        the inode and both times as they were.

        Args:
            source: The file; relative to the working folder, or absolute.

        Returns:
            (H, W, C) uint8, read-only, valid for as long as it is held.

        Raises:
            DataError: If the cache cannot be read.
        """
        stamp = Stamp.of(source)
        path = _absolute(source)
        found = None if stamp is None else self._read(path)
        if stamp is None or found is None:
            return None
        record, image = found
        if record.stamp.same(stamp):
            return image
        if _content(path) != record.content:
            return None
        if stamp != record.stamp:
            self._renew(path, record, record._replace(stamp=stamp))
        return image

    def put(self, source: Path, image: Array, data: bytes, stamp: Stamp) -> bool:
        """Keeps the image of a file, in place of one of the same file.

        Args:
            source: The file.
            image: (H, W, C) uint8; copied. It must not change before this returns.
            data: The very bytes of the file that were decoded.
            stamp: `Stamp.of(source)`, taken before they were read: were the file changed in
                between, a later stamp would go with the older pixels.

        Returns:
            Whether there was room.

        Raises:
            DataError: If the cache cannot be written.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise UsageError(f"a cache takes (H, W, C) uint8, not {image.shape} {image.dtype}")
        path = _absolute(source)
        pixels = np.ascontiguousarray(image)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        checksum = zlib.crc32(pixels.data) if self._checked else 0
        kept = self._write(path, Record(stamp, digest, pixels.shape, checksum, path), pixels)
        self.full = not kept
        return kept

    _checked = False

    @property
    @abstractmethod
    def entries(self) -> int:
        """Images kept; in a folder, those of all prefixes."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes in use; in a folder, by all prefixes."""

    @abstractmethod
    def _read(self, path: bytes) -> tuple[Record, Array] | None: ...

    @abstractmethod
    def _write(self, path: bytes, record: Record, pixels: Array) -> bool: ...

    @abstractmethod
    def _renew(self, path: bytes, old: Record, new: Record) -> None:
        """Replaces the record if it is still the old one."""


def open_cache(where: str | Path, prefix: str, max_gb: float) -> Cache:
    """Returns a cache in memory or in a folder, which is made if there is none.

    Args:
        where: "memory" or a folder on a local disk, empty or a cache already.
        prefix: See `Cache`.
        max_gb: See `Cache`. Of several for one folder in a process the last one counts, among
            processes the largest. A folder that is larger already does not shrink.

    Raises:
        UsageError: If the folder cannot be used, or lmdb is not installed.
        DataError: If the folder's files are damaged.
    """
    if where == "memory":
        return MemoryCache(where, prefix, max_gb)
    return DiskCache(str(where), prefix, max_gb)


class MemoryCache(Cache):
    """A cache in this process's memory. What does not fit is not kept; nothing is dropped."""

    def __init__(self, where: str, prefix: str, max_gb: float) -> None:
        super().__init__(where, prefix, max_gb)
        self._kept: dict[bytes, tuple[Record, Array]] = {}
        self._bytes = 0
        self._lock = Lock()
        held_while_forking(self)

    @property
    def entries(self) -> int:  # noqa: D102
        return len(self._kept)

    @property
    def nbytes(self) -> int:  # noqa: D102
        return self._bytes

    def hold(self) -> None:
        """Lets no thread be at work while the process forks."""
        self._lock.acquire()

    def resume(self, child: bool) -> None:
        """Ends `hold`, in the parent and in the child."""
        self._lock.release()

    def _read(self, path: bytes) -> tuple[Record, Array] | None:
        return self._kept.get(path)

    def _write(self, path: bytes, record: Record, pixels: Array) -> bool:
        # An array on bytes can by no means be made writable.
        kept = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape)
        with self._lock:
            before = self._kept.get(path)
            size = self._bytes + kept.nbytes
            size += _OVERHEAD if before is None else -before[1].nbytes
            if size > self._arguments[2] * 1e9:
                return False
            self._kept[path] = record, kept
            self._bytes = size
        return True

    def _renew(self, path: bytes, old: Record, new: Record) -> None:
        with self._lock:
            record, image = self._kept[path]
            if record == old:
                self._kept[path] = new, image


class DiskCache(Cache):
    """A cache in a folder.

    Once it is full, entries of prefixes that are not open in this process and of files that
    are gone are dropped, once in a process, so that two recipes never drop each other's in
    turn. Then what does not fit is not kept.
    """

    _checked = True

    def __init__(self, where: str, prefix: str, max_gb: float) -> None:
        self._full = mmap.mmap(-1, 1)  # forked workers tell the process that they come from
        super().__init__(str(Path(where).expanduser().absolute()), prefix, max_gb)
        digest = hashlib.blake2b(prefix.encode("utf-8", "surrogatepass"), digest_size=16)
        self.prefix = digest.digest()
        self._store = Store.of(Path(self._arguments[0]), int(max_gb * 1e9))
        self._store.users.add(self)
        # A cached image is compared with its checksum once: after that, its pages hold still.
        self._sound: dict[bytes, int] = {}

    @property
    def entries(self) -> int:  # noqa: D102
        return self._store.run(lambda txn: txn.stat()["entries"]) // 2

    @property
    def nbytes(self) -> int:  # noqa: D102
        stat = self._store.run(lambda txn: txn.stat())
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * stat["psize"]

    @property
    def full(self) -> bool:
        """Whether the image put last was not kept for lack of room."""
        return self._full[0] > 0

    @full.setter
    def full(self, full: bool) -> None:
        self._full[0] = full

    def drops(self, key: bytes, head: bytes) -> bool:
        """Returns whether an entry goes when there is no room.

        Args:
            key: The key of its record, from the prefix on.
            head: The record.
        """
        if not key.startswith(self.prefix):
            return all(not key.startswith(user.prefix) for user in self._store.users)
        record = Record.unpack(head)
        return record is None or not os.path.exists(record.path)  # noqa: PTH110 - any bytes

    def _key(self, path: bytes) -> bytes:
        return self.prefix + hashlib.blake2b(path, digest_size=16).digest()

    def _read(self, path: bytes) -> tuple[Record, Array] | None:
        key = self._key(path)

        def work(txn: lmdb.Transaction[memoryview]) -> tuple[Record, Array] | None:
            head, pixels = txn.get(b"h" + key), txn.get(b"p" + key)
            record = None if head is None else Record.unpack(bytes(head))
            if record is None or pixels is None or math.prod(record.shape) != len(pixels):
                return None
            # A view would save 15 µs for 0.5 MB. It would crash when held beyond the
            # environment, keep a slot of few, and pin pages that others have deleted.
            return record, np.frombuffer(pixels, np.uint8).reshape(record.shape).copy()

        found = self._store.run(work)
        if found is None:
            return None
        record, image = found
        if self._sound.get(key) != record.checksum:
            if zlib.crc32(image.data) != record.checksum:
                return None
            self._sound[key] = record.checksum
        image.flags.writeable = False
        return record, image

    def _write(self, path: bytes, record: Record, pixels: Array) -> bool:
        key = self._key(path)

        def work(txn: lmdb.Transaction[memoryview]) -> None:
            txn.put(b"p" + key, pixels.reshape(-1).data)
            txn.put(b"h" + key, record.pack())

        kept = self._store.write(work, self.drops)
        if kept:
            self._sound[key] = record.checksum
        return kept

    def _renew(self, path: bytes, old: Record, new: Record) -> None:
        key = b"h" + self._key(path)

        def work(txn: lmdb.Transaction[memoryview]) -> None:
            if bytes(txn.get(key, b"")) == old.pack():
                txn.put(key, new.pack())

        self._store.write(work, self.drops)


def _absolute(source: Path) -> bytes:
    """Returns the path from the root, as the system has it; ".." stays, for links' sake."""
    return os.fsencode(source if source.is_absolute() else source.absolute())


def _content(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path takes no bytes
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None
