"""The learning curve as a picture."""

from __future__ import annotations

import csv
from pathlib import Path


def draw_curve(metrics: Path, out: Path, title: str) -> None:
    """Draws loss and accuracy over the steps of a run.

    Args:
        metrics: Lightning's metrics.csv.
        out: The PNG to write.
        title: What stands above.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

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
