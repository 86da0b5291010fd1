"""Pictures: the learning curve, and the differences between recipes."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curve(metrics: Path, out: Path, title: str) -> None:
    """Draws loss and accuracy over the steps of a run.

    Args:
        metrics: Lightning's metrics.csv.
        out: The PNG to write.
        title: What stands above.
    """
    plt = pyplot()
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, names in ((left, ("train_loss", "val_loss")), (right, ("train_acc", "val_acc"))):
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 50))
        axis.set_xlabel("step")
        axis.set_ylabel("loss" if axis is left else "accuracy")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title, fontsize=10)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def draw_differences(
    out: Path,
    measured_on: str,
    groups: Mapping[str, Sequence[float]],
    bars: Mapping[str, tuple[float | None, float | None, str]],
) -> None:
    """Draws each recipe's difference with its interval, the first recipe's as the line at 0.

    Args:
        out: The PNG to write.
        measured_on: On what the accuracies are.
        groups: By recipe, the accuracy of each seed.
        bars: By recipe, the mean difference, half its interval, and the verdict.
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8, 1.5 + 0.35 * len(groups)), layout="constrained")
    first, base = next(iter(groups.items()))
    for k, (name, accuracies) in enumerate(groups.items()):
        own = [100 * (each - b) for each, b in zip(accuracies, base, strict=True)]
        axis.plot(own, [k] * len(own), ".", color="0.7", zorder=1)
        difference, half, verdict = bars[name]
        if difference is not None and half is not None:
            wide = 100 * half if math.isfinite(half) else 0.0
            color = {"better": "tab:green", "worse": "tab:red"}.get(verdict, "tab:gray")
            axis.errorbar(100 * difference, k, xerr=wide, fmt="o", color=color, capsize=3)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xlabel(f"{measured_on} accuracy in points, less that of the first", loc="right")
    figure.suptitle(f"{len(base)} paired seeds, 95 % intervals; first: {first}", fontsize=10)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def pyplot() -> Any:
    """Returns matplotlib's pyplot, which draws to files alone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt
