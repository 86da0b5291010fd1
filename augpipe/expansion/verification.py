"""Verification: whether an output folder still is what its manifest says."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from augpipe.data.address import Address, place_of
from augpipe.data.content import Content
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion.annotated import AnnotatedRenderer
from augpipe.expansion.checking import Checked, Checker, Group
from augpipe.expansion.engines import are_apart, blocks_of, in_parallel
from augpipe.expansion.findings import Finding, Kind, Report
from augpipe.expansion.finishing import annotation_files, packed_contents
from augpipe.expansion.jobs import PART, digests, read_record, recipe_of
from augpipe.expansion.manifest import Key, Row, parse_row, rows_of
from augpipe.expansion.names import stays_inside
from augpipe.expansion.progress import Meter, Progress
from augpipe.expansion.record import ERRORS, JOB, MANIFEST, OWN_FILES, Record
from augpipe.expansion.render import renderer_of
from augpipe.expansion.skipped import read_skipped
from augpipe.expansion.sources import Plan, plan_for
from augpipe.plan.explain import plural


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
        workers: As of `expand`.
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
    most = record.outputs // max(record.images, 1)
    skipped, names, due = _skipped(out / ERRORS, most)
    reader = _Reader(out / MANIFEST, record, bool(recipe.batch), names)
    stop = threading.Event()
    plan = _plan(record, root)
    contents = {} if plan is None else packed_contents(plan, out)
    renderer = renderer_of(record, recipe)
    own = None if plan is None else AnnotatedRenderer(renderer, plan)
    home = root if root.is_dir() else root.parent
    checker = Checker(out, home, renderer, stop, own, contents)
    meter = Meter(progress, record.outputs)
    blocks = blocks_of(reader, lambda each: len(each.rows), lambda each: each.together)
    apart = are_apart(root, out)
    found: dict[int, tuple[Finding, ...]] = {}
    wrong = 0
    with closing(in_parallel(checker, blocks, workers, stop, Checked.lost, apart)) as results:
        for each in results:
            if each.findings:
                found[each.group] = each.findings
            wrong += len(each.findings)
            reader.checked += each.rows
            meter(reader.checked, wrong)
    findings += (finding for number in sorted(found) for finding in found[number])
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

    def __iter__(self) -> Iterator[Group]:
        for number, rows in enumerate(self._groups()):
            yield Group(number, sorted(rows, key=lambda row: row.key))

    def _groups(self) -> Iterator[list[Row]]:
        if not self.together:
            for _, rows in groupby(self._rows(), key=_group):
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


def _group(each: tuple[int, Row]) -> tuple[int, str, int]:
    """Returns what rows have in common that are made again from one reading of their source."""
    row = each[1]
    return row.index, row.source, (row.copy or 0) // PART


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
    found = read_skipped(path)
    known = [row for row in found if row is not None]
    due = sum(each if row is None or row.outputs is None else row.outputs for row in found)
    return len(found), frozenset(row.source for row in known), due
