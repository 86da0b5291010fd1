"""A folder that is filled out of sight, and shows what is in it when that is whole.

What is made grows in `.augpipe-making` in the output folder. When it is whole a seal is written
beside it, and what is in it moves out, entry by entry; then the seal goes. So a killed run leaves a
part that nobody takes for the whole and the next run makes anew, or a sealed whole that the next
run finishes moving.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable, write_atomic
from augpipe.errors import AugpipeError, DataError, UsageError, reason
from augpipe.expansion.claim import is_leftover

MAKING = f"{TEMPORARY_PREFIX}making"
"""The folder in which a dataset grows."""

SEAL = f"{TEMPORARY_PREFIX}made.json"
"""The file that says that it is whole."""

_LONGEST = 1 << 20  # bytes of a seal


def stage_in(out: Path) -> Stage:
    """Returns the stage of an output folder that is claimed.

    Raises:
        UsageError: If something is in it.
        AugpipeError: If it cannot be read or written.
    """
    return InSight(out) if isinstance(out, Address) else Stage(out)


class Stage:
    """What is being made for an output folder that is claimed.

    Args:
        out: The output folder. It is empty, or a killed run was at work in it.

    Raises:
        UsageError: If something else is in it.
        AugpipeError: If it cannot be read or written.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out / MAKING
        self._seal = out / SEAL
        try:
            names = {each.name for each in out.iterdir()}
            for name in filter(is_leftover, names):
                (out / name).unlink()
        except OSError as error:
            raise unwritable(out, error) from error
        others = {name for name in names if not is_leftover(name)} - {MAKING}
        if others and SEAL not in others:
            raise UsageError(f"{out}: not empty: choose a new folder or empty this one")

    def sealed(self) -> bytes | None:
        """Returns what the seal of a killed run says; None if there is no whole yet.

        Raises:
            DataError: If it cannot be read.
        """
        try:
            with self._seal.open("rb") as file:
                return file.read(_LONGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(self._seal, f"cannot be read ({reason(error)})") from error

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Gives the block a new folder to fill; what a killed run had made is removed.

        Where the block fails nothing is left of it.

        Raises:
            AugpipeError: If the folder cannot be made.
        """
        try:
            if os.path.lexists(self._folder):
                shutil.rmtree(self._folder)
            self._folder.mkdir()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        try:
            yield self._folder
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def show(self, seal: bytes | None = None) -> None:
        """Moves what was made to its place.

        Args:
            seal: What the next run is to know if this one is killed on the way; None if a killed
                run has said so.

        Raises:
            AugpipeError: If something is in the way, or it cannot be moved.
        """
        if seal is not None:
            write_atomic(self._seal, seal)
        try:
            if self._folder.is_dir():
                for each in sorted(self._folder.iterdir()):
                    target = self._out / each.name
                    if os.path.lexists(target):
                        raise AugpipeError(
                            f"{target}: is in the way of what was made: move it away, "
                            "and run the same command again"
                        )
                    each.rename(target)
                self._folder.rmdir()
            self._seal.unlink()
        except OSError as error:
            raise unwritable(self._out, error) from error


class InSight(Stage):
    """An address, where nothing can be moved: what is made there grows in sight.

    A killed run leaves a part, and the next one refuses to add to it.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        try:
            if any(out.iterdir()):
                raise UsageError(f"{out}: not empty: choose a new folder or empty this one")
        except OSError as error:
            raise unwritable(out, error) from error

    def sealed(self) -> bytes | None:
        """Returns None: there is no seal."""
        return None

    @contextmanager
    def making(self) -> Iterator[Path]:
        """Gives the block the address itself."""
        yield self._out

    def show(self, seal: bytes | None = None) -> None:
        """Does nothing: it is seen already."""
