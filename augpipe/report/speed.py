"""Where the time goes: a recipe measured on this machine, pass by pass, and loading."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from augpipe.data.dataset import FolderImages, FolderPictures
from augpipe.data.folder import Source, scan
from augpipe.errors import AugpipeError, DataError, in_a_line, printable
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import plural
from augpipe.report import variants
from augpipe.report.advice import (
    DOMINATES,
    Figures,
    Keeping,
    Move,
    Room,
    advise,
    bottleneck,
)
from augpipe.report.timing import Timed, one_thread
from augpipe.report.waiting import Waiting

if TYPE_CHECKING:
    from augpipe.data.cache import Cache

_IMAGES, _FEW = 32, 8  # images: the most, and the fewest where there are as many
_ROUNDS = 3  # at least
_TENTH = 0.1  # of the time given, that a round may take with more than a few images
_BATCH = 64  # images, as the loader's own
_BATCH_TIME = 0.2  # s that one worker may take for a batch
_WIDTH = 100  # columns
_PACKAGES = ("augpipe", "numpy", "opencv-python-headless", "pillow", "simplejpeg", "torch")


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.

    Args:
        machine: The processor, its cores, the versions: one line each.
        images: How many images were run, over and over.
        pixels: Their size on average.
        rounds: How many times.
        figures: What it takes, part by part, and what else was tried.
        batch_size: Of the loader.
        left_out: The images that could not be used.
        unmeasured: What of the recipe was not measured and why, or "".
        unloaded: Why the loader could not be measured, or "".
        once: What is done once an image where there is a cache, in ms; else None.
    """

    machine: tuple[str, ...]
    images: int
    pixels: float
    rounds: int
    figures: Figures
    batch_size: int
    left_out: tuple[DataError, ...] = ()
    unmeasured: str = ""
    unloaded: str = ""
    once: float | None = None

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """Returns what is done in one thread and its milliseconds an image, in order."""
        return tuple((part.name, part.ms) for part in self.figures.parts)

    @property
    def total(self) -> float:
        """Returns milliseconds an image in one thread, all in all."""
        return self.figures.total

    def __str__(self) -> str:
        rows = [*self.parts, ("all in all", self.total)]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"  {name.ljust(width)}  {ms:9.3f} ms  {ms / self.total:5.0%}" for name, ms in rows
        ]
        sized = f"{plural(self.images, 'image')} of {self.pixels:,.0f} pixels on average"
        head = (*self.machine, f"{sized}, {plural(self.rounds, 'round')}")
        missing = [f"not measured: {printable(self.unmeasured)}"] * bool(self.unmeasured)
        once = []
        if self.once is not None:
            once = [f"once an image, then kept (in memory, for this): {self.once:.3f} ms"]
        rate = f"{1000.0 / self.total:,.0f} images/s in one thread"
        advice = [bottleneck(self.figures), *advise(self.figures)]
        wrapped = [
            textwrap.fill(f"- {text}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            for text in advice
        ]
        return "\n".join(
            [*head, "", *lines, "", *missing, *once, rate, *self._waits(), "", *wrapped]
        )

    def _waits(self) -> list[str]:
        """Says what a training loop waits."""
        if self.unloaded:
            return [f"not loaded: {printable(self.unloaded)}"]
        out = []
        for load in self.figures.loads:
            how = f"with {plural(load.workers, 'worker')}"
            how += f" ({load.backend})" if load.workers else ""
            out.append(
                f"{how}: a wait of {load.ms:.3f} ms an image, {1000.0 / load.ms:,.0f} images/s"
            )
        out[0] += f", in batches of {self.batch_size}"
        return out


def measure(
    pipe: Pipeline, path: Path, seconds: float = 5.0, *, workers: int = 2, scaled: bool = True
) -> Speed:
    """Measures a recipe on a folder, as `pipe.loader` does it.

    In one thread, pass by pass: images are read and opened, their parameters are drawn and
    composed together, and each image goes through all passes and into the batch. What is decoded
    in a warp is counted as decoding. The batch section is done on the CPU to the images alone,
    without targets, in batches of 32 or of what fits: what it draws and composes is counted with
    each pass. Rounds go on as long as there is time, but three at least; recipes that may be
    faster take turns with this one.

    Then the loader itself, for as long: how long a loop waits that does nothing with the batches.
    The first batches do not count. Where a folder has no classes, the batch section has no targets.

    Files are read over and over, so they come from the system's memory. A cache is in memory,
    whatever the recipe says.

    Args:
        pipe: What to measure.
        path: A folder of images, or one; 32 at even distances are used at most.
        seconds: How long to measure, about.
        workers: Of the loader.
        scaled: Whether JPEGs may be decoded at a fraction of their size.

    Raises:
        DataError: If no image can be used.
    """
    listing = scan(path)
    pictures = FolderPictures(FolderImages(path), scaled)
    whole = len(listing.sources)
    count = min(_IMAGES, whole)
    pipe = Pipeline(variants.in_memory(pipe.recipe))
    with one_thread():
        own = Timed.of(pipe, pictures)
        tried = _tried(own, listing.sources, [i * whole // count for i in range(count)])
        indices = _fewer(tried.usable, seconds, tried.fetched + tried.done)
        _take_turns([own], indices, seconds / 6, 2)
        others = _Others.of(own, pictures, indices)
        own.clocks.clear()
        _take_turns([own, *others.all()], indices, seconds / 3, _ROUNDS)
    cores = _cores()
    figures = others.figures(own, len(indices), whole, cores)
    batch_size = _batch_size(figures.total)
    waiting = Waiting(pipe, path, bool(listing.classes), indices, batch_size, scaled)
    loads, unloaded = waiting.loads(workers, cores, seconds / 2, figures.total)
    shapes = [pictures[index][0].shape for index in indices]
    return Speed(
        _machine(cores),
        len(indices),
        sum(height * width for height, width, _ in shapes) / len(shapes),
        len(own.clocks),
        replace(figures, loads=loads),
        batch_size,
        tried.left_out,
        own.tail.unmeasured,
        unloaded,
        None if own.cache is None else tried.fetched,
    )


@dataclass(frozen=True, slots=True)
class _Tried:
    """Images that were augmented one by one.

    Args:
        usable: Those where that went well.
        left_out: Why the others cannot be used.
        fetched: What reading one took, and what is kept of it, in ms.
        done: What the rest of the work on one took, in ms.
    """

    usable: list[int]
    left_out: tuple[DataError, ...]
    fetched: float
    done: float


def _tried(own: Timed, sources: Sequence[Source], chosen: Sequence[int]) -> _Tried:
    """Reads and augments images, one by one.

    Raises:
        DataError: None can be used; why the first cannot.
    """
    usable: list[int] = []
    errors: list[DataError] = []
    fetched = done = 0.0
    for index in chosen:
        path = sources[index].path
        try:
            start = time.perf_counter()
            item = own.items[index]
            between = time.perf_counter()
            own.pipe.stack([item], [index], fixed=own.cache is not None)
            fetched, done = fetched + between - start, done + time.perf_counter() - between
        except DataError as error:
            named = error.where == str(path)
            errors.append(error if named else DataError(path, str(error)))
        except AugpipeError:
            raise
        except Exception as error:
            errors.append(DataError(path, in_a_line(error)))
        else:
            usable.append(index)
    if not usable:
        raise errors[0]
    scale = 1000.0 / len(usable)
    return _Tried(usable, tuple(errors), fetched * scale, done * scale)


def _fewer(indices: Sequence[int], seconds: float, ms: float) -> list[int]:
    """Returns some of the images, where a round of all would take too long."""
    fits = int(_TENTH * seconds * 1000.0 / max(ms, 1e-3))
    count = min(len(indices), max(_FEW, fits))
    return [indices[i * len(indices) // count] for i in range(count)]


def _take_turns(
    several: Sequence[Timed], indices: Sequence[int], seconds: float, least: int
) -> None:
    """Runs rounds of several recipes in turns, after one of each that does not count."""
    for each in several:
        each.round(indices, 0)
    end = time.perf_counter() + seconds
    epoch = 0
    while epoch < least or time.perf_counter() < end:
        epoch += 1
        for each in several:
            each.run(indices, epoch)


@dataclass(frozen=True, slots=True)
class _Others:
    """Recipes, or ways to load, that may be faster.

    Args:
        unmoved: Why no line can be moved.
        start: From which line on they are moved.
        alike: Whether they can move only because all images are of one size.
        moved: With lines moved to the batch section.
        cached: With a cache.
        side: The shorter side that it resizes to first.
        scaled: With JPEGs decoded at a fraction of their size.
    """

    unmoved: str
    start: int = 0
    alike: bool = False
    moved: Timed | None = None
    cached: Timed | None = None
    side: int | None = None
    scaled: Timed | None = None

    @classmethod
    def of(cls, own: Timed, pictures: FolderPictures, indices: Sequence[int]) -> _Others:
        """Chooses them by how a recipe did."""
        recipe = own.pipe.recipe
        parts = own.parts(len(indices))
        sizes = [pictures[i][0].shape[:2] for i in indices]
        starts, unmoved = variants.movable(own.pipe, own.size)
        alike = set(sizes) == {own.size}
        without = starts
        if alike:
            starts, unmoved = variants.movable(own.pipe, own.size, alike)
        found = cls(unmoved)
        if starts:
            cost = {part.name: part.ms for part in parts}
            costs = [0.0] * own.fixed + [cost[name] for name in own.passes]
            start = variants.from_where(own.pipe, starts, costs)
            moved = Timed.of(Pipeline(variants.moved(recipe, start)), pictures)
            found = replace(found, start=start, moved=moved, alike=start not in without)
        total = sum(part.ms for part in parts)
        if own.cache is None and parts[0].ms >= DOMINATES * total:
            short = int(np.median([min(size) for size in sizes]))
            other, side = variants.cached(recipe, own.size, short)
            found = replace(found, cached=Timed.of(Pipeline(other), pictures), side=side)
        if own.cache is None and not pictures.scaled:
            scaled = Timed.of(own.pipe, replace(pictures, scaled=True))
            found = replace(found, scaled=scaled)
        return found

    def all(self) -> list[Timed]:
        """Returns those that there are."""
        return [each for each in (self.moved, self.cached, self.scaled) if each is not None]

    def figures(self, own: Timed, count: int, whole: int, cores: int) -> Figures:
        """Returns what was measured.

        Args:
            own: The recipe itself.
            count: Images of a round.
            whole: Images of the folder.
            cores: That the program may use.
        """
        recipe = own.pipe.recipe
        figures = Figures(own.parts(count), cores, unmoved=self.unmoved)
        halved = sum(clock.halved for clock in own.clocks) / (count * len(own.clocks))
        figures = replace(figures, halved=halved)
        if self.moved is not None:
            parts = self.moved.parts(count)
            if self.start:  # what came first is what it was: no difference is to come of it
                parts = (figures.parts[0], *parts[1:])
            done = Figures(parts, cores)
            lines = tuple(variants.line(recipe, i) for i in range(self.start, len(recipe.sample)))
            on_cpu = None if self.moved.tail.unmeasured else done.total
            move = Move(lines, done.total - done.of("batch"), on_cpu, self.alike)
            figures = replace(figures, move=move)
        if self.cached is not None and self.cached.cache is not None:
            done = Figures(self.cached.parts(count), cores)
            needs = _needs(self.cached.cache, whole)
            figures = replace(figures, keeping=Keeping(done.total, needs, self.side))
        if own.cache is not None and recipe.cache is not None:
            room = Room(_needs(own.cache, whole), recipe.cache.max_gb)
            figures = replace(figures, room=room)
        if self.scaled is not None:
            figures = replace(figures, scaled=Figures(self.scaled.parts(count), cores).total)
        return figures


def _needs(cache: Cache, whole: int) -> float:
    """Returns how many gigabytes all images take, by those that are kept."""
    return cache.nbytes / max(cache.entries, 1) * whole / 1e9


def _batch_size(ms: float) -> int:
    """Returns the loader's own batch size, or half of it and so on where batches take long."""
    size = _BATCH
    while size > _FEW and size * ms > _BATCH_TIME * 1000.0:
        size //= 2
    return size


def _cores() -> int:
    """Returns how many cores this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _machine(cores: int) -> tuple[str, ...]:
    """Returns the processor and the versions, one line each."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return f"{model}, {plural(cores, 'core')}", ", ".join(versions)
