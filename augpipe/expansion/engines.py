"""Who does the work of an expansion: threads of this process, or a Ray cluster.

An engine is given the tasks and what does them, and yields what came of each, in any order: nothing
of the result depends on who did what, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Event
from typing import Protocol, TypeVar

from augpipe.data.threads import ordered
from augpipe.errors import UsageError, did_you_mean
from augpipe.expansion.jobs import Task

Result = TypeVar("Result", covariant=True)


class Work(Protocol[Result]):
    """What there is to do to tasks. It can be pickled."""

    def size(self, task: Task) -> int:
        """Returns how many outputs a task has."""

    def begin(self, stop: Event) -> Callable[[Task], Result]:
        """Returns what does a task, in this process; once `stop` is set it gives up.

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


@contextmanager
def local(workers: int) -> Iterator[Run]:
    """Works in threads; with 0 of them in the caller's."""

    def run(work: Work[Result], tasks: Sequence[Task]) -> Generator[Result]:
        stop = Event()
        return ordered(work.begin(stop), tasks, workers, stop)

    yield run


def engine_of(name: str, workers: int) -> AbstractContextManager[Run]:
    """Returns an engine by its name.

    Args:
        name: "local" or "ray".
        workers: How many tasks are done at a time; 0 is one in the caller's thread, or on a
            cluster as many as it has cores.

    Raises:
        UsageError: If there is none of that name.
    """
    match name:
        case "local":
            return local(workers)
        case "ray":
            from augpipe.expansion.cluster import on_ray

            return on_ray(workers)
        case _:
            hint = did_you_mean(name, ("local", "ray")) or "known: local, ray"
            raise UsageError(f"no engine {name!r} ({hint})")
