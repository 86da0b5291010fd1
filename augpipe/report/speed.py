"""Where the time goes: a recipe measured on this machine, pass by pass, in one thread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from augpipe.data.folder import Listing, Source
from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import kind_in_words, plural
from augpipe.plan.nodes import Node, realise
from augpipe.rendering import render
from augpipe.report.story import read
from augpipe.targets import Sample
from augpipe.types import Array, Frame

if TYPE_CHECKING:
    from augpipe.batch import BatchSection

_IMAGES = 32
_PIXELS = 50_000_000  # about what is held decoded at once
_ROUNDS = 3  # at least
_STACK = "make a batch"
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
        unmeasured: What of the recipe was not measured and why, or "".
    """

    machine: tuple[str, ...]
    images: int
    pixels: float
    rounds: int
    parts: tuple[tuple[str, float], ...]
    left_out: tuple[DataError, ...] = ()
    unmeasured: str = ""

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
        missing = [f"not measured: {self.unmeasured}"] * bool(self.unmeasured)
        return "\n".join([*head, "", *lines, "", *missing, rate])


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
    """Measures a recipe.

    A round decodes the images, draws and composes their parameters (together, as datasets and
    loaders do), and does each pass. Each image is tried alone, and left out if that fails;
    then there is a round to warm up, and then as many as fit into the time, but three at least.

    The batch section is done on the CPU to the images alone, without targets, in batches of 32
    or of what fits: what it draws and composes is counted with each pass. It is not measured
    where the images that the sample section leaves are no batch, or cannot be taken.

    Args:
        pipe: What to measure.
        listing: Images; 32 of them at most are used, at even distances.
        seconds: How long to measure, about.

    Raises:
        DataError: If no image can be used.
    """
    count = min(_IMAGES, len(listing.sources))
    chosen = [listing.sources[i * len(listing.sources) // count] for i in range(count)]
    tail = _Tail.of(pipe)
    with _one_thread(torch_too=bool(tail.passes)):
        paths, left_out = _usable(pipe, chosen)
        count = len(paths)
        pixels = _round(pipe, tail, paths, 0, _Clock())
        clocks: list[_Clock] = []
        end = time.perf_counter() + seconds
        while len(clocks) < _ROUNDS or time.perf_counter() < end:
            clocks.append(_Clock())
            _round(pipe, tail, paths, len(clocks), clocks[-1])
    parts = tuple(
        (name, statistics.median(clock.spent[name] for clock in clocks) * 1000.0 / count)
        for name in clocks[0].spent
        if not (tail.unmeasured and name in (_STACK, *tail.passes))
    )
    packages = (*_PACKAGES, *["torch"] * bool(tail.passes))
    machine = _machine(packages)
    return Speed(machine, count, pixels / count, len(clocks), parts, left_out, tail.unmeasured)


@contextmanager
def _one_thread(torch_too: bool) -> Iterator[None]:
    """Keeps OpenCV, and torch where it is used, to one thread."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        if not torch_too:
            yield
            return
        import torch

        others = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(others)
    finally:
        cv2.setNumThreads(threads)


@dataclass(slots=True)
class _Tail:
    """The batch section, pass by pass.

    Args:
        ops: Its ops in words.
        passes: By what it does, a module that does one pass alone.
        unmeasured: Why it was not measured, once that is known.
    """

    ops: str
    passes: dict[str, BatchSection]
    unmeasured: str = ""

    @classmethod
    def of(cls, pipe: Pipeline) -> _Tail:
        """Takes a batch section apart; torch is not loaded where there is none."""
        passes = {}
        for number, node in enumerate(pipe.batch_nodes, 1):
            from augpipe.batch import BatchSection

            passes[f"batch {_words(number, node)}"] = BatchSection(pipe.recipe, (node,))
        return cls(", ".join(op.name() for op in pipe.recipe.batch), passes)

    def run(self, batch: Sequence[tuple[int, Array]], epoch: int, clock: _Clock) -> None:
        """Does every pass to images with their indices."""
        if self.unmeasured or not self.passes:
            return
        sizes = sorted({image.shape[:2] for _, image in batch})
        if len(sizes) > 1:
            few = ", ".join(f"{height} × {width}" for height, width in sizes[:3])
            more = ", ..." if len(sizes) > 3 else ""
            self.refuse(f"the images differ in size: {few}{more}")
            return
        import torch

        with clock.part(_STACK):
            each = [np.array(image.transpose(2, 0, 1), order="C") for _, image in batch]
            images = torch.stack([torch.from_numpy(image) for image in each])
        keys = [index for index, _ in batch]
        try:
            for name, section in self.passes.items():
                with clock.part(name):
                    images = section(images, index=keys, epoch=epoch)
        except DataError as error:
            self.refuse(str(error))
        except AugpipeError:
            raise
        except Exception as error:
            self.refuse(in_a_line(error))

    def refuse(self, why: str) -> None:
        """Notes why the section cannot be measured."""
        self.unmeasured = f"the batch section ({self.ops}): {why}"


def _usable(pipe: Pipeline, sources: list[Source]) -> tuple[list[Path], tuple[DataError, ...]]:
    """Returns the images that can be read and augmented, and why the others cannot."""
    usable: list[Path] = []
    errors: list[DataError] = []
    for index, source in enumerate(sources):
        try:
            pipe.run([Sample(_read(pipe, source.path))], np.array([index]))
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


def _read(pipe: Pipeline, path: Path) -> Array:
    """Decodes an image; where there are batches, as a folder's are for training."""
    return read(path, rgb=bool(pipe.batch_nodes))


def _round(pipe: Pipeline, tail: _Tail, paths: list[Path], epoch: int, clock: _Clock) -> int:
    """Runs the images once; returns how many pixels they have."""
    pixels, batch, held = 0, [], 0
    left: list[tuple[int, Array]] = []
    for index, path in enumerate(paths):
        with clock.part("decode"):
            image: Array = _read(pipe, path)
        batch.append((index, image))
        held += image.shape[0] * image.shape[1]
        last = index == len(paths) - 1
        if held > _PIXELS or last:
            done = _batch(pipe, batch, epoch, clock)
            pixels, batch, held = pixels + held, [], 0
            left += done if tail.passes else []
        if left and (last or sum(each.shape[0] * each.shape[1] for _, each in left) > _PIXELS):
            tail.run(left, epoch, clock)
            left = []
    return pixels


def _batch(
    pipe: Pipeline,
    batch: list[tuple[int, Array]],
    epoch: int,
    clock: _Clock,
) -> list[tuple[int, Array]]:
    """Runs images whose parameters are drawn together; returns them."""
    indices, images = np.array([index for index, _ in batch]), [image for _, image in batch]
    with clock.part("draw and compose"):
        draws = pipe.draws(indices, epoch)
    for number, node in enumerate(pipe.nodes, 1):
        with clock.part("draw and compose"):
            sizes = np.array([image.shape[:2] for image in images], np.int64)
            meanings = realise((node,), draws, Frame(sizes))
        with clock.part(_words(number, node)):
            images = [each.image for each in render(meanings, node, [Sample(i) for i in images])]
    return list(zip(indices.tolist(), images, strict=True))


def _words(number: int, node: Node) -> str:
    """Names a pass: "1 warp: rotate#0"."""
    ops = ", ".join(dict.fromkeys(step.key for step in node.steps))
    return f"{number} {kind_in_words(node.kind)}: {ops}"


def _machine(packages: Sequence[str]) -> tuple[str, ...]:
    """Returns the processor and the versions, one line each."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
        model = names[0] if names else model
    except OSError:
        pass
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return f"{model}, {plural(os.cpu_count() or 1, 'core')}", ", ".join(versions)
