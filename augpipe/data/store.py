"""A folder with one LMDB environment in it, for any number of threads and processes.

- A killed process leaves no half entry: a commit writes the data, then one page that makes it
  hold. Commits are not flushed (`sync=False`): that takes four times as long, and only a crash
  of the whole machine can tear the file without it. So a file that was not left in order is
  walked on opening, page by page (12 µs an image), and a torn one is refused.
- `writemap` stays off: a full disk is then an error, and no stray pointer can write.
- The folder is on a local disk, and nothing else changes its files while they are open: the
  system kills a process that reads behind the end of a file that was cut.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from augpipe.errors import DataError, UsageError, in_a_line, reason

if TYPE_CHECKING:
    import lmdb

    Transaction = lmdb.Transaction[memoryview]
_T = TypeVar("_T")

_PAGE = 4096
_ROOM = 1024 * _PAGE  # for what deleting takes in a full file: pages are copied, never changed
_MARK = "augpipe-cache"
_MARKED = "augpipe cache 1\n"
_NOTE = "Decoded images. The folder may be deleted at any time that nothing uses it.\n"


class Holdable(Protocol):
    """What no thread may be working on while the process forks: the child has no such thread."""

    def hold(self) -> None:
        """Waits until no thread is at work, and lets none begin."""

    def resume(self, child: bool) -> None:
        """Ends `hold`, in the parent and in the child."""


class _Living:
    """The process's open caches. One of it: forks and LMDB's rule are the process's own."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.holdable: weakref.WeakSet[Any] = weakref.WeakSet()
        self._held: list[Holdable] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._hold,
                after_in_parent=lambda: self._resume(child=False),
                after_in_child=lambda: self._resume(child=True),
            )

    def _hold(self) -> None:
        self.lock.acquire()
        self._held = list(self.holdable)
        for each in self._held:
            each.hold()

    def _resume(self, child: bool) -> None:
        for each in self._held:
            each.resume(child)
        self._held = []
        self.lock.release()


@cache
def _living() -> _Living:
    return _Living()


def held_while_forking(each: Holdable) -> None:
    """Makes each fork of the process wait for this, for as long as it lives."""
    living = _living()
    with living.lock:
        living.holdable.add(each)


class User(Protocol):
    """A cache that keeps its entries in a store."""

    prefix: bytes


