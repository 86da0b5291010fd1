"""The local engine's processes.

Python's lock lets threads take turns, and half of the time of an image of 500 × 375 pixels is
Python. Forked processes have what this one has, the list of all images among it, in the same
memory and at once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, Generic, TypeVar

from augpipe.data.children import interrupts_held_back, leave_interrupts, sendable
from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, reason

Item = TypeVar("Item")
Result = TypeVar("Result")
Block = Sequence[Item]

_AHEAD = 2
"""Blocks in hand for each process: with one, it waits for each to be fetched."""

_TRIES = 3  # before an item is held to be what ends its processes
_SECONDS = 1.0  # until a process sees that it has no parent any more
_FORKING = Lock()


def in_processes(
    make: Callable[[Block[Item]], Iterable[Result]],
    blocks: Iterable[Block[Item]],
    workers: int,
    stop: Event,
    lost: Callable[[Item, str], Result],
) -> Generator[Result]:
    """Yields what comes of blocks of items, each done in a forked process, in any order.

    What a process that died had begun is done again, each item alone; one that ends its process
    three times is lost. Close the iterator when it is given up: each process ends after the output
    that it is at.

    Args:
        make: Does a block. Where it is given up it looks at `stop`, and raises `Stopped`.
        blocks: What is to be done.
        workers: How many processes.
        stop: Set, in the processes, when the iterator is closed.
        lost: Returns what came of an item that ends any process that does it, and how.

    Raises:
        Exception: What was raised for a block.
    """
    waiting: Iterator[_Given[Item]] = (_Given(block) for block in blocks)
    crew: list[_Process[Item, Result]] = []
    try:
        while True:
            for held in range(_AHEAD):
                k = 0
                while k < workers and k <= len(crew):
                    if k == len(crew) or len(crew[k].hand) <= held:
                        if (given := next(waiting, None)) is None:
                            break
                        if k == len(crew) and not _joined(crew, make, stop):
                            workers = k
                            waiting = chain([given], waiting)
                            break
                        crew[k].give(given)
                    k += 1
            if not any(each.hand for each in crew):
                return
            busy = [each for each in crew if each.hand]
            ready = wait([*(each.pipe for each in busy), *(each.sentinel for each in busy)])
            for each in busy:
                if each.pipe not in ready and each.sentinel not in ready:
                    continue
                try:
                    results = each.take()
                except (EOFError, OSError):
                    begun, *others = each.hand
                    why = f"the process that works on it dies ({each.end()})"
                    crew.remove(each)
                    again = begun.again()
                    if not again:
                        yield lost(begun.block[0], why)
                    waiting = chain(again, others, waiting)
                    continue
                if isinstance(results, Exception):
                    raise results
                yield from results
    finally:
        for each in crew:
            each.give_up()
        for each in crew:
            each.end()


@dataclass(frozen=True, slots=True)
class _Given(Generic[Item]):
    """A block, and how often it may be tried."""

    block: Block[Item]
    tries: int = _TRIES

    def again(self) -> list[_Given[Item]]:
        """Returns what to try after a process that had begun it died: each item alone."""
        if len(self.block) > 1:
            return [_Given([item]) for item in self.block]
        return [_Given(self.block, self.tries - 1)] if self.tries > 1 else []


def _joined(
    crew: list[_Process[Item, Result]],
    make: Callable[[Block[Item]], Iterable[Result]],
    stop: Event,
) -> bool:
    """Adds a process; tells whether there was room for one.

    Raises:
        AugpipeError: If there is none at all.
    """
    try:
        crew.append(_Process(make, stop, crew))
    except OSError as error:
        if not crew:
            raise AugpipeError(
                f"no process can be started ({reason(error)}): fewer workers, or 1 for none"
            ) from error
        return False
    return True


class _Process(Generic[Item, Result]):
    """A forked process.

    Args:
        make: What it does.
        stop: See `in_processes`.
        others: Those that there are already.

    Attributes:
        pipe: Where its results come from.
        hand: The blocks that it was given and has not done.
    """

    def __init__(
        self,
        make: Callable[[Block[Item]], Iterable[Result]],
        stop: Event,
        others: Sequence[_Process[Item, Result]],
    ) -> None:
        fork = multiprocessing.get_context("fork")
        self.hand: deque[_Given[Item]] = deque()
        # Its end of the pipe is not to live on in a process that another thread forks meanwhile.
        with _FORKING, interrupts_held_back():
            self.pipe, there = fork.Pipe()
            with there:
                ours = [self.pipe, *(each.pipe for each in others)]
                arguments = (make, there, ours, stop, os.getpid())
                # A daemon is ended where the program ends, and has no processes of its own.
                self._process = fork.Process(target=_serve, args=arguments, daemon=True)
                try:
                    self._process.start()
                except OSError:
                    self.pipe.close()
                    raise
        self.sentinel = self._process.sentinel

    def give(self, given: _Given[Item]) -> None:
        """Hands over a block."""
        self.hand.append(given)
        with suppress(OSError):  # it died: `take` will find out
            self.pipe.send(given.block)

    def take(self) -> Sequence[Result] | Exception:
        """Returns what came of the first block in hand.

        Raises:
            EOFError: The process died; or OSError.
        """
        if not self.pipe.poll():  # what it sent before it died is there
            raise EOFError
        results: Sequence[Result] | Exception = self.pipe.recv()
        self.hand.popleft()
        return results

    def give_up(self) -> None:
        """Lets it end what it is at."""
        with suppress(OSError):
            self.pipe.send(None)

    def end(self) -> str:
        """Waits for its end; returns how it ended."""
        with suppress(EOFError, OSError):
            # It could not end with results in its hands that nobody takes.
            while self.pipe in wait([self.pipe, self.sentinel]):
                self.pipe.recv_bytes()
        self._process.join()
        self.pipe.close()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _serve(
    make: Callable[[Block[Any]], Iterable[Any]],
    pipe: Connection,
    ours: Iterable[Connection],
    stop: Event,
    parent: int,
) -> None:
    """Does blocks until there are no more. Runs in the process."""
    leave_interrupts()
    gc.freeze()  # to look through what is the parent's would copy it
    for each in ours:  # held here, the end of the parent would not show in the other processes
        each.close()
    _calm()
    blocks: SimpleQueue[Block[Any] | None] = SimpleQueue()
    Thread(target=_listen, args=(pipe, blocks, stop, parent), daemon=True).start()
    for block in iter(blocks.get, None):
        try:
            results: Any = list(make(block))
        except Stopped:
            return
        except Exception as error:
            results = sendable(error)
        pipe.send(results)


def _listen(pipe: Connection, blocks: SimpleQueue[Any], stop: Event, parent: int) -> None:
    """Takes blocks while others are done, so that a word to stop is heard."""
    while True:
        try:
            while not pipe.poll(_SECONDS):
                # Another child of a parent that was killed may hold its end of the pipe.
                if os.getppid() != parent:
                    os._exit(1)
            block = pipe.recv()
        except (EOFError, OSError):  # the parent was killed
            os._exit(1)
        if block is None:
            stop.set()
            blocks.put(None)
            return
        blocks.put(block)


def _calm() -> None:
    """Turns off threads of libraries: those of the parent do not live on in a fork."""
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
