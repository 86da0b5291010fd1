"""What processes of one's own take, whoever starts them. Importing this does not import torch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from augpipe.errors import in_a_line


def forks() -> bool:
    """Tells whether this program's processes are forked, and so share what there is already."""
    if multiprocessing.current_process().daemon:  # which may not have any
        return False
    # Asking for the method itself would settle it.
    first, *_ = multiprocessing.get_all_start_methods()
    return (multiprocessing.get_start_method(allow_none=True) or first) == "fork"


@contextmanager
def interrupts_held_back(spawned: bool = False) -> Iterator[None]:
    """Lets no Ctrl-C meet a process that is just starting, which would print a traceback.

    Args:
        spawned: Whether it is not forked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if spawned:
        resource_tracker.ensure_running()  # begun with the first process it would let Ctrl-C in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_interrupts() -> None:
    """Leaves Ctrl-C to the main process, which ends the workers or goes on with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with(parent: int) -> None:
    """Ends this process, begun by `parent`, as soon as that is no more: killed, it ends nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def sendable(error: Exception) -> Exception:
    """Returns an exception that arrives in another process, with its traceback in words."""
    words = f"In a worker process:\n{traceback.format_exc()}"
    try:
        same = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        same = False
    sent = error if same else RuntimeError(in_a_line(error))
    sent.add_note(words)
    return sent
