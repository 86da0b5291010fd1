"""The plot of docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measuring import Results

COLORS = {
    "albumentations": "#4c78a8",
    "torchvision, PIL": "#9d9d9d",
    "torchvision, tensors": "#c3c3c3",
    "timm": "#b8a27c",
    "kornia": "#d8c9ae",
}
OURS = {"augpipe": "#d1495b", "other": "#e99aa5"}
GROWTH = (
    ("growth with ops", "ops in the recipe", "ms an image, one thread", 1.0),
    ("growth with size", "megapixels of the JPEG", "images per second", 1e-6),
    ("growth with workers", "workers", "images per second", 1.0),
)


def draw(results: Results, path: Path) -> bool:
    """Writes the plot; returns whether it could (matplotlib is an extra).

    Args:
        results: What was measured; parts that were not are left out.
        path: The PNG.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(10, 8.5), layout="constrained")
        rows = figure.subfigures(2, 1, height_ratios=[1.45, 1])
        _bars(rows[0].subplots(), results)
        for axes, (part, across, up, scale) in zip(rows[1].subplots(1, 3), GROWTH, strict=True):
            _lines(axes, results, part, scale)
            axes.set_visible(bool(results.of(part)))
            axes.set(xlabel=across, ylabel=up, title=part[:1].upper() + part[1:])
            axes.set_ylim(bottom=0 if axes.get_yscale() == "linear" else None)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
    return True


def _color(name: str) -> str:
    if name.startswith("augpipe"):
        return OURS["other" if "fuse" in name or "sample" in name else "augpipe"]
    return COLORS[name]


def _bars(axes: Any, results: Results) -> None:
    """Draws each library's images per second, albumentations (or torchvision) being 1."""
    rates = [row for row in results.series if row.unit == "img/s" and row.at is None]
    parts = list(dict.fromkeys(row.part for row in rates))
    ticks, place, labelled = [], 0.0, set()
    for part in parts:
        rows = results.of(part)
        if not any(row.name.startswith("augpipe") for row in rows):
            continue
        names = ("albumentations", "torchvision, PIL")
        one = next((row for name in names for row in rows if row.name == name), rows[0])
        first = place
        for row in sorted(
            rows, key=lambda row: list(COLORS).index(row.name) if row.name in COLORS else -1
        ):
            middle, least, most = row.times_better(one)
            label = row.name if row.name in (*COLORS, "augpipe") else None
            axes.bar(
                place,
                middle,
                0.9,
                color=_color(row.name),
                label=None if label in labelled else label,
                yerr=None if row is one else [[middle - least], [most - middle]],
                error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
            )
            labelled.add(label)
            if row.name.startswith("augpipe"):
                where = row.name.removeprefix("augpipe").removeprefix(", all under ").rstrip(":")
                words = f"{middle:.1f}" + (f"\n{where}" if where else "")
                axes.annotate(
                    words, (place, most), (0, 2), textcoords="offset points", ha="center",
                    va="bottom", fontsize=8,
                )  # fmt: skip
            place += 1
        star = "" if one.name == "albumentations" else "*"
        ticks.append(((first + place - 1) / 2, _short(part) + star))
        place += 1
    axes.set_xticks([at for at, _ in ticks], [words for _, words in ticks], fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=0)
    axes.set_ylabel("times albumentations")
    axes.set_title("Files to batches: images per second", pad=24)
    if any(words.endswith("*") for _, words in ticks):
        words = "* albumentations has none: times torchvision, PIL"
        axes.set_xlabel(words, fontsize=8, loc="right")
    axes.margins(x=0.01, y=0.08)
    if labelled:
        axes.legend(
            frameon=False, ncols=6, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.99)
        )


def _short(part: str) -> str:
    if "second epoch" in part:
        return "second\nepoch,\ncached"
    if part.startswith("small"):
        return "28 × 28\nin memory"
    return (
        part.replace("randaugment", "RandAugment")
        .replace("trivialaugment", "TrivialAugment")
        .replace(", ", "\n")
    )


def _lines(axes: Any, results: Results, part: str, scale: float) -> None:
    """Draws a growth, a line for each name, labelled at its end."""
    rows = results.of(part)
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name and row.at is not None]
        across, up = [(row.at or 0) * scale for row in own], [row.median for row in own]
        axes.plot(
            across, up, color=_color(name), marker="o", markersize=3, linewidth=1.4, label=name
        )
    if scale != 1.0 and rows:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    elif rows:
        axes.set_xticks(sorted({row.at for row in rows}))
    if rows:
        axes.legend(frameon=False, fontsize=7)
