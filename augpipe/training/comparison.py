"""What `compare` finds: rows of results, and how sure their differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from augpipe.training.results import Result

LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One recipe's results, and their paired difference to the first recipe's.

    Args:
        name: The recipe.
        results: Of each seed.
        difference: Mean of accuracy less that of the first recipe with the same seed; None for
            the first.
        half: Half the width of the difference's 95 % interval, Student's t over the seeds: t s /
            sqrt(n); infinite for one seed.
    """

    name: str
    results: tuple[Result, ...]
    difference: float | None = None
    half: float | None = None

    def mean(self, value: str) -> float:
        """Returns the mean of one of the results' values over the seeds."""
        return float(np.mean([getattr(each, value) for each in self.results]))

    @property
    def verdict(self) -> str:
        """Says what the interval says."""
        if self.difference is None or self.half is None:
            return ""
        if abs(self.difference) <= self.half:
            return "no evidence"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """The rows, the first recipe's on top.

    Args:
        rows: One a recipe.
        measured_on: Which images.
        unlike: Settings under `train:` that differ, each with what the recipes say in their order.
    """

    rows: tuple[Row, ...]
    measured_on: str
    unlike: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        wide = max(len("recipe"), *(len(row.name) for row in self.rows))
        seeds = len(self.rows[0].results)
        head = f"{'recipe'.ljust(wide)}  accuracy  training     gap  difference (95 %)  seconds"
        means = f"means of {seeds} seeds" if seeds > 1 else "one seed: no interval"
        lines = [f"{self.measured_on} accuracy in %, {means}", head]
        for row in self.rows:
            by = "-".rjust(17)
            if row.difference is not None and row.half is not None:
                half = "?" if np.isinf(row.half) else f"{100 * row.half:.2f}"
                by = f"{100 * row.difference:+.2f} ± {half}".rjust(17)
            shares = (row.mean("accuracy"), row.mean("train_accuracy"), row.mean("gap"))
            a, b, c = (f"{100 * each:.2f}" for each in shares)
            figures = f"{a:>8}  {b:>8}  {c:>6}  {by}  {row.mean('seconds'):>7.0f}"
            lines.append(f"{row.name.ljust(wide)}  {figures}  {row.verdict}".rstrip())
        for name, values in self.unlike.items():
            lines.append(f"not the same: train.{name} {', '.join(map(str, values))}")
        return "\n".join(lines)


def paired(first: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Returns the mean difference other - first, and half its 95 % interval (Student's t)."""
    differences = np.subtract(other, first)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, float("inf")
    spread = float(differences.std(ddof=1)) / len(differences) ** 0.5
    return mean, float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1)) * spread


def row_of(name: str, results: tuple[Result, ...], first: tuple[Result, ...] | None) -> Row:
    """Returns a recipe's row, by the results of the first recipe for the same seeds."""
    if first is None:
        return Row(name, results)
    pairs = ([each.accuracy for each in group] for group in (first, results))
    return Row(name, results, *paired(*pairs))
