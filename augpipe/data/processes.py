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
import signal
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from augpipe.data.memory import Pool
from augpipe.data.parts import Made, Maker, Part
from augpipe.types import Array

_AHEAD = 2  # batches in hand for each worker


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

    def __getitem__(self, task: _Task) -> tuple[Made, _Lies | None]:
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
    """

    def __init__(self, maker: Maker, workers: int) -> None:
        self._maker = maker
        self._workers = workers
        self._tasks = _Tasks()
        self._slots: list[Array] = []
        self._loader: DataLoader[Any] | None = None

    def made(self, parts: Sequence[Part]) -> Generator[Made]:
        """Yields what becomes of the parts, in order."""
        if not parts:
            return
        if self._loader is None:
            self._loader = self._start(parts[0])
        self._tasks.parts = parts
        try:
            for made, lies in self._loader:
                if lies is not None:
                    made.images = torch.from_numpy(self._view(lies))
                yield made
                del made
        except RuntimeError:  # a worker is gone: the next epoch has others
            self._loader = None
            raise

    def _start(self, part: Part) -> DataLoader[Any]:
        if forks():
            count = (_AHEAD + 1) * self._workers + 2
            self._slots = [_shared(size) for size in [self._size(part)] * count if size]
        self._tasks.slots = len(self._slots)
        return DataLoader(
            _Worker(self._maker, self._slots),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._tasks,
            num_workers=self._workers,
            prefetch_factor=_AHEAD,
            collate_fn=_same,
            worker_init_fn=_leave_interrupts,
            persistent_workers=True,
        )

    def _size(self, part: Part) -> int:
        """Returns how many bytes a batch takes, by one image of it; 0 if that fails."""
        one = Part(part.indices[:1], part.keys[:1], part.epoch)
        made = replace(self._maker, room=np.empty).make(one)
        return 0 if made.images is None else made.images.nbytes * len(part.indices)

    def _view(self, lies: _Lies) -> Array:
        dtype = np.dtype(lies.dtype)
        length = math.prod(lies.shape) * dtype.itemsize
        array = self._slots[lies.slot][:length].view(dtype).reshape(lies.shape)
        self._tasks.held.add(lies.slot)
        weakref.finalize(array, self._tasks.give_back, lies.slot).atexit = False
        return array


def forks() -> bool:
    """Tells whether this program's processes are forked, and so share what there is already."""
    # Asking for the method itself would settle it.
    first, *_ = multiprocessing.get_all_start_methods()
    return (multiprocessing.get_start_method(allow_none=True) or first) == "fork"


def _shared(size: int) -> Array:
    """Returns memory that forked processes share, of no file system and of no name."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


class _Tasks(Sampler[Any]):
    """Gives the parts that are to be made now, in place of indices, each with free memory.

    Attributes:
        parts: What is to be made.
        slots: How many pieces of memory there are.
        held: Those that a batch lies in which somebody holds.
    """

    def __init__(self) -> None:
        self.parts: Sequence[Part] = ()
        self.slots = 0
        self.held: set[int] = set()
        self._free: deque[int] = deque()

    def give_back(self, slot: int) -> None:
        """Takes memory back that nobody holds any more."""
        self.held.discard(slot)
        self._free.append(slot)

    def __iter__(self) -> Iterator[_Task]:
        # By now the DataLoader has waited for what a loop that broke off had still asked for.
        self._free.clear()
        self._free.extend(slot for slot in range(self.slots) if slot not in self.held)
        for part in self.parts:
            try:
                slot = self._free.popleft()
            except IndexError:  # that many batches are held
                slot = -1
            yield _Task(part, slot)

    def __len__(self) -> int:
        return len(self.parts)


def _leave_interrupts(worker: int) -> None:
    """Leaves Ctrl-C to the main process, which ends the workers or goes on with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _same(made: Any) -> Any:
    return made
