"""Where the time goes: a recipe measured on this machine, pass by pass, in one thread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from augpipe.data.decode import decode
from augpipe.data.folder import Listing, Source
from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.pipeline import Pipeline, render
from augpipe.plan.explain import kind_in_words, plural
from augpipe.plan.nodes import realise
from augpipe.targets import Sample
from augpipe.types import Array, Frame

_IMAGES = 32
_PIXELS = 50_000_000  # about what is held decoded at once
_ROUNDS = 3  # at least
_PACKAGES = ("augpipe", "numpy", "opencv-python-headless", "pillow")


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured.

    Args:
        machine: The processor, its cores, the versions: one line each.
        images: How many images were run, over and over.
        pixels: Their size on average.
        rounds: How many times.
        parts: What is done and its milliseconds an image (median of the rounds), in order.
        left_out: The images that could not be used.
    """

    machine: tuple[str, ...]
    images: int
    pixels: float
    rounds: int
    parts: tuple[tuple[str, float], ...]
    left_out: tuple[DataError, ...] = ()

    @property
    def total(self) -> float:
        """Returns milliseconds an image, all in all."""
        return sum(ms for _, ms in self.parts)

    def __str__(self) -> str:
        rows = [*self.parts, ("all in all", self.total)]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"  {name.ljust(width)}  {ms:9.3f} ms  {ms / self.total:5.0%}" for name, ms in rows
        ]
        sized = f"{plural(self.images, 'image')} of {self.pixels:,.0f} pixels on average"
        rate = f"{1000.0 / self.total:,.0f} images/s in one thread"
        how = f"drawn together, median of {plural(self.rounds, 'round')}"
        head = (*self.machine, f"{sized}, {how}")
        return "\n".join([*head, "", *lines, "", rate])


@dataclass(slots=True)
class _Clock:
    """Adds up seconds under names, in the order of their first use."""

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block."""
        start = time.perf_counter()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - start


def measure(pipe: Pipeline, listing: Listing, seconds: float = 5.0) -> Speed:
    """Measures a recipe's sample section.

    A round decodes the images, draws and composes their parameters (together, as datasets and
    loaders do), and does each pass. Each image is tried alone, and left out if that fails;
    then there is a round to warm up, and then as many as fit into the time, but three at least.

    Args:
        pipe: What to measure.
        listing: Images; 32 of them at most are used, at even distances.
        seconds: How long to measure, about.

    Raises:
        DataError: If no image can be used.
    """
    import cv2

    count = min(_IMAGES, len(listing.sources))
    chosen = [listing.sources[i * len(listing.sources) // count] for i in range(count)]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        paths, left_out = _usable(pipe, chosen)
        count = len(paths)
        pixels = _round(pipe, paths, 0, _Clock())
        clocks: list[_Clock] = []
        end = time.perf_counter() + seconds
        while len(clocks) < _ROUNDS or time.perf_counter() < end:
            clocks.append(_Clock())
            _round(pipe, paths, len(clocks), clocks[-1])
    finally:
        cv2.setNumThreads(threads)
    parts = tuple(
        (name, statistics.median(clock.spent[name] for clock in clocks) * 1000.0 / count)
        for name in clocks[0].spent
    )
    return Speed(_machine(), count, pixels / count, len(clocks), parts, left_out)


def _usable(pipe: Pipeline, sources: list[Source]) -> tuple[list[Path], tuple[DataError, ...]]:
    """Returns the images that can be read and augmented, and why the others cannot."""
    usable: list[Path] = []
    errors: list[DataError] = []
    for index, source in enumerate(sources):
        try:
            pipe.run([Sample(decode(source.path))], np.array([index]))
        except DataError as error:
            named = error.where == str(source.path)
            errors.append(error if named else DataError(source.path, str(error)))
        except AugpipeError:
            raise
        except Exception as error:
            errors.append(DataError(source.path, in_a_line(error)))
        else:
            usable.append(source.path)
    if not usable:
        raise errors[0]
    return usable, tuple(errors)


def _round(pipe: Pipeline, paths: list[Path], epoch: int, clock: _Clock) -> int:
    """Runs the images once; returns how many pixels they have."""
    pixels, batch, held = 0, [], 0
    for index, path in enumerate(paths):
        with clock.part("decode"):
            image: Array = decode(path)
        batch.append((index, image))
        held += image.shape[0] * image.shape[1]
        if held > _PIXELS or index == len(paths) - 1:
            _batch(pipe, batch, epoch, clock)
            pixels, batch, held = pixels + held, [], 0
    return pixels


def _batch(
    pipe: Pipeline,
    batch: list[tuple[int, Array]],
    epoch: int,
    clock: _Clock,
) -> None:
    """Runs images whose parameters are drawn together."""
    indices, images = np.array([index for index, _ in batch]), [image for _, image in batch]
    with clock.part("draw and compose"):
        draws = pipe.draws(indices, epoch)
    for number, node in enumerate(pipe.nodes, 1):
        with clock.part("draw and compose"):
            sizes = np.array([image.shape[:2] for image in images], np.int64)
            meanings = realise((node,), draws, Frame(sizes))
        ops = ", ".join(dict.fromkeys(step.key for step in node.steps))
        with clock.part(f"{number} {kind_in_words(node.kind)}: {ops}"):
            images = [each.image for each in render(meanings, node, [Sample(i) for i in images])]


def _machine() -> tuple[str, ...]:
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
    return f"{model}, {plural(os.cpu_count() or 1, 'core')}", ", ".join(versions)
