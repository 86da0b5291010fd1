"""Who does the work of an expansion: processes, threads, or a Ray cluster.

An engine is given the tasks and what does them, and yields what came of each, in any order: nothing
of the result depends on who did what, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Protocol, TypeVar

from augpipe.data.address import Address
from augpipe.data.children import forks
from augpipe.data.threads import ordered
from augpipe.errors import UsageError, did_you_mean
from augpipe.expansion.forks import in_processes
from augpipe.expansion.jobs import Task

_OUTPUTS = 16  # of tasks that are done in one go: they are drawn together
Item = TypeVar("Item")
Made = TypeVar("Made")

Result = TypeVar("Result", covariant=True)


class Work(Protocol[Result]):
    """What there is to do to tasks. It can be pickled."""

    def size(self, task: Task) -> int:
        """Returns how many outputs a task has."""

    def begin(self, stop: Event) -> Callable[[Sequence[Task]], Iterable[Result]]:
        """Returns what does some tasks, in this process; once `stop` is set it gives up.

        Raises:
            AugpipeError: If tasks cannot be done here.
        """

    def lost(self, task: Task, reason: str) -> Result:
        """Returns what came of a task that ends any process that does it."""


class Run(Protocol):
    """An engine that is ready."""

    def __call__(self, work: Work[Result], tasks: Sequence[Task]) -> Generator[Result]:
        """Yields what came of each task; close it when it is given up.

        Raises:
            AugpipeError: As a task raised it.
        """


def are_apart(source: Path, out: Path) -> bool:
    """Tells whether processes of their own can do the work: an address is for one alone.

    Connections do not live on in a fork, and what is written to memory no other process sees.
    """
    return not (isinstance(source, Address) or isinstance(out, Address))


@contextmanager
def local(workers: int, apart: bool) -> Iterator[Run]:
    """Works here.

    Args:
        workers: Tasks at a time; 0 works in the caller's thread.
        apart: Whether several are done in processes of their own, see `are_apart`. Where
            processes are not forked, and else, they are done in threads.
    """

    def run(work: Work[Result], tasks: Sequence[Task]) -> Generator[Result]:
        stop = Event()
        blocks = blocks_of(tasks, work.size, lambda task: task.copy is not None)
        return in_parallel(work.begin(stop), blocks, workers, stop, work.lost, apart)

    yield run


def in_parallel(
    make: Callable[[Sequence[Item]], Iterable[Made]],
    blocks: Iterable[Sequence[Item]],
    workers: int,
    stop: Event,
    lost: Callable[[Item, str], Made],
    apart: bool,
) -> Generator[Made]:
    """Yields what comes of blocks of items, in any order; close it when it is given up.

    Args:
        make: Does a block. Where it is given up it looks at `stop`, and raises `Stopped`.
        blocks: What is to be done.
        workers: See `local`.
        stop: Set, where the work is done, when the iterator is closed.
        lost: Returns what came of an item that ends any process that does it, and how.
        apart: See `local`.

    Raises:
        Exception: What was raised for a block.
    """
    if workers > 1 and apart and forks():
        yield from in_processes(make, blocks, workers, stop, lost)
    elif workers:
        done = ordered(lambda block: list(make(block)), blocks, workers, stop, ahead=2)
        with closing(done):
            for some in done:
                yield from some
    else:
        for block in blocks:
            yield from make(block)


def engine_of(name: str, workers: int, apart: bool = True) -> AbstractContextManager[Run]:
    """Returns an engine by its name.

    Args:
        name: "local" or "ray".
        workers: How many tasks are done at a time; 0 is one in the caller's thread, or on a
            cluster as many as it has cores.
        apart: See `local`.

    Raises:
        UsageError: If there is none of that name.
    """
    match name:
        case "local":
            return local(workers, apart)
        case "ray":
            from augpipe.expansion.cluster import on_ray

            return on_ray(workers)
        case _:
            hint = did_you_mean(name, ("local", "ray")) or "known: local, ray"
            raise UsageError(f"no engine {name!r} ({hint})")


def blocks_of(
    items: Iterable[Item],
    size: Callable[[Item], int],
    alone: Callable[[Item], bool] = lambda item: False,
    most: int = _OUTPUTS,
) -> Iterator[list[Item]]:
    """Divides items into blocks of some outputs each.

    Args:
        items: In order.
        size: How many outputs one has.
        alone: Whether one shares no block.
        most: Outputs of a block, where no item has more.
    """
    block: list[Item] = []
    held = 0
    for item in items:
        if block and (alone(item) or alone(block[0]) or held + size(item) > most):
            yield block
            block, held = [], 0
        block.append(item)
        held += size(item)
    if block:
        yield block
