"""What a loader does to a batch, done in one thread with a clock beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from augpipe.backends import opencv
from augpipe.batch import BatchSection
from augpipe.data.cached import CachedPictures, Keep
from augpipe.data.memory import Pool
from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.ir import NETWORKS, Meaning
from augpipe.kinds import unpack
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import kind_in_words
from augpipe.plan.nodes import Node, realised, segments
from augpipe.rendering import decoded, render_row
from augpipe.report.advice import Kind, Part
from augpipe.targets import Sample
from augpipe.types import Array, Floats, Frame, Picture

if TYPE_CHECKING:
    from augpipe.data.cache import Cache
    from augpipe.data.dataset import FolderPictures

DECODE, CACHED = "decode", "read from the cache"
DRAW, BATCH = "draw and compose", "make a batch"
_PIXELS = 50_000_000  # about what is held decoded at once


@dataclass(slots=True)
class Clock:
    """Adds up seconds under names.

    Args:
        spent: By name; what is not done stands at 0.
        halved: How many images were decoded at a fraction of their size.
    """

    spent: dict[str, float]
    halved: int = 0
    _last: float = 0.0
    _decoding: float = 0.0

    def start(self) -> None:
        """Begins to count."""
        self._decoding, self._last = 0.0, time.perf_counter()

    def lap(self, name: str) -> None:
        """Counts the time since the last lap to a name, but for what was decoding meanwhile."""
        now = time.perf_counter()
        self.spent[name] += now - self._last - self._decoding
        if self._decoding:
            self.spent[DECODE] += self._decoding
            self._decoding = 0.0
        self._last = now

    def decoding(self, seconds: float) -> None:
        """Counts seconds to decoding, whatever they were spent in."""
        self._decoding += seconds


@dataclass(frozen=True, slots=True)
class TimedPicture(Picture):
    """A picture whose decoding is counted apart from the warp that asks for it.

    Args:
        picture: It.
        clock: What counts.
    """

    picture: Picture
    clock: Clock

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        """Whether `reduced` may be used."""
        return self.picture.scaled

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.picture.shape

    def part(self, top: int, bottom: int, left: int, right: int) -> Array:
        """Returns a rectangle of its pixels."""
        start = time.perf_counter()
        out = self.picture.part(top, bottom, left, right)
        self.clock.decoding(time.perf_counter() - start)
        return out

    def reduced(
        self, halvings: int, box: tuple[float, float, float, float]
    ) -> tuple[Array, Floats]:
        """Returns pixels at a fraction of its size."""
        start = time.perf_counter()
        out = self.picture.reduced(halvings, box)
        self.clock.decoding(time.perf_counter() - start)
        self.clock.halved += 1
        return out


@dataclass(slots=True)
class Timed:
    """A recipe done pass by pass, in rounds.

    Args:
        pipe: The recipe.
        items: The folder's (image, class), by index, as the loader has them.
        cache: What is kept of them; None where the recipe has no cache.
    """

    pipe: Pipeline
    items: Any
    cache: Cache | None = None
    clocks: list[Clock] = field(default_factory=list)
    size: tuple[int, int] | None = None
    """Height and width of what the sample section leaves, once known; None where they differ."""
    tail: Tail = field(init=False)
    _names: dict[int, str] = field(init=False)
    _room: Pool = field(init=False)

    @classmethod
    def of(cls, pipe: Pipeline, pictures: FolderPictures) -> Timed:
        """Prepares a recipe for a folder; a cache is in memory, whatever the recipe says."""
        rule = pipe.recipe.cache
        if rule is None:
            return cls(pipe, pictures)
        keep = Keep(pipe.fix, "", "memory", rule.max_gb)
        cache = keep.open(pictures.scaled, forks=False)
        return cls(pipe, CachedPictures(pictures, keep, cache), cache)

    def __post_init__(self) -> None:
        self._room = Pool(2)
        self._names = {id(each): words(k, each) for k, each in enumerate(self.pipe.nodes, 1)}
        self.tail = Tail.of(self.pipe)

    @property
    def fixed(self) -> int:
        """How many passes are done once and kept."""
        return sum(each.cached for each in self.pipe.nodes)

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes of the sample section that are done each time."""
        return tuple(self._names[id(each)] for each in self.pipe.nodes[self.fixed :])

    def clock(self) -> Clock:
        """Returns a clock with all that is done, in order."""
        first = DECODE if self.cache is None else CACHED
        return Clock(dict.fromkeys((first, DRAW, *self.passes, BATCH, *self.tail.passes), 0.0))

    def round(self, indices: Sequence[int], epoch: int) -> Clock:
        """Runs images once, and the batch section on what comes of them."""
        clock = self.clock()
        clock.start()
        first = DECODE if self.cache is None else CACHED
        items: list[Any] = []
        keys: list[int] = []
        held = 0
        for index in indices:
            image, target = self.items[index]
            if isinstance(image, Picture):
                image = TimedPicture(image, clock)
            else:
                held += image.shape[0] * image.shape[1]
            items.append((image, target))
            keys.append(index)
            clock.lap(first)
            if held > _PIXELS or index == indices[-1]:
                self._chunk(items, keys, epoch, clock)
                items, keys, held = [], [], 0
        return clock

    def run(self, indices: Sequence[int], epoch: int) -> None:
        """Runs a round and keeps what it took."""
        self.clocks.append(self.round(indices, epoch))

    def _chunk(self, items: list[Any], keys: list[int], epoch: int, clock: Clock) -> None:
        """Does what `Pipeline.stack` does, in its order: an image goes through all passes."""
        clock.start()
        packed = [unpack(item) for item in items]
        done = [each.sample for each in packed]
        clock.lap(BATCH)
        draws = self.pipe.draws(np.array(keys, np.int64), epoch)
        parts = segments(self.pipe.nodes[self.fixed :])
        for nodes, foreign in parts:
            drawn = realised(nodes, draws, _frame(done), sparse=True)
            clock.lap(DRAW)
            if foreign is None:
                break
            done = [self._row(drawn, row, each, None, clock) for row, each in enumerate(done)]
            (own,) = realised((foreign,), draws, _frame(done))
            clock.lap(DRAW)
            done = [self._row([own], row, each, None, clock) for row, each in enumerate(done)]
        stacked: Array | None = None
        sizes: set[tuple[int, int]] = set()
        for row, each in enumerate(packed):
            lies = None if stacked is None or stacked.dtype != np.float32 else stacked[row]
            sample = self._row(drawn, row, done[row], lies, clock)
            image = sample.image
            height, width, channels = image.shape
            sizes.add((height, width))
            if stacked is None:
                stacked = self._room((len(packed), channels, height, width), image.dtype)
            if stacked.shape[1:] == (channels, height, width):
                opencv.store(image, stacked[row])
            each.repack(sample, elsewhere=True)
            clock.lap(BATCH)
        assert stacked is not None
        self.size = next(iter(sizes)) if len(sizes) == 1 else None
        self.tail.run(None if len(sizes) > 1 else stacked, sizes, keys, epoch, clock)

    def _row(
        self,
        drawn: Sequence[tuple[Node, Meaning]],
        row: int,
        sample: Sample,
        into: Array | None,
        clock: Clock,
    ) -> Sample:
        for node, meaning in drawn:
            sample = render_row((meaning,), node, row, sample, into)
            clock.lap(self._names[id(node)])
        return decoded(sample)

    def parts(self, count: int) -> tuple[Part, ...]:
        """Returns what each thing takes: the mean of the middle half of the rounds.

        The median of each alone would be 0 for a pass that acts on few images. What could not be
        measured is left out.

        Args:
            count: How many images a round has.
        """
        ordered = sorted(self.clocks, key=lambda clock: sum(clock.spent.values()))
        aside = len(ordered) // 4
        kept = ordered[aside : len(ordered) - aside]
        scale = 1000.0 / (len(kept) * count)
        kinds: dict[str, Kind] = {
            DECODE: "decode",
            CACHED: "cache",
            DRAW: "draw",
            BATCH: "collate",
            **dict.fromkeys(self.passes, "pass"),
            **({} if self.tail.unmeasured else dict.fromkeys(self.tail.passes, "batch")),
        }
        return tuple(
            Part(name, sum(each.spent[name] for each in kept) * scale, kinds[name])
            for name in kept[0].spent
            if name in kinds
        )


