"""What the outputs of an expansion are called.

Copy k of `cat/tom.jpg` is `cat/tom__k.png`, and an original keeps its name. Where two outputs
would share a name (`a.jpg` beside `a.png`), or would on a disk that does not tell capitals
apart, the source's index is added: `cat/a__i12__0.png`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from augpipe.types import Ints

_LONGEST = 255  # bytes in a name, on every common file system


@dataclass(frozen=True, slots=True)
class Output:
    """One file to be made.

    Args:
        copy: Which copy it is, from 0; None for the original.
        path: Its path from the output folder, with "/" between the parts.
    """

    copy: int | None
    path: str


@dataclass(frozen=True, slots=True)
class Names:
    """The names of all outputs.

    Args:
        bases: Of each source, the path of its copies up to the copy's number.
        originals: Of each source, the path of its original; empty if originals are not kept.
        copies: How many copies each source has.
        extension: How the copies' names end.
    """

    bases: tuple[str, ...]
    originals: tuple[str, ...]
    copies: Sequence[int] | Ints
    extension: str

    def outputs(self, index: int, first: int = 0, most: int | None = None) -> tuple[Output, ...]:
        """Returns a source's outputs, in the manifest's order: the original comes first.

        Args:
            index: The source.
            first: How many are passed over.
            most: How many there are at most; all of them when left out.
        """
        own = self.original(index)
        stop = self.count(index) if most is None else min(first + most, self.count(index))
        return tuple(
            own[k] if k < len(own) else self.copy(index, k - len(own)) for k in range(first, stop)
        )

    def count(self, index: int) -> int:
        """Returns how many outputs a source has."""
        return int(self.copies[index]) + bool(self.originals)

    def output(self, index: int, copy: int | None) -> Output | None:
        """Returns one output of a source; None if it has none such."""
        if copy is None:
            return next(iter(self.original(index)), None)
        return self.copy(index, copy) if 0 <= copy < self.copies[index] else None

    def original(self, index: int) -> tuple[Output, ...]:
        """Returns a source's original, if it is kept."""
        return (Output(None, self.originals[index]),) if self.originals else ()

    def copy(self, index: int, k: int) -> Output:
        """Returns copy k of a source."""
        return Output(k, f"{self.bases[index]}__{k}{self.extension}")


def stays_inside(relative: str) -> bool:
    """Tells whether a path from a folder stays in it."""
    path = PurePosixPath(relative)
    return not path.is_absolute() and ".." not in path.parts


def choose(
    sources: Sequence[str],
    copies: Sequence[int] | Ints,
    extension: str,
    originals: bool,
    reserved: Iterable[str],
) -> Names:
    """Names the outputs so that no two are the same, capitals aside.

    Only the names that would clash differ from the plain rule, and they depend on the
    sources' names and order alone.

    Args:
        sources: The relative path of each source.
        copies: How many copies each source has.
        extension: How the copies' names end, such as ".png".
        originals: Whether the originals are among the outputs.
        reserved: Names in the output folder that are taken already.
    """
    tail = f"__{max([*copies, 1]) - 1}{extension}"
    taken = {_fold(name) for name in reserved}
    taken.update(_fold(folder) for folder in _folders(sources))
    marks = [int(len((_stem(each)[1] + tail).encode()) > _LONGEST) for each in sources]
    moved = [False] * len(sources)
    copy_name = re.compile(rf"(.*)__(0|[1-9][0-9]*){re.escape(_fold(extension))}", re.DOTALL)
    while True:
        bases = tuple(
            _marked(each, index, marks[index], tail) for index, each in enumerate(sources)
        )
        kept = tuple(
            _marked(each, index, 1, _ending(each)) + _ending(each) if moved[index] else each
            for index, each in enumerate(sources if originals else ())
        )
        by_base, by_original = _groups(bases), _groups(kept)
        again = False
        for group in by_base.values():
            if len(group) > 1:
                again = True
                for index in group:
                    marks[index] = max(marks[index], 1)
        for name, group in by_original.items():
            if len(group) > 1 or name in taken:
                again = True
                for index in group:
                    moved[index] = True
        for name in taken | by_original.keys():
            found = copy_name.fullmatch(name)
            own = by_base.get(found[1], ()) if found else ()
            if found and own and int(found[2]) < max(copies[index] for index in own):
                again = True
                marks[own[0]] += 1
        if not again:
            return Names(bases, kept, copies, extension)


def _fold(name: str) -> str:
    """Returns what a disk that tells neither capitals nor forms of accents apart goes by."""
    return unicodedata.normalize("NFC", name.casefold())


def _groups(names: Sequence[str]) -> dict[str, list[int]]:
    groups = defaultdict(list)
    for index, name in enumerate(names):
        groups[_fold(name)].append(index)
    return groups


def _folders(sources: Sequence[str]) -> set[str]:
    """Returns every folder above a source, by its relative path."""
    found: set[str] = set()
    for each in {source.rpartition("/")[0] for source in sources}:
        folder = each
        while folder:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _stem(source: str) -> tuple[str, str]:
    """Returns a source's folder, with its "/", and its name without the ending."""
    folder, slash, name = source.rpartition("/")
    return folder + slash, name.rpartition(".")[0] or name


def _ending(source: str) -> str:
    folder, stem = _stem(source)
    return source[len(folder) + len(stem) :]


def _marked(source: str, index: int, times: int, tail: str) -> str:
    """Returns a source's path without its ending; with its index `times` times behind it."""
    folder, stem = _stem(source)
    if not times:
        return folder + stem
    mark = f"__i{index}" * times
    room = _LONGEST - len((mark + tail).encode())
    return folder + stem.encode()[:room].decode(errors="ignore") + mark
