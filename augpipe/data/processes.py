"""Batches made in worker processes: torch's DataLoader, without what it costs to move them.

Threads take turns at Python's lock, and an augmented image passes it dozens of times: two
threads do hardly more than one, once decoding is not most of the work. Processes do not meet.
What a DataLoader's worker makes, though, is copied to memory that is shared, new for each
batch. Here the workers are born with that memory and write to it, and the batches that come
back are views of it.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from augpipe.data.children import forks, interrupts_held_back, leave_interrupts, sendable
from augpipe.data.memory import Pool
from augpipe.data.packed import Packed, dumps
from augpipe.data.parts import Made, Maker, Part
from augpipe.data.store import held_while_forking
from augpipe.errors import AugpipeError, UsageError, first_sentence, in_a_line
from augpipe.types import Array

AHEAD = 2
"""Batches in hand for each worker: with one, it waits for each to be fetched."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A part and the number of the memory where its images are to lie; -1 for none."""

    part: Part
    slot: int


@dataclass(frozen=True, slots=True)
class _Lies:
    """Where a batch's images lie."""

    slot: int
    shape: tuple[int, ...]
    dtype: str


class _Worker:
    """What a worker does: a DataLoader's dataset, asked for tasks."""

    def __init__(self, maker: Maker, slots: list[Array]) -> None:
        self._maker = replace(maker, room=Pool(2))
        self._slots = slots

    def __len__(self) -> int:
        return len(self._maker)

    def __getstate__(self) -> dict[str, Any]:
        return {"_maker": self._maker, "_slots": []}  # memory is shared by birth alone

    def __getitem__(self, task: _Task) -> Packed:
        try:
            made, lies = self._made(task)
        except Exception as error:
            made, lies = Made(error=sendable(error)), None
        try:
            return Packed(dumps((made, lies)))
        except Exception as error:  # else the queue would lose it, and the loader wait for ever
            words = f"targets cannot be sent between processes ({in_a_line(error)})"
            refusal = UsageError(f'{words}: load them with backend="threads"')
            return Packed(dumps((Made(error=refusal), None)))

    def _made(self, task: _Task) -> tuple[Made, _Lies | None]:
        slot = self._slots[task.slot] if 0 <= task.slot < len(self._slots) else None

        def room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            length = math.prod(shape) * dtype.itemsize
            if slot is None or length > len(slot):
                return self._maker.room(shape, dtype)
            return slot[:length].view(dtype).reshape(shape)

        # The batch section makes arrays of its own: only what comes last is to lie there.
        mine = self._maker if self._maker.finish else replace(self._maker, room=room)
        made = mine.make(task.part)
        if made.images is None or slot is None:
            return made, None
        images = made.images.numpy()
        if self._maker.finish:
            last = room(images.shape, images.dtype)
            last[:] = images
            images = last
        if not np.may_share_memory(images, slot):
            return made, None
        made.images = None
        return made, _Lies(task.slot, images.shape, images.dtype.name)


class Processes:
    """Worker processes that live as long as this does.

    Args:
        maker: What they do.
        workers: How many.

    Raises:
        UsageError: If this process may not have any.
    """

    def __init__(self, maker: Maker, workers: int) -> None:
        if multiprocessing.current_process().daemon:
            raise UsageError(
                'backend="processes": this is a worker process itself (of a pool, or of a '
                'DataLoader), which may start none: load with backend="threads"'
            )
        self._maker = maker
        self._workers = workers
        # Not kept by an iteration: one begun before another ends has workers of its own.
        self._idle: deque[_Crew] = deque(maxlen=1)

    def made(self, parts: Sequence[Part]) -> Generator[Made]:
        """Yields what becomes of the parts, in order.

        Raises:
            AugpipeError: If a worker died. The next iteration has others.
        """
        if not parts:
            return
        crew = self._crew(parts[0])
        whole = False
        try:
            yield from crew.made(parts)
            whole = True
        except GeneratorExit:
            whole = True  # they drop what was asked of them as the next iteration begins
            raise
        finally:
            if whole:
                self._idle.append(crew)
            else:
                crew.end()

    def _crew(self, part: Part) -> _Crew:
        """Returns workers that nobody has, whose memory takes batches of this many samples."""
        try:
            crew = self._idle.pop()
        except IndexError:
            pass
        else:
            if crew.alive() and len(part.indices) <= crew.samples:
                return crew
            crew.end()
        return _Crew(self._maker, self._workers, part)


