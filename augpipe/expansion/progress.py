"""How far long work is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[int, int, int], None]
"""Called with the outputs done, the outputs in all, and the images that could not be used."""

INTERVAL = 0.1
"""Seconds between two calls of a `Progress`, at least."""


class Meter:
    """Calls a `Progress`, not too often.

    Args:
        progress: What to call, or None.
        total: How much there is to do.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._next = 0.0

    def __call__(self, done: int, errors: int, last: bool = False) -> None:
        """Reports, if it is time to or the last call."""
        if self._progress is not None and (last or time.monotonic() >= self._next):
            self._progress(done, self._total, errors)
            self._next = time.monotonic() + INTERVAL
