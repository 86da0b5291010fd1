"""The local engine: a function over many items, in threads, in order, in bounded memory.

Decoding, OpenCV and the encoders release the interpreter's lock, so threads do for most of
the work what processes would, without pickling, forking or a second copy of the libraries.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

_AHEAD = 8  # items in flight for each worker: a slow one must not stall the others at once


class Stopped(Exception):  # noqa: N818 - not a failure: it never leaves a worker that is given up
    """Raised by a function that looked at `stop` and found it set."""


def ordered(
    function: Callable[[_T], _R], items: Iterable[_T], workers: int, stop: threading.Event
) -> Generator[_R, None, None]:
    """Yields the function's results in the order of the items.

    Close the iterator (`contextlib.closing`) when it is given up: that sets `stop`, drops what
    has not begun, and waits for what has.

    Args:
        function: What to do. In long work it should look at `stop`, and raise `Stopped`.
        items: Read only as far ahead as there is room.
        workers: Threads; 0 runs in the caller's.
        stop: Set when the iterator ends.

    Raises:
        Exception: What the function raised, at that item's place.
    """
    if not workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="augpipe-expand")
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