class _Crew:
    """Workers for one iteration at a time, and the memory that they were born with.

    Args:
        maker: What they do.
        workers: How many.
        part: A batch by which to tell how much memory one takes.

    Attributes:
        samples: How many are in it.
    """

    def __init__(self, maker: Maker, workers: int, part: Part) -> None:
        self.samples = len(part.indices)
        slots: list[Array] = []
        if forks():
            count = AHEAD * workers + 2  # in hand, held by the user, and coming
            slots = [_shared(size) for size in [_size(maker, part)] * count if size]
        self._slots = slots
        self._tasks = _Tasks(len(slots))
        worker = _Worker(maker, slots)
        self._loader = _data_loader(worker, self._tasks, workers, part.epoch, AHEAD)
        self._end: weakref.finalize[[], Any] | None = None
        self._foreign = False
        held_while_forking(self)

    def hold(self) -> None:
        """Lets the process fork at any time."""

    def resume(self, child: bool) -> None:
        """Gives the workers up in a child, which is not to end those of its parent."""
        if not child:
            return
        self._foreign = True
        if self._end is not None:
            self._end.detach()
        if self._loader._iterator is not None:
            self._loader._iterator._shutdown = True  # type: ignore[attr-defined]

    def made(self, parts: Sequence[Part]) -> Generator[Made]:
        """Yields what becomes of the parts, in order."""
        self._tasks.parts = parts
        with _deaths_told():
            if self._end is not None:
                batches = iter(self._loader)
            else:
                with interrupts_held_back(spawned=not forks()):
                    batches = iter(self._loader)
                # In a cycle of garbage the pipes may go first: torch would wait 5 s a worker.
                shut_down: Callable[[], object] = batches._shutdown_workers  # type: ignore[attr-defined]
                self._end = weakref.finalize(self, shut_down)
                self._end.atexit = False
        while True:
            with _deaths_told():
                try:
                    made, lies = next(batches)
                except StopIteration:
                    return
            if lies is not None:
                made.images = torch.from_numpy(self._view(lies))
            yield made
            del made

    def alive(self) -> bool:
        """Returns whether all workers are there, and this process's."""
        return not self._foreign and all(
            each.is_alive() for each in getattr(self._loader._iterator, "_workers", ())
        )

    def end(self) -> None:
        """Ends the workers, even where a traceback still holds them."""
        if self._end is not None:
            self._end()

    def _view(self, lies: _Lies) -> Array:
        dtype = np.dtype(lies.dtype)
        length = math.prod(lies.shape) * dtype.itemsize
        array = self._slots[lies.slot][:length].view(dtype).reshape(lies.shape)
        self._tasks.hold(lies.slot, array)
        return array


def _data_loader(
    worker: _Worker, tasks: Any, workers: int, epoch: int, ahead: int | None
) -> DataLoader[Any]:
    # torch's own generator is the training's: what it draws is not to depend on the workers.
    generator = torch.Generator().manual_seed((torch.initial_seed() + epoch) % 2**63)
    return DataLoader(
        worker,  # type: ignore[arg-type]
        batch_size=None,
        sampler=tasks,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=_same,
        worker_init_fn=_leave_interrupts,
        persistent_workers=True,
        generator=generator,
        # By name: to leave it to torch would settle it for the whole program.
        multiprocessing_context="fork" if forks() else None,
    )


def _size(maker: Maker, part: Part) -> int:
    """Returns how many bytes a batch takes, by some images of it; 0 if all of them fail.

    They are made in a process of their own. Many datasets open their file when they are first
    asked for a sample: were that here, the workers would be born with it, and move in it
    together.
    """
    few = Part(part.indices[:4], part.keys[:4], part.epoch)
    worker = _Worker(replace(maker, on_error="skip"), [])
    loader = _data_loader(worker, [_Task(few, -1)], 1, part.epoch, None)
    with _deaths_told(), interrupts_held_back(spawned=not forks()):
        batches = iter(loader)
    with _deaths_told():
        made, _ = next(batches)
    return 0 if made.images is None else made.images[0].nbytes * len(part.indices)


def _shared(size: int) -> Array:
    """Returns memory that forked processes share, of no file system and of no name.

    It is taken at once: a page that is there already is come by more cheaply in each process.
    """
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)


class _Tasks(Sampler[Any]):
    """Gives the parts that are to be made now, in place of indices, each with free memory.

    Args:
        slots: How many pieces of memory there are.

    Attributes:
        parts: What is to be made.
    """

    def __init__(self, slots: int) -> None:
        self.parts: Sequence[Part] = ()
        self._slots = range(slots)
        # Free is what is in neither: a batch may go at any moment, so nothing else is noted.
        self._asked: set[int] = set()
        # No callback tells of an array's end: an interrupt that meets one is lost.
        self._held: dict[int, weakref.ref[Array]] = {}

    def hold(self, slot: int, array: Array) -> None:
        """Notes that a batch lies there, for as long as somebody holds it."""
        self._held[slot] = weakref.ref(array)
        self._asked.discard(slot)

    def __iter__(self) -> Iterator[_Task]:
        # By now the DataLoader has waited for what a loop that broke off had still asked for.
        self._asked.clear()
        for part in self.parts:
            held = {each for each, array in self._held.items() if array() is not None}
            taken = self._asked | held
            # -1 if that many batches are held
            slot = next((each for each in self._slots if each not in taken), -1)
            if slot >= 0:
                self._asked.add(slot)
            yield _Task(part, slot)

    def __len__(self) -> int:
        return len(self.parts)


@contextmanager
def _deaths_told() -> Iterator[None]:
    """Says in this program's words what torch says of workers that are gone.

    Raises:
        AugpipeError: One is gone.
    """
    try:
        yield
    except RuntimeError as error:  # a worker's own exception arrives in what it made
        if "DataLoader worker" not in str(error):
            raise
        raise AugpipeError(
            f"a worker process died ({first_sentence(error).strip(' .')}), perhaps for lack of "
            "memory: use fewer workers or smaller batches"
        ) from error


def _leave_interrupts(worker: int) -> None:
    leave_interrupts()


def _same(made: Any) -> Any:
    return made
