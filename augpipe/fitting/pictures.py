"""Pictures of a fit on its way: images in a grid, and what a policy draws over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from augpipe.training.curve import pyplot


def grid(images: Tensor, columns: int) -> Image.Image:
    """Returns uint8 images (n, C, h, w) as one picture, `columns` of them in a row."""
    count, channels, height, width = images.shape
    rows = images.view(count // columns, columns, channels, height, width)
    laid = rows.permute(0, 3, 1, 4, 2).reshape(-1, columns * width, channels)
    return Image.fromarray(laid.squeeze(2).numpy() if channels == 1 else laid.numpy())


def draw_policy(
    out: Path,
    steps: Sequence[int],
    names: Sequence[str],
    probabilities: Sequence[Sequence[Sequence[float]]],
    strengths: Sequence[Sequence[Sequence[float]]],
) -> None:
    """Draws a policy's probabilities and ranges over the steps, a row a slot.

    Args:
        out: The PNG to write.
        steps: When each was noted.
        names: Of the choices; the first has no strength.
        probabilities: By step, slot and choice.
        strengths: By step, slot and choice but the first, 0 to 1.
    """
    plt = pyplot()
    slots = len(probabilities[0])
    figure, axes = plt.subplots(
        slots, 2, figsize=(12, 3.5 * slots), layout="constrained", squeeze=False, sharex=True
    )
    colours = plt.get_cmap("tab20")
    for slot, (left, right) in enumerate(axes):
        shares = [[row[slot][k] for row in probabilities] for k in range(len(names))]
        left.stackplot(steps, shares, colors=[colours(k % 20) for k in range(len(names))])
        left.set_ylim(0, 1)
        left.set_title(f"op {slot + 1}: probability", fontsize=10)
        middle = 0.0
        for k, name in enumerate(names):
            share = shares[k][-1]
            if share > 0.03:
                left.text(steps[-1], middle + share / 2, f" {name}", fontsize=7, va="center")
            middle += share
        ends = [strengths[-1][slot][k] for k in range(len(names) - 1)]
        for k, (name, at) in enumerate(zip(names[1:], _apart(ends), strict=True), start=1):
            own = [row[slot][k - 1] for row in strengths]
            right.plot(steps, own, color=colours(k % 20), linewidth=1.2)
            right.text(steps[-1], at, f" {name}", fontsize=7, va="center", color=colours(k % 20))
        right.set_title(f"op {slot + 1}: range, as a share of the widest", fontsize=10)
        right.set_ylim(0, 1)
        right.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.savefig(out, dpi=110)
    plt.close(figure)


def _apart(values: Sequence[float], gap: float = 0.035) -> list[float]:
    """Returns where labels of values go, from 0 to 1, so that none covers another."""
    order = sorted(range(len(values)), key=lambda k: values[k])
    places = [0.0] * len(values)
    below = -gap
    for k in order:
        places[k] = below = max(values[k], below + gap)
    above = 1.0 + gap
    for k in reversed(order):
        places[k] = above = min(places[k], above - gap)
    return places


def draw_lines(
    out: Path, history: Sequence[Mapping[str, Any]], panels: Mapping[str, Sequence[str]]
) -> None:
    """Draws what was noted over the steps, some of it in each panel.

    Args:
        out: The PNG to write.
        history: What was noted, with its "step".
        panels: By title, the names to draw; where one was not noted there is no point.
    """
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.2), layout="constrained", squeeze=False
    )
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            points = [(each["step"], each[name]) for each in history if name in each]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=7)
    figure.savefig(out, dpi=110)
    plt.close(figure)
