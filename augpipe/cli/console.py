"""What long work shows while it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, int], None]


@contextmanager
def progress(what: str, unit: str = "images/s") -> Iterator[Report]:
    """Shows a bar with rate and time left on stderr, where that is a terminal.

    Args:
        what: What is being done, in a word.
        unit: Of the rate.

    Yields:
        What is called with the number done, the total, and the errors so far.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, errors: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[errors]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=None, rate="", errors="")

        def report(done: int, total: int, errors: int) -> None:
            speed = bars.tasks[0].speed
            bars.update(
                task,
                completed=done,
                total=total,
                rate=f"{speed:,.0f} {unit}" if speed else "",
                errors=f"{errors} errors" if errors else "",
            )

        yield report
