"""A function over many items, in threads, its results in order, in bounded memory.

Decoding, OpenCV and the encoders release the interpreter's lock, and waiting for files does: there
threads do what processes would, without pickling or forking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


class Stopped(BaseException):
    """Raised by a function that looked at `stop` and found it set: nobody waits for its result.

    No `Exception`, so that what catches a failing item does not catch it.
    """


def ordered(
    function: Callable[[_T], _R],
    items: Iterable[_T],
    workers: int,
    stop: Event,
    *,
    ahead: int = 8,
) -> Generator[_R]:
    """Yields the function's results in the order of the items.

    Close the iterator (`contextlib.closing`) when it is given up: that sets `stop`, drops what
    has not begun, and waits for what has.

    Args:
        function: What to do. In long work it should look at `stop`, and raise `Stopped`.
        items: Read only as far ahead as there is room.
        workers: Threads; 0 runs in the caller's.
        stop: Set when the iterator ends, where there are threads.
        ahead: Items in hand for each worker, beside the one whose result is due: a slow one
            must not stall the others at once.

    Raises:
        Exception: What the function raised, at that item's place.
    """
    if not workers:
        yield from map(function, items)
        return
    waiting: deque[Future[_R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="augpipe")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop.set()
        # Not by `cancel_futures`: it needs a module that may be gone where the program ends.
        for each in waiting:
            each.cancel()
        pool.shutdown()
