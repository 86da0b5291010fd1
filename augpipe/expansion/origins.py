"""A source as the manifest knows it, what was made of it, and what went wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.expansion.manifest import Row


@dataclass(frozen=True, slots=True)
class Origin:
    """A source as the manifest knows it.

    Args:
        path: Where it is; of a generated one, where the generator's weights are.
        relative: Its path from the input folder.
        label: Its class, or None.
        index: Its index.
        generated: Whether it is one of `gan_generate`.
    """

    path: Path
    relative: str
    label: str | None
    index: int
    generated: bool = False


class Made(NamedTuple):
    """One output: its row, its content, and that of its mask if it has one."""

    row: Row
    data: bytes
    mask: bytes | None = None


@contextmanager
def named(origin: Origin) -> Iterator[None]:
    """Makes whatever goes wrong with one source a DataError that names it."""
    try:
        yield
    except DataError as error:
        own = error.where == origin.relative
        raise DataError(origin.relative, error.reason if own else str(error)) from error
    except MemoryError as error:
        raise DataError(origin.relative, "not enough memory") from error
    except AugpipeError:
        raise
    except Exception as error:  # one image must not end the work on all others
        raise DataError(origin.relative, in_a_line(error)) from error
