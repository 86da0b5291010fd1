"""A disk that counts what is written to it, and at one moment kills the program, or is full.

Everything that augpipe changes on a disk goes through `io.open` and a few functions of `os`: these
are replaced. What a library writes from C (pyarrow) is not seen.
"""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHANGES = ("replace", "rename", "unlink", "mkdir", "rmdir", "truncate")
KILLS = ("before", "middle", "after")


class Disk:
    """Counts changes, and acts at one of them.

    Processes that are forked off meanwhile count with it, and are killed with it.

    Args:
        moment: The number of the change, from 1; 0 for none.
        what: "before", "middle" (of a write) or "after": there the program is killed. "full": from
            there on nothing more goes onto the disk, of the first write a half does. "read-only":
            from there on nothing can be changed.
    """

    def __init__(self, moment: int = 0, what: str = "before") -> None:
        self.moment, self.what = moment, what
        self._count = multiprocessing.Value("i")
        self._main = os.getpid()
        self._grown = multiprocessing.Value("i")

    @property
    def count(self) -> int:
        """Of the changes so far."""
        return self._count.value

    @property
    def grown(self) -> int:
        """The last change that needed room."""
        return self._grown.value

    def _kill(self) -> None:
        os.kill(self._main, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def change(
        self, kind: str, do: Callable[[], Any], half: Callable[[], Any] | None = None
    ) -> Any:
        """Does one change, or what is to happen in its place."""
        with self._count.get_lock():
            self._count.value += 1
            count = self._count.value
        grows = kind in ("write", "mkdir", "open")
        if grows:
            self._grown.value = max(count, self._grown.value)
        if self.moment and count >= self.moment:
            if self.what == "read-only":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if self.what == "full" and grows:
                if half is not None and count == self.moment:
                    return half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        now = count == self.moment
        if now and self.what in ("before", "middle"):
            if half is not None and self.what == "middle":
                half()
            self._kill()
        try:
            return do()
        finally:  # also of what could not be done
            if now and self.what == "after":
                self._kill()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Stands in the way for the block."""
        kept = {name: getattr(os, name) for name in CHANGES}
        opened = io.open
        for name, real in kept.items():
            setattr(os, name, self._function(name, real))
        io.open = self._open(opened)  # type: ignore[assignment]
        try:
            yield
        finally:
            for name, real in kept.items():
                setattr(os, name, real)
            io.open = opened

    def _function(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: self.change(name, lambda: real(*args, **options))

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                some = view[: len(view) // 2]
                return disk.change(
                    "write",
                    lambda: super(Raw, self).write(view),
                    lambda: super(Raw, self).write(some),
                )

        def opened(
            file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any
        ) -> Any:
            if not set(mode) & set("wxa+") or "b" not in mode:
                return real(file, mode, buffering, *args, **options)
            raw = disk.change("open", lambda: Raw(file, mode.replace("b", "")))
            if buffering == 0:
                return raw
            return (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)

        return opened
