"""errors.jsonl: what could not be used, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from augpipe.data.encode import unwritable, write_atomic
from augpipe.expansion.manifest import LineFile, is_pipe


@dataclass(frozen=True, slots=True)
class Skipped:
    """What could not be used.

    Args:
        source: Its path from the input folder.
        reason: Why not.
        outputs: How many outputs it was to have, where that is not the same for all.
    """

    source: str
    reason: str = ""
    outputs: int | None = None


_ROW = TypeAdapter(Skipped)


def read_skipped(path: Path) -> list[Skipped | None]:
    """Returns what an errors.jsonl lists, None for a line that is none; nothing without one."""
    if is_pipe(path):
        return []
    try:
        with path.open("rb") as file:
            return [_parse(line) for line in file]
    except OSError:
        return []


def _parse(line: bytes) -> Skipped | None:
    try:
        return _ROW.validate_json(line)
    except (ValidationError, RecursionError):
        return None


class SkippedFile:
    """errors.jsonl, made anew by each run: what could not be used is tried again."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._known: dict[int, bytes] = {}

    @property
    def count(self) -> int:
        """Returns how many rows there are."""
        return len(self._known)

    def clear(self) -> None:
        """Removes the rows of an earlier run."""
        try:
            self._lines.path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(self._lines.path, error) from error

    def add(self, index: int, source: str, reason: str, outputs: int | None) -> None:
        """Adds a row: what could not be used, why, and how many outputs it was to have."""
        line = _ROW.dump_json(Skipped(source, reason, outputs), exclude_none=True) + b"\n"
        self._known[index] = line
        self._lines.append(line)

    def close(self) -> None:
        """Closes the file, its rows in the order of the sources."""
        self._lines.close()
        if list(self._known) != sorted(self._known):
            lines = [line for _, line in sorted(self._known.items())]
            write_atomic(self._lines.path, b"".join(lines))