@dataclass(slots=True)
class Tail:
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
    def of(cls, pipe: Pipeline) -> Tail:
        """Takes a batch section apart."""
        passes = {
            f"batch {words(number, node)}": BatchSection(pipe.recipe, (node,))
            for number, node in enumerate(pipe.batch_nodes, 1)
        }
        return cls(", ".join(op.name() for op in pipe.recipe.batch), passes)

    def run(
        self,
        stacked: Array | None,
        sizes: set[tuple[int, int]],
        keys: Sequence[int],
        epoch: int,
        clock: Clock,
    ) -> None:
        """Does every pass to a batch (n, C, H, W), or notes that there is none."""
        if self.unmeasured or not self.passes:
            return
        if stacked is None:
            few = ", ".join(f"{height} × {width}" for height, width in sorted(sizes)[:3])
            more = ", ..." if len(sizes) > 3 else ""
            self.refuse(f"the images differ in size: {few}{more}")
            return
        images = torch.from_numpy(stacked)
        two = torch.arange(len(images)) % 2  # for ops that take images of one class
        try:
            for name, section in self.passes.items():
                if any(node.kind in NETWORKS for node in section.nodes):
                    images, _ = section(images, two, index=keys, epoch=epoch)
                else:
                    images = section(images, index=keys, epoch=epoch)
                clock.lap(name)
        except DataError as error:
            self.refuse(str(error))
        except AugpipeError:
            raise
        except Exception as error:
            self.refuse(in_a_line(error))

    def refuse(self, why: str) -> None:
        """Notes why the section cannot be measured."""
        self.unmeasured = f"the batch section ({self.ops}): {why}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps OpenCV and torch to one thread."""
    threads, others = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(others)


def words(number: int, node: Node) -> str:
    """Names a pass: "1 warp: rotate#0"."""
    ops = ", ".join(dict.fromkeys(step.key for step in node.steps))
    return f"{number} {kind_in_words(node.kind)}: {ops}"


def _frame(samples: Sequence[Sample]) -> Frame:
    return Frame(np.array([each.image.shape[:2] for each in samples], np.int64).reshape(-1, 2))
