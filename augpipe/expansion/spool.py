"""The manifest of an expansion that goes to an address, where no file can grow.

It grows among this machine's temporary files. What was added since is put beside the images every
few seconds, as `.augpipe-rows/00000012.jsonl`, and stays there when the work is interrupted; at the
end the parts give way to `manifest.jsonl`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from augpipe.data.address import Address
from augpipe.data.encode import unwritable
from augpipe.errors import AugpipeError, DataError, reason
from augpipe.expansion.manifest import Key, Manifest, Row
from augpipe.expansion.record import ERRORS, MANIFEST

_PARTS = ".augpipe-rows"
_ROWS, _SECONDS = 1000, 10.0  # the most that an interruption loses


@contextmanager
def manifest_of(out: Path) -> Iterator[Manifest]:
    """Opens the manifest of an output folder for the block.

    `errors.jsonl` is to be written beside the manifest's own path.
    """
    if not isinstance(out, Address):
        with Manifest(out / MANIFEST) as manifest:
            yield manifest
        return
    with (
        tempfile.TemporaryDirectory(prefix="augpipe-") as home,
        SpooledManifest(Path(home) / MANIFEST, out) as manifest,
    ):
        yield manifest


class SpooledManifest(Manifest):
    """A manifest on disk, kept at an address too.

    Args:
        path: The file on disk.
        out: The output folder.
    """

    def __init__(self, path: Path, out: Address) -> None:
        super().__init__(path)
        self._out = out
        self._parts: list[Address] = []
        self._next = 0
        self._waiting = 0
        self._sent = 0
        self._due = 0.0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        try:
            self._send()
            self._put_errors()
        except AugpipeError:
            if error is None:  # else that is told, and this may well be of the same cause
                raise

    def load(self, trusted: Callable[[Row], bool]) -> None:
        """Takes over the rows of an earlier run.

        Raises:
            DataError: If they cannot be read.
        """
        try:
            found = [name for name in self._out.files() if name.startswith(f"{_PARTS}/")]
            self._parts = [self._out / name for name in found]
            settled = self._out / MANIFEST
            with self.path.open("wb") as file:
                for each in ([settled] if settled.exists() else []) + self._parts:
                    file.write(each.read_bytes())
        except OSError as error:
            raise DataError(self._out, f"cannot be read ({reason(error)})") from error
        last = max((each.stem for each in self._parts), default="")
        self._next = int(last) + 1 if last.isdecimal() else len(self._parts)
        super().load(trusted)
        self._sent = self._lines.size
        self._due = time.monotonic() + _SECONDS

    def append(self, lines: Sequence[tuple[Key, bytes]]) -> None:
        """Adds the rows of a source or of a batch, each by its key."""
        super().append(lines)
        self._waiting += len(lines)
        if self._waiting >= _ROWS or time.monotonic() >= self._due:
            self._send()

    def settle(self) -> None:
        """Brings the file into its final form, here and at the address."""
        changed = self._waiting or self._parts or not self._sorted or not self._places
        super().settle()
        if not changed:
            return
        with self._writing(self._out / MANIFEST) as settled:
            if self._places:
                settled.put_file(self.path)
            else:
                settled.unlink(missing_ok=True)
            for each in self._parts:
                each.unlink(missing_ok=True)
        self._parts, self._waiting = [], 0
        if self._out.renames and (self._out / _PARTS).is_dir():
            (self._out / _PARTS).rmdir()

    def _send(self) -> None:
        """Puts what was added since the last time."""
        if self._waiting:
            part = self._out / _PARTS / f"{self._next:08d}.jsonl"
            with self.path.open("rb") as file, self._writing(part):
                file.seek(self._sent)
                part.parent.mkdir()
                part.put(file.read(self._lines.size - self._sent))
            self._parts.append(part)
            self._next += 1
        self._sent, self._waiting = self._lines.size, 0
        self._due = time.monotonic() + _SECONDS

    def _put_errors(self) -> None:
        errors = self.path.with_name(ERRORS)
        with self._writing(self._out / ERRORS) as there:
            if errors.exists():
                there.put_file(errors)
            else:
                there.unlink(missing_ok=True)

    @staticmethod
    @contextmanager
    def _writing(address: Address) -> Iterator[Address]:
        try:
            yield address
        except OSError as error:
            raise unwritable(address, error) from error