class Store:
    """A folder's environment, shared by this process's caches: LMDB forbids a second one.

    An entry has two keys: "h" before its record, "p" before its pixels.

    Args:
        folder: Where it is.
        bound: The most the file may grow to, in bytes.

    Raises:
        UsageError: If the folder cannot be used, or lmdb is not installed.
        DataError: If its files are damaged.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = max(bound // _PAGE, 16) * _PAGE
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self._gate = _Gate()
        self._opening = Lock()
        self._sweeping = Lock()
        self._env: lmdb.Environment | None = None
        self.identity: tuple[int, int] | None = None
        self._opened()

    @staticmethod
    def of(folder: Path, bound: int) -> Store:
        """Returns the store of a folder: the one that is open, or a new one."""
        living = _living()
        with living.lock:
            # By the file: a folder may be deleted and made anew, and have several paths.
            identity = _identity(folder)
            for each in living.holdable:
                if isinstance(each, Store) and identity and each.identity == identity:
                    each.bound = max(bound // _PAGE, 16) * _PAGE
                    each.resize(each.bound)
                    return each
            store = Store(folder, bound)
            living.holdable.add(store)
            return store

    def run(self, work: Callable[[Transaction], _T], *, write: bool = False) -> _T:
        """Runs work in a transaction.

        Raises:
            lmdb.MapFullError: If it puts more than there is room for.
            lmdb.DiskError: If the disk is full.
            DataError: If anything else is wrong with the environment.
        """
        import lmdb

        for last in (False, True):
            try:
                with self._gate.shared(), self._opened().begin(None, None, write, True) as txn:
                    return work(txn)
            except (lmdb.MapFullError, lmdb.DiskError):
                raise
            except lmdb.Error as error:
                match error:
                    case lmdb.MapResizedError() if not last:
                        self.resize(0)  # another process let the file grow
                    case lmdb.ReadersFullError() if not last:
                        self._opened().reader_check()  # killed ones hold on to their slots
                    case _:
                        raise _unusable(self.folder, error) from error
        raise AssertionError

    def write(
        self, work: Callable[[Transaction], object], drops: Callable[[bytes, bytes], bool]
    ) -> bool:
        """Runs work that puts entries, and makes room once if there is none.

        Args:
            work: Run again after there was no room.
            drops: Whether an entry may go, by its key and its record.

        Returns:
            Whether there was room.
        """
        import lmdb

        try:
            self.run(work, write=True)
        except lmdb.DiskError:
            return False
        except lmdb.MapFullError:
            # Taken and kept: the next time it is full, it is full.
            if not self._sweeping.acquire(blocking=False):
                return False
            self._sweep(drops)
            try:
                self.run(work, write=True)
            except (lmdb.MapFullError, lmdb.DiskError):
                return False
        return True

    def resize(self, size: int) -> None:
        """Sets the most bytes the file may grow to; 0 for what other processes let it."""
        with self._gate.alone():
            self._opened().set_mapsize(size)

    def hold(self) -> None:
        """Lets no thread be in a transaction while the process forks."""
        self._gate.shut()

    def resume(self, child: bool) -> None:
        """Ends `hold`. A child leaves the environment to its parent, and opens its own."""
        if child and self._env is not None:
            self._finalizer.detach()
            self._env = None
        self._gate.open()

    def _sweep(self, drops: Callable[[bytes, bytes], bool]) -> None:
        import lmdb

        def find(txn: Transaction) -> list[bytes]:
            cursor = txn.cursor()
            found = cursor.set_range(b"h")
            heads = ((bytes(key), bytes(head)) for key, head in (cursor if found else ()))
            ours = ((key[1:], head) for key, head in heads if key.startswith(b"h"))
            return [key for key, head in ours if drops(key, head)]

        doomed = iter(self.run(find))
        self.resize(self.bound + _ROOM)
        try:
            # In small parts: a transaction keeps a list of the pages that it frees.
            while part := list(islice(doomed, 64)):

                def delete(txn: Transaction, part: list[bytes] = part) -> None:
                    for key in part:
                        txn.delete(b"h" + key)
                        txn.delete(b"p" + key)

                self.run(delete, write=True)
            for _ in range(2):  # what one commit frees is free for the second after it
                self.run(lambda txn: txn.put(b"s", b""), write=True)
        except (lmdb.MapFullError, lmdb.DiskError):
            pass  # what could be deleted is
        finally:
            self.resize(self.bound)

    def _opened(self) -> lmdb.Environment:
        if self._env is not None:
            return self._env
        with self._opening:
            if self._env is None:
                self._env = _open(self.folder, self.bound)
                self.identity = _identity(self.folder)
                self._finalizer = weakref.finalize(self, _close, self._env, self.folder)
            return self._env


class _Gate:
    """Passed by many at once, or by one alone; who waits to be alone lets no more pass."""

    def __init__(self) -> None:
        self._door = Lock()
        self._left = Condition(Lock())
        self._inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._door, self._left:
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                self._left.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self.shut()
        try:
            yield
        finally:
            self.open()

    def shut(self) -> None:
        self._door.acquire()
        with self._left:
            self._left.wait_for(lambda: not self._inside)

    def open(self) -> None:
        self._door.release()


def _open(folder: Path, bound: int) -> lmdb.Environment:
    try:
        import lmdb
        import lmdb.verify
    except ImportError as error:
        raise UsageError('a cache in a folder needs lmdb 3: pip install "lmdb>=3"') from error
    left = _prepare(folder)
    data = folder / "data.mdb"
    walk: Callable[[Path], list[str]] = lmdb.verify.verify
    unsure = data.exists() and data.stat().st_size > 0 and _state(data) != left
    try:
        # Before LMDB may look at it: what is no environment could crash it.
        problems = walk(data) if unsure else []
        env = lmdb.open(
            os.fsencode(folder), map_size=bound, sync=False, max_readers=1024, mode=0o777
        )
        env.reader_check()
        if problems:  # unless another process was writing meanwhile
            with env.begin(write=True):
                problems = walk(data)
    except lmdb.verify.VerifyError as error:
        raise _damaged(folder, in_a_line(error)) from error
    except lmdb.Error as error:
        raise _unusable(folder, error) from error
    except OSError as error:
        raise DataError(folder, f"the cache cannot be opened ({reason(error)})") from error
    if problems:
        env.close()
        raise _damaged(folder, problems[0])
    return env


def _prepare(folder: Path) -> str:
    """Makes the folder unless there is one, and returns the state its last user left it in."""
    mark = folder / _MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in folder.iterdir())
        if not any(name.startswith(_MARK) for name in names):
            if names:
                raise UsageError(
                    f"{folder}: no cache, but holds {names[0]!r}: name a new or an empty folder"
                )
            _replace(mark, _MARKED + _NOTE)
        text = mark.read_text(errors="replace") if mark.exists() else _MARKED
    except OSError as error:
        why = "not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else None
        raise UsageError(
            f"{folder}: {why or reason(error)}: a cache needs a folder that can be written, "
            'or "memory"'
        ) from error
    if not text.startswith(_MARKED):
        raise UsageError(f"{folder}: not this version's cache: delete it, or name another folder")
    for path in (folder, folder / "data.mdb", folder / "lock.mdb"):
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"{path}: no permission to write: a cache needs it")
    return text.splitlines()[-1]


def _close(env: lmdb.Environment, folder: Path) -> None:
    data = folder / "data.mdb"
    try:
        # Before the flush: what another process writes after it is not in order.
        state = _state(data)
        env.sync(True)
        _replace(folder / _MARK, f"{_MARKED}{_NOTE}{state}\n")
    except Exception:  # deleted, or a full disk: it is walked the next time
        pass
    finally:
        env.close()


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{_MARK}.{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def _state(data: Path) -> str:
    status = data.stat()
    return f"in order {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = (folder / "data.mdb").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _unusable(folder: Path, error: lmdb.Error) -> DataError:
    import lmdb

    match error:
        case lmdb.DiskError() | lmdb.MemoryError() | lmdb.MapResizedError():
            return DataError(folder, f"the cache cannot be used ({in_a_line(error)})")
        case lmdb.ReadersFullError() | lmdb.LockError():
            return DataError(folder, f"the cache cannot be used ({in_a_line(error)})")
        case _:
            return _damaged(folder, in_a_line(error))


def _damaged(folder: Path, words: str) -> DataError:
    return DataError(folder, f"the cache is damaged ({words}): delete the folder")
