"""What an expansion would come to, told beforehand: counts, bytes and time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from augpipe.data.address import place_of
from augpipe.data.annotated import image_from
from augpipe.data.content import FileContent
from augpipe.errors import DataError, printable
from augpipe.expansion.claim import begun_in, check_target, check_versions
from augpipe.expansion.engines import are_apart, engine_of
from augpipe.expansion.jobs import Job, Task
from augpipe.expansion.making import Rendering
from augpipe.expansion.manifest import line_of, rows_of
from augpipe.expansion.names import Output
from augpipe.expansion.origins import Made
from augpipe.expansion.record import MANIFEST
from augpipe.plan.explain import plural
from augpipe.rng import Draws

_IMAGES, _BATCHES = 64, 2  # that are made to measure: images, or batches where they share them
_COPIES = 2  # of one image
_FEW = 10  # objects of a category, of which no share is taken
_LINES = 30  # of a table


@dataclass(frozen=True, slots=True)
class Count:
    """How much there is of one class, before and after.

    Args:
        name: The class, or the category of objects; "no class" of images that have none, and
            "all" where none has one.
        before: Images, or objects, of the source.
        after: Of the new dataset; estimated for objects, which may leave the frame.
    """

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an expansion would come to.

    Args:
        out: The output folder.
        outputs: How many images it is to hold in the end.
        kept: How many of them are there already.
        bytes: What all images, masks and rows of the manifest take; None if nothing was measured.
        seconds: What is left takes; None if nothing was measured.
        workers: With how many of them.
        measured: How many images were made to measure.
        classes: Of images.
        objects: Of annotated objects.
        failed: The first image of those made that cannot be used, and why; "" if all can.
        notes: What could not be balanced.
    """

    out: Path
    outputs: int
    kept: int
    bytes: int | None
    seconds: float | None
    workers: int
    measured: int
    classes: tuple[Count, ...]
    objects: tuple[Count, ...]
    failed: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        there = f", {self.kept} of them there already" if self.kept else ""
        lines = [f"would write {plural(self.outputs, 'image')} to {self.out}{there}"]
        if self.bytes is not None and self.seconds is not None:
            workers = plural(max(self.workers, 1), "worker")
            lines.append(
                f"about {in_bytes(self.bytes)} and {in_time(self.seconds)} with {workers}: "
                f"estimated from {plural(self.measured, 'image')} made in memory"
            )
        if self.failed:
            lines.append(f"of those made to measure, some cannot be used: {self.failed}")
        lines += self.notes
        lines += _table("images", self.classes) + _table("objects", self.objects)
        return "\n".join(map(printable, lines))


def _table(what: str, counts: Sequence[Count]) -> list[str]:
    if not counts:
        return []
    shown = counts[:_LINES]
    wide = max(len(what), *(len(each.name) for each in shown))
    lines = [f"{what:{wide}}  {'before':>8}  {'after':>8}"]
    lines += [f"{each.name:{wide}}  {each.before:>8}  {each.after:>8}" for each in shown]
    return [*lines, f"... and {len(counts) - _LINES} more"] if len(counts) > _LINES else lines


def in_bytes(size: float) -> str:
    """Words a number of bytes: "1.4 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def in_time(seconds: float) -> str:
    """Words a time: "12 s", "3 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 6000 else f"{seconds / 3600:,.3g} h"


def estimate(job: Job, out: str | Path, workers: int = 0) -> Estimate:
    """Tells what an expansion would come to. Nothing is written.

    Some of the outputs, chosen by the seed, are made in memory by as many workers; time and bytes
    of all follow from theirs. What the disk takes is not in it.

    Args:
        job: See `augpipe.expansion.expanding.job_of`.
        out: Where it would be written to.
        workers: Of `expand`; 0 works in the caller's.

    Raises:
        UsageError: `expand` would refuse the folder.
        DataError: A manifest that is there cannot be read.
    """
    out, source = place_of(out), place_of(job.record.source)
    check_target(source, job, out)
    kept = 0
    if (begun := begun_in(out, job)) is not None:
        kept = sum(row is not None for _, row in rows_of(out / MANIFEST))
        if kept < job.record.outputs:
            check_versions(out, begun.versions, job)
    measured = _measure(_Probe(Rendering.of(job)), workers, are_apart(source, out))
    total, left = job.record.outputs, job.record.outputs - kept
    size = seconds = None
    if measured.made:
        size = math.ceil(measured.bytes_of(job))
        seconds = measured.seconds / len(measured.made) * left
    return Estimate(
        out,
        total,
        kept,
        size,
        seconds,
        workers,
        len(measured.made),
        _classes(job),
        _objects(job, measured.made),
        measured.failed,
        job.notes,
    )


def _classes(job: Job) -> tuple[Count, ...]:
    originals = job.settings.keep_originals
    labels = job.labels
    if job.plan is not None and not any(labels):
        labels = job.plan.labels()
    before, after = Counter[str](), Counter[str]()
    for index, (label, copies) in enumerate(zip(labels, job.names.copies, strict=True)):
        before[label or ""] += not job.is_generated(index)
        after[label or ""] += int(copies) + originals
    return counted(before, after)


