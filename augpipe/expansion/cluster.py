"""The engine on a Ray cluster: shards of tasks, each done by whichever node has a core free.

A shard writes its outputs itself, by the same code as the local engine, and only rows
come back: so a shard that is done twice, since its node died on the way, writes the same bytes
under the same names. Plain Ray tasks, not Ray Data: that is made to carry images through the object
store to writers of its own, and fails or drops whole blocks where one file ends a process.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from augpipe.errors import AugpipeError, UsageError, in_a_line, reason
from augpipe.expansion.engines import Result, Run, Work, blocks_of
from augpipe.expansion.jobs import Task

_OUTPUTS = 256  # in a shard at most: seconds of work, and what a node that dies takes along
_TRIES = 3  # before a shard, or one task, is held to be what ends its processes
_AHEAD = 2  # shards in hand for each core


@contextmanager
def on_ray(workers: int) -> Iterator[Run]:
    """Works on the cluster that `RAY_ADDRESS` or this machine's Ray says.

    Args:
        workers: Shards at a time; 0 for as many as the cluster has cores, those that join on the
            way among them.

    Raises:
        UsageError: If Ray is not installed, or no cluster is found.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError(
            "the ray engine needs Ray, which is not installed: pip install 'augpipe[scale]'"
        ) from None
    own = not ray.is_initialized()
    if own:
        _check_answer()
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise UsageError(
                "no Ray cluster was found: begin one with `ray start --head`, or say where it is "
                "in RAY_ADDRESS"
            ) from None
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"the Ray cluster cannot be used ({in_a_line(error)})") from None
    try:
        yield functools.partial(_run, workers)
    finally:
        if own:
            ray.shutdown()


def _check_answer() -> None:
    """Makes sure that something is where RAY_ADDRESS says: Ray itself would try for minutes.

    Raises:
        UsageError: If there is nothing.
    """
    said = os.environ.get("RAY_ADDRESS", "")
    host, _, port = said.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UsageError(
                f"no Ray cluster answers at RAY_ADDRESS={said} ({reason(error)}): begin one with "
                "`ray start --head`, or correct the address"
            ) from None


@dataclass(frozen=True, slots=True)
class _Shard:
    """Tasks that are done in one go, and how often that may be tried."""

    tasks: tuple[Task, ...]
    tries: int = _TRIES

    def again(self) -> list[_Shard]:
        """Returns what to try after a process that did it died: each task alone, in the end."""
        if self.tries > 1:
            return [_Shard(self.tasks, self.tries - 1)]
        return [_Shard((each,)) for each in self.tasks] if len(self.tasks) > 1 else []


def _run(workers: int, work: Work[Result], tasks: Sequence[Task]) -> Generator[Result]:
    import ray

    cores = int(ray.cluster_resources().get("CPU", 0))
    waiting = deque(_shards(work, tasks, workers or cores))
    remote = ray.remote(num_cpus=1, max_retries=0)(_done)
    held = ray.put(work)
    running: dict[Any, _Shard] = {}
    try:
        while waiting or running:
            most = workers or _AHEAD * int(ray.cluster_resources().get("CPU", 1))
            while waiting and len(running) < max(most, 1):
                shard = waiting.popleft()
                running[remote.remote([held], shard.tasks)] = shard
            (first, *_), _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(first)
            try:
                results = ray.get(first)
            except ray.exceptions.RayTaskError as error:
                raise AugpipeError(f"on the cluster: {in_a_line(error.cause or error)}") from error
            except ray.exceptions.RayError as error:  # its process, its node or its rows are gone
                again = shard.again()
                waiting.extend(again)
                if not again:
                    why = f"the process that works on it dies ({in_a_line(error)})"
                    yield work.lost(shard.tasks[0], why)
                continue
            if isinstance(results, AugpipeError):
                raise results
            yield from results
    except ray.exceptions.RayError as error:
        raise AugpipeError(f"the cluster is lost ({in_a_line(error)})") from error
    finally:
        _cancel(list(running))


def _cancel(running: list[Any]) -> None:
    """Ends what nobody waits for, and waits until it has."""
    import ray

    with suppress(ray.exceptions.RayError):
        for each in running:
            ray.cancel(each, force=True)
        if running:
            ray.wait(running, num_returns=len(running), timeout=10)


def _shards(work: Work[Any], tasks: Sequence[Task], cores: int) -> Iterator[_Shard]:
    """Divides tasks so that each core has several shards, and none takes long."""
    most = min(_OUTPUTS, -(-sum(map(work.size, tasks)) // (4 * max(cores, 1))))
    return (_Shard(tuple(block)) for block in blocks_of(tasks, work.size, most=most))


def _done(held: Sequence[Any], tasks: Sequence[Task]) -> list[Any] | AugpipeError:
    """Does a shard, on a node; an error of augpipe's own is returned, to be what it is there."""
    try:
        make = _begun(held[0])
        return list(make(tasks))
    except AugpipeError as error:
        return error


@functools.lru_cache(maxsize=1)
def _begun(held: Any) -> Callable[[Sequence[Task]], Iterable[Any]]:
    """Returns what does tasks: made once in a process."""
    import ray

    work = ray.get(held)
    try:
        return work.begin(Event())
    except AugpipeError as error:
        where = ray.util.get_node_ip_address()
        kind = UsageError if isinstance(error, UsageError) else AugpipeError
        raise kind(f"node {where}: {error}") from error
