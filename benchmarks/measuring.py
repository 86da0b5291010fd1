"""What the benchmarks share: fresh processes, images per second, rounds and their ratios."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "augpipe",
    "albumentations",
    "torchvision",
    "timm",
    "kornia",
    "torch",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
)


Place = tuple[str, float | None]
"""Whose figure it is, and where along a growth."""


class UnsupportedError(Exception):
    """A library cannot do this job; its text says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """One thing measured, once a round.

    Args:
        part: What it belongs to: "imagenet, 500 × 375", or "growth with workers".
        name: Whose figure it is.
        unit: "img/s" (more is better), "ms" or "MB" (less is better).
        rounds: A value for each round.
        at: Where along the growth: ops, pixels, workers.
    """

    part: str
    name: str
    unit: str
    rounds: tuple[float, ...]
    at: float | None = None

    @property
    def median(self) -> float:
        """Returns the median of the rounds."""
        return statistics.median(self.rounds)

    def times_better(self, other: Series) -> tuple[float, float, float]:
        """Returns how many times better than another it is: median, least and most of the rounds.

        A round's ratio is of two measurements seconds apart; the clock of a shared machine
        changes from minute to minute, and its changes leave the ratio.
        """
        pairs = list(zip(self.rounds, other.rounds, strict=True))
        ratios = [mine / its if self.unit == "img/s" else its / mine for mine, its in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)


@dataclass(slots=True)
class Results:
    """All that a run measured.

    Args:
        machine: Processor, cores and memory; then versions.
        command: What was typed.
        settings: How it was measured, by name.
        series: What was measured.
        left_out: What was not, and why.
        failed: What broke, and how.
    """

    machine: tuple[str, ...]
    command: str
    settings: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def of(self, part: str) -> list[Series]:
        """Returns what belongs to a part, in the order of measuring."""
        return [each for each in self.series if each.part == part]

    def find(self, part: str, name: str, at: float | None = None) -> Series | None:
        """Returns one series, if it was measured."""
        found = [each for each in self.of(part) if (each.name, each.at) == (name, at)]
        return found[0] if found else None

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Results:
        """Reads what `save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [Series(**{**row, "rounds": tuple(row["rounds"])}) for row in found.pop("series")]
        return Results(**{**found, "machine": tuple(found["machine"]), "series": rows})


def machine() -> tuple[str, ...]:
    """Returns the machine in words, and the versions of all that was measured."""
    model = platform.processor() or platform.machine()
    info, memory = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    words = f"{model}, {os.cpu_count()} cores"
    if memory.exists():
        words += f", {int(memory.read_text().split()[1]) / 2**20:.0f} GB of memory"
    return words, f"Python {platform.python_version()}, {', '.join(_versions())}"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Returns function(*args), worked out in a fork of this process.

    So no library meets the threads, caches and pools that another one left behind, and the
    imports are not paid for each time.

    Raises:
        UnsupportedError: As the function raised it.
        RuntimeError: If it failed, with its traceback.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "failed", "it ended without an answer"
    finally:
        process.join()
    match kind:
        case "done":
            return value
        case "unsupported":
            raise UnsupportedError(value)
        case _:
            raise RuntimeError(f"{function.__name__}{args}: {value}")


def _answer(sender: Connection, function: Callable[..., Any], args: Sequence[Any]) -> None:
    try:
        sender.send(("done", function(*args)))
    except UnsupportedError as error:
        sender.send(("unsupported", str(error)))
    except Exception:
        sender.send(("failed", traceback.format_exc()))


def steady_rate(batches: Iterable[Any], warm: int, most: int, seconds: float, step: int) -> float:
    """Returns images per second between the arrivals of two batches.

    Args:
        batches: Tensors of images; at least warm + most of them.
        warm: How many come before the clock starts.
        most: How many are counted at most.
        seconds: Stop earlier, once this much time is over.
        step: But only after a multiple of this many: workers deliver in turn, and what is
            counted has as many batches of each.
    """
    stream = iter(batches)
    for _ in islice(stream, warm):
        pass
    images, spent, start = 0, 0.0, time.perf_counter()
    for number, batch in enumerate(islice(stream, most), 1):
        images += len(batch)
        spent = time.perf_counter() - start
        if spent > seconds and number % step == 0:
            break
    return images / spent


def interleaved(
    part: str, unit: str, measures: Mapping[Place, Callable[[], float]], rounds: int
) -> tuple[list[Series], dict[Place, Exception]]:
    """Returns what each measure gives in each round, and what those raised that are left out.

    A round asks all of them one after another, every other round in reverse, so that a clock
    that drifts favours none.
    """
    values: dict[Place, list[float]] = {place: [] for place in measures}
    raised: dict[Place, Exception] = {}
    for turn in range(rounds):
        for place in list(values)[:: -1 if turn % 2 else 1]:
            try:
                values[place].append(measures[place]())
            except (UnsupportedError, RuntimeError) as error:
                del values[place]
                raised[place] = error
    rows = [Series(part, name, unit, tuple(row), at) for (name, at), row in values.items()]
    return rows, raised
