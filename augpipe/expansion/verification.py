"""Verification: whether an output folder still is what its manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np

from augpipe.data.decode import decode
from augpipe.data.threads import Stopped, ordered
from augpipe.errors import AugpipeError, DataError, UsageError, printable, reason
from augpipe.expansion.jobs import (
    ERRORS,
    JOB,
    MANIFEST,
    OWN_FILES,
    Record,
    digests,
    read_record,
    recipe_of,
)
from augpipe.expansion.manifest import Key, Row, changes, is_pipe, parse_row, rows_of
from augpipe.expansion.names import Output
from augpipe.expansion.progress import Meter, Progress
from augpipe.expansion.render import Origin, Renderer
from augpipe.learned.files import path_of
from augpipe.plan.explain import plural

_SHOWN = 20
_CHANGED = "changed since its copies were made"

Kind = Literal["missing", "altered", "source", "weights", "differs", "row", "extra", "unfinished"]
_SUMMARY: dict[Kind, tuple[str, str]] = {
    "missing": ("is missing", "are missing"),
    "altered": ("was altered", "were altered"),
    "source": ("source is not what it was", "sources are not what they were"),
    "weights": ("file of weights is another now", "files of weights are others now"),
    "differs": ("renders differently now", "render differently now"),
    "row": ("row of the manifest does not fit", "rows of the manifest do not fit"),
    "extra": ("file is in no row of the manifest", "files are in no row of the manifest"),
    "unfinished": ("part of the work is not done", "parts of the work are not done"),
}
"""What is said of one finding, and of more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the manifest says.

    Args:
        kind: "missing" (no such output), "altered" (the output's content is another),
            "source" (the source is gone, unreadable or another), "weights" (a learned op's
            weights are others), "differs" (rendering gives
            other bytes than it did), "row" (the manifest itself does not fit), "extra" (a file
            that no row names), "unfinished" (outputs that were not made yet).
        where: The output, the source or the file.
        detail: What is wrong.
    """

    kind: Kind
    where: str
    detail: str

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.detail}")


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Args:
        out: The output folder.
        checked: How many outputs the manifest has.
        skipped: How many images errors.jsonl lists.
        findings: What is wrong.
    """

    out: Path
    checked: int
    skipped: int
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """Returns 1 if anything is wrong."""
        return int(bool(self.findings))

    def __str__(self) -> str:
        were = "was" if self.skipped == 1 else "were"
        skipped = f"; {plural(self.skipped, 'image')} {were} skipped" if self.skipped else ""
        if not self.findings:
            return printable(self._fine()) + skipped
        counts = Counter(each.kind for each in self.findings)
        parts = [f"{count} {_SUMMARY[kind][count > 1]}" for kind, count in counts.items()]
        found = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        lines = [str(each) for each in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"... and {len(self.findings) - _SHOWN} more")
        return "\n".join([*lines, f"checked {plural(self.checked, 'image')}: {found}{skipped}"])

    def _fine(self) -> str:
        match self.checked:
            case 0:
                return f"there is no image in {self.out} to check"
            case 1:
                return f"the one image in {self.out} is as the recipe makes it"
        return f"all {self.checked} images in {self.out} are as the recipe makes them"


def verify(
    out: str | Path,
    source: str | Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Makes every output again, in memory, and compares.

    Nothing is written, so the folder may be read-only.

    Args:
        out: The folder of an expansion.
        source: Where the images are now, if they were moved.
        workers: Threads; 0 works in the caller's.
        progress: Called at most ten times a second, and at the end.

    Raises:
        UsageError: If `out` is not an expansion.
        DataError: If the manifest cannot be read.
    """
    out = Path(out).expanduser()
    if workers < 0:
        raise UsageError(f"workers is {workers}: 0 or more")
    if not out.is_dir():
        raise UsageError(f"{out}: no such folder")
    record = read_record(out)
    root = Path(source).expanduser() if source is not None else Path(record.source)
    if not _exists(root):
        raise UsageError(
            f"{root}: the images are not there: say where they are now with --source DIR"
        )
    recipe = recipe_of(record)
    findings: list[Finding] = []
    for words in record.other_weights(digests(recipe)):
        findings.append(Finding("weights", str(out / JOB), f"was made with others: {words}"))
    skipped, names = _skipped(out / ERRORS)
    reader = _Reader(out / MANIFEST, record, bool(recipe.batch), names)
    stop = threading.Event()
    checker = _Checker(
        out,
        root if root.is_dir() else root.parent,
        Renderer(recipe, record.settings, record.classes),
        stop,
    )
    meter = Meter(progress, record.outputs)
    with closing(ordered(checker, reader, workers, stop)) as results:
        for count, found in results:
            findings += found
            reader.checked += count
            meter(reader.checked, len(findings))
    findings += reader.findings
    findings += _unlisted(out, reader.named)
    each = record.outputs // max(record.images, 1)
    # Of an image that could be used in some of its batches, those copies are there.
    missing = record.outputs - len(reader.keys) - (skipped * each - reader.of_skipped)
    if missing > 0:
        detail = f"{plural(missing, 'image')} not made: run expand again"
        findings.append(Finding("unfinished", str(out), detail))
    elif missing < 0:
        detail = f"with the manifest, {-missing} more than there are images to make"
        findings.append(Finding("row", str(out / ERRORS), detail))
    meter(reader.checked, len(findings), last=True)
    return Report(out, reader.checked, skipped, tuple(findings))


@dataclass(slots=True)
class _Reader:
    """Reads a manifest, by sources, or by batches where copies were made in batches."""

    path: Path
    record: Record
    together: bool
    skipped: frozenset[str]
    checked: int = 0
    of_skipped: int = 0
    keys: set[Key] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Row]]:
        if not self.together:
            for _, rows in groupby(self._rows(), key=lambda each: (each[1].index, each[1].source)):
                yield [row for _, row in rows]
            return
        batches: dict[tuple[int | None, tuple[int, ...]], list[int]] = {}
        for start, row in self._rows():
            key = (row.copy, row.batch or (row.index,))
            batches.setdefault(key, []).append(start)
        if not batches:
            return
        with self.path.open("rb") as file:
            for starts in batches.values():
                yield [row for row in (self._at(file, start) for start in starts) if row]

    @staticmethod
    def _at(file: BinaryIO, start: int) -> Row | None:
        file.seek(start)
        return parse_row(file.readline())

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yields the rows that fit, and where their lines begin."""
        start = 0
        for number, (line, row) in enumerate(rows_of(self.path), 1):
            problem = self._problem(row)
            if row is not None and not problem:
                self.keys.add(row.key)
                self.named.add(row.output)
                self.of_skipped += row.source in self.skipped and not row.generated
                yield start, row
            else:
                self.findings.append(Finding("row", f"{self.path}:{number}", problem))
            start += len(line)

    def _problem(self, row: Row | None) -> str:
        if row is None:
            return "not a row of a manifest"
        if row.index >= self.record.images or (row.copy or 0) >= self.record.settings.copies:
            return "names an image or a copy that the job does not have"
        if not (_stays_inside(row.output) and _stays_inside(row.source)):
            return "names a file outside the folder"
        if row.batch and not (
            self.together
            and row.copy is not None
            and row.index in row.batch
            and row.label in (None, *self.record.classes)
        ):
            return "names a batch or a class that the job does not have"
        if row.key in self.keys or row.output in self.named:
            return f"a second row for {row.output}"
        return ""


@dataclass(frozen=True, slots=True)
class _Checker:
    """Checks the outputs of one source. Runs in the workers."""

    out: Path
    root: Path
    renderer: Renderer
    stop: threading.Event

    def __call__(self, rows: list[Row]) -> tuple[int, list[Finding]]:
        """Returns how many rows were checked, and what is wrong with them."""
        rows = sorted(rows, key=lambda row: row.key)
        first = rows[0]
        findings: list[Finding] = []
        compared = 0
        rendered: Iterable[tuple[Row, bytes]]
        try:
            if first.batch:
                rendered = self._together(rows)
            else:
                outputs = [Output(row.copy, row.output) for row in rows]
                rendered = self.renderer.render(self._origin(first), outputs)
            for row, (again, data) in zip(rows, rendered, strict=True):
                if self.stop.is_set():
                    raise Stopped
                if again.source_sha256 != row.source_sha256:
                    raise DataError(row.source, _CHANGED)
                findings += self._compare(row, again, data)
                compared += 1
        except DataError as error:
            findings.append(Finding("source", error.where, error.reason))
        except AugpipeError as error:
            findings.append(Finding("source", first.source, str(error)))
        for row in rows[compared:]:
            findings += self._stored(row)[1]
        return len(rows), findings

    def _origin(self, row: Row) -> Origin:
        path = self.root / row.source
        if row.generated:
            rule = self.renderer.recipe.gan_generate
            path = path_of("bundled" if rule is None else rule.model, "gan")
        return Origin(path, row.source, row.label, row.index, row.generated)

    def _together(self, rows: Sequence[Row]) -> list[tuple[Row, bytes]]:
        first = rows[0]
        missing = sorted(set(first.batch) - {row.index for row in rows})
        if missing:
            raise DataError(
                first.output, f"shared a batch with image {missing[0]}, which the manifest lacks"
            )
        assert first.copy is not None
        members = [(self._origin(row), Output(row.copy, row.output)) for row in rows]
        made, failed = self.renderer.together(first.copy, members)
        for index, why in failed.items():
            raise DataError(next(row.source for row in rows if row.index == index), why)
        # All of the batch would differ with one.
        for row, (again, _) in zip(rows, made, strict=True):
            if again.source_sha256 != row.source_sha256:
                raise DataError(row.source, _CHANGED)
        return made

    def _stored(self, row: Row, like: bytes | None = None) -> tuple[bytes | None, list[Finding]]:
        """Returns an output's content, if it is there, and what is wrong with it.

        Args:
            row: The output's row.
            like: What it should be, to say by how much it is not.
        """
        path = self.out / row.output
        try:
            if not path.is_file():
                return None, [Finding("missing", row.output, "not there: run expand again")]
            data = path.read_bytes()
        except OSError as error:
            return None, [Finding("missing", row.output, f"cannot be read ({reason(error)})")]
        if hashlib.sha256(data).hexdigest() == row.sha256:
            return data, []
        by = f" ({_distance(data, like)})" if like is not None else ""
        return data, [Finding("altered", row.output, f"altered since it was written{by}")]

    def _compare(self, row: Row, again: Row, data: bytes) -> list[Finding]:
        if again.sha256 == row.sha256:
            found = self._stored(row, data)[1]
            if replace(again, versions=row.versions) != row:
                detail = "its manifest row is not what the recipe draws"
                found.append(Finding("row", row.output, detail))
            return found
        stored, found = self._stored(row)
        why = changes(row.versions, again.versions) or "with the same versions"
        by = f": {_distance(stored, data)}" if stored is not None else ""
        return [*found, Finding("differs", row.output, f"renders differently now ({why}){by}")]


def _distance(a: bytes, b: bytes) -> str:
    """Returns in words how far two image files are apart."""
    try:
        first, second = decode(a), decode(b)
    except DataError as error:
        return error.reason
    if first.shape != second.shape:
        return f"{first.shape} instead of {second.shape}"
    levels = int(np.abs(first.astype(np.int16) - second).max())
    return (
        f"by up to {plural(levels, 'grey level')}" if levels else "the same pixels in other bytes"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _stays_inside(relative: str) -> bool:
    path = PurePosixPath(relative)
    return not path.is_absolute() and ".." not in path.parts


def _unlisted(out: Path, named: set[str]) -> Iterator[Finding]:
    """Yields the files that no row names."""
    for folder, inner, files in os.walk(out):
        inner.sort()
        for name in sorted(files):
            relative = (Path(folder) / name).relative_to(out).as_posix()
            if relative not in named and relative not in OWN_FILES:
                yield Finding("extra", relative, "no row of the manifest names it")


def _skipped(path: Path) -> tuple[int, frozenset[str]]:
    """Returns how many images errors.jsonl lists, and which."""
    if is_pipe(path):
        return 0, frozenset()
    try:
        with path.open("rb") as file:
            lines = list(file)
    except OSError:
        return 0, frozenset()
    return len(lines), frozenset(name for name in map(_source_in, lines) if name)


def _source_in(line: bytes) -> str:
    try:
        return str(json.loads(line)["source"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
