"""The outputs of some sources made again, in memory, and compared. Runs in the workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np

from augpipe.data.content import Content
from augpipe.data.decode import decode
from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, DataError, reason
from augpipe.expansion.annotated import AnnotatedRenderer
from augpipe.expansion.blocks import Largest, Order, made_of
from augpipe.expansion.findings import Finding
from augpipe.expansion.manifest import Row, changes
from augpipe.expansion.names import Output
from augpipe.expansion.origins import Made, Origin
from augpipe.expansion.render import Renderer
from augpipe.learned.files import path_of
from augpipe.plan.explain import plural

_CHANGED = "changed since its copies were made"


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one source, or of a batch.

    Args:
        number: Which group of the manifest it is.
        rows: Its rows, in the order of their keys.
    """

    number: int
    rows: Sequence[Row]

    @property
    def together(self) -> bool:
        """Returns whether its images shared a batch."""
        return bool(self.rows[0].batch)


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong with a group."""

    group: int
    rows: int
    findings: tuple[Finding, ...]

    @classmethod
    def lost(cls, group: Group, why: str) -> Checked:
        """Returns what is said of a group that ends any process that works on it."""
        found = Finding("source", group.rows[0].source, why)
        return cls(group.number, len(group.rows), (found,))


@dataclass(slots=True)
class _Begun:
    """A group that is being checked."""

    group: Group
    compared: int = 0
    over: bool = False
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks groups.

    Args:
        out: The folder of the expansion.
        root: Where the images are.
        renderer: What makes the pixels.
        stop: Set when nobody waits for the result.
        annotated: What makes objects and masks too; None where there are none.
        contents: Outputs that are no files of their own any more, by their path.
        largest: See `made_of`.
    """

    out: Path
    root: Path
    renderer: Renderer
    stop: Event
    annotated: AnnotatedRenderer | None = None
    contents: Mapping[str, Content] = field(default_factory=dict)
    largest: Largest = field(default_factory=Largest)

    def __call__(self, groups: Sequence[Group]) -> Iterator[Checked]:
        """Yields what is wrong with groups, in any order."""
        begun = [_Begun(each) for each in groups]
        ready = [each for each in begun if self._begin(each)]
        yield from (self._ended(each) for each in begun if each.over)
        yield from self._alone([each for each in ready if not each.group.together])
        for each in ready:
            if each.group.together:
                try:
                    for made in self._together(each.group.rows):
                        self._take(each, made)
                except AugpipeError as error:
                    self._take(each, error)
                yield self._ended(each)

    def _begin(self, begun: _Begun) -> bool:
        """Tells whether the images are those that the rows name."""
        if self.annotated is None:
            return True
        entries = self.annotated.plan.dataset.entries
        for row in begun.group.rows:
            if row.index >= len(entries) or entries[row.index].relative != row.source:
                self._take(begun, DataError(row.source, "is not the image of this number any more"))
                return False
        return True

    def _alone(self, begun: Sequence[_Begun]) -> Iterator[Checked]:
        orders = [self._order(each.group.rows) for each in begun]
        try:
            for place, made in made_of(orders, self.renderer.pipeline_of, self.largest):
                each = begun[place]
                if not each.over:
                    self._take(each, made)
                    if each.over:
                        yield self._ended(each)
        except AugpipeError as error:  # no fault of one source
            for each in begun:
                if not each.over:
                    self._take(each, error)
                    yield self._ended(each)

    def _order(self, rows: Sequence[Row]) -> Order:
        outputs = [Output(row.copy, row.output) for row in rows]
        if self.annotated is not None:
            return self.annotated.order(rows[0].index, outputs)
        return self.renderer.order(self._origin(rows[0]), outputs)

    def _take(self, begun: _Begun, made: Made | AugpipeError) -> None:
        """Compares the group's next row with what was made again; or notes why nothing was."""
        if self.stop.is_set():
            raise Stopped
        rows = begun.group.rows
        row = rows[min(begun.compared, len(rows) - 1)]
        if isinstance(made, Made) and made.row.source_sha256 != row.source_sha256:
            made = DataError(row.source, _CHANGED)
        if isinstance(made, AugpipeError):
            where = made.where if isinstance(made, DataError) else rows[0].source
            why = made.reason if isinstance(made, DataError) else str(made)
            begun.findings.append(Finding("source", where, why))
            begun.over = True
            return
        begun.findings += self._compare(row, made.row, made.data)
        begun.findings += self._compare_mask(row, made.mask)
        begun.compared += 1
        begun.over = begun.compared == len(rows)

    def _ended(self, begun: _Begun) -> Checked:
        for row in begun.group.rows[begun.compared :]:
            begun.findings += self._stored(row)[1]
        group = begun.group
        return Checked(group.number, len(group.rows), tuple(begun.findings))

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
