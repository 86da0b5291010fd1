"""Verification: whether an output folder still is what its manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from augpipe.data.address import Address, place_of
from augpipe.data.content import Content
from augpipe.data.decode import decode
from augpipe.data.threads import Stopped, ordered
from augpipe.errors import AugpipeError, DataError, UsageError, reason
from augpipe.expansion.annotated import AnnotatedRenderer
from augpipe.expansion.findings import Finding, Kind, Report
from augpipe.expansion.finishing import annotation_files, packed_contents
from augpipe.expansion.jobs import digests, read_record, recipe_of
from augpipe.expansion.manifest import Key, Row, changes, is_pipe, parse_row, rows_of
from augpipe.expansion.names import Output, stays_inside
from augpipe.expansion.origins import Made, Origin
from augpipe.expansion.progress import Meter, Progress
from augpipe.expansion.record import ERRORS, JOB, MANIFEST, OWN_FILES, Record
from augpipe.expansion.render import Renderer, renderer_of
from augpipe.expansion.sources import Plan, plan_for
from augpipe.learned.files import path_of
from augpipe.plan.explain import plural

_CHANGED = "changed since its copies were made"


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
    out = place_of(out)
    if workers < 0:
        raise UsageError(f"workers is {workers}: 0 or more")
    if not out.is_dir():
        raise UsageError(f"{out}: no such folder")
    record = read_record(out)
    root = place_of(record.source if source is None else source)
    if not _exists(root):
        raise UsageError(
            f"{root}: the images are not there: say where they are now with --source DIR"
        )
    recipe = recipe_of(record)
    findings: list[Finding] = []
    for words in record.other_weights(digests(recipe)):
        findings.append(Finding("weights", str(out / JOB), f"was made with others: {words}"))
    each = record.outputs // max(record.images, 1)
    skipped, names, due = _skipped(out / ERRORS, each)
    reader = _Reader(out / MANIFEST, record, bool(recipe.batch), names)
    stop = threading.Event()
    plan = _plan(record, root)
    contents = {} if plan is None else packed_contents(plan, out)
    renderer = renderer_of(record, recipe)
    own = None if plan is None else AnnotatedRenderer(renderer, plan)
    home = root if root.is_dir() else root.parent
    checker = _Checker(out, home, renderer, stop, own, contents)
    meter = Meter(progress, record.outputs)
    with closing(ordered(checker, reader, workers, stop)) as results:
        for count, found in results:
            findings += found
            reader.checked += count
            meter(reader.checked, len(findings))
    findings += reader.findings
    if plan is not None and reader.keys:
        findings += _annotations(plan, out, contents, reader.named)
    findings += _unlisted(out, reader.named)
    # Of an image that could be used in some of its batches, those copies are there.
    missing = record.outputs - len(reader.keys) - (due - reader.of_skipped)
    if missing > 0:
        detail = f"{plural(missing, 'image')} not made: run expand again"
        findings.append(Finding("unfinished", str(out), detail))
    elif missing < 0:
        detail = f"with the manifest, {-missing} more than there are images to make"
        findings.append(Finding("row", str(out / ERRORS), detail))
    meter(reader.checked, len(findings), last=True)
    return Report(out, reader.checked, skipped, tuple(findings))


def _plan(record: Record, root: Path) -> Plan | None:
    said = record.dataset
    if said is None:
        return None
    images = None if said.images is None else Path(said.images)
    return plan_for(root, said.format, said.to, images, record.settings.split)


def _annotations(
    plan: Plan, out: Path, contents: Mapping[str, Content], named: set[str]
) -> Iterator[Finding]:
    """Yields which annotation files are not what the manifest gives; notes the names of all."""
    named.difference_update(contents)
    rows = (row for _, row in rows_of(out / MANIFEST) if row is not None and row.record)
    try:
        for relative, problem in annotation_files(plan, rows, contents, out):
            named.add(relative)
            if problem:
                kind: Kind = "missing" if problem.startswith("not there") else "altered"
                yield Finding(kind, relative, problem)
    except AugpipeError as error:
        yield Finding("altered", str(out), f"its annotation files cannot be compared: {error}")


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
                self.named |= {row.mask.path} if row.mask else set()
                self.of_skipped += row.source in self.skipped and not row.generated
                yield start, row
            else:
                self.findings.append(Finding("row", f"{self.path}:{number}", problem))
            start += len(line)

    def _problem(self, row: Row | None) -> str:
        if row is None:
            return "not a row of a manifest"
        if row.index >= self.record.images or (row.copy or 0) >= self.record.most:
            return "names an image or a copy that the job does not have"
        paths = [row.output, row.source, row.mask.path if row.mask else row.output]
        if not all(map(stays_inside, paths)) or (row.record is None) != (not self.record.dataset):
            return "names a file outside the folder, or is of another kind"
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
    annotated: AnnotatedRenderer | None = None
    contents: Mapping[str, Content] = field(default_factory=dict)

    def __call__(self, rows: list[Row]) -> tuple[int, list[Finding]]:
        """Returns how many rows were checked, and what is wrong with them."""
        rows = sorted(rows, key=lambda row: row.key)
        first = rows[0]
        findings: list[Finding] = []
        compared = 0
        try:
            for row, (again, data, mask) in zip(rows, self._rendered(rows), strict=True):
                if self.stop.is_set():
                    raise Stopped
                if again.source_sha256 != row.source_sha256:
                    raise DataError(row.source, _CHANGED)
                findings += self._compare(row, again, data)
                findings += self._compare_mask(row, mask)
                compared += 1
        except DataError as error:
            findings.append(Finding("source", error.where, error.reason))
        except AugpipeError as error:
            findings.append(Finding("source", first.source, str(error)))
        for row in rows[compared:]:
            findings += self._stored(row)[1]
        return len(rows), findings

    def _rendered(self, rows: Sequence[Row]) -> Iterable[Made]:
        first = rows[0]
        outputs = [Output(row.copy, row.output) for row in rows]
        if self.annotated is not None:
            entries = self.annotated.plan.dataset.entries
            for row in rows:
                if row.index >= len(entries) or entries[row.index].relative != row.source:
                    raise DataError(row.source, "is not the image of this number any more")
        if first.batch:
            return self._together(rows)
        if self.annotated is not None:
            return self.annotated.render(first.index, outputs)
        return self.renderer.render(self._origin(first), outputs)

    def _origin(self, row: Row) -> Origin:
        path = self.root / row.source
        if row.generated:
            rule = self.renderer.recipe.gan_generate
            path = path_of("bundled" if rule is None else rule.model, "gan")
        return Origin(path, row.source, row.label, row.index, row.generated)

    def _together(self, rows: Sequence[Row]) -> list[Made]:
        first = rows[0]
        missing = sorted(set(first.batch) - {row.index for row in rows})
        if missing:
            raise DataError(
                first.output, f"shared a batch with image {missing[0]}, which the manifest lacks"
            )
        assert first.copy is not None
        if self.annotated is not None:
            outs = [(row.index, Output(row.copy, row.output)) for row in rows]
            made, failed = self.annotated.together(first.copy, outs)
        else:
            members = [(self._origin(row), Output(row.copy, row.output)) for row in rows]
            made, failed = self.renderer.together(first.copy, members)
        for index, why in failed.items():
            raise DataError(next(row.source for row in rows if row.index == index), why)
        # All of the batch would differ with one.
        for row, (again, _, _) in zip(rows, made, strict=True):
            if again.source_sha256 != row.source_sha256:
                raise DataError(row.source, _CHANGED)
        return made

    def _stored(self, row: Row, like: bytes | None = None) -> tuple[bytes | None, list[Finding]]:
        """Returns an output's content, if it is there, and what is wrong with it.

        Args:
            row: The output's row.
            like: What it should be, to say by how much it is not.
        """
        data = self._content(row.output)
        if isinstance(data, Finding):
            return None, [data]
        if hashlib.sha256(data).hexdigest() == row.sha256:
            return data, []
        by = f" ({_distance(data, like)})" if like is not None else ""
        return data, [Finding("altered", row.output, f"altered since it was written{by}")]

    def _content(self, relative: str) -> bytes | Finding:
        """Returns a file of the output folder, or one that is packed there; or why not."""
        path = self.out / relative
        try:
            if relative in self.contents:
                return self.contents[relative].read()
            if not path.is_file():
                return Finding("missing", relative, "not there: run expand again")
            return path.read_bytes()
        except OSError as error:
            return Finding("missing", relative, f"cannot be read ({reason(error)})")
        except DataError as error:
            return Finding("missing", relative, str(error))

    def _compare_mask(self, row: Row, again: bytes | None) -> list[Finding]:
        if row.mask is None or again is None:
            return []
        data = self._content(row.mask.path)
        if isinstance(data, Finding):
            return [data]
        altered = Finding("altered", row.mask.path, "altered since it was written")
        return [] if hashlib.sha256(data).hexdigest() == row.mask.sha256 else [altered]

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


def _unlisted(out: Path, named: set[str]) -> Iterator[Finding]:
    """Yields the files that no row names."""
    for relative in _files(out):
        if relative not in named and relative not in OWN_FILES:
            yield Finding("extra", relative, "no row of the manifest names it")


def _files(out: Path) -> Iterator[str]:
    if isinstance(out, Address):
        yield from out.files()
        return
    for folder, inner, files in os.walk(out):
        inner.sort()
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(out).as_posix()


def _skipped(path: Path, each: int) -> tuple[int, frozenset[str], int]:
    """Returns how many images errors.jsonl lists, which, and how many outputs they have not.

    Args:
        path: The file.
        each: How many outputs an image has of which the file does not say it.
    """
    if is_pipe(path):
        return 0, frozenset(), 0
    try:
        with path.open("rb") as file:
            found = [_error_in(line, each) for line in file]
    except OSError:
        return 0, frozenset(), 0
    return len(found), frozenset(name for name, _ in found if name), sum(due for _, due in found)


def _error_in(line: bytes, each: int) -> tuple[str, int]:
    try:
        row = json.loads(line)
        return str(row["source"]), int(row.get("outputs", each))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", each
