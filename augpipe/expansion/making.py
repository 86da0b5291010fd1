"""Tasks of an expansion done: their outputs written, and what came of them. Runs in the workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion.annotated import AnnotatedRenderer, Made
from augpipe.expansion.claim import Writer
from augpipe.expansion.jobs import Job, Task
from augpipe.expansion.manifest import Row, changes
from augpipe.expansion.names import Output
from augpipe.expansion.record import JOB
from augpipe.expansion.render import Renderer, renderer_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: rows, and of sources that could not be used, the reason why not."""

    task: Task
    rows: tuple[Row, ...]
    failed: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Rendering:
    """Makes the outputs of a job in memory, whether its images are annotated or not.

    Args:
        job: The job.
        renderer: What makes the pixels.
        annotated: What makes objects and masks too; None where there are none.
    """

    job: Job
    renderer: Renderer
    annotated: AnnotatedRenderer | None

    @classmethod
    def of(cls, job: Job) -> Rendering:
        """Gets ready what a job takes."""
        renderer = renderer_of(job.record, job.recipe)
        return cls(
            job, renderer, None if job.plan is None else AnnotatedRenderer(renderer, job.plan)
        )

    def together(
        self, copy: int, outputs: Sequence[tuple[int, Output]]
    ) -> tuple[list[Made], Mapping[int, str]]:
        """Returns one copy of images that share a batch; see `Renderer.together`."""
        if self.annotated is not None:
            return self.annotated.together(copy, outputs)
        members = [(self.job.origin(index), out) for index, out in outputs]
        made, failed = self.renderer.together(copy, members)
        return [Made(row, data) for row, data in made], failed

    def alone(self, index: int, outputs: Sequence[Output]) -> Iterator[Made]:
        """Yields outputs of one image; see `Renderer.render`."""
        if self.annotated is not None:
            yield from self.annotated.render(index, outputs)
        else:
            for row, data in self.renderer.render(self.job.origin(index), outputs):
                yield Made(row, data)


@dataclass(frozen=True, slots=True)
class Making:
    """What is done to tasks, as an engine is given it."""

    job: Job
    out: Path
    seen: dict[int, str]

    def size(self, task: Task) -> int:
        """Returns how many outputs a task has."""
        return len(self.job.outputs(task))

    def begin(self, stop: Event) -> Maker:
        """Returns what does a task in this process."""
        rendering = Rendering.of(self.job)
        if changed := changes(self.job.record.versions, rendering.renderer.versions):
            raise UsageError(f"has other versions: {changed}: install the same everywhere")
        home = self.job.listing.root
        if not (self.out / JOB).exists() or not home.exists():
            hidden = home if (self.out / JOB).exists() else self.out
            raise UsageError(f"{hidden}: is not seen there: use a shared folder or an address")
        return Maker(self.job, rendering, Writer(self.out), stop, self.seen)

    def lost(self, task: Task, reason: str) -> Outcome:
        """Returns what came of a task that no process survives."""
        for _, each in self.job.outputs(task):
            Writer(self.out).remove(each.path)
        return Outcome(task, (), dict.fromkeys(task.indices, reason))


@dataclass(frozen=True, slots=True)
class Maker:
    """Writes the outputs of a task. Runs in the workers."""

    job: Job
    rendering: Rendering
    writer: Writer
    stop: Event
    seen: dict[int, str]

    def __call__(self, task: Task) -> Outcome:
        """Does a task; what cannot be used is told in its outcome."""
        if task.copy is not None:
            outs = self.job.outputs(task)
            made, failed = self.rendering.together(task.copy, outs)
            for index, out in outs:
                if index in failed:
                    self.writer.remove(out.path)
            return Outcome(task, tuple(self._write(*each) for each in made), failed)
        (index,) = task.indices
        outputs = [each for _, each in self.job.outputs(task)]
        rows: list[Row] = []
        try:
            for row, data, mask in self.rendering.alone(index, outputs):
                rows.append(self._write(row, data, mask))
        except DataError as error:
            for each in outputs:
                self.writer.remove(each.path)
            for row in rows:
                if row.mask is not None:
                    self.writer.remove(row.mask.path)
            return Outcome(task, (), {index: error.reason})
        return Outcome(task, tuple(rows), {})

    def _write(self, row: Row, data: bytes, mask: bytes | None = None) -> Row:
        if self.stop.is_set():
            raise Stopped
        if row.source_sha256 != self.seen.get(row.index, row.source_sha256):
            raise AugpipeError(
                f"{self.job.sources[row.index].path}: changed since some of its copies were made: "
                "bring the old file back, or choose a new output folder"
            )
        self.writer.write(row.output, data)
        if row.mask is not None and mask is not None:
            self.writer.write(row.mask.path, mask)
        return row
