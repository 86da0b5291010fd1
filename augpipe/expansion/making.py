"""Tasks of an expansion done: their outputs written, and what came of them. Runs in the workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion.annotated import AnnotatedRenderer
from augpipe.expansion.blocks import Largest, made_of
from augpipe.expansion.claim import Writer
from augpipe.expansion.jobs import Job, Task
from augpipe.expansion.manifest import Key, changes, line_of
from augpipe.expansion.names import Output
from augpipe.expansion.origins import Made
from augpipe.expansion.record import JOB
from augpipe.expansion.render import Renderer, renderer_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: its rows' lines, by key, and why sources could not be used.

    Lines and no rows, for they may come from another process.
    """

    task: Task
    lines: tuple[tuple[Key, bytes], ...]
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
    largest: Largest = field(default_factory=Largest)

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
        return self.renderer.together(copy, members)

    def alone(
        self, orders: Sequence[tuple[int, Sequence[Output]]]
    ) -> Iterator[tuple[int, Made | DataError]]:
        """Yields outputs of images, each for itself; see `blocks.made_of`.

        Args:
            orders: Their indices, and what is made of each.
        """
        if self.annotated is not None:
            asked = [self.annotated.order(*each) for each in orders]
        else:
            asked = [self.renderer.order(self.job.origin(index), some) for index, some in orders]
        return made_of(asked, self.renderer.pipeline_of, self.largest)

    def remove(self, writer: Writer, outputs: Iterable[tuple[int, Output]]) -> None:
        """Removes outputs, and their masks, if they are there."""
        for index, output in outputs:
            writer.remove(output.path)
            mask = None if self.annotated is None else self.annotated.mask_of(index, output)
            if mask is not None:
                writer.remove(mask)


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
        """Returns what does tasks in this process."""
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
        Rendering.of(self.job).remove(Writer(self.out), self.job.outputs(task))
        return Outcome(task, (), dict.fromkeys(task.indices, reason))


@dataclass(frozen=True, slots=True)
class Maker:
    """Writes the outputs of tasks. Runs in the workers."""

    job: Job
    rendering: Rendering
    writer: Writer
    stop: Event
    seen: dict[int, str]

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Does tasks; what cannot be used is told in their outcomes."""
        alone = [task for task in tasks if task.copy is None]
        if alone:
            yield from self._alone(alone)
        for task in tasks:
            if task.copy is not None:
                yield self._together(task, task.copy)

    def _together(self, task: Task, copy: int) -> Outcome:
        outs = self.job.outputs(task)
        made, failed = self.rendering.together(copy, outs)
        self.rendering.remove(self.writer, (each for each in outs if each[0] in failed))
        return Outcome(task, tuple(self._write(each) for each in made), failed)

    def _alone(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        outputs = [self.job.outputs(task) for task in tasks]
        orders = [
            (task.indices[0], [each for _, each in some])
            for task, some in zip(tasks, outputs, strict=True)
        ]
        lines: list[list[tuple[Key, bytes]]] = [[] for _ in tasks]
        failed: set[int] = set()
        for place, made in self.rendering.alone(orders):
            if place in failed:
                continue
            task, own = tasks[place], lines[place]
            try:
                if isinstance(made, DataError):
                    raise made
                own.append(self._write(made))
            except DataError as error:
                failed.add(place)
                self.rendering.remove(self.writer, outputs[place])
                yield Outcome(task, (), {task.indices[0]: error.reason})
                continue
            if len(own) == len(outputs[place]):
                yield Outcome(task, tuple(own), {})

    def _write(self, made: Made) -> tuple[Key, bytes]:
        """Writes an output; returns its row's line."""
        row, data, mask = made
        if self.stop.is_set():
            raise Stopped
        if row.source_sha256 != self.seen.get(row.index, row.source_sha256):
            raise AugpipeError(
                f"{self.job.sources[row.index].path}: changed since some of its copies were made: "
                "bring the old file back, or choose a new output folder"
            )
        line = line_of(row)  # before a file is written: what has no row cannot be kept
        self.writer.write(row.output, data)
        if row.mask is not None and mask is not None:
            self.writer.write(row.mask.path, mask)
        return row.key, line
