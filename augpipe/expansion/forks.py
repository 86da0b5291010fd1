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
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from itertools import chain, product
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

from augpipe.data.children import interrupts_held_back, leave_interrupts, sendable
from augpipe.data.threads import Stopped

Item = TypeVar("Item")
Result = TypeVar("Result")
Block = Sequence[Item]

_AHEAD = 2
"""Blocks in hand for each process: with one, it waits for each to be fetched."""


def in_processes(
    make: Callable[[Block[Item]], Iterable[Result]],
    blocks: Iterable[Block[Item]],
    workers: int,
    stop: Event,
    lost: Callable[[Item, str], Result],
) -> Generator[Result]:
    """Yields what comes of blocks of items, each done in a forked process, in any order.

    What a process that died had begun is done again, each item alone; one that is alone and whose
    process dies is lost. Close the iterator when it is given up: each process ends after the
    output that it is at.

    Args:
        make: Does a block. Where it is given up it looks at `stop`, and raises `Stopped`.
        blocks: What is to be done.
        workers: How many processes.
        stop: Set, in the processes, when the iterator is closed.
        lost: Returns what came of an item that ends any process that does it, and how.

    Raises:
        Exception: What was raised for a block.
    """
    waiting = iter(blocks)
    crew: list[_Process[Item, Result]] = []
    try:
        while True:
            for held, k in product(range(_AHEAD), range(workers)):
                if k < len(crew) and len(crew[k].hand) > held:
                    continue
                if (block := next(waiting, None)) is None:
                    break
                if k == len(crew):
                    crew.append(_Process(make, stop, crew))
                crew[k].give(block)
            if not any(each.hand for each in crew):
                return
            ready = wait([each.pipe for each in crew if each.hand])
            for each in [each for each in crew if each.pipe in ready]:
                try:
                    results = each.take()
                except (EOFError, OSError):
                    begun, *others = each.hand
                    why = f"the process that works on it dies ({each.end()})"
                    crew.remove(each)
                    if len(begun) > 1:
                        others = [*([item] for item in begun), *others]
                    else:
                        yield lost(begun[0], why)
                    waiting = chain(others, waiting)
                    continue
                if isinstance(results, Exception):
                    raise results
                yield from results
    finally:
        for each in crew:
            each.give_up()
        for each in crew:
            each.end()


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
        self.pipe, there = fork.Pipe()
        self.hand: deque[Block[Item]] = deque()
        ours = [self.pipe, *(each.pipe for each in others)]
        # A daemon is ended where the program ends, and has no processes of its own.
        self._process = fork.Process(target=_serve, args=(make, there, ours, stop), daemon=True)
        with interrupts_held_back():
            self._process.start()
        there.close()

    def give(self, block: Block[Item]) -> None:
        """Hands over a block."""
        self.hand.append(block)
        with suppress(OSError):  # it died: `take` will find out
            self.pipe.send(block)

    def take(self) -> Sequence[Result] | Exception:
        """Returns what came of the first block in hand.

        Raises:
            EOFError: The process died; or OSError.
        """
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
            while True:  # it could not end with results in its hands that nobody takes
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
) -> None:
    """Does blocks until there are no more. Runs in the process."""
    leave_interrupts()
    gc.freeze()  # to look through what is the parent's would copy it
    for each in ours:  # held here, the end of the parent would not show in the other processes
        each.close()
    _calm()
    blocks: SimpleQueue[Block[Any] | None] = SimpleQueue()
    Thread(target=_listen, args=(pipe, blocks, stop), daemon=True).start()
    for block in iter(blocks.get, None):
        try:
            results: Any = list(make(block))
        except Stopped:
            return
        except Exception as error:
            results = sendable(error)
        pipe.send(results)


def _listen(pipe: Connection, blocks: SimpleQueue[Any], stop: Event) -> None:
    """Takes blocks while others are done, so that a word to stop is heard."""
    while True:
        try:
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