def counted(before: Counter[str], after: Counter[str]) -> tuple[Count, ...]:
    """Returns the counts of classes by name; "" is what images without one are counted under."""
    names = sorted(before | after)
    blank = "all" if names == [""] else "no class"
    return tuple(Count(name or blank, before[name], after[name]) for name in names)


def _objects(job: Job, made: Sequence[Made]) -> tuple[Count, ...]:
    """Returns the objects of each category; of the copies, by the share that stayed in those made.

    They are counted by the images' records, of which none is skipped that cannot be used.
    """
    if job.plan is None:
        return ()
    dataset = job.plan.dataset
    before, copied = Counter[int](), Counter[int]()
    of: dict[int, Counter[int]] = {}
    for index, copies in enumerate(job.names.copies):
        try:
            of[index] = Counter(each.category for each in dataset[index].annotations)
        except DataError:  # said when its turn comes
            continue
        for category, number in of[index].items():
            before[category] += number
            copied[category] += number * int(copies)
    given, stayed = Counter[int](), Counter[int]()
    for each in made:
        if each.row.copy is not None and each.row.record is not None:
            image = image_from(each.row.record, FileContent(Path()), None)
            stayed.update(each.category for each in image.annotations)
            given.update(of[each.row.index])
    whole = stayed.total() / max(given.total(), 1)

    def after(category: int) -> int:
        rare = given[category] < _FEW
        share = whole if rare else stayed[category] / given[category]
        originals = job.settings.keep_originals * before[category]
        return round(share * copied[category]) + originals

    return tuple(
        Count(each.name, before[each.id], after(each.id))
        for each in dataset.meta.categories
        if before[each.id]
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    """Makes outputs of tasks, in memory: work for an engine."""

    rendering: Rendering

    def size(self, task: Task) -> int:
        """Returns how many outputs are made of a task."""
        return len(self._outputs(task))

    def begin(self, stop: Event) -> Callable[[Sequence[Task]], Iterator[_Some]]:
        """Returns what does some tasks."""
        return self._made

    def lost(self, task: Task, reason: str) -> _Some:
        """Returns what came of a task that no process survives."""
        return _Some((), reason)

    def _outputs(self, task: Task) -> list[tuple[int, Output]]:
        outputs = self.rendering.job.outputs(task)
        most = _COPIES + self.rendering.job.settings.keep_originals
        return outputs if task.copy is not None else outputs[:most]

    def _made(self, tasks: Sequence[Task]) -> Iterator[_Some]:
        alone = [task for task in tasks if task.copy is None]
        orders = [(task.indices[0], [each for _, each in self._outputs(task)]) for task in alone]
        for _, made in self.rendering.alone(orders):
            yield _Some((), str(made)) if isinstance(made, DataError) else _Some((made,))
        for task in tasks:
            if task.copy is not None:
                yield _Some(tuple(self.rendering.together(task.copy, self._outputs(task))[0]))


@dataclass(frozen=True, slots=True)
class _Some:
    """Some outputs; or why there are none."""

    made: tuple[Made, ...]
    failed: str = ""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What came of making some outputs."""

    made: tuple[Made, ...]
    seconds: float
    failed: str

    def bytes_of(self, job: Job) -> float:
        """Returns what all outputs take, from what those made do: originals and copies apart."""
        sizes: dict[bool, list[int]] = {True: [], False: []}
        for each in self.made:
            size = len(each.data) + len(each.mask or b"") + len(line_of(each.row))
            sizes[each.row.copy is None].append(size)
        originals = len(job.sources) * job.settings.keep_originals
        numbers = {True: originals, False: job.record.outputs - originals}
        return sum(numbers[kind] * float(np.mean(own)) for kind, own in sizes.items() if own)


def _measure(probe: _Probe, workers: int, apart: bool) -> _Measured:
    tasks = _sample(probe.rendering.job)
    if not tasks:
        return _Measured((), 0.0, "")
    for _ in probe.begin(Event())(tasks[:1]):  # what is done once: imports, tables, weights
        pass
    made: list[Made] = []
    failed = ""
    start = time.perf_counter()
    with engine_of("local", workers, apart) as run, closing(run(probe, tasks)) as results:
        for some in results:
            made += some.made
            failed = failed or some.failed
    return _Measured(tuple(made), time.perf_counter() - start, failed)


def _sample(job: Job) -> list[Task]:
    """Returns some tasks, drawn by the seed."""
    if job.together:
        batches = (task for task in job.tasks() if task.copy is not None)
        return [task for task, _ in zip(batches, range(_BATCHES), strict=False)]
    count = len(job.sources)
    order = Draws(job.recipe.seed, np.zeros(1, np.int64), op="estimate").permutation("order", count)
    tasks = (Task((int(index),)) for index in order[0])
    chosen = (task for task in tasks if job.outputs(task))
    return [task for task, _ in zip(chosen, range(_IMAGES), strict=False)]
